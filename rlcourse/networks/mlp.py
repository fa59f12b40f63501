"""Plain multilayer perceptrons, one or two at a time, with the data's normalisation inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given sizes with ReLU between them: ``(B, sizes[0])`` to ``(B, sizes[-1])``."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        # In place: nothing needs the values before the ReLU again, and 256 KiB less is written for each layer.
        layers += [nn.Linear(size_in, size_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class Normaliser(nn.Module):
    """Shifts and scales each observation entry; part of the network, so it travels with the weights.

    Angles of a tenth of a radian and speeds of several metres a second should look alike to the first layer.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone().float())
        # An entry that never varies in the data carries no information: leave its scale alone.
        self.register_buffer("scale", torch.where(std > 1e-6, 1.0 / std, 1.0).detach().float())

    def forward(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, D)``."""
        return (obs - self.mean) * self.scale


class MLPNetwork(nn.Module):
    """Normaliser, then :func:`mlp`: ``(B, D)`` to ``(B, K)``. Q-values if K is the number of actions, or logits."""

    def __init__(self, obs_mean: Tensor, obs_std: Tensor, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.normaliser = Normaliser(obs_mean, obs_std)
        self.layers = mlp([obs_mean.shape[-1], *hidden, outputs])

    def forward(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, K)``."""
        output: Tensor = self.layers(self.normaliser(obs))
        return output


class QNetwork(MLPNetwork):
    """One value for each of ``A`` actions: ``(B, D)`` to ``(B, A)``."""


class LogitsNetwork(MLPNetwork):
    """Unnormalised log-probabilities of ``A`` actions: ``(B, D)`` to ``(B, A)``."""


class ValueNetwork(MLPNetwork):
    """One value for each observation: ``(B, D)`` to ``(B,)``."""

    def __init__(self, obs_mean: Tensor, obs_std: Tensor, hidden: Sequence[int]) -> None:
        super().__init__(obs_mean, obs_std, hidden, 1)

    def forward(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B,)``."""
        return super().forward(obs).squeeze(-1)


class TwinQNetwork(nn.Module):
    """Two independent Q-networks evaluated in one batched multiplication: ``(B, D)`` to ``(2, B, A)``.

    The smaller of two independent estimates is seldom the lucky one. Fujimoto, van Hoof and Meger (2018).
    """

    def __init__(self, obs_mean: Tensor, obs_std: Tensor, hidden: Sequence[int], num_actions: int) -> None:
        super().__init__()
        self.normaliser = Normaliser(obs_mean, obs_std)
        sizes = [obs_mean.shape[-1], *hidden, num_actions]
        self.weights = nn.ParameterList([_uniform(2, i, o, fan_in=i) for i, o in pairwise(sizes)])
        self.biases = nn.ParameterList([_uniform(2, 1, o, fan_in=i) for i, o in pairwise(sizes)])

    def forward(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(2, B, A)``."""
        x: Tensor = self.normaliser(obs).expand(2, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer < last:
                x = torch.relu_(x)
        return x


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    # The same first weights as nn.Linear draws: uniform within 1 / sqrt(fan_in).
    bound = 1.0 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
