r"""Which observations a saved policy is not to be asked about, from what is known of its task and of its log.

The fallback is for what *cannot be*: a sensor that says 1e6, kelvins for degrees. What is merely unusual the policy
answers, and monitoring notices. So for each entry of an observation, on each side:

1. the bound of the task's observation space, where it has a finite one and the log has not been beyond it;
2. else the log's own range, widened by :data:`MARGIN` times its width, where the entry varied in the log;
3. else no bound.

Worked number: CartPole's space bounds the position at 4.8 m and leaves the speed open. A log with speeds from -2 to 3 m/s
bounds it by :math:`3 + 10 \cdot 5 = 53` m/s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rlcourse.deployment.description import observation_bounds

MARGIN = 10.0
"""Widths of the log's range, beyond it on each side. Lower it and unusual states get the fallback; raise it and a wrong unit
passes for an observation."""


def observation_limits(
    task: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None, seen: npt.NDArray[Any] | None = None
) -> dict[str, tuple[float | None, ...]]:
    """``obs_low`` and ``obs_high`` of a :class:`~rlcourse.deployment.description.PolicyDescription`.

    Args:
        task: the lowest and the highest observation ``(D,)`` of the task's space; ``None``: it says nothing.
        seen: ``(S, D)`` finite observations of a log; ``None``: there is no log.

    Returns:
        Both empty where nothing is known.
    """
    if seen is None:
        return {} if task is None else _named(*task)
    least, most = seen.min(0).astype(np.float64), seen.max(0).astype(np.float64)
    open_ = np.full(least.shape, np.inf)
    low, high = (-open_, open_) if task is None or task[0].shape != least.shape else task
    width = most - least
    margin = np.where(width > 0.0, MARGIN * width, np.inf)
    low = np.where(np.isfinite(low) & (low <= least), low, least - margin)
    high = np.where(np.isfinite(high) & (high >= most), high, most + margin)
    return _named(low, high)


def _named(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> dict[str, tuple[float | None, ...]]:
    largest = float(np.finfo(np.float32).max)  # observations are float32
    low, high = np.where(low < -largest, -np.inf, low), np.where(high > largest, np.inf, high)
    return {"obs_low": observation_bounds(low.tolist()), "obs_high": observation_bounds(high.tolist())}
