"""What a saved policy says of itself, besides its weights. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rlcourse.errors import ArtifactError

Head = Literal["logits", "q", "gaussian", "squashed_gaussian", "deterministic"]
Network = Literal["mlp", "dueling", "bounded", "recurrent"]

KINDS: dict[str, tuple[str, ...]] = {
    "logits": ("mlp", "recurrent"),
    "q": ("mlp", "dueling"),
    "gaussian": ("mlp", "bounded"),
    "squashed_gaussian": ("mlp",),
    "deterministic": ("bounded",),
}
"""Which networks each head can stand on."""
MEND = "Save the policy again."


@dataclass(frozen=True)
class PolicyDescription:
    """Everything about a policy but its weights.

    Observations are ``D = obs_size`` float32 numbers in their own units: shifting and scaling them is the network's
    first step and travels with its weights.
    """

    algorithm: str
    env_id: str
    head: Head  # logits are sampled from, Q-values are maximised; the others make continuous actions
    hidden: tuple[int, ...]  # sizes of the hidden layers; of a recurrent network the size of its memory
    obs_size: int  # D
    num_actions: int  # A, or how many numbers are in a continuous action: K
    provenance: dict[str, Any] = field(default_factory=dict)  # parents: data set and its checksum, code, config, seed
    evaluation: dict[str, Any] = field(default_factory=dict)  # what it earned, and how that was measured
    activation: Literal["relu", "tanh"] = "relu"  # between the layers
    low: tuple[float, ...] = ()  # (K,) bounds of a continuous action; empty where actions are counted
    high: tuple[float, ...] = ()
    network: Network = "mlp"  # dueling: value and advantages apart; bounded: tanh within the actions' bounds
    obs_low: tuple[float | None, ...] = ()  # (D,) the task's bounds, None where there is none; empty: not known
    obs_high: tuple[float | None, ...] = ()
    first_memory: tuple[float, ...] = ()  # (H,) what an episode begins with; empty for a policy without memory
    version: str = ""  # as whoever releases it counts; empty: the weights' checksum serves

    @property
    def discrete(self) -> bool:
        """Whether actions are counted. Only then can some be ruled out by a mask."""
        return self.head in ("logits", "q")

    @property
    def takes_mask(self) -> bool:
        """Whether a mask of allowed actions can be given with an observation."""
        return self.discrete

    @property
    def memory_size(self) -> int:
        """``H``; 0 for a policy that remembers nothing."""
        return len(self.first_memory)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], where: str) -> PolicyDescription:
        """Rebuild from what JSON gives back, and check that it describes something.

        Raises:
            ArtifactError: a value is impossible.
            TypeError: a field is missing, unknown, or of another type.
        """
        tuples = ("hidden", "low", "high", "obs_low", "obs_high", "first_memory")
        about = cls(**{**fields, **{name: tuple(fields.get(name, ())) for name in tuples}})
        problem = about.problem()
        if problem is not None:
            raise ArtifactError(f"The description in {where} is impossible: {problem}.", mend=MEND)
        return about

    def problem(self) -> str | None:
        """What is impossible about it, or ``None``."""
        # Python compares a list with a string without complaint, so the types are looked at first.
        if self.head not in get_args(Head):
            return f"unknown head {self.head!r}"
        if self.network not in KINDS[self.head]:
            return f"a {self.head} head on a {self.network!r} network"
        if self.activation not in ("relu", "tanh"):
            return f"unknown activation {self.activation!r}"
        sizes = (self.obs_size, self.num_actions, *self.hidden)
        if not all(type(size) is int and size > 0 for size in sizes):
            return "sizes must be whole numbers above 0"
        bounds = 0 if self.discrete else self.num_actions
        if not (_finite(self.low, bounds) and _finite(self.high, bounds)):
            return f"{bounds} finite action bounds are needed on each side"
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            return "an action's lower bound is not below its upper one"
        if not all(_bounds(side, self.obs_size) for side in (self.obs_low, self.obs_high)):
            return "observation bounds must be numbers or null, one for each entry"
        remembers = self.hidden[0] if self.network == "recurrent" and len(self.hidden) == 1 else 0
        if not _finite(self.first_memory, remembers) or (self.network == "recurrent" and not remembers):
            return f"the first memory must hold {remembers} finite numbers"
        texts = (self.algorithm, self.env_id, self.version)
        if not (all(isinstance(text, str) for text in texts)):
            return "algorithm, env_id and version must be texts"
        if not (isinstance(self.provenance, dict) and isinstance(self.evaluation, dict)):
            return "provenance and evaluation must be objects"
        return None


def observation_bounds(values: Sequence[float]) -> tuple[float | None, ...]:
    """Bounds as JSON can hold them: ``None`` for an infinite one."""
    return tuple(float(value) if math.isfinite(value) else None for value in values)


def _number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _finite(values: Sequence[object], size: int) -> bool:
    return len(values) == size and all(map(_number, values))


def _bounds(values: Sequence[object], size: int) -> bool:
    return not values or (len(values) == size and all(value is None or _number(value) for value in values))
