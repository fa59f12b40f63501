"""How often release gates are wrong, what a wrong release costs, and how long it takes.

    python benchmarks/releases.py            writes book/results/releases.md
    python benchmarks/releases.py running    writes book/results/releases_running.md: the same on rooms that go on

The first ends with 1 if the gate misses one of its targets: a release that costs 10 % more is rolled back in 95 % of cases
before it has run 5 % of the room-hours of a full release, an equal one in 5 % at most, one that costs 5 % less is promoted in
80 %.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from results import markdown_table, write_result

from rlcourse.devices import torch_threads
from rlcourse.evaluation.statistics import Interval
from rlcourse.randomness import Seeds
from rlcourse.release.running import check_running
from rlcourse.release.study import BUDGET, Study, StudyConfig, StudyRow, judge_gates, prepare

HEADER = [
    "gate",
    "candidate",
    "rolled back",
    f"... within {BUDGET:.0%} of the traffic",
    "promoted",
    "traffic used, median (95 %)",
    "extra cost, EUR",
    "days, median",
]


def main() -> int:
    """Prepare, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("pools", "running"), default="pools")
    parser.add_argument("--releases", type=int, help="2,000 for pools, 300 for running")
    arguments = parser.parse_args()
    if arguments.part == "running":
        running(arguments.releases or 300)
        return 0
    return pools(arguments.releases or 2_000)


def pools(releases: int) -> int:
    """Days drawn from pools."""
    started = time.perf_counter()
    with torch_threads(1):
        study = prepare(StudyConfig(releases=releases), Seeds(0))
        rows = list(judge_gates(study, Seeds(1)))
    seconds = time.perf_counter() - started
    met = targets(rows)
    body = "\n\n".join(
        [
            about(study, seconds),
            markdown_table(HEADER, [cells(row) for row in rows]),
            "Targets of the gate *always valid*: "
            + "; ".join(f"{claim}: {'met' if holds else '**missed**'}" for claim, holds in met.items())
            + ".",
        ]
    )
    data = {"seconds": seconds, "rows": [asdict(row) for row in rows], "targets": met, "plan": asdict(study.plan)}
    write_result("releases", body, command="python benchmarks/releases.py", data=data)
    return 0 if all(met.values()) else 1


def running(releases: int) -> None:
    """Rooms that go on from day to day."""
    started = time.perf_counter()
    with torch_threads(1):
        study = check_running(releases, StudyConfig().fleet, Seeds(2))
    seconds = time.perf_counter() - started
    truths = "; ".join(f"{name}: {gain / study.log_mean:+.1%}" for name, gain in study.differences.items())
    days = ", ".join(str(stage.days) for stage in study.plan.stages)
    body = (
        f"{releases} releases of each candidate, every room of every one stepped through its days: the tank, the weather and "
        f"the load go on from one day to the next and from one version to the other; {seconds:.0f} s. Control variates: "
        f"outdoor temperature and load of the day and of the day before, {study.variates.explained:.0%} of the variance. "
        f"Stages of {days} days. Candidates calibrated anew; true cost against the incumbent's: {truths}.\n\n"
        + markdown_table(HEADER[1:], [cells(row)[1:] for row in study.rows])
    )
    data = {"seconds": seconds, "rows": [asdict(row) for row in study.rows], "plan": asdict(study.plan)}
    write_result("releases_running", body, command="python benchmarks/releases.py running", data=data)


def targets(rows: list[StudyRow]) -> dict[str, bool]:
    """Whether each holds, by the point estimate."""
    ours = {row.candidate: row for row in rows if row.gate == "always valid"}
    worse = [row for name, row in ours.items() if "worse" in name]
    equal = [row for name, row in ours.items() if "equal" in name]
    return {
        "10 % worse rolled back within 5 % of the traffic in at least 95 %": all(
            row.within_budget.estimate >= 0.95 for row in worse
        ),
        "equal rolled back in at most 5 %": all(row.rolled_back.estimate <= 0.05 for row in equal),
        "5 % better promoted in at least 80 %": ours["5 % better"].promoted.estimate >= 0.8,
    }


def about(study: Study, seconds: float) -> str:
    """What was simulated, and what was planned."""
    config, plan = study.config, study.plan
    stages = "; ".join(
        f"{stage.share:.0%} of the rooms for {stage.days} {'day' if stage.days == 1 else 'days'} "
        f"({stage.episodes} room-days)"
        for stage in plan.stages
    )
    without = ", ".join(str(stage.days) for stage in study.plan_without.stages)
    truths = "; ".join(f"{name}: {study.true_difference(name) / study.log_mean:+.1%}" for name in study.candidates)
    staged = sum(stage.episodes for stage in plan.stages)
    return (
        f"{config.releases:,} simulated releases for each gate and candidate on a fleet of {config.fleet} server rooms; all "
        f"in {seconds:.0f} s. Each draws its days from {config.pool_days:,} days that every policy ran under the same weather "
        f"and load. The incumbent costs {-study.log_mean:.1f} EUR a day (standard deviation {study.log_sd:.1f}). Weather, "
        f"load and the state in which a day began explain {study.variates.explained:.0%} of the variance in its log, which "
        f"leaves a deviation of {study.variates.sd:.2f}: more than a real room would grant, so the rows without control "
        f"variates are the other end. True cost against the incumbent's: {truths}.\n\n"
        f"Planned from these numbers (alpha 0.05, power 0.95 to find harm of 10 % and then of 5 %, 0.9 to prove a gain of "
        f"5 %; the candidate's deviation guessed as twice the incumbent's): {stages}; then {plan.bake_share:.0%} for "
        f"{plan.bake_days} days. A full release is {plan.candidate_days:,} room-days of the candidate, {BUDGET:.0%} of which "
        f"are {BUDGET * plan.candidate_days:.0f}; the stages with two arms alone are {staged}, and {BUDGET:.0%} of those, "
        f"{BUDGET * staged:.0f}, are fewer than the gate wants to see before it says anything. Without control variates the "
        f"stages take {without} days. Neither promoted nor rolled back: not proven better, and a person decides. In "
        f"brackets: 95 % intervals (Wilson)."
    )


def cells(row: StudyRow) -> list[str]:
    """One line of the table."""
    return [
        row.gate,
        row.candidate,
        percent(row.rolled_back),
        percent(row.within_budget),
        percent(row.promoted),
        f"{row.traffic:.1%} ({row.traffic_95:.1%})",
        f"{round(row.harm_eur):+,d}",
        f"{row.days:.0f}",
    ]


def percent(share: Interval) -> str:
    """A share with its interval."""
    return f"{100 * share.estimate:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"


if __name__ == "__main__":
    raise SystemExit(main())
