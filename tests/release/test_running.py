from __future__ import annotations

import numpy as np
import pytest
import torch

from rlcourse.environments.server_room import thermostat
from rlcourse.errors import ConfigError
from rlcourse.evaluation.server_room import operate
from rlcourse.randomness import Seeds
from rlcourse.release.matching import ControlVariates, Variation
from rlcourse.release.planning import plan_release
from rlcourse.release.running import RunningRooms, check_running, log_of, simulate_running
from rlcourse.release.simulate import ROLLED_BACK, sequential_rule
from rlcourse.release.study import goals_of

COLD, USUAL = thermostat(first_stage_c=22.5), thermostat(first_stage_c=24.5)


def test_each_room_is_run_by_its_own_version_and_meets_the_same_weather() -> None:
    arm = torch.arange(400) % 2 == 0
    mixed, usual, cold = (
        RunningRooms(400, USUAL, COLD, Seeds(3)).day(which) for which in (arm, arm & ~arm, arm | ~arm)
    )
    assert np.array_equal(mixed.conditions, usual.conditions)
    assert np.where(arm.numpy(), cold.returns, usual.returns) == pytest.approx(mixed.returns, abs=1e-3)
    assert cold.returns.mean() < usual.returns.mean() - 2.0


def test_a_day_costs_about_what_an_episode_does_and_weather_explains_it() -> None:
    log = log_of(USUAL, 400, 4, Seeds(4))
    assert log.returns.mean() == pytest.approx(-operate(USUAL, num_episodes=2_000, seeds=Seeds(4)).mean_cost, rel=0.06)
    assert ControlVariates.fit(log.conditions, log.returns).explained > 0.9
    with pytest.raises(ConfigError):
        log_of(USUAL, 400, 0, Seeds(4))


def test_a_cold_release_goes_back_and_the_incumbent_itself_does_not() -> None:
    log = log_of(USUAL, 300, 4, Seeds(5))
    variates = ControlVariates.fit(log.conditions, log.returns)
    plan = plan_release(100, goals_of(-float(log.returns.mean())), Variation(variates.sd, 2 * variates.sd))
    for policy, share in ((COLD, 1.0), (USUAL, 0.0)):
        found = simulate_running(sequential_rule, plan, USUAL, policy, variates=variates, releases=8, seeds=Seeds(6))
        assert (found.outcome == ROLLED_BACK).mean() == share


@pytest.mark.slow
def test_the_check_as_the_benchmark_runs_it() -> None:
    study = check_running(20, 100, Seeds(0), rooms=300, days=4)
    rows = {row.candidate: row for row in study.rows}
    assert study.differences["10 % worse, too cold"] == pytest.approx(0.1 * study.log_mean, rel=0.1)
    assert rows["10 % worse, too cold"].rolled_back.estimate == 1.0
    assert rows["equal, the same rule"].rolled_back.estimate <= 0.1
    assert rows["5 % better"].promoted.estimate >= 0.8
