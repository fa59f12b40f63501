r"""Continuous actions as the service answers with them: within their bounds, and with the density they were drawn with.

A density is that of the whole action, in the units of the environment: an even choice between -2 and 2 has 1/4
everywhere, and rescaling an action by 10 divides its density by 10. A policy that always does the same has none.

Two kinds of policies keep their bounds in two ways::

    squashed   u = mean + std * noise        action = centre + half range * tanh(u)     never beyond the bounds
    Gaussian   u = mean + std * noise        action = u, cut off at the bounds          the density is that of u

How dense a cut-off action is nobody can say: a whole tail of the distribution has been gathered in one point. So the
density named is that of ``u``, and the decision log holds ``u`` beside the action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rlcourse.deployment.numpy_policy import Floats, Masks, NumpyPolicy

LOG_DENSITIES = (-87.0, 88.0)
"""Log-densities are kept within these, as in every log of this package: what float32 can hold."""
Densities = npt.NDArray[np.float64]


class ActionBounds:
    """What the ``K`` numbers of an action lie between.

    Args:
        low: ``(K,)``.
        high: ``(K,)``, each above its ``low``.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        self.low, self.high = np.array(low, np.float32), np.array(high, np.float32)
        self.size = len(self.low)
        volume = -float(np.log(self.high.astype(np.float64) - self.low).sum())
        self.density = math.exp(min(max(volume, LOG_DENSITIES[0]), LOG_DENSITIES[1]))
        """Of an action drawn evenly from within: 1 / volume."""

    def hold(self, actions: Floats) -> bool:
        """Whether ``(B, K)`` actions are all within; what is no number is not."""
        return bool(((actions >= self.low) & (actions <= self.high)).all())

    def same(self, other: ActionBounds | None) -> bool:
        """Whether both allow the same actions; ``None`` are counted ones."""
        return other is not None and np.array_equal(self.low, other.low) and np.array_equal(self.high, other.high)

    def draw(self, rng: np.random.Generator) -> list[float]:
        """``K`` numbers, drawn evenly."""
        share = rng.random(self.size)
        drawn = (self.low + share * (self.high.astype(np.float64) - self.low)).astype(np.float32)
        inside: list[float] = np.clip(drawn, self.low, self.high).tolist()
        return inside


class Drawn(NamedTuple):
    """What a policy over continuous actions answers to ``B`` observations."""

    actions: Floats  # (B, K) within the bounds
    densities: Densities | None  # (B,) of what was drawn, in the units of the action; None: nothing was drawn
    sampled: Floats | None = None  # (B, K) as drawn, before some were cut off at a bound; None: the same as actions
    memory: Floats | None = None  # (B, H) what to remember, of a policy that remembers

    def rows(self, part: slice) -> Drawn:
        """Of some of the observations."""
        return Drawn(*(None if one is None else one[part] for one in self))  # type: ignore[arg-type]  # actions are there

    def sound(self, bounds: ActionBounds | None) -> bool:
        """Whether all of it is numbers, and the actions within bounds."""
        if bounds is None or not bounds.hold(self.actions):
            return False
        return self.densities is None or bool(((self.densities > 0.0) & (self.densities < math.inf)).all())

    def density(self, row: int) -> float | None:
        """Of one row."""
        return None if self.densities is None else float(self.densities[row])


class SavedContinuousPolicy:
    """A saved policy over continuous actions, as the service asks it."""

    def __init__(self, policy: NumpyPolicy) -> None:
        about = policy.description
        self._policy = policy
        self.obs_size, self.num_actions = policy.obs_size, policy.num_actions
        self.memory_size = policy.memory_size
        self.bounds = ActionBounds(about.low, about.high)
        self._squashed, self._certain = about.head == "squashed_gaussian", about.head == "deterministic"
        low, high = self.bounds.low, self.bounds.high
        self._centre, self._half = (high + low) / np.float32(2), (high - low) / np.float32(2)
        self._log_half = float(np.log(self._half.astype(np.float64)).sum())

    def first_memory(self, batch_size: int) -> Floats:
        """``(B, 0)``: such policies remember nothing."""
        return self._policy.first_memory(batch_size)

    def decide(
        self, obs: Floats, *, greedy: bool, mask: Masks | None, memory: Floats | None, rng: np.random.Generator
    ) -> Drawn:
        """See :class:`~rlcourse.serving.policies.ServablePolicy`. Numbers that are not finite come back as NaN."""
        found = self._policy.distribution(obs, mask, memory)
        drawn, densities = found["mean"], None
        if not (greedy or self._certain):
            noise = rng.standard_normal(drawn.shape, dtype=np.float32)
            drawn = drawn + found["std"] * noise
            densities = self._densities(noise, found["std"], drawn)
        drawn = np.where(np.isfinite(drawn), drawn, np.float32(np.nan))
        if self._squashed:
            drawn = self._centre + self._half * np.tanh(drawn)
        actions = np.clip(drawn, self.bounds.low, self.bounds.high)
        if densities is None or self._squashed or (actions == drawn).all():
            return Drawn(actions, densities)
        return Drawn(actions, densities, drawn)

    def _densities(self, noise: Floats, std: Floats, drawn: Floats) -> Densities:
        # The density of what was drawn is that of the noise: (u - mean) / std is the noise itself.
        each = 0.5 * np.square(noise, dtype=np.float64) + np.log(std, dtype=np.float64) + 0.5 * math.log(2.0 * math.pi)
        logs = -each.sum(-1)
        if self._squashed:
            # log(1 - tanh(u)^2), in the form that stays finite; Haarnoja et al. (2018), appendix C.
            u = drawn.astype(np.float64)
            logs -= 2.0 * (math.log(2.0) - u - np.logaddexp(0.0, -2.0 * u)).sum(-1) + self._log_half
        densities: Densities = np.exp(np.clip(logs, *LOG_DENSITIES))
        return densities
