"""Asks a shadow what the default was asked, when nobody waits for it any more.

::

    answer ──▶ client
      └── copy ──▶ bounded queue ──▶ a thread ──▶ the shadow ──▶ a line of the decision log, kind "shadow"

The request path appends to a queue in memory; a thread looks into it some times a second. A shadow that is slow fills the
queue, and copies are dropped and counted; one that raises is written down as failed. Neither can reach the live path.

The thread shares the interpreter with that path. So it asks about one request at a time, and steps aside after each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rlcourse.errors import ConfigError
from rlcourse.serving import wire
from rlcourse.serving.continuous import Drawn
from rlcourse.serving.policies import Decided, Floats
from rlcourse.serving.prepared import Outcome, Prepared
from rlcourse.serving.shelf import Loaded

if TYPE_CHECKING:
    from rlcourse.serving.service import Recorder, Watcher

logger = logging.getLogger(__name__)

POLL_S = 0.02
"""How long a copy may wait before the thread looks."""
LAST_S = 2.0
"""How long the end of the process waits for copies that are still in the queue."""


class Asks(Protocol):
    """:meth:`rlcourse.serving.service.PolicyService.ask`."""

    def __call__(
        self, loaded: Loaded, obs: Floats, greedy: bool, mask: Any, memory: Any, *, rng: np.random.Generator
    ) -> Outcome:
        """One call of the policy, whatever it raises."""
        ...


class Shadows:
    """A bounded queue before one thread, which begins with the first copy.

    Args:
        ask: one call of a policy.
        rng: what shadows draw with; nobody else may.
        clock: seconds that only grow.
        wall: the time of day, for the log.
        recorder: where lines go.
        watcher: who counts.
        max_waiting: copies in the queue; beyond, they are dropped.
    """

    def __init__(
        self,
        ask: Asks,
        rng: np.random.Generator,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        recorder: Recorder,
        watcher: Watcher,
        max_waiting: int = 10_000,
    ) -> None:
        if max_waiting < 1:
            raise ConfigError("A shadow that is asked nothing.", mend="Use 1 waiting copy or more.")
        self._ask, self._rng = ask, rng
        self._clock, self._wall = clock, wall
        self._recorder, self._watcher = recorder, watcher
        self._max_waiting = max_waiting
        self._queue: deque[Callable[[], object]] = deque()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Copies lost to a full queue."""

    def take(self, shadow: Loaded, prepared: Prepared, request_id: str, action: Any) -> None:
        """Copy a request that was answered with ``action``; returns at once."""
        if len(self._queue) >= self._max_waiting:
            self.dropped += 1
            return
        self._queue.append(lambda: self._mirror(shadow, prepared, request_id, action))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
            self._thread.start()

    def forget(self, shadow: Loaded, session: str) -> None:
        """Drop what it remembers of a session, once it has been asked all that came before."""
        sessions = shadow.sessions
        if sessions is None or self._thread is None:
            return  # nothing was ever remembered
        if len(self._queue) >= self._max_waiting:
            self.dropped += 1  # the session's memory goes when it expires
            return
        self._queue.append(lambda: sessions.forget(session))

    def close(self) -> None:
        """Ask what is in the queue, and end; a shadow that hangs is not waited for. Twice does no harm."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(LAST_S)

    def _work(self) -> None:
        while not self._stop.wait(POLL_S):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        while self._queue:
            try:
                self._queue.popleft()()
            except Exception:  # a log that cannot be written, say: the next copy may fare better
                logger.exception("A copy for a shadow was lost")
                self.dropped += 1
            time.sleep(0.0)  # whoever answers waits for the interpreter no longer than for one call

    def _mirror(self, shadow: Loaded, prepared: Prepared, request_id: str, action: Any) -> None:
        began = self._clock()
        own: Any = None
        probability: Any = None
        try:
            decided = self._decided(shadow, prepared)
            seconds = self._clock() - began
            if decided is not None:
                own, probability = _of_the_same(decided, action, prepared)
        except Exception:  # whatever it is, the next copy is asked all the same
            logger.exception("The shadow %s of %s failed", shadow.version, shadow.name)
            seconds, decided = self._clock() - began, None
        line = wire.ShadowLine(
            request_id, self._wall(), shadow.name, shadow.version, own, probability, round(seconds * 1e3, 3)
        )
        self._recorder.append(wire.encode(line))
        self._watcher.shadowed(shadow, len(prepared.obs), seconds, failed=decided is None)

    def _decided(self, shadow: Loaded, prepared: Prepared) -> Decided | Drawn | None:
        request, sessions = prepared.request, shadow.sessions
        # A batch has one session and many rows: the version that answers keeps no memory of it, and neither does this one.
        session = None if prepared.many else request.session
        memory = None
        if sessions is not None:
            if session is not None and not request.reset:
                memory = sessions.get(session)
            if memory is None:
                memory = shadow.policy.first_memory(len(prepared.obs))
        decided = self._ask(shadow, prepared.obs, request.deterministic, prepared.mask, memory, rng=self._rng).decided
        if decided is not None and sessions is not None and session is not None:
            assert decided.memory is not None
            sessions.put(session, decided.memory)
        return decided


def _of_the_same(decided: Decided | Drawn, action: Any, prepared: Prepared) -> tuple[Any, Any]:
    """The shadow's own actions, and how probable those that were taken are under it; of continuous ones nobody knows."""
    own = decided.actions.tolist()
    if isinstance(decided, Drawn):
        return (own if prepared.many else own[0]), None
    taken = action if prepared.many else [action]
    if prepared.request.deterministic:
        chances = [float(one == other) for one, other in zip(own, taken, strict=True)]
    else:
        chances = decided.probabilities[np.arange(len(own)), taken].tolist()
    return (own, chances) if prepared.many else (own[0], chances[0])
