"""What episodes met, from lines of a log to sums by day, also over a restart."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from rlcourse.errors import ConfigError
from rlcourse.release.conditions import Conditions, sums_from
from rlcourse.serving.returns import DailyReturns
from rlcourse.serving.tracking import WatchConfig
from tests.monitoring.logs import Written
from tests.monitoring.test_follow_watch import World


def kept(world: World, version: str = "v1") -> tuple[float, list[float], list[list[float]]]:
    """Of the one day that there is."""
    (day,) = world.watch.returns.to_json()["moments"]["p"].values()
    count, first, second = sums_from(day[version], 4)
    return count, first.tolist(), second.tolist()


def spoken(log: Written) -> None:
    """Two episodes: returns 3 and 5; columns 0 and 1 are (1, 2), (3, 4) in the first, and (2, 2) in the second."""
    for place, (seen, reward) in enumerate((([1.0, 2.0, 9.0], 1.0), ([3.0, 4.0, 9.0], 2.0))):
        name = log.decide("a", float(place), observation=seen)
        log.reward(name, place + 0.5, reward, terminated=place == 1)
    log.episode("b", 2.0, (5.0,), observation=[2.0, 2.0, 9.0])


@pytest.mark.parametrize(
    ("over", "first"), [("episode", [2.0, 3.0, 7.0]), ("first", [1.0, 2.0, 2.0])]
)  # (1 + 3)/2, (2 + 4)/2, (2 + 12)/2
def test_worked_conditions(tmp_path: Path, over: str, first: list[float]) -> None:
    log, world = Written(tmp_path), World(tmp_path, conditions=(0, 1), conditions_over=over)
    spoken(log)
    world.at(150.0)
    a, b = np.array([3.0, *first]), np.array([5.0, 2.0, 2.0, 4.0])
    count, sums, products = kept(world)
    assert (count, sums) == (2.0, (a + b).tolist())
    assert products == (np.outer(a, a) + np.outer(b, b)).tolist()


def test_a_restart_counts_the_same(tmp_path: Path) -> None:
    """Killed in the middle of an episode: its first decision is read again."""
    log, saved = Written(tmp_path / "log"), tmp_path / "follow.json"
    name = log.decide("a", 0.0, observation=[1.0, 2.0, 9.0])
    first = World(tmp_path / "log", saved=saved, conditions=(0, 1))
    first.at(0.2)
    log.reward(name, 0.5, 1.0)
    log.reward(log.decide("a", 1.0, observation=[3.0, 4.0, 9.0]), 1.5, 2.0, terminated=True)
    log.episode("b", 2.0, (5.0,), observation=[2.0, 2.0, 9.0])
    second = World(tmp_path / "log", saved=saved, conditions=(0, 1)).at(50.0)
    assert second.watch.returns.to_json()["moments"] == {}
    third = World(tmp_path / "log", saved=saved, conditions=(0, 1)).at(150.0)
    whole = World(tmp_path / "log", conditions=(0, 1)).at(150.0)
    assert kept(third) == kept(whole)
    again = World(tmp_path / "log", saved=saved, conditions=(0, 1))
    assert kept(again) == kept(whole)
    other = World(tmp_path / "log", saved=saved, conditions=(0, 2))
    assert other.watch.returns.to_json()["moments"] == {}  # other conditions are not these
    assert other.watch.returns.to_json()["policies"] == whole.watch.returns.to_json()["policies"]


def test_missing_readings_leave_an_episode_without_conditions(tmp_path: Path) -> None:
    for over, times in product(("episode", "first"), (1, 2)):
        log = Written(tmp_path / f"{over}{times}")
        world = World(log.folder, conditions=(0, 1), conditions_over=over)
        for place in range(times):
            seen = [None, 2.0] if place == 0 else [3.0, 4.0]
            log.reward(log.decide("a", float(place), observation=seen), place + 0.5, 1.0, terminated=place == times - 1)
        world.at(150.0)
        assert world.value("rl_episode_return_mean") == float(times)
        found = world.watch.returns.to_json()["moments"]
        if over == "first" or times == 1:
            assert found == {}
        else:
            met = [2.0, 3.0, 4.0, 12.0]
            assert kept(world) == (1.0, met, np.outer(met, met).tolist())


def test_a_client_that_asks_twice_meets_its_conditions_once(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path, conditions=(0, 1))
    log.decide("a", 0.0, request_id="same", observation=[1.0, 1.0])
    log.decide("a", 0.1, request_id="same", observation=[1.0, 1.0])
    log.reward("same", 1.0, 4.0)
    log.reward(log.decide("a", 2.0, observation=[4.0, 1.0]), 3.0, 0.0, terminated=True)
    world.at(150.0)
    assert kept(world)[1] == [4.0, 2.5, 1.0, 2.5]


def test_rows_of_a_batch_meet_their_own_conditions(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path, conditions=(0, 1))
    name = log.decide(None, 0.0, observation=[[1.0, 2.0], [3.0, 5.0]], action=[0, 1], propensity=[0.5, 0.5])
    log.reward(name, 1.0, 10.0, row=0)
    log.reward(name, 1.0, 20.0, row=1)
    world.at(150.0)
    assert kept(world)[1] == [30.0, 4.0, 7.0, 17.0]
    assert kept(world)[2][0][1] == 10.0 * 1.0 + 20.0 * 3.0


def test_days_of_conditions_are_bounded_and_come_back() -> None:
    returns = DailyReturns(day_s=10.0, days=2, versions=2, conditions=Conditions((3,)))
    for day in range(5):
        returns.add("p", "v1", 10.0 * day, 3.0, [float(day)])
    returns.add("p", "v1", 40.0, 3.0, None)
    told = json.loads(json.dumps(returns.to_json()))
    assert told["conditions"] == {"columns": [3], "over": "episode"}
    assert told["policies"]["p"]["4"]["v1"][0] == 2.0
    assert told["moments"] == {"p": {"3": {"v1": [1, 3, 3, 9, 9, 9]}, "4": {"v1": [1, 3, 4, 9, 12, 16]}}}
    again = DailyReturns(day_s=10.0, days=2, versions=2, conditions=Conditions((3,)))
    again.restore(told)
    assert again.to_json() == told
    without = DailyReturns(day_s=10.0)
    without.restore(told)
    assert "moments" not in without.to_json()
    told["moments"]["p"]["4"]["v1"].pop()
    with pytest.raises(ValueError, match="sums"):
        DailyReturns(day_s=10.0).restore(told)


def test_conditions_that_are_none() -> None:
    with pytest.raises(ConfigError, match="columns"):
        WatchConfig(conditions=(1, 1))
