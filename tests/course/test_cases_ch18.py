"""Chapter 18's exercises: references agree with the package, promises hold, symptoms are true."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rlcourse.course import cases_ch18 as cases
from rlcourse.course.exercise_set import Exercise
from rlcourse.course.mutation import mutated
from rlcourse.evaluation.off_policy.verdict import Decision, Demands, OffPolicyVerdict
from rlcourse.evaluation.statistics import Interval
from rlcourse.release.gates import Counts, Demand, GateConfig, LiveEvidence, decide, read
from rlcourse.release.matching import Tally, Variation, matched
from rlcourse.release.sequential import sub_gaussian_sequence, tuned_mixture

drawn = pytest.mark.parametrize("seed", range(20))


def planted(exercise: Exercise) -> Callable[..., Any]:
    assert exercise.mutation is not None
    return mutated(exercise.reference, exercise.mutation)


def test_there_are_functions_to_write_and_bugs_to_find() -> None:
    kinds = [exercise.kind for exercise in cases.EXERCISES]
    assert (kinds.count("function"), kinds.count("hunt")) == (6, 2)


# The references against the package


def test_so_many_episodes_find_the_effect_as_often_as_they_should() -> None:
    count = cases.episodes_per_arm(1.0, 2.0, 0.05, 0.8)
    rng = np.random.default_rng(0)
    difference = rng.normal(1.0, 2.0, (20_000, count)).mean(-1) - rng.normal(0.0, 2.0, (20_000, count)).mean(-1)
    found = (np.abs(difference) > 1.96 * 2.0 * math.sqrt(2.0 / count)).mean()
    assert found == pytest.approx(0.8, abs=0.015)


def test_the_radius_is_that_of_the_packages_sequence() -> None:
    returns = np.random.default_rng(1).normal(size=50)
    sequence = sub_gaussian_sequence(returns, sigma=2.0, alpha=0.05, tuned_at=10)
    found = cases.always_valid_radius(torch.arange(1.0, 51.0), 2.0, 0.05, tuned_mixture(10 * 2.0**2, 0.05))
    assert found.numpy() == pytest.approx((sequence.high - sequence.low) / 2.0, rel=1e-5)


def live(middle: float, information: float) -> Tally:
    """A day on which both arms have so many episodes that the estimate has this information, at deviation 1."""
    count = np.array([[2.0 * information, 2.0 * information]])
    mean = np.array([[0.0, middle]])
    return Tally(count, count * mean, (count - 1.0) + count * mean**2)


@pytest.mark.parametrize("verdict", ["promote", "reject", "inconclusive"])
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("middle", [-1.2, -0.1, 0.3, 1.2])
@pytest.mark.parametrize("margin", [0.0, 0.6])
@pytest.mark.parametrize("demanded", [30.0, 50.0, 80.0])
def test_the_gate_says_what_the_packages_gate_says(
    verdict: Decision, fresh: bool, middle: float, margin: float, demanded: float
) -> None:
    config, variation = GateConfig(tuned_at=50.0, margin=margin), Variation(1.0, 1.0)
    tally = live(middle, 50.0)
    reading = read(matched(tally, variation), demanded, config)
    name = "v2" if verdict == "promote" else None
    told = decide(
        LiveEvidence(0.0, tally, {one.name: Counts(0, 1_000) for one in config.objectives}, 0),
        now_s=1.0 if fresh else 1_000.0,
        since_s=0.0,
        demand=Demand("gain", demanded),
        variation=variation,
        config=config,
        verdict=OffPolicyVerdict(verdict, name, "so says the log", Interval(1.0, 0.0, 2.0), (), Demands()),
        candidate="v2",
    )
    undecided = any(reason.code == "undecided" for reason in told.reasons)
    # The information of the tally comes out of a division: compare with what was really read.
    information = float(matched(tally, variation).information)
    found = cases.gate_answer(float(reading.low), float(reading.high), information, demanded, margin, verdict, fresh)
    assert found == ("ask" if undecided else told.answer)


# What the docstrings promise


def test_a_canary_is_sticky_grows_and_has_its_share() -> None:
    rooms = [f"room-{number}" for number in range(20_000)]
    small, large = (cases.canary_members(rooms, "r7", share) for share in (0.1, 0.3))
    assert cases.canary_members(rooms[::-1], "r7", 0.1)[::-1] == small
    assert all(later for before, later in zip(small, large, strict=True) if before)
    assert np.mean(small) == pytest.approx(0.1, abs=0.01)
    both = np.array(small) & np.array(cases.canary_members(rooms, "r8", 0.1))
    assert both.mean() == pytest.approx(0.01, abs=0.003), "another salt draws another canary"


@drawn
def test_adjusting_keeps_the_difference_whatever_the_weather(seed: int) -> None:
    given = cases.ADJUSTED_DIFFERENCE.draw(np.random.default_rng(seed))
    hotter = {**given, "candidate_heat": given["candidate_heat"] + 10.0}
    slope = cases._slope(given["log_heat"], given["log"])
    hotter["candidate"] = given["candidate"] + 10.0 * slope
    before, after = cases.adjusted_difference(**given), cases.adjusted_difference(**hotter)
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)


def test_weighed_by_what_was_mirrored_the_agreement_is_that_of_all_requests() -> None:
    generator = torch.Generator().manual_seed(0)
    count = 200_000
    rare = torch.rand(count, generator=generator) < 0.02
    agrees = torch.rand(count, generator=generator) < torch.where(rare, 0.3, 0.95)
    chance = torch.where(rare, 1.0, 0.05)
    kept = torch.rand(count, generator=generator) < chance
    action = torch.zeros(count, dtype=torch.int64)
    shadow = (~agrees).long()
    found = cases.mirrored_agreement(action[kept], shadow[kept], chance[kept])
    assert found == pytest.approx(float(agrees.float().mean()), abs=0.01)
    assert abs(float(agrees[kept].float().mean()) - found) > 0.1, "counted plainly it is far off"


# What the hunts say goes wrong does go wrong


def test_peeking_stops_190_harmless_releases_in_1_000() -> None:
    days = torch.randn(100_000, 100, generator=torch.Generator().manual_seed(0))
    stopped = (planted(cases.HUNT_FIRST_ALARM)(days, 1.0, 0.05, 12.0) > 0).float().mean().item()
    assert stopped == pytest.approx(0.19, abs=0.005)
    assert (cases.first_alarm(days, 1.0, 0.05, 12.0) > 0).float().mean().item() < 0.025
    bad = days[:2_000] - 0.8
    sooner, right = planted(cases.HUNT_FIRST_ALARM)(bad, 1.0, 0.05, 12.0), cases.first_alarm(bad, 1.0, 0.05, 12.0)
    assert (right > 0).all() and (sooner > 0).all() and (sooner <= right).all()


def test_the_first_alarm_is_where_the_packages_sequence_leaves_zero_out() -> None:
    given = cases.HUNT_FIRST_ALARM.draw(np.random.default_rng(3))
    rho = tuned_mixture(10 * given["sd"] ** 2, given["alpha"])
    sequence = sub_gaussian_sequence(
        given["differences"].double().numpy(), sigma=given["sd"], alpha=given["alpha"], tuned_at=10
    )
    below = sequence.high < 0.0
    wanted = np.where(below.any(-1), below.argmax(-1) + 1, 0)
    assert cases.first_alarm(given["differences"], given["sd"], given["alpha"], rho).tolist() == wanted.tolist()
    assert 0 < (wanted > 0).sum() < len(wanted)


def test_a_baseline_that_learns_from_the_canary_forgives_it() -> None:
    bug, canary = planted(cases.HUNT_DEAR_DAYS), torch.ones(60, dtype=torch.bool)
    worse = torch.full((60,), 44.0)
    assert bug(worse, canary, 40.0, 0.8, 0.05).tolist() == [True] * 3 + [False] * 57
    assert cases.dear_days(worse, canary, 40.0, 0.8, 0.05).all()
    worsening = 40.0 * 1.005 ** torch.arange(60)
    assert worsening[-1] > 1.33 * 40.0
    assert not bug(worsening, canary, 40.0, 0.8, 0.05).any()
    flagged = cases.dear_days(worsening, canary, 40.0, 0.8, 0.05)
    assert flagged.tolist() == [False] * 10 + [True] * 50
