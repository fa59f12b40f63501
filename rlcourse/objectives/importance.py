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

    Where episodes were cut off, that holds of what is earned until then, with a tail of 0. With the model's values in the tail
    it is an estimate of what would be earned if nothing cut it off, and its last term is as good as the model.

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


def weighted_mean(weights: Tensor, values: Tensor) -> Tensor:
    r"""A mean in which some count more: :math:`\sum_i w_i x_i / \sum_i w_i`.

    Self-normalised importance sampling: divided by the sum of the weights and not by N, so that the answer stays within the
    range of the values. Precup, Sutton and Singh (2000); Swaminathan and Joachims (2015).

    Args:
        weights: ``(..., N)``, none below 0 and not all 0.
        values: ``(..., N)``.

    Returns:
        ``(...)``.

    Worked number: weights (3, 1) of the values (1, 5) give 8 / 4 = 2.
    """
    return (weights * values).sum(-1) / weights.sum(-1)


def clipped_cumulative_ratios(ratios: Tensor, cap: float) -> Tensor:
    r"""Products of ratios, none above ``cap``: :math:`\min(\rho_t, c)`.

    Capping trades variance for bias: a weight that should be 1,000 counts as c. It is the product that is capped at each
    decision. Capped ratios multiplied are something else: an early factor of 10 that a later one of 0.1 takes back would leave
    0.1 c behind. Ionides (2008), "Truncated importance sampling".

    Args:
        ratios: ``(N, T)`` from :func:`step_ratios`.
        cap: c, above 0.

    Returns:
        ``(N, T)``.

    Worked number: the ratios (4, 0.25, 3) with cap 2 give (2, 1, 2); capped before they are multiplied, (2, 0.5, 1).
    """
    return ratios.cumprod(-1).clamp(max=cap)


def taken_and_expected(q: Tensor, probabilities: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    r"""What a model says of the action that was logged, and of what the target policy would do there:
    :math:`Q(s, a)` and :math:`V(s) = \sum_{a'} \pi(a'|s)\,Q(s, a')`.

    Fitted Q evaluation moves the first towards :math:`r + \gamma V(s')`. With the logged next action in place of the sum it
    would evaluate the logger. Le, Voloshin and Yue (2019).

    Args:
        q: ``(..., A)``.
        probabilities: ``(..., A)`` of the target policy.
        action: ``(...)`` int64, what was logged.

    Returns:
        Two tensors ``(...)``.

    Worked number: q (1, 5), probabilities (0.25, 0.75) and logged action 0 give 1 and 4.
    """
    taken = q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    expected = (probabilities * q).sum(-1)
    return taken, expected


def resampled_means(reward: Tensor, drawn: Tensor) -> Tensor:
    r"""What the mean return would have been, had other episodes come up.

    The bootstrap draws whole episodes. The steps of one belong together: drawn one by one they would look like N times T
    independent observations, and the interval would come out far too narrow. Efron (1979).

    Args:
        reward: ``(N, T)``, 0 after an episode's end.
        drawn: ``(B, N)`` int64, which N episodes came up in each of B draws.

    Returns:
        ``(B,)``.

    Worked number: episodes that paid (1, 1) and (3, 1); drawn (0, 0) and (0, 1): the means are 2 and 3.
    """
    returns = reward.sum(-1)
    return returns[drawn].mean(-1)


def probability_worse(candidate: Tensor, logger: Tensor) -> Tensor:
    r"""Share of the resamples in which a candidate earns less than the logger, ties counting half.

    Both on the same draws of the same episodes: luck that both share does not count against either.

    Args:
        candidate: ``(B,)`` estimates of the candidate.
        logger: ``(B,)`` mean returns of the logger in the same resamples.

    Returns:
        ``()``, from 0 to 1.

    Worked number: (3, 1, 2, 2) against (2, 2, 2, 1): one loss, one tie in four, so 0.375.
    """
    lost, tied = candidate < logger, candidate == logger
    return lost.to(candidate.dtype).mean() + 0.5 * tied.to(candidate.dtype).mean()
