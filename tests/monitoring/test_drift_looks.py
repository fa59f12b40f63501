"""How often the drift checks look: after every stride, and no oftener than the budget of false alarms allows."""

from __future__ import annotations

import pytest

from rlcourse.monitoring.drift import FalseAlarmBudget, Looks
from rlcourse.monitoring.drift.looks import DAY_S

HOUR_S = 3600.0


def looked(looks: Looks, *times_s: float | None) -> list[float | None]:
    """After which episodes there was a look."""
    return [at_s for at_s in times_s if looks.episode(at_s)]


@pytest.mark.parametrize("busy", [10, 200, 5_000])
def test_a_day_has_no_more_looks_than_the_level_was_shared_out_among(busy: int) -> None:
    looks = Looks(3, 1, FalseAlarmBudget(0.05, 4))
    found = looked(looks, *(day * DAY_S + DAY_S * number / busy for day in range(5) for number in range(busy)))
    by_day = [sum(at_s is not None and day <= at_s / DAY_S < day + 1 for at_s in found) for day in range(5)]
    assert by_day == [4] * 5
    assert looks.skipped == 5 * busy - 2 - len(found)


def test_looks_are_spread_over_the_day() -> None:
    looks = Looks(1, 1, FalseAlarmBudget(0.05, 4))
    assert looked(looks, *(HOUR_S * hour for hour in range(24))) == [0.0, 6 * HOUR_S, 12 * HOUR_S, 18 * HOUR_S]


def test_a_slow_stream_is_looked_at_after_every_stride() -> None:
    looks = Looks(4, 2, FalseAlarmBudget(0.05, 4))
    days = [float(number) * DAY_S for number in range(10)]
    assert looked(looks, *days) == [days[3], days[5], days[7], days[9]]
    assert looks.skipped == 0


def test_what_was_skipped_is_seen_by_the_next_look_and_waits_for_no_further_stride() -> None:
    looks = Looks(2, 2, FalseAlarmBudget(0.05, 4))
    found = looked(looks, *(float(second) for second in range(9)), 6 * HOUR_S, 6 * HOUR_S + 1.0)
    assert found == [1.0, 6 * HOUR_S]
    assert looks.skipped == 3


def test_without_times_the_stride_alone_decides() -> None:
    looks = Looks(3, 2, FalseAlarmBudget(0.05, 1))
    assert len(looked(looks, *[None] * 9)) == 4
