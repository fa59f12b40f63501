"""A compiled collection is the same collection from the same seeds."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.environments import make
from rlcourse.environments.cartpole import CartPole
from rlcourse.environments.tensor_program import TensorProgram
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.experience.captured import rollout_collector
from rlcourse.experience.compiled import CompiledCollector, RepeatablePolicy
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.networks import CategoricalPolicy
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


def test_a_compiled_rollout_is_looked_at_once() -> None:
    """The look is at the result, outside of the programs: here these are run as they are written."""
    learner, collector = world("CartPole-v1", CompiledCollector)
    assert isinstance(collector, CompiledCollector)
    collector.collect(learner.policy, 3)
    collector._some, collector._whole = collector._walk, collector._gather  # type: ignore[assignment]
    collector.collect(learner.policy, 3)
    with torch.no_grad():
        for weights in learner.policy.logits.parameters():  # type: ignore[attr-defined]
            weights.fill_(torch.nan)
    with pytest.raises(TrainingDivergedError, match="stopped being finite"):
        collector.collect(learner.policy, 3)


class LeftOnly(CartPole):
    """Of the two pushes one is allowed."""

    def action_mask(self) -> Tensor:
        return torch.tensor([True, False]).expand(self.num_envs, 2)


def test_what_rules_out_actions_is_not_compiled() -> None:
    env, draw = LeftOnly(4, generator=torch.Generator()), Seeds(0).torch("exploration")
    with pytest.raises(ConfigError, match="rules out actions"):
        CompiledCollector(env, gamma=0.9, generator=draw)
    collector = rollout_collector(env, gamma=0.9, generator=draw, compiled=True)
    rollout = collector.collect(CategoricalPolicy(lambda obs: obs[..., :2] * 0.0), 20)
    assert not rollout.action.any() and rollout.action_mask is not None


class Breaking(CategoricalPolicy):
    """Breaks off where it is told to."""

    at = -1

    def act_by(self, obs: Tensor, noise: Tensor) -> Tensor:
        self.at -= 1
        if self.at == 0:
            raise RuntimeError("broken off")
        return super().act_by(obs, noise)


def test_a_program_that_breaks_off_leaves_the_environment_where_it_was() -> None:
    env = CartPole(4, generator=torch.Generator().manual_seed(0))
    collector = CompiledCollector(env, gamma=0.9, generator=Seeds(5).torch("exploration"))
    policy = Breaking(lambda obs: obs[..., :2])
    collector.collect(policy, 3)
    before, elapsed = env.state.clone(), env.elapsed.clone()
    policy.at = 2  # the second step of the trace
    with pytest.raises(RuntimeError, match="broken off"):
        collector.collect(policy, 3)
    assert type(env.state) is Tensor
    assert torch.equal(env.state, before) and torch.equal(env.elapsed, elapsed)
    assert env.step(torch.zeros(4, dtype=torch.int64)).obs.isfinite().all()


class Windy(CartPole):
    """A wind that freshens at every step, each time as another tensor."""

    def __init__(self, num_envs: int, *, generator: torch.Generator) -> None:
        super().__init__(num_envs, generator=generator)
        self.wind = torch.zeros(())

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.wind = self.wind + 0.01
        return super()._advance(state + self.wind, action)


class Counting(CartPole):
    """Counts its steps in a plain number."""

    count = 0

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.count = self.count + 1
        state, reward, failed = super()._advance(state, action)
        return state, reward * self.count, failed


@pytest.mark.parametrize("kind", [Windy, Counting])
def test_what_changes_otherwise_than_in_place_is_collected_as_ever(kind: type[Windy] | type[Counting]) -> None:
    policy = CategoricalPolicy(lambda obs: obs[..., :2])
    plain, careful = (
        collector(
            kind(4, generator=torch.Generator().manual_seed(0)), gamma=0.9, generator=torch.Generator().manual_seed(1)
        )
        for collector in (RolloutCollector, CompiledCollector)
    )
    for _ in range(3):
        expected, found = plain.collect(policy, 5), careful.collect(policy, 5)
        assert torch.equal(found.next_obs, expected.next_obs) and torch.equal(found.reward, expected.reward)


class Late(CartPole):
    """Makes a constant when it first needs one."""

    ones: Tensor | None = None

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.ones is None:
            self.ones = torch.ones(self.num_envs)
        state, _, failed = super()._advance(state, action)
        return state, self.ones, failed


def test_what_is_made_once_only_takes_one_more_ordinary_rollout() -> None:
    env = Late(4, generator=torch.Generator().manual_seed(0))
    collector = CompiledCollector(env, gamma=0.9, generator=torch.Generator().manual_seed(1))
    policy, steady = CategoricalPolicy(lambda obs: obs[..., :2]), list[bool]()
    for _ in range(2):
        collector.collect(policy, 3)
        steady.append(collector._steady)
    assert steady == [False, True]
