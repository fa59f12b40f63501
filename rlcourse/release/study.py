"""The study behind the gate's error rates: releases of known worth, judged by several gates on the same plan.

Five candidates against an incumbent thermostat that was set cautiously cold (24.5 C): one that costs 10 % more because it
cools too much, one that costs 10 % more because it lets the room grow too warm, the incumbent itself under another name, a
different rule (which follows the price of electricity, and overdoes it) at the same cost, and the same rule with measure, which
costs 5 % less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlcourse.environments.server_room import thermostat
from rlcourse.errors import ConfigError
from rlcourse.evaluation.statistics import Interval, wilson_interval
from rlcourse.randomness import Seeds
from rlcourse.release.gates import Booleans
from rlcourse.release.matching import ControlVariates, Variation
from rlcourse.release.planning import Goal, ReleasePlan, plan_release
from rlcourse.release.simulate import (
    PROMOTED,
    ROLLED_BACK,
    Earns,
    Pool,
    Releases,
    Rule,
    ThresholdRule,
    dearer,
    peeking_rule,
    price_aware,
    run_days,
    sequential_rule,
    simulate,
)
from rlcourse.vocabulary import Policy

INCUMBENT_C = 24.5
HARM, GAIN, MARGIN = 0.10, 0.05, 0.03
BUDGET = 0.05


@dataclass(frozen=True)
class StudyConfig:
    """Sizes."""

    releases: int = 2_000
    """Simulated for each gate and candidate; error rates get sharper with the square root."""
    fleet: int = 200
    """Rooms."""
    pool_days: int = 100_000
    """Days of each policy to draw from."""
    log_days: int = 5_000
    """Of the incumbent before the release: what the control variates are fitted to and the stages planned with."""
    calibration_days: int = 20_000
    """Behind the settings of the candidates."""

    def __post_init__(self) -> None:
        if min(self.releases, self.pool_days, self.calibration_days) < 1 or self.log_days < 500 or self.fleet < 20:
            raise ConfigError(
                "The study is too small.", mend="Use a release or more, 500 days of log and a fleet of 20 or more."
            )


@dataclass(frozen=True)
class Study:
    """Everything that is drawn from."""

    config: StudyConfig
    incumbent: Pool
    candidates: dict[str, Pool]
    variates: ControlVariates
    plan: ReleasePlan
    plan_without: ReleasePlan
    """The same goals without control variates."""
    plan_margin: ReleasePlan
    """The same, but a release need not be better: it must not be worse by more than 3 %."""
    log_mean: float
    """EUR a day, of the incumbent's log."""
    log_sd: float

    def true_difference(self, name: str) -> float:
        """EUR a day that the candidate earns more, on the same days."""
        return float((self.candidates[name].returns - self.incumbent.returns).mean())


def prepare(config: StudyConfig, seeds: Seeds) -> Study:
    """Calibrate the candidates, run the pools, fit the control variates to the old log, plan the stages."""
    incumbent, tuning = thermostat(first_stage_c=INCUMBENT_C), seeds.child("calibration")
    policies = candidates_for(
        incumbent, lambda policy: float(run_days(policy, config.calibration_days, tuning).returns.mean())
    )
    log = run_days(incumbent, config.log_days, seeds.child("log"))
    variates = ControlVariates.fit(log.conditions, log.returns)
    mean, sd = float(log.returns.mean()), float(log.returns.std(ddof=1))
    goals = goals_of(-mean)
    known, raw = Variation(variates.sd, 2.0 * variates.sd), Variation(sd, sd)
    shared = seeds.child("pool")
    return Study(
        config,
        run_days(incumbent, config.pool_days, shared),
        {name: run_days(policy, config.pool_days, shared) for name, policy in policies.items()},
        variates,
        plan_release(config.fleet, goals, known),
        plan_release(config.fleet, goals, raw),
        plan_release(config.fleet, goals_of(-mean, last=MARGIN), known, margin=-MARGIN * mean),
        mean,
        sd,
    )


def candidates_for(incumbent: Policy, earns: Earns) -> dict[str, Policy]:
    """The five candidates by name."""
    return {
        "10 % worse, too cold": dearer(HARM, warm=False, incumbent=incumbent, earns=earns),
        "10 % worse, too warm": dearer(HARM, warm=True, incumbent=incumbent, earns=earns),
        "equal, the same rule": incumbent,
        "equal, another rule": price_aware(0.0, strong=True, incumbent=incumbent, earns=earns),
        "5 % better": price_aware(-GAIN, strong=False, incumbent=incumbent, earns=earns),
    }


def goals_of(usual_cost: float, last: float = GAIN) -> tuple[Goal, ...]:
    """2 % of the rooms to find a harm of 10 %, 10 % to find one of 5 %, half of them to prove a gain of 5 %."""
    return (
        Goal(0.02, HARM * usual_cost, "no_harm", 0.95),
        Goal(0.10, GAIN * usual_cost, "no_harm", 0.95),
        Goal(0.50, last * usual_cost, "gain", 0.90),
    )


@dataclass(frozen=True)
class StudyRow:
    """One gate on one candidate."""

    gate: str
    candidate: str
    rolled_back: Interval
    within_budget: Interval
    """Rolled back before the candidate had run 5 % of the room-hours of a full release."""
    promoted: Interval
    traffic: float
    """Median share of a full release's candidate room-hours."""
    traffic_95: float
    """95 % of the releases used less."""
    staged_traffic: float
    """Median share of the room-hours of the stages alone, without the week after promotion."""
    harm_eur: float
    """Mean extra cost of a release; negative: saved."""
    days: float
    """Median until it was decided."""


def gates(study: Study) -> dict[str, tuple[Rule, ReleasePlan, ControlVariates | None]]:
    """Every gate with the plan it follows and what it adjusts for."""
    usual = study.log_mean
    return {
        "always valid": (sequential_rule, study.plan, study.variates),
        "always valid, no control variates": (sequential_rule, study.plan_without, None),
        "always valid, 3 % margin": (sequential_rule, study.plan_margin, study.variates),
        "5 % test, looked at daily": (peeking_rule, study.plan, study.variates),
        "threshold +5 %, no failure allowed": (ThresholdRule(usual), study.plan, None),
        "threshold +5 %, 2 failures allowed": (ThresholdRule(usual, failure_limit=2), study.plan, None),
    }


def judge_gates(study: Study, seeds: Seeds) -> Iterator[StudyRow]:
    """Every gate on every candidate; all meet the same days."""
    for gate, (rule, plan, variates) in gates(study).items():
        for name, pool in study.candidates.items():
            found = simulate(
                rule,
                plan,
                study.incumbent,
                pool,
                variates=variates,
                releases=study.config.releases,
                rng=seeds.numpy("releases"),
            )
            yield row_of(gate, name, found, plan, study.true_difference(name))


def row_of(gate: str, candidate: str, found: Releases, plan: ReleasePlan, gain: float) -> StudyRow:
    """Sums over the releases of one gate and one candidate that truly earns ``gain`` EUR a day more."""
    back = found.outcome == ROLLED_BACK
    share = found.candidate_days / plan.candidate_days
    staged = sum(stage.episodes for stage in plan.stages)
    return StudyRow(
        gate,
        candidate,
        _share(back),
        _share(back & (share < BUDGET)),
        _share(found.outcome == PROMOTED),
        float(np.median(share)),
        float(np.quantile(share, 0.95)),
        float(np.median(found.candidate_days / staged)),
        float(-gain * found.candidate_days.mean()),
        float(np.median(found.days)),
    )


def _share(holds: Booleans) -> Interval:
    return wilson_interval(int(holds.sum()), len(holds))
