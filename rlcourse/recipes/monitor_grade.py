"""``rlcourse monitor grade exercises/ch17_alert.yml``: does my alert catch the incident, and nothing else?"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from rlcourse.course.alert_grading import grade_alert
from rlcourse.errors import ExerciseError
from rlcourse.recipes.common import Common, report, say, show_result, write_report


@dataclass(frozen=True, kw_only=True)
class Grade(Common):
    """Grade the rule file of chapter 17's alert exercise over series that you have not seen.

    promtool runs the rules where it is installed, the embedded evaluator elsewhere. Exit status 0 when the alert passes, 1
    when it does not or is not attempted, 2 when the file cannot be used.

    Example: rlcourse monitor grade exercises/ch17_alert.yml
    """

    path: tyro.conf.Positional[Path]
    """The rule file."""
    engine: Literal["auto", "promtool", "embedded"] = "auto"
    """Who runs the rules."""


def run(config: Grade) -> int:
    """Print the verdict; returns the exit status."""
    started = time.perf_counter()
    try:
        verdict = grade_alert(config.path, seed=config.seed, engine=config.engine)
    except ExerciseError as error:
        say(str(error))
        return 2
    show_result(str(verdict), config.json)
    results = [{"file": str(config.path), **asdict(verdict), "hint": verdict.hint}]
    write_report(config.json, report("monitor grade", config, seconds=time.perf_counter() - started, results=results))
    return 0 if verdict.passed else 1
