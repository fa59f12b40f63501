"""Many learning curves as one: the mean over runs with its interval, by environment steps or by processor seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlcourse.errors import ShapeError
from rlcourse.evaluation.statistics import Array


@dataclass(frozen=True)
class Curve:
    """What the runs of one algorithm earned on the way, on average."""

    x: Array  # (K,) steps or seconds
    mean: Array  # (K,)
    low: Array  # (K,) 95 % interval of the mean, at each point by itself
    high: Array  # (K,)


def mean_curve(
    runs: Sequence[Sequence[tuple[float, float]]],
    *,
    rng: np.random.Generator,
    num_points: int = 101,
    resamples: int = 1_000,
) -> Curve:
    """The mean over runs where all of them have been, with a bootstrap interval over runs.

    Args:
        runs: for each, its evaluations ``(x, return)`` in order.
        rng: where the resamples come from.
        num_points: ``K``, evenly spaced, where the runs were not all evaluated at the same places; between two
            evaluations of a run a straight line is drawn. Runs that never overlap make a single point.
        resamples: how many.

    Worked number: runs through (0, 0), (10, 10) and (0, 2), (5, 2) meet from 0 to 5; their mean is 1 at 0 and 3.5 at 5.
    """
    if not runs or not all(runs):
        raise ShapeError("A curve of no runs, or a run of no evaluations.", mend="Give one evaluation or more of each.")
    paths = [np.asarray(run, dtype=np.float64) for run in runs]
    x = _places(paths, num_points)
    heights = np.stack([np.interp(x, path[:, 0], path[:, 1]) for path in paths])  # (R, K)
    drawn = rng.integers(len(paths), size=(resamples, len(paths)))
    low, high = np.percentile(heights[drawn].mean(axis=1), (2.5, 97.5), axis=0)
    return Curve(x, heights.mean(axis=0), low, high)


def _places(paths: Sequence[npt.NDArray[np.float64]], num_points: int) -> Array:
    first = paths[0][:, 0]
    if all(np.array_equal(path[:, 0], first) for path in paths):
        return first
    begin, end = max(path[0, 0] for path in paths), min(path[-1, 0] for path in paths)
    return np.linspace(begin, end, num_points) if begin < end else np.array([begin])
