"""How often release gates are wrong, what a wrong release costs, and how long it takes.

    python benchmarks/releases.py            writes book/results/releases.md
    python benchmarks/releases.py running    writes book/results/releases_running.md: the same on rooms that go on

The first ends with 1 if the gate misses one of its targets, in rooms that are alike or in rooms that differ and of which a past
is known: a release that costs 10 % more is rolled back in 95 % of cases
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
from rlcourse.release.planning import arm_size
from rlcourse.release.running import check_running
from rlcourse.release.study import BUDGET, Study, StudyConfig, StudyRow, judge_gates, prepare
from rlcourse.release.study_rooms import REMEDIES, Remedy, RoomsRow, judge_rooms, past_days

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

PROMISE = 0.025
"""Half of the gate's alpha: harm found where there is none."""
ROOMS_HEADER = [
    "rooms differ by",
    "what is done about it",
    "rooms of each stage",
    "days of each",
    f"10 % worse: back within {BUDGET:.0%} of the traffic",
    "equal: rolled back",
    "5 % better: promoted",
    "10 % worse: extra cost, EUR",
    "5 % better: days",
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
    started = time.process_time()
    with torch_threads(1):
        study = prepare(StudyConfig(releases=releases), Seeds(0))
        rows = list(judge_gates(study, Seeds(1)))
        rooms = list(judge_rooms(study, Seeds(3)))
    seconds = time.process_time() - started
    met = targets([row for row in rows if row.gate == "always valid"])
    body = "\n\n".join(
        [
            about(study, seconds),
            markdown_table(HEADER, [cells(row) for row in rows]),
            "Targets of the gate *always valid*: "
            + "; ".join(f"{claim}: {'met' if holds else '**missed**'}" for claim, holds in met.items())
            + ".",
            about_rooms(study),
            markdown_table(ROOMS_HEADER, room_lines(rooms)),
            said_of_rooms(rooms),
        ]
    )
    data = {
        "seconds": seconds,
        "rows": [asdict(row) for row in rows],
        "targets": met,
        "plan": asdict(study.plan),
        "rooms": [asdict(one) for one in rooms],
    }
    write_result("releases", body, command="python benchmarks/releases.py", data=data)
    kept = all(all(targets(found).values()) for (_, remedy), found in by_remedy(rooms).items() if remedy == "past")
    return 0 if kept and all(met.values()) else 1


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
    ours = {row.candidate: row for row in rows}
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
        f"in {seconds:.0f} s of one core's time. Each draws its days from {config.pool_days:,} days that every policy ran "
        f"under the same weather and load. The incumbent costs {-study.log_mean:.1f} EUR a day (standard deviation "
        f"{study.log_sd:.1f}). Weather, load and the state in which a day began explain {study.variates.explained:.0%} of the "
        f"variance in its log, which "
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


def by_remedy(rooms: list[RoomsRow]) -> dict[tuple[float, Remedy], list[StudyRow]]:
    """The rows of the five candidates."""
    found: dict[tuple[float, Remedy], list[StudyRow]] = {}
    for one in rooms:
        found.setdefault((one.spread, one.remedy), []).append(one.row)
    return found


def about_rooms(study: Study) -> str:
    """What is new in the second table."""
    return (
        f"Above, no room differs from the others for good. Below, each has a factor of its own, and keeps its side for the "
        f"whole release; where a past is known, it is {past_days(study)} days of each room. Of the two candidates that are "
        f"10 % worse, and of the two that are equal, the worse figure is shown."
    )


def room_lines(rooms: list[RoomsRow]) -> list[list[str]]:
    """A line for each spread and remedy."""
    plans = {(one.spread, one.remedy): one.plan for one in rooms}
    lines = []
    for (spread, remedy), found in by_remedy(rooms).items():
        plan = plans[spread, remedy]
        worse = [row for row in found if "worse" in row.candidate]
        (better,) = [row for row in found if "better" in row.candidate]
        lines.append(
            [
                f"{spread:.0%}",
                REMEDIES[remedy],
                ", ".join(str(arm_size(plan.fleet, stage.share)) for stage in plan.stages),
                ", ".join(str(stage.days) for stage in plan.stages),
                percent(min((row.within_budget for row in worse), key=lambda share: share.estimate)),
                percent(
                    max(
                        (row.rolled_back for row in found if "equal" in row.candidate), key=lambda share: share.estimate
                    )
                ),
                percent(better.promoted),
                f"{max(round(row.harm_eur) for row in worse):+,d}",
                f"{better.days:.0f}",
            ]
        )
    return lines


def said_of_rooms(rooms: list[RoomsRow]) -> str:
    """Which targets each remedy misses."""
    met, missed = [], []
    for (spread, remedy), found in by_remedy(rooms).items():
        claims = [claim for claim, holds in targets(found).items() if not holds]
        if max(row.rolled_back.estimate for row in found if "equal" in row.candidate) > PROMISE:
            claims.append("the gate's own promise")
        if claims:
            missed.append(f"- *{REMEDIES[remedy]}*, {spread:.0%}: {'; '.join(claims)}.")
        else:
            met.append(f"*{REMEDIES[remedy]}* ({spread:.0%})")
    return (
        f"The same targets, and the gate's own promise to roll back an equal release in {PROMISE:.1%} of cases at most, are "
        f"met with {', '.join(met)}. **Missed**:\n\n" + "\n".join(missed)
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
