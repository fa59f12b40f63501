"""Several estimators on one log of one policy, with intervals from the same draws of episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.evaluation.off_policy.concentration import Bounds, Limits, bounds
from rlcourse.evaluation.off_policy.diagnostics import Diagnostics, diagnose
from rlcourse.evaluation.off_policy.estimators import (
    MODEL_FREE,
    RatioStatistic,
    Statistic,
    direct,
    doubly_robust,
    marginalised_doubly_robust,
    weighted_doubly_robust,
)
from rlcourse.evaluation.off_policy.intervals import Resampled, resample
from rlcourse.evaluation.off_policy.models import (
    FQEConfig,
    LinearModel,
    ModelValues,
    after_the_cut,
    fitted_q_evaluation,
    linear_model,
    step_weights,
)
from rlcourse.evaluation.off_policy.simulation import fit_dynamics, simulated_values
from rlcourse.evaluation.off_policy.trajectories import Trajectories
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import Policy

EstimatorName = Literal["is", "wis", "pdis", "wpdis", "fqe", "linear", "task", "mis", "dr", "wdr", "mdr"]
ESTIMATOR_NAMES: tuple[EstimatorName, ...] = get_args(EstimatorName)
DESCRIPTIONS: dict[EstimatorName, str] = {
    "is": "importance sampling",
    "wis": "weighted importance sampling",
    "pdis": "per-decision importance sampling",
    "wpdis": "weighted per-decision importance sampling",
    "fqe": "fitted Q evaluation, a network",
    "linear": "the direct method, a linear model",
    "task": "a model of the task, lived in",
    "mis": "marginalised ratios",
    "dr": "doubly robust",
    "wdr": "weighted doubly robust",
    "mdr": "marginalised doubly robust",
}
WEIGHING: frozenset[EstimatorName] = frozenset({"is", "wis", "pdis", "wpdis", "dr", "wdr"})
"""Those that multiply ratios over an episode: their weights have to be looked at."""
BLIND: frozenset[EstimatorName] = frozenset({"fqe", "linear", "task", "mis"})
"""Those that are a model and nothing else: no interval knows how wrong its form is, so no decision may rest on them."""
ENDLESS: frozenset[EstimatorName] = frozenset({"fqe", "linear", "mis", "mdr"})
"""Those that say what would be earned if nothing cut episodes off; the others say what is earned until then."""
FROZEN: frozenset[EstimatorName] = frozenset({"fqe", "task", "dr", "wdr", "mdr"})
"""Those that rest on a network, which is fitted once and not for each resample: their intervals are *given this fit*. Weights
correct a fit that happens to be poor, so that those of ``dr`` and ``wdr`` still cover; that of ``fqe`` is far too narrow."""


@dataclass(frozen=True)
class Assessment:
    """What a log says about one policy."""

    values: dict[EstimatorName, Resampled]
    diagnostics: Diagnostics
    bounds: dict[EstimatorName, Bounds]
    """Of each estimator: bounds that hold for any distribution, or why there are none."""
    silent: dict[EstimatorName, DatasetInvalidError] = field(default_factory=dict)
    """Estimators to which the log has no answer, and why; they are in neither of the others."""


def assess(
    log: Trajectories,
    estimators: Sequence[EstimatorName],
    *,
    seeds: Seeds,
    features: Tensor | None = None,
    fqe: FQEConfig | None = None,
    confidence: float = 0.95,
    resamples: int = 1_000,
    limits: Limits | None = None,
    policy: Policy | None = None,
) -> Assessment:
    """Estimate and resample; what several estimators need (a model, step weights) is fitted once.

    A linear model is solved anew for each resample, and so are the step weights of ``mis``; a network is not
    (:data:`FROZEN`).

    Args:
        log: with observations where a model is asked for.
        estimators: names from :data:`ESTIMATOR_NAMES`.
        seeds: the bootstrap draws from ``"bootstrap"``, the same for every estimator and every policy; models from a child.
        features: ``(N, T + 1, F)`` for linear models and step weights; by default :func:`quadratic_features`.
        fqe: settings of fitted Q evaluation.
        confidence: of the intervals.
        resamples: B.
        limits: what is known of rewards and ratios beforehand, for bounds that hold for any distribution.
        policy: the one in question, for ``task``, in which it lives.

    Raises:
        ConfigError: an unknown name, ``task`` without a policy, or a log that goes beyond the limits.
        DatasetInvalidError: the log has no answer to any of them.
    """
    unknown = [name for name in estimators if name not in ESTIMATOR_NAMES]
    if unknown or not estimators:
        raise ConfigError(
            f"There is no estimator called {unknown[0]!r}." if unknown else "No estimator was named.",
            mend=f"Use some of {', '.join(ESTIMATOR_NAMES)}.",
        )
    if "task" in estimators and policy is None:
        raise ConfigError("Somebody has to live in the model of the task.", mend="Give assess() the policy as well.")
    parts = _Parts(log, seeds, features, fqe)
    makers: dict[EstimatorName, Callable[[], Statistic]] = {
        "fqe": lambda: direct(log, parts.model),
        "linear": lambda: parts.linear,
        "task": lambda: parts.lived_in(policy),
        # Weights alpha with A' alpha = start, or values theta with A theta = b: start' A^-1 b either way, in every resample.
        "mis": lambda: parts.linear,
        "dr": lambda: doubly_robust(log, parts.model),
        "wdr": lambda: weighted_doubly_robust(log, parts.model),
        "mdr": lambda: marginalised_doubly_robust(log, parts.weights, parts.model),
    }
    values: dict[EstimatorName, Resampled] = {}
    bounded: dict[EstimatorName, Bounds] = {}
    folds = (fqe or FQEConfig()).folds
    silent: dict[EstimatorName, DatasetInvalidError] = {}
    for name in estimators:
        try:
            statistic = makers[name]() if name in makers else MODEL_FREE[name](log)
            values[name] = resample(statistic, rng=seeds.numpy("bootstrap"), confidence=confidence, resamples=resamples)
        except DatasetInvalidError as error:
            silent[name] = error
        else:
            bounded[name] = bounds(name, log, statistic, limits, folds=folds, confidence=confidence)
    if not values:
        raise silent[estimators[0]]
    weights = parts.weights if {"mis", "mdr"} & set(values) else None
    return Assessment(values, diagnose(log, weights), bounded, silent)


def logger_value(
    log: Trajectories,
    *,
    seeds: Seeds,
    endless: bool = False,
    features: Tensor | None = None,
    confidence: float = 0.95,
    resamples: int = 1_000,
) -> Resampled:
    """What the policy that acted is worth: the mean of its own returns, resampled by the same draws as :func:`assess`.

    Args:
        log: of any policy in question; what it would do does not matter here.
        seeds: the same as for :func:`assess`.
        endless: count what would have been earned if nothing had cut episodes off, as :data:`ENDLESS` estimators do; a linear
            model says how much that is (:func:`~rlcourse.evaluation.off_policy.models.after_the_cut`).
        features: of that model; by default :func:`quadratic_features`.
        confidence: of the interval.
        resamples: B.
    """
    returns = log.returns()
    if endless:
        returns = returns + after_the_cut(log, quadratic_features(log) if features is None else features, ridge=RIDGE)
    found = resample(
        RatioStatistic.mean(returns), rng=seeds.numpy("bootstrap"), confidence=confidence, resamples=resamples
    )
    return replace(found, endless=endless)


RIDGE = 1e-3
"""Keeps systems solvable in which a feature hardly varies; small beside sums over a log."""


def quadratic_features(log: Trajectories) -> Tensor:
    """``(N, T + 1, F)``: 1, the standardised observation, and all products of two of its entries."""
    if log.obs is None:
        raise ConfigError("The log has no observations.", mend="Make it with Trajectories.from_episodes.")
    there = torch.cat([torch.ones_like(log.mask[:, :1]), log.mask], dim=-1) > 0
    rows = log.obs[there].double()
    scaled = (log.obs.double() - rows.mean(0)) / rows.std(0).clamp_min(1e-6)
    first, second = torch.triu_indices(scaled.shape[-1], scaled.shape[-1])
    return torch.cat([torch.ones_like(scaled[..., :1]), scaled, scaled[..., first] * scaled[..., second]], dim=-1)


@dataclass(frozen=True)
class _Parts:
    """What is fitted at most once."""

    log: Trajectories
    seeds: Seeds
    given: Tensor | None
    fqe: FQEConfig | None

    @cached_property
    def features(self) -> Tensor:
        return quadratic_features(self.log) if self.given is None else self.given

    @cached_property
    def model(self) -> ModelValues:
        return fitted_q_evaluation(self.log, self.fqe, seeds=self.seeds.child("fqe"))

    def lived_in(self, policy: Policy | None) -> RatioStatistic:
        assert policy is not None  # assess() asks for it
        seeds = self.seeds.child("task")
        dynamics = fit_dynamics(self.log, seeds=seeds)
        return RatioStatistic.mean(simulated_values(dynamics, policy, self.log, seeds=seeds))

    @cached_property
    def linear(self) -> LinearModel:
        return linear_model(self.log, self.features, ridge=RIDGE)

    @cached_property
    def weights(self) -> Tensor:
        return step_weights(self.log, self.features, ridge=RIDGE)
