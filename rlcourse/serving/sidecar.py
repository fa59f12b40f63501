"""Follows a decision log for as long as it is let, and can be killed: what was counted once is not counted again.

One round::

    read what is new ─▶ count ─▶ save how far ─▶ show

What a scrape sees is always what had been saved before. So a kill between two steps may lose the counts of one round, and
never doubles any. After a restart the lines of the last :attr:`~rlcourse.serving.tracking.WatchConfig.memory_s` are read
again in silence, to know what is still unfinished; counters begin at 0, as Prometheus expects of a process that is new.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcourse.errors import ConfigError, DataError, StorageError
from rlcourse.files import storage_errors, write_json
from rlcourse.serving.following import LogFollower, Piece, Position
from rlcourse.serving.returns import DailyReturns
from rlcourse.serving.watching import LogWatch

MARKS = 32
"""So many places of the last stretch are remembered, one of which a restart begins with."""


@dataclass(frozen=True)
class Saved:
    """What outlives the process."""

    clock_s: float  # the log's time up to which everything was counted
    read: Position
    again: Position  # where to begin to read in silence
    episodes: tuple[str, ...]  # see LogWatch.open_episodes
    returns: dict[str, Any]  # see DailyReturns.to_json


def read_saved(path: Path, log: Path) -> Saved | None:
    """What an earlier process saved; ``None`` if there was none.

    Raises:
        ConfigError: it is about another log, or damaged.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["log"]
        saved = Saved(
            float(content["clock_s"]),
            _position(content["read"]),
            _position(content["again"]),
            tuple(map(str, content["episodes"])),
            content["returns"],
        )
        DailyReturns().restore(saved.returns)  # to see whether it can be
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} does not say how far a log was read: {error}.", mend="Remove it to begin with the first line."
        ) from error
    if found != str(log.resolve()):
        raise ConfigError(f"{path} is about {found}.", mend="Name another file with --position.")
    return saved


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else goes on from this file meanwhile: two would count everything twice.

    Raises:
        ConfigError: somebody does.
        StorageError: nothing can be written there.
    """
    lock = path.with_name(f"{path.name}.lock")
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(
                handle, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # given back by the system, also when this process is killed
        except BlockingIOError as error:
            raise ConfigError(
                f"{path} is in use by another process.", mend="End that one, or name another file with --position."
            ) from error
        yield
    finally:
        os.close(handle)


class Sidecar:
    """A follower, a watch, and the file that says how far they are.

    Args:
        follower: of the log.
        watch: counts.
        path: of the file; ``None`` begins anew every time.
        say: is told of trouble, once for each kind.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        follower: LogFollower,
        watch: LogWatch,
        path: Path | None,
        *,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.follower, self.watch, self.path = follower, watch, path
        self.lines = self.unreadable = 0
        self._say, self._clock = say, clock
        self._said: set[str] = set()
        self._clock_s = 0.0
        self._marks: deque[tuple[float, Position]] = deque()

    def resume(self, saved: Saved) -> None:
        """Read the last stretch again, in silence."""
        self.follower.position = dict(saved.again)
        self.watch.returns.restore(saved.returns)
        self.watch.replaying(saved.episodes)
        while (piece := self.follower.next_piece(until=saved.read)) is not None:
            self._take(piece, saved.clock_s)
        self._pass(saved.clock_s)
        self.watch.replayed()
        self.follower.position = dict(saved.read)

    def round(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Everything that is new, up to now; returns how many lines. Ends early when told to, having saved so far."""
        before = self.lines
        while not stop() and (piece := self.follower.next_piece()) is not None:
            self.lines += len(piece.lines)
            self.unreadable += piece.unreadable
            self._take(piece, self._clock())
        if not stop():
            self._pass(self._clock())
        self.follower.prune()
        self.watch.show()
        self._save()
        if self.unreadable:
            self._tell("some lines are none of a decision log; they are passed over and counted in the report")
        return self.lines - before

    def document(self) -> bytes:
        """The returns by day and version, and how recent they are, as JSON."""
        return json.dumps({"counted_until_s": self._clock_s, **self.watch.returns.to_json()}).encode()

    def run(self, stop: threading.Event, poll_s: float, show: Callable[[], None]) -> None:
        """Round after round until ``stop`` is set; ``show`` after each."""
        while not stop.is_set():
            self.round(stop.is_set)
            show()
            stop.wait(poll_s)

    def _take(self, piece: Piece, now_s: float) -> None:
        self._mark()
        for line in piece.lines:
            try:
                self.watch.take(line, now_s)
            except (ValueError, DataError):  # a decision whose observation is none; the service writes no such line
                self.unreadable += self.watch.live
        self.follower.done(piece)
        if piece.lines:
            self._pass(min(piece.lines[-1].time, now_s))

    def _pass(self, now_s: float) -> None:
        self._clock_s = max(self._clock_s, now_s)
        self.watch.advance(self._clock_s)

    def _mark(self) -> None:
        memory_s = self.watch.config.memory_s
        if not self._marks or self._clock_s >= self._marks[-1][0] + memory_s / MARKS:
            self._marks.append((self._clock_s, dict(self.follower.position)))
        while len(self._marks) > 1 and self._marks[1][0] <= self._clock_s - memory_s:
            self._marks.popleft()

    def _save(self) -> None:
        if self.path is None:
            return
        again = self._marks[0][1] if self._marks else self.follower.position
        content: dict[str, Any] = {
            "log": str(self.follower.folder.resolve()),
            "clock_s": self._clock_s,
            "read": self.follower.position,
            "again": again,
            "episodes": self.watch.open_episodes(),
            "returns": self.watch.returns.to_json(),
        }
        try:
            write_json(self.path, content)
        except StorageError as error:  # a full disk is when one wants to see most
            self._tell(f"how far the log was read could not be saved, a restart would count twice: {error}")

    def _tell(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            self._say(words)


def _position(content: dict[str, Any]) -> Position:
    return {str(run): (int(number), int(offset)) for run, (number, offset) in content.items()}
