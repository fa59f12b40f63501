"""Estimators of a policy's value as statistics that can be resampled: give every episode a count, get a value.

Each is one of two forms. A :class:`RatioStatistic` is a sum of ratios of sums over episodes, which covers importance sampling
in all its variants; :class:`~rlcourse.evaluation.off_policy.models.LinearModel` solves a small linear system whose entries are
sums over episodes.

Where episodes were cut off there are two things to ask for. Estimators that weigh whole episodes, the doubly robust ones among
them, say what is earned *until the cut*, as the logger's own returns do. The others, a model or step weights, say what would be
earned if nothing cut it off. With rewards of 1, gamma 0.99 and a limit of 50 steps the first is 39.5 and the second 100.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rlcourse.evaluation.off_policy.models import ModelValues
from rlcourse.evaluation.off_policy.trajectories import Trajectories
from rlcourse.objectives.importance import (
    discount_powers,
    doubly_robust_returns,
    importance_sampled_returns,
    per_decision_returns,
)


class Statistic(Protocol):
    """A value of a policy as a function of how often each episode counts."""

    @property
    def num_episodes(self) -> int:
        """``N``."""
        ...

    def value(self, counts: Tensor) -> Tensor:
        """``(B, N)`` counts to ``(B,)`` values; NaN where the counted episodes say nothing."""
        ...


@dataclass(frozen=True)
class RatioStatistic:
    r""":math:`\sum_k \frac{\sum_i n_i\, x_{ik}}{\sum_i n_i\, y_{ik}}` with counts :math:`n_i`; a mean where :math:`y` is 1."""

    numerator: Tensor  # (N, K)
    denominator: Tensor  # (N, K)

    @property
    def num_episodes(self) -> int:
        """``N``."""
        return self.numerator.shape[0]

    def value(self, counts: Tensor) -> Tensor:
        """``(B, N)`` to ``(B,)``."""
        return (counts @ self.numerator / (counts @ self.denominator)).sum(-1)

    @classmethod
    def mean(cls, per_episode: Tensor) -> RatioStatistic:
        """The mean of ``(N,)`` numbers."""
        column = per_episode.unsqueeze(-1)
        return cls(column, torch.ones_like(column))


def importance_sampling(log: Trajectories) -> RatioStatistic:
    """The mean of whole returns weighed by whole episodes. Unbiased; useless for long episodes.

    Precup, Sutton and Singh (2000).
    """
    return RatioStatistic.mean(importance_sampled_returns(log.cumulative(), log.reward, log.mask, log.gamma))


def weighted_importance_sampling(log: Trajectories) -> RatioStatistic:
    """The weighted mean of returns: divided by the sum of the weights instead of by N.

    Biased by something that falls with N, never outside the range of the logged returns. Precup, Sutton and Singh (2000).
    """
    cumulative = log.cumulative()
    weighed = importance_sampled_returns(cumulative, log.reward, log.mask, log.gamma)
    return RatioStatistic(weighed.unsqueeze(-1), cumulative[:, -1:])


def per_decision(log: Trajectories) -> RatioStatistic:
    """Each reward weighed by what led to it. Unbiased. Precup, Sutton and Singh (2000)."""
    return RatioStatistic.mean(per_decision_returns(log.cumulative(), log.reward, log.mask, log.gamma))


def weighted_per_decision(log: Trajectories) -> RatioStatistic:
    """Each step's rewards as a weighted mean over episodes, then summed over steps.

    An episode that is over stays with the weight that it had and pays nothing. Thomas (2015), section 3.7.
    """
    cumulative = log.cumulative()
    powers = discount_powers(log.horizon, log.gamma, log.reward)
    return RatioStatistic(powers * cumulative * log.reward * log.mask, cumulative)


def direct(log: Trajectories, model: ModelValues) -> RatioStatistic:
    """What a model says of the first states. As good as the model, and no better for more episodes."""
    return RatioStatistic.mean(model.value[:, 0])


def doubly_robust(log: Trajectories, model: ModelValues) -> RatioStatistic:
    """A model, corrected by weighed surprises. Jiang and Li (2016). Nothing is added behind a cut-off end."""
    q, value = model.until_the_cut(log)
    nothing = torch.zeros_like(model.tail)
    return RatioStatistic.mean(
        doubly_robust_returns(log.cumulative(), log.reward, q, value, nothing, log.mask, log.gamma)
    )


def weighted_doubly_robust(log: Trajectories, model: ModelValues) -> RatioStatistic:
    r"""The same with the weights of each step divided by their sum over episodes. Thomas and Brunskill (2016), section 4.

    The state's value before step t carries the weight of step t - 1. Nothing is added behind a cut-off end.
    """
    q, expected = model.until_the_cut(log)
    cumulative = log.cumulative()
    before = torch.cat([torch.ones_like(cumulative[:, :1]), cumulative[:, :-1]], dim=-1)
    powers = discount_powers(log.horizon, log.gamma, log.reward)
    surprise = powers * cumulative * (log.reward - q) * log.mask
    value = powers * before * expected * log.mask
    return RatioStatistic(torch.cat([surprise, value], dim=-1), torch.cat([cumulative, before], dim=-1))


def marginalised(log: Trajectories, weights: Tensor) -> RatioStatistic:
    """Rewards weighed step by step with ``(N, T)`` weights from :func:`~rlcourse.evaluation.off_policy.models.step_weights`.

    With the features that the weights were solved for, this is the linear model's value by another road.
    """
    return RatioStatistic.mean((weights * log.reward * log.mask).sum(-1))


def marginalised_doubly_robust(log: Trajectories, weights: Tensor, model: ModelValues) -> RatioStatistic:
    r"""A model's first values, corrected by its errors of one step where the target policy would be:
    :math:`V(s_0) + \sum_t w_t\,(r_t + \gamma V(s_{t+1}) - Q(s_t, a_t))`.

    Right if either the weights or the model is; nothing in it grows with the horizon. Kallus and Uehara (2020), "Double
    reinforcement learning".
    """
    after = torch.cat([model.value[:, 1:] * log.mask[:, 1:], torch.zeros_like(model.value[:, :1])], dim=-1)
    last = (log.mask.sum(-1) - 1).long().unsqueeze(-1)
    after = after.scatter(-1, last, model.tail.unsqueeze(-1))
    error = (log.reward + log.gamma * after - model.q) * log.mask
    return RatioStatistic.mean(model.value[:, 0] + (weights * error).sum(-1))


MODEL_FREE: dict[str, Callable[[Trajectories], Statistic]] = {
    "is": importance_sampling,
    "wis": weighted_importance_sampling,
    "pdis": per_decision,
    "wpdis": weighted_per_decision,
}
"""Estimators that need weights alone."""

MODEL_BASED: dict[str, Callable[[Trajectories, ModelValues], Statistic]] = {
    "direct": direct,
    "dr": doubly_robust,
    "wdr": weighted_doubly_robust,
}
"""Estimators that need a model of the policy's values as well."""
