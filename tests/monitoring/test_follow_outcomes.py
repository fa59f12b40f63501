"""Overrides, violations, money and exploration, from the lines of a log to signals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError
from rlcourse.monitoring.exporter import Exporter, Registry
from rlcourse.monitoring.signals import return_on_investment
from rlcourse.recipes.monitor_follow import Follow
from rlcourse.serving import wire
from rlcourse.serving.following import LogFollower
from rlcourse.serving.sidecar import Sidecar
from rlcourse.serving.tracking import WatchConfig
from rlcourse.serving.watching import LogWatch
from tests.monitoring.logs import Written
from tests.monitoring.test_follow_watch import World

TEN_MINUTES = 600.0


class Plant(World):
    """A world whose decisions last ten minutes, with a baseline of 6 euros an hour."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, step_s=TEN_MINUTES, **more)
        config = WatchConfig(horizon_s=100.0, reward_deadline_s=50.0, step_s=TEN_MINUTES)
        self.registry = Registry()
        self.watch = LogWatch(Exporter(self.registry), config, baselines={"p": 6.0})
        self.sidecar = Sidecar(LogFollower(folder), self.watch, None, say=self.said.append, clock=lambda: self.now)


def test_an_override_is_counted_by_its_reason_where_the_action_differs(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    for done, reason in ((0, "operator"), (2, "operator"), (2, "operator"), (1, "limiter"), (0, "drill")):
        log.reward(log.decide(None, 0.0, action=0), 1.0, 1.0, executed=wire.Executed(done, reason))
    log.reward(log.decide(None, 0.0, action=0), 1.0, 1.0)
    world.at(2.0)
    counts = {
        reason: world.value("rl_human_overrides_total", reason=reason) for reason in ("operator", "limiter", "drill")
    }
    assert counts == {"operator": 2.0, "limiter": 1.0, "drill": 0.0}
    assert world.value("rl_human_overrides_total", reason="unspecified") is None


def test_rows_of_a_batch_are_overridden_one_by_one(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    name = log.decide(None, 0.0, observation=[[0.0, 1.0], [1.0, 0.0]], action=[[0.5], [0.25]], propensity=[0.5, 0.5])
    log.reward(name, 1.0, 1.0, row=0, executed=wire.Executed([0.25]))
    log.reward(name, 1.0, 1.0, row=1, executed=wire.Executed([0.25]))
    world.at(2.0)
    assert world.value("rl_human_overrides_total", reason="unspecified") == 1.0


def test_violations_are_counted_by_limit_and_as_a_share_of_what_is_known(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    for violations in (0, {"inlet": 0, "outlet": 0}, {"inlet": 1, "outlet": 3}, 2, None):
        log.reward(log.decide(None, 0.0), 1.0, 1.0, violations=violations)
    world.at(2.0)
    by_limit = [world.value("rl_safety_violations_total", constraint=name) for name in ("inlet", "outlet", "all")]
    assert by_limit == [1.0, 3.0, 2.0]
    assert world.value("rl_safety_violation_ratio") == 2 / 4, "of the fifth decision nobody has looked"
    assert world.value("rl_cost_euros_per_hour") is None


def test_money_by_what_for_an_hour_and_against_the_baseline(tmp_path: Path) -> None:
    log, world = Written(tmp_path), Plant(tmp_path)
    bills = ((0.5, {"energy": 0.6, "penalty": 0.1}), (0.9, 0.7), (0.8, None))
    for day, steps in enumerate(bills):
        for place, cost in enumerate(steps):
            name = log.decide(f"day{day}", 10.0 * day + place)
            log.reward(name, 10.0 * day + place + 0.5, 1.0, cost=cost, terminated=place == 1)
    world.at(50.0)
    assert world.value("rl_cost_euros_total", cost="energy") == pytest.approx(0.6)
    assert world.value("rl_cost_euros_total", cost="penalty") == pytest.approx(0.1)
    assert world.value("rl_cost_euros_total", cost="all") == pytest.approx(0.5 + 0.9 + 0.7 + 0.8)
    # Five decisions of a sixth of an hour.
    assert world.value("rl_cost_euros_per_hour") == pytest.approx(3.6 / (5 / 6))
    assert world.value("rl_roi_ratio") is None, "no day is mature"
    world.at(200.0)
    # The baseline costs 1 euro in ten minutes; of the last day's second step the cost is not known.
    wanted = return_on_investment([1.2, 1.6, 0.8], [2.0, 2.0, 1.0], paired=True)
    assert world.value("rl_roi_ratio") == pytest.approx(wanted.estimate) == pytest.approx(1.0 - 3.6 / 5.0)
    assert world.value("rl_roi_ratio_low") == pytest.approx(wanted.low)
    assert world.value("rl_roi_ratio_high") == pytest.approx(wanted.high)


def test_money_that_is_told_after_the_horizon_is_in_no_episode(tmp_path: Path) -> None:
    """Or two readers that look at other times would count differently."""
    found = []
    for looks in ((250.0,), (101.0, 130.0, 250.0)):
        folder = tmp_path / str(len(looks))
        log, world = Written(folder), Plant(folder)
        for session in ("a", "b"):
            log.reward(log.decide(session, 0.0), 1.0, 1.0, cost=1.0)
            log.reward(log.decide(session, 99.0), 120.0, 1.0, cost=50.0)
        for now in looks:
            world.at(now)
        assert world.value("rl_cost_euros_total", cost="all") == 102.0
        found.append(world.value("rl_roi_ratio"))
    assert found == [0.0, 0.0], "a euro in ten minutes, as the baseline"


def test_without_its_length_a_decision_has_no_hourly_cost(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    log.reward(log.decide(None, 0.0), 1.0, 1.0, cost=2.0)
    world.at(2.0)
    assert world.value("rl_cost_euros_total", cost="all") == 2.0
    assert world.value("rl_cost_euros_per_hour") is None


def test_exploration_is_what_the_service_noted(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    log.decide(None, 0.0, explored=True)
    log.decide(None, 0.0, explored=False)
    log.decide(None, 0.0, greedy=True, propensity=1.0)
    log.decide(None, 0.0)  # of a service that noted nothing
    log.decide(None, 0.0, fallback="timeout", explored=True)  # the fallback's action, not the policy's
    log.decide(
        None, 0.0, observation=[[0.0, 1.0], [1.0, 0.0]], action=[0, 1], propensity=[0.5, 0.5], explored=[True, False]
    )
    world.at(1.0)
    assert world.value("rl_exploration_ratio") == 2 / 5


def test_reasons_are_bounded(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    for number in range(80):
        executed = wire.Executed(1, f"reason-{number}")
        log.reward(log.decide(None, 0.0, action=0), 1.0, 1.0, executed=executed, cost={f"for-{number}": 1.0})
    world.at(2.0)
    counted = world.counters()
    for name, other in (("rl_human_overrides_total", "reason"), ("rl_cost_euros_total", "cost")):
        assert sum(key == name for key, _ in counted) == 65
        assert world.value(name, **{other: "other"}) == 16.0
        assert world.registry.get_sample_value("rl_label_overflow_total", {"signal": name, "label": other}) == 16.0


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_counts_no_money_twice(tmp_path: Path, seed: int) -> None:
    log, saved = Written(tmp_path / "log"), tmp_path / "follow.json"
    whole = World(tmp_path / "log", step_s=TEN_MINUTES)
    parts: list[World] = [World(tmp_path / "log", saved=saved, step_s=TEN_MINUTES)]
    rng = np.random.default_rng(seed)
    for n in range(300):
        now = 1_000.0 + n
        name = log.decide(f"s{n // 10}", now, action=int(rng.integers(3)))
        more = {"cost": float(rng.random()), "violations": int(rng.integers(3)), "executed": wire.Executed(1, "drill")}
        log.reward(name, now, 1.0, terminated=n % 10 == 9, **more)
        if n % 50 == 49:
            whole.at(now)
            parts[-1].at(now)
            parts.append(World(tmp_path / "log", saved=saved, step_s=TEN_MINUTES))
    whole.at(1_600.0)
    parts[-1].at(1_600.0)
    names = ("rl_human_overrides_total", "rl_safety_violations_total", "rl_cost_euros_total")
    for name in names:
        (wanted,) = [value for (key, _), value in whole.counters().items() if key == name]
        assert wanted > 0.0
        got = sum(value for part in parts for (key, _), value in part.counters().items() if key == name)
        assert got == pytest.approx(wanted)


def test_words_about_the_baseline(tmp_path: Path) -> None:
    step = WatchConfig(step_s=600.0)
    follow = Follow(log=tmp_path, baseline_cost=("a=1.5", "b=c=2"), watch=step)
    assert follow.baselines == {"a": 1.5, "b=c": 2.0}
    for words in ("a", "a=", "=1", "a=x", "a=0", "a=-1", "a=inf", "a=nan"):
        with pytest.raises(ConfigError, match="no baseline"):
            Follow(log=tmp_path, baseline_cost=(words,), watch=step)
    with pytest.raises(ConfigError, match="two baselines"):
        Follow(log=tmp_path, baseline_cost=("a=1", "a=2"), watch=step)
    with pytest.raises(ConfigError, match="how long a decision lasts"):
        Follow(log=tmp_path, baseline_cost=("a=1",))
    with pytest.raises(ConfigError, match="lasts"):
        WatchConfig(step_s=0.0)
