"""A request that is known to fit, and what the policy made of it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from rlcourse.serving import wire
from rlcourse.serving.continuous import Drawn
from rlcourse.serving.policies import Booleans, Decided, Floats
from rlcourse.serving.shelf import Loaded

Reason = Literal["timeout", "error", "non_finite", "out_of_range", "breaker_open"]


class Prepared:
    """A request that is known to fit."""

    __slots__ = ("allowed_s", "arrived", "bad", "loaded", "many", "mask", "memory", "obs", "request", "started")

    def __init__(
        self,
        request: wire.ActionRequest,
        loaded: Loaded,
        obs: Floats,
        many: bool,
        mask: Booleans | None,
        bad: list[Any] | None,
        arrived: float,
        allowed_s: float,
    ) -> None:
        self.request, self.loaded, self.obs, self.many, self.mask = request, loaded, obs, many, mask
        self.bad = bad  # for each row None or the reason why it cannot be shown to the policy
        self.arrived, self.allowed_s = arrived, allowed_s
        self.memory: Floats | None = None  # what was recalled, while it waits in a batch
        self.started = False  # a memory began with this request


class Outcome(NamedTuple):
    """What the policy said, or why it said nothing."""

    decided: Decided | Drawn | None
    reason: Reason | None


def out_of_range(obs: Floats, loaded: Loaded, bad: list[Any] | None) -> list[Any] | None:
    """What is wrong with each of ``(B, D)`` observations: ``bad``, and those outside the task's bounds."""
    outside = np.zeros(len(obs), np.bool_)
    if loaded.low is not None:
        outside |= (obs < loaded.low).any(-1)
    if loaded.high is not None:
        outside |= (obs > loaded.high).any(-1)
    if not outside.any():
        return bad
    known = bad or [None] * len(obs)
    return [reason or ("out_of_range" if out else None) for reason, out in zip(known, outside.tolist(), strict=True)]
