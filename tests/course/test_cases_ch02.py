"""What the bug hunts of chapter 2 say goes wrong does go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlcourse.course.exercise_set import exercise_named
from rlcourse.course.mutation import mutated


def buggy(name: str) -> Callable[..., Any]:
    hunt = exercise_named(name)
    assert hunt.mutation is not None
    return mutated(hunt.reference, hunt.mutation)


@pytest.mark.parametrize(("bug", "expected"), [(False, 5.0), (True, 2.78)])
def test_the_symptom_of_the_advantages_hunt_is_true(bug: bool, expected: float) -> None:
    name = "hunt_generalised_advantages"
    advantages = buggy(name) if bug else exercise_named(name).reference
    ones, continues, value = torch.ones(5), torch.tensor([1.0, 1, 1, 1, 0]), torch.zeros(5)
    for _ in range(100):  # a critic that always believes the mean of its targets
        value = (advantages(ones, value, value, 0.8 * ones, continues, 0.0) + value).mean().expand(5)
    assert value[0].item() == pytest.approx(expected, abs=0.003)


def test_the_symptom_of_the_normalising_hunt_is_true() -> None:
    advantage = torch.tensor([[-1.1, 0.9], [-0.9, 1.1]])
    expected = torch.tensor([[-0.7071, -0.7071], [0.7071, 0.7071]])
    torch.testing.assert_close(buggy("hunt_normalised_advantages")(advantage), expected, atol=1e-4, rtol=0)


def test_the_symptom_of_the_surrogate_hunt_is_true() -> None:
    surrogate = buggy("hunt_clipped_surrogate")
    old, advantage = torch.zeros(4), torch.tensor([1.0, -1.0, 2.0, -2.0])
    for ratio in (1.0, 10.0):
        new = torch.full((4,), ratio).log().requires_grad_(True)
        gain = surrogate(new, old, advantage, 0.2)
        gain.sum().backward()
        assert torch.equal(gain.detach(), advantage)
        assert new.grad is not None
        assert torch.equal(new.grad, advantage), "as large a step as the first"


def test_the_symptom_of_the_seeding_hunt_is_true() -> None:
    states = buggy("hunt_first_states")(7, 100)
    assert len(states.unique(dim=0)) == 1
    assert len(exercise_named("hunt_first_states").reference(7, 100).unique(dim=0)) == 100
