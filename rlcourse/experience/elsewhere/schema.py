"""What the columns of a log mean: declared in a small TOML or JSON file, by options, or by D4RL's names."""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch

from rlcourse.errors import ConfigError, DatasetInvalidError, DatasetNotFoundError
from rlcourse.vocabulary import ActionSpace, ContinuousActions, DiscreteActions

NONE = "none"
"""As the name of a column: there is none, and that is known."""
_LISTS = ("observation", "action", "next_observation")
_NUMBERS = ("action_low", "action_high")
_COUNTS = ("num_actions", "max_episode_steps")


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Which column is what, and what could be done. A name may hold * and ?: obs_* is obs_0, obs_1, ..., obs_10."""

    observation: tuple[str, ...] = ()
    """Columns seen before the action; one that holds a vector is enough."""
    action: tuple[str, ...] = ()
    """Column of a discrete action, or columns of a continuous one."""
    reward: str | None = None
    """Column of what the action earned."""
    terminated: str | None = None
    """Column of 0 and 1: the task ended with this step. none if it never ends. A time limit is not an end."""
    truncated: str | None = None
    """Column of 0 and 1: a time limit or a person cut the episode off after this step. none if nothing ever was."""
    episode: str | None = None
    """Column that names the episode; its rows need not be neighbours, but must be in order."""
    propensity: str | None = None
    """Column of how likely the action was to whoever chose it; a density where actions are continuous."""
    log_propensity: str | None = None
    """Column of its logarithm, in its place."""
    next_observation: tuple[str, ...] = ()
    """Columns seen after the action. Without them the last step of an episode that was cut off is left out."""
    num_actions: int | None = None
    """A, for discrete actions 0 to A - 1. By default what the task says."""
    action_low: tuple[float, ...] = ()
    """Lower bounds of a continuous action; one number counts for all entries. By default what the task says."""
    action_high: tuple[float, ...] = ()
    """Upper bounds."""
    max_episode_steps: int | None = None
    """Cut episodes off after so many steps: for logs in which time limits left no mark."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}.", mend="Use 1 or more.")
        if self.propensity is not None and self.log_propensity is not None:
            raise ConfigError("Both propensity and log_propensity name a column.", mend="Name one of the two.")
        if self.num_actions is not None and self.action_low + self.action_high:
            raise ConfigError(
                "Actions are said to be both discrete and within bounds.",
                mend="Give num_actions, or action_low and action_high.",
            )
        if bool(self.action_low) != bool(self.action_high):
            raise ConfigError("Only one of action_low and action_high is given.", mend="Give both.")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a .toml or .json file whose keys are the fields of this class.

        Raises:
            DatasetNotFoundError: there is no such file.
            ConfigError: it cannot be read, or says something that no schema says.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise DatasetNotFoundError(
                f"The schema {path} cannot be read: {error.strerror}.", mend="Check the name."
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"The schema {path} is not text.", mend="Write it as TOML or JSON.") from error
        try:
            content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except ValueError as error:
            raise ConfigError(
                f"The schema {path} cannot be read: {error}.", mend="Write it as TOML, or as JSON in a .json file."
            ) from error
        return cls.from_mapping(content, str(path))

    @classmethod
    def from_mapping(cls, content: Any, where: str) -> Self:
        """The schema that a parsed file describes; ``where`` is for the error."""
        known = [field.name for field in fields(cls)]
        if not isinstance(content, dict):
            raise ConfigError(f"{where} is not a table of names.", mend=f"Its keys are {', '.join(known)}.")
        given: dict[str, Any] = {}
        for name, value in content.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"Did you mean {near[0]}?" if near else f"Its keys are {', '.join(known)}."
                raise ConfigError(f"{where} says {name!r}, which no schema says.", mend=meant)
            given[name] = _typed(name, value, where)
        return cls(**given)

    def overridden_by(self, other: Schema) -> Schema:
        """This schema, except for what ``other`` says."""
        empty = Schema()
        said = {f.name: getattr(other, f.name) for f in fields(other)}
        return replace(self, **{name: value for name, value in said.items() if value != getattr(empty, name)})

    def actions(self, size: int) -> ActionSpace | None:
        """What could be done, where the schema says it; ``size`` numbers make one action."""
        if self.num_actions is not None:
            return DiscreteActions(self.num_actions)
        if not self.action_low:
            return None
        low, high = (
            torch.tensor(bound * size if len(bound) == 1 else bound) for bound in (self.action_low, self.action_high)
        )
        if low.shape != (size,) or high.shape != (size,):
            raise ConfigError(
                f"An action is {size} numbers, and {len(low)} lower and {len(high)} upper bounds are given.",
                mend="Give one for each number, or one for all.",
            )
        if not bool((low.isfinite() & high.isfinite() & (low < high)).all()):
            raise ConfigError(
                f"Actions from {low.tolist()} to {high.tolist()} leave nothing to choose.",
                mend="Lower bounds are finite and below the upper ones.",
            )
        return ContinuousActions(low, high)


D4RL = Schema(
    observation=("observations",),
    action=("actions",),
    reward="rewards",
    terminated="terminals",
    truncated="timeouts",
    log_propensity="infos/action_log_probs",
    next_observation=("next_observations",),
)
"""The names of Fu et al. (2020), "D4RL: datasets for deep data-driven reinforcement learning". The last three may lack."""
D4RL_OPTIONAL = ("truncated", "log_propensity", "next_observation")


def resolve(schema: Schema, names: Sequence[str], where: str, *, optional: Sequence[str] = ()) -> Schema:
    """The schema with every pattern replaced by the columns it stands for.

    Args:
        schema: what was declared.
        names: what there is.
        where: the file, for the error.
        optional: fields that may name columns that are not there; they are then left out.

    Raises:
        DatasetInvalidError: a column is missing.
        ConfigError: the schema says too little.
    """
    there = ", ".join(sorted(names)[:20]) or "none"
    for needed in ("observation", "action", "reward", "terminated"):
        if not getattr(schema, needed):
            raise ConfigError(
                f"Nothing says which column of {where} is the {needed}. There are: {there}.",
                mend=f"Say --{needed} NAME, or {needed} = ... in a --schema file"
                + (f"; --{needed} {NONE} if the task never ends." if needed == "terminated" else "."),
            )

    def found(field: str, name: str) -> list[str]:
        if name == NONE and field in ("terminated", "truncated"):
            return [NONE]
        if name in names:
            return [name]
        matching = sorted(fnmatch.filter(names, name), key=_naturally) if set("*?") & set(name) else []
        if not matching and field not in optional:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise DatasetInvalidError(
                f"{where} has no column {name!r} for the {field}. There are: {there}.",
                mend=f"Did you mean {near[0]}?" if near else "Name the right one in the schema.",
            )
        return matching

    resolved: dict[str, Any] = {}
    for field in _LISTS:
        resolved[field] = tuple(column for name in getattr(schema, field) for column in found(field, name))
    for field in ("reward", "terminated", "truncated", "episode", "propensity", "log_propensity"):
        name = getattr(schema, field)
        one = [] if name is None else found(field, name)
        if len(one) > 1:
            raise ConfigError(f"{name!r} stands for {len(one)} columns of {where}.", mend=f"The {field} is one column.")
        resolved[field] = one[0] if one else None
    return replace(schema, **resolved)


def columns_of(schema: Schema) -> list[str]:
    """Every column that a resolved schema names, once."""
    named = [name for field in _LISTS for name in getattr(schema, field)]
    single = ("reward", "terminated", "truncated", "episode", "propensity", "log_propensity")
    named += [getattr(schema, field) for field in single if getattr(schema, field) not in (None, NONE)]
    return list(dict.fromkeys(named))


def _naturally(name: str) -> list[tuple[int, str]]:
    # obs_2 before obs_10
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _typed(name: str, value: Any, where: str) -> Any:
    if name in _LISTS:
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return tuple(value)
    elif name in _NUMBERS:
        value = value if isinstance(value, list) else [value]
        if value and all(type(one) in (int, float) for one in value):
            return tuple(float(one) for one in value)
    elif name in _COUNTS:
        if type(value) is int:
            return value
    elif isinstance(value, str):
        return value
    raise ConfigError(f"{where} says {name} = {value!r}.", mend=f"See rlcourse offline import --help for {name}.")
