"""Chapter 16's exercises: references agree with the handler and with NumPy, the symptom is true."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlcourse.course import cases_ch16 as cases
from rlcourse.course.exercise_set import Exercise, exercises_of
from rlcourse.course.mutation import mutated


def planted(exercise: Exercise) -> Callable[..., Any]:
    assert exercise.mutation is not None
    return mutated(exercise.reference, exercise.mutation)


def test_there_are_functions_to_write_and_bugs_to_find() -> None:
    kinds = [exercise.kind for exercise in exercises_of("ch16_torchserve")]
    assert (kinds.count("function"), kinds.count("hunt")) == (2, 1)


@pytest.mark.parametrize("seed", range(20))
def test_the_percentile_is_numpys_without_interpolation(seed: int) -> None:
    given = cases.LOAD_FIGURES.draw(np.random.default_rng(seed))
    latency = (given["answered_s"] - given["sent_s"])[given["succeeded"]].numpy()
    wanted = np.quantile(latency, 0.99, method="inverted_cdf")
    assert cases.load_figures(**given)[1] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_each_request_is_answered_as_if_it_had_come_alone(seed: int) -> None:
    given = cases.ANSWERED_IN_PLACE.draw(np.random.default_rng(seed))
    weight, bias = given["weight"], given["bias"]
    together = cases.answered_in_place(**given)
    assert together == [cases.answered_in_place([one], weight, bias)[0] for one in given["requests"]]
    assert together.count(-1) == 4
    for numbers, action in zip(given["requests"], together, strict=True):
        if action >= 0:
            scores = weight.numpy() @ np.array(numbers, np.float32) + bias.numpy()
            assert action == scores.argmax()
        else:
            assert len(numbers) != 3 or not all(map(math.isfinite, numbers))


def test_the_tenth_release_gets_no_request() -> None:
    bug = planted(cases.HUNT_DEFAULT_VERSION)
    for newest in range(1, 10):
        loaded = [f"1.{minor}" for minor in range(1, newest + 1)]
        assert bug(loaded, "") == cases.default_version(loaded, "") == f"1.{newest}"
    loaded = [f"1.{minor}" for minor in range(1, 11)]
    assert bug(loaded, "") == "1.9"
    assert cases.default_version(loaded, "") == "1.10"
