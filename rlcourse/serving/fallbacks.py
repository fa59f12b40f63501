"""What is done without the policy: when it failed, was late, or cannot be shown what was sent."""

from __future__ import annotations

import math

import numpy as np

from rlcourse.errors import ConfigError
from rlcourse.serving.continuous import ActionBounds
from rlcourse.serving.policies import Booleans

UNIFORM = "uniform"


class Fallback:
    """Something drawn evenly from what is allowed, or always the same.

    Args:
        words: ``uniform``; the number of an action; or a continuous action, its numbers separated by commas.

    Raises:
        ConfigError: the words are none of these.
    """

    def __init__(self, words: str) -> None:
        self.words = words
        self.numbers: tuple[float, ...] = ()  # empty: uniform
        if words == UNIFORM:
            return
        try:
            self.numbers = tuple(float(word) for word in words.split(","))
            if not all(map(math.isfinite, self.numbers)):
                raise ValueError
        except ValueError as error:
            raise ConfigError(
                f"{words!r} is no fallback.",
                mend="Use uniform, the number of an action, or the numbers of a continuous action as 0.5,-1.",
            ) from error

    def check(self, num_actions: int, bounds: ActionBounds | None) -> None:
        """Whether a policy's task knows such an action.

        Args:
            num_actions: ``A``, or ``K`` for continuous actions.
            bounds: of continuous actions; ``None`` where they are counted.

        Raises:
            ConfigError: it does not.
        """
        if not self.numbers:
            return
        if bounds is None:
            if not self.words.isdecimal() or int(self.words) >= num_actions:
                raise ConfigError(
                    f"The fallback {self.words!r} is not the number of an action, and this policy counts its actions.",
                    mend=f"Use uniform, or 0 to {num_actions - 1}.",
                )
            return
        if len(self.numbers) != bounds.size or not bounds.hold(np.array([self.numbers], np.float32)):
            between = ", ".join(f"{low:g} to {high:g}" for low, high in zip(bounds.low, bounds.high, strict=True))
            raise ConfigError(
                f"The fallback {self.words!r} is not an action of this policy, which is continuous.",
                mend=f"Use uniform, or {bounds.size} numbers separated by commas, within {between}.",
            )

    def counted(self, num_actions: int, mask: Booleans | None, rng: np.random.Generator) -> tuple[int, float]:
        """One of ``A`` actions, among those an ``(A,)`` mask allows, and its probability.

        A fixed action that is not allowed gives way to the first that is.
        """
        allowed = range(num_actions) if mask is None else np.flatnonzero(mask).tolist()
        if not self.numbers:
            return allowed[int(rng.integers(len(allowed)))], 1.0 / len(allowed)
        wanted = int(self.numbers[0])
        return (wanted if wanted in allowed else allowed[0]), 1.0

    def continuous(self, bounds: ActionBounds, rng: np.random.Generator) -> tuple[list[float], float | None]:
        """``K`` numbers and their density: 1 / volume if drawn evenly, ``None`` if always the same."""
        if not self.numbers:
            return bounds.draw(rng), bounds.density
        # What a number in the words has beyond a bound is what rounding the bound to 32 bits took away.
        fixed: list[float] = np.clip(np.array(self.numbers), bounds.low, bounds.high).tolist()
        return fixed, None
