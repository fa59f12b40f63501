"""Processes that work beside each other and end together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

import torch

from rlcourse.errors import RLCourseError, WorkerLostError


def in_processes(target: Callable[..., None], shares: Sequence[tuple[Any, ...]], look: Callable[[], None]) -> None:
    """One process for each share; an error in one, or Ctrl-C here, ends them all."""
    # spawn: a forked child would inherit torch's thread pool without its threads.
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    processes = [context.Process(target=_child, args=(target, share, errors)) for share in shares]
    try:
        for process in processes:
            process.start()
        while running := [process for process in processes if process.exitcode is None]:
            wait([process.sentinel for process in running], timeout=0.5)
            if not errors.empty():
                raise errors.get()
            if lost := [process.exitcode for process in processes if process.exitcode]:
                raise WorkerLostError(
                    f"A process that ran trials ended with status {lost[0]}; finished trials are kept.",
                    mend="Run the same command again: it goes on where it was. Use fewer jobs if memory is short.",
                )
            look()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


def _child(target: Callable[..., None], share: tuple[Any, ...], errors: Any) -> None:
    # The parent hears Ctrl-C too, and ends its workers without their tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True, name="end with the parent").start()
    torch.set_num_threads(1)
    try:
        target(*share)
    except RLCourseError as error:
        errors.put(error)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
