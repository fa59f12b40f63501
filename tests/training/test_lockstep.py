"""Runs that wait for each other."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from rlcourse.training.lockstep import in_step
from rlcourse.training.runs import Stop


def rising(by: float, looks: int, stop: Stop) -> None:
    for look in range(1, looks + 1):
        if stop(look, by * look):
            return


def test_the_judge_sees_all_runs_at_the_same_look_in_its_own_thread() -> None:
    seen: list[tuple[int, list[float]]] = []
    home = threading.current_thread()

    def judge(look: int, returns: list[float]) -> bool:
        assert threading.current_thread() is home
        seen.append((look, returns))
        return False

    together = in_step([partial(rising, 1.0, 3), partial(rising, 10.0, 3)], judge)
    assert seen == [(1, [1.0, 10.0]), (2, [2.0, 20.0]), (3, [3.0, 30.0])]
    assert (together.last, together.stopped) == ([3.0, 30.0], False)


def test_one_word_stops_them_all() -> None:
    before = threading.active_count()  # other tests' libraries may have threads of their own
    together = in_step([partial(rising, 1.0, 99), partial(rising, 2.0, 99)], lambda look, _: look == 4)
    assert (together.last, together.stopped) == ([4.0, 8.0], True)
    assert threading.active_count() == before


def test_only_one_runs_at_a_time() -> None:
    inside = threading.Lock()

    def run(stop: Stop) -> None:
        for look in range(1, 20):
            assert inside.acquire(blocking=False), "two runs at once"
            sum(range(10_000))
            inside.release()
            stop(look, 0.0)

    in_step([run, run, run], lambda *_: False)


def test_an_error_ends_the_others_and_is_raised_here() -> None:
    before = threading.active_count()

    def broken(stop: Stop) -> None:
        stop(1, 0.0)
        raise ZeroDivisionError("inside")

    with pytest.raises(ZeroDivisionError, match="inside"):
        in_step([partial(rising, 1.0, 10**9), broken], lambda *_: False)
    assert threading.active_count() == before
