from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcourse.experience.episodes import Episodes
from rlcourse.experience.transitions import Transitions


def numbered(lengths: list[int], terminated: list[bool]) -> Episodes:
    """Observation ``(e, t)`` names its episode and time, so that a wrong neighbour shows."""
    steps = sum(lengths)
    rng = np.random.default_rng(steps)
    return Episodes(
        observations=np.array([(e, t) for e, n in enumerate(lengths) for t in range(n + 1)], dtype=np.float32),
        actions=rng.integers(0, 3, steps),
        rewards=rng.normal(size=steps).astype(np.float32),
        behaviour_probabilities=rng.uniform(0.1, 1, steps).astype(np.float32),
        lengths=np.array(lengths),
        terminated=np.array(terminated),
    )


def by_loop(
    episodes: Episodes, gamma: float, n: int
) -> list[tuple[list[float], int, float, float, list[float], float]]:
    """The same by a plain loop: look ahead up to n steps, never past the end; discount 0 only where the task ended."""
    found, first = [], 0
    for e, length in enumerate(episodes.lengths.tolist()):
        for t in range(length):
            total, weight, ahead = 0.0, 1.0, min(n, length - t)
            for k in range(ahead):
                total += weight * float(episodes.rewards[first + t + k])
                weight *= gamma
            reached_end = t + ahead == length
            step = first + t
            found.append(
                (
                    episodes.observations[step + e].tolist(),
                    int(episodes.actions[step]),
                    total,
                    0.0 if reached_end and bool(episodes.terminated[e]) else weight,
                    episodes.observations[step + e + ahead].tolist(),
                    float(episodes.behaviour_probabilities[step]),
                )
            )
        first += length
    return found


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=5), st.integers(1, 4), st.floats(0, 1)
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_a_plain_loop(shape: list[tuple[int, bool]], n: int, gamma: float) -> None:
    episodes = numbered([length for length, _ in shape], [ended for _, ended in shape])
    found = Transitions.from_episodes(episodes, gamma=gamma, num_actions=3, n_step=n)
    expected = by_loop(episodes, gamma, n)
    assert len(found) == len(expected)
    obs, action, reward, discount, next_obs, probability = (list(column) for column in zip(*expected, strict=True))
    assert found.obs.tolist() == obs
    assert found.action.tolist() == action
    assert found.next_obs.tolist() == next_obs
    assert found.behaviour_probability.tolist() == probability
    np.testing.assert_allclose(found.reward.numpy(), reward, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.discount.numpy(), discount, rtol=1e-5, atol=1e-6)


def test_truncation_keeps_the_discount_and_termination_ends_it() -> None:
    found = Transitions.from_episodes(numbered([2, 2], [True, False]), gamma=0.9, num_actions=3)
    assert found.discount.tolist() == pytest.approx([0.9, 0.0, 0.9, 0.9])
    assert found.next_obs.tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]  # the last: what was seen when it was cut off


def test_n_steps_stop_at_the_end_of_an_episode() -> None:
    found = Transitions.from_episodes(numbered([3, 3], [True, False]), gamma=0.5, num_actions=3, n_step=2)
    assert found.discount.tolist() == [0.25, 0.0, 0.0, 0.25, 0.25, 0.5]
    assert found.next_obs.tolist() == [[0, 2], [0, 3], [0, 3], [1, 2], [1, 3], [1, 3]]


def test_a_batch_is_rows_of_the_storage_drawn_by_the_generator() -> None:
    storage = Transitions.from_episodes(numbered([4, 5, 2], [True, False, True]), gamma=0.9, num_actions=3)
    batch = storage.sample(500, torch.Generator().manual_seed(1))
    again = storage.sample(500, torch.Generator().manual_seed(1))
    rows = {tuple(o): i for i, o in enumerate(storage.obs.tolist())}
    index = [rows[tuple(o)] for o in batch.obs.tolist()]
    assert set(index) == set(range(11))  # 500 draws miss one of 11 rows with probability 2e-20
    for name in ("obs", "action", "reward", "discount", "next_obs", "behaviour_probability"):
        drawn = getattr(batch, name)
        assert drawn is not None
        assert torch.equal(drawn, getattr(storage, name)[index])
        assert torch.equal(drawn, getattr(again, name))


def test_spec_is_the_mean_and_spread_of_the_observations_acted_on() -> None:
    spec = Transitions.from_episodes(numbered([2, 2], [True, False]), gamma=0.9, num_actions=3).spec()
    assert spec.obs_mean.tolist() == [0.5, 0.5]
    assert spec.obs_std.tolist() == pytest.approx([(1 / 3) ** 0.5] * 2)
    assert spec.num_actions == 3
