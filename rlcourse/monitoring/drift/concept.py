r"""Does the world still answer as it did? Temporal-difference errors of a Q that was fitted when all was well.

States and actions may look as ever while what an action *leads to* has changed: a chiller that has lost a third of its
power. A Q-function fitted on the reference knows what to expect; what it did not expect is its error on fresh steps,

.. math:: \delta_t = r_t + \gamma\,Q(s_{t+1}, a_{t+1}) - Q(s_t, a_t)

Its mean is about 0 on the reference and below 0 where things have become worse than they were; its size grows where they
have become unpredictable. Both are judged against the errors on episodes of the reference that took no part in the fit.

Q is linear in products of features, one set for each action, and solves the projected Bellman equation exactly (LSTD-Q,
Lagoudakis and Parr 2003): no steps, no learning rate, the same result every time.

.. math:: \sum_t \phi_t (\phi_t - \gamma \phi_{t+1})^\top w = \sum_t \phi_t r_t
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.drift.actions import action_counts
from rlcourse.monitoring.drift.samples import rows_of, varying
from rlcourse.monitoring.signals import Array


@dataclass(frozen=True)
class FittedQ:
    """The value of doing ``a`` in ``s`` and going on as the reference did."""

    mean: Array  # (D,) of the features
    spread: Array  # (D,)
    weights: Array  # (A, P) for P products of features
    discount: float

    @classmethod
    def fit(cls, episodes: Episodes, num_actions: int, *, discount: float = 0.99, ridge: float = 1e-3) -> Self:
        """From logged episodes.

        Args:
            episodes: discrete actions.
            num_actions: ``A``.
            discount: raising it makes later consequences count, and the errors noisier.
            ridge: for each step, keeps the weights of what hardly occurs small.

        Raises:
            ConfigError: a discount outside [0, 1), or a ridge that is not above 0.
            DatasetInvalidError: NaN, constant features, continuous actions, or no two steps in a row.
        """
        if not 0.0 <= discount < 1.0 or ridge <= 0.0:
            raise ConfigError(f"Discount {discount}, ridge {ridge}.", mend="Use [0, 1) and above 0.")
        rows = rows_of(episodes.observations, "observations")
        mean, spread = rows.mean(axis=0), varying(rows)
        none: Array = np.zeros((num_actions, (len(mean) + 1) * (len(mean) + 2) // 2))
        empty = cls(mean, spread, none, discount)
        now, following, reward = empty._steps(episodes)
        size = now.shape[1]
        left = now.T @ (now - discount * following) + ridge * len(now) * np.eye(size)
        weights = np.asarray(np.linalg.solve(left, now.T @ reward), np.float64)
        return cls(mean, spread, weights.reshape(num_actions, -1), discount)

    def errors(self, episodes: Episodes) -> tuple[Array, Array]:
        """``(S',)`` temporal-difference errors and ``(E,)`` how many steps of each episode they are of.

        The last step of an episode that was cut off has none: what would have followed was not logged.

        Raises:
            DatasetInvalidError: NaN, continuous actions, or no two steps in a row.
            ShapeError: other features than those of the fit.
        """
        now, following, reward = self._steps(episodes)
        flat = self.weights.reshape(-1)
        return reward + (self.discount * following - now) @ flat, episodes.lengths - ~episodes.terminated

    def units(self, episodes: Episodes) -> Array:
        """``(E, 2)``: mean error and mean size of the errors, episode by episode.

        Raises:
            DatasetInvalidError: see :meth:`errors`; or an episode of one step that was cut off.
        """
        errors, lengths = self.errors(episodes)
        if (lengths < 1).any():
            raise DatasetInvalidError("An episode has no step with a successor.", mend="Leave out episodes of 1 step.")
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        both = np.stack([errors, np.abs(errors)], axis=1)
        means: Array = np.add.reduceat(both, starts, axis=0) / lengths[:, None]
        return means

    def _steps(self, episodes: Episodes) -> tuple[Array, Array, Array]:
        """``(S', A P)`` features of each step and of the next (0 after a terminal one), and ``(S',)`` rewards."""
        if episodes.continuous:
            raise DatasetInvalidError(
                "Actions are continuous numbers, and Q is fitted action by action.",
                mend="Use a Ruler of 0 actions: it watches states, actions and rewards.",
            )
        observations = rows_of(episodes.observations, "observations")
        if observations.shape[1] != len(self.mean):
            raise ShapeError(
                f"{observations.shape[1]} features, Q was fitted to {len(self.mean)}.", mend="Fit a new reference."
            )
        action_counts(episodes.actions, len(self.weights))
        ends = np.cumsum(episodes.lengths) - 1
        last = np.zeros(episodes.num_transitions, np.bool_)
        last[ends] = True
        terminal = np.zeros_like(last)
        terminal[ends] = episodes.terminated
        keep = ~last | terminal
        if not keep.any():
            raise DatasetInvalidError("No step has a successor.", mend="Give episodes of two steps or more.")
        owner = np.repeat(np.arange(episodes.num_episodes), episodes.lengths)
        features = self._features(observations[np.arange(episodes.num_transitions) + owner], episodes.actions)
        following = np.vstack([features[1:], np.zeros((1, features.shape[1]))])
        following[last] = 0.0
        return features[keep], following[keep], rows_of(episodes.rewards, "rewards")[keep, 0]

    def _features(self, states: Array, actions: Array) -> Array:
        scaled = (states - self.mean) / self.spread
        count, width = scaled.shape
        ones = np.hstack([np.ones((count, 1)), scaled])
        pairs = np.triu_indices(width + 1)
        products = ones[:, pairs[0]] * ones[:, pairs[1]]  # 1, each feature, each product of two
        placed = np.zeros((count, len(self.weights), products.shape[1]))
        placed[np.arange(count), actions.astype(np.int64)] = products
        return placed.reshape(count, -1)
