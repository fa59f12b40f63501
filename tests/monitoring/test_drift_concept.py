from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rlcourse.errors import ConfigError, DatasetInvalidError, RLCourseError, ShapeError
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.drift import FittedQ
from tests.monitoring.worlds import packed, small_plant

RNG = np.random.default_rng


def two_states(episodes: int, rng: np.random.Generator, *, steps: int = 50, reward: float = 1.0) -> Episodes:
    """The next state is the action, 0 or 1, which a coin chooses; a step out of state 1 pays ``reward``."""
    actions = rng.integers(2, size=(episodes, steps))
    states = np.concatenate([rng.integers(2, size=(episodes, 1)), actions], axis=1)
    return packed(states[:, :, None], actions, reward * states[:, :-1])


def test_q_is_its_closed_form_on_two_states() -> None:
    """V(s) = s + gamma (V(0) + V(1)) / 2, so V(0) = gamma / 2 (1 - gamma); Q(s, a) = s + gamma V(a)."""
    gamma = 0.9
    log = two_states(200, RNG(0))
    q = FittedQ.fit(log, 2, discount=gamma, ridge=1e-9)
    low = gamma / (2 * (1 - gamma))
    states = np.array([[0.0], [0.0], [1.0], [1.0]])
    actions = np.array([0, 1, 0, 1])
    wanted = states[:, 0] + gamma * (low + actions)
    np.testing.assert_allclose(q._features(states, actions) @ q.weights.reshape(-1), wanted, atol=0.15)


def test_errors_of_what_is_known_are_zero_in_the_mean_and_those_of_less_pay_are_below() -> None:
    q = FittedQ.fit(two_states(200, RNG(1)), 2, discount=0.9, ridge=1e-9)
    fresh, poorer = q.units(two_states(200, RNG(2))), q.units(two_states(200, RNG(3), reward=0.5))
    assert abs(fresh[:, 0].mean()) < 0.02
    # The pay of half the steps has fallen by a half: a quarter in the mean, known without any fit.
    assert poorer[:, 0].mean() == pytest.approx(-0.25, abs=0.03)


def test_a_terminal_step_has_no_successor_and_one_that_was_cut_off_has_no_error() -> None:
    log = two_states(3, RNG(4), steps=5)
    q = FittedQ.fit(two_states(50, RNG(5)), 2)
    errors, lengths = q.errors(log)
    assert lengths.tolist() == [4, 4, 4]
    ended = replace(log, terminated=np.ones(3, np.bool_))
    more, lengths = q.errors(ended)
    assert lengths.tolist() == [5, 5, 5]
    np.testing.assert_allclose(more.reshape(3, 5)[:, :4], errors.reshape(3, 4))
    last = np.array([5 * e + 4 for e in range(3)])
    features = q._features(log.observations[last + np.arange(3)].astype(float), log.actions[last])
    np.testing.assert_allclose(
        more.reshape(3, 5)[:, 4],
        log.rewards[last] - features @ q.weights.reshape(-1),
        err_msg="reward minus Q, no more",
    )


def test_units_are_means_over_each_episode() -> None:
    log = small_plant(4, RNG(6), steps=6)
    q = FittedQ.fit(small_plant(40, RNG(7)), 2)
    errors, _ = q.errors(log)
    by_episode = errors.reshape(4, 5)
    np.testing.assert_allclose(q.units(log), np.stack([by_episode.mean(1), np.abs(by_episode).mean(1)], 1))


LOG = small_plant(4, RNG(8))


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: FittedQ.fit(LOG, 2, discount=1.0), ConfigError),
        (lambda: FittedQ.fit(LOG, 2, ridge=0.0), ConfigError),
        (lambda: FittedQ.fit(LOG, 1), DatasetInvalidError),
        (lambda: FittedQ.fit(replace(LOG, observations=0 * LOG.observations), 2), DatasetInvalidError),
        (lambda: FittedQ.fit(replace(LOG, rewards=LOG.rewards * np.nan), 2), DatasetInvalidError),
        (lambda: FittedQ.fit(replace(LOG, actions=LOG.actions[:, None].astype(float)), 2), DatasetInvalidError),
        (lambda: FittedQ.fit(small_plant(5, RNG(0), steps=1), 2), DatasetInvalidError),
        (lambda: FittedQ.fit(LOG, 2).errors(two_states(3, RNG(0))), ShapeError),
    ],
)
def test_what_cannot_be_fitted_is_a_typed_error(call: Callable[[], object], kind: type[RLCourseError]) -> None:
    with pytest.raises(kind):
        call()
