r"""Conservative Q-learning for discrete actions: Q-learning that is charged for praising what nobody tried.

.. math:: L(\theta) = \mathbb E_{\mathcal D}\Big[\tfrac12 \big(Q_\theta(s,a) - y\big)^2\Big]
          + \alpha\, \mathbb E_{\mathcal D}\Big[\log\sum_{a'} \exp Q_\theta(s,a') - Q_\theta(s,a)\Big]

.. math:: y = r + d\, Q_{\bar\theta}\big(s', \arg\max_{a'} Q_\theta(s', a')\big)

Kumar, Zhou, Tucker and Levine (2020), "Conservative Q-learning for offline reinforcement learning", equation 4.

Departures from the paper: the target is that of double Q-learning (van Hasselt et al. 2016), as in the authors' later
discrete experiments; by default the target network follows by a Polyak average at every update, with ``target_every``
it is a copy made now and then; rewards may be folded over n steps (the batch says so by its discount, this file does
not know).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlcourse.errors import ConfigError
from rlcourse.networks import Descent, GreedyQPolicy, QNetwork, frozen_copy, polyak_update_
from rlcourse.objectives.values import bellman_target, conservative_penalty, double_q_value, squared_td_error
from rlcourse.vocabulary import Batch, Metrics, TaskSpec

AT_ONCE = 8_192
"""Observations judged in one pass; more at once would only need more memory."""


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
    target_every: int = 1
    """Updates between two moves of the target network. With ``target_rate`` 1 and some hundreds here, a copy now and
    then. A target that stands still for long judges the whole log once per move, which saves a fifth of the work."""
    compiled: bool = False
    """Compile each gradient step. Worth twenty seconds at the start where a run takes minutes."""

    def __post_init__(self) -> None:
        if self.target_every < 1:
            raise ConfigError(f"target_every is {self.target_every}.", mend="Use 1 or more.")


class CQL:
    """Learns Q-values that stay low where the log is silent."""

    def __init__(self, spec: TaskSpec, config: CQLConfig | None = None) -> None:
        self.config = config = config or CQLConfig()
        device = spec.obs_mean.device
        self.q = QNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.num_actions).to(device)
        self.target_q = frozen_copy(self.q)
        self.descent = Descent(
            self._loss,
            self.q.parameters(),
            config.learning_rate,
            follow=self._follow if config.target_every == 1 else None,
            compiled=config.compiled,
        )
        self.updates = 0
        self._ahead: Tensor | None = None  # (S, D) what the log leads to
        self._judged: Tensor | None = None  # (S, A) the target network on it

    @property
    def policy(self) -> GreedyQPolicy:
        """Takes the action with the largest Q-value."""
        return GreedyQPolicy(self.q)

    def update(self, batch: Batch) -> Metrics:
        """One step down the gradient of the loss, then the target follows."""
        _, (td_loss, penalty, q) = self.descent.step(batch, self._look_up(batch))
        self.updates += 1
        if self.config.target_every > 1 and self.updates % self.config.target_every == 0:
            self._follow()
            self._judged = None
        return {"td_loss": td_loss, "conservative_penalty": penalty, "q": q}

    def read_ahead(self, next_obs: Tensor) -> None:
        """Remember ``(S, D)``, where the log leads; of use to a target network that stands still."""
        self._ahead, self._judged = next_obs, None

    def target(self, batch: Batch, judged: Tensor | None = None) -> Tensor:
        """``(B,)`` Bellman targets: the online network chooses, the target network judges.

        Args:
            batch: transitions.
            judged: ``(B, A)`` what the target network thinks of ``next_obs``, where that is known already.
        """
        with torch.no_grad():
            judged = self.target_q(batch.next_obs) if judged is None else judged
            next_value = double_q_value(self.q(batch.next_obs), judged)
            return bellman_target(batch.reward, batch.discount, next_value)

    def _loss(self, batch: Batch, judged: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        target = self.target(batch, judged)  # (B,)
        q = self.q(batch.obs)  # (B, A)
        td_loss = squared_td_error(q, batch.action, target).mean()
        penalty = conservative_penalty(q, batch.action).mean()
        return td_loss + self.config.alpha * penalty, (td_loss.detach(), penalty.detach(), q.detach())

    def _follow(self) -> None:
        polyak_update_(self.target_q, self.q, self.config.target_rate)

    @torch.no_grad()
    def _look_up(self, batch: Batch) -> Tensor | None:
        if self._ahead is None or batch.row is None or len(self._ahead) >= self.config.target_every * len(batch):
            return None  # judging every batch anew is the lesser work
        if self._judged is None:
            self._judged = torch.cat([self.target_q(part) for part in self._ahead.split(AT_ONCE)])
        return self._judged[batch.row]

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        self.descent.anneal(fraction)

    def state_dict(self) -> dict[str, Any]:
        """Networks, the target among them, optimiser and counter."""
        return {
            "q": self.q.state_dict(),
            "target_q": self.target_q.state_dict(),
            "optimiser": self.descent.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; the target is restored, not rebuilt from the online network."""
        self.q.load_state_dict(state["q"])
        self.target_q.load_state_dict(state["target_q"])
        self.descent.load_state_dict(state["optimiser"])
        self.updates, self._judged = state["updates"], None
