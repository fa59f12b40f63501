"""Shadow: the candidate is asked everything and allowed nothing.

Each request is answered by the incumbent; a copy goes to the candidate, whose answer is written down and thrown away. That
finds what no return is needed for: crashes, slowness, fallbacks, and how often the two would have acted differently. What
the different actions would have *earned* a shadow cannot know. The counterfactual part of the report weighs what was earned
by how likely the candidate would have done the same (self-normalised importance sampling, of single steps), and says
how many steps that is worth; where it is few, nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rlcourse.errors import ConfigError
from rlcourse.release.gates import GateAnswer, Reason


@dataclass(frozen=True)
class Mirrored:
    """One request that both have answered."""

    action: int
    """Of the incumbent; it was done."""
    probability: float
    """With which the incumbent did it."""
    shadow_action: int | None
    """Of the candidate; ``None`` where it failed."""
    shadow_probability: float
    """With which the candidate would have done what the incumbent did."""
    reward: float = 0.0
    """NaN: it is not known (yet)."""
    shadow_ms: float = 0.0
    shadow_fallback: bool = False


@dataclass(frozen=True)
class ShadowReport:
    """What the shadow showed."""

    requests: int
    failed: int
    fallbacks: int
    late: int
    """Slower than was promised."""
    agreement: float
    """Share of the answers that were the same action."""
    changes: dict[str, int] = field(default_factory=dict)
    """``"2->3"``: how often the candidate would have done 3 where 2 was done."""
    rewarded: int = 0
    """Answers whose reward is known; what follows is of these."""
    logged_reward: float | None = None
    """Mean of a step as it was earned."""
    counterfactual_reward: float | None = None
    """Mean of a step had the candidate acted, the states being the incumbent's; ``None`` where no weight is left."""
    worth: float = 0.0
    """So many equally weighed steps say as much: (sum w)^2 / sum w^2."""


def shadow_report(mirrored: Sequence[Mirrored], *, promised_ms: float = 50.0) -> ShadowReport:
    """Count and weigh.

    Worked number: two requests at probability 0.5 each, rewards 1 and 3, which the candidate would have answered alike with
    probability 1 and 0.5: weights 2 and 1, counterfactual (2 + 3)/3 = 1.67, worth 9/5 = 1.8 steps.

    Raises:
        ConfigError: a logged probability of 0, which cannot have been drawn.
    """
    if any(not one.probability > 0.0 for one in mirrored):
        raise ConfigError("A logged action had probability 0.", mend="Log the probability with which it was drawn.")
    answered = [one for one in mirrored if one.shadow_action is not None]
    changes: dict[str, int] = {}
    for one in answered:
        if one.shadow_action != one.action:
            key = f"{one.action}->{one.shadow_action}"
            changes[key] = changes.get(key, 0) + 1
    known = [one for one in answered if not math.isnan(one.reward)]
    weights = np.array([one.shadow_probability / one.probability for one in known])
    rewards = np.array([one.reward for one in known])
    total = float(weights.sum()) if known else 0.0
    return ShadowReport(
        requests=len(mirrored),
        failed=len(mirrored) - len(answered),
        fallbacks=sum(one.shadow_fallback for one in mirrored),
        late=sum(one.shadow_ms > promised_ms for one in mirrored),
        agreement=1.0 - sum(changes.values()) / len(answered) if answered else 0.0,
        changes=dict(sorted(changes.items())),
        rewarded=len(known),
        logged_reward=float(rewards.mean()) if known else None,
        counterfactual_reward=float((weights * rewards).sum() / total) if total > 0.0 else None,
        worth=total**2 / float((weights**2).sum()) if total > 0.0 else 0.0,
    )


def judge_shadow(report: ShadowReport, *, requests: int, agreement: float, most_bad: float = 0.01) -> GateAnswer:
    """Whether the shadow may step into the light.

    Args:
        report: of the shadow.
        requests: that have to be mirrored first.
        agreement: the least share of equal answers; low for a policy that is meant to differ.
        most_bad: share of failed, late or fallback answers at most.
    """
    if report.requests < requests:
        text = f"{report.requests} requests were mirrored, {requests} are demanded."
        return GateAnswer("hold", (Reason("collecting", text, {"requests": report.requests, "demanded": requests}),))
    numbers = {"requests": float(report.requests), "agreement": report.agreement}
    bad = {"failed": report.failed, "fallbacks": report.fallbacks, "late": report.late}
    found = [
        Reason(f"shadow_{name}", f"{count} of {report.requests} answers: {name}.", {**numbers, name: count})
        for name, count in bad.items()
        if count > most_bad * report.requests
    ]
    if report.agreement < agreement:
        found.append(Reason("shadow_disagrees", f"Only {report.agreement:.1%} of the answers were the same.", numbers))
    if found:
        return GateAnswer("roll_back", tuple(found))
    return GateAnswer(
        "promote", (Reason("shadow_agrees", f"{report.agreement:.1%} of the answers were the same.", numbers),)
    )
