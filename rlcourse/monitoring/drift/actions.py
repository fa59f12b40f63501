r"""Has the policy begun to act differently? Two statistics on counts by action.

A deterministic policy that acts differently has been shown other states, or is not the policy that was released.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from rlcourse.errors import DatasetInvalidError, ShapeError
from rlcourse.monitoring.drift.states import ALL, Finding
from rlcourse.monitoring.signals import Array, finite


def action_counts(actions: npt.ArrayLike, num_actions: int) -> npt.NDArray[np.int64]:
    """``(R,)`` actions to ``(A,)`` counts.

    Raises:
        DatasetInvalidError: none, or one that there is not.
    """
    array = np.asarray(actions)
    if array.size == 0 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= num_actions:
        raise DatasetInvalidError(
            f"Not all of the {array.size} actions are whole numbers from 0 to {num_actions - 1}.",
            mend="An action that the policy cannot take comes from another policy, or from another join.",
        )
    return np.bincount(array.reshape(-1), minlength=num_actions)


def total_variation(reference: npt.ArrayLike, window: npt.ArrayLike) -> float:
    r""":math:`\frac{1}{2}\sum_a |p(a) - q(a)|`: the share of decisions that would have to change to make them alike.

    Args:
        reference: ``(A,)`` counts or shares.
        window: ``(A,)`` counts or shares.

    Raises:
        DatasetInvalidError: nothing was counted, or something below 0.
        ShapeError: other actions.

    Worked number: (1, 1) against (1, 3) is (1/2, 1/2) against (1/4, 3/4): 1/4.
    """
    ours, theirs = _pair(reference, window)
    return float(0.5 * np.abs(ours / ours.sum() - theirs / theirs.sum()).sum())


def chi_square(reference: npt.ArrayLike, window: npt.ArrayLike) -> Finding:
    """Pearson's test (1900) that both rows of counts come from one distribution; actions nobody took are left out.

    For independent decisions; with fewer than five expected in a cell its p-value is rough. Two rows that hold one and
    the same action alone do not differ: statistic 0, p-value 1.

    Raises:
        DatasetInvalidError: nothing was counted, or something below 0.
        ShapeError: other actions.

    Worked number: (10, 20) against (20, 10): 15 expected everywhere, so 4 * 25 / 15 = 6.667; p = 0.0098.
    """
    table = np.stack(_pair(reference, window))
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return Finding("chi_square", ALL, 0.0, 1.0)
    found = stats.chi2_contingency(table, correction=False)
    return Finding("chi_square", ALL, float(found.statistic), float(found.pvalue))


def _pair(reference: npt.ArrayLike, window: npt.ArrayLike) -> tuple[Array, Array]:
    ours, theirs = finite(reference, "reference counts"), finite(window, "window counts")
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ShapeError(
            f"Counts have the shapes {ours.shape} and {theirs.shape}.", mend="Count the same actions on both sides."
        )
    if min(ours.min(), theirs.min()) < 0.0 or min(ours.sum(), theirs.sum()) <= 0.0:
        raise DatasetInvalidError("A side has no decisions, or fewer than none.", mend="Wait for a fuller window.")
    return ours, theirs
