r"""Proximal policy optimisation: learn from what the policy just did, and do not run away from it.

.. math:: L(\theta) = -\mathbb E\Big[\min\big(\rho A,\ \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon)\,A\big)\Big]
          + c_V\, \mathbb E\big[(V_\theta(s) - \hat V)^2\big] - c_H\, \mathbb E\big[\mathcal H(\pi_\theta(\cdot \mid s))\big]

with :math:`\rho = \pi_\theta(a \mid s) / \pi_{\mathrm{old}}(a \mid s)`, the advantages :math:`A` of Schulman et al. (2016) and
:math:`\hat V = A + V_{\mathrm{old}}(s)`. Schulman, Wolski, Dhariwal, Radford and Klimov (2017), "Proximal policy
optimization algorithms", equation 9.

Departures from the paper: separate networks for policy and value; advantages are normalised in each minibatch; the
gradient's length is capped (both as in the authors' code); the value loss is not clipped. Values of what follows are
those of the *true* next observation, so a time limit never passes for the end of the task.

With ``memory`` set, policy and value share a recurrent network. Minibatches are then whole sequences of some of the
environments, replayed from the memory they began with and wiped where an episode began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlcourse.errors import ConfigError, ShapeError
from rlcourse.networks import (
    Activation,
    CategoricalPolicy,
    Descent,
    GaussianPolicy,
    LogitsNetwork,
    MLPNetwork,
    Program,
    RecurrentActorCritic,
    RecurrentCategoricalPolicy,
    ValueNetwork,
    orthogonal_,
)
from rlcourse.objectives.policies import (
    categorical_entropy,
    categorical_log_probability,
    clipped_surrogate,
    gaussian_entropy,
    gaussian_log_probability,
    kl_estimate,
    masked_logits,
    normalised_advantages,
)
from rlcourse.objectives.returns import generalised_advantages
from rlcourse.vocabulary import ContinuousActions, Metrics, Rollout, SamplingPolicy, TaskSpec


@dataclass(frozen=True)
class PPOConfig:
    """Settings of proximal policy optimisation."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers of both networks; with ``memory`` they are not used."""
    activation: Activation = "tanh"
    """tanh is smooth and bounded, relu is quicker."""
    memory: int = 0
    """H, size of a recurrent memory; 0 for none. For tasks in which one observation does not tell enough."""
    learning_rate: float = 1e-3
    """Adam's first step; it falls linearly when the loop anneals."""
    epochs: int = 20
    """How often each rollout is gone through. More squeezes out more, and strays further from the data."""
    batch_size: int = 256
    """Samples in one gradient step; a rollout of no more than this is one batch."""
    clip: float = 0.2
    """epsilon. How far a probability ratio may stray from 1 before it stops counting. Falls with the learning rate."""
    lambda_: float = 0.8
    """Horizon of the advantages. 0 trusts the values, 1 the rewards."""
    value_weight: float = 0.5
    """c_V. Raise it if the values lag behind."""
    entropy_weight: float = 0.0
    """c_H. Raise it if the policy makes up its mind too early."""
    maximum_gradient: float = 0.5
    """Cap on the length of one step's gradient."""
    compiled: bool = False
    """Compile updates. Worth half a minute at the start where a run takes minutes; not with ``memory``. Four minibatches
    are one program, and each order of their sizes is compiled for itself: let ``batch_size`` divide the rollout. Minibatches
    of 256, 256 and 100, over and over, come in three orders, which are three programs to wait for."""
    log_std: float = 0.0
    """First log-spread of continuous actions, in half-ranges of their bounds. Lower it for a calmer start."""

    def __post_init__(self) -> None:
        if self.compiled and self.memory:
            raise ConfigError("Steps with a memory are not compiled.", mend="Leave one of the two off.")
        if self.epochs < 1 or self.batch_size < 2 or self.clip <= 0.0 or self.memory < 0:
            raise ConfigError(
                f"epochs {self.epochs}, batch size {self.batch_size}, clip {self.clip}, memory {self.memory}.",
                mend="Use 1 or more epochs, batches of 2 or more, a clip above 0 and a memory of 0 or more.",
            )


@dataclass(frozen=True)
class Samples:
    """A rollout with its advantages, or a part of one. Leading axes are ``(B,)``, or ``(T, n)`` with a memory."""

    obs: Tensor
    action: Tensor
    log_probability: Tensor
    advantage: Tensor
    target: Tensor  # V is pulled towards this
    starts: Tensor
    mask: Tensor | None
    memory: Tensor | None  # (n, H)

    def flattened(self) -> Samples:
        """Time and environments as one axis."""
        return self._each(lambda column: column.flatten(0, 1))

    def selected(self, axis: int, index: Tensor) -> Samples:
        """Some entries of an axis; of the memory, whose only leading axis is the environments, of axis 0."""
        part = self._each(lambda column: column.index_select(axis, index))
        return part if self.memory is None else replace(part, memory=self.memory.index_select(0, index))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Samples:
        columns: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "memory"}
        changed: dict[str, Any] = {name: None if column is None else change(column) for name, column in columns.items()}
        return replace(self, **changed)


class PPO:
    """Learns a policy and its values from rollouts of that very policy."""

    def __init__(
        self, spec: TaskSpec, config: PPOConfig | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """``generator`` shuffles minibatches; ``None`` uses torch's global stream."""
        self.config = config = config or PPOConfig()
        self.actions = spec.actions
        device = spec.obs_mean.device
        self.clip = torch.tensor(config.clip, device=device)  # a tensor: a compiled step sees it change
        self._generator = generator
        self.network = _ActorCritic(spec, config).to(device)
        self.descent = Descent(
            self._loss,
            self.network.parameters(),
            config.learning_rate,
            epsilon=1e-5,
            maximum_gradient=config.maximum_gradient,
            compiled=config.compiled,
        )
        self._judged = Program(self.judge) if config.compiled else self.judge
        self._reported = Program(self._report) if config.compiled else self._report

    @property
    def policy(self) -> SamplingPolicy:
        """The policy that acted, until the next update."""
        return self.network.policy

    @property
    def generator(self) -> torch.Generator | None:
        """What shuffles minibatches."""
        return self._generator

    @property
    def repeatable(self) -> bool:
        """Every update is the same list of operations; compiled steps count by themselves, outside of it."""
        return not self.config.compiled

    def update(self, rollout: Rollout) -> Metrics:
        """Judge what was done, then improve on it for some epochs."""
        if rollout.num_steps < 2 or (self.config.memory and rollout.reward.shape[0] < 2):
            raise ShapeError(
                f"A rollout of {tuple(rollout.reward.shape)} steps has no spread to normalise advantages by.",
                mend="Collect at least 2 steps in all, and with a memory 2 of each environment.",
            )
        samples, explained = self._judged(rollout)
        part = samples

        def inputs() -> Iterator[tuple[Samples, Tensor]]:
            nonlocal part
            for _ in range(self.config.epochs):
                for part in self._minibatches(samples):
                    yield part, self.clip

        length, _ = self.descent.run(inputs())
        return {**self._reported(part), "gradient_norm": length, "explained_variance": explained}

    @torch.no_grad()
    def judge(self, rollout: Rollout) -> tuple[Samples, Tensor]:
        """Advantages and value targets of a rollout, and the share of the targets' variance that V explains."""
        value, next_value = self.network.judge(rollout)
        advantage = generalised_advantages(
            rollout.reward, value, next_value, rollout.discount, rollout.continues, self.config.lambda_
        )
        target = advantage + value
        explained = 1.0 - advantage.var() / (target.var() + 1e-8)
        samples = Samples(
            rollout.obs,
            rollout.action,
            rollout.log_probability,
            advantage,
            target,
            rollout.starts,
            rollout.action_mask,
            rollout.memory,
        )
        return samples if self.config.memory else samples.flattened(), explained

    def _minibatches(self, samples: Samples) -> Iterator[Samples]:
        # With a memory a sample is one environment's whole sequence (axis 1), otherwise one step (axis 0).
        axis = 1 if self.config.memory else 0
        count = samples.action.shape[axis]
        size = max(1, self.config.batch_size // samples.action.shape[0]) if axis else self.config.batch_size
        if size >= count:
            yield samples
            return
        order = torch.randperm(count, generator=self._generator, device=samples.action.device)
        for index in order.split(size):
            if index.shape[0] == 1 and axis == 0:
                continue  # one left-over sample has no spread to normalise by
            yield samples.selected(axis, index)

    def _loss(self, part: Samples, clip: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        log_probability, entropy, value = self.network(part)
        advantage = normalised_advantages(part.advantage)
        surrogate = clipped_surrogate(log_probability, part.log_probability, advantage, clip).mean()
        loss = self.config.value_weight * functional.mse_loss(value, part.target) - surrogate
        if self.config.entropy_weight > 0.0:
            loss = loss - self.config.entropy_weight * entropy().mean()
        return loss, ()

    @torch.no_grad()
    def _report(self, part: Samples) -> Metrics:
        """What the last minibatch looks like after the last step."""
        log_probability, entropy, value = self.network(part)
        advantage = normalised_advantages(part.advantage)
        ratio = (log_probability - part.log_probability).exp()
        return {
            "policy_loss": -clipped_surrogate(log_probability, part.log_probability, advantage, self.clip).mean(),
            "value_loss": functional.mse_loss(value, part.target),
            "entropy": entropy().mean(),
            "kl": kl_estimate(log_probability, part.log_probability).mean(),
            "clip_fraction": ((ratio - 1.0).abs() > self.clip).float().mean(),
        }

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate and the clip to a fraction of their first values."""
        self.descent.anneal(fraction)
        self.clip.fill_(self.config.clip * max(fraction, 1e-3))

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, and how far the clip has shrunk."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.descent.state_dict(),
            "clip": self.clip.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.descent.load_state_dict(state["optimiser"])
        self.clip.copy_(state["clip"])


class _ActorCritic(nn.Module):
    """Policy and value networks for either kind of actions, with or without a memory."""

    def __init__(self, spec: TaskSpec, config: PPOConfig) -> None:
        super().__init__()
        self.actions = spec.actions
        self.recurrent: RecurrentActorCritic | None = None
        continuous = isinstance(spec.actions, ContinuousActions)
        if config.memory:
            if continuous:
                raise ConfigError(
                    "A recurrent policy over continuous actions is not built here.",
                    mend="Use memory 0, or a task with discrete actions.",
                )
            self.recurrent = RecurrentActorCritic(spec.obs_mean, spec.obs_std, config.memory, spec.num_actions)
            self.policy: SamplingPolicy = RecurrentCategoricalPolicy(self.recurrent)
            return
        self.critic = ValueNetwork(spec.obs_mean, spec.obs_std, config.hidden, config.activation)
        orthogonal_(self.critic.layers, 1.0)
        if isinstance(spec.actions, ContinuousActions):
            self.mean = MLPNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.actions.size, config.activation)
            orthogonal_(self.mean.layers, 0.01)
            # In units of the actions: the network's output starts near 0, in the middle of symmetric bounds.
            self.log_std = nn.Parameter(config.log_std + spec.actions.half_range.log())
            self.policy = GaussianPolicy(self.mean, self.log_std, spec.actions)
        else:
            self.logits = LogitsNetwork(spec.obs_mean, spec.obs_std, config.hidden, spec.num_actions, config.activation)
            orthogonal_(self.logits.layers, 0.01)
            self.policy = CategoricalPolicy(self.logits)

    def judge(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """``(T, N)`` values of what was seen and of what truly followed."""
        if self.recurrent is None:
            value: Tensor = self.critic(rollout.obs)
            return value, self.critic(rollout.next_obs)
        assert rollout.memory is not None
        memories = self.recurrent.unroll(rollout.obs, rollout.starts, rollout.memory)
        following = self.recurrent.remember(rollout.next_obs.flatten(0, 1), memories.flatten(0, 1))
        return self.recurrent.values(memories), self.recurrent.values(following).view_as(rollout.reward)

    def forward(self, part: Samples) -> tuple[Tensor, Any, Tensor]:
        """Log-probabilities of the actions, a function that gives the entropies, and values."""
        if self.recurrent is not None:
            assert part.memory is not None
            memories = self.recurrent.unroll(part.obs, part.starts, part.memory)
            logits = self.recurrent.actor(memories)
            value = self.recurrent.values(memories)
        else:
            value = self.critic(part.obs)
            if isinstance(self.actions, ContinuousActions):
                mean = self.mean(part.obs)
                log_probability = gaussian_log_probability(mean, self.log_std, part.action)
                return log_probability, lambda: gaussian_entropy(self.log_std), value
            logits = self.logits(part.obs)
        if part.mask is not None:
            logits = masked_logits(logits, part.mask)
        return categorical_log_probability(logits, part.action), lambda: categorical_entropy(logits), value
