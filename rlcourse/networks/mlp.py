"""Plain multilayer perceptrons, one or two at a time, with the data's normalisation inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlcourse.networks.program import tracing
from rlcourse.objectives.values import taken
from rlcourse.vocabulary import ContinuousActions, DiscreteActions, TaskSpec

Activation = Literal["relu", "tanh"]


class Tanh(nn.Module):
    """The hyperbolic tangent, on a CPU by way of the logistic function: tanh(x) = 2 / (1 + exp(-2x)) - 1.

    torch's own tanh is exact to the last bit and takes three times as long (34 against 12 microseconds for 256x64); this
    one differs by about 1e-7, which no network notices.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        if x.numel() < SMALL or x.device.type != "cpu" or tracing():  # a program has its own
            return x.tanh()
        y: Tensor = _TanhByLogistic.apply(x)  # type: ignore[no-untyped-call]
        return y


class _TanhByLogistic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.sigmoid(2.0 * x).mul_(2.0).sub_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        slope: Tensor = torch.ops.aten.tanh_backward(gradient, y)  # gradient * (1 - y**2) in one pass
        return slope


SMALL = 2048
"""Tensors below this size are done before the way round would pay."""


def mlp(sizes: Sequence[int], activation: Activation = "relu") -> nn.Sequential:
    """Linear layers of the given sizes with an activation between them: ``(B, sizes[0])`` to ``(B, sizes[-1])``."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        # In place: nothing needs the values before the ReLU again, and 256 KiB less is written for each layer.
        layers += [nn.Linear(size_in, size_out), nn.ReLU(inplace=True) if activation == "relu" else Tanh()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def orthogonal_(layers: nn.Sequential, last_gain: float) -> None:
    """Orthogonal first weights and zero biases: what comes in is neither blown up nor shrunk on its way through.

    Saxe, McClelland and Ganguli (2014); the gains are those of the reference implementation of PPO.

    Args:
        layers: from :func:`mlp`.
        last_gain: of the last layer. 0.01 begins with a policy that has no opinion, 1 with values of ordinary size.
    """
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linear:
        nn.init.orthogonal_(layer.weight, last_gain if layer is linear[-1] else math.sqrt(2.0))
        nn.init.zeros_(layer.bias)


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

    def __init__(
        self,
        obs_mean: Tensor,
        obs_std: Tensor,
        hidden: Sequence[int],
        outputs: int,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.normaliser = Normaliser(obs_mean, obs_std)
        self.activation: Activation = activation
        self.layers = mlp([obs_mean.shape[-1], *hidden, outputs], activation)

    def forward(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, K)``."""
        output: Tensor = self.layers(self.normaliser(obs))
        return output


class QNetwork(MLPNetwork):
    """One value for each of ``A`` actions: ``(B, D)`` to ``(B, A)``."""


class DuelingQNetwork(nn.Module):
    r"""State value and action advantages apart, on common features: ``(B, D)`` to ``(B, A)``.

    .. math:: Q(s, a) = V(s) + A(s, a) - \tfrac1A \sum_{a'} A(s, a')

    Without the mean taken off, a constant could move freely between the two. Wang et al. (2016), equation 9.
    """

    def __init__(self, obs_mean: Tensor, obs_std: Tensor, hidden: Sequence[int], num_actions: int) -> None:
        super().__init__()
        self.normaliser = Normaliser(obs_mean, obs_std)
        self.layers = mlp([obs_mean.shape[-1], *hidden, num_actions + 1])  # one linear layer for both heads

    def forward(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, A)``."""
        heads: Tensor = self.layers(self.normaliser(obs))
        value, advantage = heads[..., :1], heads[..., 1:]
        return value + advantage - advantage.mean(-1, keepdim=True)


class LogitsNetwork(MLPNetwork):
    """Unnormalised log-probabilities of ``A`` actions: ``(B, D)`` to ``(B, A)``."""


class ValueNetwork(MLPNetwork):
    """One value for each observation: ``(B, D)`` to ``(B,)``."""

    def __init__(
        self, obs_mean: Tensor, obs_std: Tensor, hidden: Sequence[int], activation: Activation = "relu"
    ) -> None:
        super().__init__(obs_mean, obs_std, hidden, 1, activation)

    def forward(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B,)``."""
        return super().forward(obs).squeeze(-1)


class ActionNetwork(MLPNetwork):
    """One action within its bounds for each observation: ``(B, D)`` to ``(B, K)``, squeezed there by tanh."""

    centre: Tensor
    half_range: Tensor

    def __init__(self, obs_mean: Tensor, obs_std: Tensor, hidden: Sequence[int], actions: ContinuousActions) -> None:
        super().__init__(obs_mean, obs_std, hidden, actions.size)
        self.register_buffer("centre", actions.centre.detach().clone())
        self.register_buffer("half_range", actions.half_range.detach().clone())

    def forward(self, obs: Tensor) -> Tensor:
        """Actions in their own units."""
        return self.centre + self.half_range * super().forward(obs).tanh()


class GaussianNetwork(ActionNetwork):
    """An action within its bounds, and one learned spread for each of its entries, the same everywhere."""

    def __init__(self, obs_mean: Tensor, obs_std: Tensor, hidden: Sequence[int], actions: ContinuousActions) -> None:
        super().__init__(obs_mean, obs_std, hidden, actions)
        self.log_std = nn.Parameter(self.half_range.log())


class TwinMLP(nn.Module):
    """Two independent MLPs with ReLU, evaluated in one batched multiplication: ``(B, sizes[0])`` to ``(2, B, sizes[-1])``.

    With ``layer_norm`` what goes into each ReLU is brought to mean 0 and spread 1, row by row (Ba, Kiros and Hinton, 2016,
    without its gain and shift: the layer behind has weights of its own). No output can then be larger than the last
    layer's weights allow, whatever comes in.
    """

    def __init__(self, sizes: Sequence[int], *, layer_norm: bool = False) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        self.weights = nn.ParameterList([_uniform(2, i, o, fan_in=i) for i, o in pairwise(sizes)])
        self.biases = nn.ParameterList([_uniform(2, 1, o, fan_in=i) for i, o in pairwise(sizes)])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, I)`` to ``(2, B, O)``."""
        x = x.expand(2, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = _products(x, weight, bias)
            if layer < last:
                x = functional.layer_norm(x, [x.shape[-1]]) if self.layer_norm else x
                x = torch.relu_(x)
        return x


class TwinQNetwork(TwinMLP):
    """Two independent Q-networks for ``A`` actions: ``(B, D)`` to ``(2, B, A)``.

    The smaller of two independent estimates is seldom the lucky one. Fujimoto, van Hoof and Meger (2018).
    """

    def __init__(self, obs_mean: Tensor, obs_std: Tensor, hidden: Sequence[int], num_actions: int) -> None:
        super().__init__([obs_mean.shape[-1], *hidden, num_actions])
        self.normaliser = Normaliser(obs_mean, obs_std)

    def forward(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(2, B, A)``."""
        return super().forward(self.normaliser(obs))

    def of(self, obs: Tensor, action: Tensor) -> Tensor:
        """``(B, D)`` and ``(B,)`` int64 to the ``(2, B)`` values of those actions."""
        return taken(self(obs), action)


class TwinActionQNetwork(TwinMLP):
    """Two independent Q-networks for continuous actions: ``(B, D)`` and ``(B, K)`` to ``(2, B)``.

    With ``layer_norm`` their values stay bounded however far an action lies from all that was seen. Ball, Smith, Kostrikov
    and Levine (2023), section 4.2.
    """

    def __init__(
        self,
        obs_mean: Tensor,
        obs_std: Tensor,
        hidden: Sequence[int],
        actions: ContinuousActions,
        *,
        layer_norm: bool = False,
    ) -> None:
        super().__init__([obs_mean.shape[-1] + actions.size, *hidden, 1], layer_norm=layer_norm)
        mean, std = torch.cat([obs_mean, actions.centre]), torch.cat([obs_std, actions.half_range])
        self.normaliser = Normaliser(mean, std)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:  # type: ignore[override]
        """Actions in their own units."""
        return super().forward(self.normaliser(torch.cat([obs, action], -1))).squeeze(-1)

    def of(self, obs: Tensor, action: Tensor) -> Tensor:
        """The same, under the name that :class:`TwinQNetwork` has for it."""
        values: Tensor = self(obs, action)
        return values

    def through(self, obs: Tensor, action: Tensor) -> Tensor:
        """The same with gradients that go through the network into the actions, and not into its weights."""
        still = {name: weight.detach() for name, weight in self.named_parameters()}
        values: Tensor = torch.func.functional_call(self, still, (obs, action))
        return values


def twin_q(spec: TaskSpec, hidden: Sequence[int]) -> TwinQNetwork | TwinActionQNetwork:
    """Fresh twin Q-networks for actions of either kind."""
    if isinstance(spec.actions, DiscreteActions):
        discrete = TwinQNetwork(spec.obs_mean, spec.obs_std, hidden, spec.num_actions)
        return discrete.to(spec.obs_mean.device)
    return TwinActionQNetwork(spec.obs_mean, spec.obs_std, hidden, spec.actions).to(spec.obs_mean.device)


def _products(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # (2, B, I), (2, I, O) and (2, 1, O) to (2, B, O). Batched products with a single column are slow on CPUs, and a program
    # cannot join them with the ReLU before. Of a 4-256-256-1 network and 256 rows, gradients take 3.2 in place of 4.7 ms
    # plain, and 3.2 in place of 3.6 compiled.
    if weight.shape[-1] == 1:
        return (x * weight.mT).sum(-1, keepdim=True) + bias
    return torch.baddbmm(bias, x, weight)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    # The same first weights as nn.Linear draws: uniform within 1 / sqrt(fan_in).
    bound = 1.0 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
