"""The boundary to Gymnasium: both kinds of actions, engines of other packages, and environments that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlcourse.environments import GymnasiumBatch, Pendulum, make
from rlcourse.errors import ConfigError, EnvironmentFailedError, MissingExtraError
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ContinuousActions, DiscreteActions

BOX = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


class Scripted(gym.Env[Any, Any]):
    """Does at each step what ``deed`` says: returns an observation and a reward, or raises."""

    def __init__(
        self,
        deed: Callable[[int], tuple[object, float]] = lambda _: (np.zeros(2, np.float32), 0.0),
        action_space: gym.Space[Any] | None = None,
        observation_space: gym.Space[Any] = BOX,
    ) -> None:
        self.action_space = gym.spaces.Discrete(2) if action_space is None else action_space
        self.observation_space = observation_space
        self.deed = deed
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: object) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        obs, reward = self.deed(self.steps)
        return obs, reward, False, False, {}


Register = Callable[..., str]


@pytest.fixture
def register() -> Iterator[Register]:
    """Registers an environment for one test."""

    def one(maker: Callable[..., gym.Env[Any, Any]] = Scripted, **settings: object) -> str:
        gym.register("Scripted-v0", entry_point=maker, kwargs=settings, disable_env_checker=True)
        return "Scripted-v0"

    yield one
    gym.registry.pop("Scripted-v0", None)


def test_pendulum_here_and_there_step_by_step() -> None:
    """The same first states and actions, over the time limit and into the second episode's first state."""
    ours = Pendulum(3, generator=Seeds(0).torch("start"), dtype=torch.float64)
    theirs = GymnasiumBatch("Pendulum-v1", 3, seed=0)
    theirs.reset()
    ours.reset()
    states = [env.unwrapped.state for env in theirs.vector.envs]  # type: ignore[attr-defined]
    ours.state = torch.from_numpy(np.array(states))
    assert ours.actions.low.tolist() == theirs.actions.low.tolist() == [-2.0]  # type: ignore[union-attr]
    acting = Seeds(0).torch("actions")
    for count in range(1, 201):
        action = 6 * torch.rand(3, 1, generator=acting) - 3  # some are out of bounds
        here, there = ours.step(action), theirs.step(action)
        torch.testing.assert_close(here.next_obs, there.next_obs, atol=1e-3, rtol=0)
        torch.testing.assert_close(here.reward, there.reward, atol=1e-2, rtol=0)
        assert torch.equal(here.truncated, there.truncated) and bool(here.truncated.all()) == (count == 200)
        assert not here.terminated.any() and not there.terminated.any()
    assert (there.obs != there.next_obs).any(-1).all()  # a fresh episode each
    assert (there.obs[:, 2].abs() <= 1.0).all()
    theirs.close()


# Box2D's bindings warn at import; as an error, the warning crashes the interpreter.
@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
def test_lunar_lander_steps() -> None:
    env = GymnasiumBatch("LunarLander-v3", 2, seed=0)
    assert env.actions == DiscreteActions(4) and env.obs_size == 8
    assert env.reset().shape == (2, 8)
    ended = 0
    for _ in range(200):
        step = env.step(torch.zeros(2, dtype=torch.int64))
        ended += int((step.terminated | step.truncated).sum())
    assert ended >= 2  # without engines it falls
    env.close()


def test_hopper_steps() -> None:
    env = GymnasiumBatch("Hopper-v5", 2, seed=0)
    assert isinstance(env.actions, ContinuousActions)
    assert env.actions.size == 3 and env.actions.high.tolist() == [1.0] * 3
    with pytest.raises(ConfigError, match="continuous"):
        env.num_actions  # noqa: B018
    assert env.reset().shape == (2, 11)
    ended = 0
    for _ in range(100):
        step = env.step(torch.full((2, 3), 5.0))  # clipped to 1
        assert step.obs.dtype == step.reward.dtype == torch.float32
        ended += int(step.terminated.sum())
    assert ended >= 2  # at full torque it falls
    env.close()


def test_a_failure_in_mid_run_is_named_with_its_cause(register: Register) -> None:
    def deed(count: int) -> tuple[object, float]:
        if count == 3:
            raise ZeroDivisionError("the pump is empty")
        return np.zeros(2, np.float32), 1.0

    env = GymnasiumBatch(register(deed=deed), 2, seed=0)
    env.reset()
    action = torch.zeros(2, dtype=torch.int64)
    env.step(action), env.step(action)
    with pytest.raises(
        EnvironmentFailedError, match="Scripted-v0 raised ZeroDivisionError: the pump is empty"
    ) as caught:
        env.step(action)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["observation", "reward"])
def test_what_is_no_number_is_refused(register: Register, where: str, bad: float) -> None:
    def deed(count: int) -> tuple[object, float]:
        late = count == 2
        obs = np.array([0.0, bad if late and where == "observation" else 0.0], np.float32)
        return obs, bad if late and where == "reward" else 0.0

    env = GymnasiumBatch(register(deed=deed), 1, seed=0)
    env.reset()
    env.step(torch.tensor([0]))
    with pytest.raises(EnvironmentFailedError, match=f"Scripted-v0 returned NaN or infinity as an? {where}"):
        env.step(torch.tensor([0]))


def test_a_failure_in_the_constructor_is_the_environments(register: Register) -> None:
    def maker() -> gym.Env[Any, Any]:
        raise OSError("no such room")

    with pytest.raises(EnvironmentFailedError, match="OSError: no such room"):
        GymnasiumBatch(register(maker), 1, seed=0)


@pytest.mark.parametrize("error", [gym.error.DependencyNotInstalled("Box2D"), ModuleNotFoundError("No module mujoco")])
def test_a_missing_engine_is_named_with_its_extra(register: Register, error: Exception) -> None:
    def maker() -> gym.Env[Any, Any]:
        raise error

    with pytest.raises(MissingExtraError, match=r"rlcourse\[box2d\]"):
        GymnasiumBatch(register(maker), 1, seed=0)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3, start=1),
        gym.spaces.MultiDiscrete([2, 2]),
        gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
        gym.spaces.Box(np.array([-1.0]), np.array([np.inf]), dtype=np.float64),
        gym.spaces.Box(-1.0, 1.0, (2, 2), np.float32),
    ],
    ids=str,
)
def test_actions_that_no_learner_can_use_are_refused(register: Register, space: gym.Space[Any]) -> None:
    with pytest.raises(ConfigError, match="Discrete actions counted from 0, or a bounded Box"):
        GymnasiumBatch(register(action_space=space), 1, seed=0)


def test_observations_that_are_no_box_are_refused(register: Register) -> None:
    with pytest.raises(ConfigError, match="need a Box"):
        GymnasiumBatch(register(observation_space=gym.spaces.Discrete(3)), 1, seed=0)


def test_continuous_actions_reach_the_environment_clipped(register: Register) -> None:
    seen: list[Any] = []

    class Listening(Scripted):
        def step(self, action: object) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            seen.append(np.array(action))
            return super().step(action)

    space = gym.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 3.0], np.float32))
    env = make(register(Listening, action_space=space), 1, seeds=Seeds(0))
    env.reset()
    env.step(torch.tensor([[-7.0, 7.0]]))
    env.step(torch.tensor([[0.5, -0.5]]))
    assert [one.tolist() for one in seen] == [[-1.0, 3.0], [0.5, 0.0]]
