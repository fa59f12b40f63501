r"""Conservative Q-learning for discrete actions: Q-learning that is charged for praising what nobody tried.

.. math:: L(\theta) = \mathbb E_{\mathcal D}\Big[\tfrac12 \big(Q_\theta(s,a) - y\big)^2\Big]
          + \alpha\, \mathbb E_{\mathcal D}\Big[\log\sum_{a'} \exp Q_\theta(s,a') - Q_\theta(s,a)\Big]

.. math:: y = r + d\, Q_{\bar\theta}\big(s', \arg\max_{a'} Q_\theta(s', a')\big)

Kumar, Zhou, Tucker and Levine (2020), "Conservative Q-learning for offline reinforcement learning", equation 4.

Departures from the paper: the target is that of double Q-learning (van Hasselt et al. 2016), as in the authors' later
discrete experiments; the target network follows by a Polyak average at every update; rewards may be folded over n
steps (the batch says so by its discount, this file does not know).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlcourse.networks import GreedyQPolicy, QNetwork, adam, anneal_, frozen_copy, polyak_update_
from rlcourse.objectives.values import bellman_target, conservative_penalty, double_q_value, squared_td_error
from rlcourse.vocabulary import Batch, Metrics, TaskSpec


@dataclass(frozen=True)
class CQLConfig:
    """Settings of conservative Q-learning."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers."""
    learning_rate: float = 1e-3
    """Adam's step."""
    alpha: float = 0.3
    """Weight of the conservative penalty. 0 is plain double Q-learning; large values approach cloning."""
    target_rate: float = 0.01
    """rho, how far the target network moves at each update. Raise it to pass rewards back sooner, lower it for calm."""


class CQL:
    """Learns Q-values that stay low where the log is silent."""

    def __init__(self, spec: TaskSpec, config: CQLConfig | None = None) -> None:
        self.config = config = config or CQLConfig()
        device = spec.obs_mean.device
        self.q = QNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.num_actions).to(device)
        self.target_q = frozen_copy(self.q)
        self.optimiser = adam(self.q.parameters(), config.learning_rate)

    @property
    def policy(self) -> GreedyQPolicy:
        """Takes the action with the largest Q-value."""
        return GreedyQPolicy(self.q)

    def update(self, batch: Batch) -> Metrics:
        """One step down the gradient of the loss, then the target follows."""
        target = self.target(batch)  # (B,)
        q = self.q(batch.obs)  # (B, A)
        td_loss = squared_td_error(q, batch.action, target).mean()
        penalty = conservative_penalty(q, batch.action).mean()
        loss = td_loss + self.config.alpha * penalty
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        polyak_update_(self.target_q, self.q, self.config.target_rate)
        return {"td_loss": td_loss.detach(), "conservative_penalty": penalty.detach(), "q_mean": q.detach().mean()}

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """``(B,)`` Bellman targets: the online network chooses, the target network judges."""
        next_value = double_q_value(self.q(batch.next_obs), self.target_q(batch.next_obs))
        return bellman_target(batch.reward, batch.discount, next_value)

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
        """The inverse of :meth:`state_dict`; the target is restored, not rebuilt from the online network."""
        self.q.load_state_dict(state["q"])
        self.target_q.load_state_dict(state["target_q"])
        self.optimiser.load_state_dict(state["optimiser"])
