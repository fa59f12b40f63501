"""Equations that value functions are trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlcourse.errors import ConfigError


def bellman_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    r"""One step of reality, then an estimate: :math:`y = r + d\,V(s')`. Carries no gradient.

    Args:
        reward: ``(B,)``.
        discount: ``(B,)``, already 0 where the task ended.
        next_value: ``(B,)``.

    Returns:
        ``(B,)``.

    Worked number: reward 1, discount 0.9, next value 10 give 10.
    """
    return (reward + discount * next_value).detach()


def double_q_value(online_q: Tensor, target_q: Tensor) -> Tensor:
    r"""Let one network choose the action and another judge it: :math:`Q'(s', \arg\max_a Q(s', a))`.

    Taking the maximum of noisy estimates picks the luckiest one; asking a second network for the price of that
    choice removes most of the luck. van Hasselt, Guez and Silver (2016), equation 4.

    Args:
        online_q: ``(B, A)`` from the network being trained.
        target_q: ``(B, A)`` from the target network.

    Returns:
        ``(B,)``.

    Worked number: online (1, 3), target (5, 2) give 2; the plain maximum would give 5.
    """
    return target_q.gather(-1, online_q.argmax(-1, keepdim=True)).squeeze(-1)


def taken(q: Tensor, action: Tensor) -> Tensor:
    """The value of the action that was taken, out of those of all actions.

    Args:
        q: ``(..., B, A)``.
        action: ``(B,)`` int64.

    Returns:
        ``(..., B)``.

    Worked number: q (1, 3), action 1 give 3.
    """
    return q.gather(-1, action.unsqueeze(-1).expand(*q.shape[:-1], 1)).squeeze(-1)


def half_squared_error(value: Tensor, target: Tensor) -> Tensor:
    r"""Half the squared error of an estimate, :math:`\tfrac12 (Q(s, a) - y)^2`; its slope is the error itself.

    Args:
        value: ``(..., B)``.
        target: ``(B,)``.

    Returns:
        ``(..., B)``.

    Worked number: value 3, target 5 give 2.
    """
    return 0.5 * (value - target).square()


def squared_td_error(q: Tensor, action: Tensor, target: Tensor) -> Tensor:
    r"""Half the squared temporal-difference error, :math:`\tfrac12 (Q(s, a) - y)^2`.

    Args:
        q: ``(B, A)`` values of all actions.
        action: ``(B,)`` int64, the action that was taken.
        target: ``(B,)``.

    Returns:
        ``(B,)``.

    Worked number: q (1, 3), action 1, target 5 give 2.
    """
    return half_squared_error(taken(q, action), target)


def conservative_penalty(q: Tensor, action: Tensor) -> Tensor:
    r"""How far the actions nobody took stand above the one that was taken.

    .. math:: \log \sum_a \exp Q(s, a) \;-\; Q(s, a_{\mathrm{data}})

    Never negative; small when the data's action stands clear above the rest. Kumar et al. (2020), equation 4,
    the CQL(H) form for discrete actions.

    Args:
        q: ``(B, A)``.
        action: ``(B,)`` int64.

    Returns:
        ``(B,)``.

    Worked number: q (0, ln 3), action 1 give ln 4 - ln 3 = 0.2877; action 0 gives ln 4 = 1.3863.
    """
    return torch.logsumexp(q, dim=-1) - q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def sampled_log_sum_exp(q: Tensor, log_density: Tensor) -> Tensor:
    r"""The soft maximum over actions that cannot be listed, from some that were drawn.

    .. math:: \log \int \exp Q(s, a)\, da \;\approx\; \log \frac1M \sum_{m=1}^M \frac{\exp Q(s, a_m)}{\mu(a_m \mid s)},
              \qquad a_m \sim \mu

    Each sample counts more the less likely it was to be drawn. The mean inside the logarithm is unbiased; its logarithm
    is a little too small. Samples may come from several distributions, each with its own density and equally many from
    each. Kumar et al. (2020), appendix F, without the :math:`\log M` that they leave out.

    Args:
        q: ``(..., M)`` values of the sampled actions.
        log_density: ``(..., M)`` of those actions under what drew them.

    Returns:
        ``(...)``.

    Worked number: two draws, values (0, ln 3), both of density 1/2, give ln 4 = 1.3863.
    """
    return torch.logsumexp(q - log_density, dim=-1) - math.log(q.shape[-1])


def soft_maximum_draws(q: Tensor, log_density: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
    r"""A few of the sampled actions to carry the gradient of their soft maximum, in place of all.

    .. math:: \nabla \log \sum_m \frac{e^{Q_i(a_m)}}{\mu(a_m)} = \sum_m p_i(m)\, \nabla Q_i(a_m)
              = \mathbb E_{m \sim \bar p}\Big[\frac{p_i(m)}{\bar p(m)}\, \nabla Q_i(a_m)\Big],
              \qquad p_i(m) \propto \frac{e^{Q_i(a_m)}}{\mu(a_m)}

    The gradient is a weighted mean, so a sample of it is unbiased, and needs a backward pass for the drawn actions alone.
    All critics share the draws: they come from the mean :math:`\bar p` of the critics' weights, and importance weights
    make up for it. Draws are systematic (one number moves an even comb), which spreads them out.

    Args:
        q: ``(C, ..., M)`` values of the sampled actions, one row for each of C critics.
        log_density: ``(..., M)`` of those actions under what drew them.
        even: ``(J, ...)`` drawn evenly from [0, 1).

    Returns:
        which of the M actions, ``(J, ...)`` int64; and their importance weights, ``(C, J, ...)``. The mean over J of weight
        times value has the gradient above as its expectation.

    Worked number: one critic, values (0, ln 3), equal densities: the weights are 1/4 and 3/4. 0.2 draws the first action
    and 0.3 the second, each with importance weight 1.
    """
    shares = torch.softmax(q - log_density, dim=-1)
    mixture = shares.mean(0)
    teeth = torch.arange(len(even), device=even.device).view(-1, *[1] * (even.ndim - 1))
    places = ((teeth + even) / len(even)).movedim(0, -1).contiguous()  # (..., J)
    # Rounding may leave the last sum a little below 1.
    index = torch.searchsorted(mixture.cumsum(-1), places, right=True).clamp(max=q.shape[-1] - 1)
    drawn = shares.gather(-1, index.expand(len(q), *index.shape))
    weight = drawn / mixture.gather(-1, index).clamp_min(torch.finfo(q.dtype).tiny)
    return index.movedim(-1, 0), weight.movedim(-1, 1)


def expectile_loss(error: Tensor, tau: float) -> Tensor:
    r"""A square that leans: :math:`|\tau - \mathbb 1(u < 0)|\, u^2` with :math:`u = Q - V`.

    With tau above one half, falling *short* of Q (u > 0) costs more than overshooting it, so V settles on an upper
    expectile: of rewards uniform on (0, 1), tau 0.7 settles on 0.604, not on 0.396.
    Kostrikov, Nair and Levine (2021), equation 5; Newey and Powell (1987).

    Args:
        error: any shape, **Q minus V** in this order; swapping them finds the lower expectile.
        tau: in (0, 1). 0.5 is half the squared error, towards 1 is the maximum over the data's actions.

    Returns:
        the same shape.

    Worked number: tau 0.7 and errors (2, -2) give (2.8, 1.2).
    """
    if not 0.0 < tau < 1.0:
        raise ConfigError(f"tau is {tau}.", mend="An expectile lies strictly between 0 and 1.")
    weight = torch.where(error < 0, 1.0 - tau, tau)
    return weight * error.square()
