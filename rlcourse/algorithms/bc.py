r"""Behavioural cloning: treat the log as a classification problem and predict the action that was taken.

.. math:: L(\theta) = \mathbb E_{(s, a) \sim \mathcal D}\big[-\log \pi_\theta(a \mid s)\big]

Pomerleau (1991), "Efficient training of artificial neural networks for autonomous navigation".

It never looks at rewards, so it can at best do what the log's author did, and it is the baseline that any method
which *does* look at rewards has to beat.

Departures from the paper: none that matter; Adam instead of plain gradient descent, observations normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlcourse.networks import CategoricalPolicy, LogitsNetwork, adam, anneal_
from rlcourse.objectives.policies import categorical_entropy, negative_log_likelihood
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
        device = spec.obs_mean.device
        self.logits = LogitsNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.num_actions).to(device)
        self.optimiser = adam(self.logits.parameters(), config.learning_rate)

    @property
    def policy(self) -> CategoricalPolicy:
        """The clone."""
        return CategoricalPolicy(self.logits)

    def update(self, batch: Batch) -> Metrics:
        """One step down the gradient of the cloning loss."""
        logits = self.logits(batch.obs)  # (B, A)
        loss = negative_log_likelihood(logits, batch.action).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"policy_loss": loss.detach(), "entropy": categorical_entropy(logits.detach()).mean()}

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        anneal_(self.optimiser, fraction)

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser."""
        return {"logits": self.logits.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.logits.load_state_dict(state["logits"])
        self.optimiser.load_state_dict(state["optimiser"])
