r"""TD3+BC: the plainest way to learn continuous actions from a log. Q-learning, and a tax on leaving the log.

.. math:: L_Q(\theta) = \mathbb E_{\mathcal D}\Big[\tfrac12\big(Q_\theta(s,a) - r
          - d \min Q_{\bar\theta}(s', \tilde a)\big)^2\Big],\qquad
          \tilde a = \pi_{\bar\phi}(s') + \mathrm{clip}(\epsilon, -c, c)

.. math:: L_\pi(\phi) = \mathbb E_{\mathcal D}\Big[-\lambda\, Q_\theta(s, \pi_\phi(s)) + \big(\pi_\phi(s) - a\big)^2\Big],
          \qquad \lambda = \frac{\alpha}{\mathbb E_{\mathcal D}\,|Q_\theta(s, \pi_\phi(s))|}

Fujimoto and Gu (2021), "A minimalist approach to offline reinforcement learning", equations 3 to 5; Fujimoto, van Hoof
and Meger (2018), algorithm 1. Dividing by the size of Q keeps the two parts of the second loss in the same proportion
whatever the rewards' unit is. Actions are scaled to (-1, 1) wherever they are squared or noise is added.

Departures from the paper: the target networks follow at every update, also where the policy rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlcourse.errors import ConfigError
from rlcourse.networks import (
    ActionNetwork,
    Descent,
    DeterministicPolicy,
    TwinActionQNetwork,
    frozen_copy,
    polyak_update_,
)
from rlcourse.objectives.policies import normalised_gain
from rlcourse.objectives.values import bellman_target, half_squared_error
from rlcourse.vocabulary import Batch, ContinuousActions, Metrics, TaskSpec


@dataclass(frozen=True)
class TD3BCConfig:
    """Settings of TD3+BC."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers of all networks."""
    layer_norm: bool = False
    """Normalise the hidden layers of Q. It then cannot praise a far action without limit, and it learns more slowly."""
    learning_rate: float = 1e-3
    """Adam's step."""
    alpha: float = 2.5
    """How much Q counts beside staying with the log (the paper's value). 0 clones the log."""
    target_rate: float = 0.01
    """rho, how far the target networks move at each update."""
    target_noise: float = 0.2
    """Spread of the noise on the target's action, in half ranges: neighbouring actions should be worth alike."""
    noise_limit: float = 0.5
    """c, the most that this noise may be."""
    policy_every: int = 2
    """Updates of Q for one of the policy. A policy that waits is judged by a Q that has settled more."""
    compiled: bool = False
    """Compile each gradient step. Worth half a minute at the start where a run takes minutes."""

    def __post_init__(self) -> None:
        if self.policy_every < 1:
            raise ConfigError(f"policy_every is {self.policy_every}.", mend="Use 1 or more.")


class TD3BC:
    """Learns twin Q-values and a deterministic policy that is held near the log's actions."""

    def __init__(
        self, spec: TaskSpec, config: TD3BCConfig | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """``generator`` draws the noise inside updates; ``None`` uses torch's global stream."""
        self.config = config = config or TD3BCConfig()
        if not isinstance(spec.actions, ContinuousActions):
            raise ConfigError(
                f"TD3+BC needs continuous actions, and this log has {spec.num_actions} discrete ones.",
                mend="Use bc, cql or iql.",
            )
        device = spec.obs_mean.device
        self.actions, self._generator = spec.actions, generator
        self.q = TwinActionQNetwork(
            spec.obs_mean, spec.obs_std, config.hidden, spec.actions, layer_norm=config.layer_norm
        ).to(device)
        self.actor = ActionNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.actions).to(device)
        self.target_q, self.target_actor = frozen_copy(self.q), frozen_copy(self.actor)
        self._centre, self._half = spec.actions.centre, spec.actions.half_range
        rate, compiled = config.learning_rate, config.compiled
        self.q_descent = Descent(self._q_loss, self.q.parameters(), rate, follow=self._follow, compiled=compiled)
        self.descent = Descent(self._policy_loss, self.actor.parameters(), rate, compiled=compiled)
        self.updates = 0

    @property
    def policy(self) -> DeterministicPolicy:
        """The policy as it stands."""
        return DeterministicPolicy(self.actor)

    def update(self, batch: Batch) -> Metrics:
        """One step for Q and, every other time, one for the policy."""
        noise = torch.empty_like(batch.action).normal_(generator=self._generator)
        _, (q_loss, q) = self.q_descent.step(batch, noise)
        metrics = {"q_loss": q_loss, "q": q}
        self.updates += 1
        if self.updates % self.config.policy_every == 0:
            _, (policy_loss, distance) = self.descent.step(batch)
            metrics |= {"policy_loss": policy_loss, "squared_distance": distance}
        return metrics

    def _q_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        limit = self.config.noise_limit
        with torch.no_grad():
            shift = (self.config.target_noise * noise).clamp(-limit, limit)
            scaled = (self.target_actor(batch.next_obs) - self._centre) / self._half + shift
            next_action = self._centre + self._half * scaled.clamp(-1.0, 1.0)
            target = bellman_target(batch.reward, batch.discount, self.target_q(batch.next_obs, next_action).amin(0))
        q = self.q(batch.obs, batch.action)  # (2, B)
        return half_squared_error(q, target).mean(-1).sum(), (
            half_squared_error(q.detach(), target).mean(),
            q.detach(),
        )

    def _policy_loss(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        action = self.actor(batch.obs)
        q = self.q.through(batch.obs, action)[0]  # (B,)
        distance = ((action - batch.action) / self._half).square().mean()
        loss = distance - self.config.alpha * normalised_gain(q).mean()
        return loss, (loss.detach(), distance.detach())

    def _follow(self) -> None:
        polyak_update_(self.target_q, self.q, self.config.target_rate)
        polyak_update_(self.target_actor, self.actor, self.config.target_rate)

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rates to a fraction of their first values."""
        self.q_descent.anneal(fraction)
        self.descent.anneal(fraction)

    def state_dict(self) -> dict[str, Any]:
        """Networks, the targets among them, optimisers and counter."""
        networks = {"q": self.q, "target_q": self.target_q, "actor": self.actor, "target_actor": self.target_actor}
        return {
            **{name: network.state_dict() for name, network in networks.items()},
            "q_optimiser": self.q_descent.state_dict(),
            "optimiser": self.descent.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; the targets are restored, not rebuilt from the online networks."""
        self.q.load_state_dict(state["q"])
        self.target_q.load_state_dict(state["target_q"])
        self.actor.load_state_dict(state["actor"])
        self.target_actor.load_state_dict(state["target_actor"])
        self.q_descent.load_state_dict(state["q_optimiser"])
        self.descent.load_state_dict(state["optimiser"])
        self.updates = state["updates"]
