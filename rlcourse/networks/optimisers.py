"""The one optimiser of this package, and the one way its step shrinks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

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
    # capturable: on a GPU a step may be part of a CUDA graph; it is the same step.
    optimiser = torch.optim.Adam(weights, lr=rate, eps=epsilon, fused=True, capturable=rate.is_cuda)
    for group in optimiser.param_groups:
        group["initial_lr"] = learning_rate  # known here; reading it off the tensor later would wait for the device
    return optimiser


def restore_(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimiser's state, saved on whichever device."""
    optimiser.load_state_dict(dict(state))
    for group in optimiser.param_groups:
        group["capturable"] = group["params"][0].is_cuda  # of the device here, not of the one that saved


def anneal_(optimiser: torch.optim.Optimizer, fraction: float) -> None:
    """Set every learning rate to ``fraction`` of what it was when the optimiser was made."""
    for group in optimiser.param_groups:
        group["lr"].fill_(group["initial_lr"] * fraction)


@torch.no_grad()
def clip_gradients_(parameters: Iterable[nn.Parameter], maximum: float) -> Tensor:
    """Shrink all gradients together so that their common length is at most ``maximum``; returns the length before.

    Pascanu, Mikolov and Bengio (2013). The length stays a tensor: nothing waits for the device.

    Args:
        parameters: with gradients.
        maximum: above 0.

    Worked number: gradients (3) and (4), maximum 1 become (0.6) and (0.8), and 5 is returned.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    length: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (maximum / (length + 1e-6)).clamp(max=1.0))
    return length
