"""``rlcourse grade submissions/``: marks for a folder of submissions that nobody trusts."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from rlcourse.course.grading import report as reports
from rlcourse.course.grading.grader import PROGRESS, Plan, grade_folder, interrupted_seed
from rlcourse.course.grading.sandbox import Isolation
from rlcourse.course.inside.confinement import Limits
from rlcourse.course.session import TimeLimits
from rlcourse.errors import ConfigError, ExerciseError
from rlcourse.files import write_json
from rlcourse.recipes.common import report, say, show_result, write_report


@dataclass(frozen=True)
class Grade:
    """Grade a folder of .py or .ipynb submissions: one file, or one folder, per student.

    Each submission runs in a process of its own, without network, with limited time and memory. Writes marks.csv,
    grades.json, report.md and feedback/. Exit status 0 when every submission has been graded, 1 when one could not be.
    """

    directory: tyro.conf.Positional[Path]
    """The folder that holds the submissions."""
    output: Path | None = None
    """Where the reports go; by default beside the folder, with -grades added to its name."""
    exercises: tuple[str, ...] = ()
    """Exercise files to grade, such as ch04_cql; by default those that were handed in."""
    seed: int | None = None
    """Where the hidden inputs come from; fresh and secret by default. The report names it: give it to repeat a run."""
    jobs: int = 2
    """How many submissions run at once; one per core is right."""
    resume: bool = False
    """Go on with a run that was interrupted."""
    isolation: Isolation = "auto"
    """bubblewrap where it works (auto), bubblewrap or nothing (bubblewrap), or without it (process)."""
    exercise_time_s: float = TimeLimits().exercise_s
    """How long the answer to one exercise may take, seconds."""
    load_time_s: float = TimeLimits().load_s
    """How long the file itself, or all cells of the notebook, may take, seconds."""
    memory_mib: int = Limits().memory_mib
    """How much memory a submission may use on top of torch's own, MiB."""
    device: str = "cpu"
    """Here for the sake of uniformity: answers are graded on the CPU."""
    json: str | None = None
    """Write what is in grades.json to this file as well; - is standard output."""


def run(config: Grade) -> int:
    """Grade and write the reports; returns the exit status."""
    started = time.monotonic()
    output = config.output or reports.default_output(config.directory)
    try:
        plan = _plan(config, output)
        result = grade_folder(plan, resume=config.resume)
    except (ExerciseError, ConfigError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        say(f"\nInterrupted. What was graded is kept: go on with --resume --output {output}")
        return 130
    seconds = time.monotonic() - started
    exercises = reports.handed_in(result)
    reports.write_reports(result, exercises, seconds)
    # The config in the report is the one that repeats this run.
    files = tuple(dict.fromkeys(exercise.file for exercise in exercises))
    rows = reports.results(result, exercises)
    content = report(
        "grade",
        replace(config, seed=plan.seed, exercises=files),
        seconds=seconds,
        results=rows,
        summary=reports.summary(result, exercises),
        isolation=reports.isolation(result),
    )
    write_json(output / "grades.json", content)
    (output / PROGRESS).unlink(missing_ok=True)
    lines = [f"{row['student']}: {row['points']} of {row['out_of']}" for row in rows]
    lines.append(f"{len(rows)} submissions, isolation: {result.isolation}. The report: {output / 'report.md'}")
    show_result("\n".join(lines), config.json)
    write_report(config.json, content)
    lost = [graded.student for graded in result.graded if any(v.status == "not_graded" for v in graded.verdicts)]
    if lost:
        say(f"Could not be graded: {', '.join(lost)}. Run it again with fewer --jobs.")
    return 1 if lost else 0


def _plan(config: Grade, output: Path) -> Plan:
    if config.jobs < 1:
        raise ConfigError(f"{config.jobs} jobs grade nothing.", mend="Use 1 or more.")
    if config.exercise_time_s <= 0 or config.load_time_s <= 0 or config.memory_mib <= 0:
        raise ConfigError("A limit is not above 0.", mend="Use positive times and memory.")
    seed = config.seed
    if seed is None and config.resume:
        seed = interrupted_seed(output)
    return Plan(
        directory=config.directory,
        output=output,
        exercises=config.exercises,
        seed=secrets.randbits(63) if seed is None else seed,
        jobs=config.jobs,
        isolation=config.isolation,
        limits=Limits(memory_mib=config.memory_mib),
        time_limits=TimeLimits(config.load_time_s, config.exercise_time_s),
    )
