"""Answers to the exercises of chapter 5: implicit Q-learning."""

from __future__ import annotations

from torch import Tensor

from rlcourse.objectives.policies import advantage_weights
from rlcourse.objectives.values import expectile_loss

hunt_expectile_loss = expectile_loss
hunt_advantage_weights = advantage_weights


def implicit_policy_loss(logits: Tensor, action: Tensor, advantage: Tensor, inverse_temperature: float) -> Tensor:
    r"""Clone the log, the good parts of it louder: :math:`-\min(e^{\beta A}, 100)\,\log \pi(a \mid s)`.

    The gradient reaches the policy alone, never Q and V behind the advantage. Kostrikov, Nair and Levine (2021),
    equation 7.

    Args:
        logits: ``(B, A)``, unnormalised log-probabilities.
        action: ``(B,)`` int64.
        advantage: ``(B,)``, ``Q(s, a) - V(s)``.
        inverse_temperature: beta; it multiplies the advantage.

    Returns:
        ``(B,)``.

    Worked number: logits (0, ln 3), action 0, advantage ln 2, beta 2 give 4 ln 4 = 5.5452; an advantage of 9 gives
    100 ln 4.
    """
    log_probability = logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)  # (B,)
    weight = (inverse_temperature * advantage.detach()).exp().clamp(max=100.0)
    return -weight * log_probability


EXERCISES = (
    expectile_loss.__name__,
    advantage_weights.__name__,
    implicit_policy_loss.__name__,
    "hunt_expectile_loss",
    "hunt_advantage_weights",
)
