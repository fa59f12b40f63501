"""Has the world changed since the policy was judged? States, actions, rewards, and what actions lead to.

The way through: :meth:`DriftMonitor.fit` on a log of good days; :meth:`DriftMonitor.take` with every batch of mature
episodes; a :class:`DriftReport` for each window, with one stated rate of false alarms
(:class:`FalseAlarmBudget`). The statistics by themselves are in :mod:`~rlcourse.monitoring.drift.states` and
:mod:`~rlcourse.monitoring.drift.actions`, why states in a row must not be handed to them in
:mod:`~rlcourse.monitoring.drift.samples`.

Two things to arrange outside. A window must hold whole cycles: with days as episodes, whole days, or every morning drifts
from the mean day. And the reference must hold every season that is not to raise an alarm.
"""

from rlcourse.monitoring.drift.actions import action_counts, chi_square, total_variation
from rlcourse.monitoring.drift.concept import FittedQ
from rlcourse.monitoring.drift.correction import CORRECTIONS, Correction, FalseAlarmBudget, benjamini_hochberg, holm
from rlcourse.monitoring.drift.looks import Looks
from rlcourse.monitoring.drift.monitor import CHECKS, STEADY_WINDOWS, DriftConfig, DriftMonitor, DriftReport
from rlcourse.monitoring.drift.permutation import permuted_means, permuted_mmd, shuffles
from rlcourse.monitoring.drift.reservoir import Reservoir
from rlcourse.monitoring.drift.samples import autocorrelation_time, one_per_episode, thinned
from rlcourse.monitoring.drift.states import (
    ALL,
    Finding,
    QuantileBins,
    ks_per_feature,
    median_heuristic,
    psi_per_feature,
    rbf_kernel,
    squared_mmd,
    stability_index,
)
from rlcourse.monitoring.drift.units import Ruler, Units

__all__ = [
    "ALL",
    "CHECKS",
    "CORRECTIONS",
    "STEADY_WINDOWS",
    "Correction",
    "DriftConfig",
    "DriftMonitor",
    "DriftReport",
    "FalseAlarmBudget",
    "Finding",
    "FittedQ",
    "Looks",
    "QuantileBins",
    "Reservoir",
    "Ruler",
    "Units",
    "action_counts",
    "autocorrelation_time",
    "benjamini_hochberg",
    "chi_square",
    "holm",
    "ks_per_feature",
    "median_heuristic",
    "one_per_episode",
    "permuted_means",
    "permuted_mmd",
    "psi_per_feature",
    "rbf_kernel",
    "shuffles",
    "squared_mmd",
    "stability_index",
    "thinned",
    "total_variation",
]
