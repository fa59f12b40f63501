"""A student's own check: the grader's cases and verdicts, without its walls.

In a notebook::

    from rlcourse.course import check
    check(expectile_loss)

The answer runs in a child process where the system can fork one, so that a loop without end gets a verdict too.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from rlcourse.course.channel import Channel, TimedOutError
from rlcourse.course.exercise_set import Exercise, all_exercises, exercise_named, exercises_of
from rlcourse.course.inside import confinement, loading, worker
from rlcourse.course.inside.confinement import Limits
from rlcourse.course.judging import PreparedExercise
from rlcourse.course.session import Session, TimeLimits
from rlcourse.course.sources import read_file
from rlcourse.course.verdicts import Verdict
from rlcourse.errors import ExerciseError

TIME_LIMIT_S = 3.0
"""For one answer to all its cases; they take milliseconds."""


def check(function: Callable[..., Any], *, seed: int = 0, time_limit_s: float = TIME_LIMIT_S) -> Verdict:
    """Ask whether a function answers the exercise of its name. Prints the verdict and returns it.

    Args:
        function: your answer, under the name of the stub.
        seed: where the random inputs come from.
        time_limit_s: how long it may take, in seconds.

    Raises:
        ExerciseError: no exercise has that name.
    """
    prepared = PreparedExercise(exercise_named(function.__name__), seed)
    given = _Given(function)
    session = Session([], _NoWalls(given), Limits(), TimeLimits(time_limit_s, time_limit_s))
    verdict = session.grade([prepared])[0]
    print(verdict)
    return verdict


def check_file(path: Path, *, seed: int = 0, time_limit_s: float = TIME_LIMIT_S) -> list[Verdict]:
    """Check every exercise of a ``.py`` file or a notebook.

    Raises:
        ExerciseError: the file cannot be read, or no exercise is in it.
    """
    file = read_file(path)
    prepared = [PreparedExercise(exercise, seed) for exercise in _asked_in(file)]
    limits = TimeLimits(load_s=3 * time_limit_s, exercise_s=time_limit_s)
    return Session([file], _NoWalls(None), Limits(), limits).grade(prepared)


def _asked_in(file: loading.File) -> Sequence[Exercise]:
    """The exercises of the chapter, or for a file by another name those that it defines."""
    if by_name := exercises_of(Path(file.name).stem):
        return by_name
    defined = loading.read([file]).definitions
    found = [exercise for exercise in all_exercises().values() if exercise.name in defined]
    if not found:
        files = dict.fromkeys(exercise.file for exercise in all_exercises().values())
        raise ExerciseError(
            f"{file.name} holds no exercise.",
            mend=f"Keep the names of the stubs. The exercise files are: {', '.join(f'{name}.py' for name in files)}.",
        )
    return found


class _Given:
    """Stands in for a loaded submission when the function is already there."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.module = types.ModuleType("given")
        setattr(self.module, function.__name__, function)

    def load(self, files: Sequence[loading.File]) -> loading.Loaded:
        return loading.Loaded([self.module], [])


class _NoWalls:
    """Workers that are copies of this process."""

    def __init__(self, given: _Given | None) -> None:
        self._load = given.load if given else loading.load

    def setup(self, folder: Path) -> dict[str, Any]:
        return {}

    @contextlib.contextmanager
    def start(self) -> Iterator[tuple[Channel, Path]]:
        # Forking is safe on Linux alone: elsewhere system libraries keep threads that do not survive it.
        channel = self._fork() if sys.platform == "linux" else _ThreadChannel(self._load)
        try:
            yield channel, Path(tempfile.gettempdir())
        finally:
            channel.close()

    def _fork(self) -> Channel:
        stdin, requests = os.pipe()
        received, replies = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child:
            os.close(stdin)
            os.close(replies)
            return Channel(_Forked(child), requests, received)
        status = 1
        try:
            os.setpgid(0, 0)  # so that whatever the answer starts can be ended with it
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.close(requests)
            os.close(received)
            confinement.die_with_parent()
            confinement.limit(Limits())
            with os.fdopen(stdin, "rb") as lines:
                _serve(lines, worker.sender(replies), self._load)
            status = 0
        finally:
            # The copy must not go on with the work of the original, whatever happened.
            with contextlib.suppress(ValueError, OSError):
                sys.stdout.flush()
            os._exit(status)


def _serve(lines: Any, send: worker.Send, load: Callable[[Sequence[loading.File]], loading.Loaded]) -> None:
    torch.set_num_threads(1)  # the copy has one thread; waiting for a pool of them would hang
    worker.converse(json.loads(next(iter(lines))), lines, send, list, load)


class _Forked:
    """A forked child with the face of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def kill(self) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._status is None:
            pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("check", timeout or 0.0)
            else:
                time.sleep(0.005)
        return self._status


class _ThreadChannel(Channel):
    """A channel to a thread of this process. A thread cannot be stopped: after the time limit it is left behind."""

    def __init__(self, load: Callable[[Sequence[loading.File]], loading.Loaded]) -> None:
        self._to: queue.Queue[bytes | None] = queue.Queue()
        self._from: queue.Queue[dict[str, Any]] = queue.Queue()
        lines = iter(self._to.get, None)
        threading.Thread(target=_serve, args=(lines, self._from.put, load), daemon=True).start()

    def send(self, message: dict[str, Any], timeout_s: float) -> None:
        self._to.put(json.dumps(message).encode())

    def receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            return self._from.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            raise TimedOutError from None

    def close(self) -> None:
        self._to.put(None)
