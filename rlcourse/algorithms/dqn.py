r"""Deep Q-learning: fit values to one step of reality plus an estimate, from a memory of what happened.

.. math:: L(\theta) = \mathbb E\Big[h\Big(Q_\theta(s,a) - r
          - d\,Q_{\bar\theta}\big(s', \arg\max_{a'} Q_\theta(s',a')\big)\Big)\Big]

with :math:`h` the Huber loss. Mnih et al. (2015); the double estimate shown here is van Hasselt, Guez and Silver (2016),
and without it the target network both chooses and judges. Dueling: Wang et al. (2016). Folding n steps is the buffer's
work: a batch says by its discount how far it looked ahead.

Departures from the papers: Adam; by default a Polyak average for the target network, with ``target_every`` a copy now and
then as in the paper; observations are numbers and not pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlcourse.errors import ConfigError
from rlcourse.networks import (
    Descent,
    DuelingQNetwork,
    GreedyQPolicy,
    QNetwork,
    frozen_copy,
    polyak_update_,
)
from rlcourse.objectives.values import bellman_target, double_q_value
from rlcourse.vocabulary import Batch, Metrics, TaskSpec


@dataclass(frozen=True)
class DQNConfig:
    """Settings of deep Q-learning."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers."""
    learning_rate: float = 1e-3
    """Adam's step."""
    double: bool = True
    """Let the online network choose and the target network judge; off, the target network does both and overrates."""
    dueling: bool = False
    """Learn the state's value and the actions' advantages apart. Helps where most actions hardly matter."""
    target_rate: float = 0.01
    """rho, how far the target network moves at each update."""
    target_every: int = 1
    """Updates between two moves of the target network. With ``target_rate`` 1 and some hundreds here, the paper's way."""
    maximum_gradient: float | None = None
    """Cap on the length of one step's gradient; none by default, the Huber loss is one already."""

    compiled: bool = False
    """Compile each gradient step. Worth twenty seconds at the start where a run takes minutes."""

    def __post_init__(self) -> None:
        if self.target_every < 1:
            raise ConfigError(f"target_every is {self.target_every}.", mend="Use 1 or more.")


class DQN:
    """Learns Q-values from its own, ever better, experience."""

    def __init__(self, spec: TaskSpec, config: DQNConfig | None = None) -> None:
        self.config = config = config or DQNConfig()
        device = spec.obs_mean.device
        kind = DuelingQNetwork if config.dueling else QNetwork
        self.q = kind(spec.obs_mean, spec.obs_std, config.hidden, spec.num_actions).to(device)
        self.target_q = frozen_copy(self.q)
        self.descent = Descent(
            self._loss,
            self.q.parameters(),
            config.learning_rate,
            maximum_gradient=config.maximum_gradient,
            follow=self._follow if config.target_every == 1 else None,
            compiled=config.compiled,
        )
        self.updates = 0

    @property
    def policy(self) -> GreedyQPolicy:
        """Takes the action with the largest Q-value; whoever collects adds the exploration."""
        return GreedyQPolicy(self.q)

    def update(self, batch: Batch) -> Metrics:
        """One step down the gradient of the loss, then the target follows."""
        return self.update_in_turn([batch])

    def update_in_turn(self, batches: Sequence[Batch]) -> Metrics:
        """One step for each batch; returns what is worth plotting of the last. Compiled, four steps are one graph."""
        every, done = self.config.target_every, 0
        kept: tuple[Tensor, ...] = ()
        while done < len(batches):
            until_move = len(batches) if every == 1 else every - self.updates % every
            due = batches[done : done + until_move]
            _, kept = self.descent.run((batch,) for batch in due)
            done += len(due)
            self.updates += len(due)
            if every > 1 and self.updates % every == 0:
                self._follow()
        return dict(zip(("td_loss", "q"), kept, strict=True))

    def _follow(self) -> None:
        polyak_update_(self.target_q, self.q, self.config.target_rate)

    def _loss(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        target = self.target(batch)
        taken = self.q(batch.obs).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)  # (B,)
        loss = functional.smooth_l1_loss(taken, target)
        return loss, (loss.detach(), taken.detach())

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """``(B,)`` Bellman targets."""
        judged = self.target_q(batch.next_obs)
        next_value = double_q_value(self.q(batch.next_obs), judged) if self.config.double else judged.amax(-1)
        return bellman_target(batch.reward, batch.discount, next_value)

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
        self.updates = state["updates"]
