"""Sums of rewards over time, and the discounts that say where a sum may look ahead."""

from __future__ import annotations

import torch
from torch import Tensor

from rlcourse.errors import ConfigError


def discounts(terminated: Tensor, gamma: float) -> Tensor:
    r"""The discount of each step: :math:`d_t = \gamma\,(1 - \mathrm{terminated}_t)`.

    A time limit (``truncated``) does not appear: the episode was cut off while the task went on, so the value of
    what follows still counts. White (2017), "Unifying task specification in reinforcement learning".

    Args:
        terminated: bool, any shape; true where the *task* ended.
        gamma: in [0, 1].

    Returns:
        float tensor of the same shape.

    Worked number: gamma 0.9 and terminated (no, no, yes) give (0.9, 0.9, 0).
    """
    if not 0.0 <= gamma <= 1.0:
        raise ConfigError(f"gamma is {gamma}.", mend="A discount lies between 0 and 1.")
    return gamma * (~terminated).float()


def discounted_returns(reward: Tensor, discount: Tensor, bootstrap: Tensor) -> Tensor:
    r"""What each step led to: :math:`G_t = r_t + d_t\,G_{t+1}`, with :math:`G_T` given.

    Sutton and Barto (2018), equation 3.9, with the discount moved into the data.

    Args:
        reward: ``(T,)`` or ``(T, N)``; time comes first.
        discount: the same shape.
        bootstrap: ``()`` or ``(N,)``, the value of the observation after the last step. Zero if the task ended
            there (the last discount is then 0 and it does not matter).

    Returns:
        the same shape as ``reward``.

    Worked number: rewards (1, 1, 1), discounts (0.5, 0.5, 0.5), bootstrap 8 give (2.75, 3.5, 5).
    """
    returns = reward.clone()
    following = bootstrap
    for t in range(reward.shape[0] - 1, -1, -1):
        following = reward[t] + discount[t] * following
        returns[t] = following
    return returns


def n_step_rewards(reward: Tensor, discount: Tensor, last: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Fold ``n`` steps into one, without ever looking past the end of an episode.

    .. math:: R_t = \sum_{k=0}^{m-1} \Big(\prod_{j<k} d_{t+j}\Big) r_{t+k}, \qquad
              D_t = \prod_{k<m} d_{t+k}

    where :math:`m \le n` is the number of steps left before the episode's last one, included.
    Sutton and Barto (2018), equation 7.1.

    Args:
        reward: ``(T,)`` rewards of episodes laid end to end.
        discount: ``(T,)`` discounts.
        last: ``(T,)`` bool, true on the last step of each episode, *however* it ended.
        n: how many steps to fold, at least 1.

    Returns:
        ``(T,)`` folded rewards, ``(T,)`` folded discounts, ``(T,)`` int64 index of the last step folded in (the
        observation after it is the one to bootstrap from).

    Worked number: one episode with rewards (1, 2, 4), discounts (0.5, 0.5, 0) and n = 2 gives rewards (2, 4, 4),
    discounts (0.25, 0, 0) and indices (1, 2, 2).
    """
    if n < 1:
        raise ConfigError(f"n is {n}.", mend="Fold at least 1 step.")
    steps = reward.shape[0]
    index = torch.arange(steps, device=reward.device)
    total, product = reward.clone(), discount.clone()
    going = ~last
    for _ in range(n - 1):
        # A step that is not its episode's last has a successor in the same episode, so index + 1 is in range.
        following = (index + 1).clamp(max=steps - 1)
        total = total + going * product * reward[following]
        product = product * discount[following].where(going, 1.0)
        index = following.where(going, index)
        going = going & ~last[index]
    return total, product, index


def generalised_advantages(
    reward: Tensor, value: Tensor, next_value: Tensor, discount: Tensor, continues: Tensor, lambda_: float
) -> Tensor:
    r"""How much better each action turned out than expected, over horizons blended by lambda.

    .. math:: A_t = \delta_t + \lambda\, d_t\, c_t\, A_{t+1}, \qquad \delta_t = r_t + d_t\,V(s'_t) - V(s_t)

    The discount :math:`d_t` is 0 only where the task ended; :math:`c_t` (``continues``) is 0 at every boundary, so that
    an episode that a time limit cut off still counts the value of what it was about to see, and nothing of the next
    episode. Schulman et al. (2016), equation 16, with the discount moved into the data.

    Args:
        reward: ``(T,)`` or ``(T, N)``; time comes first.
        value: the same shape, ``V(s_t)``.
        next_value: the same shape, ``V`` of what *followed* each step, also where an episode ended.
        discount: the same shape.
        continues: the same shape, 1 within an episode and 0 on its last step.
        lambda_: in [0, 1]. 0 trusts the values, 1 trusts the rewards.

    Returns:
        the same shape; no gradient is cut, callers pass values without one.

    Worked number: rewards (1, 1), values (2, 3), next values (3, 4), discounts (0.5, 0.5), continues (1, 0) and
    lambda 0.5 give deltas (0.5, 0) and advantages (0.5, 0); with a first reward of 2 and a last one of 3 they are
    (2, 2).
    """
    if not 0.0 <= lambda_ <= 1.0:
        raise ConfigError(f"lambda is {lambda_}.", mend="It lies between 0 and 1.")
    # Two tensor operations a step and no more: the rest is done for all steps at once.
    decay = (lambda_ * discount * continues).unbind(0)
    advantages = list((reward + discount * next_value - value).unbind(0))  # the deltas, to begin with
    for t in range(len(advantages) - 2, -1, -1):
        advantages[t] = torch.addcmul(advantages[t], decay[t], advantages[t + 1])
    return torch.stack(advantages)
