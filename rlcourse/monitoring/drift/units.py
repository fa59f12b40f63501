"""Episodes of any length boiled down to the same few numbers, with rulers that were made once and never move.

The reference is cut in two. From one half the rulers are made: quantiles, a bandwidth, a Q-function. The other half is
measured with them, as every window will be. Were the same episodes used for both, the reference would fit its own rulers
better than any window can, and the tests would cry drift for that alone::

    reference ──┬── half of the episodes ──▶ Ruler ─────┐
                └── the others ──▶ measure ──▶ Units    │ the same ruler
    window ───────────────────────▶ measure ──▶ Units ◀─┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.experience.episodes import Array as AnyArray
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.drift.actions import action_counts
from rlcourse.monitoring.drift.concept import FittedQ
from rlcourse.monitoring.drift.samples import rows_of, varying
from rlcourse.monitoring.drift.states import ALL, median_heuristic
from rlcourse.monitoring.signals import Array, finite
from rlcourse.monitoring.streams import EpisodeRecord


@dataclass(frozen=True)
class Units:
    """``E`` episodes, each in the same few numbers; see :class:`Ruler` for the sizes."""

    below: Array  # (E, D * G): share of the steps at or below each threshold, feature by feature
    rows: Array  # (E, M, D): a few steps, evenly taken, in standard deviations from the mean
    actions: Array  # (E, A): share of each action; continuous: (E, K * G), as `below`, entry by entry
    rewards: Array  # (E, 2): return, and 1 where the episode was abandoned
    errors: Array  # (E, 2): mean temporal-difference error, and its mean size; continuous: (E, 0)

    def __len__(self) -> int:
        return len(self.below)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """One after the other.

        Raises:
            DatasetInvalidError: there are none.
        """
        if not parts:
            raise DatasetInvalidError("The window holds no episodes.", mend="Wait until some are mature.")
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def select(self, indices: AnyArray) -> Self:
        """The units at ``indices``."""
        return type(self)(**{f.name: getattr(self, f.name)[indices] for f in fields(self)})


@dataclass(frozen=True)
class Ruler:
    """What everything is measured with, made from one half of the reference."""

    names: tuple[str, ...]  # (D,)
    thresholds: Array  # (D, G), rising along the second axis
    mean: Array  # (D,)
    spread: Array  # (D,)
    bandwidth: float
    q: FittedQ | None  # None: actions are continuous
    action_thresholds: Array  # (K, G) of continuous actions, else (0, G)
    rows_per_episode: int  # M

    @property
    def num_actions(self) -> int:
        """``A``; 0 if actions are continuous."""
        return len(self.q.weights) if self.q else 0

    @property
    def action_names(self) -> tuple[str, ...]:
        """What a test of the actions is about: all of them together, or each entry of a continuous one."""
        return (ALL,) if self.q else tuple(map(str, range(len(self.action_thresholds))))

    @classmethod
    def fit(
        cls,
        episodes: Episodes,
        num_actions: int,
        *,
        names: Sequence[str] | None = None,
        thresholds: int = 19,
        rows_per_episode: int = 8,
        discount: float = 0.99,
    ) -> Self:
        """From logged episodes of a plant that is known to be well.

        Args:
            episodes: features that vary.
            num_actions: ``A``; 0 says that actions are continuous.
            names: ``(D,)`` of the features.
            thresholds: ``G``, odd, so that every second one is a decile of 10 bins when there are 19.
            rows_per_episode: ``M`` for the kernel, whose cost grows with the square.
            discount: of the Q-function.

        Raises:
            ConfigError: thresholds that are even or too few, or no rows; or the actions are of the other kind.
            DatasetInvalidError: NaN, or constant features.
            ShapeError: not one name for each feature.
        """
        if thresholds < 3 or thresholds % 2 == 0 or rows_per_episode < 1:
            raise ConfigError(f"{thresholds} thresholds, {rows_per_episode} rows.", mend="Use 3, 5, ... and 1 or more.")
        if episodes.continuous == (num_actions > 0):
            kind = "continuous" if episodes.continuous else "counted"
            raise ConfigError(
                f"{num_actions} actions, and they are {kind}.", mend="Use 0 for continuous actions alone."
            )
        rows = rows_of(episodes.observations, "observations")
        labels = tuple(names) if names is not None else tuple(map(str, range(rows.shape[1])))
        if len(labels) != rows.shape[1]:
            raise ShapeError(f"{len(labels)} names for {rows.shape[1]} features.", mend="Give one for each.")
        spread, mean = varying(rows, labels), rows.mean(axis=0)
        levels = np.arange(1, thresholds + 1) / (thresholds + 1)
        return cls(
            labels,
            _quantiles(rows, levels),
            mean,
            spread,
            median_heuristic((rows - mean) / spread),
            FittedQ.fit(episodes, num_actions, discount=discount) if num_actions else None,
            _quantiles(rows_of(episodes.actions, "actions"), levels) if not num_actions else np.empty((0, thresholds)),
            rows_per_episode,
        )

    def measure(self, episodes: Episodes, records: Sequence[EpisodeRecord] | None = None) -> Units:
        """Boil episodes down.

        Args:
            episodes: of the policy being watched; ``E`` of them.
            records: ``(E,)`` what an :class:`~rlcourse.monitoring.streams.EpisodeLedger` counted of the same episodes: where
                rewards are late, the returns at one age, and who was abandoned. ``None``: all rewards are in the log.

        Raises:
            DatasetInvalidError: none, NaN, actions of the other kind, or an episode of one step that was cut off.
            ShapeError: other features than the ruler's, or not one record for each episode.
        """
        if records is not None and len(records) != episodes.num_episodes:
            raise ShapeError(f"{len(records)} records for {episodes.num_episodes} episodes.", mend="Give one for each.")
        observations, taken = self._rows(episodes, "observations", len(self.names)), self._taken(episodes)
        errors = self.q.units(episodes) if self.q else np.empty((episodes.num_episodes, 0))
        owner = np.repeat(np.arange(episodes.num_episodes), episodes.lengths)
        seen = np.arange(episodes.num_transitions) + owner
        states = observations[seen]
        first, lengths = episodes.first_steps(), episodes.lengths
        picks = first[:, None] + (
            (np.arange(self.rows_per_episode) + 0.5) / self.rows_per_episode * lengths[:, None]
        ).astype(np.int64)

        def shares(steps: AnyArray) -> Array:
            found: Array = np.add.reduceat(steps, first, axis=0, dtype=np.float64) / lengths[:, None]
            return found

        if records is None:
            rewards = np.stack([episodes.returns(), np.zeros(len(lengths))], axis=1)
        else:
            rewards = np.array([(record.total, float(record.end == "abandoned")) for record in records])
        return Units(
            below=shares(_below(states, self.thresholds)),
            rows=(states[picks] - self.mean) / self.spread,
            actions=shares(taken),
            rewards=finite(rewards, "returns"),
            errors=errors,
        )

    def _taken(self, episodes: Episodes) -> AnyArray:
        """``(S, A)``: 1 for the action of each step; of continuous ones ``(S, K * G)``, see :class:`Units`."""
        if episodes.continuous != (self.q is None):
            raise DatasetInvalidError(
                "These actions are counted and the reference's are continuous, or the other way round.",
                mend="Fit a new reference; the two cannot be compared.",
            )
        if self.q is None:
            return _below(self._rows(episodes, "actions", len(self.action_thresholds)), self.action_thresholds)
        action_counts(episodes.actions, self.num_actions)
        return np.eye(self.num_actions)[episodes.actions]

    @staticmethod
    def _rows(episodes: Episodes, name: str, width: int) -> Array:
        rows = rows_of(getattr(episodes, name), name)
        if rows.shape[1] != width:
            raise ShapeError(
                f"{name} of {rows.shape[1]} numbers, the reference's have {width}.", mend="Fit a new reference."
            )
        return rows


def _quantiles(rows: AnyArray, levels: Array) -> Array:
    """``(S, D)`` to ``(D, G)``."""
    return np.quantile(rows.astype(np.float64), levels, axis=0).T.copy()


def _below(rows: Array, thresholds: Array) -> AnyArray:
    """``(S, D)`` and ``(D, G)`` to ``(S, D * G)``: whether a number is at or below a threshold."""
    return (rows[:, :, None] <= thresholds).reshape(len(rows), -1)
