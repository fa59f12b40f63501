"""The nouns that cross the seams of this package, with a shape on every line.

Sizes are capital letters throughout the course: ``B`` batch, ``T`` time, ``A`` actions, ``N`` environments,
``E`` episodes, ``D`` numbers in one observation.

One step of experience, drawn in time::

      obs_t ──action_t──▶ reward_t, discount_t, next_obs_t
                                       │
                                       └── gamma      if the task goes on (also when a time limit cut the episode)
                                           0          if the task ended

There is no ``done``.  A batch carries ``discount = gamma * (1 - terminated)``, so a Bellman target is always
``reward + discount * value(next_obs)`` and a time limit cannot be mistaken for the end of the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from rlcourse.errors import ShapeError

Metrics = Mapping[str, Tensor]
"""Named 0-d tensors. They stay on the device: reading one with ``.item()`` waits for the device, so the loop decides when."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions drawn from a data set or a replay buffer, as whole tensors on one device.

    With n-step returns, ``reward`` is the discounted sum of ``n`` rewards, ``next_obs`` lies ``n`` steps ahead and
    ``discount`` is ``gamma**n`` (or 0): the learner need not know.
    """

    obs: Tensor  # (B, D) float
    action: Tensor  # (B,) int64
    reward: Tensor  # (B,) float
    discount: Tensor  # (B,) float: gamma * (1 - terminated)
    next_obs: Tensor  # (B, D) float
    behaviour_probability: Tensor | None = None  # (B,) float: pi_b(action | obs), when it was logged

    def __len__(self) -> int:
        return self.action.shape[0]

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        logged = self.behaviour_probability
        return type(self)(
            self.obs.to(device),
            self.action.to(device),
            self.reward.to(device),
            self.discount.to(device),
            self.next_obs.to(device),
            None if logged is None else logged.to(device),
        )

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
            if tuple(value.shape) != wanted:
                raise ShapeError(
                    f"Batch.{f.name} has shape {tuple(value.shape)}, expected {wanted}.",
                    mend="Every field has the batch as its only leading axis; squeeze a trailing axis of size 1.",
                )
        return self


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
            ``(B,)`` int64 actions.
        """
        ...


@runtime_checkable
class DiscretePolicy(Policy, Protocol):
    """A policy over ``A`` actions that can say how likely each of them is."""

    def probabilities(self, obs: Tensor) -> Tensor:
        """``(B, D)`` observations to ``(B, A)`` probabilities of acting when ``greedy=False``."""
        ...


@runtime_checkable
class Learner(Protocol):
    """Anything that improves a policy from batches."""

    @property
    def policy(self) -> DiscretePolicy:
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


class Tracker(Protocol):
    """Where metrics go. :class:`NullTracker` is the fake."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record numbers under their names at a step."""
        ...


class NullTracker:
    """Forgets everything; lets the loops do without ``if tracker is not None``."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Do nothing."""


class ListTracker:
    """Remembers everything in a list of ``(step, metrics)``; for tests and notebooks."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append one row."""
        self.rows.append((step, dict(metrics)))

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """The steps and values recorded under ``name``."""
        rows = [(step, row[name]) for step, row in self.rows if name in row]
        return [step for step, _ in rows], [value for _, value in rows]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a learner must know of a task before it sees a batch. The tensors' device is where it will live."""

    obs_mean: Tensor  # (D,) float: subtracted from every observation by the networks
    obs_std: Tensor  # (D,) float: every observation is divided by it
    num_actions: int  # A

    @classmethod
    def unscaled(cls, obs_size: int, num_actions: int, device: torch.device | str = "cpu") -> Self:
        """Leave observations as they are."""
        return cls(torch.zeros(obs_size, device=device), torch.ones(obs_size, device=device), num_actions)
