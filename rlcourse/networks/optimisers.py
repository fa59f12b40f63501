"""The one optimiser of this package, and the one way its step shrinks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from rlcourse.errors import ConfigError


def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam with all weights updated in one fused pass. Kingma and Ba (2015)."""
    if learning_rate <= 0.0:
        raise ConfigError(f"The learning rate is {learning_rate}.", mend="Use a number above 0, for example 1e-3.")
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def anneal_(optimiser: torch.optim.Optimizer, fraction: float) -> None:
    """Set every learning rate to ``fraction`` of what it was when the optimiser was made."""
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * fraction
