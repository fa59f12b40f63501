"""The study once more, in rooms that differ for good: the same few come to the canary every day.

====================================  =========================================================================================
what the gate does about it           what it needs
====================================  =========================================================================================
nothing: counts room-days             it promises 2.5 % and breaks the promise; shown for that
takes out each room's own past        a log that tells rooms apart, from before the release
takes new rooms as they come          more rooms: their differences are in the variance, and in the plan
draws the rooms anew each day         sessions that are named after the room *and* the day
====================================  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlcourse.environments.server_room import thermostat
from rlcourse.randomness import Seeds
from rlcourse.release.matching import ControlVariates, Variation
from rlcourse.release.planning import Goal, ReleasePlan, least_share, plan_release
from rlcourse.release.power import always_valid_information
from rlcourse.release.rooms import usual_of_rooms
from rlcourse.release.simulate import Differing, run_days, sequential_rule, simulate
from rlcourse.release.study import INCUMBENT_C, Study, StudyRow, goals_of, row_of

Remedy = Literal["none", "past", "more rooms", "drawn daily"]
REMEDIES: dict[Remedy, str] = {
    "none": "room-days counted as if each were a new room",
    "past": "each room's own past taken out",
    "more rooms": "new rooms, and more of them",
    "drawn daily": "rooms drawn anew each day",
}
SPREADS = (0.05, 0.10)
STAGE_DAYS = 7
"""A stage of new rooms gets so many of them that it could end within so many days."""
SPARE = 1.1
"""More information than one look at its best needs: the boundary is tuned to the first stage."""


@dataclass(frozen=True)
class RoomsRow:
    """One remedy for one spread, on one candidate."""

    spread: float
    """Deviation of the factor by which a room's days are dearer or cheaper than others."""
    remedy: Remedy
    plan: ReleasePlan
    row: StudyRow


@dataclass(frozen=True)
class OldLog:
    """What the incumbent's log says of rooms that differ."""

    variates: ControlVariates
    within: float
    """Deviation of the adjusted days of one room."""
    between: float
    """By which the rooms differ for good."""
    left: float
    """Of that, once each room's own past is taken out."""


def read_log(study: Study, spread: float, seeds: Seeds) -> OldLog:
    """Fit the control variates to a log of all rooms, and part what is left into days and rooms."""
    fleet, days = study.config.fleet, past_days(study)
    log = run_days(thermostat(first_stage_c=INCUMBENT_C), fleet * days, seeds.child("log"))
    factor = 1.0 + seeds.numpy("rooms of the log").normal(0.0, spread, fleet)
    returns = log.returns * np.repeat(factor, days)
    variates = ControlVariates.fit(log.conditions, returns)
    adjusted = variates.adjust(returns, log.conditions).reshape(fleet, days)
    within = float(np.sqrt(adjusted.var(axis=1, ddof=1).mean()))
    means = adjusted.mean(axis=1)
    left = usual_of_rooms(np.full(fleet, float(days)), means, within).sd
    between = float(np.sqrt(max(means.var(ddof=1) - within**2 / days, 0.0)))
    return OldLog(variates, within, between, float(left))


def past_days(study: Study) -> int:
    """Days of each room in the log."""
    return max(study.config.log_days // study.config.fleet, 1)


def widened(goals: tuple[Goal, ...], fleet: int, variation: Variation) -> tuple[Goal, ...]:
    """The same goals with shares that new rooms can reach them with; half of the rooms at most."""
    found, share = list[Goal](), 0.0
    for goal in goals:
        needed = SPARE * always_valid_information(goal.effect, power=goal.power)
        least = least_share(fleet, needed, variation, most_days=STAGE_DAYS)
        share = max(share, goal.share, 0.5 if least is None else least)
        found.append(replace(goal, share=share))
    return tuple(found)


def planned(study: Study, log: OldLog, remedy: Remedy) -> ReleasePlan:
    """The stages by what is known of the rooms."""
    goals, fleet = goals_of(-study.log_mean), study.config.fleet
    if remedy == "drawn daily":
        return plan_release(fleet, goals, Variation(log.variates.sd, 2.0 * log.variates.sd))
    rooms = {"none": None, "past": log.left, "more rooms": log.between}[remedy]
    variation = Variation(log.within, 2.0 * log.within, rooms=rooms)
    return plan_release(fleet, widened(goals, fleet, variation) if remedy == "more rooms" else goals, variation)


def judge_rooms(study: Study, seeds: Seeds, spreads: tuple[float, ...] = SPREADS) -> Iterator[RoomsRow]:
    """Every remedy on every candidate; all meet the same days."""
    for spread in spreads:
        log = read_log(study, spread, seeds)
        for remedy, gate in REMEDIES.items():
            plan = planned(study, log, remedy)
            differing = Differing(spread, past_days(study) if remedy == "past" else 0, remedy == "drawn daily")
            for name, pool in study.candidates.items():
                found = simulate(
                    sequential_rule,
                    plan,
                    study.incumbent,
                    pool,
                    variates=log.variates,
                    releases=study.config.releases,
                    rng=seeds.numpy("releases"),
                    differing=differing,
                )
                row = row_of(gate, name, found, plan, study.true_difference(name))
                yield RoomsRow(spread, remedy, plan, row)
