"""stable-baselines3 beside ours: its policies act as they do there, its training is judged as ours is."""

from __future__ import annotations

import importlib
import random
import sys
import time
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlcourse.errors import (
    ConfigError,
    EnvironmentFailedError,
    MissingExtraError,
    TrainingDivergedError,
    UnknownAlgorithmError,
    UnknownEnvironmentError,
)
from rlcourse.randomness import Seeds
from rlcourse.training import runs, sb3
from rlcourse.training.sb3 import Sb3Policy, Sb3Settings, policy_from_sb3, train_sb3
from rlcourse.vocabulary import DiscretePolicy, ListTracker

OBS = {"CartPole-v1": 4, "Pendulum-v1": 3}
SHORT = Sb3Settings(
    num_steps=192, num_envs=4, eval_every=64, eval_episodes=3, arguments={"n_steps": 16, "batch_size": 32}
)


def observations(env_id: str) -> torch.Tensor:
    return torch.randn(7, OBS[env_id], generator=Seeds(0).torch("observations"))


@pytest.mark.parametrize(
    ("kind", "env_id"), [(PPO, "CartPole-v1"), (DQN, "CartPole-v1"), (PPO, "Pendulum-v1"), (SAC, "Pendulum-v1")]
)
def test_a_policy_does_here_what_it_does_there(kind: Any, env_id: str) -> None:
    model = kind("MlpPolicy", env_id, seed=0, device="cpu")
    policy, obs = policy_from_sb3(model), observations(env_id)
    expected, _ = model.predict(obs.numpy(), deterministic=True)
    assert np.allclose(policy.act(obs, greedy=True).numpy(), expected)
    assert np.allclose(policy_from_sb3(model.policy).act(obs, greedy=True).numpy(), expected)
    before = torch.random.get_rng_state()
    draws = [policy.act(obs, greedy=False, generator=Seeds(seed).torch("actions")) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    if kind is not DQN:  # its exploration is no part of its policy
        assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.random.get_rng_state(), before), "the global stream is nobody's"
    assert isinstance(policy, DiscretePolicy) == (env_id == "CartPole-v1")


def test_probabilities_are_those_of_its_distribution() -> None:
    obs = observations("CartPole-v1")
    ppo = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    policy = policy_from_sb3(ppo)
    assert isinstance(policy, DiscretePolicy)
    distribution = ppo.policy.get_distribution(obs).distribution
    assert torch.allclose(policy.probabilities(obs), distribution.probs)  # type: ignore[union-attr]
    dqn = DQN("MlpPolicy", "CartPole-v1", seed=0, device="cpu", buffer_size=10)
    policy = policy_from_sb3(dqn)
    assert isinstance(policy, DiscretePolicy)
    best = torch.from_numpy(dqn.predict(obs.numpy(), deterministic=True)[0])
    assert torch.equal(policy.probabilities(obs), torch.nn.functional.one_hot(best, 2).float())


@pytest.mark.parametrize("env_id", list(OBS))
def test_running_normalisation_goes_with_the_policy(env_id: str) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make(env_id)] * 2))
    model = PPO("MlpPolicy", env, n_steps=64, seed=0, device="cpu")
    policy, obs = policy_from_sb3(model), observations(env_id)
    model.learn(256)  # the policy was made before: it follows the running numbers
    expected, _ = model.predict(env.normalize_obs(obs.numpy()), deterministic=True)
    plain, _ = model.predict(obs.numpy(), deterministic=True)
    assert np.allclose(policy.act(obs, greedy=True).numpy(), expected, atol=1e-5)
    assert env_id == "CartPole-v1" or not np.allclose(plain, expected, atol=1e-5)


def test_continuous_actions_stay_within_their_bounds() -> None:
    policy = policy_from_sb3(PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"log_std_init": 3.0}, device="cpu"))
    assert isinstance(policy, Sb3Policy)
    drawn = policy.act(observations("Pendulum-v1"), greedy=False)
    assert drawn.shape == (7, 1) and drawn.abs().max() <= 2.0


def test_training_is_looked_at_after_updates_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> float:
        time.sleep(0.1)
        return runs.greedy_return(*arguments)

    monkeypatch.setattr(sb3, "greedy_return", slow)
    tracker = ListTracker()
    before = random.getstate(), str(np.random.get_state()), torch.random.get_rng_state()  # noqa: NPY002
    started = time.perf_counter()
    run, _ = train_sb3("sb3-ppo", "CartPole-v1", seeds=Seeds(0), settings=SHORT, tracker=tracker)
    spent = time.perf_counter() - started
    assert [e.step for e in run.evaluations] == [64, 128, 192]
    assert 0 < run.train_seconds < spent - 3 * 0.1, "evaluations are not counted"
    assert all(e.cpu_seconds > 0 for e in run.evaluations)
    assert [step for step, _ in tracker.rows] == [64, 128, 192]
    assert random.getstate() == before[0] and str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[2])
    again, _ = train_sb3("sb3-ppo", "CartPole-v1", seeds=Seeds(0), settings=SHORT)
    other, _ = train_sb3("sb3-ppo", "CartPole-v1", seeds=Seeds(1), settings=SHORT)
    returns = [[e.greedy_return for e in one.evaluations] for one in (run, again, other)]
    assert returns[0] == returns[1] != returns[2]


def test_the_policy_that_comes_back_is_the_one_that_was_judged() -> None:
    run, policy = train_sb3("sb3-ppo", "CartPole-v1", seeds=Seeds(3), settings=SHORT)
    assert runs.greedy_return(policy, "CartPole-v1", SHORT.eval_episodes, Seeds(3)) == run.last


def test_stopping_ends_the_run_at_that_evaluation() -> None:
    run, _ = train_sb3("sb3-ppo", "CartPole-v1", seeds=Seeds(0), settings=SHORT, stop=lambda step, _: step >= 128)
    assert [e.step for e in run.evaluations] == [64, 128]


@pytest.mark.parametrize(("algorithm", "env_id"), [("sb3-dqn", "CartPole-v1"), ("sb3-sac", "Pendulum-v1")])
def test_the_off_policy_ones_run_with_their_tuned_settings(algorithm: str, env_id: str) -> None:
    run, _ = train_sb3(algorithm, env_id, seeds=Seeds(0), num_steps=110, eval_every=1000, eval_episodes=2)
    assert len(run.evaluations) == 1 and run.steps >= 110


def test_tuned_schedules_fall_to_zero() -> None:
    settings = sb3.sb3_settings("sb3-ppo", "CartPole-v1")
    assert (
        settings.linear == ("learning_rate", "clip_range") and settings.num_envs * settings.arguments["n_steps"] == 256
    )
    env = sb3._environment("CartPole-v1", settings)
    model: Any = sb3._model("sb3-ppo", env, settings, Seeds(0), "cpu")
    assert [model.lr_schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([1e-3, 5e-4, 0.0])
    assert [model.clip_range(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([0.2, 0.1, 0.0])
    for algorithm, env_id in sb3.TUNED:  # every name is one that the constructor knows
        chosen = sb3.TUNED[algorithm, env_id]
        sb3._model(algorithm, sb3._environment(env_id, chosen), chosen, Seeds(0), "cpu")


class Failing(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, **words: str) -> None:
        self.how, self.steps = words["how"], 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        late = self.steps > 20
        if late and self.how == "raises":
            raise ZeroDivisionError("the pump has no pressure")
        obs = np.full(2, np.nan if late and self.how == "observation" else 0.0, dtype=np.float32)
        return obs, float("inf") if late and self.how == "reward" else 1.0, self.steps % 5 == 0, False, {}


@pytest.mark.parametrize("how", ["raises", "observation", "reward"])
def test_an_environment_that_fails_is_named(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env_id = f"test/Failing-{how}-v0"
    monkeypatch.setitem(gym.registry, env_id, gym.envs.registration.EnvSpec(env_id, Failing, kwargs={"how": how}))
    with pytest.raises(EnvironmentFailedError, match="pump has no pressure" if how == "raises" else "NaN or infinity"):
        train_sb3("sb3-ppo", env_id, seeds=Seeds(0), settings=replace(SHORT, eval_every=10_000))


def test_weights_that_are_no_numbers_are_refused() -> None:
    wild = replace(SHORT, arguments={**SHORT.arguments, "learning_rate": 1e30, "max_grad_norm": 1e30})
    with pytest.raises(TrainingDivergedError, match="PPO"):
        train_sb3("sb3-ppo", "CartPole-v1", seeds=Seeds(0), settings=wild)


@pytest.mark.parametrize(
    ("algorithm", "env_id", "kind", "says"),
    [
        ("sb3-sac", "CartPole-v1", ConfigError, "sb3-ppo or sb3-dqn"),
        ("sb3-dqn", "Pendulum-v1", ConfigError, "sb3-ppo or sb3-sac"),
        ("sb3-a2c", "CartPole-v1", UnknownAlgorithmError, "sb3-ppo, sb3-dqn, sb3-sac"),
        ("sb3-ppo", "CartPole-v9", UnknownEnvironmentError, "CartPole-v1"),
    ],
)
def test_wrong_names_and_actions(algorithm: str, env_id: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        train_sb3(algorithm, env_id, seeds=Seeds(0))


def test_other_models_are_refused() -> None:
    class Odd:
        observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
        action_space = gym.spaces.MultiBinary(3)

    with pytest.raises(ConfigError, match="MultiBinary"):
        policy_from_sb3(Odd())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_envs is 0"):
        Sb3Settings(num_envs=0)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "rlcourse.training.sb3")
    with pytest.raises(MissingExtraError) as caught:
        importlib.import_module("rlcourse.training.sb3")
    assert caught.value.mend == "pip install 'rlcourse[sb3]'"
