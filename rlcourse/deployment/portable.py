"""One module that answers as a policy does when it is asked for its best action: what the exports are made from.

::

    observation (B, D) ─┐                      ┌─ action         (B,) int64, or (B, K) within the bounds
    mask (B, A) bool  ──┼─▶  PortablePolicy  ──┼─ probabilities  (B, A), or mean and std (B, K) before squashing
    memory (B, H)     ──┘                      └─ memory         (B, H)

Masks go with discrete actions, memories with recurrent policies. No randomness is inside: whoever wants to sample draws
from the probabilities, or from the normal distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlcourse.deployment.artifact import SPREAD, AnyNetwork, PolicyArtifact
from rlcourse.deployment.description import PolicyDescription
from rlcourse.networks import ActionNetwork, RecurrentActorCritic, SquashedGaussianPolicy
from rlcourse.networks.mlp import Tanh
from rlcourse.objectives.policies import masked_logits


def inputs_of(about: PolicyDescription) -> tuple[str, ...]:
    """Names of the inputs, in their order."""
    return "observation", *(("mask",) if about.takes_mask else ()), *(("memory",) if about.memory_size else ())


def outputs_of(about: PolicyDescription) -> tuple[str, ...]:
    """Names of the outputs, in their order."""
    drawn_from = ("probabilities",) if about.discrete else ("mean", "std")
    return "action", *drawn_from, *(("memory",) if about.memory_size else ())


class DiscretePortable(nn.Module):
    """``(B, D)`` and a ``(B, A)`` mask to actions and probabilities."""

    def __init__(self, network: nn.Module, certain: bool) -> None:
        super().__init__()
        self.network, self.certain = network, certain

    def forward(self, observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Actions, then probabilities among the allowed ones."""
        scores = masked_logits(self.network(observation), mask)
        action = scores.argmax(-1)
        if self.certain:
            places = torch.arange(scores.shape[-1], device=scores.device)
            return action, (action.unsqueeze(-1) == places).to(scores.dtype)
        return action, scores.softmax(-1)


class RecurrentPortable(nn.Module):
    """``(B, D)``, a ``(B, A)`` mask and a ``(B, H)`` memory to actions, probabilities and the next memory."""

    def __init__(self, network: RecurrentActorCritic) -> None:
        super().__init__()
        self.normaliser, self.features = network.normaliser, network.features
        self.cell, self.actor, self.hidden = network.cell, network.actor, network.hidden

    def forward(self, observation: Tensor, mask: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, probabilities among the allowed ones, memory."""
        memory = self.remember(torch.relu(self.features(self.normaliser(observation))), memory)
        scores = masked_logits(self.actor(memory), mask)
        return scores.argmax(-1), scores.softmax(-1), memory

    def remember(self, features: Tensor, memory: Tensor) -> Tensor:
        """The gated cell of Cho et al. (2014) in plain products, which every format knows."""
        seen = nn.functional.linear(features, self.cell.weight_ih, self.cell.bias_ih)
        kept = nn.functional.linear(memory, self.cell.weight_hh, self.cell.bias_hh)
        reset_seen, update_seen, new_seen = seen.split(self.hidden, -1)
        reset_kept, update_kept, new_kept = kept.split(self.hidden, -1)
        reset, update = torch.sigmoid(reset_seen + reset_kept), torch.sigmoid(update_seen + update_kept)
        new = torch.tanh(new_seen + reset * new_kept)
        return new + update * (memory - new)


class ContinuousPortable(nn.Module):
    """``(B, D)`` to actions, and to the mean and spread that they would be drawn by."""

    low: Tensor
    high: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module, artifact: PolicyArtifact) -> None:
        super().__init__()
        actions, about = artifact.actions, artifact.description
        assert actions is not None
        self.network, self.squashed, self.size = network, about.head == "squashed_gaussian", actions.size
        self.register_buffer("low", actions.low)
        self.register_buffer("high", actions.high)
        spread = artifact.weights[SPREAD].exp() if about.head == "gaussian" else torch.zeros(actions.size)
        self.register_buffer("spread", spread)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, mean, spread."""
        output: Tensor = self.network(observation)
        if self.squashed:
            mean, log_std = output.split(self.size, -1)
            action = (self.high + self.low) / 2 + (self.high - self.low) / 2 * mean.tanh()
            return action, mean, log_std.clamp(*SquashedGaussianPolicy.LOG_STD).exp()
        return output.clamp(self.low, self.high), output, self.spread + torch.zeros_like(output)


def portable(artifact: PolicyArtifact) -> nn.Module:
    """The module for an artifact, frozen, on the CPU.

    Raises:
        ArtifactError: the weights do not fit the description.
    """
    network = _plain(artifact.network())
    if isinstance(network, RecurrentActorCritic):
        module: nn.Module = RecurrentPortable(network)
    elif artifact.description.discrete:
        module = DiscretePortable(network, certain=artifact.description.head == "q")
    else:
        module = ContinuousPortable(_Bounded(network) if isinstance(network, ActionNetwork) else network, artifact)
    return module.eval().requires_grad_(False)


def example(about: PolicyDescription, batch_size: int = 2) -> tuple[Tensor, ...]:
    """Inputs of the right shapes, all zero, everything allowed."""
    made = {
        "observation": torch.zeros(batch_size, about.obs_size),
        "mask": torch.ones(batch_size, about.num_actions, dtype=torch.bool),
        "memory": torch.zeros(batch_size, about.memory_size),
    }
    return tuple(made[name] for name in inputs_of(about))


class _Bounded(nn.Module):
    """An :class:`ActionNetwork` without what only its training needs."""

    def __init__(self, network: ActionNetwork) -> None:
        super().__init__()
        self.normaliser, self.layers = network.normaliser, network.layers
        self.register_buffer("centre", network.centre)
        self.register_buffer("half_range", network.half_range)

    def forward(self, observation: Tensor) -> Tensor:
        action: Tensor = self.centre + self.half_range * self.layers(self.normaliser(observation)).tanh()
        return action


def _plain(network: AnyNetwork) -> AnyNetwork:
    # Our Tanh looks at the size of a batch to choose a way; a program for every size must not. ReLU in place is a
    # detail of training, too.
    if not isinstance(network, RecurrentActorCritic):
        for place, layer in enumerate(network.layers):
            if isinstance(layer, Tanh):
                network.layers[place] = nn.Tanh()
            elif isinstance(layer, nn.ReLU):
                network.layers[place] = nn.ReLU()
    return network
