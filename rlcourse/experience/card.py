"""What a data set says about itself: where it came from (the card) and what is in it (the summary)."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any, Self

import numpy as np
import torch

from rlcourse.errors import DatasetInvalidError
from rlcourse.experience.coverage import coverage
from rlcourse.experience.episodes import Array, Episodes
from rlcourse.vocabulary import ActionSpace, ContinuousActions, DiscreteActions

PACKAGES = ("rlcourse", "torch", "numpy", "gymnasium", "minari", "h5py")
"""Whose versions are written beside the data."""
AT_BOUNDS = 0.01
"""A continuous action counts as at its bound when nearer than this share of the range."""
_BOUNDS = ("action_low", "action_high")


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """Where a data set came from: enough to collect it again.

    Actions are either ``num_actions`` discrete ones, or continuous ones between ``action_low`` and ``action_high``.

    Raises:
        DatasetInvalidError: neither or both are given, or bounds that hold nothing between them.
    """

    env_id: str
    """Gymnasium name of the task."""
    num_actions: int = 0
    """``A``; actions are 0 to A - 1. It is 0 where they are continuous; ``actions`` knows both kinds."""
    action_low: tuple[float, ...] = ()
    """``K`` lower bounds of continuous actions, as they stand in the data."""
    action_high: tuple[float, ...] = ()
    """``K`` upper bounds."""
    quality: str = "unknown"
    """random, medium, expert, mixed, replay, or a word of your own."""
    behaviour: str = "unknown"
    """What chose the actions, in words."""
    seed: int | None = None
    """The integer from which everything random followed."""
    details: dict[str, Any] = field(default_factory=dict)
    """Anything else worth knowing; must be JSON."""
    command: str = ""
    """The command line that makes this data set."""
    versions: dict[str, str] = field(default_factory=dict)
    """Library versions; filled in when the data set is saved."""

    def __post_init__(self) -> None:
        low, high = (np.asarray(bound, dtype=np.float32) for bound in (self.action_low, self.action_high))
        if (self.num_actions > 0) == (len(low) > 0) or self.num_actions < 0:
            raise _unreadable(f"it names {self.num_actions} discrete actions and {len(low)} bounds of continuous ones")
        if low.shape != high.shape or not (np.isfinite([*low, *high]).all() and (low < high).all()):
            raise _unreadable(f"actions from {self.action_low} to {self.action_high} are no bounded box")

    @property
    def continuous(self) -> bool:
        """Whether actions are numbers within bounds."""
        return self.num_actions == 0

    @property
    def actions(self) -> ActionSpace:
        """What could be done, as learners want to know it. Its ``count`` is an error where actions are continuous."""
        if not self.continuous:
            return DiscreteActions(self.num_actions)
        low, high = (torch.tensor(bound, dtype=torch.float32) for bound in (self.action_low, self.action_high))
        return ContinuousActions(low, high)

    @staticmethod
    def fields_of(actions: ActionSpace) -> dict[str, Any]:
        """The card's fields that say what could be done: ``DatasetCard(env_id=..., **DatasetCard.fields_of(env.actions))``."""
        if isinstance(actions, DiscreteActions):
            return {"num_actions": actions.count}
        return {"action_low": tuple(actions.low.tolist()), "action_high": tuple(actions.high.tolist())}

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; those of continuous actions only where there are any."""
        content = asdict(self)
        for name in _BOUNDS:
            content[name] = list(content[name])
            if not self.continuous:
                del content[name]
        return content

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The card that :meth:`to_json` wrote.

        Raises:
            DatasetInvalidError: a field is missing, unknown or of the wrong type.
        """
        kinds: dict[str, type | tuple[type, ...]] = {
            "env_id": str,
            "num_actions": int,
            "quality": str,
            "behaviour": str,
            "seed": (int, type(None)),
            "details": dict,
            "command": str,
            "versions": dict,
        }
        if not isinstance(value, Mapping) or set(value) - set(_BOUNDS) != set(kinds):
            raise _unreadable("its fields are not those of a data set card")
        for name, kind in kinds.items():
            if not isinstance(value[name], kind) or isinstance(value[name], bool):
                raise _unreadable(f"{name} is {value[name]!r}")
        bounds = {name: value[name] for name in _BOUNDS if name in value}
        for name, bound in bounds.items():
            if not isinstance(bound, list) or not all(type(number) in (int, float) for number in bound):
                raise _unreadable(f"{name} is {bound!r}")
        return cls(**{**value, **{name: tuple(map(float, bound)) for name, bound in bounds.items()}})


def installed_versions() -> dict[str, str]:
    """The versions of Python and of :data:`PACKAGES`."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def summarise(
    episodes: Episodes, card: DatasetCard, *, size_bytes: int | None = None, checksum: str | None = None, bins: int = 20
) -> dict[str, Any]:
    """Describe a data set in numbers that are plain JSON.

    ``action_entropy`` is the mean of :math:`-\\log \\pi_b(a \\mid o)` over the logged steps, in nats. Its expectation
    is the behaviour policy's entropy averaged over the observations it met: 0 for a policy that never varies,
    :math:`\\log A` for one that chooses evenly; over continuous actions it is differential, and may be negative. It is
    ``None`` where propensities were not logged. The entropy beside the frequencies of discrete actions is another: that
    of an action drawn from the whole log by somebody who sees no observation.
    """
    returns = episodes.returns()
    ended = int(episodes.terminated.sum())
    return {
        "transitions": episodes.num_transitions,
        "episodes": episodes.num_episodes,
        "returns": _distribution(returns, bins),
        "lengths": _quartiles(episodes.lengths),
        "ends": {"terminated": ended, "time_limit": episodes.num_episodes - ended},
        "actions": _actions(episodes.actions, card),
        "observations": [
            {"min": float(low), "mean": float(mean), "max": float(high)}
            for low, mean, high in zip(
                episodes.observations.min(axis=0),
                episodes.observations.mean(axis=0, dtype=np.float64),
                episodes.observations.max(axis=0),
                strict=True,
            )
        ],
        "coverage": coverage(episodes.observations),
        "propensities": _propensities(episodes.behaviour_probabilities, continuous=card.continuous),
        "memory_bytes": episodes.num_bytes,
        "file_bytes": size_bytes,
        "checksum": checksum,
        "provenance": card.to_json(),
    }


def _distribution(values: Array, bins: int) -> dict[str, Any]:
    counts, edges = np.histogram(values, bins=bins)
    return {**_quartiles(values), "histogram": {"counts": counts.tolist(), "edges": edges.tolist()}}


def _quartiles(values: Array) -> dict[str, float]:
    names = ("min", "first_quartile", "median", "third_quartile", "max")
    found = np.quantile(values, (0.0, 0.25, 0.5, 0.75, 1.0))
    return {"mean": float(np.mean(values)), **{name: float(v) for name, v in zip(names, found, strict=True)}}


def _actions(actions: Array, card: DatasetCard) -> dict[str, Any]:
    if card.continuous:
        columns = zip(card.action_low, card.action_high, actions.T.astype(np.float64), strict=True)
        return {
            "entries": [
                {
                    "low": low,
                    "high": high,
                    "min": float(column.min()),
                    "mean": float(column.mean()),
                    "max": float(column.max()),
                    "spread": float(column.std()),
                    "at_bounds": float((np.minimum(column - low, high - column) <= AT_BOUNDS * (high - low)).mean()),
                }
                for low, high, column in columns
            ]
        }
    counts = np.bincount(actions, minlength=card.num_actions)
    shares = counts / counts.sum()
    taken = shares[shares > 0]
    entropy = float(-(taken * np.log(taken)).sum()) + 0.0  # adding 0 turns -0 into 0
    return {"counts": counts.tolist(), "frequencies": shares.tolist(), "entropy": entropy}


def _propensities(probabilities: Array, *, continuous: bool) -> dict[str, Any]:
    known = probabilities[~np.isnan(probabilities)].astype(np.float64)
    share = len(known) / len(probabilities)
    if not len(known):
        return {"known": share, "min": None, "max": None, "action_entropy": None}
    entropy = float(-np.log(known).mean())
    if not continuous:
        entropy = max(0.0, entropy)  # a propensity a rounding error above 1 is not negative entropy
    return {"known": share, "min": float(known.min()), "max": float(known.max()), "action_entropy": entropy}


def _unreadable(why: str) -> DatasetInvalidError:
    return DatasetInvalidError(
        f"The data set's card cannot be read: {why}.", mend="Write the data set again with rlcourse offline generate."
    )
