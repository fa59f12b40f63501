from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from rlcourse.errors import ConfigError
from rlcourse.release.assignment import canary_of, in_canary, place

ROOMS = [f"room-{n}" for n in range(200)]
SHARES = st.floats(0.0, 1.0)


@given(st.text(), st.text(), SHARES, SHARES)
def test_who_is_in_stays_in_when_the_share_grows(session: str, salt: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert not in_canary(session, salt, small) or in_canary(session, salt, large)
    assert not in_canary(session, salt, 0.0)
    assert in_canary(session, salt, 1.0)


def test_a_fixed_fleet_gives_exactly_the_number_and_keeps_it() -> None:
    before: frozenset[str] = frozenset()
    for count in (0, 1, 4, 20, 100, 200):
        now = canary_of(ROOMS, "r7", count)
        assert len(now) == count
        assert before <= now
        assert now == canary_of(list(reversed(ROOMS)), "r7", count)  # the order in which rooms are named means nothing
        before = now


def test_places_are_uniform_and_releases_draw_different_canaries() -> None:
    names = [f"session-{n}" for n in range(20_000)]
    one, two = (np.array([place(name, salt) for name in names]) for salt in ("r7", "r8"))
    assert kstest(one, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(len(names))
    assert ((one < 0.05) & (two < 0.05)).mean() == pytest.approx(0.0025, abs=5 * np.sqrt(0.0025 / len(names)))


def test_another_process_says_the_same() -> None:
    code = "from rlcourse.release.assignment import place; print(repr([place(f'room-{n}', 'r7') for n in range(5)]))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == repr([place(room, "r7") for room in ROOMS[:5]])


def test_what_is_no_share() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError):
            in_canary("a", "r7", share)
    with pytest.raises(ConfigError):
        canary_of(["a", "a"], "r7", 1)
    with pytest.raises(ConfigError):
        canary_of(["a"], "r7", 2)
