from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from rlcourse.algorithms.dqn import DQN, DQNConfig
from rlcourse.algorithms.sac import SAC, SACConfig
from rlcourse.environments import make
from rlcourse.experience.collection import EpisodeRecorder
from rlcourse.networks import GreedyQPolicy
from rlcourse.randomness import Seeds
from rlcourse.training import off_policy
from rlcourse.training.off_policy import OffPolicyConfig, train_off_policy
from rlcourse.vocabulary import Batch, ListTracker, Metrics, TaskSpec

CONFIG = OffPolicyConfig(
    num_steps=2_000, exploration_steps=1_000, warm_up_steps=400, eval_every=500, eval_episodes=5, batch_size=32
)


class Counting(DQN):
    """A learner that remembers how often and when it was updated."""

    def __init__(self) -> None:
        with Seeds(0).initialising("networks"):
            super().__init__(TaskSpec.unscaled(4, 2), DQNConfig(hidden=(16,)))
        self.batches: list[Batch] = []

    def update_in_turn(self, batches: Sequence[Batch]) -> Metrics:
        self.batches.extend(batches)
        return super().update_in_turn(batches)


def trained(seed: int = 0, **more: object) -> tuple[Counting, ListTracker, EpisodeRecorder]:
    learner, tracker, recorder = Counting(), ListTracker(), EpisodeRecorder()
    env = make("CartPole-v1", 8, seeds=Seeds(seed))
    train_off_policy(learner, env, CONFIG, seeds=Seeds(seed), tracker=tracker, recorder=recorder, **more)  # type: ignore[arg-type]
    return learner, tracker, recorder


def test_a_run_keeps_its_promises() -> None:
    learner, tracker, recorder = trained()
    assert len(recorder) == 2_000
    assert len(learner.batches) == (2_000 - 400) // 8 + 1
    assert all(len(batch.validate()) == 32 for batch in learner.batches)
    steps, epsilon = tracker.series("explore/epsilon")
    assert steps == [504, 1_000, 1_504, 2_000]
    # epsilon falls from 1 to 0.05 over 1,000 steps; the number is the one of the row just taken.
    assert epsilon == pytest.approx([1 - 0.95 * 0.496, 1 - 0.95 * 0.992, 0.05, 0.05])
    assert all(8 <= value <= 500 for value in tracker.series("eval/greedy_return")[1])


def test_what_is_recorded_is_logged_with_its_propensity() -> None:
    _, _, recorder = trained()
    found = recorder.episodes().validate()
    chances = found.behaviour_probabilities
    # epsilon between 0.05 and 1 over two actions: the greedy one has 0.5 to 0.975, the other 0.025 to 0.5.
    assert chances.min() >= 0.025 - 1e-6 and chances.max() <= 0.975 + 1e-6
    first = found.select(np.array([0])).behaviour_probabilities  # the first to end began at step 0
    epsilon = 1 - 0.95 * 8 * np.arange(len(first)) / 1_000
    np.testing.assert_allclose(np.minimum(first, 1 - first), epsilon / 2, rtol=1e-5)


def test_the_seed_decides_everything() -> None:
    one, first, _ = trained()
    torch.manual_seed(5)
    two, second, _ = trained()
    other, _, _ = trained(seed=1)
    untimed = [
        [
            (step, {name: value for name, value in row.items() if not name.startswith("time/")})
            for step, row in kept.rows
        ]
        for kept in (first, second)
    ]
    assert untimed[0] == untimed[1]
    for a, b, c in zip(one.q.parameters(), two.q.parameters(), other.q.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_stopping_stops_at_the_evaluation_that_asked_for_it() -> None:
    asked: list[int] = []

    def stop(step: int, greedy_return: float) -> bool:
        asked.append(step)
        return step >= 1_000

    _, tracker, recorder = trained(stop=stop)
    assert asked == [504, 1_000]
    assert len(recorder) == 1_000
    assert [step for step, _ in tracker.rows] == asked


def test_acting_follows_the_greedy_action_as_epsilon_falls() -> None:
    def prefer_right(obs: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0]).expand(len(obs), 2)

    class Fixed(Counting):
        @property
        def policy(self) -> GreedyQPolicy:
            return GreedyQPolicy(prefer_right)

    recorder = EpisodeRecorder()
    env = make("CartPole-v1", 8, seeds=Seeds(0))
    train_off_policy(Fixed(), env, CONFIG, seeds=Seeds(0), recorder=recorder)
    actions = recorder.episodes().actions
    assert actions[:200].mean() < 0.8 < 0.95 < actions[-500:].mean()


def recorded_by_sac() -> EpisodeRecorder:
    seeds, recorder = Seeds(0), EpisodeRecorder()
    env = make("Pendulum-v1", 4, seeds=seeds)
    with seeds.initialising("networks"):
        learner = SAC(TaskSpec.unscaled(3, env.actions), SACConfig(hidden=(8,)), generator=seeds.torch("policy"))
    config = OffPolicyConfig(
        num_steps=1_600, num_envs=4, warm_up_steps=800, steps_per_update=100, eval_every=1_600, eval_episodes=2
    )
    train_off_policy(learner, env, config, seeds=seeds, recorder=recorder)
    return recorder


def test_continuous_actions_are_recorded_with_the_density_of_whoever_acted() -> None:
    found = recorded_by_sac().episodes().validate()
    assert found.continuous and found.num_transitions == 1_600
    first, later = np.split(found.behaviour_probabilities, 2)  # episodes in the order they ended, all 200 steps long
    assert first[:796].tolist() == pytest.approx([0.25] * 796), "even choices while it warms up"
    assert len(np.unique(later)) > 700, "then the learner's own spread"


def test_recording_changes_nothing_of_what_is_done() -> None:
    seeds = Seeds(0)
    env = make("Pendulum-v1", 4, seeds=seeds)
    with seeds.initialising("networks"):
        learner = SAC(TaskSpec.unscaled(3, env.actions), SACConfig(hidden=(8,)))
    acts = []
    for recorded in (False, True):
        explorer = off_policy._Explorer(learner, env, CONFIG, Seeds(1).torch("exploration"), recorded=recorded)
        acts.append([explorer.act(torch.zeros(4, 3), steps)[0] for steps in (0, CONFIG.warm_up_steps)])
    for plain, kept in zip(*acts, strict=True):
        assert torch.equal(plain, kept)
