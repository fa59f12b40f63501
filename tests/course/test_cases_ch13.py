"""Chapter 13's hunt: its symptom is what the planted bug really does."""

from __future__ import annotations

import pytest
import torch

from rlcourse.course.exercise_set import exercise_named, exercises_of
from rlcourse.course.mutation import mutated


@pytest.mark.parametrize(("seeds", "left", "right"), [(3, 1 / 4, 3 / 4), (30, 1 / 31, 30 / 31)])
def test_the_symptom_of_the_shrinking_hunt_is_true(seeds: int, left: float, right: float) -> None:
    hunt = exercise_named("hunt_shrunken_scores")
    assert hunt.mutation is not None
    generator = torch.Generator().manual_seed(0)
    truth = 10 * torch.randn(20_000, 1, generator=generator)
    returns = truth + 10 * torch.randn(20_000, seeds, generator=generator)
    means = returns.mean(1)
    for function, factor in ((mutated(hunt.reference, hunt.mutation), left), (hunt.reference, right)):
        pulled = function(returns)
        assert (pulled.std() / means.std()).item() == pytest.approx(factor, abs=0.02)


def test_there_are_functions_to_write_and_a_bug_to_find() -> None:
    kinds = [exercise.kind for exercise in exercises_of("ch13_tuning")]
    assert kinds.count("function") == 3 and kinds.count("hunt") == 1
