"""The simulation against the gate it simulates, and against what is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlcourse.environments.server_room import thermostat
from rlcourse.errors import ConfigError
from rlcourse.evaluation.server_room import operate
from rlcourse.randomness import Seeds
from rlcourse.release.gates import Counts, LiveEvidence, decide
from rlcourse.release.matching import ControlVariates, Tally, Variation
from rlcourse.release.planning import Goal, ReleasePlan, plan_release
from rlcourse.release.simulate import (
    PROMOTED,
    ROLLED_BACK,
    UNDECIDED,
    Day,
    Differing,
    Evening,
    Pool,
    ThresholdRule,
    peeking_rule,
    run_days,
    sequential_rule,
    simulate,
)
from rlcourse.release.study import StudyConfig, judge_gates, prepare
from rlcourse.release.study_rooms import REMEDIES, judge_rooms
from tests.release.pieces import verdict

GOALS = (Goal(0.04, 2.0), Goal(0.5, 1.0, "gain", 0.9))


def pools(gain: float, days: int = 20_000) -> tuple[Pool, Pool]:
    """Known difference, deviation 1."""
    rng = Seeds(0).numpy("pool")
    ones = np.ones((days, 1))
    ours = rng.normal(0.0, 1.0, days)
    return Pool(ours - ours.mean(), ones), Pool(ours - ours.mean() + gain, ones)


def plan() -> ReleasePlan:
    return plan_release(50, GOALS, Variation(1.0, 1.0), bake_days=2)


def test_the_plan_is_the_power_calculation() -> None:
    found = plan_release(50, GOALS, Variation(1.0, 1.0), bake_days=2, fewest_episodes=2)
    first, second = found.stages
    # Stage 1: 2 of 50 rooms, (3.035 + 1.645)^2 / 2^2 = 5.476 of information, 1/(1/2 + 1/48) = 1.92 a day: 3 days.
    assert first.demand.information == pytest.approx(5.476, abs=0.01)
    assert (first.days, first.episodes) == (3, 6)
    # Stage 2: 12.5 a day; the mixture tuned to stage 1 needs a little more than its best.
    assert second.demand.information == pytest.approx((3.035 + 1.2816) ** 2, rel=0.06)
    assert second.demand.information > (3.035 + 1.2816) ** 2
    assert found.candidate_days == 6 + 25 * second.days + 2 * 48


def test_no_stage_is_planned_shorter_than_the_gate_wants_to_see() -> None:
    """4 of 200 rooms: the information is there after two days, 8 episodes; the gate asks for 10, so it is three days."""
    goals = (Goal(0.02, 4.5), Goal(0.1, 2.25), Goal(0.5, 2.25, "gain", 0.9))
    found = plan_release(200, goals, Variation(1.3, 2.6))
    hasty = plan_release(200, goals, Variation(1.3, 2.6), fewest_episodes=2)
    assert [(one.days, one.episodes) for one in hasty.stages[:2]] == [(2, 8), (2, 40)]
    assert [(one.days, one.episodes) for one in found.stages[:2]] == [(3, 12), (1, 20)]  # the third day counts, too
    assert found.gate.fewest_episodes == 10
    # What was seen in one stage counts in all that follow.
    easy = tuple(Goal(share, 90.0) for share in (0.1, 0.2, 0.3))
    slow = plan_release(10, easy, Variation(1.0, 1.0), fewest_episodes=11)
    assert [(one.days, one.episodes) for one in slow.stages] == [(11, 11), (1, 2), (1, 3)]


@pytest.mark.parametrize(("fleet", "sd"), [(200, 1.3), (200, 6.6), (50, 1.0), (20, 2.0)])
def test_a_stage_that_finds_nothing_lasts_as_long_as_it_was_planned(fleet: int, sd: float) -> None:
    known = Variation(
        sd, 2.0 * sd, worth=1e9
    )  # nothing is learnt, so that every day is worth what it was planned to be
    goals = (Goal(0.02, 4.5), Goal(0.1, 2.25), Goal(0.5, 2.25, "gain", 0.9))
    followed = plan_release(fleet, goals, known)
    lengths = [0] * 4

    def watched(day: Day, plan: ReleasePlan) -> Evening:
        lengths[int(day.stage[0])] += 1
        return sequential_rule(day, plan)

    nothing = Pool(np.zeros(10), np.ones((10, 1)))
    simulate(watched, followed, nothing, nothing, variates=None, releases=1, rng=Seeds(0).numpy("r"))
    assert lengths[:2] == [stage.days for stage in followed.stages[:2]]


def test_what_is_surely_worse_goes_back_and_what_is_surely_better_stays() -> None:
    for gain, wanted in ((-3.0, ROLLED_BACK), (3.0, PROMOTED)):
        found = simulate(
            sequential_rule, plan(), *pools(gain), variates=None, releases=200, rng=Seeds(1).numpy("releases")
        )
        assert (found.outcome == wanted).mean() >= 0.99
    nothing = simulate(sequential_rule, plan(), *pools(0.0), variates=None, releases=400, rng=Seeds(1).numpy("r"))
    assert (nothing.outcome == ROLLED_BACK).mean() <= 0.025 + 5 * math.sqrt(0.025 / 400)
    assert (nothing.outcome == UNDECIDED).mean() > 0.9


def test_peeking_goes_back_more_often_than_it_says() -> None:
    many = plan_release(50, (Goal(0.5, 0.15), Goal(0.5, 0.15, "gain", 0.9)), Variation(1.0, 1.0))
    ours, theirs = pools(0.0)
    found = {
        rule.__name__: simulate(rule, many, ours, theirs, variates=None, releases=400, rng=Seeds(2).numpy("r"))
        for rule in (peeking_rule, sequential_rule)
    }
    wrong = {name: (one.outcome != UNDECIDED).mean() for name, one in found.items()}
    assert wrong["peeking_rule"] > 0.15
    assert wrong["sequential_rule"] < 0.05


def test_the_simulated_gate_is_the_gate() -> None:
    days: list[tuple[Tally, int, Evening]] = []

    def watched(day: Day, plan: ReleasePlan) -> Evening:
        answer = sequential_rule(day, plan)
        if day.stage[0] < len(plan.stages):
            days.append(
                (Tally(*(part[0].copy() for part in day.tally)), int(day.stage[0]), Evening(*(a[:1] for a in answer)))
            )
        return answer

    followed = plan()
    for gain, seed in ((0.0, 3), (1.2, 4), (-0.8, 5), (0.5, 6)):
        simulate(watched, followed, *pools(gain), variates=None, releases=1, rng=Seeds(seed).numpy("r"))
    healthy = {one.name: Counts(0, 100) for one in followed.gate.objectives}
    said = []
    for tally, stage, evening in days:
        answer = decide(
            LiveEvidence(0.0, tally, healthy, 0),
            now_s=0.0,
            since_s=0.0,
            demand=followed.stages[stage].demand,
            variation=followed.variation,
            config=followed.gate,
            verdict=verdict(),
            candidate="v2",
        )
        said.append(answer.answer)
        simulated = "roll_back" if evening.roll_back[0] else "promote" if evening.promote[0] else "hold"
        assert answer.answer == simulated
    assert {"hold", "promote"} <= set(said)


def test_peeking_says_nothing_either_before_the_fewest_episodes() -> None:
    """Else it would be the sooner, or the later, for another reason than that it peeks."""
    followed = plan_release(50, GOALS, Variation(1.0, 1.0), bake_days=2)
    few = Tally(np.array([[[48.0, 2.0]]]), np.array([[[0.0, -200.0]]]), np.array([[[48.0, 2e4]]]))
    for rule in (sequential_rule, peeking_rule):
        said = rule(Day(few, few, np.zeros(1, np.int64), np.ones(1, np.int64)), followed)
        assert [bool(one[0]) for one in said] == [False] * 3
        # More information than is demanded, of too few episodes, carries nothing on.
        exact = ReleasePlan(50, followed.stages, 0.95, 2, followed.gate, Variation(1e-3, 1e-3, worth=1e12))
        nothing = Tally(few.episodes, few.total * 0.0, few.squares * 0.0)
        said = rule(Day(nothing, nothing, np.zeros(1, np.int64), np.ones(1, np.int64)), exact)
        assert not said.promote[0]


@pytest.mark.parametrize(
    ("differing", "rooms"),
    [(Differing(0.1), 4.0), (Differing(0.1, past_days=20), 0.3), (Differing(0.1, drawn_daily=True), None)],
)
def test_equal_rooms_that_differ_by_ten_percent_are_not_taken_for_a_difference(
    differing: Differing, rooms: float | None
) -> None:
    """Each day costs 40, give or take 1.3; each room 10 % more or less than that for good."""
    rng = Seeds(8).numpy("pool")
    same = Pool(rng.normal(-40.0, 1.3, 20_000), np.ones((20_000, 1)))
    sd = 4.2 if differing.drawn_daily else 1.3
    few = (Goal(0.02, 4.5), Goal(0.1, 3.0), Goal(0.5, 2.5, "gain", 0.9))
    many = (Goal(0.2, 4.5), Goal(0.4, 3.0), Goal(0.5, 2.5, "gain", 0.9))
    followed = plan_release(200, many if rooms == 4.0 else few, Variation(sd, sd, rooms=rooms))

    def back(plan: ReleasePlan, differing: Differing) -> float:
        found = simulate(
            sequential_rule,
            plan,
            same,
            same,
            variates=None,
            releases=400,
            rng=Seeds(9).numpy("r"),
            differing=differing,
        )
        return float((found.outcome == ROLLED_BACK).mean())

    assert back(followed, differing) < 0.025 + 3 * math.sqrt(0.025 / 400)
    room_days = plan_release(200, few, Variation(1.3, 1.3))
    assert back(room_days, Differing(0.1)) > 0.1  # what counting room-days does


def test_a_threshold_counts_failed_days() -> None:
    ours = Pool(np.full(10, -10.0), np.ones((10, 1)))
    dear = Pool(np.full(10, -10.6), np.ones((10, 1)))
    for limit, days in ((0, 1), (2, 3)):
        rule = ThresholdRule(-10.0, tolerance=0.05, failure_limit=limit)
        found = simulate(rule, plan(), ours, dear, variates=None, releases=3, rng=Seeds(0).numpy("r"))
        assert found.outcome.tolist() == [ROLLED_BACK] * 3
        assert found.days.tolist() == [days] * 3
        assert found.candidate_days.tolist() == [2.0 * days] * 3
    cheap = Pool(np.full(10, -10.4), np.ones((10, 1)))
    found = simulate(ThresholdRule(-10.0), plan(), ours, cheap, variates=None, releases=1, rng=Seeds(0).numpy("r"))
    assert (found.outcome[0], found.candidate_days[0]) == (PROMOTED, plan().candidate_days)


def test_pools_meet_the_same_days_and_the_conditions_explain_most() -> None:
    cold, usual = (run_days(thermostat(first_stage_c=c), 3_000, Seeds(5)) for c in (24.0, 25.5))
    assert np.array_equal(cold.conditions, usual.conditions)
    assert not np.array_equal(cold.returns, usual.returns)
    told = operate(thermostat(), num_episodes=3_000, seeds=Seeds(5))
    assert usual.returns == pytest.approx(-told.cost)
    assert ControlVariates.fit(usual.conditions, usual.returns).explained > 0.9
    with pytest.raises(ConfigError):
        run_days(thermostat(), 0, Seeds(0))


def test_a_small_study_finds_what_the_large_one_does() -> None:
    sizes = StudyConfig(releases=30, fleet=100, pool_days=2_000, log_days=1_500, calibration_days=500)
    study = prepare(sizes, Seeds(0))
    assert study.true_difference("5 % better") == pytest.approx(-0.05 * study.log_mean, rel=0.3)
    rows = {(row.gate, row.candidate): row for row in judge_gates(study, Seeds(1))}
    ours = {name: row for (gate, name), row in rows.items() if gate == "always valid"}
    assert ours["10 % worse, too cold"].within_budget.estimate > 0.9
    assert ours["equal, the same rule"].rolled_back.estimate < 0.1
    assert ours["5 % better"].promoted.estimate > 0.8
    assert rows["threshold +5 %, no failure allowed", "equal, the same rule"].rolled_back.estimate > 0.2
    with pytest.raises(ConfigError, match="small"):
        StudyConfig(log_days=10)


def test_a_small_study_of_rooms_that_differ() -> None:
    sizes = StudyConfig(releases=60, fleet=200, pool_days=2_000, log_days=3_000, calibration_days=500)
    rows = list(judge_rooms(prepare(sizes, Seeds(0)), Seeds(1), spreads=(0.1,)))
    assert {one.remedy for one in rows} == set(REMEDIES)
    found = {(one.remedy, one.row.candidate): one.row for one in rows}
    assert found["none", "equal, the same rule"].rolled_back.estimate > 0.08
    for remedy in ("past", "more rooms", "drawn daily"):
        assert found[remedy, "equal, the same rule"].rolled_back.estimate <= 0.05
        assert found[remedy, "10 % worse, too cold"].rolled_back.estimate > 0.9
    assert found["past", "10 % worse, too cold"].days < found["drawn daily", "10 % worse, too cold"].days
    with pytest.raises(ConfigError):
        Differing(-0.1)


def test_shares_that_make_no_plan() -> None:
    with pytest.raises(ConfigError):
        plan_release(50, (Goal(0.5, 1.0), Goal(0.1, 1.0)), Variation(1.0, 1.0))
    with pytest.raises(ConfigError):
        Goal(1.0, 1.0)
