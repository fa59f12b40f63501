"""The one optimiser of this package, and the one way its step shrinks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from rlcourse.errors import ConfigError


def adam(parameters: Iterable[nn.Parameter], learning_rate: float, *, epsilon: float = 1e-8) -> torch.optim.Adam:
    """Adam with all weights updated in one fused pass. Kingma and Ba (2015).

    The rate is a tensor beside the weights: changing it is a write, so that a compiled or captured update sees it.

    Args:
        parameters: the weights.
        learning_rate: how far one step goes, above 0.
        epsilon: added to the denominator; raise it (1e-5 is common in PPO) to tame steps where gradients are tiny.
    """
    if learning_rate <= 0.0:
        raise ConfigError(f"The learning rate is {learning_rate}.", mend="Use a number above 0, for example 1e-3.")
    weights = list(parameters)
    rate = torch.tensor(learning_rate, device=weights[0].device)
    return torch.optim.Adam(weights, lr=rate, eps=epsilon, fused=True)


def anneal_(optimiser: torch.optim.Optimizer, fraction: float) -> None:
    """Set every learning rate to ``fraction`` of what it was when the optimiser was made."""
    for group in optimiser.param_groups:
        if "initial_lr" not in group:
            group["initial_lr"] = float(group["lr"])
        group["lr"].fill_(group["initial_lr"] * fraction)
