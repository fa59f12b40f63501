r"""Implicit Q-learning: improve on the log without ever asking about an action it does not hold.

.. math:: L_V(\psi) = \mathbb E_{\mathcal D}\big[L_2^\tau\big(Q_{\bar\theta}(s,a) - V_\psi(s)\big)\big],\qquad
          L_2^\tau(u) = |\tau - \mathbb 1(u<0)|\,u^2

.. math:: L_Q(\theta) = \mathbb E_{\mathcal D}\Big[\tfrac12\big(Q_\theta(s,a) - r - d\,V_\psi(s')\big)^2\Big]

.. math:: L_\pi(\phi) = \mathbb E_{\mathcal D}\Big[-\min\!\big(e^{\beta\,(Q_{\bar\theta}(s,a) - V_\psi(s))},
          w_{\max}\big)\,\log\pi_\phi(a\mid s)\Big]

Kostrikov, Nair and Levine (2021), "Offline reinforcement learning with implicit Q-learning", equations 5 to 7.
The Q here is the smaller of two.

Continuous actions get the paper's policy: a normal distribution, its mean squeezed into the bounds by tanh, with one
learned spread for each entry. Discrete ones get a categorical policy. Nothing else differs.

Departures from the paper: the categorical policy; the three losses touch three disjoint sets of weights, so one
backward pass and one fused Adam serve all of them (the same gradients, two launches fewer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlcourse.networks import (
    Descent,
    ImitatingPolicy,
    ValueNetwork,
    frozen_copy,
    imitating_policy,
    polyak_update_,
    twin_q,
)
from rlcourse.objectives.policies import advantage_weights
from rlcourse.objectives.values import bellman_target, expectile_loss, half_squared_error
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
    """beta. 0 clones the log; raise it to imitate only what did better than expected. In units of one over the return: with
    rewards divided by ten, ten times as much means the same."""
    maximum_weight: float = 100.0
    """Cap on one sample's weight in the policy loss (the paper's value)."""
    target_rate: float = 0.01
    """rho, how far the target networks move at each update."""
    compiled: bool = False
    """Compile each gradient step. Worth twenty seconds at the start where a run takes minutes."""


class IQL:
    """Learns V as an upper expectile of Q, Q from V, and a policy by weighted cloning."""

    def __init__(self, spec: TaskSpec, config: IQLConfig | None = None) -> None:
        self.config = config = config or IQLConfig()
        device = spec.obs_mean.device
        self.q = twin_q(spec, config.hidden)
        self.value = ValueNetwork(spec.obs_mean, spec.obs_std, config.hidden).to(device)
        self.network, self._policy = imitating_policy(spec, config.hidden)
        self.target_q = frozen_copy(self.q)
        self.descent = Descent(
            self._loss,
            [*self.q.parameters(), *self.value.parameters(), *self.network.parameters()],
            config.learning_rate,
            follow=self._follow,
            compiled=config.compiled,
        )

    @property
    def policy(self) -> ImitatingPolicy:
        """The weighted clone."""
        return self._policy

    def update(self, batch: Batch) -> Metrics:
        """One step for V, Q and the policy, then the target follows."""
        _, (value_loss, q_loss, policy_loss, advantage_mean, weight_mean) = self.descent.step(batch)
        return {
            "value_loss": value_loss,
            "q_loss": q_loss,
            "policy_loss": policy_loss,
            "advantage_mean": advantage_mean,
            "weight_mean": weight_mean,
        }

    def _follow(self) -> None:
        polyak_update_(self.target_q, self.q, self.config.target_rate)

    def _loss(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.no_grad():
            judged = self.target_q.of(batch.obs, batch.action).amin(0)  # (B,)
            target = bellman_target(batch.reward, batch.discount, self.value(batch.next_obs))  # (B,)

        advantage = judged - self.value(batch.obs)  # (B,) Q - V
        value_loss = expectile_loss(advantage, self.config.tau).mean()

        q_loss = half_squared_error(self.q.of(batch.obs, batch.action), target).mean(-1).sum()  # of both

        weight = advantage_weights(advantage, self.config.inverse_temperature, self.config.maximum_weight)
        policy_loss = -(weight * self._policy.log_likelihood(batch.obs, batch.action)).mean()

        kept = (value_loss, q_loss, policy_loss, advantage.mean(), weight.mean())
        return value_loss + q_loss + policy_loss, tuple(number.detach() for number in kept)

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        self.descent.anneal(fraction)

    def state_dict(self) -> dict[str, Any]:
        """Networks, the target among them, and optimiser."""
        return {
            "q": self.q.state_dict(),
            "target_q": self.target_q.state_dict(),
            "value": self.value.state_dict(),
            "network": self.network.state_dict(),
            "optimiser": self.descent.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; the target is restored, not rebuilt from the online network."""
        self.q.load_state_dict(state["q"])
        self.target_q.load_state_dict(state["target_q"])
        self.value.load_state_dict(state["value"])
        self.network.load_state_dict(state["network"])
        self.descent.load_state_dict(state["optimiser"])
