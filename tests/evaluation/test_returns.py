from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

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
from rlcourse.vocabulary import DiscreteActions, MaskedPolicy, RecurrentPolicy


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
    actions = DiscreteActions(2)

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


Instead = Callable[[type[Countdown]], None]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Instead:
    """Whatever is asked for, ``episode_returns`` is given this."""

    def one(kind: type[Countdown]) -> None:
        def made(env_id: str, num_envs: int, **_: object) -> BatchedEnvironment:
            return kind(num_envs)

        monkeypatch.setattr(module, "make", made)

    return one


def test_one_episode_of_each_environment_counts(instead: Instead) -> None:
    instead(Countdown)
    found = episode_returns(UniformPolicy(2), "any", num_episodes=6, greedy=False, seeds=Seeds(0))
    assert found.tolist() == [1.0, 4.0, 9.0, 16.0, 25.0, 36.0]
    assert found.dtype == np.float64


class Counting(UniformPolicy):
    """Remembers how often it was asked, and what it was given to remember."""

    def __init__(self) -> None:
        super().__init__(2)
        self.seen: list[list[float]] = []

    def first_memory(self, batch_size: int) -> Tensor:
        return torch.full((batch_size, 1), 10.0)

    def act_remembering(
        self, obs: Tensor, memory: Tensor, *, greedy: bool, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self.seen.append(memory.squeeze(-1).tolist())
        return self.act(obs, greedy=greedy, generator=generator), memory + 1


def test_a_memory_begins_once_and_is_carried(instead: Instead) -> None:
    """Copies whose one episode is over go on beside the others; what they remember no longer counts."""
    instead(Countdown)
    policy = Counting()
    assert isinstance(policy, RecurrentPolicy)
    found = episode_returns(policy, "any", num_episodes=3, greedy=True, seeds=Seeds(0))
    assert found.tolist() == [1.0, 4.0, 9.0]
    assert policy.seen == [[10.0] * 3, [11.0] * 3, [12.0] * 3]


class OneWay(Countdown):
    """Allows action 1 alone at first, then action 0 alone, and so on."""

    taken: ClassVar[list[list[int]]] = []

    def action_mask(self) -> Tensor:
        return torch.stack([self.elapsed % 2 == 1, self.elapsed % 2 == 0], dim=-1)

    def step(self, action: Tensor) -> Step:
        self.taken.append(action.tolist())
        assert self.action_mask()[torch.arange(self.num_envs), action].all()
        return super().step(action)


class Obedient(UniformPolicy):
    """Chooses evenly among what is allowed."""

    def act_within(
        self, obs: Tensor, mask: Tensor, *, greedy: bool, generator: torch.Generator | None = None
    ) -> Tensor:
        return torch.multinomial(mask.float(), 1, generator=generator).squeeze(-1)


def test_a_masked_environment_is_only_given_what_it_allows(instead: Instead) -> None:
    instead(OneWay)
    OneWay.taken.clear()
    policy = Obedient(2)
    assert isinstance(policy, MaskedPolicy)
    found = episode_returns(policy, "any", num_episodes=3, greedy=False, seeds=Seeds(0))
    assert found.tolist() == [1.0, 4.0, 9.0]
    assert OneWay.taken == [[1] * 3, [0] * 3, [1] * 3]


@pytest.mark.parametrize("policy", [UniformPolicy(2), Counting()], ids=["plain", "recurrent"])
def test_a_policy_that_cannot_be_told_what_is_allowed_is_refused(instead: Instead, policy: UniformPolicy) -> None:
    instead(OneWay)
    with pytest.raises(ConfigError, match="Countdown-v0 rules out actions"):
        episode_returns(policy, "any", num_episodes=3, greedy=True, seeds=Seeds(0))


def test_continuous_actions_pass_through() -> None:
    """No torque: what a rod costs that swings freely from where it starts."""

    def idle(obs: Tensor) -> Tensor:
        return torch.zeros(len(obs), 1)

    found = episode_returns(ScriptedPolicy(idle, 1), "Pendulum-v1", num_episodes=50, greedy=True, seeds=Seeds(0))
    assert found.shape == (50,)
    assert (found < 0).all() and (found > -16.3 * 200).all()


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
    gymnasium.register("Elsewhere-v0", "gymnasium.envs.classic_control:AcrobotEnv", max_episode_steps=50)
    try:
        found = episode_returns(UniformPolicy(3), "Elsewhere-v0", num_episodes=3, greedy=True, seeds=Seeds(0))
    finally:
        gymnasium.registry.pop("Elsewhere-v0")
    assert found.tolist() == [-50.0] * 3  # at full torque one way nobody gets up


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
