"""Actor and critic with a common memory, for tasks in which one observation does not tell enough."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlcourse.networks.mlp import Normaliser, orthogonal_
from rlcourse.networks.policies import sample_actions
from rlcourse.objectives.policies import categorical_log_probability
from rlcourse.vocabulary import Rollout


class RecurrentActorCritic(nn.Module):
    """Observation to features, features and memory to the next memory (a GRU cell), memory to logits and value.

    The memory is wiped wherever an episode begins: what was learned of one episode says nothing about the next.
    Cho et al. (2014) for the cell.
    """

    def __init__(self, obs_mean: Tensor, obs_std: Tensor, hidden: int, num_actions: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.normaliser = Normaliser(obs_mean, obs_std)
        self.features = nn.Linear(obs_mean.shape[-1], hidden)
        self.cell = nn.GRUCell(hidden, hidden)
        self.actor = nn.Sequential(nn.Linear(hidden, num_actions))
        self.critic = nn.Sequential(nn.Linear(hidden, 1))
        orthogonal_(self.actor, 0.01)
        orthogonal_(self.critic, 1.0)

    def remember(self, obs: Tensor, memory: Tensor) -> Tensor:
        """``(B, D)`` observations and ``(B, H)`` memories to the next memories."""
        following: Tensor = self.cell(torch.relu(self.features(self.normaliser(obs))), memory)
        return following

    def unroll(self, obs: Tensor, starts: Tensor, memory: Tensor) -> Tensor:
        """The memory after each observation of a sequence.

        Args:
            obs: ``(T, N, D)``.
            starts: ``(T, N)`` bool, true where an observation is an episode's first.
            memory: ``(N, H)`` before the first observation.

        Returns:
            ``(T, N, H)``.
        """
        features = torch.relu(self.features(self.normaliser(obs)))
        keep = (~starts).float().unsqueeze(-1)
        memories = []
        for t in range(obs.shape[0]):
            memory = self.cell(features[t], memory * keep[t])
            memories.append(memory)
        return torch.stack(memories)

    def values(self, memory: Tensor) -> Tensor:
        """``(..., H)`` to ``(...)``."""
        value: Tensor = self.critic(memory).squeeze(-1)
        return value


class RecurrentCategoricalPolicy:
    """Samples from the softmax of the actor's logits; greedy takes the largest.

    Asked through :meth:`act` it has no memory to go by and treats every observation as an episode's first; whoever lets
    it act for longer carries the memory (:meth:`act_remembering`).
    """

    def __init__(self, network: RecurrentActorCritic) -> None:
        self.network = network

    def first_memory(self, batch_size: int) -> Tensor:
        """``(B, H)`` zeros."""
        return torch.zeros(batch_size, self.network.hidden, device=self.network.normaliser.mean.device)

    @torch.no_grad()
    def act_remembering(
        self, obs: Tensor, memory: Tensor, *, greedy: bool, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """``(B, D)`` and ``(B, H)`` to ``(B,)`` int64 actions and ``(B, H)``."""
        memory = self.network.remember(obs, memory)
        logits = self.network.actor(memory)
        action = logits.argmax(-1) if greedy else sample_actions(logits.softmax(-1), generator)
        return action, memory

    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B,)`` int64, each as if its episode began here."""
        return self.act_remembering(obs, self.first_memory(obs.shape[0]), greedy=greedy, generator=generator)[0]

    @torch.no_grad()
    def log_probability(self, rollout: Rollout) -> Tensor:
        """``(T, N)``: of each action of a rollout."""
        assert rollout.memory is not None
        memories = self.network.unroll(rollout.obs, rollout.starts, rollout.memory)
        return categorical_log_probability(self.network.actor(memories), rollout.action)
