"""One room seen for ten days is not ten rooms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from rlcourse.errors import ConfigError, ShapeError
from rlcourse.randomness import Seeds
from rlcourse.release.gates import GateConfig, read
from rlcourse.release.matching import Tally, Variation, matched
from rlcourse.release.planning import Goal, least_share, plan_release
from rlcourse.release.rooms import attainable, design_information, matched_rooms, rooms_of, usual_of_rooms

Array = npt.NDArray[np.float64]
KNOWN = Variation(1.0, 2.0, worth=1e12, rooms=0.8)


def drawn(sizes: list[int], fleet: int, runs: int, rng: np.random.Generator, *, rooms: float = 0.8) -> Tally:
    """Deviations 1 of the incumbent's days and 2 of the candidate's; the canary grows and nobody leaves it."""
    theirs = np.arange(fleet) < np.array(sizes)[:, None]
    noise = rng.normal(size=(runs, len(sizes), fleet)) * np.where(theirs, 2.0, 1.0)
    # Days that differ are nobody's doing.
    y = noise + rng.normal(0.0, rooms, (runs, 1, fleet)) + rng.normal(0.0, 5.0, (runs, len(sizes), 1))
    episodes = np.broadcast_to(np.stack([~theirs, theirs], axis=1).astype(float), (runs, len(sizes), 2, fleet))
    total = episodes * y[:, :, None]
    return Tally(episodes, total, total * y[:, :, None])


def dense(tally: Tally, noise: Array, between: float) -> tuple[float, float]:
    """Generalised least squares with the whole covariance matrix written out."""
    places = list(zip(*np.nonzero(tally.episodes), strict=True))
    days = tally.episodes.shape[0]
    x, y = np.zeros((len(places), days + 1)), np.array([tally.total[place] / tally.episodes[place] for place in places])
    covariance = np.zeros((len(places), len(places)))
    for i, (day, arm, room) in enumerate(places):
        x[i, day], x[i, days] = 1.0, arm
        covariance[i] = [between * (room == other) for _, _, other in places]
        covariance[i, i] += noise[arm] / tally.episodes[day, arm, room]
    solved = np.linalg.inv(x.T @ np.linalg.inv(covariance) @ x)
    return float((solved @ x.T @ np.linalg.inv(covariance) @ y)[days]), 1.0 / float(solved[days, days])


def test_it_is_least_squares_with_the_whole_covariance() -> None:
    """Rooms that run none, one or two episodes a day, on either side."""
    rng = Seeds(0).numpy("returns")
    arm = rng.random((4, 7)) < 0.4
    episodes = np.stack([~arm, arm], axis=1) * rng.integers(0, 3, (4, 1, 7)).astype(float)
    total = episodes * rng.normal(size=episodes.shape)
    tally = Tally(episodes, total, total**2)
    found = matched_rooms(tally, KNOWN)
    assert (float(found.estimate), float(found.information)) == pytest.approx(dense(tally, np.array([1.0, 4.0]), 0.64))


def test_rooms_that_are_alike_are_compared_day_by_day() -> None:
    rooms = drawn([3, 3, 6], 12, 1, Seeds(1).numpy("returns"), rooms=0.0)
    by_day = Tally(*(part.sum(axis=-1) for part in rooms))
    alike, plain = Variation(1.0, 2.0, worth=1e12, rooms=0.0), Variation(1.0, 2.0, worth=1e12)
    for one, other in zip(matched_rooms(rooms, alike), matched(by_day, plain), strict=True):
        np.testing.assert_allclose(one, other)


def test_numbers_worked_by_hand() -> None:
    twice = Variation(2.0, 2.0, rooms=1.0)
    assert design_information([4], 8, twice) == pytest.approx(0.4)
    assert design_information([4] * 100, 8, twice) == pytest.approx(1.0 / 0.52)
    found = usual_of_rooms(np.array([4.0, 4.0, 0.0]), np.array([3.0, 5.0, 9.0]), 2.0)
    assert found.beyond.tolist() == [-0.5, 0.5, 0.0]
    assert usual_of_rooms(np.array([4.0, 4.0]), np.array([3.0, 5.0]), 2.0).sd == pytest.approx(np.sqrt(0.5))
    rooms = rooms_of(["b", "a", "b"], [0, 0, 2], [1, 0, 1], [1.0, 2.0, 3.0])
    assert rooms.names == ("a", "b")
    assert rooms.tally.total[:, :, 1].tolist() == [[0.0, 1.0], [0.0, 0.0], [0.0, 3.0]]
    with pytest.raises(ShapeError):
        rooms_of(["a"], [0, 0], [0, 0], [1.0, 2.0])


def test_the_estimates_of_all_evenings_have_independent_increments() -> None:
    """Which is why they may be looked at every evening: the covariance of two of them is the variance of the later one."""
    rooms = drawn([4, 4, 8, 20], 40, 4_000, Seeds(2).numpy("returns"))
    evenings = [matched_rooms(Tally(*(part[:, :day] for part in rooms)), KNOWN) for day in range(1, 5)]
    estimates = np.stack([one.estimate for one in evenings])
    information = np.array([one.information[0] for one in evenings])
    np.testing.assert_allclose(estimates.var(axis=1) * information, 1.0, atol=5 * np.sqrt(2 / 4_000))
    score = np.diff(estimates * information[:, None], axis=0)
    assert np.abs(np.corrcoef(score) - np.eye(3)).max() < 5.0 / np.sqrt(4_000)


def wrong(rooms: Tally, variation: Variation, *, told_apart: bool) -> float:
    """Share of runs in which the gate's interval leaves zero out on some evening."""
    gate, found = GateConfig(tuned_at=2.0), np.zeros(rooms.episodes.shape[0], dtype=bool)
    for day in range(1, rooms.episodes.shape[1] + 1):
        seen = Tally(*(part[:, :day] for part in rooms))
        by_day = Tally(*(part.sum(axis=-1) for part in seen))
        contrast = matched_rooms(seen, variation) if told_apart else matched(by_day, variation)
        reading = read(contrast, 0.0, gate)
        found |= reading.harm | (reading.low > 0.0)
    return float(found.mean())


def test_the_promise_holds_for_thirty_evenings_in_rooms_that_differ_and_did_not_before() -> None:
    """The spread of the rooms is learnt from the incumbent's: the guess is far off."""
    rooms = drawn([8] * 10 + [20] * 20, 80, 1_000, Seeds(3).numpy("returns"), rooms=2.0)
    room_days = Variation(1.0, 2.0)
    assert wrong(rooms, room_days, told_apart=False) > 0.3  # each day counted as if it were of new rooms
    assert wrong(rooms, Variation(1.0, 2.0, rooms=0.2), told_apart=True) < 0.05 + 4 * np.sqrt(0.05 / 1_000)
    # Where nobody tells the rooms apart, all days count as about one.
    assert wrong(rooms, Variation(1.0, 2.0, rooms=0.2), told_apart=False) < 0.05 + 4 * np.sqrt(0.05 / 1_000)


def test_what_four_rooms_cannot_tell() -> None:
    rooms = drawn([4] * 10, 80, 1, Seeds(4).numpy("returns"))
    one = Tally(*(part[0] for part in rooms))
    most = attainable(one, KNOWN)
    assert most == pytest.approx(1.0 / (0.64 / 4 + 0.64 / 76), rel=1e-3)
    assert matched_rooms(one, KNOWN).information < most
    # A day on which the candidate has not run yet changes nothing, and before the first one nobody can tell.
    waiting = Tally(*(np.concatenate([part, part[:1] * [[1.0], [0.0]]]) for part in one))
    assert attainable(waiting, KNOWN) == pytest.approx(most, rel=0.01)
    nothing = rooms_of([], [], [], []).tally
    assert (attainable(nothing, KNOWN), float(matched_rooms(nothing, KNOWN).information)) == (np.inf, 0.0)


def test_the_plan_knows_how_many_rooms_it_needs() -> None:
    goals = (Goal(0.02, 4.5), Goal(0.1, 2.25), Goal(0.5, 2.25, "gain", 0.9))
    alike, little = (
        plan_release(200, goals, Variation(1.3, 2.6)),
        plan_release(200, goals, Variation(1.3, 2.6, rooms=0.3)),
    )
    assert [stage.days for stage in alike.stages] == [3, 1, 1]
    assert sum(stage.days for stage in little.stages) > 5
    with pytest.raises(ConfigError, match=r"4 of 200.*share of 0\.0") as refused:
        plan_release(200, goals, Variation(1.3, 2.6, rooms=2.3))
    share = float(refused.value.mend.split("share of ")[1].split(",")[0])
    wide = tuple(Goal(max(share, goal.share), goal.effect, goal.prove, goal.power) for goal in goals[:1])
    assert plan_release(200, wide, Variation(1.3, 2.6, rooms=2.3)).stages[0].days <= 60
    assert least_share(200, 1e6, Variation(1.3, 2.6, rooms=2.3)) is None
    with pytest.raises(ConfigError, match="draw the rooms anew"):
        plan_release(200, (Goal(0.02, 0.1),), Variation(1.3, 2.6, rooms=2.3))


def test_equal_rooms_take_out_nothing_and_different_ones_nearly_all() -> None:
    rng = Seeds(6).numpy("past")
    past, noise = np.full((500, 100), 25.0), rng.normal(0.0, 0.2, (500, 100))
    alike = usual_of_rooms(past, noise, 1.0)
    assert np.abs(alike.beyond).mean() < 0.05
    factors = rng.normal(0.0, 3.0, (500, 100))
    apart = usual_of_rooms(past, factors + noise, 1.0)
    left = factors - factors.mean(axis=1, keepdims=True) - apart.beyond
    assert left.std() == pytest.approx(apart.sd.mean(), rel=0.05)
    assert left.std() == pytest.approx(0.2, rel=0.05)


def test_a_deviation_of_rooms_below_zero_is_none() -> None:
    with pytest.raises(ConfigError):
        Variation(1.0, 1.0, rooms=-1.0)
