"""Marks for a spreadsheet, everything for a program, and pages for people."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlcourse.course.exercise_set import Exercise
from rlcourse.course.grading.grader import ClassResult, Graded
from rlcourse.course.verdicts import WORDS, Status, Verdict
from rlcourse.files import write_text

_FOUND: frozenset[Status] = frozenset(
    {"passed", "failed", "not_attempted", "wrong_type", "tampered", "time_limit", "memory_limit", "imports_answer"}
)
_NOTABLE: frozenset[Status] = frozenset(
    {"tampered", "bad_reply", "process_refused", "network_refused", "file_refused", "imports_answer", "wrong_type"}
)


def handed_in(result: ClassResult) -> tuple[Exercise, ...]:
    """The exercises of those files that at least one student worked on; all, if that cannot be told."""
    if result.plan.exercises:
        return result.exercises
    by_name = {exercise.name: exercise for exercise in result.exercises}
    files = {by_name[v.exercise].file for g in result.graded for v in g.verdicts if v.status in _FOUND and _ran(g)}
    return tuple(e for e in result.exercises if e.file in files) or result.exercises


def _ran(graded: Graded) -> bool:
    # A submission that dies while loading has one and the same verdict everywhere, which tells nothing.
    return len({verdict.status for verdict in graded.verdicts}) > 1


def points(graded: Graded, exercises: Sequence[Exercise]) -> int:
    """A passed exercise earns its difficulty."""
    passed = {verdict.exercise for verdict in graded.verdicts if verdict.passed}
    return sum(exercise.difficulty for exercise in exercises if exercise.name in passed)


def write_reports(result: ClassResult, exercises: Sequence[Exercise], seconds: float) -> None:
    """Write ``marks.csv``, ``report.md`` and ``feedback/`` into the output folder of the plan."""
    output = result.plan.output
    write_text(output / "marks.csv", marks_csv(result, exercises))
    write_text(output / "report.md", class_report(result, exercises, seconds))
    for graded in result.graded:
        write_text(output / "feedback" / f"{graded.student}.md", feedback(graded, exercises))


def marks_csv(result: ClassResult, exercises: Sequence[Exercise]) -> str:
    """One row per student: points, the most there are, then the points of each exercise and its verdict."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [exercise.name for exercise in exercises]
    writer.writerow(["student", "points", "out_of", *names, *[f"{name}_verdict" for name in names]])
    total = sum(exercise.difficulty for exercise in exercises)
    for graded in result.graded:
        by_name = {verdict.exercise: verdict for verdict in graded.verdicts}
        marks = [exercise.difficulty if by_name[exercise.name].passed else 0 for exercise in exercises]
        words = [WORDS[by_name[name].status] for name in names]
        writer.writerow([_cell(graded.student), sum(marks), total, *marks, *words])
    return text.getvalue()


def _cell(text: str) -> str:
    """A file name is the student's choice; a spreadsheet must not take it for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def results(result: ClassResult, exercises: Sequence[Exercise]) -> list[dict[str, Any]]:
    """One plain object per student, with every verdict."""
    total = sum(exercise.difficulty for exercise in exercises)
    shown = {exercise.name for exercise in exercises}
    return [
        {
            "student": graded.student,
            "points": points(graded, exercises),
            "out_of": total,
            "files": list(graded.files),
            "problems": list(graded.problems),
            "sha256": graded.digest,
            "exercises": [asdict(verdict) for verdict in graded.verdicts if verdict.exercise in shown],
        }
        for graded in result.graded
    ]


def summary(result: ClassResult, exercises: Sequence[Exercise]) -> list[dict[str, Any]]:
    """One plain object per exercise: how often which verdict."""
    return [
        {
            "exercise": exercise.name,
            "difficulty": exercise.difficulty,
            "verdicts": dict(Counter(verdict.status for verdict in _verdicts_on(result, exercise))),
        }
        for exercise in exercises
    ]


def isolation(result: ClassResult) -> dict[str, Any]:
    """What kept the submissions in: the walls around the workers, and the locks that held inside every one of them."""
    return {"walls": result.isolation, "locks": locks_of(result)}


def locks_of(result: ClassResult) -> list[str]:
    """The locks that held in every worker that ran anything."""
    held = [set(graded.locks) for graded in result.graded if graded.locks is not None]
    return sorted(set.intersection(*held)) if held else []


def isolation_text(result: ClassResult) -> str:
    """What kept the submissions in, in words."""
    walls = {
        "bubblewrap": "Each submission ran in its own bubblewrap sandbox: no network, no other processes, nothing of this "
        "machine's files but the interpreter, an empty folder of its own.",
        "process": "Each submission ran in its own process without bubblewrap, which is not available or was not wanted.",
    }[result.isolation]
    texts = {
        "limits": "CPU time, memory and file size were limited",
        "system": "starting processes and opening sockets was refused by the kernel",
        "files": "the answers and all files but the interpreter's were out of reach",
    }
    held = locks_of(result)
    ran = any(graded.locks is not None for graded in result.graded)
    if not ran:
        return f"{walls} No submission had anything to run."
    yes = "; ".join(text for name, text in texts.items() if name in held) or "none"
    missing = [name for name in texts if name not in held]
    warning = f" **Locks that this system does not offer: {', '.join(missing)}.**" if missing else ""
    return f"{walls} Inside it, {yes}.{warning}"


def _verdicts_on(result: ClassResult, exercise: Exercise) -> list[Verdict]:
    return [verdict for graded in result.graded for verdict in graded.verdicts if verdict.exercise == exercise.name]


def class_report(result: ClassResult, exercises: Sequence[Exercise], seconds: float) -> str:
    """The page for the instructor."""
    total = sum(exercise.difficulty for exercise in exercises)
    plan = result.plan
    lines = [
        "# Grades",
        "",
        f"{len(result.graded)} submissions in {seconds:.0f} seconds.",
        "",
        f"Seed {plan.seed}: the same seed gives the same hidden inputs, and so the same marks.",
        "",
        isolation_text(result),
        "",
        "## Students",
        "",
        f"| student | points of {total} | passed | the rest |",
        "|---|---:|---:|---|",
    ]
    shown = {exercise.name for exercise in exercises}
    for graded in result.graded:
        verdicts = [verdict for verdict in graded.verdicts if verdict.exercise in shown]
        rest = Counter(WORDS[verdict.status] for verdict in verdicts if not verdict.passed)
        words = ", ".join(f"{word} {count}" for word, count in rest.most_common())
        passed = sum(verdict.passed for verdict in verdicts)
        lines.append(f"| {_escaped(graded.student)} | {points(graded, exercises)} | {passed} | {words} |")
    lines += ["", "## Exercises", "", "| exercise | points | passed | the rest |", "|---|---:|---:|---|"]
    for exercise in exercises:
        verdicts = _verdicts_on(result, exercise)
        rest = Counter(WORDS[verdict.status] for verdict in verdicts if not verdict.passed)
        words = ", ".join(f"{word} {count}" for word, count in rest.most_common())
        passed = sum(verdict.passed for verdict in verdicts)
        lines.append(f"| {exercise.name} | {exercise.difficulty} | {passed} | {words} |")
    lines += _common_hints(result, exercises) + _notable(result, shown)
    return "\n".join(lines) + "\n"


def _common_hints(result: ClassResult, exercises: Sequence[Exercise]) -> list[str]:
    """What went wrong most often: what to talk about next time."""
    shown = {exercise.name for exercise in exercises}
    verdicts = [v for graded in result.graded for v in graded.verdicts if v.status == "failed" and v.exercise in shown]
    counts = Counter((verdict.exercise, verdict.hint) for verdict in verdicts)
    if not counts:
        return []
    rows = [f"- {count} x {name}: {hint}" for (name, hint), count in counts.most_common(10)]
    return ["", "## What went wrong most often", "", *rows]


def _notable(result: ClassResult, shown: set[str]) -> list[str]:
    """What somebody should look at."""
    rows = []
    for graded in result.graded:
        for text in dict.fromkeys(
            f"{WORDS[verdict.status]}: {verdict.message}"
            for verdict in graded.verdicts
            if verdict.exercise in shown and verdict.status in _NOTABLE
        ):
            rows.append(f"- {_escaped(graded.student)}: {_escaped(text)}")
    return ["", "## Worth a look", "", *rows] if rows else []


def feedback(graded: Graded, exercises: Sequence[Exercise]) -> str:
    """The page for one student."""
    by_name = {verdict.exercise: verdict for verdict in graded.verdicts}
    total = sum(exercise.difficulty for exercise in exercises)
    lines = [f"# {_escaped(graded.student)}: {points(graded, exercises)} of {total} points", ""]
    lines += [f"- {_escaped(problem)}" for problem in graded.problems]
    for exercise in exercises:
        verdict = by_name[exercise.name]
        earned = exercise.difficulty if verdict.passed else 0
        text = str(verdict).replace("```", "` ` `")
        lines += [f"## {exercise.name}: {earned} of {exercise.difficulty}", "", "```text", text, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def default_output(directory: Path) -> Path:
    """Beside the submissions, not among them."""
    resolved = directory.resolve()
    return resolved.parent / f"{resolved.name}-grades"
