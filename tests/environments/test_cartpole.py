"""The batched CartPole is Gymnasium's CartPole, state by state and step by step."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcourse.environments import CartPole, GymnasiumBatch, make
from rlcourse.environments.cartpole import has_failed, next_state
from rlcourse.errors import ConfigError, UnknownEnvironmentError
from rlcourse.randomness import Seeds

STATES = st.tuples(st.floats(-2.5, 2.5), st.floats(-5, 5), st.floats(-0.25, 0.25), st.floats(-5, 5))


@settings(max_examples=300, deadline=None)
@given(state=STATES, action=st.integers(0, 1))
def test_one_step_agrees_with_gymnasium(state: tuple[float, ...], action: int) -> None:
    reference = gym.make("CartPole-v1").unwrapped
    reference.state = np.array(state)  # type: ignore[attr-defined]
    reference.steps_beyond_terminated = None  # type: ignore[attr-defined]
    _, _, terminated, _, _ = reference.step(action)
    ours = next_state(torch.tensor([state], dtype=torch.float64), torch.tensor([action]))
    np.testing.assert_allclose(ours[0].numpy(), np.array(reference.state), rtol=0, atol=1e-12)  # type: ignore[attr-defined]
    assert bool(has_failed(ours)) == terminated


def test_whole_episodes_agree_with_gymnasium() -> None:
    ours = CartPole(20, generator=Seeds(3).torch("start"), dtype=torch.float64)
    ours.reset()
    actions = np.random.default_rng(0).integers(2, size=(200, 20))
    references = []
    for column in range(20):
        env = gym.make("CartPole-v1")
        env.reset(seed=0)
        env.unwrapped.state = ours.state[column].numpy().copy()  # type: ignore[attr-defined]
        references.append(env)
    running = np.ones(20, dtype=bool)
    for row in actions:
        step = ours.step(torch.from_numpy(row))
        for column in np.flatnonzero(running).tolist():
            obs, reward, terminated, truncated, _ = references[column].step(int(row[column]))
            np.testing.assert_allclose(step.next_obs[column].numpy(), obs, atol=1e-6)
            assert float(step.reward[column]) == reward
            assert bool(step.terminated[column]) == terminated
            assert bool(step.truncated[column]) == truncated
            running[column] = not (terminated or truncated)
    assert not running.any()  # random play never lasts 200 steps


def test_a_time_limit_truncates_and_does_not_terminate() -> None:
    env = CartPole(1, generator=Seeds(0).torch("start"), max_episode_steps=3)
    env.reset()
    steps = [env.step(torch.tensor([i % 2])) for i in range(4)]
    assert [bool(s.truncated) for s in steps] == [False, False, True, False]
    assert not any(bool(s.terminated) for s in steps)
    assert not torch.equal(steps[2].next_obs, steps[2].obs)  # the true last one, and a fresh first one
    assert float(steps[2].obs.abs().max()) <= 0.05


def test_environments_start_in_different_states_and_episodes_too() -> None:
    env = CartPole(8, generator=Seeds(0).torch("start"))
    first, second = env.reset(), env.reset()
    assert len(torch.unique(first, dim=0)) == 8
    assert not torch.equal(first, second)


@pytest.mark.parametrize("native", [True, False])
def test_the_seed_decides_the_first_states(native: bool) -> None:
    same = [make("CartPole-v1", 4, seeds=Seeds(s), native=native).reset() for s in (0, 0, 1)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_the_gymnasium_boundary_reports_the_true_last_observation() -> None:
    env = GymnasiumBatch("CartPole-v1", 4, seed=0)
    env.reset()
    seen = 0
    for _ in range(40):
        step = env.step(torch.ones(4, dtype=torch.int64))
        ended = step.terminated | step.truncated
        assert bool(has_failed(step.next_obs.double())[step.terminated].all())
        assert not bool(has_failed(step.obs.double())[ended].any())
        seen += int(ended.sum())
    assert seen >= 4
    env.close()


def test_an_unknown_environment_is_named_with_what_was_meant() -> None:
    with pytest.raises(UnknownEnvironmentError, match="CartPole-v1"):
        make("CartPol-v1", 1, seeds=Seeds(0))


def test_a_name_that_is_like_no_other_is_not_answered_with_a_guess() -> None:
    with pytest.raises(UnknownEnvironmentError, match="pprint_registry"):
        make("Nope-v3", 1, seeds=Seeds(0))


def test_no_environments_is_refused() -> None:
    with pytest.raises(ConfigError):
        CartPole(0)
