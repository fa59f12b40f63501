"""What an exercise is, and the list of all of them.

An exercise is one function.  Its *reference* is the package's own; its *cases* are worked numbers and random inputs; its
*mistakes* are wrong implementations that people really write, each with the hint that helps with exactly that one.
The student's check, the grader and the tests of the package all use these same cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from rlcourse.course.mutation import Mutation
from rlcourse.errors import ExerciseError

Arguments = Mapping[str, Any]
"""Arguments by name, in the order of the signature."""


@dataclass(frozen=True)
class Mistake:
    """A plausible wrong implementation."""

    name: str
    implementation: Callable[..., Any]
    hint: str
    """Shown when an answer does what this does. Points at the idea; does not hand over the line."""


@dataclass(frozen=True)
class Worked:
    """An input with its answer worked by hand."""

    arguments: Arguments
    expected: Any


@dataclass(frozen=True)
class Exercise:
    """One function to write, or one bug to find."""

    name: str
    """Name of the function in the exercise file; submissions are matched by it."""
    file: str
    """Name of the exercise file without ``.py``."""
    reference: Callable[..., Any]
    draw: Callable[[np.random.Generator], Arguments]
    """One random input."""
    worked: tuple[Worked, ...]
    mistakes: tuple[Mistake, ...]
    hint: str
    """Shown when the answer is wrong in a way that no mistake explains."""
    difficulty: int
    """1 (a line) to 3 (think first). Also the points."""
    minutes: int
    """How long a reader of the chapter may need: an estimate, not a measurement."""
    gradient_of: tuple[str, ...] = ()
    """Arguments whose gradient is part of the answer."""
    observe: str = ""
    """The argument that is changed in place, when that is the answer."""
    mutation: Mutation | None = None
    """For a hunt: the bug planted in the reference."""
    symptom: str = ""
    """For a hunt: what the failing run looks like."""
    rtol: float = 1e-4
    atol: float = 1e-5

    @property
    def kind(self) -> Literal["function", "hunt"]:
        """Whether there is something to write or something to find."""
        return "hunt" if self.mutation else "function"


@cache
def all_exercises() -> dict[str, Exercise]:
    """Every exercise by name, in the order of the book."""
    # They import this module.
    from rlcourse.course import (
        cases_ch02,
        cases_ch03,
        cases_ch04,
        cases_ch05,
        cases_ch06,
        cases_ch13,
        cases_ch14,
        cases_ch15,
        cases_ch16,
        cases_ch17,
        cases_ch18,
    )

    chapters = (
        cases_ch02,
        cases_ch03,
        cases_ch04,
        cases_ch05,
        cases_ch06,
        cases_ch13,
        cases_ch14,
        cases_ch15,
        cases_ch16,
        cases_ch17,
        cases_ch18,
    )
    found = [exercise for chapter in chapters for exercise in chapter.EXERCISES]
    by_name = {exercise.name: exercise for exercise in found}
    assert len(by_name) == len(found), "two exercises share a name"
    return by_name


def exercises_of(file: str) -> tuple[Exercise, ...]:
    """The exercises of one file, named without ``.py``."""
    return tuple(exercise for exercise in all_exercises().values() if exercise.file == file)


def exercise_named(name: str) -> Exercise:
    """The exercise that asks for a function of this name.

    Raises:
        ExerciseError: there is none.
    """
    try:
        return all_exercises()[name]
    except KeyError:
        raise ExerciseError(
            f"No exercise asks for a function called {name!r}.",
            mend=f"Keep the name of the stub. The exercises are: {', '.join(all_exercises())}.",
        ) from None
