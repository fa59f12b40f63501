r"""Conservative Q-learning for continuous actions: soft actor-critic on a log, charged for praising what nobody tried.

.. math:: L_Q(\theta) = \mathbb E_{\mathcal D}\Big[\tfrac12 \big(Q_\theta(s,a) - y\big)^2\Big]
          + \alpha\, \mathbb E_{\mathcal D}\Big[\log\int \exp Q_\theta(s,a')\,da' - Q_\theta(s,a)\Big],
          \qquad y = r + d \min Q_{\bar\theta}(s', a'),\; a' \sim \pi_\phi(\cdot \mid s')

.. math:: L_\pi(\phi) = \mathbb E_{\mathcal D}\big[\beta \log \pi_\phi(a'\mid s) - \min Q_\theta(s,a')\big],\qquad
          a' \sim \pi_\phi(\cdot \mid s)

Kumar, Zhou, Tucker and Levine (2020), "Conservative Q-learning for offline reinforcement learning", equation 4 and
appendix F: the integral is estimated from actions drawn evenly, and from the policy here and at the next state, each
weighed by its density. With ``lagrange_gap``, :math:`\alpha` finds itself (equation 30): it rises while the penalty is
above that gap, and falls while it is below.

Departures from the paper: the number of samples is taken off inside the logarithm, so that the penalty does not change
with it; :math:`\beta`, SAC's temperature, finds itself, and the target leaves the entropy out (both as in the authors'
code); all losses are taken at the same weights and touch disjoint sets of them, so one fused Adam steps them together.
"""

from __future__ import annotations

import math
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
from rlcourse.objectives.values import (
    bellman_target,
    half_squared_error,
    sampled_log_sum_exp,
    soft_maximum_draws,
)
from rlcourse.vocabulary import Batch, ContinuousActions, Metrics, TaskSpec

LARGEST_ALPHA = 1e6
"""Where a weight that finds itself stops: the log then cannot be followed more closely."""


@dataclass(frozen=True)
class ContinuousCQLConfig:
    """Settings of conservative Q-learning for continuous actions."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers of all networks."""
    layer_norm: bool = False
    """Normalise the hidden layers of Q. It then cannot praise a far action without limit, and it learns more slowly."""
    learning_rate: float = 1e-3
    """Adam's step."""
    alpha: float = 10.0
    """Weight of the conservative penalty; its first value where it finds itself. 0 is plain SAC on a log."""
    lagrange_gap: float | None = None
    """How far untried actions may stand above the log's before alpha rises. None keeps alpha as it is."""
    samples: int = 10
    """Actions drawn from each of the three sources. More make the penalty calmer, and cost in proportion."""
    gradient_draws: int | None = None
    """How many of them carry the penalty's gradient. A few keep it unbiased, make it noisier, and save most of the backward
    pass. None: all do."""
    target_rate: float = 0.01
    """rho, how far the target network moves at each update."""
    temperature: float = 1.0
    """First beta."""
    target_entropy: float | None = None
    """The entropy aimed at, in nats over actions scaled to (-1, 1); by default minus the number of action entries."""
    compiled: bool = False
    """Compile each gradient step. Worth half a minute at the start where a run takes minutes."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples is {self.samples}.", mend="Use 1 or more, for example 10.")
        if self.gradient_draws is not None and not 1 <= self.gradient_draws <= 3 * self.samples:
            raise ConfigError(
                f"{self.gradient_draws} of {3 * self.samples} sampled actions cannot carry the gradient.",
                mend="Use 1 or more and at most three times the samples, or None for all.",
            )
        if self.temperature <= 0.0:
            raise ConfigError(f"The temperature is {self.temperature}.", mend="Use a number above 0, for example 1.")
        if self.lagrange_gap is not None and self.alpha <= 0.0:
            raise ConfigError(f"alpha is {self.alpha}.", mend="One that finds itself begins above 0, for example at 1.")


class ContinuousCQL:
    """Learns twin Q-values that stay low where the log is silent, and a squashed Gaussian policy."""

    def __init__(
        self, spec: TaskSpec, config: ContinuousCQLConfig | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """``generator`` draws actions inside updates; ``None`` uses torch's global stream."""
        self.config = config = config or ContinuousCQLConfig()
        if not isinstance(spec.actions, ContinuousActions):
            raise ConfigError(
                f"This CQL needs continuous actions, and the log has {spec.num_actions} discrete ones.",
                mend="Use the one in rlcourse.algorithms.cql.",
            )
        device, size = spec.obs_mean.device, spec.actions.size
        self._generator = generator
        self.q = TwinActionQNetwork(
            spec.obs_mean, spec.obs_std, config.hidden, spec.actions, layer_norm=config.layer_norm
        ).to(device)
        self.target_q = frozen_copy(self.q)
        self.actor = MLPNetwork(spec.obs_mean, spec.obs_std, config.hidden, 2 * size).to(device)
        self.log_temperature = nn.Parameter(torch.tensor(config.temperature, device=device).log())
        # Without lagrange_gap alpha is a plain number, 0 perhaps, and this parameter rests.
        self.log_alpha = nn.Parameter(torch.tensor(config.alpha or 1.0, device=device).log())
        self.target_entropy = -float(size) if config.target_entropy is None else config.target_entropy
        self._policy = SquashedGaussianPolicy(self.actor, spec.actions)
        self._centre, self._half = spec.actions.centre, spec.actions.half_range
        self._even_density = -size * math.log(2.0)
        adaptive = [] if config.lagrange_gap is None else [self.log_alpha]
        self.descent = Descent(
            self._loss,
            [*self.q.parameters(), *self.actor.parameters(), self.log_temperature, *adaptive],
            config.learning_rate,
            follow=self._follow,
            compiled=config.compiled,
        )

    @property
    def policy(self) -> SquashedGaussianPolicy:
        """The policy as it stands; sampling explores."""
        return self._policy

    def update(self, batch: Batch) -> Metrics:
        """One step for Q, the policy and what finds itself, then the target follows."""
        shape = (2, self.config.samples, *batch.action.shape)
        noise = torch.empty(shape, device=batch.obs.device).normal_(generator=self._generator)
        even = torch.empty(shape[1:], device=batch.obs.device).uniform_(-1.0, 1.0, generator=self._generator)
        teeth = torch.rand(
            self.config.gradient_draws or 0, len(batch.reward), device=batch.obs.device, generator=self._generator
        )
        _, (td_loss, penalty, policy_loss, temperature, alpha, q) = self.descent.step(batch, noise, even, teeth)
        return {
            "td_loss": td_loss,
            "conservative_penalty": penalty,
            "policy_loss": policy_loss,
            "temperature": temperature,
            "alpha": alpha,
            "q": q,
        }

    def _follow(self) -> None:
        polyak_update_(self.target_q, self.q, self.config.target_rate)

    def _loss(self, batch: Batch, noise: Tensor, even: Tensor, teeth: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        config = self.config
        temperature = self.log_temperature.detach().exp()
        action, log_density = self._policy.sample_by(batch.obs, noise[0])  # (M, B, K), (M, B), with gradients
        with torch.no_grad():
            next_action, next_log_density = self._policy.sample_by(batch.next_obs, noise[1])
            target = bellman_target(
                batch.reward, batch.discount, self.target_q(batch.next_obs, next_action[0]).amin(0)
            )  # (B,)

        drawn = torch.cat([self._centre + self._half * even, action.detach(), next_action])  # (3 M, B, K)
        density = torch.cat([torch.full_like(log_density, self._even_density), log_density.detach(), next_log_density])
        q, soft_maximum = self._judged(batch, drawn, density, teeth)  # (2, B) each
        td_loss = half_squared_error(q, target).mean(-1).sum()
        penalty = (soft_maximum - q).mean(-1).sum()

        judged = self.q.through(batch.obs, action[0]).amin(0)
        policy_loss = soft_policy_loss(log_density[0], judged, temperature).mean()
        entropy = -log_density[0].detach().mean()

        loss = td_loss + policy_loss + temperature_loss(self.log_temperature, entropy, self.target_entropy)
        if config.lagrange_gap is None:
            alpha = torch.full_like(temperature, config.alpha)
        else:
            free = self.log_alpha.exp().clamp(max=LARGEST_ALPHA)
            alpha = free.detach()
            loss = loss - free * (0.5 * penalty.detach() - config.lagrange_gap)
        loss = loss + alpha * penalty
        kept = (td_loss, 0.5 * penalty, policy_loss, temperature, alpha, q)
        return loss, tuple(number.detach() for number in kept)

    def _judged(self, batch: Batch, drawn: Tensor, log_density: Tensor, teeth: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the log's actions and the soft maximum over the drawn ones, ``(2, B)`` each, with gradients."""
        if not len(teeth):
            values = self._values(batch.obs, torch.cat([batch.action.unsqueeze(0), drawn]))  # (2, 1 + 3 M, B)
            return values[:, 0], sampled_log_sum_exp(values[:, 1:].transpose(1, 2), log_density.T)
        with torch.no_grad():
            values = self._values(batch.obs, drawn).transpose(1, 2)  # (2, B, 3 M)
            soft_maximum = sampled_log_sum_exp(values, log_density.T)
            index, weight = soft_maximum_draws(values, log_density.T, teeth)  # (J, B), (2, J, B)
        chosen = drawn.gather(0, index.unsqueeze(-1).expand(-1, -1, drawn.shape[-1]))  # (J, B, K)
        values = self._values(batch.obs, torch.cat([batch.action.unsqueeze(0), chosen]))  # (2, 1 + J, B)
        carrier = (weight * values[:, 1:]).mean(1)
        return values[
            :, 0
        ], soft_maximum + carrier - carrier.detach()  # the value of the one, the gradient of the other

    def _values(self, obs: Tensor, actions: Tensor) -> Tensor:
        """``(2, N, B)`` of ``(N, B, K)`` actions, in one pass."""
        repeated = obs.expand(len(actions), -1, -1)
        values: Tensor = self.q(repeated.flatten(0, 1), actions.flatten(0, 1)).unflatten(1, actions.shape[:2])
        return values

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        self.descent.anneal(fraction)

    def state_dict(self) -> dict[str, Any]:
        """Networks, the target among them, what finds itself, and optimiser."""
        return {
            "q": self.q.state_dict(),
            "target_q": self.target_q.state_dict(),
            "actor": self.actor.state_dict(),
            "log_temperature": self.log_temperature.detach().clone(),
            "log_alpha": self.log_alpha.detach().clone(),
            "optimiser": self.descent.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; the target is restored, not rebuilt from the online network."""
        self.q.load_state_dict(state["q"])
        self.target_q.load_state_dict(state["target_q"])
        self.actor.load_state_dict(state["actor"])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
            self.log_alpha.copy_(state["log_alpha"])
        self.descent.load_state_dict(state["optimiser"])
