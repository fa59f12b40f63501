r"""The gate: evidence in, *promote*, *hold* or *roll back* out, with its reasons as data.

In this order, so that harm is seen whatever else is missing:

1. **Hard stops.** A safety violation, an objective of the service that is surely missed, returns that are surely worse.
2. **Blindness.** Evidence that is missing or stale says nothing: hold, and after too long of it roll back. A release that
   nobody can see is not a safe one, and one of which a part is missing is not seen: a service that answers says nothing of
   returns. Returns that vary more than the release was planned for, or cannot be adjusted as it was planned, are seen, and
   hold.
3. **The log's opinion.** What off-policy evaluation rejected goes back; what it could not tell needs a person.
4. **Is it enough?** The stage's demand: enough information without harm, or a gain that is proven.

"Surely" means: outside a confidence sequence (:mod:`rlcourse.release.sequential`), so that the gate may be asked after every
episode and its error rate stays what it says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rlcourse.errors import ConfigError
from rlcourse.evaluation.off_policy.verdict import OffPolicyVerdict
from rlcourse.release.apprentice import Apprentice
from rlcourse.release.matching import Contrast, Tally, Variation, matched
from rlcourse.release.rooms import attainable, matched_rooms
from rlcourse.release.sequential import Array, contrast_radius, likelihood_ratio, tuned_mixture

Answer = Literal["promote", "hold", "roll_back"]
Prove = Literal["no_harm", "gain", "service", "autonomy"]
"""No harm in the returns, a gain in the returns, nothing but a healthy service (where no returns can be compared), or that
people agree (:mod:`rlcourse.release.apprentice`)."""
Booleans = npt.NDArray[np.bool_]
SAFETY_NOT_WATCHED = "safety_not_watched"


@dataclass(frozen=True)
class Objective:
    """What the service promised: at most a share ``limit`` of requests is bad in one way."""

    name: str
    """latency (slower than promised), errors, fallbacks: the key under which counts arrive."""
    limit: float
    """Share of bad requests that is allowed."""
    feared: float
    """Share that has to be found out soon; nearer to the limit takes more requests to tell apart."""

    def __post_init__(self) -> None:
        if not 0.0 < self.limit < self.feared < 1.0:
            raise ConfigError(
                f"{self.name}: {self.limit} allowed and {self.feared} feared.", mend="Use 0 < limit < feared < 1."
            )


OBJECTIVES = (
    Objective("latency", 0.01, 0.03),
    Objective("errors", 0.001, 0.01),
    Objective("fallbacks", 0.01, 0.05),
)


@dataclass(frozen=True)
class GateConfig:
    """How sure the gate has to be."""

    alpha: float = 0.05
    """Chance of ever finding a difference where there is none: half of it harm, half of it gain."""
    tuned_at: float = 1.0
    """Information at which the interval is narrowest; the planner sets it to what the first stage collects."""
    margin: float = 0.0
    """A gain is proven if the candidate is better than this much below the incumbent; 0 asks for better, 2 EUR for not worse
    by more than 2 EUR a day."""
    fewest_episodes: int = 10
    """Of the candidate, before its returns are judged: the interval is a limit theorem."""
    allowed_violations: int = 0
    """Steps above the safety limit in all of the candidate's rooms."""
    objectives: tuple[Objective, ...] = OBJECTIVES
    objective_alpha: float = 0.001
    """Chance that a healthy service is ever found to miss one objective; small, as the sample is large."""
    stale_after_s: float = 900.0
    """Evidence older than this is not evidence."""
    blind_s: float = 7_200.0
    """Without all of the evidence for so long, go back. A stage begins with nothing seen: it has to be longer than the first
    of each part takes to come."""

    def __post_init__(self) -> None:
        if not (0.0 < self.alpha < 0.5 and 0.0 < self.objective_alpha < 0.5 and self.tuned_at > 0.0):
            raise ConfigError(
                "A gate that is never or always sure.", mend="Use an alpha below 0.5 and tuned_at above 0."
            )
        if not 0.0 < self.stale_after_s <= self.blind_s or self.margin < 0.0 or self.fewest_episodes < 2:
            raise ConfigError(
                "The gate's patience is out of order.",
                mend="Use 0 < stale_after_s <= blind_s, a margin of 0 or more, and 2 episodes or more.",
            )


@dataclass(frozen=True)
class Demand:
    """What a stage has to show before the next one begins."""

    prove: Prove = "no_harm"
    information: float = 1.0
    """One over the variance of the difference of mean returns; from the power calculation."""
    requests: int = 0
    """Answered by the candidate and counted under every objective."""

    def __post_init__(self) -> None:
        if not (0.0 <= self.information < float("inf")) or self.requests < 0:
            raise ConfigError(
                "A stage that asks for less than nothing.", mend="Use 0 or more of information and requests."
            )

    @property
    def compares(self) -> bool:
        """Whether returns have to be known."""
        return self.prove in ("no_harm", "gain")


@dataclass(frozen=True)
class Counts:
    """Requests of the candidate, and how many were bad in one way."""

    bad: int
    total: int


@dataclass(frozen=True)
class Reason:
    """One reason: a code for programs, a sentence for people, the numbers behind it."""

    code: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)


ROOMS_UNKNOWN = Reason(
    "rooms_unknown",
    "The same rooms come every day, and the evidence does not tell them apart: all days count as one. Name the session of "
    "each episode in the file of evidence; or name sessions after the room and the day, and begin again with --sessions day.",
)


class LiveReturns(NamedTuple):
    """Returns of both arms, and what is to be said of them; see :class:`LiveEvidence`."""

    tally: Tally
    variation: Variation | None = None
    objection: Reason | None = None
    rooms: Tally | None = None


@dataclass(frozen=True)
class LiveEvidence:
    """What is known at one moment; ``None`` or absent where nobody answered."""

    measured_at_s: float
    """When, on the controller's clock."""
    tally: Tally | None = None
    """``(D, 2)`` adjusted returns by day and arm."""
    counts: Mapping[str, Counts] = field(default_factory=dict)
    """By the name of the objective."""
    violations: int | None = None
    """Steps above the safety limit in the candidate's rooms."""
    variation: Variation | None = None
    """Of these returns, where it is not what the release was planned with."""
    objection: Reason | None = None
    """Why these returns may end the release and cannot carry it on."""
    unknown: Reason | None = None
    """Why something is missing, where monitoring says so."""
    rooms: Tally | None = None
    """``(D, 2, S)`` the same returns by room, what each earned before taken out; for a release in which the same rooms come
    every day."""
    safety_watched: bool = True
    """Whether violations are waited for. ``False``: none were counted, and nobody has said that anybody counts."""


@dataclass(frozen=True)
class GateAnswer:
    """What to do, and every reason for it."""

    answer: Answer
    reasons: tuple[Reason, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; infinite ones are left out."""
        reasons = [
            {
                "code": one.code,
                "text": one.text,
                "numbers": {name: float(number) for name, number in one.numbers.items() if np.isfinite(number)},
            }
            for one in self.reasons
        ]
        return {"answer": self.answer, "reasons": reasons}

    def beside(self, *more: Reason) -> GateAnswer:
        """The same answer, with something to be said along with it."""
        return GateAnswer(self.answer, (*self.reasons, *more))


class Reading(NamedTuple):
    """What the returns say, ``(...)`` each; one release or thousands."""

    low: Array  # of candidate less incumbent
    high: Array
    harm: Booleans  # surely worse
    gain: Booleans  # surely better than the margin below
    enough: Booleans  # as much information as the stage demands


def read(contrast: Contrast, demanded: Array | float, config: GateConfig) -> Reading:
    """The statistical half of the gate, for many releases at once: ``(...)`` contrasts and demanded information."""
    rho = tuned_mixture(config.tuned_at, config.alpha)
    radius = contrast_radius(contrast.information, alpha=config.alpha, rho=rho)
    radius = np.where(contrast.episodes >= config.fewest_episodes, radius, np.inf)
    low, high = contrast.estimate - radius, contrast.estimate + radius
    known = np.isfinite(radius)
    return Reading(low, high, high < 0.0, low > -config.margin, known & (contrast.information >= demanded))


def decide(
    evidence: LiveEvidence | None,
    *,
    now_s: float,
    since_s: float,
    demand: Demand,
    variation: Variation,
    config: GateConfig,
    verdict: OffPolicyVerdict | None = None,
    candidate: str = "",
    approved: bool = False,
    acts: bool = True,
    seen_s: float = -math.inf,
    apprentice: Apprentice | None = None,
) -> GateAnswer:
    """One decision.

    Args:
        evidence: the newest there is; ``None`` if monitoring has not answered at all.
        now_s: the controller's clock.
        since_s: when this stage began, on the same clock.
        demand: of this stage.
        variation: what is expected of the returns.
        config: how sure to be.
        verdict: of off-policy evaluation; ``None`` where there was no log to ask, and then a person has to approve.
        candidate: whom the verdict has to be about.
        approved: a person has approved of what the log could not tell.
        acts: the candidate's decisions are carried out. Those of a shadow are not: nothing can come of them, so that nobody
            counts violations and none are waited for.
        seen_s: when evidence of which nothing was missing was measured last, before this one (:func:`seen_at`).
        apprentice: where it stands, in a stage in which it earns autonomy; ``None``: it has not begun.
    """
    if evidence is not None and evidence.variation is not None:
        variation = evidence.variation
    stops = _hard_stops(evidence, variation, config) if evidence is not None else []
    if verdict is not None and verdict.decision == "reject":
        stops.append(Reason("off_policy_reject", verdict.reason))
    if stops:
        return GateAnswer("roll_back", tuple(stops))
    blind = _blindness(evidence, now_s, demand, config, acts=acts)
    if blind:
        age = now_s - max(since_s, seen_s, seen_at(evidence, demand, config, acts=acts))
        if age > config.blind_s:
            text = f"Not everything was seen for {age:.0f} s."
            late = Reason("blind_too_long", text, {"age_s": age, "most_s": config.blind_s})
            return GateAnswer("roll_back", (late, *blind))
        return GateAnswer("hold", tuple(blind))
    if evidence is not None and evidence.objection is not None and demand.compares:
        return GateAnswer("hold", (evidence.objection,))
    doubts = [] if approved else _doubts(verdict, candidate)
    if doubts:
        return GateAnswer("hold", tuple(doubts))
    assert evidence is not None  # else blind
    requests = min((evidence.counts[one.name].total for one in config.objectives), default=demand.requests)
    if requests < demand.requests:
        text = f"{requests} requests were answered, {demand.requests} are demanded."
        return GateAnswer("hold", (Reason("collecting", text, {"requests": requests, "demanded": demand.requests}),))
    if demand.prove == "autonomy":
        return _autonomy(apprentice)
    if demand.prove == "service":
        text = f"{requests} requests were answered, and no promise was broken."
        return GateAnswer("promote", (Reason("service_healthy", text, {"requests": requests}),))
    assert evidence.tally is not None  # else blind
    if variation.rooms is not None and evidence.rooms is None:
        return GateAnswer("hold", (ROOMS_UNKNOWN,))
    contrast = _compared(evidence, variation)
    reading = read(contrast, demand.information, config)
    numbers = _numbers(contrast, reading, demand)
    if reading.gain:
        return GateAnswer("promote", (Reason("gain_proven", _sentence("It is surely good enough", numbers), numbers),))
    if not reading.enough and (few := _too_few(evidence, variation, demand)):
        return GateAnswer("hold", (few,))
    if not reading.enough:
        return GateAnswer("hold", (Reason("collecting", _sentence("Not enough is known yet", numbers), numbers),))
    if demand.prove == "no_harm":
        return GateAnswer("promote", (Reason("no_harm", _sentence("No harm showed", numbers), numbers),))
    return GateAnswer("hold", (Reason("undecided", _sentence("All planned episodes tell no gain", numbers), numbers),))


def unwatched(evidence: LiveEvidence | None, *, acts: bool = True) -> tuple[Reason, ...]:
    """What is to be said along with an answer that lets the candidate go on: that nobody looks after safety.

    Args:
        evidence: the newest there is.
        acts: as in :func:`decide`.
    """
    if evidence is None or evidence.safety_watched or evidence.violations is not None or not acts:
        return ()
    text = "Safety is not watched: no violations are counted, and none are waited for (rlcourse release step --safety)."
    return (Reason(SAFETY_NOT_WATCHED, text),)


def seen_at(evidence: LiveEvidence | None, demand: Demand, config: GateConfig, *, acts: bool = True) -> float:
    """When evidence was measured, if nothing that the stage needs is missing from it; else minus infinity.

    Args:
        evidence: the newest there is.
        demand: of the stage.
        config: whose objectives are watched.
        acts: as in :func:`decide`.
    """
    whole = evidence is not None and not _missing(evidence, demand, config, acts=acts)
    return evidence.measured_at_s if evidence is not None and whole else -math.inf


def _hard_stops(evidence: LiveEvidence, variation: Variation, config: GateConfig) -> list[Reason]:
    found = []
    if evidence.violations is not None and evidence.violations > config.allowed_violations:
        numbers = {"violations": float(evidence.violations), "allowed": float(config.allowed_violations)}
        found.append(Reason("safety_violation", f"{evidence.violations} steps above the safety limit.", numbers))
    for objective in config.objectives:
        counts = evidence.counts.get(objective.name)
        if counts is None:
            continue
        ratio = likelihood_ratio(counts.bad, counts.total, limit=objective.limit, feared=objective.feared)
        if ratio >= 1.0 / config.objective_alpha:
            numbers = {"bad": counts.bad, "total": counts.total, "limit": objective.limit, "likelihood_ratio": ratio}
            text = f"{counts.bad} of {counts.total} requests were bad; {objective.limit:.2%} is allowed."
            found.append(Reason(f"objective_{objective.name}", text, numbers))
    if evidence.tally is not None:
        contrast = _compared(evidence, variation)
        reading = read(contrast, 0.0, config)
        if reading.harm:
            numbers = _numbers(contrast, reading, None)
            found.append(Reason("returns_worse", _sentence("It is surely worse", numbers), numbers))
    return found


def _autonomy(apprentice: Apprentice | None) -> GateAnswer:
    if apprentice is None:
        return GateAnswer("hold", (Reason("apprentice_unknown", "Nothing is known of what the apprentice proposes."),))
    numbers = {"accepted": apprentice.accepted, "refused": apprentice.refused, "waiting": len(apprentice.waiting)}
    if apprentice.level == "autonomous":
        return GateAnswer("promote", (Reason("autonomy_earned", "The apprentice has earned to act alone.", numbers),))
    text = (
        f"The apprentice is to {apprentice.level}: {apprentice.accepted} accepted and {apprentice.refused} refused at this "
        f"level, {len(apprentice.waiting)} waiting for a person."
    )
    return GateAnswer("hold", (Reason("earning_autonomy", text, numbers),))


def _compared(evidence: LiveEvidence, variation: Variation) -> Contrast:
    if variation.rooms is not None and evidence.rooms is not None:
        return matched_rooms(evidence.rooms, variation)
    assert evidence.tally is not None  # else there is nothing to compare
    return matched(evidence.tally, variation)


def _too_few(evidence: LiveEvidence, variation: Variation, demand: Demand) -> Reason | None:
    if variation.rooms is None or evidence.rooms is None:
        return None
    most = attainable(evidence.rooms, variation)
    if most >= demand.information:
        return None
    count = int((evidence.rooms.episodes[:, 1].sum(axis=0) > 0.0).sum())
    text = (
        f"The candidate has met {count} rooms; however long they are watched, they tell {most:.3g} of information, and "
        f"{demand.information:.3g} is demanded. More rooms would help, more days do not."
    )
    return Reason("too_few_rooms", text, {"rooms": count, "attainable": most, "demanded": demand.information})


def _blindness(
    evidence: LiveEvidence | None, now_s: float, demand: Demand, config: GateConfig, *, acts: bool
) -> list[Reason]:
    if evidence is None:
        return [Reason("monitoring_unreachable", "Monitoring did not answer.")]
    age = now_s - evidence.measured_at_s
    if age > config.stale_after_s:
        return [Reason("evidence_stale", f"The newest evidence is {age:.0f} s old.", {"age_s": age})]
    return _missing(evidence, demand, config, acts=acts)


def _missing(evidence: LiveEvidence, demand: Demand, config: GateConfig, *, acts: bool) -> list[Reason]:
    missing = [objective.name for objective in config.objectives if objective.name not in evidence.counts]
    missing += ["returns"] * (evidence.tally is None and demand.compares) + ["violations"] * (
        evidence.violations is None and evidence.safety_watched and acts
    )
    found = [Reason("evidence_missing", f"Nothing is known of {name}.") for name in missing]
    if missing and evidence.unknown is not None:
        found.append(evidence.unknown)
    if evidence.tally is not None and not all(np.isfinite(part).all() for part in evidence.tally):
        found.append(Reason("evidence_broken", "Some returns are not finite numbers."))
    return found


def _doubts(verdict: OffPolicyVerdict | None, candidate: str) -> list[Reason]:
    if verdict is None:
        return [Reason("off_policy_missing", "No log was asked about this candidate; a person has to approve.")]
    if verdict.decision == "inconclusive":
        return [Reason("off_policy_inconclusive", f"{verdict.reason} A person has to approve.")]
    if verdict.candidate != candidate:
        text = f"The log's verdict promotes {verdict.candidate}, and this is {candidate}."
        return [Reason("off_policy_other_candidate", text)]
    return []


def _numbers(contrast: Contrast, reading: Reading, demand: Demand | None) -> dict[str, float]:
    numbers = {
        "gain": float(contrast.estimate),
        "low": float(reading.low),
        "high": float(reading.high),
        "episodes": float(contrast.episodes),
        "information": float(contrast.information),
    }
    return numbers if demand is None else {**numbers, "demanded": demand.information}


def _sentence(claim: str, numbers: Mapping[str, float]) -> str:
    return (
        f"{claim}: {numbers['gain']:+.2f} [{numbers['low']:.2f}, {numbers['high']:.2f}] a day against the incumbent, "
        f"after {numbers['episodes']:.0f} episodes."
    )
