"""What is answered to each observation, as JSON has it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rlcourse.serving.continuous import Drawn
from rlcourse.serving.fallbacks import Fallback
from rlcourse.serving.prepared import Outcome, Prepared


class Row(NamedTuple):
    """What is answered to one observation."""

    action: int | list[float]
    probability: float | None
    confidence: float | None
    fallback: str | None


def with_fallbacks(prepared: Prepared, outcome: Outcome, fallback: Fallback, rng: np.random.Generator) -> list[Row]:
    """One for each observation: the policy's own where there is one, otherwise the fallback's and why. Counts both."""
    found: list[Row] = []
    loaded, decided = prepared.loaded, outcome.decided
    counts = loaded.counts
    for row in range(len(prepared.obs)):
        reason = (prepared.bad[row] if prepared.bad else None) or outcome.reason
        counts[reason or ""] = counts.get(reason or "", 0) + 1
        if reason is not None and loaded.actions is not None:
            found.append(Row(*fallback.continuous(loaded.actions, rng), None, reason))
        elif reason is not None:
            mask = None if prepared.mask is None else prepared.mask[row]
            found.append(Row(*fallback.counted(loaded.policy.num_actions, mask, rng), None, reason))
        elif isinstance(decided, Drawn):
            found.append(Row(decided.actions[row].tolist(), decided.density(row), None, None))
        else:
            assert decided is not None
            action = int(decided.actions[row])
            confidence = float(decided.probabilities[row, action])
            found.append(Row(action, 1.0 if prepared.request.deterministic else confidence, confidence, None))
    return found


def worded(decided: Drawn, many: bool) -> tuple[Any, Any, Any]:
    """Continuous actions, their densities, and how they were drawn if not so, as JSON has them."""
    sampled = None if decided.sampled is None else decided.sampled.tolist()
    if not many:
        return decided.actions[0].tolist(), decided.density(0), sampled and sampled[0]
    densities = [None] * len(decided.actions) if decided.densities is None else decided.densities.tolist()
    return decided.actions.tolist(), densities, sampled


def sampled_rows(decided: Any, actions: list[Any], fallbacks: list[str | None]) -> list[Any] | None:
    """Continuous actions as they were drawn, the fallback's as they are; ``None`` where no bound cut any off."""
    if not isinstance(decided, Drawn) or decided.sampled is None:
        return None
    drawn = decided.sampled.tolist()
    return [taken if why else own for own, taken, why in zip(drawn, actions, fallbacks, strict=True)]
