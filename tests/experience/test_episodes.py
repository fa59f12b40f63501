from __future__ import annotations

import numpy as np
import pytest

from rlcourse.errors import DatasetInvalidError
from rlcourse.experience.episodes import Episodes, concatenated_ranges


def worked() -> Episodes:
    """Two episodes, of 2 steps and of 1; observation 10 e + t tells the episode and the time."""
    return Episodes(
        observations=np.array([[0], [1], [2], [10], [11]], dtype=np.float32),
        actions=np.array([0, 1, 1]),
        rewards=np.array([1, 2, 4], dtype=np.float32),
        behaviour_probabilities=np.array([0.5, 0.25, np.nan], dtype=np.float32),
        lengths=np.array([2, 1]),
        terminated=np.array([True, False]),
    )


def test_counts_and_returns() -> None:
    episodes = worked()
    assert (episodes.num_episodes, episodes.num_transitions) == (2, 3)
    assert episodes.returns().tolist() == [3.0, 4.0]
    assert episodes.first_steps().tolist() == [0, 2]
    assert episodes.num_bytes == 5 * 4 + 3 * 8 + 3 * 4 + 3 * 4 + 2 * 8 + 2


def test_select_keeps_each_episode_whole_and_in_the_order_asked() -> None:
    chosen = worked().select(np.array([1, 0, 1]))
    assert chosen.observations[:, 0].tolist() == [10, 11, 0, 1, 2, 10, 11]
    assert chosen.rewards.tolist() == [4, 1, 2, 4]
    assert chosen.actions.tolist() == [1, 0, 1, 1]
    assert chosen.lengths.tolist() == [1, 2, 1]
    assert chosen.terminated.tolist() == [False, True, False]
    chosen.validate()


def test_concatenating_the_episodes_one_by_one_gives_them_all() -> None:
    episodes = worked()
    again = Episodes.concatenate([episodes.select(np.array([index])) for index in range(2)])
    for name in Episodes.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(episodes, name))


def test_concatenated_ranges() -> None:
    assert concatenated_ranges(np.array([5, 0, 9]), np.array([2, 3, 1])).tolist() == [5, 6, 0, 1, 2, 9]


def test_validate_returns_sound_episodes_and_names_the_first_problem_of_others() -> None:
    episodes = worked()
    assert episodes.validate() is episodes
    episodes.rewards[1] = np.nan
    with pytest.raises(DatasetInvalidError, match="Some rewards are NaN or infinite"):
        episodes.validate()
