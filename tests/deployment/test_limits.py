"""Which observations a saved policy is not asked about."""

from __future__ import annotations

import numpy as np
import pytest

from rlcourse.deployment.limits import MARGIN, observation_limits
from rlcourse.environments.observation_range import observation_range

INF = float("inf")


def bounds(low: list[float], high: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(low), np.array(high)


def test_the_worked_number() -> None:
    seen = np.array([[0.0, -2.0], [1.0, 3.0], [-1.0, 0.5]], np.float32)
    limits = observation_limits(bounds([-4.8, -INF], [4.8, INF]), seen)
    assert limits == {"obs_low": (-4.8, -2.0 - MARGIN * 5.0), "obs_high": (4.8, 53.0)}


def test_the_space_alone_the_log_alone_and_neither() -> None:
    assert observation_limits(None) == {}
    assert observation_limits(bounds([-1.0, -INF], [INF, INF])) == {"obs_low": (-1.0, None), "obs_high": (None, None)}
    alone = observation_limits(None, np.array([[5.0, 7.0], [6.0, 7.0]], np.float32))
    assert alone == {"obs_low": (5.0 - MARGIN, None), "obs_high": (6.0 + MARGIN, None)}, (
        "what never varied has no range"
    )


def test_a_bound_that_the_log_has_been_beyond_is_none() -> None:
    seen = np.array([[-1.0], [3.0]], np.float32)
    assert observation_limits(bounds([-2.0], [2.0]), seen) == {"obs_low": (-2.0,), "obs_high": (3.0 + MARGIN * 4.0,)}


def test_a_space_of_another_size_says_nothing_and_no_bound_lies_beyond_float32() -> None:
    seen = np.array([[-1.0, -1e38], [1.0, 1e38]], np.float32)
    limits = observation_limits(bounds([-2.0], [2.0]), seen)
    assert limits == {"obs_low": (-1.0 - 2.0 * MARGIN, None), "obs_high": (1.0 + 2.0 * MARGIN, None)}


def test_what_tasks_say_of_their_observations() -> None:
    cart = observation_range("CartPole-v1")
    assert cart is not None
    assert cart[1] == pytest.approx([4.8, INF, 24 * 2 * np.pi / 360, INF])
    assert (cart[0] == -cart[1]).all()
    pendulum = observation_range("Pendulum-v1")
    assert pendulum is not None and pendulum[1].tolist() == [1.0, 1.0, 8.0]
    room = observation_range("rlcourse/ServerRoom-v0")
    assert room is not None and np.isfinite(room[0]).all() and room[0].shape == (8,)
    assert observation_range("nobody/knows-v0") is None
