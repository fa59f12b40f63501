"""Who acted in a log of each quality, and with which chances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.randomness import Seeds
from rlcourse.training import behaviour
from rlcourse.training.behaviour import Generated, generate

SEEDS = Seeds(1)  # its first learner passes through the medium band within a second


def made(quality: Any, num_transitions: int = 1_001) -> Generated:
    return generate("CartPole-v1", quality, num_transitions, seeds=SEEDS)


@pytest.fixture(scope="module")
def medium() -> Generated:
    return made("medium", 1_000)


def test_a_medium_author_stopped_near_200_and_acts_at_random_three_times_in_ten(medium: Generated) -> None:
    details = medium.details
    assert 160 <= float(details["greedy_return"]) <= 240
    assert details["epsilon"] == 0.3
    assert 0 < int(details["trained_for_steps"]) <= 30_000
    assert f"greedy return of {float(details['greedy_return']):.0f}, acting with epsilon 0.3" in medium.behaviour


def test_epsilon_greedy_propensities_are_half_of_epsilon_or_the_rest(medium: Generated) -> None:
    episodes = medium.episodes.validate()
    assert episodes.num_transitions == 1_000
    chances, counts = np.unique(episodes.behaviour_probabilities, return_counts=True)
    assert chances == pytest.approx([0.15, 0.85])
    # Five standard errors.
    assert counts[1] / 1_000 == pytest.approx(0.85, abs=5 * (0.85 * 0.15 / 1_000) ** 0.5)


def test_a_random_author_chooses_evenly() -> None:
    episodes = made("random").episodes.validate()
    assert episodes.num_transitions == 1_001
    assert (episodes.behaviour_probabilities == 0.5).all()


def test_a_mixed_log_is_half_random_and_half_medium(medium: Generated) -> None:
    mixed = made("mixed")
    episodes = mixed.episodes.validate()
    assert episodes.num_transitions == 1_001
    chances = episodes.behaviour_probabilities
    assert (chances[:500] == 0.5).all(), "the random half comes first"
    assert np.unique(chances[500:]) == pytest.approx([0.15, 0.85])
    assert mixed.details == medium.details, "the same author as in the medium log"
    assert mixed.behaviour == f"half uniform over the actions; half {medium.behaviour}"


@pytest.mark.slow
def test_a_replay_log_spans_the_life_of_a_learner_that_solved_the_task() -> None:
    replay = made("replay", 20_000)
    episodes, details = replay.episodes.validate(), replay.details
    assert episodes.num_transitions == 20_000
    assert float(details["best_greedy_return"]) >= 475
    assert 0 < int(details["first_solved_at_step"]) <= int(details["lifetime_steps"]) == 96_000
    # Of two actions the greedy one has 1 - epsilon / 2, the other one epsilon / 2.
    chances = episodes.behaviour_probabilities
    epsilon = 2 * np.minimum(chances, 1 - chances)
    assert epsilon[0] == pytest.approx(1.0)
    assert epsilon.min() == pytest.approx(0.05, rel=1e-4)
    assert 0.4 < (epsilon < 0.0501).mean() < 0.6, "it stops falling half way through the life"
    means = [part.mean() for part in np.array_split(epsilon, 4)]
    assert means == sorted(means, reverse=True), "the episodes come from all of it, in order"


def test_an_unknown_quality_and_an_empty_log_are_refused() -> None:
    with pytest.raises(ConfigError, match="'superb'") as caught:
        made("superb")
    assert "replay" in caught.value.mend
    for count in (0, -1):
        with pytest.raises(ConfigError, match=f"{count} transitions"):
            made("random", count)


@pytest.mark.parametrize("quality", ["medium", "expert", "mixed", "replay"])
def test_learners_that_never_get_there_are_an_error(quality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "ATTEMPTS", 0)
    with pytest.raises(TrainingDivergedError, match="None of 0 learners") as caught:
        made(quality)
    assert "another seed" in caught.value.mend
