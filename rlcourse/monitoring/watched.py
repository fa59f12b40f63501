"""A policy that is looked over the shoulder: what it does is counted where it decides, and nothing else changes.

It has the same face as the policy inside, so a service takes the one for the other
(:class:`rlcourse.serving.policies.ServablePolicy`)::

    service ──obs──▶ WatchedPolicy ──obs──▶ policy
            ◀─────── actions ◀───┬───────── actions, probabilities
                                 └─▶ a count for each action; entropy and exploration of every 64th decision
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rlcourse.errors import ConfigError
from rlcourse.monitoring.streams import PolicyStream

Floats = npt.NDArray[np.float32]


class Asked(Protocol):
    """A policy as a service asks it."""

    @property
    def obs_size(self) -> int:
        """``D``."""
        ...

    @property
    def num_actions(self) -> int:
        """``A``."""
        ...

    @property
    def memory_size(self) -> int:
        """``H``."""
        ...

    def first_memory(self, batch_size: int) -> Floats:
        """``(B, H)``."""
        ...

    def decide(self, obs: Floats, *, greedy: bool, mask: Any, memory: Floats | None, rng: np.random.Generator) -> Any:
        """Choose actions: an object with ``actions``, ``(B,)``, and ``probabilities``, ``(B, A)``."""
        ...


class ActionCounts:
    """How often each of ``A`` actions was taken; read by the exporter when somebody scrapes."""

    def __init__(self, num_actions: int) -> None:
        if num_actions < 1:
            raise ConfigError(f"{num_actions} actions.", mend="Use 1 or more.")
        self.counts = [0] * num_actions
        self.uncounted = 0  # decisions that are no numbers of actions: a continuous policy's


class WatchedPolicy:
    """Counts what ``policy`` does.

    Args:
        policy: decides, among finitely many actions.
        stream: takes entropies and exploration; ``None`` for the action counts alone.
        every: of so many decisions one goes into ``stream``. Their mean is as good from a sample, and an entropy costs
            more than all the counting. 1 suits a plant that decides every ten minutes.
    """

    def __init__(self, policy: Asked, *, stream: PolicyStream | None = None, every: int = 64) -> None:
        if every < 1:
            raise ConfigError(f"Every {every}th decision.", mend="Use 1 or more.")
        self._decide, self._stream, self._every = policy.decide, stream, every
        self._until = 1 if stream is not None else -1  # below 0 it never comes to 0
        self.obs_size, self.num_actions, self.memory_size = policy.obs_size, policy.num_actions, policy.memory_size
        self.first_memory = policy.first_memory
        self.actions = ActionCounts(policy.num_actions)
        self._counts = self.actions.counts

    def decide(self, obs: Floats, *, greedy: bool, mask: Any, memory: Floats | None, rng: np.random.Generator) -> Any:
        """The policy's own answer, counted. What cannot be counted is passed on all the same."""
        chosen = self._decide(obs, greedy=greedy, mask=mask, memory=memory, rng=rng)
        actions, counts = chosen.actions, self._counts
        try:
            if len(actions) == 1:
                counts[actions.item(0)] += 1
            else:
                for action in actions.tolist():
                    counts[action] += 1
        except (TypeError, IndexError):  # an error here would cost the client the policy's answer
            self.actions.uncounted += 1
            return chosen
        self._until -= 1
        if self._until == 0:
            self._until = self._every
            self._sample(chosen)
        return chosen

    def _sample(self, chosen: Any) -> None:
        # Plain numbers: for a handful of actions NumPy's calls cost more than the sums.
        row = chosen.probabilities[0].tolist()
        # Probabilities that are no numbers are the service's to catch, with a fallback; a mean of them would be NaN.
        if self._stream is not None and abs(sum(row) - 1.0) < 1e-4 and min(row) >= 0.0:
            entropy = -sum(p * math.log(p) for p in row if p > 0.0)
            self._stream.decision(entropy, explored=row[chosen.actions.item(0)] < max(row))
