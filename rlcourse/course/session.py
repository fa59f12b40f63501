"""One submission from start to finish, whatever it does.

One worker serves all exercises of a submission.  If an answer takes its worker down (a loop without end, an exit, a
crash), that exercise gets the verdict and the next ones get a new worker, a few times over.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rlcourse.course.channel import Channel, DiedError, GarbageError, TimedOutError
from rlcourse.course.inside.confinement import Limits
from rlcourse.course.inside.loading import File
from rlcourse.course.judging import PreparedExercise
from rlcourse.course.plain import ReplyError, checked_outcome
from rlcourse.course.verdicts import Status, Verdict

START_S = 60.0
"""How long a worker may take to import torch. Not the submission's fault, so it is generous."""
MAX_WORKERS = 5
"""How often a submission may take its worker down before the rest counts as the same fault."""
MAX_NOTES = 20

_REFUSALS: dict[str, tuple[Status, str]] = {
    "process_refused": ("process_refused", "It tries to start a process ({what}); answers may not."),
    "network_refused": ("network_refused", "It tries to use the network ({what}); answers may not."),
    "file_refused": ("file_refused", "It tries to touch a file it has no business with ({what})."),
    "imports_answer": ("imports_answer", "It imports {what}, which holds the answer; write it with torch."),
}


@dataclass(frozen=True)
class TimeLimits:
    """How long a submission may take, in seconds of the clock on the wall."""

    load_s: float = 20.0
    """For running the file, or all cells of the notebook, once."""
    exercise_s: float = 10.0
    """For all cases of one exercise together."""


@dataclass
class _Ended(Exception):
    """The worker is of no more use; why, as a verdict without a name."""

    status: Status
    message: str
    hint: str = ""


@dataclass
class _Worker:
    """What is known of the submission from the worker now running."""

    channel: Channel
    limits: TimeLimits
    states: dict[str, str] = field(default_factory=dict)
    syntax_errors: list[str] = field(default_factory=list)
    answer_imports: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    tampered: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    """What was refused since the last exercise began."""
    refused_loading: list[tuple[str, str]] = field(default_factory=list)

    def hear(self, timeout_s: float, expected: str) -> dict[str, Any]:
        """The next message of the expected kind; refusals on the way are noted."""
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.channel.receive(deadline - time.monotonic())
            if "refused" not in message:
                if expected not in message:
                    raise GarbageError("a reply of the wrong kind")
                return message
            kind, what = message["refused"], message.get("what")
            if kind not in _REFUSALS or type(what) is not str:
                raise GarbageError("a refusal of the wrong form")
            if (kind, what) not in self.refused and len(self.refused) < MAX_NOTES:
                self.refused.append((kind, what))


class Walls(Protocol):
    """Where workers come from: a sandbox, or for a student's own check none."""

    def start(self) -> AbstractContextManager[tuple[Channel, Path]]:
        """A worker and the one folder that it may write to."""
        ...

    def setup(self, folder: Path) -> dict[str, Any]:
        """What the worker must be told about its walls."""
        ...


class Session:
    """Grades one submission."""

    def __init__(self, files: Sequence[File], walls: Walls, limits: Limits, time_limits: TimeLimits) -> None:
        self.files = files
        self.walls = walls
        self.limits = limits
        self.time_limits = time_limits
        self.locks: list[str] | None = None
        """The locks that held in the worker; None when nothing was run."""

    def grade(self, exercises: Sequence[PreparedExercise]) -> list[Verdict]:
        """A verdict for every exercise, in order."""
        verdicts: list[Verdict] = []
        for _ in range(MAX_WORKERS):
            remaining = exercises[len(verdicts) :]
            if not remaining:
                break
            self._serve(remaining, verdicts)
        while len(verdicts) < len(exercises):
            name = exercises[len(verdicts)].exercise.name
            last = verdicts[-1]
            verdicts.append(
                replace(last, exercise=name, message=f"Not run: {MAX_WORKERS} workers were lost before it.")
            )
        return verdicts

    def _serve(self, exercises: Sequence[PreparedExercise], verdicts: list[Verdict]) -> None:
        """Start a worker and judge with it as far as it goes."""
        with self.walls.start() as (channel, folder):
            worker = _Worker(channel, self.time_limits)
            start = len(verdicts)
            try:
                self._begin(worker, folder)
                if all(worker.states.get(e.exercise.name, "missing") in ("stub", "imported") for e in exercises):
                    verdicts += [self._from_reading(worker, e.exercise.name) for e in exercises]
                    return
                self._load(worker)
            except _Ended as ended:
                verdicts += [Verdict(e.exercise.name, ended.status, ended.message, ended.hint) for e in exercises]
                return
            for prepared in exercises[len(verdicts) - start :]:
                try:
                    verdicts.append(self._one(worker, prepared))
                except _Ended as ended:
                    verdicts.append(Verdict(prepared.exercise.name, ended.status, ended.message, ended.hint))
                    return

    def _begin(self, worker: _Worker, folder: Path) -> None:
        setup = {
            "files": [{"name": file.name, "cells": list(file.cells)} for file in self.files],
            "limits": asdict(self.limits),
            **self.walls.setup(folder),
        }
        try:
            worker.channel.send(setup, START_S)
            reply = worker.hear(START_S, "read")
        except (TimedOutError, GarbageError, DiedError) as error:
            # Nothing of the submission has run; only text that no parser survives can be its fault.
            raise _Ended("not_graded", f"The worker did not start: {error!r}.") from error
        worker.states = reply["read"]
        worker.syntax_errors = reply["syntax_errors"]
        worker.answer_imports = reply["answer_imports"]

    def _load(self, worker: _Worker) -> None:
        try:
            worker.channel.send({"load": True}, START_S)
            worker.held = self.locks = worker.hear(START_S, "ready")["ready"]
        except (TimedOutError, GarbageError, DiedError) as error:
            raise _Ended("not_graded", f"The worker did not get ready: {error!r}.") from error
        with _ending(worker, "while the file was loading", self.time_limits.load_s):
            reply = worker.hear(self.time_limits.load_s, "loaded")
            worker.failures = _checked_failures(reply["loaded"])
            worker.tampered = _checked_names(reply.get("tampered"))
            worker.refused_loading = worker.refused

    def _one(self, worker: _Worker, prepared: PreparedExercise) -> Verdict:
        name = prepared.exercise.name
        if worker.states.get(name) in ("stub", "imported"):
            return self._from_reading(worker, name)
        worker.refused = []
        with _ending(worker, "in this exercise", self.time_limits.exercise_s):
            worker.channel.send({"exercise": name, **prepared.request}, self.time_limits.exercise_s)
            outcomes = worker.hear(self.time_limits.exercise_s, "outcomes")["outcomes"]
            if outcomes is None:
                return self._absent(worker, name)
            if type(outcomes) is not list or len(outcomes) != len(prepared.cases):
                raise GarbageError("the wrong number of outcomes")
            verdict = prepared.judge([checked_outcome(outcome) for outcome in outcomes])
        return self._annotated(worker, verdict)

    def _annotated(self, worker: _Worker, verdict: Verdict) -> Verdict:
        """Add what else is known; a refusal or a patch explains a failure better than its numbers do."""
        notes = [_REFUSALS[kind][1].format(what=what) for kind, what in worker.refused_loading + worker.refused]
        if not notes:
            notes += [f"{text}, which is not there when answers are graded." for text in worker.answer_imports[:3]]
        if worker.tampered:
            notes.append(f"{', '.join(worker.tampered)} was replaced; nothing here depends on it.")
        notes += [f"{f['place']} stopped with {f['type']}: {f['message']}" for f in worker.failures[:3]]
        verdict = replace(verdict, notes=tuple(dict.fromkeys(notes)))
        if verdict.status != "failed":
            return verdict
        if worker.refused:
            kind, what = worker.refused[0]
            status, text = _REFUSALS[kind]
            # The notes say the same again.
            return replace(verdict, status=status, message=text.format(what=what), hint="", case=None, notes=())
        if worker.tampered:
            message = f"It replaces {', '.join(worker.tampered)}, which does not help: {verdict.message}"
            return replace(verdict, status="tampered", message=message)
        return verdict

    def _from_reading(self, worker: _Worker, name: str) -> Verdict:
        if worker.states.get(name) == "imported":
            return Verdict(name, "imports_answer", "The name is imported from the package; write it with torch.")
        return Verdict(name, "not_attempted", "The body still raises NotImplementedError.")

    def _absent(self, worker: _Worker, name: str) -> Verdict:
        """Why there is no such function."""
        if worker.refused_loading:
            kind, what = worker.refused_loading[0]
            refusal, text = _REFUSALS[kind]
            return Verdict(name, refusal, f"While loading: {text.format(what=what)}")
        if worker.syntax_errors:
            return Verdict(name, "unreadable", f"It is not Python: {worker.syntax_errors[0]}.")
        if worker.failures:
            first = worker.failures[0]
            status: Status = "memory_limit" if first["type"] == "MemoryError" else "crashed_loading"
            where = f", line {first['line']}" if first["line"] else ""
            return Verdict(name, status, f"{first['place']}{where} stopped with {first['type']}: {first['message']}")
        return Verdict(name, "missing", "There is no function of this name.", "Keep the name of the stub.")


class _ending:
    """Turn the ways in which a worker is lost into the verdict that says so."""

    def __init__(self, worker: _Worker, when: str, limit_s: float) -> None:
        self.worker, self.when, self.limit_s = worker, when, limit_s

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimedOutError):
            message = f"Stopped after {self.limit_s:g} seconds {self.when}."
            raise _Ended("time_limit", message, "Look for a loop that does not end.") from error
        if isinstance(error, ReplyError | GarbageError):
            raise _Ended("bad_reply", f"It wrote garbage to the grader {self.when} ({error}).") from error
        if isinstance(error, DiedError):
            raise _death(error.args[0], self.when) from error


def _death(code: int, when: str) -> _Ended:
    number = -code if code < 0 else code - 128 if code > 128 else 0  # bubblewrap reports 128 + signal
    if number == signal.SIGXCPU or number == signal.SIGKILL:
        return _Ended("time_limit", f"The CPU time was used up {when}.", "Look for a loop that does not end.")
    if number == signal.SIGABRT:
        return _Ended("memory_limit", f"The process was aborted {when}, most likely for want of memory.")
    if number:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return _Ended("process_died", f"The process was ended by {name} {when}.")
    return _Ended("process_died", f"The process left with exit status {code} {when}.", "Do not call exit.")


def _checked_failures(value: Any) -> list[dict[str, Any]]:
    if type(value) is not list:
        raise GarbageError("failures of the wrong form")
    for failure in value:
        if type(failure) is not dict or set(failure) != {"place", "type", "message", "line"}:
            raise GarbageError("a failure of the wrong form")
        if (
            not all(type(failure[key]) is str for key in ("place", "type", "message"))
            or type(failure["line"]) is not int
        ):
            raise GarbageError("a failure of the wrong form")
    return value


def _checked_names(value: Any) -> list[str]:
    if type(value) is not list or not all(type(name) is str for name in value):
        raise GarbageError("names of the wrong form")
    return value
