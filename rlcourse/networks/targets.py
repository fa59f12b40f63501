"""Target networks: a slow copy to aim at."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from rlcourse.errors import ConfigError

M = TypeVar("M", bound=nn.Module)


def frozen_copy(network: M) -> M:
    """A copy that receives no gradients. It starts equal and is moved by :func:`polyak_update_` alone."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def polyak_update_(target: nn.Module, online: nn.Module, rate: float) -> None:
    r"""Move the target a little towards the online network, in place.

    .. math:: \bar\theta \leftarrow (1 - \rho)\,\bar\theta + \rho\,\theta

    Args:
        target: the slow copy.
        online: the network being trained.
        rate: rho in (0, 1]; 1 copies outright.

    Worked number: target weight 0, online weight 10, rate 0.1 give 1, and after a second update 1.9.
    """
    if not 0.0 < rate <= 1.0:
        raise ConfigError(f"The target rate is {rate}.", mend="Use a number above 0 and at most 1.")
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)
