"""A recorded update leaves the learner where an ordinary one leaves it."""

from __future__ import annotations

import pytest
import torch

from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.environments import make
from rlcourse.errors import ConfigError
from rlcourse.experience.captured import rollout_collector
from rlcourse.randomness import Seeds
from rlcourse.training.captured import CapturedLearner, quickest
from rlcourse.training.on_policy import OnPolicyConfig, train_on_policy
from rlcourse.training.runs import task_spec
from rlcourse.vocabulary import OnPolicyLearner, Rollout


def learner_on(device: str, env_id: str, config: PPOConfig) -> PPO:
    env = make(env_id, 1, seeds=Seeds(0), device=device)
    with Seeds(4).initialising("networks"):
        return PPO(task_spec(env), config, generator=Seeds(4).torch("minibatches", device))


def rollouts_on(device: str, env_id: str, learner: OnPolicyLearner, lengths: list[int]) -> list[Rollout]:
    env = make(env_id, 64, seeds=Seeds(3), device=device)
    collector = rollout_collector(env, gamma=0.9, generator=Seeds(5).torch("exploration", device))
    return [collector.collect(learner.policy, length) for length in lengths]


@pytest.mark.parametrize(("env_id", "memory"), [("CartPole-v1", 0), ("CartPole-v1", 8), ("Pendulum-v1", 0)])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_recorded_updates_lead_to_the_same_weights(env_id: str, memory: int) -> None:
    config = PPOConfig(hidden=(16,), memory=memory, epochs=2, batch_size=300, entropy_weight=0.01)
    plain, recorded = (learner_on("cuda", env_id, config) for _ in range(2))
    captured = quickest(recorded, torch.device("cuda"))
    assert isinstance(captured, CapturedLearner)
    for count, rollout in enumerate(rollouts_on("cuda", env_id, plain, [20, 20, 20, 20, 11, 11, 11])):
        kept = rollout.obs.clone()
        for each in (plain, captured):
            each.anneal(1.0 - 0.1 * count)  # seen by the recording, too
        expected, found = plain.update(rollout), captured.update(rollout)
        assert expected.keys() == found.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4, msg=name)
        assert torch.equal(rollout.obs, kept)
    for one, two in zip(plain.network.parameters(), recorded.network.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
    state = captured.state_dict()
    captured.load_state_dict(state)
    more = rollouts_on("cuda", env_id, plain, [20, 20, 20])
    before = [weight.clone() for weight in recorded.network.parameters()]
    for rollout in more:
        captured.update(rollout)
    assert not all(map(torch.equal, before, recorded.network.parameters())), "it goes on learning"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_cartpole_is_learned_from_recordings() -> None:
    env = make("CartPole-v1", 256, seeds=Seeds(0), device="cuda")
    with Seeds(0).initialising("networks"):
        learner = PPO(task_spec(env), PPOConfig(epochs=10, batch_size=2_048), generator=Seeds(0).torch("m", "cuda"))
    loop = OnPolicyConfig(num_steps=60 * 8_192, num_envs=256, eval_every=8_192)
    run = train_on_policy(learner, env, loop, seeds=Seeds(0), stop=lambda step, earned: earned >= 475.0)
    assert run.evaluations[-1].greedy_return >= 475.0


def test_what_cannot_be_recorded_is_refused_and_left_as_it_is() -> None:
    learner = learner_on("cpu", "CartPole-v1", PPOConfig(hidden=(8,)))
    assert quickest(learner, torch.device("cpu")) is learner
    compiled = learner_on("cpu", "CartPole-v1", PPOConfig(hidden=(8,), compiled=True))
    assert quickest(compiled, torch.device("cuda")) is compiled
    with pytest.raises(ConfigError, match="cannot be recorded"):
        CapturedLearner(compiled)
    with pytest.raises(ConfigError, match="on a CPU"):
        CapturedLearner(learner).update(rollouts_on("cpu", "CartPole-v1", learner, [4])[0])


def test_an_optimiser_saved_on_a_gpu_goes_on_here() -> None:
    learner = learner_on("cpu", "CartPole-v1", PPOConfig(hidden=(8,)))
    (rollout,) = rollouts_on("cpu", "CartPole-v1", learner, [4])
    learner.update(rollout)
    state = learner.state_dict()
    for group in state["optimiser"]["param_groups"]:
        group["capturable"] = True  # as it is written there
    learner.load_state_dict(state)
    assert not any(group["capturable"] for group in learner.descent.optimiser.param_groups)
    learner.update(rollout)
