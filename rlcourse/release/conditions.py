r"""What an episode met and no policy could change, kept as sums: a day's memory does not grow with its episodes.

Outdoor temperature, load, the price of electricity: columns of the observation that would have read the same whoever had
acted. Of each column and of each product of two, the mean over the episode is taken (what electricity costs is load *times*
price), or the first decision alone. With :math:`z = (\text{return}, \text{conditions})` of an episode, the sums over a day

.. math:: n, \qquad \sum z, \qquad \sum z z^\top

are all that least squares need, and all that the sums of adjusted returns need, whatever the coefficients will be: those
are fitted later, to days before the release (:mod:`rlcourse.release.adjusting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rlcourse.errors import ConfigError, ShapeError
from rlcourse.release.matching import Array, Tally

MOST_COLUMNS = 8
Over = Literal["episode", "first"]


@dataclass(frozen=True)
class Conditions:
    """Which columns of the observation are conditions, and over what they are averaged."""

    columns: tuple[int, ...]
    """Nothing that the policy can move: what it moved would take a part of its effect with it."""
    over: Over = "episode"
    """``episode``: the mean over its decisions, where a policy cannot end an episode early; ``first``: the first decision,
    which is made before the policy has done anything."""

    def __post_init__(self) -> None:
        wrong = min(self.columns, default=0) < 0 or len(set(self.columns)) < len(self.columns)
        if wrong or not 0 < len(self.columns) <= MOST_COLUMNS or self.over not in ("episode", "first"):
            raise ConfigError(
                f"Conditions of the columns {self.columns} over {self.over}.",
                mend=f"Name 1 to {MOST_COLUMNS} columns of the observation, each once, from 0 on; over episode or first.",
            )

    @property
    def width(self) -> int:
        """``K`` numbers: every column, and every product of two."""
        count = len(self.columns)
        return count + count * (count - 1) // 2

    def of(self, observation: Sequence[float | None]) -> list[float] | None:
        """The ``K`` numbers of one observation; ``None`` where a reading is missing.

        Worked number: columns 0 and 2 of (3, 9, 5): 3, 5 and their product 15.
        """
        if len(observation) <= max(self.columns):
            return None
        values = [observation[column] for column in self.columns]
        known = [float(value) for value in values if value is not None and abs(value) < 1e15]
        if len(known) < len(values):
            return None
        return [*known, *(a * b for a, b in combinations(known, 2))]


class Moments(NamedTuple):
    """Sums over the episodes of ``D`` days, ``P = 1 + K``; axes ``(..., D, 2)``, the incumbent first."""

    episodes: Array  # (..., D, 2)
    first: Array  # (..., D, 2, P)
    second: Array  # (..., D, 2, P, P)

    @staticmethod
    def of(day: npt.ArrayLike, arm: npt.ArrayLike, returns: npt.ArrayLike, conditions: npt.ArrayLike) -> Moments:
        """From ``(E,)`` days from 0 on, arms (0 the incumbent's, 1 the candidate's), returns, and ``(E, K)`` conditions.

        Raises:
            ShapeError: they do not fit together.
        """
        x, counted = np.asarray(conditions, np.float64), Tally.of(day, arm, returns)
        if x.ndim != 2 or len(x) != np.asarray(returns).size:
            raise ShapeError(f"Conditions of shape {x.shape}.", mend="Give one row for each return.")
        z = np.column_stack([np.asarray(returns, np.float64), x])
        cell = 2 * np.asarray(day, np.int64) + np.asarray(arm, np.int64)
        first = np.zeros((counted.episodes.size, z.shape[1]))
        second = np.zeros((counted.episodes.size, z.shape[1], z.shape[1]))
        np.add.at(first, cell, z)
        np.add.at(second, cell, z[:, :, None] * z[:, None, :])
        days = counted.episodes.shape
        return Moments(counted.episodes, first.reshape(*days, -1), second.reshape(*days, z.shape[1], -1))

    def combined(self, weights: Array, constant: float) -> Tally:
        r"""Sums of :math:`w^\top z + c` for ``(P,)`` weights.

        Worked number: two episodes, returns 1 and 3 under the conditions 2 and 4; w = (1, -0.5), c = 1: 1 and 2, so the
        total is 3 and the squares are 5.
        """
        linear = self.first @ weights
        squares = np.einsum("...ij,i,j->...", self.second, weights, weights)
        return Tally(
            self.episodes,
            linear + constant * self.episodes,
            squares + 2.0 * constant * linear + constant**2 * self.episodes,
        )


class RunningSums:
    """:class:`Moments` of one version on one day, as plain numbers that grow episode by episode.

    Args:
        size: ``P``.
    """

    __slots__ = ("numbers", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.numbers = [0.0] * (1 + size + size * (size + 1) // 2)

    def add(self, z: Sequence[float]) -> None:
        """An episode: its return, then its conditions."""
        numbers, place = self.numbers, 1 + self.size
        numbers[0] += 1.0
        for i, value in enumerate(z, 1):
            numbers[i] += value
        for i, one in enumerate(z):
            for other in z[i:]:
                numbers[place] += one * other
                place += 1


def sums_from(numbers: Sequence[Any], size: int) -> tuple[float, Array, Array]:
    """The count, ``(P,)`` and ``(P, P)`` sums from what :class:`RunningSums` has written.

    Raises:
        ValueError: another count of numbers.
    """
    values = np.asarray(numbers, np.float64)
    upper = np.triu_indices(size)
    if values.shape != (1 + size + len(upper[0]),):
        raise ValueError(f"{values.shape} sums for {size} numbers")
    second = np.zeros((size, size))
    second[upper] = values[1 + size :]
    return float(values[0]), values[1 : 1 + size], second + np.triu(second, 1).T
