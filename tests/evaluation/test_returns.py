from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from rlcourse.environments import BatchedEnvironment, Step, make
from rlcourse.errors import ConfigError, UnknownEnvironmentError
from rlcourse.evaluation import returns as module
from rlcourse.evaluation.returns import episode_returns
from rlcourse.networks import ScriptedPolicy, UniformPolicy
from rlcourse.randomness import Seeds


def always_left(obs: Tensor) -> Tensor:
    return torch.zeros(len(obs), dtype=torch.int64)


def lean_with_the_pole(obs: Tensor) -> Tensor:
    """Push to where the pole leans and turns: a fair controller without any learning."""
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0).long()


def lean_alone(obs: Tensor) -> Tensor:
    return (obs[:, 2] > 0).long()


class Countdown:
    """Copy ``i`` pays ``i + 1`` a step and lives ``i + 1`` steps: its return is ``(i + 1) ** 2``."""

    env_id, obs_size, num_actions, device = "Countdown-v0", 1, 2, torch.device("cpu")

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.life = torch.arange(1, num_envs + 1)
        self.elapsed = torch.zeros(num_envs, dtype=torch.int64)

    def reset(self) -> Tensor:
        return torch.zeros(self.num_envs, 1)

    def step(self, action: Tensor) -> Step:
        self.elapsed += 1
        ended = self.elapsed % self.life == 0  # and begins another episode, which must not count
        even, obs = self.life % 2 == 0, torch.zeros(self.num_envs, 1)
        return Step(obs, self.life.float(), ended & even, ended & ~even, obs)


def test_one_episode_of_each_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def instead(env_id: str, num_envs: int, **_: object) -> BatchedEnvironment:
        return Countdown(num_envs)

    monkeypatch.setattr(module, "make", instead)
    found = episode_returns(UniformPolicy(2), "any", num_episodes=6, greedy=False, seeds=Seeds(0))
    assert found.tolist() == [1.0, 4.0, 9.0, 16.0, 25.0, 36.0]
    assert found.dtype == np.float64


def test_a_policy_that_always_pushes_left_falls_within_ten_steps() -> None:
    found = episode_returns(
        ScriptedPolicy(always_left, 2), "CartPole-v1", num_episodes=300, greedy=True, seeds=Seeds(0)
    )
    assert found.shape == (300,)
    assert found.min() >= 8 and found.max() <= 11
    assert found.mean() == pytest.approx(9.35, abs=0.25)  # known from Gymnasium's own, see below


def test_a_fair_controller_lives_to_the_time_limit() -> None:
    found = episode_returns(
        ScriptedPolicy(lean_with_the_pole, 2), "CartPole-v1", num_episodes=50, greedy=True, seeds=Seeds(0)
    )
    assert found.mean() > 400
    assert found.max() == 500


@pytest.mark.parametrize("rule", [always_left, lean_alone])
def test_our_environment_and_gymnasiums_pay_the_same(rule: object) -> None:
    """The same policy, one Gymnasium environment in a plain loop: the means agree within Monte Carlo error."""
    policy = ScriptedPolicy(rule, 2)  # type: ignore[arg-type]
    ours = episode_returns(policy, "CartPole-v1", num_episodes=400, greedy=True, seeds=Seeds(0))
    env, theirs = gymnasium.make("CartPole-v1"), []
    for seed in range(100):
        obs, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            action = int(policy.act(torch.from_numpy(obs)[None], greedy=True))
            obs, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        theirs.append(total)
    error = math.hypot(ours.std() / math.sqrt(len(ours)), float(np.std(theirs)) / math.sqrt(len(theirs)))
    assert abs(ours.mean() - np.mean(theirs)) < 4 * error


def test_through_gymnasium_the_same_functions_hold() -> None:
    """An environment this package has no tensor program for."""
    found = episode_returns(UniformPolicy(3), "Acrobot-v1", num_episodes=3, greedy=True, seeds=Seeds(0))
    assert found.shape == (3,)
    assert (found >= -500).all() and (found < 0).all()


def test_greedy_and_sampled_differ_and_the_seed_decides() -> None:
    def mean(greedy: bool, seed: int) -> float:
        policy = UniformPolicy(2)
        return float(episode_returns(policy, "CartPole-v1", num_episodes=100, greedy=greedy, seeds=Seeds(seed)).mean())

    assert mean(False, 0) == mean(False, 0) != mean(False, 1)
    assert mean(True, 0) < 12 < 18 < mean(False, 0) < 27  # greedy pushes left; an even choice earns about 22


def test_the_first_states_follow_from_the_environment_stream() -> None:
    env = make("CartPole-v1", 5, seeds=Seeds(3))
    seen: list[Tensor] = []

    def rule(obs: Tensor) -> Tensor:
        seen.append(obs)
        return always_left(obs)

    episode_returns(ScriptedPolicy(rule, 2), "CartPole-v1", num_episodes=5, greedy=True, seeds=Seeds(3))
    assert torch.equal(seen[0], env.reset())
    assert len(seen[0].unique()) == 20, "no two environments share a first state"


def test_what_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="0 episodes"):
        episode_returns(UniformPolicy(2), "CartPole-v1", num_episodes=0, greedy=True, seeds=Seeds(0))
    with pytest.raises(UnknownEnvironmentError) as caught:
        episode_returns(UniformPolicy(2), "CartPole-v9", num_episodes=1, greedy=True, seeds=Seeds(0))
    assert "CartPole-v1" in caught.value.mend
    monkeypatch.setattr(module, "MAX_STEPS", 20)
    with pytest.raises(ConfigError, match="open episodes after 20 steps"):
        episode_returns(
            ScriptedPolicy(lean_with_the_pole, 2), "CartPole-v1", num_episodes=1, greedy=True, seeds=Seeds(0)
        )
