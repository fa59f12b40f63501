r"""Soft actor-critic: be paid for keeping an open mind, and learn from a memory of what happened.

.. math:: L_Q(\theta) = \mathbb E\Big[\tfrac12\big(Q_\theta(s,a) - r - d\,\big(\min Q_{\bar\theta}(s',a')
          - \alpha \log\pi_\phi(a'\mid s')\big)\big)^2\Big]

.. math:: L_\pi(\phi) = \mathbb E\big[\alpha \log \pi_\phi(a\mid s) - \min Q_\theta(s,a)\big],\qquad
          L(\alpha) = \mathbb E\big[-\log\alpha\,\big(\log \pi_\phi(a\mid s) + \bar{\mathcal H}\big)\big]

with :math:`a', a` drawn from the policy, not from the memory. Haarnoja et al. (2018), "Soft actor-critic algorithms and
applications", equations 5, 9 and 18; the temperature :math:`\alpha` finds itself by aiming at the entropy
:math:`\bar{\mathcal H}`, by default minus the number of action entries.

Departures from the paper: :math:`\log\alpha` is learned in place of :math:`\alpha` (as in the authors' code). The three
losses are all taken at the same weights and touch three disjoint sets of them, so one fused Adam steps them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlcourse.errors import ConfigError
from rlcourse.networks import (
    Descent,
    MLPNetwork,
    SquashedGaussianPolicy,
    TwinActionQNetwork,
    frozen_copy,
    polyak_update_,
)
from rlcourse.objectives.policies import soft_policy_loss, temperature_loss
from rlcourse.objectives.values import bellman_target, half_squared_error
from rlcourse.vocabulary import Batch, ContinuousActions, Metrics, TaskSpec


@dataclass(frozen=True)
class SACConfig:
    """Settings of soft actor-critic."""

    hidden: tuple[int, ...] = (256, 256)
    """Sizes of the hidden layers of all networks."""
    learning_rate: float = 1e-3
    """Adam's step, for all three losses."""
    target_rate: float = 0.005
    """rho, how far the target network moves at each update (the paper's value)."""
    temperature: float = 1.0
    """First alpha. Raise it to begin with more noise; it finds its own value soon."""
    target_entropy: float | None = None
    """The entropy aimed at, in nats over actions scaled to (-1, 1); by default minus the number of action entries.
    Lower it for a policy that makes up its mind."""
    compiled: bool = False
    """Compile each gradient step. Worth half a minute at the start where a run takes several."""

    def __post_init__(self) -> None:
        if self.temperature <= 0.0:
            raise ConfigError(f"The temperature is {self.temperature}.", mend="Use a number above 0, for example 1.")


class SAC:
    """Learns twin Q-values, a squashed Gaussian policy, and its own temperature."""

    def __init__(
        self, spec: TaskSpec, config: SACConfig | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """``generator`` draws the policy's actions inside updates; ``None`` uses torch's global stream."""
        self.config = config = config or SACConfig()
        if not isinstance(spec.actions, ContinuousActions):
            raise ConfigError(
                f"SAC needs continuous actions, and this task has {spec.num_actions} discrete ones.",
                mend="Use dqn or ppo.",
            )
        device, size = spec.obs_mean.device, spec.actions.size
        self._generator = generator
        self.q = TwinActionQNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.actions).to(device)
        self.target_q = frozen_copy(self.q)
        self.actor = MLPNetwork(spec.obs_mean, spec.obs_std, config.hidden, 2 * size).to(device)
        self.log_temperature = nn.Parameter(torch.tensor(config.temperature, device=device).log())
        self.target_entropy = -float(size) if config.target_entropy is None else config.target_entropy
        self._policy = SquashedGaussianPolicy(self.actor, spec.actions)
        self.descent = Descent(
            self._loss,
            [*self.q.parameters(), *self.actor.parameters(), self.log_temperature],
            config.learning_rate,
            follow=self._follow,
            compiled=config.compiled,
        )

    @property
    def policy(self) -> SquashedGaussianPolicy:
        """The policy as it stands; sampling explores."""
        return self._policy

    def update(self, batch: Batch) -> Metrics:
        """One step for Q, the policy and the temperature, then the target follows."""
        next_noise, noise = (self._policy.noise(len(batch), self._generator) for _ in range(2))
        _, (q_loss, policy_loss, temperature, entropy, q) = self.descent.step(batch, next_noise, noise)
        return {
            "q_loss": q_loss,
            "policy_loss": policy_loss,
            "temperature": temperature,
            "entropy": entropy,
            "q": q,
        }

    def _follow(self) -> None:
        polyak_update_(self.target_q, self.q, self.config.target_rate)

    def _loss(self, batch: Batch, next_noise: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        temperature = self.log_temperature.detach().exp()
        with torch.no_grad():
            next_action, next_log_probability = self._policy.sample_by(batch.next_obs, next_noise)
            next_value = self.target_q(batch.next_obs, next_action).amin(0) - temperature * next_log_probability
            target = bellman_target(batch.reward, batch.discount, next_value)  # (B,)

        q = self.q(batch.obs, batch.action)  # (2, B)
        q_loss = half_squared_error(q, target).mean(-1).sum()

        action, log_probability = self._policy.sample_by(batch.obs, noise)
        judged = self.q.through(batch.obs, action).amin(0)
        policy_loss = soft_policy_loss(log_probability, judged, temperature).mean()

        entropy = -log_probability.detach().mean()
        entropy_loss = temperature_loss(self.log_temperature, entropy, self.target_entropy)

        # Each weight is in one of the three alone, so the gradient of the sum is all three gradients.
        kept = (q_loss.detach(), policy_loss.detach(), temperature, entropy, q.detach())
        return q_loss + policy_loss + entropy_loss, kept

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        self.descent.anneal(fraction)

    def state_dict(self) -> dict[str, Any]:
        """Networks, the target among them, temperature and optimiser."""
        return {
            "q": self.q.state_dict(),
            "target_q": self.target_q.state_dict(),
            "actor": self.actor.state_dict(),
            "log_temperature": self.log_temperature.detach().clone(),
            "optimiser": self.descent.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; the target is restored, not rebuilt from the online network."""
        self.q.load_state_dict(state["q"])
        self.target_q.load_state_dict(state["target_q"])
        self.actor.load_state_dict(state["actor"])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        self.descent.load_state_dict(state["optimiser"])
