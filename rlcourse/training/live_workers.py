"""Locks that the kernel drops when their process dies, however it died: nobody has to guess who is still alive.

::

    tuning.journal                   the work
    tuning.journal.lock              held for a moment by whoever claims some of it
    tuning.journal.worker-3f9a...    held by a worker as long as it lives; whoever can take it knows that it does not
"""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlcourse.files import storage_errors


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Only one process at a time is inside the block, for this file."""
    path = file.with_name(f"{file.name}.lock")
    with storage_errors(path):
        lock = path.open("ab")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class LiveWorker:
    """Inside its block, whoever knows :attr:`token` can see that this process is alive."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.token = uuid.uuid4().hex[:12]

    def __enter__(self) -> LiveWorker:
        with locked(self._file):  # nobody may look at the lock between its making and its taking
            self._held = self._path(self.token).open("ab")
            fcntl.flock(self._held, fcntl.LOCK_EX)
            for left in self._file.parent.glob(f"{self._file.name}.worker-*"):
                if not self.is_alive(left.name.rsplit("-", 1)[1]):
                    left.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        self._path(self.token).unlink(missing_ok=True)
        self._held.close()

    def is_alive(self, token: str | None) -> bool:
        """Whether the worker of this token runs; ``None`` is nobody."""
        if token is None:
            return False
        try:
            with self._path(token).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _path(self, token: str) -> Path:
        return self._file.with_name(f"{self._file.name}.worker-{token}")
