"""Logged episodes as flat arrays, before anyone decides on a discount or a device.

Episodes lie end to end. An episode of ``T`` steps has ``T`` actions and ``T + 1`` observations, the last of which was
seen after its last step::

    observations   o0 o1 o2 o3 | o0 o1 o2 | ...       sum of (T_e + 1) rows
    actions        a0 a1 a2    | a0 a1    | ...       sum of T_e rows, as rewards and propensities
    lengths        3           | 2        | ...       one per episode
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rlcourse.errors import DatasetInvalidError

Array = npt.NDArray[Any]

_KINDS = {
    "observations": "f",
    "actions": "iuf",
    "rewards": "f",
    "behaviour_probabilities": "f",
    "lengths": "iu",
    "terminated": "b",
}  # NumPy's letters: floating point, integer, unsigned, boolean


@dataclass(frozen=True)
class Episodes:
    """``E`` episodes with ``S`` steps in all."""

    observations: Array  # (S + E, D) float32
    actions: Array  # (S,) int64, or (S, K) float32
    rewards: Array  # (S,) float32
    behaviour_probabilities: Array  # (S,) float32: pi_b(action | obs), a density over continuous ones; NaN: not logged
    lengths: Array  # (E,) int64
    terminated: Array  # (E,) bool: the task ended; otherwise the episode was cut off

    @property
    def num_episodes(self) -> int:
        """``E``."""
        return len(self.lengths)

    @property
    def num_transitions(self) -> int:
        """``S``."""
        return len(self.actions)

    @property
    def continuous(self) -> bool:
        """Whether actions are numbers, not names of a finite set."""
        return self.actions.dtype.kind == "f"

    @property
    def num_bytes(self) -> int:
        """What the arrays take in memory."""
        return sum(int(getattr(self, name).nbytes) for name in self.__dataclass_fields__)

    def returns(self) -> npt.NDArray[np.float64]:
        """``(E,)`` undiscounted return of each episode."""
        summed: npt.NDArray[np.float64] = np.add.reduceat(self.rewards.astype(np.float64), self.first_steps())
        return summed

    def first_steps(self) -> npt.NDArray[np.int64]:
        """``(E,)`` index of each episode's first step."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    def select(self, indices: Array) -> Self:
        """The episodes at ``indices``, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        first, lengths = self.first_steps()[indices], self.lengths[indices]
        steps, rows = concatenated_ranges(first, lengths), concatenated_ranges(first + indices, lengths + 1)
        return type(self)(
            self.observations[rows],
            self.actions[steps],
            self.rewards[steps],
            self.behaviour_probabilities[steps],
            lengths,
            self.terminated[indices],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Several sets of episodes, one after the other."""
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__}
        )

    def validate(self) -> Self:
        """Check everything that can be checked without knowing the environment.

        Raises:
            DatasetInvalidError: no episodes, arrays that do not fit together, or numbers that cannot be.
        """
        for problem, holds in self._claims():
            if not holds:
                raise DatasetInvalidError(
                    problem, mend="Look at how the data was collected; it cannot be learned from."
                )
        return self

    def _claims(self) -> list[tuple[str, bool]]:
        # Later claims may only be looked at if earlier ones hold, hence the early return.
        steps, episodes = len(self.actions) if self.actions.ndim else 0, self.lengths.size
        continuous = self.continuous and self.actions.ndim == 2 and self.actions.shape[-1] > 0
        wanted = f"({steps}, K)" if self.continuous else str((steps,))
        claims = [
            ("The data set holds no episodes.", episodes > 0 and steps > 0),
            (f"Observations have {self.observations.ndim} axes, expected 2.", self.observations.ndim == 2),
            ("Observations have no entries.", self.observations.size > 0),
            (
                f"Actions have shape {self.actions.shape}, expected {wanted}.",
                continuous or (not self.continuous and self.actions.shape == (steps,)),
            ),
            (f"Lengths have shape {self.lengths.shape}, expected {(episodes,)}.", self.lengths.shape == (episodes,)),
            *(
                (f"{name} is an array of {getattr(self, name).dtype}.", getattr(self, name).dtype.kind in kinds)
                for name, kinds in _KINDS.items()
            ),
        ]
        if not all(holds for _, holds in claims):
            return claims
        claims += [
            ("An episode has no steps.", bool((self.lengths > 0).all())),
            (
                f"Lengths add up to {int(self.lengths.sum())}, there are {steps} actions.",
                int(self.lengths.sum()) == steps,
            ),
            (
                f"There are {len(self.observations)} observations for {steps} steps of {episodes} episodes.",
                len(self.observations) == steps + episodes,
            ),
            (f"Rewards have shape {self.rewards.shape}, expected {(steps,)}.", self.rewards.shape == (steps,)),
            (
                f"Propensities have shape {self.behaviour_probabilities.shape}, expected {(steps,)}.",
                self.behaviour_probabilities.shape == (steps,),
            ),
            (
                f"terminated has shape {self.terminated.shape}, expected {(episodes,)}.",
                self.terminated.shape == (episodes,),
            ),
        ]
        if not all(holds for _, holds in claims):
            return claims
        known = self.behaviour_probabilities[~np.isnan(self.behaviour_probabilities)]
        return [
            *claims,
            ("Some rewards are NaN or infinite.", bool(np.isfinite(self.rewards).all())),
            ("Some observations are NaN or infinite.", bool(np.isfinite(self.observations).all())),
            *self._claims_on_actions(known),
        ]

    def _claims_on_actions(self, known: Array) -> list[tuple[str, bool]]:
        if self.continuous:  # a density has no upper end
            return [
                ("Some actions are NaN or infinite.", bool(np.isfinite(self.actions).all())),
                ("Some propensities are not finite numbers above 0.", bool(((known > 0) & np.isfinite(known)).all())),
            ]
        return [
            ("Some actions are negative.", bool((self.actions >= 0).all())),
            ("Some propensities are outside (0, 1].", bool(((known > 0) & (known <= 1.0 + 1e-6)).all())),
        ]


def concatenated_ranges(first: Array, lengths: Array) -> npt.NDArray[np.int64]:
    """``first[e], first[e] + 1, ...``, ``lengths[e]`` numbers for each ``e``, end to end, without a Python loop."""
    offsets = np.repeat(first - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return (offsets + np.arange(int(lengths.sum()))).astype(np.int64)
