"""Asks a shadow what the default was asked, when nobody waits for it any more.

::

    answer ──▶ client
      └── copy ──▶ bounded queue ──▶ a thread ──▶ the shadow ──▶ a line of the decision log, kind "shadow"

The request path appends to a queue in memory; a thread looks into it some times a second. A shadow that is slow fills the
queue, and copies are dropped and counted; one that raises is written down as failed. Neither can reach the live path.

The queue is bounded in observations, which is how long the shadow would work on it, and in bytes. A copy holds what a
shadow is asked and nothing else of the request.

The thread shares the interpreter with that path. So it asks about one request at a time, and steps aside after each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rlcourse.errors import ConfigError
from rlcourse.serving import wire
from rlcourse.serving.continuous import Drawn
from rlcourse.serving.policies import Booleans, Decided, Floats
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


@dataclass(frozen=True, slots=True)
class Copy:
    """What a shadow is asked, and what it is compared with."""

    shadow: Loaded
    request_id: str
    obs: Floats  # (B, D)
    mask: Booleans | None  # (B, A)
    many: bool
    session: str | None  # a batch has none: whoever answers it keeps no memory of it, and neither does the shadow
    reset: bool
    greedy: bool
    action: Any  # that was taken; None where actions are continuous, which are not compared

    def size_bytes(self) -> int:
        """About as many as it holds on to; what each copy needs besides is little, and bounded by their number."""
        return self.obs.nbytes + (0 if self.mask is None else self.mask.nbytes) + 8 * len(self.obs)  # 8: an action's


class Shadows:
    """A bounded queue before one thread, which begins with the first copy.

    Copies come from one thread, the one that answers.

    Args:
        ask: one call of a policy.
        rng: what shadows draw with; nobody else may.
        clock: seconds that only grow.
        wall: the time of day, for the log.
        recorder: where lines go.
        watcher: who counts.
        max_rows: observations in the queue; what goes beyond is dropped.
        max_bytes: ... and what they hold.
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
        max_rows: int = 10_000,
        max_bytes: int = 64 * 1024**2,
    ) -> None:
        if min(max_rows, max_bytes) < 1:
            raise ConfigError("A shadow that is asked nothing.", mend="Let 1 observation wait, or more.")
        self._ask, self._rng = ask, rng
        self._clock, self._wall = clock, wall
        self._recorder, self._watcher = recorder, watcher
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._queue: deque[tuple[int, int, Callable[[], object]]] = deque()  # rows, bytes, what to do
        # Two sums that only grow, each written by one thread: so neither of them waits for a lock.
        self._put, self._done = (0, 0), (0, 0)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Copies lost to a full queue."""

    @property
    def waiting(self) -> tuple[int, int]:
        """Observations and bytes in the queue, those that are being asked about included."""
        (rows, size), (rows_done, size_done) = self._put, self._done
        return rows - rows_done, size - size_done

    def take(self, shadow: Loaded, prepared: Prepared, request_id: str, action: Any) -> None:
        """Copy a request that was answered with ``action``; returns at once."""
        request, many = prepared.request, prepared.many
        copy = Copy(
            shadow,
            request_id,
            prepared.obs,
            prepared.mask,
            many,
            None if many else request.session,
            request.reset,
            request.deterministic,
            action if shadow.actions is None else None,
        )
        if self._append(len(copy.obs), copy.size_bytes(), lambda: self._mirror(copy)) and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
            self._thread.start()

    def forget(self, shadow: Loaded, session: str) -> None:
        """Drop what it remembers of a session, once it has been asked all that came before."""
        sessions = shadow.sessions
        if sessions is None or self._thread is None:
            return  # nothing was ever remembered
        self._append(1, 0, lambda: sessions.forget(session))  # where it is dropped, the memory goes when it expires

    def _append(self, rows: int, size: int, do: Callable[[], object]) -> bool:
        waiting_rows, waiting_bytes = self.waiting
        if waiting_rows + rows > self._max_rows or waiting_bytes + size > self._max_bytes:
            self.dropped += 1
            return False
        self._put = self._put[0] + rows, self._put[1] + size
        self._queue.append((rows, size, do))
        return True

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
            rows, size, do = self._queue.popleft()
            try:
                do()
            except Exception:  # a log that cannot be written, say: the next copy may fare better
                logger.exception("A copy for a shadow was lost")
                self.dropped += 1
            del do  # with the copy in it
            self._done = self._done[0] + rows, self._done[1] + size
            time.sleep(0.0)  # whoever answers waits for the interpreter no longer than for one call

    def _mirror(self, copy: Copy) -> None:
        began, shadow = self._clock(), copy.shadow
        own: Any = None
        probability: Any = None
        try:
            decided = self._decided(copy)
            seconds = self._clock() - began
            if decided is not None:
                own, probability = _of_the_same(decided, copy)
        except Exception:  # whatever it is, the next copy is asked all the same
            logger.exception("The shadow %s of %s failed", shadow.version, shadow.name)
            seconds, decided = self._clock() - began, None
        line = wire.ShadowLine(
            copy.request_id, self._wall(), shadow.name, shadow.version, own, probability, round(seconds * 1e3, 3)
        )
        self._recorder.append(wire.encode(line))
        self._watcher.shadowed(shadow, len(copy.obs), seconds, failed=decided is None)

    def _decided(self, copy: Copy) -> Decided | Drawn | None:
        shadow, session = copy.shadow, copy.session
        sessions, memory = shadow.sessions, None
        if sessions is not None:
            if session is not None and not copy.reset:
                memory = sessions.get(session)
            if memory is None:
                memory = shadow.policy.first_memory(len(copy.obs))
        decided = self._ask(shadow, copy.obs, copy.greedy, copy.mask, memory, rng=self._rng).decided
        if decided is not None and sessions is not None and session is not None:
            assert decided.memory is not None
            sessions.put(session, decided.memory)
        return decided


def _of_the_same(decided: Decided | Drawn, copy: Copy) -> tuple[Any, Any]:
    """The shadow's own actions, and how probable those that were taken are under it; of continuous ones nobody knows."""
    own = decided.actions.tolist()
    if isinstance(decided, Drawn):
        return (own if copy.many else own[0]), None
    taken = copy.action if copy.many else [copy.action]
    if copy.greedy:
        chances = [float(one == other) for one, other in zip(own, taken, strict=True)]
    else:
        chances = decided.probabilities[np.arange(len(own)), taken].tolist()
    return (own, chances) if copy.many else (own[0], chances[0])
