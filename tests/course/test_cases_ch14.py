"""Chapter 14's exercises: the hunts' symptoms are what the planted bugs really do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rlcourse.course import cases_ch14 as cases
from rlcourse.course.exercise_set import Exercise, exercises_of
from rlcourse.course.mutation import mutated


def planted(exercise: Exercise) -> Callable[..., Any]:
    assert exercise.mutation is not None
    return mutated(exercise.reference, exercise.mutation)


def test_there_are_functions_to_write_and_bugs_to_find() -> None:
    kinds = [exercise.kind for exercise in exercises_of("ch14_artifact")]
    assert (kinds.count("function"), kinds.count("hunt")) == (2, 2)


def test_raw_observations_make_every_room_the_same_room() -> None:
    temperature = torch.arange(18.0, 33.0).unsqueeze(-1)
    first, last = cases.linear([[1.0]], [0.0]), cases.linear([[-1.0], [1.0]], [0.0, 0.0])
    given = temperature, torch.tensor([25.0]), torch.tensor([0.25]), first, last
    with torch.no_grad():
        raw, normalised = planted(cases.HUNT_SERVED_LOGITS)(*given), cases.served_logits(*given)
    assert (raw.argmax(-1) == 1).all() and len(raw.unique(dim=0)) == 1
    warm = temperature.squeeze(-1) != 25.0
    assert torch.equal(normalised.argmax(-1)[warm], (temperature.squeeze(-1) > 25.0).long()[warm])


def test_with_dropout_on_equal_questions_get_different_answers() -> None:
    """Action 0 counts 16 units that say 1 each, action 1 is worth 0.9: kept are 8 or more of 16 in 0.598 of all cases."""
    first = cases.linear([[1.0]] * 16, [0.0] * 16)
    last = cases.linear([[1 / 16] * 16, [0.0] * 16], [0.0, 0.9])
    obs = torch.ones(10_000, 1)
    whole = cases.answered_logits(obs, first, last, 0.5, 0)
    first.train(), last.train()
    dropped = planted(cases.HUNT_ANSWERED_LOGITS)(obs, first, last, 0.5, 0)
    assert (whole.argmax(-1) == 0).all()
    assert (dropped.argmax(-1) == 1).float().mean().item() == pytest.approx(0.402, abs=0.015)
    torch.testing.assert_close(dropped.mean(0), whole[0], atol=0.01, rtol=0.0)


def test_the_seed_of_the_dropout_leaves_torchs_own_generator_alone() -> None:
    given = cases.HUNT_ANSWERED_LOGITS.draw(np.random.default_rng(0))
    before = torch.get_rng_state()
    cases.answered_logits(**given)
    assert torch.equal(torch.get_rng_state(), before)
