"""Chapter 6's hunts: their symptoms are what the planted bugs really do."""

from __future__ import annotations

import torch

from rlcourse.course.exercise_set import exercise_named, exercises_of
from rlcourse.course.mutation import mutated
from rlcourse.objectives.importance import discounted_returns


def planted(name: str) -> object:
    hunt = exercise_named(name)
    assert hunt.mutation is not None
    return mutated(hunt.reference, hunt.mutation)


def test_capped_ratios_multiplied_grow_without_bound() -> None:
    ratios = torch.full((1, 20), 0.9 / 0.5)
    hunt = exercise_named("hunt_clipped_cumulative_ratios")
    assert planted(hunt.name)(ratios, 2.0)[0, -1] > 100_000  # type: ignore[operator]
    assert hunt.reference(ratios, 2.0).max() == 2.0


def test_drawing_steps_looks_at_the_first_episodes_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    hunt = exercise_named("hunt_resampled_means")
    bug = planted(hunt.name)
    reward, other = torch.rand(100, 50, generator=generator), torch.rand(100, 50, generator=generator)
    other[:2] = reward[:2]
    drawn = torch.randint(100, (300, 100), generator=generator)
    assert torch.equal(bug(reward, drawn), bug(other, drawn))  # type: ignore[operator]
    assert not torch.allclose(hunt.reference(reward, drawn), hunt.reference(other, drawn))
    # Every step pays 1; episodes are 30 to 50 steps long, but for the first, which are whole.
    lengths = torch.randint(30, 51, (100, 1), generator=generator).clamp_min(50 * (torch.arange(100) < 2).unsqueeze(1))
    ones = (torch.arange(50) < lengths).float()
    assert bug(ones, drawn).std() == 0.0 < hunt.reference(ones, drawn).std()  # type: ignore[operator]


def test_with_the_logged_action_every_candidate_is_worth_what_the_logger_is() -> None:
    """Three states in a row, values by sweeps over a log: 1 is paid for action 1."""
    hunt = exercise_named("hunt_taken_and_expected")
    generator = torch.Generator().manual_seed(0)
    action = torch.randint(2, (4_000, 3), generator=generator)
    mean = float(discounted_returns(action.double(), torch.ones(4_000, 3), 1.0).mean())
    for function, wanted in ((planted(hunt.name), [mean, mean]), (hunt.reference, [0.3, 2.7])):
        found = []
        for chance in (0.1, 0.9):
            probabilities = torch.tensor([1 - chance, chance], dtype=torch.float64)
            q = torch.zeros(4, 2, dtype=torch.float64)
            for step in (2, 1, 0):
                following = action[:, step + 1] if step < 2 else torch.zeros(4_000, dtype=torch.int64)
                ahead = function(  # type: ignore[operator]
                    q[step + 1].expand(4_000, 2), probabilities.expand(4_000, 2), following
                )[1]
                target = action[:, step] + ahead
                q[step] = torch.stack([target[action[:, step] == a].mean() for a in (0, 1)])
            found.append(float(function(q[0].expand(4_000, 2), probabilities.expand(4_000, 2), action[:, 0])[1].mean()))  # type: ignore[operator]
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.0)


def test_there_are_functions_to_write_and_bugs_to_find() -> None:
    kinds = [exercise.kind for exercise in exercises_of("ch06_off_policy")]
    assert kinds.count("function") >= 8 and kinds.count("hunt") == 3
