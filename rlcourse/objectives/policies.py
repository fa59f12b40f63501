"""Equations that policies are trained on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rlcourse.errors import ConfigError


def negative_log_likelihood(logits: Tensor, action: Tensor) -> Tensor:
    r"""How surprised the policy is by the data's action: :math:`-\log \pi(a \mid s)`, in nats.

    Minimising its mean over a data set is behavioural cloning. Pomerleau (1991).

    Args:
        logits: ``(B, A)``, unnormalised log-probabilities.
        action: ``(B,)`` int64.

    Returns:
        ``(B,)``.

    Worked number: logits (0, ln 3), action 0 give ln 4 = 1.3863.
    """
    return functional.cross_entropy(logits, action, reduction="none")


def advantage_weights(advantage: Tensor, inverse_temperature: float, maximum: float = 100.0) -> Tensor:
    r"""How much each logged action deserves to be imitated: :math:`\min(\exp(\beta A), w_{\max})`.

    Carries no gradient. Kostrikov, Nair and Levine (2021), equation 7; Peng et al. (2019).

    Args:
        advantage: ``(B,)``, ``Q(s, a) - V(s)``.
        inverse_temperature: beta. 0 imitates everything alike (behavioural cloning), large values imitate only what
            was better than expected. It *multiplies* the advantage.
        maximum: the cap on a single weight, so that one outlier cannot own the batch.

    Returns:
        ``(B,)`` in ``(0, maximum]``.

    Worked number: advantages (ln 2, 0, 9), beta 2, cap 100 give (4, 1, 100).
    """
    if inverse_temperature < 0.0:
        raise ConfigError(
            f"The inverse temperature is {inverse_temperature}.", mend="Use 0 or more; below 0 it prefers bad actions."
        )
    return torch.exp(inverse_temperature * advantage.detach()).clamp(max=maximum)


def categorical_entropy(logits: Tensor) -> Tensor:
    r"""How undecided a policy is: :math:`-\sum_a \pi(a \mid s)\log \pi(a \mid s)`, in nats.

    Args:
        logits: ``(B, A)``.

    Returns:
        ``(B,)`` between 0 and ``ln A``.

    Worked number: two equal logits give ln 2 = 0.6931.
    """
    log_probability = functional.log_softmax(logits, dim=-1)
    return -(log_probability.exp() * log_probability).sum(-1)
