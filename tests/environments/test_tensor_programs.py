"""Every tensor program is Gymnasium's environment, state by state and step by step. CartPole has a file of its own."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import gymnasium.envs.classic_control.acrobot as gymnasiums_acrobot
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlcourse.environments import NATIVE, BatchedEnvironment, ScaledEnvironment, acrobot, make, pendulum
from rlcourse.environments import mountain_car as car
from rlcourse.environments import mountain_car_continuous as throttle
from rlcourse.environments.tensor_program import TensorProgram
from rlcourse.errors import ConfigError, UnknownEnvironmentError
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ContinuousActions

PROGRAMS = sorted(name for name, kind in NATIVE.items() if isinstance(kind, type) and issubclass(kind, TensorProgram))


def gymnasiums(env_id: str, state: object) -> Any:
    env: Any = gym.make(env_id).unwrapped
    env.state = state
    return env


def column(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


ACROBOT_STATES = st.tuples(
    st.floats(-math.pi, math.pi),
    st.floats(-math.pi, math.pi),
    st.floats(-acrobot.MAX_SPEED_1, acrobot.MAX_SPEED_1),
    st.floats(-acrobot.MAX_SPEED_2, acrobot.MAX_SPEED_2),
)


@settings(max_examples=300, deadline=None)
@given(state=ACROBOT_STATES, action=st.integers(0, 2), equations=st.sampled_from(["book", "nips"]))
def test_one_step_of_acrobot(state: tuple[float, ...], action: int, equations: acrobot.Equations) -> None:
    theirs = gymnasiums("Acrobot-v1", np.array(state))
    theirs.book_or_nips = equations
    obs, _, terminated, _, _ = theirs.step(action)
    ours = acrobot.next_state(column(*state), torch.tensor([action]), equations=equations)
    # An angle of pi may be wrapped to -pi by rounding: compare directions, and speeds.
    apart = ours[0].numpy() - theirs.state
    assert np.abs(np.sin(apart[:2] / 2)).max() < 1e-9
    assert np.abs(apart[2:]).max() < 1e-8
    assert ours[0, :2].abs().max() <= math.pi + 1e-12
    free_end = -math.cos(theirs.state[0]) - math.cos(theirs.state[0] + theirs.state[1])
    if abs(free_end - 1.0) > 1e-6:
        assert bool(acrobot.has_arrived(ours)) == terminated
    env = acrobot.Acrobot(1, dtype=torch.float64, equations=equations)
    env.state = column(*state)
    step = env.step(torch.tensor([action]))
    np.testing.assert_allclose(step.next_obs[0].numpy(), obs, atol=1e-5)
    assert float(step.reward) == (0.0 if bool(step.terminated) else -1.0)


def test_the_two_sets_of_equations_differ() -> None:
    state, action = column(0.5, 1.0, 2.0, -1.0), torch.tensor([2])
    book, paper = (acrobot.next_state(state, action, equations=which) for which in ("book", "nips"))
    assert float((book - paper).abs().max()) > 0.01
    with pytest.raises(ConfigError, match="equations"):
        acrobot.Acrobot(1, equations="java")  # type: ignore[arg-type]


@pytest.mark.parametrize("angle", [0.0, 3.0, 3.5, -3.5, 9.0, -9.5, 16.0, math.pi, -math.pi])
def test_acrobots_angles_wrap_as_gymnasiums(angle: float) -> None:
    theirs: Any = gymnasiums_acrobot
    assert float(acrobot.wrap(column(angle))) == pytest.approx(theirs.wrap(angle, -math.pi, math.pi), abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(state=st.tuples(st.floats(-20, 20), st.floats(-8, 8)), torque=st.floats(-4, 4))
def test_one_step_of_pendulum(state: tuple[float, float], torque: float) -> None:
    theirs = gymnasiums("Pendulum-v1", np.array(state))
    obs, reward, _, _, _ = theirs.step(np.array([torque]))
    before, action = column(*state), column(torque)
    np.testing.assert_allclose(pendulum.next_state(before, action)[0].numpy(), theirs.state, rtol=0, atol=1e-12)
    assert float(pendulum.reward(before, action)) == pytest.approx(reward, abs=1e-9)
    env = pendulum.Pendulum(1, dtype=torch.float64)
    env.state = before
    step = env.step(action)
    np.testing.assert_allclose(step.next_obs[0].numpy(), obs, atol=1e-6)
    assert float(step.reward) == pytest.approx(reward, rel=1e-6)
    assert not bool(step.terminated)


def test_what_hanging_still_costs() -> None:
    assert float(pendulum.reward(column(math.pi, 0.0), column(2.0))) == pytest.approx(-(math.pi**2 + 0.004))


CAR_STATES = st.tuples(st.floats(car.LEFT_WALL, car.RIGHT_WALL), st.floats(-car.MAX_SPEED, car.MAX_SPEED))


@settings(max_examples=300, deadline=None)
@given(state=CAR_STATES, action=st.integers(0, 2))
def test_one_step_of_mountain_car(state: tuple[float, float], action: int) -> None:
    theirs = gymnasiums("MountainCar-v0", state)
    _, reward, terminated, _, _ = theirs.step(action)
    env = car.MountainCar(1, dtype=torch.float64)
    ours = car.next_state(column(*state), torch.tensor([action]))
    np.testing.assert_allclose(ours[0].numpy(), np.array(theirs.state, dtype=float), rtol=0, atol=1e-15)
    env.state = column(*state)
    step = env.step(torch.tensor([action]))
    assert bool(step.terminated) == bool(car.has_arrived(ours)) == terminated
    assert float(step.reward) == reward


@settings(max_examples=300, deadline=None)
@given(state=CAR_STATES, push=st.floats(-1, 1))
def test_one_step_of_mountain_car_with_a_throttle(state: tuple[float, float], push: float) -> None:
    theirs = gymnasiums("MountainCarContinuous-v0", state)
    _, reward, terminated, _, _ = theirs.step(np.array([push]))
    env = throttle.MountainCarContinuous(1, dtype=torch.float64)
    ours = throttle.next_state(column(*state), column(push))
    np.testing.assert_array_max_ulp(ours[0].numpy().astype(np.float32), theirs.state)  # theirs are kept in float32
    env.state = column(*state)
    step = env.step(column(push))
    assert bool(step.terminated) == terminated
    assert float(step.reward) == pytest.approx(reward, abs=1e-5)


def test_the_wall_stops_the_car() -> None:
    for next_state, action in ((car.next_state, torch.tensor([0])), (throttle.next_state, column(-1.0))):
        assert next_state(column(-1.19, -0.07), action).tolist() == [[-1.2, 0.0]]


def test_arriving_at_half_throttle() -> None:
    assert float(throttle.reward(column(0.46, 0.01), column(0.5))) == pytest.approx(99.975)


def random_actions(env: BatchedEnvironment, generator: torch.Generator) -> Tensor:
    if isinstance(env.actions, ContinuousActions):
        shape = (env.num_envs, env.actions.size)
        return (2 * torch.rand(shape, generator=generator) - 1) * env.actions.half_range + env.actions.centre
    return torch.randint(env.actions.count, (env.num_envs,), generator=generator)


@pytest.mark.parametrize("env_id", PROGRAMS)
def test_whole_episodes_agree_with_gymnasium(env_id: str) -> None:
    """The same first states and actions: the same observations, rewards and ends, until each has ended once."""
    count, seeds = 6, Seeds(3)
    kind: Any = NATIVE[env_id]
    ours: TensorProgram = kind(count, generator=seeds.torch("start"), dtype=torch.float64)
    ours.reset()
    references: list[Any] = [gym.make(env_id) for _ in range(count)]
    for index, env in enumerate(references):
        env.reset(seed=0)
        env.unwrapped.state = ours.state[index].numpy().copy()
    running, acting = np.ones(count, dtype=bool), seeds.torch("actions")
    for _ in range(ours.max_episode_steps):
        action = random_actions(ours, acting)
        step = ours.step(action)
        for index in np.flatnonzero(running).tolist():
            obs, reward, terminated, truncated, _ = references[index].step(action[index].numpy())
            np.testing.assert_allclose(step.next_obs[index].numpy(), obs, atol=1e-4)
            assert float(step.reward[index]) == pytest.approx(float(reward), abs=1e-4)
            assert bool(step.terminated[index]) == terminated
            assert bool(step.truncated[index]) == (truncated and not terminated)
            running[index] = not (terminated or truncated)
        if not running.any():
            return
    raise AssertionError("an episode outlived its time limit")


@pytest.mark.parametrize("env_id", PROGRAMS)
def test_the_task_is_the_one_gymnasium_describes(env_id: str) -> None:
    ours, theirs = make(env_id, 3, seeds=Seeds(0)), make(env_id, 3, seeds=Seeds(0), native=False)
    spec = gym.spec(env_id)
    assert ours.env_id == env_id and isinstance(ours, TensorProgram)
    assert ours.obs_size == theirs.obs_size == ours.reset().shape[1]
    assert ours.max_episode_steps == spec.max_episode_steps
    assert type(ours.actions) is type(theirs.actions)
    if isinstance(ours.actions, ContinuousActions):
        assert isinstance(theirs.actions, ContinuousActions)
        assert torch.equal(ours.actions.low, theirs.actions.low)
        assert torch.equal(ours.actions.high, theirs.actions.high)
        with pytest.raises(ConfigError, match="continuous"):
            ours.num_actions  # noqa: B018
    else:
        assert ours.num_actions == theirs.num_actions


@pytest.mark.parametrize("env_id", PROGRAMS)
def test_first_states_are_spread_as_gymnasiums(env_id: str) -> None:
    ours = make(env_id, 2000, seeds=Seeds(0)).reset()
    theirs = make(env_id, 400, seeds=Seeds(0), native=False).reset()
    torch.testing.assert_close(ours.amin(0), theirs.amin(0), rtol=0.05, atol=0.02)
    torch.testing.assert_close(ours.amax(0), theirs.amax(0), rtol=0.05, atol=0.02)
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.1, atol=0.001)


@pytest.mark.parametrize("env_id", PROGRAMS)
def test_a_time_limit_truncates_and_does_not_terminate(env_id: str) -> None:
    kind: Any = NATIVE[env_id]
    env: TensorProgram = kind(2, generator=Seeds(0).torch("start"), max_episode_steps=3)
    env.reset()
    actions = Seeds(0).torch("actions")
    steps = [env.step(random_actions(env, actions)) for _ in range(4)]
    assert [s.truncated.tolist() for s in steps] == [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
    assert not any(bool(s.terminated.any()) for s in steps)
    assert not torch.equal(steps[2].next_obs, steps[2].obs)  # the true last one, and a fresh first one
    assert torch.equal(steps[1].next_obs, steps[1].obs)


def test_who_arrives_with_the_last_step_has_arrived() -> None:
    env = car.MountainCar(2, generator=Seeds(0).torch("start"), max_episode_steps=1)
    env.reset()
    env.state = torch.tensor([[0.49, 0.05], [-0.5, 0.0]])
    step = env.step(torch.tensor([2, 2]))
    assert step.terminated.tolist() == [True, False]
    assert step.truncated.tolist() == [False, True]


@pytest.mark.parametrize("env_id", PROGRAMS)
def test_one_draw_of_first_states_a_step_whoever_ends(env_id: str) -> None:
    """So that the numbers one copy sees do not depend on when another one ends."""
    kind: Any = NATIVE[env_id]
    short: TensorProgram = kind(4, generator=Seeds(0).torch("start"), max_episode_steps=1)
    firsts = kind(4, generator=Seeds(0).torch("start"))
    assert torch.equal(short.reset(), firsts.reset())
    actions = Seeds(0).torch("actions")
    for _ in range(3):
        assert torch.equal(short.step(random_actions(short, actions)).obs, firsts.reset())


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_actions_out_of_bounds_are_clipped(env_id: str) -> None:
    for native in (True, False):
        inside, outside = (make(env_id, 2, seeds=Seeds(0), native=native) for _ in range(2))
        assert torch.equal(inside.reset(), outside.reset())
        assert isinstance(inside.actions, ContinuousActions)
        high = inside.actions.high.expand(2, 1)
        for here, there in zip(inside.step(high), outside.step(10 * high), strict=True):
            assert torch.equal(here, there)


@pytest.mark.parametrize("env_id", PROGRAMS)
def test_training_in_float32_is_given_float32(env_id: str) -> None:
    env = make(env_id, 3, seeds=Seeds(0))
    assert env.reset().dtype == torch.float32
    step = env.step(random_actions(env, Seeds(0).torch("actions")))
    assert step.next_obs.dtype == step.obs.dtype == step.reward.dtype == torch.float32
    assert step.terminated.dtype == step.truncated.dtype == torch.bool
    assert step.reward.shape == step.terminated.shape == step.truncated.shape == (3,)


@pytest.mark.parametrize("env_id", [name for name in PROGRAMS if name != "CartPole-v1"])
def test_scaled_observations_are_of_order_one(env_id: str) -> None:
    env = make(env_id, 32, seeds=Seeds(0))
    assert isinstance(env, ScaledEnvironment)
    obs, actions, seen = env.reset(), Seeds(0).torch("actions"), []
    for _ in range(200):
        obs = env.step(random_actions(env, actions)).obs
        seen.append((obs - env.obs_mean) / env.obs_std)
    assert torch.cat(seen).abs().max() < 4


def test_pendulum_and_gymnasiums_pendulum_pay_the_same_without_a_motor() -> None:
    """200 steps from 2000 against 200 random first states: the means agree within Monte Carlo error."""
    totals = []
    for native, count in ((True, 2000), (False, 200)):
        env = make("Pendulum-v1", count, seeds=Seeds(1), native=native)
        env.reset()
        totals.append(sum(env.step(torch.zeros(count, 1)).reward for _ in range(200)))
    ours, theirs = (torch.as_tensor(total) for total in totals)
    error = math.hypot(float(ours.std()) / 2000**0.5, float(theirs.std()) / 200**0.5)
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error


def test_names_that_only_gymnasium_or_only_this_package_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NATIVE, "Only-Here-v0", car.MountainCar)
    assert isinstance(make("Only-Here-v0", 1, seeds=Seeds(0)), car.MountainCar)
    with pytest.raises(UnknownEnvironmentError):
        make("Only-Here-v0", 1, seeds=Seeds(0), native=False)
    with pytest.raises(UnknownEnvironmentError, match="Only-Here-v0"):
        make("Only-Hear-v0", 1, seeds=Seeds(0))
