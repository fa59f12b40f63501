"""``rlcourse release simulate``: how often release gates are wrong, on thousands of simulated releases."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated

from rlcourse.devices import torch_threads
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import NO_PREFIX, Common, plain, report, say, show_result, table, write_report
from rlcourse.release.study import StudyConfig, judge_gates, prepare


@dataclass(frozen=True, kw_only=True)
class Simulate(Common):
    """Let several gates judge releases of known worth on the server room.

    Example: rlcourse release simulate --releases 500
    """

    study: Annotated[StudyConfig, NO_PREFIX] = field(default_factory=StudyConfig)
    """Sizes."""


def run(config: Simulate) -> int:
    """Prepare, simulate, show."""
    started = time.perf_counter()
    seeds = Seeds(config.seed)
    with torch_threads(1):
        say("running the pools of days")
        study = prepare(config.study, seeds)
        say("simulating")
        rows = list(judge_gates(study, seeds.child("gates")))
    header = ["gate", "candidate", "rolled back", "within 5 % of traffic", "promoted", "cost EUR", "days"]
    lines = [
        [
            row.gate,
            row.candidate,
            f"{row.rolled_back.estimate:.1%}",
            f"{row.within_budget.estimate:.1%}",
            f"{row.promoted.estimate:.1%}",
            f"{round(row.harm_eur):+d}",
            f"{row.days:.0f}",
        ]
        for row in rows
    ]
    show_result(table(header, lines), config.json)
    content = report(
        "release simulate",
        config,
        seconds=time.perf_counter() - started,
        results=[plain(row) for row in rows],
        plan=study.plan,
        true_differences={name: study.true_difference(name) for name in study.candidates},
    )
    write_report(config.json, content)
    return 0
