"""Many runs, a few at a time, each in a process and a folder of its own.

::

    tasks     a   b   c   d   e        each names the folder that will hold its result.json
    worker 0  a───┘   c──✗  e──┘       ✗ failed: the others go on, the failure is reported at the end
    worker 1      b─────────┘ d──┘

A folder appears whole or not at all, so a run that was killed is a run that never was, and what is there already is not
done again. Ctrl-C ends the workers; so does the death of the process that started them, however it died.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from rlcourse.errors import ConfigError, RLCourseError, WorkerLostError
from rlcourse.recipes.common import say

RESULT = "result.json"


class Task(Protocol):
    """One run, small enough to send to another process."""

    @property
    def name(self) -> str:
        """What the reader calls it."""
        ...

    @property
    def folder(self) -> Path:
        """Where its :data:`RESULT` will be, and nothing before it is finished."""
        ...


T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class Failure(Generic[T]):
    """A run that did not finish, and why."""

    task: T
    error: RLCourseError


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_jobs(jobs: int) -> None:
    """Raise :class:`ConfigError` unless there is a core for each of ``jobs`` runs at a time."""
    if not 1 <= jobs <= cores():
        raise ConfigError(
            f"{jobs} jobs on {cores()} cores.",
            mend=f"Use 1 to {cores()}: more runs than cores wait for each other, and their times mean nothing.",
        )


def finish(tasks: Sequence[T], work: Callable[[T], None], *, jobs: int, unit: str = "run") -> list[Failure[T]]:
    """Do what is not there yet, ``jobs`` at a time, and return what failed.

    Args:
        tasks: all of them, finished or not.
        work: does one and writes its folder; a function of a module, so that another process can find it.
        jobs: 1 works in this process.
        unit: what the progress bar counts.

    An error that this package did not raise on purpose is raised here, after the other runs have had their chance.
    """
    missing = [task for task in tasks if not is_finished(task)]
    if len(missing) < len(tasks):
        say(f"{len(tasks) - len(missing)} of {len(tasks)} {unit}s are already there")
    failures: list[Failure[T]] = []
    unexpected: BaseException | None = None
    with tqdm(total=len(missing), desc=f"{unit}s", unit=unit, disable=None) as bar:
        for task, error in _outcomes(missing, work, jobs):
            bar.update(1)
            bar.set_postfix_str(task.name)
            if isinstance(error, RLCourseError):
                failures.append(Failure(task, error))
                say(f"{unit} {task.name} failed: {error}")
            elif error is not None:
                unexpected = unexpected or error
                say(f"{unit} {task.name} failed: {type(error).__name__}: {error}")
    if unexpected is not None:
        raise unexpected
    return failures


def is_finished(task: Task) -> bool:
    """Whether the run has left its result."""
    return (task.folder / RESULT).exists()


def result(task: Task) -> dict[str, Any]:
    """What a finished run has left."""
    content: dict[str, Any] = json.loads((task.folder / RESULT).read_text(encoding="utf-8"))
    return content


def _outcomes(tasks: Sequence[T], work: Callable[[T], None], jobs: int) -> Iterator[tuple[T, BaseException | None]]:
    if jobs == 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, _error_of(work, task)
        return
    # spawn: a forked child would inherit torch's thread pool without its threads.
    pool = ProcessPoolExecutor(
        min(jobs, len(tasks)), mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_the_parent
    )
    try:
        futures: dict[Future[None], T] = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(futures):
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                raise WorkerLostError(
                    "A process that did a run was killed, perhaps for want of memory; finished runs are kept.",
                    mend="Run the same command again, with fewer --jobs if memory is short.",
                ) from error
            yield futures[future], error
    except BaseException:
        # Ctrl-C, or a worker that was killed: nothing may go on training in the background.
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _error_of(work: Callable[[T], None], task: T) -> Exception | None:
    try:
        work(task)
    except Exception as error:  # in this process as in another: one failure does not lose the others
        return error
    return None


def _end_with_the_parent() -> None:
    # The parent hears Ctrl-C too, and ends its workers without their tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with the parent").start()
