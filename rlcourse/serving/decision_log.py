"""What was decided and what came of it, as JSON lines that survive a killed process.

::

    decisions/
    ├── 1795800000000000000-00000.jsonl     one file after the other, each written by one process only
    └── 1795800000000000000-00001.jsonl     the newest; a process that was killed may leave its last line torn

``durability`` says what a client that has its answer may count on when the process is killed the next moment::

    answered   decide ─▶ write ─▶ answer       its line is with the operating system: a kill loses no answered decision
    batched    decide ─▶ answer    write       its line may be in memory for ``flush_interval_s`` yet, and is lost with it
                              └── 20 ms ──┘    (at 8,000 decisions a second: about 160)

``answered`` writes once for all requests that are answered in the same turn of the event loop, and waits for the operating
system, not for the disk. A power cut may lose, in either mode, what was not yet on the disk: up to ``sync_interval_s``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlcourse.errors import ConfigError, DatasetCorruptError, DatasetNotFoundError
from rlcourse.files import storage_errors
from rlcourse.serving import wire


@dataclass(frozen=True)
class DecisionLogConfig:
    """How the log is written."""

    durability: Literal["answered", "batched"] = "answered"
    """When a line leaves this process: before its answer does, or up to ``flush_interval_s`` later. Take batched where the
    folder's disk is slow to accept lines (a network drive): with answered every client waits for it."""
    rotate_bytes: int = 64 * 2**20
    """A file that has reached this size is followed by another; raising it makes fewer files."""
    flush_interval_s: float = 0.02
    """How long a line may wait in memory, where nothing is answered or durability is batched; raising it spares system calls
    and loses more to a kill."""
    sync_interval_s: float = 1.0
    """How long a line may wait for the disk."""
    max_waiting: int = 100_000
    """Lines kept in memory while the disk does not take them; beyond, new ones are dropped and counted."""

    def __post_init__(self) -> None:
        if min(self.rotate_bytes, self.flush_interval_s, self.sync_interval_s, self.max_waiting) <= 0:
            raise ConfigError("A bound of the decision log is 0 or less.", mend="Use numbers above 0.")


class ListRecorder:
    """Keeps lines in a list; for tests and notebooks."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def append(self, line: bytes) -> None:
        """Keep it."""
        self.lines.append(line)


class DecisionLog:
    """Appends lines to the files of a folder. A thread writes what nobody flushes, and brings everything to the disk.

    Raises:
        StorageError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, config: DecisionLogConfig | None = None) -> None:
        self.folder, self.config = folder, config or DecisionLogConfig()
        self._queue: deque[bytes] = deque()
        self._run = time.time_ns()
        self._count = 0
        self._size = 0
        self._full: list[int] = []
        self._synced = time.monotonic()
        self.written = 0
        self.dropped = 0
        self.problem: str | None = None
        """Why the last attempt to write failed; ``None`` after one that went well."""
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._next_file()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._write_on, name="decision-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Lines in memory that are not in a file yet."""
        return len(self._queue)

    def append(self, line: bytes) -> None:
        """Take one line without its line break; returns at once."""
        if len(self._queue) >= self.config.max_waiting:
            self.dropped += 1
            return
        self._queue.append(line)

    def flush(self) -> None:
        """Give every line to the operating system now; not to a disk that took none the last time.

        A line that the thread is writing at this moment is waited for.
        """
        # After a failure the thread tries again, at its own pace: each answer would otherwise wait for another failure.
        if self.problem is None:
            self._write()

    def close(self) -> None:
        """Write everything out, to the disk itself, and end; twice does no harm."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        self._thread.join()
        self._write()
        self._sync()
        os.close(self._file)

    def _write_on(self) -> None:
        while not self._stop.wait(self.config.flush_interval_s):
            self._write()
            if time.monotonic() - self._synced > self.config.sync_interval_s:
                self._sync()

    def _write(self) -> None:
        with self._writing:
            while self._queue and self._write_some():
                pass

    def _write_some(self) -> bool:
        """As many lines as the file has room for; says whether they were written."""
        config = self.config
        # Taken out one by one: the request path appends at the other end meanwhile.
        lines = [self._queue.popleft()]
        size = len(lines[0]) + 1
        while self._queue and self._size + size + len(self._queue[0]) < config.rotate_bytes:
            lines.append(self._queue.popleft())
            size += len(lines[-1]) + 1
        try:
            if self._size and self._size + size > config.rotate_bytes:
                full, self._file = self._file, self._next_file()
                self._full.append(full)
            _write_all(self._file, b"\n".join(lines) + b"\n")
        except OSError as error:
            # A full disk: the lines go back into the queue, and half a line must not stand before them.
            self._queue.extendleft(reversed(lines))
            self.problem = error.strerror or str(error)
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            return False
        self._size += size
        self.written += len(lines)
        self.problem = None
        return True

    def _sync(self) -> None:
        with self._writing:
            files, self._full = self._full, []
            with contextlib.suppress(OSError):  # no handle is left; the next time comes
                files.append(os.dup(self._file))
        # The lock is free again: whoever is answered meanwhile does not wait for the disk.
        for file in files:
            with contextlib.suppress(OSError):
                os.fdatasync(file)
            os.close(file)
        self._synced = time.monotonic()

    def _next_file(self) -> int:
        path = self.folder / f"{self._run:020}-{self._count:05}.jsonl"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        # Only now: if there is no new file, the old one has its size yet and must not be cut.
        self._count += 1
        self._size = 0
        return file


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def read_lines(folder: Path) -> Iterator[wire.DecisionLine | wire.RewardLine]:
    """Every decision and reward of a log in the order of writing; a torn last line of a file is passed over.

    Raises:
        DatasetNotFoundError: no log there.
        DatasetCorruptError: a line that is whole says something impossible.
    """
    for line in read_all_lines(folder):
        if not isinstance(line, wire.ShadowLine):
            yield line


def read_all_lines(folder: Path) -> Iterator[wire.DecisionLine | wire.RewardLine | wire.ShadowLine]:
    """See :func:`read_lines`; with the answers of shadows, which decided nothing."""
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise DatasetNotFoundError(
            f"{folder} holds no decision log.", mend="Name the folder that the service writes to."
        )
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # only the last line of a file can lack it: the process was killed while it wrote
                try:
                    yield wire.read_any_line(line)
                except ValueError as error:
                    raise DatasetCorruptError(
                        f"{path}, line {number} is no line of a decision log: {error}.",
                        mend="Copy the file again from where it is whole, or move it out of the folder.",
                    ) from error
