from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlcourse.environments import Step, make
from rlcourse.experience.collection import EpisodeRecorder, collect, first_transitions
from rlcourse.experience.episodes import Episodes
from rlcourse.networks import EpsilonGreedyPolicy, ScriptedPolicy, UniformPolicy
from rlcourse.randomness import Seeds


def recorded(ends: list[list[int]]) -> tuple[EpisodeRecorder, list[dict[str, Any]]]:
    """Record rows of numbered steps; ``ends[t][i]``: 0 environment i goes on, 1 terminated, 2 truncated.

    Also returns the finished episodes by a plain loop over environments, in the order they ended.
    """
    recorder, finished = EpisodeRecorder(), []
    num_envs = len(ends[0])
    running: list[dict[str, Any]] = [{"obs": [], "action": [], "reward": [], "chance": []} for _ in range(num_envs)]
    for t, row in enumerate(ends):
        number = torch.arange(num_envs) * 1000.0 + t
        code = torch.tensor(row)
        step = Step(number[:, None] + 0.5, number, code == 1, code == 2, torch.full((num_envs, 1), -1.0))
        recorder.record(number[:, None], number.long(), 1 / (1 + number), step)
        for i in range(num_envs):
            x = 1000.0 * i + t
            episode = running[i]
            episode["obs"].append(x)
            episode["action"].append(x)
            episode["reward"].append(x)
            episode["chance"].append(1 / (1 + x))
            if row[i]:
                episode["obs"].append(x + 0.5)
                finished.append({**episode, "terminated": row[i] == 1})
                running[i] = {"obs": [], "action": [], "reward": [], "chance": []}
    return recorder, finished


table = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=n, max_size=n), min_size=1, max_size=12)
)


@given(table)
@settings(max_examples=80, deadline=None)
def test_the_recorder_cuts_episodes_as_a_plain_loop_does(ends: list[list[int]]) -> None:
    if not any(any(row) for row in ends):
        ends = [*ends, [1] * len(ends[0])]
    recorder, expected = recorded(ends)
    assert len(recorder) == len(ends) * len(ends[0])
    found = recorder.episodes().validate()
    assert found.num_episodes == len(expected)
    for index, episode in enumerate(expected):
        one = found.select(np.array([index]))
        assert one.observations[:, 0].tolist() == episode["obs"]
        assert one.actions.tolist() == episode["action"]
        assert one.rewards.tolist() == episode["reward"]
        np.testing.assert_allclose(one.behaviour_probabilities, episode["chance"], rtol=1e-6)
        assert bool(one.terminated[0]) == episode["terminated"]


def test_nothing_has_ended_yet() -> None:
    recorder, _ = recorded([[0, 0], [0, 0]])
    found = recorder.episodes()
    assert (found.num_episodes, found.num_transitions, len(found.observations)) == (0, 0, 0)


def test_nothing_was_recorded() -> None:
    assert len(EpisodeRecorder()) == 0


@pytest.mark.parametrize("count", [1, 21, 500])
@pytest.mark.parametrize("num_envs", [1, 16])
def test_exactly_as_many_transitions_as_asked_for(count: int, num_envs: int) -> None:
    env = make("CartPole-v1", num_envs, seeds=Seeds(0))
    found = collect(env, UniformPolicy(2), count, generator=Seeds(0).torch("acting")).validate()
    assert found.num_transitions == count
    assert (found.behaviour_probabilities == 0.5).all()
    assert found.terminated[:-1].all(), "an even choice never reaches the time limit"


def test_what_is_logged_follows_the_physics() -> None:
    """Each logged observation is what the logged action makes of the one before it."""
    from rlcourse.environments.cartpole import next_state

    env = make("CartPole-v1", 8, seeds=Seeds(1))
    found = collect(env, UniformPolicy(2), 400, generator=Seeds(1).torch("acting"))
    for index in range(found.num_episodes):
        one = found.select(np.array([index]))
        states = torch.from_numpy(one.observations)
        torch.testing.assert_close(next_state(states[:-1], torch.from_numpy(one.actions)), states[1:])
        assert states[0].abs().max() <= 0.05


def test_epsilon_greedy_propensities_are_those_of_the_action_taken() -> None:
    def rule(obs: Tensor) -> Tensor:
        return (obs[:, 2] > 0).long()

    policy = EpsilonGreedyPolicy(ScriptedPolicy(rule, 2), 0.3)
    env = make("CartPole-v1", 8, seeds=Seeds(0))
    found = collect(env, policy, 3_000, generator=Seeds(0).torch("acting"))
    last_rows = np.cumsum(found.lengths + 1) - 1
    acted_on = np.delete(found.observations, last_rows, axis=0)
    greedy = found.actions == (acted_on[:, 2] > 0)
    np.testing.assert_allclose(found.behaviour_probabilities, np.where(greedy, 0.85, 0.15), rtol=1e-6)
    # Five standard errors.
    assert greedy.mean() == pytest.approx(0.85, abs=5 * (0.85 * 0.15 / 3_000) ** 0.5)


def three() -> Episodes:
    """Lengths 2, 3, 1, all terminated."""
    return Episodes(
        observations=np.arange(9, dtype=np.float32)[:, None],
        actions=np.arange(6),
        rewards=np.arange(6, dtype=np.float32),
        behaviour_probabilities=np.full(6, 0.5, dtype=np.float32),
        lengths=np.array([2, 3, 1]),
        terminated=np.array([True, True, True]),
    )


@pytest.mark.parametrize(
    ("count", "lengths", "terminated"),
    [
        (1, [1], [False]),
        (2, [2], [True]),
        (3, [2, 1], [True, False]),
        (5, [2, 3], [True, True]),
        (6, [2, 3, 1], [True, True, True]),
        (99, [2, 3, 1], [True, True, True]),
    ],
)
def test_an_episode_that_is_cut_counts_as_truncated(count: int, lengths: list[int], terminated: list[bool]) -> None:
    found = first_transitions(three(), count).validate()
    assert found.lengths.tolist() == lengths
    assert found.terminated.tolist() == terminated
    assert found.actions.tolist() == list(range(min(count, 6)))
    rows = sum(lengths) + len(lengths)
    assert found.observations[:, 0].tolist() == list(range(rows)), "the last row is what was seen after the cut"
    assert three().lengths.tolist() == [2, 3, 1]
