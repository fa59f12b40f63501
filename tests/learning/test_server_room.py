"""PPO learns to buy cold when it is cheap: less money than the thermostat on the same days, and no more violations."""

from __future__ import annotations

import pytest

from rlcourse.environments import ServerRoom
from rlcourse.environments.server_room import thermostat
from rlcourse.evaluation.server_room import operate
from rlcourse.randomness import Seeds
from rlcourse.training.online import train_online

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(5))
def test_ppo_is_cheaper_than_the_thermostat_and_as_safe(seed: int) -> None:
    seeds = Seeds(seed)
    _, policy = train_online("ppo", ServerRoom.env_id, seeds=seeds)
    ours, theirs = (operate(one, num_episodes=100, seeds=seeds.child("judging")) for one in (policy, thermostat()))
    saved = theirs.cost - ours.cost  # EUR, day by day: the same weather and load
    assert ours.total_violations <= theirs.total_violations
    assert saved.mean() > 0.08 * theirs.mean_cost
    assert saved.mean() > 4 * saved.std(ddof=1) / len(saved) ** 0.5
