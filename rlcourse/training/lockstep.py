"""Several runs that wait for each other at every evaluation, so that they can be judged together.

::

    seed 0   train -> 12     wait      train -> 80     wait       ...
    seed 1   wait     train -> 30      wait      train -> 64      ...
                          judge(1, [12, 30])          judge(2, [80, 64])

A training loop is a function that returns when it is done. To hold one at its evaluation it needs a stack of its own,
hence a thread; but only one of them ever runs at a time, so nothing they share is touched by two at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlcourse.training.runs import Stop

Run = Callable[[Stop], object]
"""Trains, and calls the given function with a step and a greedy return at every evaluation."""
Judge = Callable[[int, list[float]], bool]
"""Given the step and the return of every run: stop them all?"""


@dataclass(frozen=True)
class Together:
    """What came of it."""

    last: list[float]
    """The last return that each run reported."""
    stopped: bool
    """Whether the judge ended it."""


def in_step(runs: Sequence[Run], judge: Judge) -> Together:
    """Let every run go on to its next evaluation, ask the judge, and so on to the end.

    The judge is called in the caller's thread. An error in a run ends the others and is raised here.
    """
    passed = threading.Semaphore(0)
    threads = [_Paused(run, passed) for run in runs]
    stopped = False
    try:
        while not stopped:
            for thread in threads:
                thread.proceed()
            if all(thread.done for thread in threads):
                break
            stopped = judge(threads[0].step, [thread.returned for thread in threads])
    finally:
        for thread in threads:
            thread.stop()
    return Together([thread.returned for thread in threads], stopped)


class _Paused(threading.Thread):
    """One run; ``proceed`` lets it go on to its next evaluation or its end."""

    def __init__(self, run: Run, passed: threading.Semaphore) -> None:
        super().__init__(daemon=True)
        self._run, self._passed, self._turn = run, passed, threading.Semaphore(0)
        self._stopping, self.done = False, False
        self.error: BaseException | None = None
        self.step, self.returned = 0, float("-inf")

    def proceed(self) -> None:
        if self.done:
            return
        if not self.is_alive():
            self.start()
        else:
            self._turn.release()
        self._passed.acquire()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self._stopping = True
        if self.is_alive():
            self._turn.release()
            self.join()

    def run(self) -> None:
        try:
            self._run(self._evaluated)
        except BaseException as error:  # carried to the caller's thread by proceed
            self.error = error
        finally:
            self.done = True
            self._passed.release()

    def _evaluated(self, step: int, returned: float) -> bool:
        self.step, self.returned = step, returned
        self._passed.release()
        self._turn.acquire()
        return self._stopping
