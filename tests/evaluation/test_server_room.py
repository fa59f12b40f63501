"""What the thermostat and chance do to the server room, and that the report says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rlcourse.environments.server_room import NUM_LEVELS, Fault, FaultKind, ServerRoom, thermostat
from rlcourse.errors import ConfigError
from rlcourse.evaluation.returns import episode_returns
from rlcourse.evaluation.server_room import OperatingReport, operate
from rlcourse.networks import CategoricalPolicy, ScriptedPolicy, UniformPolicy
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import Policy


def days(
    policy: Policy, *faults: Fault, count: int = 100, greedy: bool = True, gentle: bool = False
) -> OperatingReport:
    return operate(policy, num_episodes=count, seeds=Seeds(0), faults=faults, greedy=greedy, gentle=gentle)


def test_the_thermostat_keeps_the_room_safe_and_chance_does_not() -> None:
    safe, chance = days(thermostat()), days(UniformPolicy(NUM_LEVELS), greedy=False)
    assert safe.total_violations == 0
    assert safe.degree_minutes.mean() < 20
    assert 40 < safe.mean_cost < 44
    assert chance.total_violations > 100
    assert chance.mean_cost > 1.5 * safe.mean_cost


def test_the_thermostat_is_no_straw_man() -> None:
    """Neither other thresholds nor other distances between them are cheaper by more than half a percent."""
    usual = days(thermostat(), count=300).mean_cost
    for first in (25.0, 25.25, 25.75, 26.0):
        for stage in (0.2, 0.3, 0.5, 0.75):
            assert days(thermostat(first_stage_c=first, stage_k=stage), count=300).mean_cost > 0.995 * usual


def test_the_report_agrees_with_the_returns() -> None:
    report = days(thermostat(), count=20)
    returns = episode_returns(thermostat(), ServerRoom.env_id, num_episodes=20, greedy=True, seeds=Seeds(0))
    np.testing.assert_allclose(report.cost, -returns, rtol=1e-4)
    np.testing.assert_allclose(report.energy_cost + 0.05 * report.degree_minutes, report.cost, rtol=1e-5)
    assert report.cost.dtype == np.float64 and report.violations.dtype == np.int64
    assert report.cost.shape == report.energy_kwh.shape == report.violations.shape == (20,)
    assert report.mean_cost == pytest.approx(report.cost.mean())


def test_the_seeds_decide_and_samples_have_a_stream_of_their_own() -> None:
    policy = UniformPolicy(NUM_LEVELS)
    first, again = (days(policy, count=5, greedy=False).cost for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, operate(policy, num_episodes=5, seeds=Seeds(1), greedy=False).cost)
    assert days(policy, count=5).energy_kwh.tolist() == [0.0] * 5  # greedy takes level 0


@pytest.mark.parametrize(
    ("fault", "times", "violations"),
    [
        (Fault("growing_load", 12.0), (2.0, 2.4), False),
        (Fault("weak_chiller", 0.4), (3.0, 4.0), True),
        (Fault("sensor_drift", -7.0), (8.0, 10.0), True),
        (Fault("new_tariff", 12.0), (0.7, 0.8), False),  # midday is cheap now, when a thermostat cools most
        (Fault("heat_wave", 8.0), (1.4, 1.7), False),
    ],
)
def test_what_each_fault_does_under_the_thermostat(fault: Fault, times: tuple[float, float], violations: bool) -> None:
    sound, failing = days(thermostat()), days(thermostat(), fault)
    assert times[0] < failing.mean_cost / sound.mean_cost < times[1]
    assert (failing.total_violations > 0) == violations


def test_a_fault_that_comes_later_does_less() -> None:
    at_once, late, never = (
        days(thermostat(), Fault("heat_wave", 8.0, start_step=start), count=50).mean_cost for start in (0, 72, 144)
    )
    assert at_once > late > never == days(thermostat(), count=50).mean_cost


def test_behind_the_relay_everybody_may_act() -> None:
    def logits(obs: Tensor) -> Tensor:
        return -(torch.arange(NUM_LEVELS) - thermostat().rule(obs).unsqueeze(-1)).abs().float()

    masked, held_back = (
        days(CategoricalPolicy(logits), count=50, gentle=True),
        days(thermostat(), count=50, gentle=True),
    )
    assert masked.total_violations == held_back.total_violations == 0
    free = days(thermostat(), count=50)
    assert 0.0 < abs(held_back.mean_cost - free.mean_cost) < 1.0


def test_no_days_say_nothing() -> None:
    with pytest.raises(ConfigError, match="0 episodes"):
        operate(thermostat(), num_episodes=0, seeds=Seeds(0))


def test_a_policy_is_shown_what_the_sensor_says_from_the_first_moment() -> None:
    firsts: list[Tensor] = []

    def rule(obs: Tensor) -> Tensor:
        firsts.append(obs[0, 0])
        return torch.full((len(obs),), 2)

    kind: FaultKind = "sensor_drift"
    days(ScriptedPolicy(rule, NUM_LEVELS), count=1)
    days(ScriptedPolicy(rule, NUM_LEVELS), Fault(kind, -5.0), count=1)
    assert float(firsts[0] - firsts[144]) == pytest.approx(5.0, abs=1e-4)
