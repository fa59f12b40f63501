"""From the name of somebody else's log to episodes and a card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from rlcourse.environments import check_known, make
from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.elsewhere.flat import episodes_of, flat_log
from rlcourse.experience.elsewhere.minari_source import minari_source
from rlcourse.experience.elsewhere.schema import D4RL, D4RL_OPTIONAL, Schema, columns_of, resolve
from rlcourse.experience.elsewhere.tables import ENDINGS, EPISODE, open_table
from rlcourse.experience.episodes import Array, Episodes
from rlcourse.experience.minari_files import misfit
from rlcourse.files import sha256_of
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ActionSpace, DiscreteActions

UNKNOWN = "unknown"
"""The task of a log whose task has no name here."""
_DECLARED = (".csv", ".parquet")
"""Formats whose names mean nothing by themselves."""


@dataclass(frozen=True)
class ForeignLog:
    """What was read, and what the reader should know of how."""

    episodes: Episodes
    card: DatasetCard


def read_log(
    source: str,
    schema: Schema | None = None,
    *,
    env_id: str = UNKNOWN,
    trust_pickle: bool = False,
    cut_at_gaps: bool = False,
    root: Path | None = None,
) -> ForeignLog:
    """Read a log that somebody else wrote; nothing is written.

    Args:
        source: a file (.hdf5, .npz, .csv, .parquet, .pkl), a Minari folder or name, or a name to fetch.
        schema: what its columns mean. HDF5, .npz and pickles have D4RL's names unless told otherwise; Minari's are known.
        env_id: the task, which then says what could be done and how much is seen.
        trust_pickle: read arrays and plain containers from pickles.
        cut_at_gaps: take a next observation that is not what is seen next for the end of an episode.
        root: folder of the data sets.

    Raises:
        ConfigError: too little is said, or too much.
        DataError: one of its kinds, by what is wrong with the log.
        MissingExtraError: a package is needed that is not installed.
    """
    path = Path(source).expanduser()
    if not path.is_file() and path.suffix.lower() not in ENDINGS:
        if schema not in (None, Schema()) or trust_pickle or cut_at_gaps:
            raise ConfigError(
                f"{source} is a Minari data set, which says itself what it holds.", mend="Leave that out."
            )
        return _from_minari(source, env_id, root)
    table = open_table(path, trust_pickle=trust_pickle)
    schema, optional = _with_defaults(schema or Schema(), path)
    if EPISODE in table.names and schema.episode is None:
        schema = replace(schema, episode=EPISODE)
    schema = resolve(schema, table.names, str(path), optional=optional)
    columns = table.read(columns_of(schema))
    actions = _actions(schema, env_id, sum(_width(columns[name]) for name in schema.action))
    log = flat_log(columns, schema, discrete=isinstance(actions, DiscreteActions), where=str(path))
    found = episodes_of(log, max_episode_steps=schema.max_episode_steps, cut_at_gaps=cut_at_gaps)
    _refuse_endless(found.episodes, schema, env_id, str(path))
    details: dict[str, Any] = {"source": path.name, "source_sha256": sha256_of(path), "rows": found.rows}
    if found.dropped:
        details["last_steps_left_out"] = found.dropped
    card = DatasetCard(env_id=env_id, **DatasetCard.fields_of(actions), details=details)
    return ForeignLog(_fitting(found.episodes, card), card)


def _refuse_endless(episodes: Episodes, schema: Schema, env_id: str, where: str) -> None:
    """Without a word about cut-off episodes, the jump from one to the next would be learned as a step of the task."""
    if schema.truncated or schema.episode or schema.next_observation or schema.max_episode_steps:
        return
    mend = "Name the column of truncated or of the episode, or say --truncated none if nothing was ever cut off."
    limit = gym.spec(env_id).max_episode_steps if env_id != UNKNOWN and _is_known(env_id) else None
    if limit is None:
        if episodes.terminated.any():
            return
        raise DatasetInvalidError(
            f"Nothing in {where} says where episodes were cut off.",
            mend=f"{mend} --max-episode-steps N cuts every N steps.",
        )
    longest = int(episodes.lengths.max())
    if longest > limit:
        raise DatasetInvalidError(
            f"Nothing in {where} says where episodes were cut off: one has {longest} steps, and {env_id} stops after {limit}.",
            mend=f"Say --max-episode-steps {limit}. {mend}",
        )


def _from_minari(source: str, env_id: str, root: Path | None) -> ForeignLog:
    dataset = minari_source(source, root)
    details = {**dataset.card.details, "imported_from": source}
    card = replace(dataset.card, details=details)
    if env_id != UNKNOWN:
        card = replace(card, env_id=env_id)
    return ForeignLog(_fitting(dataset.episodes, card), card)


def _with_defaults(schema: Schema, path: Path) -> tuple[Schema, tuple[str, ...]]:
    if path.suffix.lower() in _DECLARED:
        return schema, ()
    base = D4RL if schema.propensity is None else replace(D4RL, log_propensity=None)
    empty = Schema()
    said = [name for name in D4RL_OPTIONAL if getattr(schema, name) != getattr(empty, name)]
    return base.overridden_by(schema), tuple(name for name in D4RL_OPTIONAL if name not in said)


def _actions(schema: Schema, env_id: str, size: int) -> ActionSpace:
    said = schema.actions(size)
    if said is not None:
        return said
    if env_id == UNKNOWN:
        raise ConfigError(
            "Nothing says what could be done at each step.",
            mend="Name the task (--env Hopper-v5), or say --num-actions 2, or --action-low -1 --action-high 1.",
        )
    return make(env_id, 1, seeds=Seeds(0)).actions


def _fitting(episodes: Episodes, card: DatasetCard) -> Episodes:
    problem = misfit(episodes.validate(), card)
    if problem is not None:
        raise DatasetInvalidError(
            problem, mend="Give the true ones (--num-actions, --action-low, --action-high), or the right column."
        )
    seen = episodes.observations.shape[-1]
    if card.env_id != UNKNOWN and _is_known(card.env_id):
        expected = make(card.env_id, 1, seeds=Seeds(0)).obs_size
        if seen != expected:
            raise DatasetInvalidError(
                f"The log sees {seen} numbers, and {card.env_id} shows {expected}.",
                mend="Name the right columns; or leave --env out if the log is of another task.",
            )
    return episodes


def _is_known(env_id: str) -> bool:
    try:
        check_known(env_id)
    except ConfigError:
        return False
    return True


def _width(values: Array) -> int:
    return 1 if values.ndim < 2 else int(values.shape[1])
