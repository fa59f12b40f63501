"""Verdicts and evidence whose numbers are known exactly."""

from __future__ import annotations

import numpy as np

from rlcourse.evaluation.off_policy.verdict import Decision, Demands, OffPolicyVerdict
from rlcourse.evaluation.statistics import Interval
from rlcourse.release.gates import Counts, LiveEvidence
from rlcourse.release.matching import Tally


def verdict(decision: Decision = "promote", candidate: str | None = "v2") -> OffPolicyVerdict:
    name = candidate if decision == "promote" else None
    return OffPolicyVerdict(decision, name, f"The log says {decision}.", Interval(1.0, 0.0, 2.0), (), Demands())


def tally(gain: float, candidates: int = 100, incumbents: int = 400, sd: float = 1.0) -> Tally:
    """One day whose sample means and deviations are exactly these."""
    count = np.array([[float(incumbents), float(candidates)]])
    mean = np.array([[0.0, gain]])
    return Tally(count, count * mean, (count - 1) * sd**2 + count * mean**2)


def evidence(gain: float = 0.0, *, at: float = 0.0, candidates: int = 100, **more: object) -> LiveEvidence:
    healthy = {name: Counts(0, 1_000) for name in ("latency", "errors", "fallbacks")}
    given: dict[str, object] = {"tally": tally(gain, candidates), "counts": healthy, "violations": 0, **more}
    return LiveEvidence(at, **given)  # type: ignore[arg-type]
