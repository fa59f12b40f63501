"""Asks the candidate what the incumbent is asked, without anybody having to wait for it, from the client's side.

Our own service does this by itself once it is told of a shadow (:mod:`rlcourse.serving.shadows`). This is for two services that
know nothing of each other.

::

    observation ──▶ live client ──▶ answer, at once
         └── copy ──▶ bounded queue ──▶ a thread ──▶ shadow client ──▶ written down, thrown away

A shadow that is slow fills the queue, and copies are dropped and counted; one that raises is counted as failed. Neither can
reach the live path.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from rlcourse.errors import ConfigError
from rlcourse.release.shadow import Mirrored, ShadowReport, shadow_report


class Answered(Protocol):
    """What the mirror reads of an answer."""

    @property
    def action(self) -> Any:
        """That was chosen."""
        ...

    @property
    def probability(self) -> Any:
        """With which it was chosen; ``None`` for a fallback of the client."""
        ...

    @property
    def request_id(self) -> str:
        """Under which a reward comes later."""
        ...

    @property
    def fallback(self) -> Any:
        """Why it is not the policy's own; ``None`` if it is."""
        ...


class Asked(Protocol):
    """A client of the policy service, over HTTP or in this process."""

    def act(self, observation: Sequence[float | None], **options: Any) -> Answered:
        """One action."""
        ...


class Mirror:
    """Answers as the live client does; keeps what the shadow would have answered. Close it, or use it as a context manager.

    The shadow is asked for its likeliest action, as it would be deployed; the probability of the incumbent's action under
    it is then 1 or 0.

    Args:
        live: whose answers are returned.
        shadow: whose answers are kept; a client bound to the candidate's version.
        max_waiting: copies in the queue; beyond, they are dropped.
        clock: seconds that only grow.
    """

    def __init__(
        self, live: Asked, shadow: Asked, *, max_waiting: int = 1_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if max_waiting < 1:
            raise ConfigError("A mirror that keeps nothing.", mend="Use 1 waiting copy or more.")
        self._live, self._shadow, self._clock = live, shadow, clock
        self._queue: queue.Queue[tuple[Sequence[float | None], dict[str, Any], Answered] | None] = queue.Queue(
            max_waiting
        )
        self._kept: dict[str, Mirrored] = {}
        self._rewards: dict[str, float] = {}
        self._lock = threading.Lock()
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def act(self, observation: Sequence[float | None], **options: Any) -> Answered:
        """The live answer. Answers of a fallback are not mirrored: they say nothing of the incumbent."""
        answer = self._live.act(observation, **options)
        if answer.fallback is None and answer.probability:
            try:
                self._queue.put_nowait((list(observation), options, answer))
            except queue.Full:
                self.dropped += 1
        return answer

    def reward(self, request_id: str, reward: float) -> None:
        """What the action led to; in any order with the shadow's answer."""
        with self._lock:
            self._rewards[request_id] = reward

    def report(self, *, promised_ms: float = 50.0) -> ShadowReport:
        """Of everything that was mirrored so far."""
        with self._lock:
            joined = [replace(one, reward=self._rewards.get(name, math.nan)) for name, one in self._kept.items()]
        return shadow_report(joined, promised_ms=promised_ms)

    def close(self) -> None:
        """Wait for the copies in the queue, and end."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (copy := self._queue.get()) is not None:
            observation, options, live = copy
            # An id of its own: the decision log must not take the copy for the request.
            asked = {**options, "request_id": f"shadow-{live.request_id}", "deterministic": True}
            began = self._clock()
            own: int | None
            try:
                answer = self._shadow.act(observation, **asked)
                own, fell_back = answer.action, answer.fallback is not None
            except Exception:  # whatever a shadow does, nobody may suffer from it; the report counts it
                own, fell_back = None, False
            took_ms = 1e3 * (self._clock() - began)
            same = 1.0 if own == live.action else 0.0
            kept = Mirrored(live.action, live.probability, own, same, shadow_ms=took_ms, shadow_fallback=fell_back)
            with self._lock:
                self._kept[live.request_id] = kept


__all__ = ["Answered", "Asked", "Mirror"]
