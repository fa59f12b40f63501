"""A recorded collection gives what an ordinary one gives, number for number."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeGuard, cast

import pytest
import torch
from torch import Tensor

from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.environments import BatchedEnvironment, make
from rlcourse.environments.cartpole import CartPole
from rlcourse.environments.tensor_program import TensorProgram
from rlcourse.errors import ConfigError
from rlcourse.experience.captured import CapturedCollector, collect_in_place, rollout_collector
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.randomness import Seeds
from rlcourse.training.runs import task_spec
from rlcourse.vocabulary import Rollout, SamplingPolicy

TASKS = [("CartPole-v1", 0), ("CartPole-v1", 8), ("Pendulum-v1", 0), ("Acrobot-v1", 0)]
"""An environment, and the size of the policy's memory."""

needs_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def same(one: Rollout, two: Rollout) -> None:
    for each in fields(one):
        torch.testing.assert_close(getattr(one, each.name), getattr(two, each.name), msg=each.name)


def program(env_id: str, device: str, num_envs: int = 16) -> TensorProgram:
    env = make(env_id, num_envs, seeds=Seeds(3), device=device)
    assert isinstance(env, TensorProgram)
    return env


def learner_of(env: TensorProgram, memory: int) -> PPO:
    with Seeds(4).initialising("networks"):
        config = PPOConfig(hidden=(16,), memory=memory, epochs=2, batch_size=128)
        return PPO(task_spec(env), config, generator=Seeds(4).torch("minibatches", env.device))


def rollouts(
    env_id: str,
    memory: int,
    device: str,
    collect: Callable[[TensorProgram, RolloutCollector, PPO], Rollout],
    kind: type[RolloutCollector],
) -> list[Rollout]:
    """Four of them, with an update after each; CartPole's episodes end in all of them."""
    env = program(env_id, device)
    learner = learner_of(env, memory)
    made = kind(env, gamma=0.9, generator=Seeds(5).torch("exploration", device))
    found = []
    for _ in range(4):
        found.append(collect(env, made, learner))
        learner.update(found[-1])
    return found


def ordinarily(env: TensorProgram, collector: RolloutCollector, learner: PPO) -> Rollout:
    return collector.collect(learner.policy, 40)


@pytest.mark.parametrize(("env_id", "memory"), TASKS)
def test_written_back_where_it_was_read_from_a_rollout_is_the_same(env_id: str, memory: int) -> None:
    addresses: set[tuple[int, ...]] = set()

    def in_place(env: TensorProgram, collector: RolloutCollector, learner: PPO) -> Rollout:
        if not addresses and memory:
            collector.seen = (*collector.seen[:2], torch.zeros(16, memory))
        rollout = collect_in_place(collector, env, learner.policy, 40)
        addresses.add(tuple(tensor.data_ptr() for tensor in (*collector.seen, env.state, env.elapsed)))
        return rollout

    expected = rollouts(env_id, memory, "cpu", ordinarily, RolloutCollector)
    found = rollouts(env_id, memory, "cpu", in_place, RolloutCollector)
    assert len(addresses) == 1, "a recording reads the same memory every time"
    for one, two in zip(expected, found, strict=True):
        same(one, two)
    assert not torch.equal(found[0].obs, found[1].obs)


@pytest.mark.parametrize(("env_id", "memory"), [pytest.param(*task, marks=needs_a_gpu) for task in TASKS])
def test_on_a_gpu_a_recorded_rollout_is_the_same(env_id: str, memory: int) -> None:
    expected = rollouts(env_id, memory, "cuda", ordinarily, RolloutCollector)
    found = rollouts(env_id, memory, "cuda", ordinarily, CapturedCollector)
    for one, two in zip(expected, found, strict=True):
        same(one, two)
    assert not torch.equal(found[2].obs, found[3].obs), "a replay draws on"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_another_length_is_recorded_anew_and_goes_on() -> None:
    env = program("CartPole-v1", "cuda")
    learner = learner_of(env, 0)
    collector = rollout_collector(env, gamma=0.9, generator=Seeds(5).torch("exploration", "cuda"))
    assert isinstance(collector, CapturedCollector)
    lengths = [8, 8, 8, 5, 5, 8]
    made = [collector.collect(learner.policy, length) for length in lengths]
    assert [rollout.obs.shape[0] for rollout in made] == lengths
    for one, two in itertools.pairwise(made):
        torch.testing.assert_close(
            two.obs[0], torch.where(two.starts[0].unsqueeze(-1), two.obs[0], one.next_obs[-1]), msg="the next goes on"
        )


def test_what_cannot_be_recorded_is_refused_and_collected_in_the_ordinary_way() -> None:
    generator = Seeds(0).torch("exploration")
    for env_id in ("CartPole-v1", "rlcourse/ServerRoom-v0"):
        env = make(env_id, 2, seeds=Seeds(0))
        assert type(rollout_collector(env, gamma=0.9, generator=generator)) is RolloutCollector
        with pytest.raises(ConfigError, match="cannot be recorded"):
            CapturedCollector(env, gamma=0.9, generator=generator)  # type: ignore[arg-type]


class Pretending(CapturedCollector):
    """A captured collector on a CPU. A replay knows tensors as a graph knows addresses: it does not keep them."""

    recordings = 0

    @staticmethod
    def records(env: BatchedEnvironment) -> TypeGuard[TensorProgram]:
        return isinstance(env, TensorProgram)

    def _record(self, policy: SamplingPolicy, num_steps: int) -> Any:
        self.recordings += 1
        env, collector = self._program, self
        addresses = [weakref.ref(tensor) for tensor in (*self.seen, env.state, env.elapsed)]

        class Graph:
            def replay(self) -> None:
                tensors = [address() for address in addresses]
                assert None not in [tensor if tensor is None else 0 for tensor in tensors], "somebody has freed them"
                *collector.seen, env.state, env.elapsed = cast(list[Tensor], tensors)  # type: ignore[assignment]
                collector._result = collect_in_place(collector, env, policy, num_steps)

        return Graph(), cast(Rollout, object())


@pytest.mark.parametrize(("env_id", "memory"), TASKS)
def test_a_recording_goes_on_where_others_have_put_the_environment(env_id: str, memory: int) -> None:
    def disturbed(kind: type[RolloutCollector]) -> tuple[list[Rollout], RolloutCollector]:
        env = program(env_id, "cpu")
        learner = learner_of(env, memory)
        collector, found = kind(env, gamma=0.9, generator=Seeds(5).torch("exploration")), []
        for number in range(6):
            found.append(collector.collect(learner.policy, 20))
            if number == 2:
                env.reset()
            elif number == 3:
                RolloutCollector(env, gamma=0.9, generator=Seeds(6).torch("exploration")).collect(learner.policy, 4)
            elif number == 4:
                env.elapsed = env.elapsed + 1
            gc.collect()
        return found, collector

    (expected, _), (found, collector) = disturbed(RolloutCollector), disturbed(Pretending)
    assert isinstance(collector, Pretending) and collector.recordings == 1
    for one, two in zip(expected, found, strict=True):
        same(one, two)


class Windy(CartPole):
    """A wind that freshens at every step, each time as another tensor."""

    wind: Tensor | None = None

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.wind = torch.zeros(()) if self.wind is None else self.wind + 0.01
        return super()._advance(state + self.wind, action)


def test_what_changes_otherwise_than_in_place_is_never_recorded() -> None:
    env = Windy(4, generator=torch.Generator().manual_seed(0))
    collector = Pretending(env, gamma=0.9, generator=torch.Generator())
    policy = learner_of(env, 0).policy
    for _ in range(4):
        collector.collect(policy, 3)
    assert collector.recordings == 0
