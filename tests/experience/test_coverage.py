from __future__ import annotations

import numpy as np
import pytest

from rlcourse.experience.coverage import MOST_CELLS, coverage


def test_worked_number() -> None:
    found = coverage(np.array([[0, 0], [0, 1], [1, 1], [1, 1]], dtype=np.float32))
    # Shares 1/4, 1/4, 1/2 have the entropy 1.5 ln 2.
    assert found == {"parts": 20, "cells": 400, "occupied": 3, "share": 3 / 400, "effective": pytest.approx(2**1.5)}


def test_a_grid_that_is_filled_evenly_is_covered() -> None:
    axis = np.linspace(0, 1, 40)  # two to each of 20 parts
    found = coverage(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    assert found is not None
    assert (found["share"], found["effective"]) == (1.0, pytest.approx(400))


def test_evenness_tells_a_visit_from_a_stay() -> None:
    corner = np.zeros((10_000, 1))
    passed = np.linspace(0, 1, 20)[:, None]
    found = coverage(np.concatenate([corner, passed]))
    assert found is not None and found["occupied"] == 20 and found["effective"] < 1.1


@pytest.mark.parametrize(("entries", "parts"), [(1, 20), (3, 20), (4, 10), (8, 3), (11, 2), (17, 2), (20, 2)])
def test_there_are_about_as_many_cells_whatever_the_size(entries: int, parts: int) -> None:
    found = coverage(np.random.default_rng(0).normal(size=(100, entries)))
    assert found is not None and (found["parts"], found["cells"]) == (parts, parts**entries)
    assert parts == 2 or parts**entries <= MOST_CELLS
    assert found["occupied"] <= 100


def test_entries_that_never_vary_are_not_cut_and_too_many_that_do_are_not_counted() -> None:
    still = np.ones((5, 30))
    assert coverage(still) == {"parts": 20, "cells": 1, "occupied": 1, "share": 1.0, "effective": 1.0}
    assert coverage(np.random.default_rng(0).normal(size=(5, 21))) is None
    still[:, 3] = np.arange(5)
    found = coverage(still)
    assert found is not None and (found["cells"], found["occupied"]) == (20, 5)
