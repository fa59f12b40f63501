"""``rlcourse check exercises/ch04_cql.py``: is my answer right?"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from rlcourse.course.checking import TIME_LIMIT_S, check_file
from rlcourse.course.verdicts import Verdict
from rlcourse.errors import ExerciseError
from rlcourse.recipes.common import Common, report, say, show_result, write_report


@dataclass(frozen=True, kw_only=True)
class Check(Common):
    """Check the answers in exercise files, .py or .ipynb: the failing case and a hint for each that is wrong.

    Answers are checked on the CPU, whatever the device. Exit status 0 when all pass, 1 when one does not or is not
    attempted, 2 when a file cannot be used.

    Example: rlcourse check exercises/ch04_cql.py
    """

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """The files, such as exercises/ch04_cql.py."""
    time_limit_s: float = TIME_LIMIT_S
    """How long one answer may take, in seconds; they need milliseconds."""


def run(config: Check) -> int:
    """Print the verdicts; returns the exit status."""
    started = time.monotonic()
    if not config.paths:
        say("No file was named. Say for example: rlcourse check exercises/ch04_cql.py")
        return 2
    found: list[tuple[str, Verdict]] = []
    for path in config.paths:
        try:
            verdicts = check_file(path, seed=config.seed, time_limit_s=config.time_limit_s)
        except ExerciseError as error:
            say(str(error))
            return 2
        passed = sum(verdict.passed for verdict in verdicts)
        lines = [*map(str, verdicts), f"{path}: {passed} of {len(verdicts)} passed"]
        show_result("\n".join(lines), config.json)
        found += [(str(path), verdict) for verdict in verdicts]
    results = [{"file": path, **asdict(verdict)} for path, verdict in found]
    write_report(config.json, report("check", config, seconds=time.monotonic() - started, results=results))
    return 0 if all(verdict.passed for _, verdict in found) else 1
