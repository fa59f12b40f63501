"""Collection never waits for the device: nothing in it reads a tensor's value on the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.environments import ServerRoom, make
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.randomness import Seeds
from rlcourse.training.runs import task_spec

WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"}
"""Operations whose result the host needs before it can go on."""


class NoWaiting(TorchDispatchMode):
    """Raises where a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for indices in args
            if isinstance(indices, list | tuple)
            for index in indices
        )  # how many are true is not known before they are counted
        assert name not in WAITING and not by_mask, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_watch_notices_what_it_is_there_for() -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        torch.ones(3).sum().item()
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        torch.arange(3)[torch.tensor([True, False, True])]


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "rlcourse/ServerRoom-v0"]
)
def test_collecting_and_learning_queue_their_work_and_go_on(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The room looks at the levels it is given, and the collector at its result, where looking is free: on a CPU alone.
    monkeypatch.setattr(ServerRoom, "_checked", lambda room, action: action)
    monkeypatch.setattr(RolloutCollector, "_checked", lambda collector, rollout: rollout)
    seeds = Seeds(0)
    env = make(env_id, 32, seeds=seeds)
    with seeds.initialising("networks"):
        learner = PPO(task_spec(env), PPOConfig(hidden=(8,), epochs=1, batch_size=64), generator=seeds.torch("shuffle"))
    collector = RolloutCollector(env, gamma=0.99, generator=seeds.torch("exploration"))
    with NoWaiting():
        for _ in range(3):
            learner.anneal(0.5)
            learner.update(collector.collect(learner.policy, 8))
