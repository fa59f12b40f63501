"""Judging a policy by a log that another policy wrote.

The way through: :class:`Trajectories` puts a log beside a target policy; an estimator turns them into a statistic;
:func:`resample` gives its value and interval; :func:`diagnose` says how far to believe it; :func:`judge` decides.
"""

from rlcourse.evaluation.off_policy.assessment import (
    BLIND,
    DESCRIPTIONS,
    ENDLESS,
    ESTIMATOR_NAMES,
    FROZEN,
    WEIGHING,
    Assessment,
    EstimatorName,
    assess,
    logger_value,
    quadratic_features,
)
from rlcourse.evaluation.off_policy.concentration import Bounds, Limits, bounds
from rlcourse.evaluation.off_policy.diagnostics import Diagnostics, diagnose, tail_shape
from rlcourse.evaluation.off_policy.estimators import (
    MODEL_BASED,
    MODEL_FREE,
    RatioStatistic,
    Statistic,
    direct,
    doubly_robust,
    importance_sampling,
    marginalised,
    marginalised_doubly_robust,
    per_decision,
    weighted_doubly_robust,
    weighted_importance_sampling,
    weighted_per_decision,
)
from rlcourse.evaluation.off_policy.intervals import (
    Resampled,
    empirical_bernstein_interval,
    hoeffding_interval,
    resample,
)
from rlcourse.evaluation.off_policy.models import (
    FQEConfig,
    LinearModel,
    ModelValues,
    after_the_cut,
    fitted_q_evaluation,
    linear_model,
    linear_values,
    step_weights,
)
from rlcourse.evaluation.off_policy.propensities import estimate_propensities
from rlcourse.evaluation.off_policy.ranking import expected_regrets, rank_correlation, regret_at_k
from rlcourse.evaluation.off_policy.simulation import Dynamics, DynamicsConfig, fit_dynamics, simulated_values
from rlcourse.evaluation.off_policy.trajectories import Propensities, Trajectories
from rlcourse.evaluation.off_policy.verdict import (
    COMPARABLE,
    Basis,
    Decision,
    Demands,
    Evidence,
    OffPolicyVerdict,
    judge,
)

__all__ = [
    "BLIND",
    "COMPARABLE",
    "DESCRIPTIONS",
    "ENDLESS",
    "ESTIMATOR_NAMES",
    "FROZEN",
    "MODEL_BASED",
    "MODEL_FREE",
    "WEIGHING",
    "Assessment",
    "Basis",
    "Bounds",
    "Decision",
    "Demands",
    "Diagnostics",
    "Dynamics",
    "DynamicsConfig",
    "EstimatorName",
    "Evidence",
    "FQEConfig",
    "Limits",
    "LinearModel",
    "ModelValues",
    "OffPolicyVerdict",
    "Propensities",
    "RatioStatistic",
    "Resampled",
    "Statistic",
    "Trajectories",
    "after_the_cut",
    "assess",
    "bounds",
    "diagnose",
    "direct",
    "doubly_robust",
    "empirical_bernstein_interval",
    "estimate_propensities",
    "expected_regrets",
    "fit_dynamics",
    "fitted_q_evaluation",
    "hoeffding_interval",
    "importance_sampling",
    "judge",
    "linear_model",
    "linear_values",
    "logger_value",
    "marginalised",
    "marginalised_doubly_robust",
    "per_decision",
    "quadratic_features",
    "rank_correlation",
    "regret_at_k",
    "resample",
    "simulated_values",
    "step_weights",
    "tail_shape",
    "weighted_doubly_robust",
    "weighted_importance_sampling",
    "weighted_per_decision",
]
