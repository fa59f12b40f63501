"""A folder of submissions in, verdicts out: in parallel, and so that nothing graded is lost.

A submission is one file, named after the student, or a folder, named after the student, with any number of files.
Every finished submission is appended to ``progress.jsonl`` at once; an interrupted run goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlcourse.course.exercise_set import Exercise, all_exercises, exercises_of
from rlcourse.course.grading.sandbox import Isolation, Sandbox, sandbox
from rlcourse.course.inside.confinement import Limits
from rlcourse.course.inside.loading import File
from rlcourse.course.judging import PreparedExercise
from rlcourse.course.session import Session, TimeLimits
from rlcourse.course.sources import SUFFIXES, read_file
from rlcourse.course.verdicts import FailingCase, Status, Verdict
from rlcourse.errors import ExerciseError
from rlcourse.files import storage_errors

PROGRESS = "progress.jsonl"
_SKIPPED = frozenset({"__pycache__", "__MACOSX"})


@dataclass(frozen=True)
class Submission:
    """Everything that one student handed in."""

    student: str
    paths: tuple[Path, ...]

    def digest(self) -> str:
        """Changes when any byte of it does."""
        total = hashlib.sha256()
        for path in self.paths:
            total.update(path.name.encode() + b"\0")
            if path.is_file() and not path.is_symlink():
                total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()


@dataclass(frozen=True)
class Graded:
    """The verdicts on one submission."""

    student: str
    digest: str
    verdicts: tuple[Verdict, ...]
    files: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Files that could not be read."""
    locks: tuple[str, ...] | None = None
    """The locks that held inside the worker; None when nothing was run."""


@dataclass(frozen=True)
class Plan:
    """What a run is to do. Two runs with equal plans give equal marks."""

    directory: Path
    output: Path
    exercises: tuple[str, ...] = ()
    """Exercise files, without ``.py``; empty grades all."""
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    """Where the hidden inputs come from. Fresh and secret by default; kept in the report."""
    jobs: int = 2
    isolation: Isolation = "auto"
    limits: Limits = field(default_factory=Limits)
    time_limits: TimeLimits = field(default_factory=TimeLimits)

    def chosen(self) -> tuple[Exercise, ...]:
        """The exercises to grade.

        Raises:
            ExerciseError: there is no such exercise file.
        """
        if not self.exercises:
            return tuple(all_exercises().values())
        for name in self.exercises:
            if not exercises_of(name):
                known = ", ".join(dict.fromkeys(exercise.file for exercise in all_exercises().values()))
                raise ExerciseError(f"There is no exercise file {name!r}.", mend=f"Choose from: {known}.")
        return tuple(exercise for name in self.exercises for exercise in exercises_of(name))


@dataclass(frozen=True)
class ClassResult:
    """The whole class."""

    plan: Plan
    exercises: tuple[Exercise, ...]
    isolation: str
    graded: tuple[Graded, ...]


def find_submissions(directory: Path) -> list[Submission]:
    """The submissions in a folder, by name of student.

    Raises:
        ExerciseError: there is no such folder, or nothing in it.
    """
    if not directory.is_dir():
        raise ExerciseError(f"There is no folder {directory}.", mend="Name the folder that holds the submissions.")
    found: dict[str, list[Path]] = {}
    for entry in sorted(directory.iterdir()):
        if entry.name.startswith(".") or entry.name in _SKIPPED:
            continue
        if entry.is_dir() and not entry.is_symlink():
            found.setdefault(entry.name, []).extend(_files_below(entry))
        elif entry.suffix in SUFFIXES:
            found.setdefault(entry.stem, []).append(entry)
    if not found:
        raise ExerciseError(
            f"{directory} holds no submission.",
            mend="Put one .py or .ipynb file per student there, or one folder per student.",
        )
    return [Submission(student, tuple(paths)) for student, paths in sorted(found.items())]


def _files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix in SUFFIXES and not any(part.startswith(".") or part in _SKIPPED for part in parts):
            yield path


def grade_folder(plan: Plan, *, resume: bool = False) -> ClassResult:
    """Grade every submission in a folder.

    Raises:
        ExerciseError: nothing to grade, or the progress on the disk belongs to another run.
        KeyboardInterrupt: passed on, after every worker has ended; what was graded is in the progress file.
    """
    exercises = plan.chosen()
    submissions = find_submissions(plan.directory)
    with storage_errors(plan.output):
        plan.output.mkdir(parents=True, exist_ok=True)
    progress = _Progress(plan.output / PROGRESS, {"seed": plan.seed, "exercises": [e.name for e in exercises]})
    done = progress.open(resume=resume)
    prepared = [PreparedExercise(exercise, plan.seed) for exercise in exercises]
    for one in prepared:
        _ = one.mistaken  # here once, instead of in every thread at the same time
    open_submissions = [s for s in submissions if s.student not in done or done[s.student].digest != s.digest()]
    graded = {s.student: done[s.student] for s in submissions if s not in open_submissions}
    with sandbox(plan.isolation, hidden=(plan.directory.resolve(), plan.output.resolve())) as walls:
        for result in _in_parallel(open_submissions, prepared, walls, plan):
            progress.append(result)
            graded[result.student] = result
        isolation = walls.isolation
    return ClassResult(plan, exercises, isolation, tuple(graded[s.student] for s in submissions))


def _in_parallel(
    submissions: Sequence[Submission], prepared: Sequence[PreparedExercise], walls: Sandbox, plan: Plan
) -> Iterator[Graded]:
    """Grade with ``plan.jobs`` workers at a time, in whatever order they finish."""
    pool = ThreadPoolExecutor(max_workers=plan.jobs, thread_name_prefix="grading")
    # disable=None: silent when standard error is no terminal.
    with tqdm(total=len(submissions), unit="submission", disable=None) as bar:
        try:
            waiting: set[Future[Graded]] = {
                pool.submit(_grade_one, submission, prepared, walls, plan) for submission in submissions
            }
            while waiting:
                # A timeout, because a wait without one cannot be interrupted on every system.
                finished, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    bar.update()
                    yield future.result()
        finally:
            walls.cancel()
            pool.shutdown(wait=True, cancel_futures=True)


def _grade_one(submission: Submission, prepared: Sequence[PreparedExercise], walls: Sandbox, plan: Plan) -> Graded:
    files: list[File] = []
    problems: list[str] = []
    for path in submission.paths:
        try:
            files.append(read_file(path))
        except ExerciseError as error:
            problems.append(str(error))
    locks: tuple[str, ...] | None = None
    if files:
        session = Session(files, walls, plan.limits, plan.time_limits)
        verdicts = session.grade(prepared)
        locks = tuple(session.locks) if session.locks is not None else None
        if problems:
            verdicts = [_blamed(verdict, problems[0]) for verdict in verdicts]
    else:
        status: Status = "unreadable" if problems else "missing"
        message = problems[0] if problems else "There is no .py file and no notebook."
        verdicts = [Verdict(one.exercise.name, status, message) for one in prepared]
    names = tuple(path.name for path in submission.paths)
    return Graded(submission.student, submission.digest(), tuple(verdicts), names, tuple(problems), locks)


def _blamed(verdict: Verdict, problem: str) -> Verdict:
    """An answer that is missing may be in the file that cannot be read."""
    return Verdict(verdict.exercise, "unreadable", problem) if verdict.status == "missing" else verdict


class _Progress:
    """The file that keeps what has been graded so far: a header, then one line per submission."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.header = header

    def open(self, *, resume: bool) -> dict[str, Graded]:
        """Start the file, or read what an interrupted run left.

        Raises:
            ExerciseError: it is there and was not to be resumed, or it belongs to another run.
        """
        if not self.path.exists():
            self._write("w", self.header)
            return {}
        if not resume:
            raise ExerciseError(
                f"{self.path} was left by a run that did not finish.",
                mend="Add --resume to go on with it, or remove it to start again.",
            )
        lines = [parsed for line in self.path.read_text().splitlines() if (parsed := _parsed(line)) is not None]
        if not lines or lines[0] != self.header:
            raise ExerciseError(
                f"{self.path} belongs to a run with another seed or other exercises.",
                mend="Give the same --seed and --exercises, or remove it to start again.",
            )
        return {line["student"]: graded_from(line) for line in lines[1:]}

    def append(self, result: Graded) -> None:
        self._write("a", asdict(result))

    def _write(self, mode: str, value: dict[str, Any]) -> None:
        with storage_errors(self.path), self.path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")
            file.flush()
            os.fsync(file.fileno())


def interrupted_seed(output: Path) -> int | None:
    """The seed of the run that left its progress in ``output``; None if there is none."""
    path = output / PROGRESS
    if not path.exists():
        return None
    header = _parsed((path.read_text().splitlines() or [""])[0])
    seed = header.get("seed") if header else None
    return seed if isinstance(seed, int) else None


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of the progress file; the last may be half written."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def graded_from(plain: dict[str, Any]) -> Graded:
    """The inverse of ``dataclasses.asdict``."""
    verdicts = tuple(
        Verdict(
            v["exercise"],
            v["status"],
            v["message"],
            v["hint"],
            FailingCase(**v["case"]) if v["case"] else None,
            tuple(v["notes"]),
        )
        for v in plain["verdicts"]
    )
    locks = None if plain["locks"] is None else tuple(plain["locks"])
    return Graded(plain["student"], plain["digest"], verdicts, tuple(plain["files"]), tuple(plain["problems"]), locks)
