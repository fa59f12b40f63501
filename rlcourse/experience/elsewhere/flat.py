"""Rows of a log, one a step, into episodes.

An episode of ``T`` steps needs ``T + 1`` observations, and a flat log holds ``T``. What was seen after the last one::

    next observations are there    that one
    the task ended                 nobody will look: the discount is 0. The last observation is repeated
    the episode was cut off        unknown, so the last step becomes the look ahead: T - 1 steps are left
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.experience.collection import LOG_DENSITIES
from rlcourse.experience.elsewhere.schema import NONE, Schema
from rlcourse.experience.elsewhere.tables import Columns
from rlcourse.experience.episodes import Array, Episodes, concatenated_ranges

GAP = 1e-4
"""How far what was seen next may lie from what was seen then, relative to its size: files are written with few digits."""


@dataclass(frozen=True)
class FlatLog:
    """``S`` steps in order of time within each episode."""

    observation: Array  # (S, D) float64
    action: Array  # (S,) int64, or (S, K) float64
    reward: Array  # (S,) float64
    terminated: Array  # (S,) bool: the task ended with this step
    truncated: Array  # (S,) bool: it was cut off after it
    propensity: Array  # (S,) float64; NaN: not logged
    episode: Array | None = None  # (S,) int64: the same number for the steps of one episode
    next_observation: Array | None = None  # (S, D) float64


@dataclass(frozen=True)
class Imported:
    """Episodes, and what became of the rows."""

    episodes: Episodes
    rows: int
    dropped: int
    """Last steps of episodes that were cut off, left out because nobody wrote down what was seen after them."""


def flat_log(columns: Columns, schema: Schema, *, discrete: bool, where: str) -> FlatLog:
    """Put columns where the schema says they belong.

    Args:
        columns: those that the schema names.
        schema: resolved.
        discrete: actions are numbers of choices, not quantities.
        where: the file, for the error.

    Raises:
        DatasetInvalidError: empty, of different lengths, not numbers, NaN, or not what the column should hold.
    """
    rows = {name: len(values) if values.ndim else 0 for name, values in columns.items()}
    if not rows or not max(rows.values()):
        raise DatasetInvalidError(f"{where} holds no steps.", mend="Look at how it was written.")
    first = next(iter(rows))
    for name, count in rows.items():
        if count != rows[first]:
            raise DatasetInvalidError(
                f"{where} has {rows[first]} rows of {first!r} and {count} of {name!r}.",
                mend="Every column has one row a step; next observations have a column of their own.",
            )
    steps = rows[first]

    def vectors(names: tuple[str, ...]) -> Array:
        parts = [_finite(columns[name], name, where) for name in names]
        for name, part in zip(names, parts, strict=True):
            if part.ndim > 2:
                raise DatasetInvalidError(
                    f"{name!r} in {where} has shape {part.shape}.", mend="Only vectors can be used; flatten them."
                )
        return np.concatenate([part.reshape(steps, -1) for part in parts], axis=1)

    def numbers(name: str) -> Array:
        values = _finite(columns[name], name, where)
        if values.size != steps:
            raise DatasetInvalidError(f"{name!r} in {where} has shape {values.shape}.", mend="It is one number a step.")
        return values.reshape(steps)

    def marks(name: str | None) -> Array:
        if name is None or name == NONE:
            return np.zeros(steps, dtype=bool)
        values = numbers(name)
        if not np.isin(values, (0.0, 1.0)).all():
            row = int(np.flatnonzero(~np.isin(values, (0.0, 1.0)))[0])
            raise DatasetInvalidError(
                f"{name!r} in {where} is {values[row]:g} in row {row}.", mend="It is 0 or 1, true or false."
            )
        return values.astype(bool)

    action, observation = vectors(schema.action), vectors(schema.observation)
    following = vectors(schema.next_observation) if schema.next_observation else None
    if following is not None and following.shape != observation.shape:
        raise DatasetInvalidError(
            f"{where} has observations of {observation.shape[1]} numbers and next observations of {following.shape[1]}.",
            mend="Name the same columns for both, or leave the next observations out.",
        )
    return FlatLog(
        observation=observation,
        action=_choices(action, schema.action, where) if discrete else action,
        reward=numbers(_one(schema.reward)),
        terminated=marks(schema.terminated),
        truncated=marks(schema.truncated),
        propensity=_propensities(columns, schema, steps, where),
        episode=None if schema.episode is None else _numbered(columns[schema.episode]),
        next_observation=following,
    )


def episodes_of(log: FlatLog, *, max_episode_steps: int | None = None, cut_at_gaps: bool = False) -> Imported:
    """Cut a flat log into episodes.

    Args:
        log: checked by :func:`flat_log`.
        max_episode_steps: cut every so many steps, where time limits left no mark.
        cut_at_gaps: where the next observation is not what is seen next, an episode was cut off; else it is an error.

    Raises:
        DatasetInvalidError: an episode goes on after its end, or jumps; or nothing is left.
    """
    log = _in_order(log)
    ends = log.terminated | log.truncated
    last = ends.copy()
    if log.episode is not None:
        last = np.append(log.episode[1:] != log.episode[:-1], True)
        going_on = np.flatnonzero(ends & ~last)
        if len(going_on):
            raise DatasetInvalidError(
                f"An episode goes on after it ended, with the row after row {going_on[0]} in order of episodes.",
                mend="Look at the columns for episode, terminated and truncated: one of them is another.",
            )
    last[-1] = True
    if max_episode_steps is not None:
        last |= (_places(last) + 1) % max_episode_steps == 0
    if log.next_observation is not None:
        last |= _gaps(log, last, cut_at_gaps)
    return _cut(log, last)


def _cut(log: FlatLog, last: Array) -> Imported:
    final = np.flatnonzero(last)
    lengths = np.diff(final, prepend=-1)
    terminated = log.terminated[final]
    first = final - lengths + 1
    dropped = 0
    if log.next_observation is None:
        short = ~terminated
        dropped = int(short.sum())
        lengths = lengths - short
        kept = lengths > 0
        first, lengths, terminated, final = first[kept], lengths[kept], terminated[kept], final[kept]
        # Of a cut-off episode the final row is now only looked at; of one that ended it is looked at twice.
        after = log.observation[final]
    else:
        after = log.next_observation[final]
    if not len(lengths):
        raise DatasetInvalidError(
            "Every episode is one step that was cut off, and nobody wrote down what was seen after it.",
            mend="Name the columns of the next observation, or the one that names the episode.",
        )
    steps = concatenated_ranges(first, lengths)
    rows = np.empty((len(steps) + len(lengths), log.observation.shape[1]))
    is_last = np.zeros(len(rows), dtype=bool)
    is_last[np.cumsum(lengths + 1) - 1] = True
    rows[is_last], rows[~is_last] = after, log.observation[steps]
    action = log.action[steps]
    episodes = Episodes(
        observations=_narrowed(rows),
        actions=action if action.dtype.kind == "i" else _narrowed(action),
        rewards=_narrowed(log.reward[steps]),
        behaviour_probabilities=log.propensity[steps].astype(np.float32),
        lengths=lengths.astype(np.int64),
        terminated=terminated,
    )
    return Imported(episodes, len(log.reward), dropped)


def _in_order(log: FlatLog) -> FlatLog:
    """Rows of one episode next to each other, episodes in the order in which they first appear."""
    if log.episode is None:
        return log
    _, first, number = np.unique(log.episode, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[number]
    order = np.argsort(rank, kind="stable")
    names = ("observation", "action", "reward", "terminated", "truncated", "propensity")
    moved: dict[str, Any] = {name: getattr(log, name)[order] for name in names}
    following = None if log.next_observation is None else log.next_observation[order]
    return replace(log, **moved, episode=rank[order], next_observation=following)


def _places(last: Array) -> Array:
    """How many steps of its episode lie before each row."""
    starts = np.flatnonzero(np.append(True, last[:-1]))
    lengths = np.diff(np.append(starts, len(last)))
    places: Array = np.arange(len(last)) - np.repeat(starts, lengths)
    return places


def _gaps(log: FlatLog, last: Array, cut_at_gaps: bool) -> Array:
    seen, said = log.observation[1:], _one(log.next_observation)[:-1]
    scale = 1.0 + np.abs(seen)
    gap = np.append((np.abs(seen - said) > GAP * scale).any(-1), False) & ~last
    if gap.any() and not cut_at_gaps:
        row = int(np.flatnonzero(gap)[0])
        raise DatasetInvalidError(
            f"What is said to follow row {row} is not what row {row + 1} saw, and so in {int(gap.sum())} places.",
            mend="Name the column of the episode, or of truncated; or say --cut-at-gaps if the log was cut there.",
        )
    return gap


def _propensities(columns: Columns, schema: Schema, steps: int, where: str) -> Array:
    name = schema.propensity or schema.log_propensity
    if name is None:
        return np.full(steps, np.nan)
    values = _numeric(columns[name], name, where)
    if values.size != steps:
        raise DatasetInvalidError(f"{name!r} in {where} has shape {values.shape}.", mend="It is one number a step.")
    values = values.reshape(steps)
    if schema.propensity is None:
        values = np.exp(np.clip(values, *LOG_DENSITIES))  # NaN stays NaN
    wrong = np.flatnonzero(~np.isnan(values) & ~((values > 0) & np.isfinite(values)))
    if len(wrong):
        raise DatasetInvalidError(
            f"Propensity {name!r} in {where} is {values[wrong[0]]:g} in row {wrong[0]}.",
            mend="What was done was possible: it is above 0. Leave a cell empty, or NaN, where it is not known.",
        )
    return values


def _choices(action: Array, names: tuple[str, ...], where: str) -> Array:
    if action.shape[1] != 1:
        raise DatasetInvalidError(
            f"A discrete action in {where} is {action.shape[1]} numbers.",
            mend="Name one column, or give --action-low and --action-high if they are quantities.",
        )
    whole = action[:, 0].astype(np.int64)
    odd = np.flatnonzero((whole != action[:, 0]) | (whole < 0))
    if len(odd):
        raise DatasetInvalidError(
            f"{names[0]!r} in {where} is {action[odd[0], 0]:g} in row {odd[0]}.",
            mend="Discrete actions are 0, 1, 2, ...; give --action-low and --action-high if they are quantities.",
        )
    return whole


def _numbered(names: Array) -> Array:
    numbers: Array = np.unique(names.reshape(len(names), -1)[:, 0], return_inverse=True)[1]
    return numbers.astype(np.int64)


def _finite(values: Array, name: str, where: str) -> Array:
    values = _numeric(values, name, where)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise DatasetInvalidError(
            f"{name!r} in {where} is NaN or infinite in row {row}, and in {int(bad.sum())} places in all.",
            mend="Leave those episodes out, or mend what wrote them; nothing can be learned from what is no number.",
        )
    return values


def _numeric(values: Array, name: str, where: str) -> Array:
    if values.dtype.kind not in "biuf":
        raise DatasetInvalidError(
            f"{name!r} in {where} holds {'text' if values.dtype.kind in 'US' else values.dtype}.",
            mend="Write it as numbers, or name another column.",
        )
    return values.astype(np.float64)


def _narrowed(values: Array) -> Array:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused on saving
        narrow: Array = values.astype(np.float32)
    return narrow


def _one(value: Any) -> Any:
    if value is None:
        raise ConfigError("The schema says too little.", mend="Resolve it first.")
    return value
