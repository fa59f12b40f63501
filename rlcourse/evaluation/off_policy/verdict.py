"""From estimates to a decision that a release gate can read: promote, reject, or admit that the log cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import torch

from rlcourse.errors import ConfigError, ShapeError
from rlcourse.evaluation.off_policy.diagnostics import Diagnostics
from rlcourse.evaluation.off_policy.intervals import Resampled
from rlcourse.evaluation.off_policy.ranking import expected_regrets
from rlcourse.evaluation.off_policy.trajectories import Propensities
from rlcourse.evaluation.statistics import Interval
from rlcourse.objectives.importance import probability_worse

Decision = Literal["promote", "reject", "inconclusive"]
Basis = Literal["episodes", "steps"]
"""Whether an estimate rests on weights of whole episodes or of single steps."""
COMPARABLE = 0.01
"""So much of the discounted time may be counted on one side of a comparison alone."""
ERRORS = 3.0
"""Standard errors that a mean of weights is granted before it counts as something other than 1."""
GUESSED = " Its weights rest on guessed propensities: the accepted risk does not cover the error in them."


@dataclass(frozen=True)
class Demands:
    """What evidence has to look like before anybody acts on it."""

    risk: float = 0.05
    """Largest accepted probability that the promoted policy is worse than the logger. Several candidates share it: the best of
    many looks good by luck alone."""
    fewest_episodes: int = 20
    """A bootstrap of fewer says little about what was not drawn."""
    fewest_effective: float = 10.0
    """Smallest effective sample size of the weights, where the estimate rests on weights."""
    largest_share: float = 0.3
    """Most of the weight that a single episode may carry."""
    heaviest_tail: float = 0.7
    """Largest Pareto k of the weights."""
    most_negative: float = 0.05
    """Largest share of the step weights that may come out negative, where the estimate rests on them."""
    most_beyond: float = 0.3
    """Largest share of discounted time behind the ends of cut-off episodes, where the estimate counts it: models alone speak of
    that."""
    most_unlogged: float = 0.05
    """Largest probability that a policy may put on actions that are nowhere in the log."""
    farthest_mean: float = 0.1
    """How far from 1 the mean of the weights may surely lie, beyond three of its standard errors. Below: the log could not
    hold what the policy would do. Above: the propensities are wrong."""
    allow_estimated: bool = False
    """Let weights decide whose propensities were guessed. What it costs: the error of the guess multiplies over the steps of
    an episode, is in no interval, and can make a worse policy look better. The accepted risk then bounds nothing."""

    def __post_init__(self) -> None:
        if not 0.0 < self.risk < 0.5:
            raise ConfigError(f"The risk is {self.risk}.", mend="Use a probability below 0.5, for example 0.05.")
        for name in ("farthest_mean", "heaviest_tail", "fewest_effective", "fewest_episodes"):
            if not getattr(self, name) >= 0.0:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}.", mend=f"Use 0 or more, for example {_USUAL[name]}."
                )
        for name in ("largest_share", "most_negative", "most_beyond", "most_unlogged"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}.", mend=f"Use a share from 0 to 1, for example {_USUAL[name]}."
                )


_USUAL = {each.name: each.default for each in fields(Demands)}


@dataclass(frozen=True)
class Evidence:
    """What the log says about one candidate."""

    candidate: str
    estimate: float
    low: float
    high: float
    probability_worse: float
    """Share of the resamples in which the candidate earns less than the logger, both on the same episodes; ties count half."""
    value_at_risk: float
    """What the candidate gains on the logger in the worst of so many resamples as the risk allows, shared among the candidates;
    below 0 it may lose."""
    effective_sample_size: float
    propensities: Propensities
    """Whether the logger wrote its probabilities down or somebody guessed them; weights of whole episodes rest on them."""
    objections: tuple[str, ...]
    """Why the numbers above should not be acted on; empty if they may be."""


@dataclass(frozen=True)
class OffPolicyVerdict:
    """What to do, and why."""

    decision: Decision
    candidate: str | None
    """The one to promote; None unless the decision is ``promote``."""
    reason: str
    logger: Interval
    evidence: tuple[Evidence, ...]
    """Best first: sound ones before others, then by value at risk."""
    demands: Demands
    expected_regret: tuple[float, ...] = ()
    """What is lost, on average over the resamples, by trying only the first k of the evidence without objections, for each k
    (:func:`~rlcourse.evaluation.off_policy.ranking.expected_regrets`). What the others are worth is not in it."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers. What is infinite or undefined becomes None: JSON knows neither."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def judge(
    candidates: Mapping[str, Resampled],
    logger: Resampled,
    diagnostics: Mapping[str, Diagnostics],
    demands: Demands | None = None,
    *,
    basis: Basis = "episodes",
    silent: Mapping[str, str] | None = None,
) -> OffPolicyVerdict:
    """Compare candidates with the logger on the same resamples of the same episodes.

    Promote the candidate with the best value at risk if the probability that it is worse than the logger is at most the risk
    and nothing speaks against the numbers. K candidates get the K-th part of the risk each (Bonferroni), so that the risk is
    that of promoting *any* worse one. Reject if every candidate is *surely* worse, on sound numbers; that takes all of them to
    be, so nothing is shared. Otherwise say that the log does not tell.

    Args:
        candidates: an estimate of each, resampled from the same generator state as ``logger``.
        logger: the logged returns themselves, resampled.
        diagnostics: of each candidate.
        demands: what evidence has to look like.
        basis: which weights the estimates rest on; those have to be sound.
        silent: of candidates that have no estimate, why.

    Raises:
        ConfigError: no candidates, or one without diagnostics.
        ShapeError: different numbers of resamples.
    """
    demands, silent = demands or Demands(), silent or {}
    candidates = {**candidates, **{name: _nothing(logger) for name in silent}}
    if not candidates or set(candidates) - set(diagnostics):
        raise ConfigError("There is nothing to judge, or no diagnostics of it.", mend="Give both for each candidate.")
    evidence = []
    for name, found in candidates.items():
        if found.values.shape != logger.values.shape:
            raise ShapeError(
                f"{name} has {found.values.shape[0]} resamples, the logger {logger.values.shape[0]}.",
                mend="Resample all with the same generator state and number.",
            )
        gain = found.values - logger.values
        why = (silent[name],) if name in silent else ()
        sure = np.isfinite(gain).all()
        pair = torch.from_numpy(found.values), torch.from_numpy(logger.values)
        worse = float(probability_worse(*pair)) if sure else 0.5
        evidence.append(
            Evidence(
                candidate=name,
                estimate=found.estimate,
                low=found.interval.low,
                high=found.interval.high,
                probability_worse=worse,
                value_at_risk=float(np.quantile(gain, demands.risk / len(candidates))) if sure else -np.inf,
                effective_sample_size=diagnostics[name].effective_sample_size,
                propensities=diagnostics[name].propensities,
                objections=why or _objections(found, logger, diagnostics[name], demands, basis),
            )
        )
    ranked = tuple(sorted(evidence, key=lambda one: (bool(one.objections), -one.value_at_risk, one.candidate)))
    decision, reason = _decide(ranked, demands, basis)
    best = ranked[0].candidate if decision == "promote" else None
    sound = [candidates[one.candidate].values for one in ranked if not one.objections]
    regrets = expected_regrets(np.stack(sound)) if sound else ()
    return OffPolicyVerdict(decision, best, reason, logger.interval, ranked, demands, regrets)


def _decide(ranked: tuple[Evidence, ...], demands: Demands, basis: Basis) -> tuple[Decision, str]:
    best = ranked[0]
    if best.objections:
        return "inconclusive", f"Nothing sound is known about any candidate; of {best.candidate}: {best.objections[0]}"
    share, accepted = demands.risk / len(ranked), f"{demands.risk:g} is accepted"
    if len(ranked) > 1:
        accepted += f", of which each of {len(ranked)} candidates has {share:.2g}"
    if best.probability_worse <= share:
        return "promote", (
            f"{best.candidate} is worse than the logger with probability {best.probability_worse:.3f}, and {accepted}."
            + (GUESSED if best.propensities == "estimated" and basis == "episodes" else "")
        )
    if all(not one.objections and one.probability_worse >= 1.0 - demands.risk for one in ranked):
        return "reject", f"Every candidate is worse than the logger; the best, {best.candidate}, with probability " + (
            f"{best.probability_worse:.3f}."
        )
    doubtful = next((one for one in ranked if one.objections), None)
    if best.probability_worse >= 1.0 - demands.risk and doubtful is not None:
        return "inconclusive", (
            f"The best candidate about which something sound is known, {best.candidate}, is worse than the logger; "
            f"of {doubtful.candidate}: {doubtful.objections[0]}"
        )
    return "inconclusive", (
        f"{best.candidate} is worse than the logger with probability {best.probability_worse:.3f}: "
        f"too much to promote ({accepted}), and no rejection either."
    )


def _objections(
    found: Resampled, logger: Resampled, about: Diagnostics, demands: Demands, basis: Basis
) -> tuple[str, ...]:
    claims = [
        (
            about.episodes < demands.fewest_episodes,
            f"{about.episodes} episodes, {demands.fewest_episodes} are demanded.",
        ),
        (not np.isfinite(found.values).all(), "some resamples have no weight at all."),
        (
            not logger.defined,
            "the log does not vary: all returns are equal, or it is one episode over and over. What an estimate differs by is "
            "the noise of its weights.",
        ),
        (
            (about.unlogged_mass or 0.0) > demands.most_unlogged,
            f"it would do things that the log never holds, with probability {about.unlogged_mass or 0.0:.2f}.",
        ),
    ]
    if basis == "steps":
        negative = about.negative_share
        claims += [
            (
                negative is None or negative > demands.most_negative,
                "nobody looked at its step weights."
                if negative is None
                else f"{negative:.0%} of its step weights are negative: the features cannot say where it would be.",
            ),
            (
                about.beyond > COMPARABLE and not logger.endless,
                f"episodes were cut off, and {about.beyond:.0%} of the discounted time comes later: the estimate counts it, "
                "the logger's returns do not. Give judge() what logger_value(..., endless=True) says.",
            ),
            (
                about.beyond > demands.most_beyond,
                f"episodes were cut off, and of the {about.beyond:.0%} of the discounted time that come later models alone "
                "speak. Decide by wdr or dr, or lower gamma.",
            ),
            (
                _surely(about.mean_ratio, about.mean_ratio_error) < -demands.farthest_mean,
                f"it would do what the log cannot hold, with probability {1.0 - (about.mean_ratio or 0.0):.2f}.",
            ),
        ]
    else:
        off = _surely(about.mean_weight, about.mean_weight_error)
        claims += [
            (
                about.propensities == "estimated" and not demands.allow_estimated,
                "its weights rest on guessed propensities, and no number here knows of the error in them.",
            ),
            (
                abs(off) > demands.farthest_mean,
                f"the mean of its weights is {about.mean_weight:.3g} and should be 1: "
                + ("the log cannot hold what it would do." if off < 0.0 else "the propensities are wrong."),
            ),
            (
                about.effective_sample_size < demands.fewest_effective,
                f"its weights are worth {about.effective_sample_size:.1f} episodes, "
                f"{demands.fewest_effective:g} are demanded.",
            ),
            (
                about.largest_share > demands.largest_share,
                f"one episode carries {about.largest_share:.0%} of the weight.",
            ),
            (
                about.tail_shape is not None and about.tail_shape > demands.heaviest_tail,
                f"the weights have a heavy tail (k = {about.tail_shape or 0.0:.2f}, at most {demands.heaviest_tail:g}).",
            ),
        ]
    return tuple(text for holds, text in claims if holds)


def _nothing(logger: Resampled) -> Resampled:
    return Resampled(np.nan, np.full_like(logger.values, np.nan), Interval(np.nan, -np.inf, np.inf))


def _surely(mean: float | None, error: float | None) -> float:
    # How far from 1 a mean lies beyond its standard errors, with the sign of the side; 0 where that is not sure.
    if mean is None or error is None:
        return 0.0
    return min(mean + ERRORS * error - 1.0, 0.0) + max(mean - ERRORS * error - 1.0, 0.0)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
