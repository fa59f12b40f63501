r"""Behavioural cloning: forget that it is about decisions, and predict the action that was taken.

.. math:: L(\theta) = \mathbb E_{(s, a) \sim \mathcal D}\big[-\log \pi_\theta(a \mid s)\big]

Pomerleau (1991), "Efficient training of artificial neural networks for autonomous navigation".

It never looks at rewards, so it can at best do what the log's author did, and it is the baseline that any method
which *does* look at rewards has to beat.

Discrete actions make it a classification problem. Continuous ones make it a regression: the policy is then a normal
distribution around a network's output, with one learned spread for each entry of the action.

Departures from the paper: none that matter; Adam instead of plain gradient descent, observations normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlcourse.networks import ImitatingPolicy, adam, anneal_, imitating_policy, restore_
from rlcourse.vocabulary import Batch, Metrics, TaskSpec


@dataclass(frozen=True)
class BCConfig:
    """Settings of behavioural cloning."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers. Wider fits finer detail of the log's author, noise included."""
    learning_rate: float = 1e-3
    """Adam's step. Raise it to learn sooner, lower it when the loss jumps about."""


class BC:
    """Clones whoever wrote the log."""

    def __init__(self, spec: TaskSpec, config: BCConfig | None = None) -> None:
        self.config = config = config or BCConfig()
        self.network, self._policy = imitating_policy(spec, config.hidden)
        self.optimiser = adam(self.network.parameters(), config.learning_rate)

    @property
    def policy(self) -> ImitatingPolicy:
        """The clone."""
        return self._policy

    def update(self, batch: Batch) -> Metrics:
        """One step down the gradient of the cloning loss."""
        loss = -self._policy.log_likelihood(batch.obs, batch.action).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"policy_loss": loss.detach()}

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        anneal_(self.optimiser, fraction)

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser."""
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        restore_(self.optimiser, state["optimiser"])
