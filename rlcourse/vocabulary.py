"""The nouns that cross the seams of this package, with a shape on every line.

Sizes are capital letters throughout the course: ``B`` batch, ``T`` time, ``A`` actions, ``N`` environments,
``E`` episodes, ``D`` numbers in one observation, ``K`` numbers in one continuous action, ``H`` numbers of memory.

One step of experience, drawn in time::

      obs_t ──action_t──▶ reward_t, discount_t, next_obs_t
                                       │
                                       └── gamma      if the task goes on (also when a time limit cut the episode)
                                           0          if the task ended

There is no ``done``.  A batch carries ``discount = gamma * (1 - terminated)``, so a Bellman target is always
``reward + discount * value(next_obs)`` and a time limit cannot be mistaken for the end of the world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from rlcourse.errors import ConfigError, ShapeError

Metrics = Mapping[str, Tensor]
"""Named tensors: 0-d ones are numbers, those with more entries are samples of something whose spread is worth knowing.
They stay on the device: reading one with ``.item()`` waits for the device, so the loop decides when."""


@dataclass(frozen=True, slots=True)
class DiscreteActions:
    """``A`` actions, named 0 to ``A - 1``; a batch of them is ``(B,)`` int64."""

    count: int  # A


@dataclass(frozen=True, slots=True)
class ContinuousActions:
    """``K`` numbers, each within its bounds; a batch of them is ``(B, K)`` float."""

    low: Tensor  # (K,) float
    high: Tensor  # (K,) float

    @property
    def size(self) -> int:
        """``K``."""
        return self.low.shape[0]

    @property
    def centre(self) -> Tensor:
        """``(K,)``: the middle of the bounds."""
        return (self.high + self.low) / 2

    @property
    def half_range(self) -> Tensor:
        """``(K,)``: how far the bounds lie from the middle."""
        return (self.high - self.low) / 2

    @property
    def count(self) -> int:
        """There is none; whoever asks was written for a finite set of actions.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"This task's actions are {self.size} continuous numbers, not a finite set.",
            mend="Use an algorithm for continuous actions (ppo, sac), or a task with discrete ones.",
        )


ActionSpace = DiscreteActions | ContinuousActions


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions drawn from a data set or a replay buffer, as whole tensors on one device.

    With n-step returns, ``reward`` is the discounted sum of ``n`` rewards, ``next_obs`` lies ``n`` steps ahead and
    ``discount`` is ``gamma**n`` (or 0): the learner need not know.
    """

    obs: Tensor  # (B, D) float
    action: Tensor  # (B,) int64, or (B, K) float
    reward: Tensor  # (B,) float
    discount: Tensor  # (B,) float: gamma * (1 - terminated)
    next_obs: Tensor  # (B, D) float
    behaviour_probability: Tensor | None = None  # (B,) float: pi_b(action | obs), when it was logged
    row: Tensor | None = None  # (B,) int64: where in the log each one stands, when it was drawn from one

    def __len__(self) -> int:
        return self.action.shape[0]

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        given = {column.name: getattr(self, column.name) for column in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in given.items() if value is not None})

    def validate(self) -> Self:
        """Check the shapes once, at the seam.

        Raises:
            ShapeError: a field's leading size differs from the others', or ``obs`` and ``next_obs`` differ.
        """
        size = self.obs.shape[0]
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None:
                continue
            wanted = tuple(self.obs.shape) if f.name in ("obs", "next_obs") else (size,)
            if f.name == "action" and value.is_floating_point():
                wanted = (size, value.shape[-1])
            if tuple(value.shape) != wanted:
                raise ShapeError(
                    f"Batch.{f.name} has shape {tuple(value.shape)}, expected {wanted}.",
                    mend="Every field has the batch as its only leading axis; squeeze a trailing axis of size 1.",
                )
        return self


@dataclass(frozen=True, slots=True)
class Rollout:
    """What ``N`` environments did over ``T`` steps under one policy: the food of on-policy learners.

    ::

        t          0     1     2     3
        obs        o0    o1    o2    p0        the episode ended with step 2; p is the next one
        next_obs   o1    o2    o3    p1        o3 is what followed, not p0: bootstrap from o3
        continues  1     1     0     1         0 at any boundary: no advantage flows back across it
        discount   g     g     g     g         ... but the discount is 0 only if the *task* ended
        starts     1     0     0     1         a memory is wiped before it reads this observation
    """

    obs: Tensor  # (T, N, D) float
    action: Tensor  # (T, N) int64, or (T, N, K) float as sampled, before any clipping
    log_probability: Tensor  # (T, N) float: of the action under the policy that acted
    reward: Tensor  # (T, N) float
    discount: Tensor  # (T, N) float: gamma * (1 - terminated)
    continues: Tensor  # (T, N) float: 0 where the episode ended, however it ended
    next_obs: Tensor  # (T, N, D) float: what followed the action, also where the episode ended
    starts: Tensor  # (T, N) bool: this observation is an episode's first
    action_mask: Tensor | None = None  # (T, N, A) bool: what was allowed
    memory: Tensor | None = None  # (N, H) float: a recurrent policy's memory before the first step

    @property
    def num_steps(self) -> int:
        """``T * N``."""
        return self.reward.numel()


@runtime_checkable
class Policy(Protocol):
    """Anything that can be asked what to do."""

    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """Choose actions.

        Args:
            obs: ``(B, D)`` observations.
            greedy: take the best-looking action instead of sampling one.
            generator: where the randomness comes from; ``None`` uses torch's global stream.

        Returns:
            ``(B,)`` int64 actions, or ``(B, K)`` float ones.
        """
        ...


@runtime_checkable
class MaskedPolicy(Protocol):
    """A policy that can be told what is not allowed."""

    def act_within(
        self, obs: Tensor, mask: Tensor, *, greedy: bool, generator: torch.Generator | None = None
    ) -> Tensor:
        """As :meth:`Policy.act`, among the actions for which the ``(B, A)`` bool ``mask`` is true."""
        ...


@runtime_checkable
class RecurrentPolicy(Protocol):
    """A policy with a memory. Whoever lets it act carries the memory, and wipes it where an episode begins."""

    def first_memory(self, batch_size: int) -> Tensor:
        """``(B, H)``: what an episode begins with."""
        ...

    def act_remembering(
        self, obs: Tensor, memory: Tensor, *, greedy: bool, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """``(B, D)`` observations and ``(B, H)`` memories to actions and the next memories."""
        ...


@runtime_checkable
class DensityPolicy(Policy, Protocol):
    """A policy over continuous actions that can say how likely each of them is."""

    def log_density(self, obs: Tensor, action: Tensor) -> Tensor:
        """``(B, D)`` and ``(B, K)`` to the ``(B,)`` log-densities of those actions, in the actions' own units."""
        ...


@runtime_checkable
class DiscretePolicy(Policy, Protocol):
    """A policy over ``A`` actions that can say how likely each of them is."""

    def probabilities(self, obs: Tensor) -> Tensor:
        """``(B, D)`` observations to ``(B, A)`` probabilities of acting when ``greedy=False``."""
        ...


@runtime_checkable
class ContinuousPolicy(Policy, Protocol):
    """A policy over continuous actions that can say how dense what it just did was."""

    def sample(self, obs: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """``(B, D)`` observations to ``(B, K)`` actions within their bounds and ``(B,)`` log-densities of them.

        Densities are over the actions scaled to (-1, 1); gradients may flow.
        """
        ...


@runtime_checkable
class SamplingPolicy(Policy, Protocol):
    """A policy that can say how likely what it did was; collection for on-policy learners needs no more."""

    def log_probability(self, rollout: Rollout) -> Tensor:
        """``(T, N)``: the log-probability of each action of a rollout, as this policy stands."""
        ...


@runtime_checkable
class Learner(Protocol):
    """Anything that improves a policy from batches."""

    @property
    def policy(self) -> Policy:
        """The policy as it stands now; it shares weights with the learner."""
        ...

    def update(self, batch: Batch) -> Metrics:
        """One gradient step; returns what is worth plotting."""
        ...

    def anneal(self, fraction: float) -> None:
        """Set the learning rates to this fraction of their first values."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on training: networks, target networks, optimisers, counters."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        ...


@runtime_checkable
class BurstLearner(Learner, Protocol):
    """A learner that takes several gradient steps in a row more quickly than one by one."""

    def update_in_turn(self, batches: Sequence[Batch]) -> Metrics:
        """One gradient step on each batch, in their order; returns what is worth plotting of the last."""
        ...


@runtime_checkable
class ForesightedLearner(Learner, Protocol):
    """A learner that gains by seeing a whole log before it draws from it."""

    def read_ahead(self, next_obs: Tensor) -> None:
        """Be told ``(S, D)``, what every transition of the log leads to, in the order that ``Batch.row`` counts."""
        ...


@runtime_checkable
class DiscreteLearner(Learner, Protocol):
    """A learner whose policy chooses among finitely many actions and can say how likely each is."""

    @property
    def policy(self) -> DiscretePolicy:
        """The policy as it stands now; it shares weights with the learner."""
        ...


@runtime_checkable
class OnPolicyLearner(Protocol):
    """Anything that improves a policy from what that very policy just did."""

    @property
    def policy(self) -> SamplingPolicy:
        """The policy as it stands now; it shares weights with the learner."""
        ...

    def update(self, rollout: Rollout) -> Metrics:
        """All gradient steps that one rollout is good for; returns what is worth plotting."""
        ...

    def anneal(self, fraction: float) -> None:
        """Set the learning rates, and whatever shrinks with them, to this fraction of their first values."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on training."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        ...


class Tracker(Protocol):
    """Where metrics go. :class:`NullTracker` is the fake.

    Steps may come in any order. NaN is recorded as NaN, which is not the same as a name that was not logged.
    """

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record numbers under their names at a step."""
        ...

    def close(self) -> None:
        """Nothing more will be logged. Whoever made the tracker calls this, the loops never do; twice does no harm."""
        ...


class NullTracker:
    """Forgets everything; lets the loops do without ``if tracker is not None``."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class ListTracker:
    """Remembers everything in a list of ``(step, metrics)``; for tests and notebooks."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append one row."""
        self.rows.append((step, dict(metrics)))

    def close(self) -> None:
        """Do nothing; the rows stay."""

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """The steps and values recorded under ``name``."""
        rows = [(step, row[name]) for step, row in self.rows if name in row]
        return [step for step, _ in rows], [value for _, value in rows]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a learner must know of a task before it sees a batch. The tensors' device is where it will live."""

    obs_mean: Tensor  # (D,) float: subtracted from every observation by the networks
    obs_std: Tensor  # (D,) float: every observation is divided by it
    actions: ActionSpace

    @property
    def num_actions(self) -> int:
        """``A``.

        Raises:
            ConfigError: the actions are continuous.
        """
        return self.actions.count

    @classmethod
    def unscaled(cls, obs_size: int, actions: int | ActionSpace, device: torch.device | str = "cpu") -> Self:
        """Leave observations as they are; a whole number of ``actions`` means that many discrete ones."""
        space = DiscreteActions(actions) if isinstance(actions, int) else actions
        return cls(torch.zeros(obs_size, device=device), torch.ones(obs_size, device=device), space)
