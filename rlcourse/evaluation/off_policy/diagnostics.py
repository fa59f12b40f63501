"""What to look at before believing an off-policy estimate: how few episodes carry it, and what the log never tried."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from rlcourse.errors import DatasetInvalidError
from rlcourse.evaluation.off_policy.trajectories import Propensities, Trajectories
from rlcourse.objectives.importance import effective_sample_size, step_ratios

FEWEST_FOR_A_TAIL = 25
"""Weights below which the tail's shape is not estimated: with a handful of points it can be anything."""


@dataclass(frozen=True)
class Diagnostics:
    """How well a log covers what a target policy would do."""

    episodes: int
    horizon: int
    effective_sample_size: float
    """Of the weights of whole episodes; 0 where all are 0."""
    largest_share: float
    """Of all weight, how much one episode carries."""
    zero_share: float
    """Of the episodes, how many have weight 0: the target policy would never have done that."""
    weight_quantiles: tuple[float, float, float, float]
    """The weights' median, 90 %, 99 % and largest."""
    mean_weight: float
    """1 on average if the propensities are right and every action of the target policy was possible."""
    mean_weight_error: float
    """Its standard error; infinite with a single episode."""
    mean_ratio: float | None
    """The mean of the ratios of single steps, 1 on average for the same reason. Where the log could not hold what the target
    policy would do, it is 1 less the probability of that, at the states of the log. None where there are no ratios."""
    mean_ratio_error: float | None
    """Its standard error, over episodes."""
    tail_shape: float | None
    """k of a Pareto tail (Vehtari et al. 2024). Above 0.5 the weights have no variance, above 0.7 the estimate is not to be
    trusted; None where there are too few weights to say."""
    unlogged_mass: float | None
    """Probability that the target policy puts on actions that appear nowhere in the log; None without actions."""
    negative_share: float | None
    """Of the step weights, how much of their size is negative, which no ratio is: the features cannot say where the target
    policy would be. None where step weights were not asked for."""
    propensities: Propensities
    """``estimated`` ones add a bias that no interval here knows of."""
    beyond: float = 0.0
    """Of all discounted time, how much lies behind the ends of episodes that were cut off: the mean of gamma to the power of
    their lengths, 0 for those that the task ended."""


def diagnose(log: Trajectories, step_weights: Tensor | None = None) -> Diagnostics:
    """Look at the weights of whole episodes, and at ``(N, T)`` step weights where there are some."""
    weights, known = _weights(log)
    total = float(weights.sum())
    unlogged = None
    if log.action is not None and log.all_target is not None:
        there = log.mask > 0
        tried = torch.zeros(log.all_target.shape[-1], dtype=torch.bool)
        tried[log.action[there].unique()] = True
        unlogged = float(log.all_target[:, :-1][there][:, ~tried].sum(-1).mean())
    ratio, ratio_error = _mean_ratio(log) if log.weighable and log.propensities != "unknown" else (None, None)
    quantiles = torch.quantile(weights, torch.tensor([0.5, 0.9, 0.99, 1.0], dtype=torch.float64)).tolist()
    return Diagnostics(
        episodes=log.num_episodes,
        horizon=log.horizon,
        effective_sample_size=float(effective_sample_size(weights / weights.max())) if total > 0 else 0.0,
        largest_share=float(weights.max()) / total if total > 0 else 0.0,
        zero_share=float((weights == 0).double().mean()),
        weight_quantiles=(quantiles[0], quantiles[1], quantiles[2], quantiles[3]),
        mean_weight=float(weights.mean()),
        mean_weight_error=_error(weights),
        mean_ratio=ratio,
        mean_ratio_error=ratio_error,
        tail_shape=tail_shape(weights.numpy()) if known else None,
        unlogged_mass=unlogged,
        negative_share=None if step_weights is None else _negative_share(step_weights),
        propensities=log.propensities,
        beyond=_beyond(log),
    )


def _weights(log: Trajectories) -> tuple[Tensor, bool]:
    # Where there are none (no density, no propensities, no number large enough), each logged episode has the weight 0.
    try:
        return log.cumulative()[:, -1], True
    except DatasetInvalidError:
        return torch.zeros(log.num_episodes, dtype=torch.float64), False


def _beyond(log: Trajectories) -> float:
    if log.terminated is None:
        return 0.0
    return float((log.gamma ** log.mask.sum(-1) * (~log.terminated).double()).mean())


def _mean_ratio(log: Trajectories) -> tuple[float, float]:
    lengths = log.mask.sum(-1)
    summed = (step_ratios(log.target, log.behaviour, log.mask) * log.mask).sum(-1)
    mean = float(summed.sum() / lengths.sum())
    return mean, _error(summed - mean * lengths) / float(lengths.mean())


def _error(values: Tensor) -> float:
    if len(values) < 2:
        return math.inf
    largest = float(values.abs().max()) or 1.0  # products of many ratios are too large to be squared
    return largest * float((values / largest).std()) / math.sqrt(len(values))


def _negative_share(weights: Tensor) -> float:
    size = float(weights.abs().sum())
    return float(weights.clamp(max=0.0).abs().sum()) / size if size > 0.0 else 0.0


def tail_shape(weights: npt.NDArray[np.float64]) -> float | None:
    r"""The shape k of a generalised Pareto distribution fitted to the largest :math:`\min(N/5, 3\sqrt N)` weights.

    The weights have moments up to 1/k. Vehtari, Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance sampling";
    fitted by maximum likelihood here.
    """
    if len(weights) < FEWEST_FOR_A_TAIL:
        return None
    size = int(min(len(weights) / 5, 3 * np.sqrt(len(weights))))
    ordered = np.sort(weights)
    excess = ordered[-size:] - ordered[-size - 1]
    if float(np.ptp(ordered[-size - 1 :])) <= 1e-12 * float(ordered[-1]):
        return 0.0  # no tail at all: the largest weights are equal
    scale = float(excess.mean())
    shape, _, _ = stats.genpareto.fit(excess / scale, floc=0.0)
    return float(shape)
