"""PPO learns to buy cold when it is cheap: less money than the thermostat on the same days, and no more violations."""

from __future__ import annotations

import pytest

from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.environments import ServerRoom, make
from rlcourse.environments.server_room import thermostat
from rlcourse.evaluation.server_room import operate
from rlcourse.randomness import Seeds
from rlcourse.training.on_policy import OnPolicyConfig, train_on_policy
from rlcourse.training.runs import task_spec

pytestmark = pytest.mark.slow

LEARNER = PPOConfig(epochs=10, batch_size=512, lambda_=0.95)
LOOP = OnPolicyConfig(num_steps=300_000, num_envs=64, rollout_steps=32, gamma=0.98, eval_every=300_000)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_is_cheaper_than_the_thermostat_and_as_safe(seed: int) -> None:
    seeds = Seeds(seed)
    env = make(ServerRoom.env_id, LOOP.num_envs, seeds=seeds)
    with seeds.initialising("networks"):
        learner = PPO(task_spec(env), LEARNER, generator=seeds.torch("minibatches"))
    train_on_policy(learner, env, LOOP, seeds=seeds)
    ours, theirs = (
        operate(policy, num_episodes=100, seeds=seeds.child("judging")) for policy in (learner.policy, thermostat())
    )
    saved = theirs.cost - ours.cost  # EUR, day by day: the same weather and load
    assert ours.total_violations <= theirs.total_violations
    assert saved.mean() > 0.08 * theirs.mean_cost
    assert saved.mean() > 4 * saved.std(ddof=1) / len(saved) ** 0.5
