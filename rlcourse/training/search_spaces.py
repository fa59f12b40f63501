"""Search spaces as data: which settings of an algorithm are tuned, and between which bounds."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from rlcourse.errors import ConfigError, UnknownAlgorithmError

Value = float | int | str


@dataclass(frozen=True)
class Range:
    """A number between two bounds."""

    low: float
    high: float
    log: bool = False
    """Try as many values between 1 and 10 as between 10 and 100: for what is tuned by factors, not by differences."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float | int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Whole:
    """A whole number between two bounds."""

    low: int
    high: int
    log: bool = False

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Value, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.values


Space = Mapping[str, Range | Whole | Choice]
"""Bounds by the name of the setting."""

_DISCOUNTS = Choice((0.95, 0.97, 0.98, 0.99, 0.995))

SEARCH_SPACES: dict[str, Space] = {
    "ppo": {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "rollout_steps": Choice((16, 32, 64, 128)),
        "epochs": Whole(2, 30, log=True),
        "batch_size": Choice((64, 128, 256, 512, 1024)),
        "gamma": _DISCOUNTS,
        "lambda_": Range(0.5, 1.0),
        "clip": Range(0.05, 0.4),
        "entropy_weight": Range(0.0, 0.05),
    },
    "dqn": {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "batch_size": Choice((32, 64, 128, 256)),
        "steps_per_update": Choice((2, 4, 8, 16)),
        "n_step": Whole(1, 5),
        "target_rate": Range(1e-3, 1e-1, log=True),
        "final_epsilon": Range(0.01, 0.2, log=True),
        "gamma": _DISCOUNTS,
    },
    "sac": {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "batch_size": Choice((64, 128, 256, 512)),
        "n_step": Whole(1, 5),
        "target_rate": Range(1e-3, 1e-1, log=True),
        "temperature": Range(0.1, 2.0, log=True),
        "gamma": _DISCOUNTS,
    },
}
"""By algorithm. A name is that of a field of the learner's or of the loop's config."""


def search_space(algorithm: str) -> Space:
    """What is tuned of an algorithm.

    Raises:
        UnknownAlgorithmError: there is none of that name, or it has nothing to tune.
    """
    if algorithm not in SEARCH_SPACES:
        near = difflib.get_close_matches(algorithm, SEARCH_SPACES, n=1)
        meant = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(SEARCH_SPACES)}."
        raise UnknownAlgorithmError(f"There is no search space for {algorithm!r}.", mend=meant)
    return SEARCH_SPACES[algorithm]


def including(space: Space, values: Mapping[str, Any]) -> Space:
    """The space, widened where one of the values lies outside."""
    return {name: _including(bounds, values[name]) if name in values else bounds for name, bounds in space.items()}


def _including(bounds: Range | Whole | Choice, value: Any) -> Range | Whole | Choice:
    if value in bounds:
        return bounds
    if isinstance(bounds, Choice):
        return Choice((*bounds.values, value))
    return replace(bounds, low=min(bounds.low, value), high=max(bounds.high, value))


C = TypeVar("C")


def settings_of(config: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the fields of these names have, wherever in a nested config they are."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found |= settings_of(value, names)
        elif field.name in names:
            found[field.name] = value
    return {name: found[name] for name in names if name in found}


def with_settings(config: C, values: Mapping[str, Any]) -> C:
    """A copy of a nested config in which the fields of these names have these values.

    Raises:
        ConfigError: no field has one of the names.
    """
    if missing := set(values) - set(settings_of(config, values)):
        raise ConfigError(
            f"{type(config).__name__} has no setting {', '.join(sorted(missing))}.", mend="Name one that it has."
        )
    changed: C = _replaced(config, values)
    return changed


def _replaced(config: Any, values: Mapping[str, Any]) -> Any:
    changed: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            changed[field.name] = _replaced(value, values)
        elif field.name in values:
            changed[field.name] = values[field.name]
    return replace(config, **changed)
