"""What a reward says besides the reward: what was really done, what it cost, and which limits it broke.

::

    decision   action 2
    reward     executed {action 0, reason operator}   one override
               cost {energy 0.40, penalty 0.05}       0.45 euros, by what for
               violations {inlet 1}                   one step outside the limit of the inlet

What is left out is not known, which is not the same as 0: nobody looked, nobody counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rlcourse.serving import wire
from rlcourse.serving.continuous import ActionBounds

UNNAMED = "all"
"""The label of an amount that came without a name."""
SAME = 1e-6
"""Continuous actions that differ by less, relative to their size, went through 32-bit floats on the way."""


def overridden(decided: Any, executed: wire.Executed | None) -> bool:
    """Whether something else was done than the service had answered.

    Args:
        decided: the answer's action: a number, or a list of ``K``.
        executed: what the client says; ``None``: nothing.

    Worked number: [0.5, 1.0] and [0.5, 1.0000001] are the same action; 2 and [2.0] are not.
    """
    if executed is None:
        return False
    done = executed.action
    if isinstance(done, list) and isinstance(decided, list) and len(done) == len(decided):
        return not all(
            math.isclose(one, other, rel_tol=SAME, abs_tol=SAME) for one, other in zip(done, decided, strict=True)
        )
    return bool(done != decided)


def possible(done: int | list[float], num_actions: int, bounds: ActionBounds | None) -> bool:
    """Whether what was carried out is an action of a policy at all.

    Args:
        done: a number, or a list of ``K``.
        num_actions: ``A``, or ``K`` for continuous actions.
        bounds: of continuous actions, which rounding may exceed a little; ``None`` where they are counted.

    Worked numbers: of 5 actions the last is 4, so 5 is none; within -2 to 2 lies [2.0000001] and not [2.1].
    """
    if bounds is None or not isinstance(done, list):
        return bounds is None and not isinstance(done, list) and done < num_actions
    if len(done) != bounds.size:
        return False
    slack = SAME * np.maximum(np.abs(bounds.low), np.abs(bounds.high))
    return bool(((np.array(done) >= bounds.low - slack) & (np.array(done) <= bounds.high + slack)).all())


def by_name(amount: float | Mapping[str, float] | None) -> dict[str, float]:
    """An amount by its names; empty where nobody knows."""
    if amount is None:
        return {}
    if isinstance(amount, Mapping):
        return {name: float(part) for name, part in amount.items()}
    return {UNNAMED: float(amount)}


def whole(amount: float | Mapping[str, float] | None) -> float | None:
    """All of an amount; ``None`` where nobody knows."""
    return None if amount is None else math.fsum(by_name(amount).values())


def counters(decided: Any, line: wire.RewardLine) -> Iterator[tuple[str, float, dict[str, str]]]:
    """By how much which counters grow, and their label besides policy and version.

    An amount of 0 is one too: it shows the series, and a series that begins at 0 loses nothing to ``rate()``.
    """
    if line.executed is not None:
        changed = float(overridden(decided, line.executed))
        yield "rl_human_overrides_total", changed, {"reason": line.executed.reason}
    for name, times in by_name(line.violations).items():
        yield "rl_safety_violations_total", times, {"constraint": name}
    for name, euros in by_name(line.cost).items():
        yield "rl_cost_euros_total", euros, {"cost": name}
