"""Policies. Those over finitely many actions say how likely each is, so that logs can carry propensities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rlcourse.errors import ConfigError
from rlcourse.networks.mlp import GaussianNetwork, LogitsNetwork
from rlcourse.objectives.policies import (
    categorical_log_probability,
    gaussian_log_probability,
    masked_logits,
    negative_log_likelihood,
    squashing_correction,
)
from rlcourse.vocabulary import ActionSpace, ContinuousActions, DiscreteActions, DiscretePolicy, Rollout, TaskSpec

Head = Callable[[Tensor], Tensor]
"""``(B, D)`` observations to ``(B, A)`` logits or values."""


def sample_actions(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``(B, A)`` probabilities to ``(B,)`` int64 actions, one draw each.

    A race: each action gets an exponential waiting time with its probability as the rate, and the first to arrive is
    taken. torch's ``multinomial`` draws the same numbers, but looks at all probabilities beforehand, which on a CPU takes
    longer than the race. Probabilities that are no numbers give an action all the same: whoever collects looks once, at
    the end of a rollout or of a log.
    """
    return (probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax(-1)


def outside(action: Tensor, actions: ContinuousActions) -> Tensor:
    """``(B, K)`` to ``(B,)`` bool: beyond a bound by more than rounding may have done."""
    slack = 1e-6 * torch.maximum(actions.low.abs(), actions.high.abs())
    return ((action < actions.low - slack) | (action > actions.high + slack)).any(-1)


class CategoricalPolicy:
    """Samples from the softmax of a network's logits; greedy takes the largest."""

    def __init__(self, logits: Head) -> None:
        self.logits = logits

    @torch.no_grad()
    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B,)`` int64."""
        if greedy:
            return self.logits(obs).argmax(-1)
        return sample_actions(self.probabilities(obs), generator)

    @staticmethod
    def noise(actions: ActionSpace, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """``(T, N, A)`` exponential numbers: with them :meth:`act_by` does what ``T`` calls of :meth:`act` would do."""
        noise = torch.empty(num_steps, num_envs, actions.count, device=generator.device)
        for each in noise:
            each.exponential_(generator=generator)
        return noise

    @torch.no_grad()
    def act_by(self, obs: Tensor, noise: Tensor) -> Tensor:
        """``(B, D)`` and ``(B, A)`` to ``(B,)`` int64; nothing in here is random, so it can be compiled.

        Each probability is divided by its number, and the largest wins: torch's own way to draw one of them.
        """
        return (self.probabilities(obs) / noise).argmax(-1)

    @torch.no_grad()
    def act_within(
        self, obs: Tensor, mask: Tensor, *, greedy: bool, generator: torch.Generator | None = None
    ) -> Tensor:
        """``(B, D)`` and a ``(B, A)`` mask of what is allowed to ``(B,)`` int64."""
        logits = masked_logits(self.logits(obs), mask)
        return logits.argmax(-1) if greedy else sample_actions(logits.softmax(-1), generator)

    @torch.no_grad()
    def probabilities(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, A)``."""
        return self.logits(obs).softmax(-1)

    def log_likelihood(self, obs: Tensor, action: Tensor) -> Tensor:
        """``(B, D)`` and ``(B,)`` to the ``(B,)`` log-probabilities of those actions, with gradients."""
        return -negative_log_likelihood(self.logits(obs), action)

    @torch.no_grad()
    def log_probability(self, rollout: Rollout) -> Tensor:
        """``(T, N)``: of each action of a rollout, among those that were allowed."""
        logits = self.logits(rollout.obs)
        if rollout.action_mask is not None:
            logits = masked_logits(logits, rollout.action_mask)
        return categorical_log_probability(logits, rollout.action)


class GaussianPolicy:
    """Samples from independent normal distributions around a network's output; greedy takes their middle.

    Samples may lie outside the bounds: the environment clips them, and the probability that counts is that of what was
    sampled.
    """

    LEAST = -5.0
    """A likelihood never counts with a log-spread further than this below half the range of its action. Whoever imitates
    a rule that never varies would otherwise become surer without end."""

    def __init__(self, mean: Head, log_std: Tensor, actions: ContinuousActions) -> None:
        self.mean = mean
        self.log_std = log_std  # (K,)
        self.actions = actions
        self._least = actions.half_range.log() + self.LEAST

    def log_likelihood(self, obs: Tensor, action: Tensor) -> Tensor:
        """``(B, D)`` and ``(B, K)`` to the ``(B,)`` log-densities of those actions, in their own units, with gradients."""
        return gaussian_log_probability(self.mean(obs), torch.maximum(self.log_std, self._least), action)

    @torch.no_grad()
    def log_density(self, obs: Tensor, action: Tensor) -> Tensor:
        """``(B, D)`` and ``(B, K)`` to ``(B,)``, of actions as sampled, before an environment clips them."""
        return gaussian_log_probability(self.mean(obs), self.log_std, action)

    @torch.no_grad()
    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B, K)``; greedy actions are within the bounds."""
        mean = self.mean(obs)
        if greedy:
            return mean.clamp(self.actions.low, self.actions.high)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + self.log_std.exp() * noise

    @staticmethod
    def noise(actions: ContinuousActions, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """``(T, N, K)`` standard normal numbers: with them :meth:`act_by` does what ``T`` calls of :meth:`act` would."""
        noise = torch.empty(num_steps, num_envs, actions.size, device=generator.device)
        for each in noise:
            each.normal_(generator=generator)
        return noise

    @torch.no_grad()
    def act_by(self, obs: Tensor, noise: Tensor) -> Tensor:
        """``(B, D)`` and ``(B, K)`` to ``(B, K)``; nothing in here is random, so it can be compiled."""
        return self.mean(obs) + self.log_std.exp() * noise

    @torch.no_grad()
    def log_probability(self, rollout: Rollout) -> Tensor:
        """``(T, N)``: of each action of a rollout, as sampled."""
        return gaussian_log_probability(self.mean(rollout.obs), self.log_std, rollout.action)


class DeterministicPolicy:
    """Does what a network says, and nothing else: ``greedy`` changes nothing."""

    def __init__(self, action: Head) -> None:
        """``action`` maps ``(B, D)`` to ``(B, K)`` within the bounds, as :class:`ActionNetwork` does."""
        self.action = action

    @torch.no_grad()
    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B, K)``."""
        return self.action(obs)


ImitatingPolicy = CategoricalPolicy | GaussianPolicy
"""Policies that say, with gradients, how likely a logged action is: what cloning needs."""


def imitating_policy(spec: TaskSpec, hidden: Sequence[int]) -> tuple[nn.Module, ImitatingPolicy]:
    """A fresh network and the policy around it, for actions of either kind."""
    if isinstance(spec.actions, DiscreteActions):
        logits = LogitsNetwork(spec.obs_mean, spec.obs_std, hidden, spec.num_actions).to(spec.obs_mean.device)
        return logits, CategoricalPolicy(logits)
    mean = GaussianNetwork(spec.obs_mean, spec.obs_std, hidden, spec.actions).to(spec.obs_mean.device)
    return mean, GaussianPolicy(mean, mean.log_std, spec.actions)


class SquashedGaussianPolicy:
    """Normal samples squeezed through tanh into the bounds; greedy takes the squeezed middle.

    Log-probabilities are densities over the actions scaled to (-1, 1), so that they mean the same whatever the bounds.
    """

    LOG_STD = (-20.0, 2.0)
    """Log-spreads are kept within these: e**2 already covers the whole of tanh."""
    INSIDE = 1.0 - 2.0**-24
    """The largest float32 below 1: as far as tanh can be undone."""

    def __init__(self, head: Head, actions: ContinuousActions) -> None:
        """``head`` maps ``(B, D)`` to ``(B, 2 K)``: means, then log-spreads."""
        self.head = head
        self.actions = actions
        self._centre, self._half = actions.centre, actions.half_range

    @torch.no_grad()
    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B, K)``."""
        if greedy:
            return self._centre + self._half * self.head(obs)[..., : self.actions.size].tanh()
        return self.sample(obs, generator)[0]

    def sample(self, obs: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """``(B, D)`` to ``(B, K)`` actions and ``(B,)`` log-probabilities, both with gradients."""
        return self.sample_by(obs, self.noise(obs.shape[0], generator))

    @torch.no_grad()
    def log_density(self, obs: Tensor, action: Tensor) -> Tensor:
        """``(B, D)`` and ``(B, K)`` to ``(B,)``, in the actions' own units; minus infinity outside the bounds.

        An action that rounding has put on its bound counts as the last number before it. Near the bounds a float32 action
        says little of what it was before it was squeezed: beyond seven spreads the error can exceed 1.
        """
        mean, log_std = self.head(obs).chunk(2, -1)
        scaled = ((action - self._centre) / self._half).double()
        unsquashed = torch.atanh(scaled.clamp(-self.INSIDE, self.INSIDE)).float()
        log_probability = gaussian_log_probability(mean, log_std.clamp(*self.LOG_STD), unsquashed)
        inside = log_probability - squashing_correction(unsquashed) - self._half.log().sum()
        return inside.masked_fill(outside(action, self.actions), -math.inf)

    def noise(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``(count, K)`` standard normal numbers, what :meth:`sample_by` turns into actions."""
        return torch.empty(count, self.actions.size, device=self._centre.device).normal_(generator=generator)

    def sample_by(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The same as :meth:`sample` with noise from outside; nothing in here is random, so it can be compiled.

        ``(M, B, K)`` noise gives ``M`` actions for each observation.
        """
        mean, log_std = self.head(obs).chunk(2, -1)
        log_std = log_std.clamp(*self.LOG_STD)
        unsquashed = mean + log_std.exp() * noise
        # The density of what was drawn is that of the noise: (u - mean) / std is the noise itself.
        log_probability = gaussian_log_probability(torch.zeros_like(noise), torch.zeros_like(log_std), noise)
        log_probability = log_probability - log_std.sum(-1) - squashing_correction(unsquashed)
        return self._centre + self._half * unsquashed.tanh(), log_probability


class UniformBoxPolicy:
    """Continuous actions drawn evenly from within their bounds; greedy takes the middle."""

    def __init__(self, actions: ContinuousActions) -> None:
        self.actions = actions

    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B, K)``."""
        if greedy:
            return self.actions.centre.expand(obs.shape[0], -1)
        return self.sample(obs, generator)[0]

    def log_density(self, obs: Tensor, action: Tensor) -> Tensor:
        """``(B, D)`` and ``(B, K)`` to ``(B,)``, in the actions' own units; minus infinity outside the bounds."""
        even = -(2.0 * self.actions.half_range).log().sum().expand(action.shape[0])
        return even.masked_fill(outside(action, self.actions), -math.inf)

    def sample(self, obs: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """``(B, D)`` to ``(B, K)`` actions and ``(B,)`` log-densities over the actions scaled to (-1, 1): ``-K ln 2``."""
        count, size = obs.shape[0], self.actions.size
        noise = torch.empty(count, size, device=obs.device).uniform_(-1.0, 1.0, generator=generator)
        density = torch.full((count,), -size * math.log(2.0), device=obs.device)
        return self.actions.centre + self.actions.half_range * noise, density


class GreedyQPolicy:
    """Takes the action of the largest Q-value. It is deterministic: ``greedy`` changes nothing.

    ``q`` may return ``(B, A)``, or ``(2, B, A)`` for twins, of which the smaller counts.
    """

    def __init__(self, q: Head) -> None:
        self.q = q

    @torch.no_grad()
    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B,)`` int64."""
        return self.values(obs).argmax(-1)

    @torch.no_grad()
    def probabilities(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, A)``: 1 for the chosen action, 0 for the others."""
        values = self.values(obs)
        return torch.zeros_like(values).scatter_(-1, values.argmax(-1, keepdim=True), 1.0)

    @torch.no_grad()
    def values(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, A)`` Q-values."""
        q = self.q(obs)
        return q.amin(0) if q.dim() == 3 else q


class EpsilonGreedyPolicy:
    """Follows ``base`` greedily, but takes a uniformly random action with probability ``epsilon``."""

    def __init__(self, base: DiscretePolicy, epsilon: float) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise ConfigError(f"epsilon is {epsilon}.", mend="It is a probability: use 0 to 1.")
        self.base = base
        self.epsilon = epsilon
        self._num_actions = 0  # not known before the first observation

    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B,)`` int64."""
        if greedy:
            return self.base.act(obs, greedy=True)
        return sample_actions(self.probabilities(obs), generator)

    def probabilities(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, A)``: epsilon shared among all, the rest on the base policy's greedy action."""
        action = self.base.act(obs, greedy=True)
        self._num_actions = num_actions = self._num_actions or self.base.probabilities(obs[:1]).shape[-1]
        shared = torch.full((obs.shape[0], num_actions), self.epsilon / num_actions, device=obs.device)
        return shared.scatter_add_(-1, action.unsqueeze(-1), torch.full_like(shared[:, :1], 1.0 - self.epsilon))


class UniformPolicy:
    """Every action alike: the baseline below every other. Greedy has nothing to go by and takes action 0."""

    def __init__(self, num_actions: int) -> None:
        if num_actions < 1:
            raise ConfigError(f"{num_actions} actions leave nothing to choose.", mend="Use 1 or more.")
        self.num_actions = num_actions

    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B,)`` int64."""
        if greedy:
            return torch.zeros(obs.shape[0], dtype=torch.int64, device=obs.device)
        return sample_actions(self.probabilities(obs), generator)

    def probabilities(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, A)``, all ``1 / A``."""
        return torch.full((obs.shape[0], self.num_actions), 1.0 / self.num_actions, device=obs.device)


class ScriptedPolicy:
    """Acts by a plain function of the observation; for tests, baselines and thermostats."""

    def __init__(self, rule: Callable[[Tensor], Tensor], num_actions: int) -> None:
        self.rule = rule
        self.num_actions = num_actions

    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B,)`` int64."""
        return self.rule(obs)

    def probabilities(self, obs: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, A)``: 1 for the rule's action."""
        return torch.nn.functional.one_hot(self.rule(obs), self.num_actions).float()
