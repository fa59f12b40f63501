r"""Has the distribution of states changed? Three statistics on independent rows.

======================  ============================  ==========================================================
statistic               sees                          is blind to
======================  ============================  ==========================================================
Kolmogorov-Smirnov      each feature by itself        two features that swap partners (a tariff that moves by
                                                      twelve hours has the same prices)
stability index (PSI)   the same, as an effect size   what happens within a bin; says how much, not whether
maximum mean            the joint distribution        little, but needs a scale; its bandwidth decides at which
discrepancy                                           distance it looks
======================  ============================  ==========================================================

Rows must be independent: see :mod:`~rlcourse.monitoring.drift.samples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.monitoring.drift.samples import pair_of, rows_of, varying
from rlcourse.monitoring.signals import Array

ALL = "all"
"""The feature of a finding about the whole distribution."""


@dataclass(frozen=True)
class Finding:
    """What one test found."""

    check: str
    feature: str  # a name, a number, or ALL
    statistic: float
    p_value: float  # of a statistic as large without drift
    adjusted: float | None = None  # the same once the number of tests is allowed for

    def with_adjusted(self, adjusted: float) -> Finding:
        """The same finding, adjusted."""
        return replace(self, adjusted=adjusted)


def ks_per_feature(
    reference: npt.ArrayLike, window: npt.ArrayLike, *, names: Sequence[str] | None = None
) -> list[Finding]:
    """The largest distance of the two distribution functions, feature by feature. Kolmogorov (1933), Smirnov (1948).

    Args:
        reference: ``(R, D)`` independent rows.
        window: ``(W, D)`` independent rows.
        names: ``(D,)`` of the features.

    Raises:
        DatasetInvalidError: an empty side, NaN, or a feature that is constant in the reference.
        ShapeError: features that differ.

    Worked number: (1, 2, 3, 4) against (3, 4, 5, 6): half of one side lies below all of the other, so 0.5.
    """
    ours, theirs = pair_of(reference, window)
    labels = tuple(names) if names is not None else tuple(map(str, range(ours.shape[1])))
    if len(labels) != ours.shape[1]:
        raise ShapeError(f"{len(labels)} names for {ours.shape[1]} features.", mend="Give one for each.")
    varying(ours, labels)
    findings = []
    for place, name in enumerate(labels):
        found = stats.ks_2samp(ours[:, place], theirs[:, place], method="auto")
        findings.append(Finding("ks", name, float(found.statistic), float(found.pvalue)))
    return findings


@dataclass(frozen=True)
class QuantileBins:
    """Bins that hold the same share of the reference each, fixed for good: the window may move, the ruler may not."""

    edges: tuple[Array, ...]  # D times (K - 1,) inner edges, rising; fewer where values repeat

    @classmethod
    def fit(cls, reference: npt.ArrayLike, *, bins: int = 10, names: tuple[str, ...] | None = None) -> Self:
        """From ``(R, D)`` rows.

        Raises:
            DatasetInvalidError: no rows, NaN, or a constant feature.
            ConfigError: fewer than two bins.
        """
        rows = rows_of(reference, "reference rows")
        if bins < 2:
            raise ConfigError(f"{bins} bins tell nothing apart.", mend="Use 2 or more; 10 is usual.")
        varying(rows, names)
        quantiles = np.quantile(rows, np.arange(1, bins) / bins, axis=0, method="inverted_cdf")
        # A bin holds what is below its upper edge or on it; an edge at the largest value would leave the last bin empty.
        return cls(tuple(np.unique(column[column < top]) for column, top in zip(quantiles.T, rows.max(0), strict=True)))

    @property
    def num_bins(self) -> list[int]:
        """``(D,)``: ``K`` of each feature."""
        return [len(edges) + 1 for edges in self.edges]

    def shares(self, rows: npt.ArrayLike) -> list[Array]:
        """``D`` times ``(K,)``: which share of the rows falls into each bin.

        Raises:
            DatasetInvalidError: no rows, or NaN.
            ShapeError: another number of features.
        """
        array = rows_of(rows, "rows")
        if array.shape[1] != len(self.edges):
            raise ShapeError(f"{array.shape[1]} features, the bins are for {len(self.edges)}.", mend="Fit new bins.")
        return [
            np.bincount(np.searchsorted(edges, column), minlength=len(edges) + 1) / len(column)
            for edges, column in zip(self.edges, array.T, strict=True)
        ]


def stability_index(expected: npt.ArrayLike, actual: npt.ArrayLike, *, floor: float = 1e-4) -> Array:
    r"""The population stability index :math:`\sum_k (a_k - e_k) \ln(a_k / e_k)`: both Kullback-Leibler divergences, added.

    Siddiqi (2006) calls 0.1 worth a look and 0.25 a shift, whatever the number of rows. But without any drift it
    is about :math:`(K - 1)(1/R + 1/W)` from chance alone: with 10 bins and 50 rows on either side that is 0.36.

    Args:
        expected: ``(..., K)`` shares of the reference.
        actual: ``(..., K)`` shares of the window.
        floor: an empty bin counts as so much, or the logarithm would be infinite.

    Returns:
        ``(...)``.

    Worked number: (1/2, 1/2) and (1/4, 3/4): -1/4 ln(1/2) + 1/4 ln(3/2) = 0.275.
    """
    e, a = np.maximum(np.asarray(expected, np.float64), floor), np.maximum(np.asarray(actual, np.float64), floor)
    index: Array = ((a - e) * np.log(a / e)).sum(-1)
    return index


def psi_per_feature(
    bins: QuantileBins, reference: npt.ArrayLike, window: npt.ArrayLike, *, names: Sequence[str] | None = None
) -> list[Finding]:
    r"""The stability index with what chance would make of it: times :math:`RW/(R+W)` it is about
    :math:`\chi^2_{K-1}` without drift. Yurdakul (2018).

    Raises:
        DatasetInvalidError: an empty side, or NaN.
        ShapeError: features that differ.
    """
    ours, theirs = pair_of(reference, window)
    weight = len(ours) * len(theirs) / (len(ours) + len(theirs))
    labels = names or tuple(map(str, range(ours.shape[1])))
    # Half a row in every bin: an empty bin of a small window is no proof of a share of 0.
    floor = 0.5 / max(len(ours), len(theirs))
    findings = []
    for name, expected, actual in zip(labels, bins.shares(ours), bins.shares(theirs), strict=True):
        index = float(stability_index(expected, actual, floor=floor))
        findings.append(Finding("psi", name, index, float(stats.chi2.sf(weight * index, len(expected) - 1))))
    return findings


def median_heuristic(rows: npt.ArrayLike, *, most: int = 500) -> float:
    """A bandwidth for the RBF kernel: the median distance between two rows. Gretton et al. (2012), section 8.

    Args:
        rows: ``(R, D)``, scaled to one unit.
        most: of so many rows, evenly taken; the number of pairs grows with the square.

    Raises:
        DatasetInvalidError: fewer than two rows, NaN, or half of all pairs are equal.

    Worked number: 0, 1 and 3 lie 1, 2 and 3 apart: the median is 2.
    """
    array = rows_of(rows, "rows")
    array = array[:: max(1, len(array) // most)]
    bandwidth = float(np.median(pdist(array))) if len(array) > 1 else 0.0
    if bandwidth == 0.0:
        raise DatasetInvalidError("Most rows are equal.", mend="Leave out constant features, or give a bandwidth.")
    return bandwidth


def rbf_kernel(a: npt.ArrayLike, b: npt.ArrayLike, bandwidth: float) -> Array:
    r""":math:`k(x, y) = e^{-\lVert x - y \rVert^2 / 2\sigma^2}` of ``(R, D)`` and ``(W, D)`` rows: ``(R, W)``."""
    if not bandwidth > 0.0:
        raise ConfigError(f"A bandwidth of {bandwidth}.", mend="Use a number above 0; median_heuristic finds one.")
    kernel: Array = np.exp(-cdist(rows_of(a, "rows"), rows_of(b, "rows"), "sqeuclidean") / (2.0 * bandwidth**2))
    return kernel


def squared_mmd(reference: npt.ArrayLike, window: npt.ArrayLike, bandwidth: float) -> float:
    r"""Maximum mean discrepancy, squared: :math:`\overline{k(x, x')} + \overline{k(y, y')} - 2\,\overline{k(x, y)}`.

    The distance of the two distributions' means in the kernel's feature space; with the RBF kernel it is 0 for equal
    distributions alone. Gretton et al. (2012), equation 5 (the biased estimate, never below 0).

    Worked number: a single row against one at distance d: :math:`2 - 2 e^{-d^2 / 2\sigma^2}`; at
    :math:`d = \sigma`, 0.787.
    """
    ours, theirs = pair_of(reference, window)
    within = rbf_kernel(ours, ours, bandwidth).mean() + rbf_kernel(theirs, theirs, bandwidth).mean()
    return float(within - 2.0 * rbf_kernel(ours, theirs, bandwidth).mean())
