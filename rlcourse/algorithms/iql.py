r"""Implicit Q-learning for discrete actions: improve on the log without ever asking about an action it does not hold.

.. math:: L_V(\psi) = \mathbb E_{\mathcal D}\big[L_2^\tau\big(Q_{\bar\theta}(s,a) - V_\psi(s)\big)\big],\qquad
          L_2^\tau(u) = |\tau - \mathbb 1(u<0)|\,u^2

.. math:: L_Q(\theta) = \mathbb E_{\mathcal D}\Big[\tfrac12\big(Q_\theta(s,a) - r - d\,V_\psi(s')\big)^2\Big]

.. math:: L_\pi(\phi) = \mathbb E_{\mathcal D}\Big[-\min\!\big(e^{\beta\,(Q_{\bar\theta}(s,a) - V_\psi(s))},
          w_{\max}\big)\,\log\pi_\phi(a\mid s)\Big]

Kostrikov, Nair and Levine (2021), "Offline reinforcement learning with implicit Q-learning", equations 5 to 7.
The Q here is the smaller of two.

Departures from the paper: a categorical policy over discrete actions; the three losses touch three disjoint sets of
weights, so one backward pass and one fused Adam serve all of them (the same gradients, two launches fewer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rlcourse.networks import (
    CategoricalPolicy,
    LogitsNetwork,
    TwinQNetwork,
    ValueNetwork,
    adam,
    anneal_,
    frozen_copy,
    polyak_update_,
)
from rlcourse.objectives.policies import advantage_weights, negative_log_likelihood
from rlcourse.objectives.values import bellman_target, expectile_loss, squared_td_error
from rlcourse.vocabulary import Batch, Metrics, TaskSpec


@dataclass(frozen=True)
class IQLConfig:
    """Settings of implicit Q-learning."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers of all networks."""
    learning_rate: float = 1e-3
    """Adam's step."""
    tau: float = 0.8
    """The expectile. 0.5 values the log's average behaviour, towards 1 its best; too near 1 believes in luck."""
    inverse_temperature: float = 10.0
    """beta. 0 clones the log; raise it to imitate only what did better than expected."""
    maximum_weight: float = 100.0
    """Cap on one sample's weight in the policy loss (the paper's value)."""
    target_rate: float = 0.01
    """rho, how far the target networks move at each update."""


class IQL:
    """Learns V as an upper expectile of Q, Q from V, and a policy by weighted cloning."""

    def __init__(self, spec: TaskSpec, config: IQLConfig | None = None) -> None:
        self.config = config = config or IQLConfig()
        device = spec.obs_mean.device
        self.q = TwinQNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.num_actions).to(device)
        self.value = ValueNetwork(spec.obs_mean, spec.obs_std, config.hidden).to(device)
        self.logits = LogitsNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.num_actions).to(device)
        self.target_q = frozen_copy(self.q)
        weights = [*self.q.parameters(), *self.value.parameters(), *self.logits.parameters()]
        self.optimiser = adam(weights, config.learning_rate)

    @property
    def policy(self) -> CategoricalPolicy:
        """The weighted clone."""
        return CategoricalPolicy(self.logits)

    def update(self, batch: Batch) -> Metrics:
        """One step for V, Q and the policy, then the target follows."""
        with torch.no_grad():
            judged = self.target_q(batch.obs).amin(0).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)  # (B,)
            target = bellman_target(batch.reward, batch.discount, self.value(batch.next_obs))  # (B,)

        advantage = judged - self.value(batch.obs)  # (B,) Q - V
        value_loss = expectile_loss(advantage, self.config.tau).mean()

        q_one, q_two = self.q(batch.obs)  # (B, A) each
        q_loss = (squared_td_error(q_one, batch.action, target) + squared_td_error(q_two, batch.action, target)).mean()

        weight = advantage_weights(advantage, self.config.inverse_temperature, self.config.maximum_weight)
        policy_loss = (weight * negative_log_likelihood(self.logits(batch.obs), batch.action)).mean()

        self.optimiser.zero_grad()
        (value_loss + q_loss + policy_loss).backward()
        self.optimiser.step()
        polyak_update_(self.target_q, self.q, self.config.target_rate)
        return {
            "value_loss": value_loss.detach(),
            "q_loss": q_loss.detach(),
            "policy_loss": policy_loss.detach(),
            "advantage_mean": advantage.detach().mean(),
            "weight_mean": weight.mean(),
        }

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        anneal_(self.optimiser, fraction)

    def state_dict(self) -> dict[str, Any]:
        """Networks, the target among them, and optimiser."""
        return {
            "q": self.q.state_dict(),
            "target_q": self.target_q.state_dict(),
            "value": self.value.state_dict(),
            "logits": self.logits.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; the target is restored, not rebuilt from the online network."""
        self.q.load_state_dict(state["q"])
        self.target_q.load_state_dict(state["target_q"])
        self.value.load_state_dict(state["value"])
        self.logits.load_state_dict(state["logits"])
        self.optimiser.load_state_dict(state["optimiser"])
