r"""Equations that judge one policy by what another did.

A log was written by a *behaviour* policy :math:`\pi_b`, the question is about a *target* policy :math:`\pi`. Each step
has a ratio :math:`\pi(a_t|s_t) / \pi_b(a_t|s_t)`; their product up to :math:`t` is :math:`\rho_t`. Episodes are rows of
``(N, T)`` tensors. Where an episode is over, ``mask`` is 0, the reward counts for nothing and the ratio is 1, so that the
product stays what it was.
"""

from __future__ import annotations

import torch
from torch import Tensor


def step_ratios(target: Tensor, behaviour: Tensor, mask: Tensor) -> Tensor:
    r"""How much likelier the target policy was to do what was done: :math:`\pi(a_t|s_t) / \pi_b(a_t|s_t)`.

    Args:
        target: ``(N, T)`` probabilities or densities of the logged actions under the target policy.
        behaviour: ``(N, T)`` the same under the policy that acted; above 0 where ``mask`` is 1.
        mask: ``(N, T)`` 1 where there was a step, 0 after an episode's end.

    Returns:
        ``(N, T)``; 1 where ``mask`` is 0.

    Worked number: target 0.9 and behaviour 0.6 give 1.5.
    """
    there = mask > 0
    return torch.where(there, target, 1.0) / torch.where(there, behaviour, 1.0)


def cumulative_ratios(ratios: Tensor) -> Tensor:
    r"""How much likelier everything up to and with step t was: :math:`\rho_t = \prod_{k \le t} \pi(a_k|s_k) / \pi_b(a_k|s_k)`.

    Args:
        ratios: ``(N, T)`` from :func:`step_ratios`.

    Returns:
        ``(N, T)``. The last column weighs whole episodes.

    Worked number: the ratios (2, 0.5, 3) give (2, 1, 3). Clipped at 1 first they give (1, 0.5, 0.5), which are not the
    clipped products.
    """
    return ratios.cumprod(-1)


def discount_powers(steps: int, gamma: float, like: Tensor) -> Tensor:
    """``(T,)``: 1, gamma, gamma squared and so on, with the dtype and device of ``like``."""
    return gamma ** torch.arange(steps, dtype=like.dtype, device=like.device)


def discounted_returns(reward: Tensor, mask: Tensor, gamma: float) -> Tensor:
    r"""What each episode paid: :math:`G_i = \sum_t \gamma^t r_t`.

    Args:
        reward: ``(N, T)``.
        mask: ``(N, T)``.
        gamma: in (0, 1].

    Returns:
        ``(N,)``.

    Worked number: the rewards (1, 2) with gamma 0.5 give 2.
    """
    return (reward * mask) @ discount_powers(reward.shape[-1], gamma, reward)


def importance_sampled_returns(cumulative: Tensor, reward: Tensor, mask: Tensor, gamma: float) -> Tensor:
    r"""Whole returns, weighed by whole episodes: :math:`\rho_{T-1} G`. Their mean is unbiased.

    Precup, Sutton and Singh (2000), section 2.

    Args:
        cumulative: ``(N, T)`` from :func:`cumulative_ratios`.
        reward: ``(N, T)``.
        mask: ``(N, T)``.
        gamma: in (0, 1].

    Returns:
        ``(N,)``.

    Worked number: rewards (1, 2), gamma 0.5 and cumulative ratios (2, 3) give 3 * 2 = 6.
    """
    return cumulative[:, -1] * discounted_returns(reward, mask, gamma)


def per_decision_returns(cumulative: Tensor, reward: Tensor, mask: Tensor, gamma: float) -> Tensor:
    r"""Each reward weighed only by what led to it: :math:`\sum_t \gamma^t \rho_t r_t`. Unbiased, and calmer.

    Precup, Sutton and Singh (2000), section 3: a reward does not depend on what was done after it.

    Args:
        cumulative: ``(N, T)``.
        reward: ``(N, T)``.
        mask: ``(N, T)``.
        gamma: in (0, 1].

    Returns:
        ``(N,)``.

    Worked number: rewards (1, 2), gamma 0.5 and cumulative ratios (2, 3) give 2 + 0.5 * 3 * 2 = 5.
    """
    return discounted_returns(cumulative * reward, mask, gamma)


def doubly_robust_returns(
    cumulative: Tensor, reward: Tensor, q: Tensor, value: Tensor, tail: Tensor, mask: Tensor, gamma: float
) -> Tensor:
    r"""A model's value, corrected by what it got wrong:
    :math:`\sum_t \gamma^t \big[\rho_{t-1} V(s_t) + \rho_t (r_t - Q(s_t, a_t))\big]`, with :math:`\rho_{-1} = 1`.

    Unbiased whatever the model says, as long as the model was not fitted to the same episodes; the better the model, the
    less is left for the weights to multiply. Jiang and Li (2016), equation 10, unrolled.

    Args:
        cumulative: ``(N, T)``.
        reward: ``(N, T)``.
        q: ``(N, T)`` the model's value of the logged action.
        value: ``(N, T)`` the model's value of the state, over the *target* policy's actions.
        tail: ``(N,)`` the model's value of where an episode was cut off; 0 where the task ended.
        mask: ``(N, T)``.
        gamma: in (0, 1].

    Returns:
        ``(N,)``.

    Worked number: one step, ratio 2, reward 1, q 0.5, value 0.75, no tail: 0.75 + 2 * (1 - 0.5) = 1.75.
    """
    before = torch.cat([torch.ones_like(cumulative[:, :1]), cumulative[:, :-1]], dim=-1)
    steps = before * value + cumulative * (reward - q)
    lengths = mask.sum(-1)
    return discounted_returns(steps, mask, gamma) + gamma**lengths * cumulative[:, -1] * tail


def effective_sample_size(weights: Tensor) -> Tensor:
    r"""How many equally weighted samples would be as good: :math:`(\sum_i w_i)^2 / \sum_i w_i^2`.

    Kish (1965). ``N`` equal weights give ``N``, one that outweighs all others gives 1.

    Args:
        weights: ``(..., N)``, none below 0 and not all 0.

    Returns:
        ``(...)``.

    Worked number: the weights (1, 1, 2) give 16 / 6 = 2.67.
    """
    return weights.sum(-1).square() / weights.square().sum(-1)
