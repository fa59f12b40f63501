"""A compiled collection is the same collection from the same seeds."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.environments import make
from rlcourse.environments.tensor_program import TensorProgram
from rlcourse.errors import ConfigError
from rlcourse.experience.captured import rollout_collector
from rlcourse.experience.compiled import CompiledCollector, RepeatablePolicy
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.randomness import Seeds
from rlcourse.training.runs import task_spec
from rlcourse.vocabulary import Rollout

TASKS = ["CartPole-v1", "Pendulum-v1"]  # discrete and continuous actions


def world(env_id: str, kind: type[CompiledCollector] | type[RolloutCollector]) -> tuple[PPO, RolloutCollector]:
    env = make(env_id, 4, seeds=Seeds(3))
    assert isinstance(env, TensorProgram)
    env.max_episode_steps = 7  # so that episodes end in every way
    with Seeds(4).initialising("networks"):
        learner = PPO(task_spec(env), PPOConfig(hidden=(8,), epochs=1))
    return learner, kind(env, gamma=0.9, generator=Seeds(5).torch("exploration"))


@pytest.mark.parametrize("env_id", TASKS)
def test_noise_drawn_beforehand_is_what_acting_would_have_drawn(env_id: str) -> None:
    learner, collector = world(env_id, RolloutCollector)
    policy, actions = learner.policy, collector.env.actions
    assert isinstance(policy, RepeatablePolicy)
    before, now = (torch.Generator().manual_seed(9) for _ in range(2))
    noise = policy.noise(actions, 5, 4, before)
    for each in noise:
        obs = torch.randn(4, collector.env.obs_size)
        torch.testing.assert_close(policy.act_by(obs, each), policy.act(obs, greedy=False, generator=now))
    assert torch.equal(before.get_state(), now.get_state())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("env_id", TASKS)
def test_rollouts_are_those_of_an_ordinary_collector_while_the_policy_learns(env_id: str) -> None:
    (learner, plain), (twin, compiled) = world(env_id, RolloutCollector), world(env_id, CompiledCollector)
    for _ in range(3):  # the first in the ordinary way; 11 steps are one program of eight and one of three
        expected, found = plain.collect(learner.policy, 11), compiled.collect(twin.policy, 11)
        for each in fields(Rollout):
            torch.testing.assert_close(
                getattr(found, each.name), getattr(expected, each.name), rtol=1e-4, atol=1e-5, msg=each.name
            )
        learner.update(expected)
        twin.update(found)


def test_what_cannot_be_compiled_is_refused_or_collected_as_ever() -> None:
    draw = Seeds(0).torch("exploration")
    room = make("rlcourse/ServerRoom-v0", 2, seeds=Seeds(0))
    assert type(rollout_collector(room, gamma=0.9, generator=draw, compiled=True)) is RolloutCollector
    with pytest.raises(ConfigError, match="cannot be compiled"):
        CompiledCollector(room, gamma=0.9, generator=draw)  # type: ignore[arg-type]
    cart = make("CartPole-v1", 2, seeds=Seeds(0))
    collector = rollout_collector(cart, gamma=0.9, generator=draw, compiled=True)
    assert type(collector) is CompiledCollector
    remembering = PPO(task_spec(cart), PPOConfig(memory=4))
    with pytest.raises(ConfigError, match="without a memory"):
        collector.collect(remembering.policy, 4)
