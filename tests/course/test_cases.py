"""The graders are graded: the package passes its own cases, and every mistake is caught with its own hint."""

from __future__ import annotations

import pytest

from rlcourse.course.exercise_set import Exercise, all_exercises, exercise_named, exercises_of
from rlcourse.course.inside.calling import Plain, call, encode
from rlcourse.course.judging import PreparedExercise
from rlcourse.course.mutation import Mutation, mutated
from rlcourse.course.plain import difference
from rlcourse.course.verdicts import Verdict
from rlcourse.errors import ExerciseError

EXERCISES = list(all_exercises().values())
HUNTS = [exercise for exercise in EXERCISES if exercise.mutation]
SEEDS = (0, 1, 2)
named = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
hunted = pytest.mark.parametrize("exercise", HUNTS, ids=lambda exercise: exercise.name)


def verdict_on(function: object, exercise: Exercise, seed: int = 0) -> Verdict:
    prepared = PreparedExercise(exercise, seed)
    return prepared.judge([outcome(function, exercise, case.arguments) for case in prepared.cases])


def outcome(function: object, exercise: Exercise, arguments: object) -> Plain:
    assert callable(function)
    return call(function, arguments, list(exercise.gradient_of), exercise.observe)  # type: ignore[arg-type]


def test_there_are_enough_of_both_kinds() -> None:
    for file in ("ch02_baselines", "ch03_behavioural_cloning", "ch04_cql", "ch05_iql"):
        kinds = [exercise.kind for exercise in exercises_of(file)]
        assert kinds.count("function") >= 3
        assert kinds.count("hunt") >= 1


@named
def test_worked_numbers_hold_for_the_package(exercise: Exercise) -> None:
    for worked in exercise.worked:
        plain = {name: encode(value) for name, value in worked.arguments.items()}
        got = outcome(exercise.reference, exercise, plain)
        assert difference(got["value"], encode(worked.expected), rtol=1e-6, atol=1e-6) == ""


@named
def test_the_package_passes(exercise: Exercise) -> None:
    for seed in SEEDS:
        assert verdict_on(exercise.reference, exercise, seed).passed


@named
def test_every_mistake_gets_its_own_hint(exercise: Exercise) -> None:
    for seed in SEEDS:
        prepared = PreparedExercise(exercise, seed)
        for mistake, outcomes in zip(exercise.mistakes, prepared.mistaken, strict=True):
            verdict = prepared.judge(outcomes)
            assert (verdict.status, verdict.hint) == ("failed", mistake.hint), (mistake.name, seed)
            assert verdict.case is not None


@named
def test_an_unwritten_answer_is_not_a_wrong_one(exercise: Exercise) -> None:
    def unwritten(*arguments: object) -> None:
        raise NotImplementedError

    assert verdict_on(unwritten, exercise).status == "not_attempted"


@named
def test_an_unforeseen_error_gets_the_general_hint(exercise: Exercise) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("unforeseen")

    verdict = verdict_on(broken, exercise)
    assert (verdict.status, verdict.hint) == ("failed", exercise.hint)
    assert verdict.case is not None and verdict.case.got == "ZeroDivisionError: unforeseen"


@hunted
def test_the_cases_kill_the_planted_bug(exercise: Exercise) -> None:
    assert exercise.mutation is not None
    verdict = verdict_on(mutated(exercise.reference, exercise.mutation), exercise)
    assert (verdict.status, verdict.hint) == ("failed", exercise.mistakes[0].hint)
    assert verdict_on(exercise.reference, exercise).passed, "planting a bug must leave the package as it was"


@hunted
def test_a_hunt_says_what_goes_wrong(exercise: Exercise) -> None:
    assert len(exercise.symptom.split()) > 10


def test_inputs_depend_on_the_seed_and_on_nothing_else() -> None:
    exercise = exercise_named("expectile_loss")
    first, again, other = (PreparedExercise(exercise, seed).request for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_mutation_that_no_longer_fits_is_refused() -> None:
    with pytest.raises(ExerciseError, match="0 times"):
        mutated(exercise_named("discounts").reference, Mutation("return nothing", "return 1"))


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ExerciseError, match="expectile_loss"):
        exercise_named("expectile")


def test_the_symptom_of_the_double_q_hunt_is_true() -> None:
    import torch

    hunt = exercise_named("hunt_double_q_value")
    assert hunt.mutation is not None
    generator = torch.Generator().manual_seed(0)
    online, target = (torch.randn(200_000, 3, generator=generator) for _ in range(2))
    # The mean of the largest of three standard normals is 3 / (2 sqrt(pi)) = 0.846.
    assert mutated(hunt.reference, hunt.mutation)(online, target).mean().item() == pytest.approx(0.846, abs=0.01)
    assert hunt.reference(online, target).mean().item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(("tau", "settles"), [(0.7, 0.396), (0.9, 0.25)])
def test_the_symptom_of_the_expectile_hunt_is_true(tau: float, settles: float) -> None:
    import torch

    hunt = exercise_named("hunt_expectile_loss")
    assert hunt.mutation is not None
    buggy = mutated(hunt.reference, hunt.mutation)
    rewards = torch.linspace(0, 1, 10_001)
    candidates = torch.linspace(0, 1, 501)
    losses = torch.stack([buggy(rewards - value, tau).mean() for value in candidates])
    assert candidates[losses.argmin()].item() == pytest.approx(settles, abs=0.003)
