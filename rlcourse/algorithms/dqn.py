r"""Double deep Q-learning, the learner whose life story becomes the ``replay`` data set.

.. math:: L(\theta) = \mathbb E\Big[h\Big(Q_\theta(s,a) - r
          - d\,Q_{\bar\theta}\big(s', \arg\max_{a'} Q_\theta(s',a')\big)\Big)\Big]

with :math:`h` the Huber loss. Mnih et al. (2015); van Hasselt, Guez and Silver (2016).

Departures from the papers: Adam, a Polyak average for the target network, observations are numbers and not pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from rlcourse.networks import GreedyQPolicy, QNetwork, adam, anneal_, frozen_copy, polyak_update_
from rlcourse.objectives.values import bellman_target, double_q_value
from rlcourse.vocabulary import Batch, Metrics, TaskSpec


@dataclass(frozen=True)
class DQNConfig:
    """Settings of double deep Q-learning."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers."""
    learning_rate: float = 1e-3
    """Adam's step."""
    target_rate: float = 0.01
    """rho, how far the target network moves at each update."""


class DQN:
    """Learns Q-values from its own, ever better, experience."""

    def __init__(self, spec: TaskSpec, config: DQNConfig | None = None) -> None:
        self.config = config = config or DQNConfig()
        device = spec.obs_mean.device
        self.q = QNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.num_actions).to(device)
        self.target_q = frozen_copy(self.q)
        self.optimiser = adam(self.q.parameters(), config.learning_rate)

    @property
    def policy(self) -> GreedyQPolicy:
        """Takes the action with the largest Q-value; whoever collects adds the exploration."""
        return GreedyQPolicy(self.q)

    def update(self, batch: Batch) -> Metrics:
        """One step down the gradient of the loss, then the target follows."""
        with torch.no_grad():
            next_value = double_q_value(self.q(batch.next_obs), self.target_q(batch.next_obs))
            target = bellman_target(batch.reward, batch.discount, next_value)
        taken = self.q(batch.obs).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)  # (B,)
        loss = functional.smooth_l1_loss(taken, target)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        polyak_update_(self.target_q, self.q, self.config.target_rate)
        return {"td_loss": loss.detach(), "q_mean": taken.detach().mean()}

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        anneal_(self.optimiser, fraction)

    def state_dict(self) -> dict[str, Any]:
        """Networks, the target among them, and optimiser."""
        return {
            "q": self.q.state_dict(),
            "target_q": self.target_q.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.q.load_state_dict(state["q"])
        self.target_q.load_state_dict(state["target_q"])
        self.optimiser.load_state_dict(state["optimiser"])
