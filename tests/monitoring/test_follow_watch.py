"""From lines to signals: the join, maturity, bounds, drift, and a restart that counts nothing twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.drift import CHECKS, DriftConfig, DriftMonitor
from rlcourse.monitoring.exporter import Exporter, Registry
from rlcourse.randomness import Seeds
from rlcourse.serving.following import LogFollower
from rlcourse.serving.returns import DailyReturns
from rlcourse.serving.sidecar import Sidecar, read_saved
from rlcourse.serving.tracking import WatchConfig
from rlcourse.serving.watching import LogWatch
from tests.monitoring.logs import Written
from tests.monitoring.worlds import small_plant, steady_plant


class World:
    """A sidecar on a log, at times that the test sets."""

    def __init__(
        self, folder: Path, *, drift: DriftMonitor | None = None, saved: Path | None = None, **more: Any
    ) -> None:
        self.registry = Registry()
        config = WatchConfig(**{"horizon_s": 100.0, "reward_deadline_s": 50.0, "success_return": 3.0, **more})
        self.watch = LogWatch(Exporter(self.registry), config, drift=drift)
        self.now, self.said = 0.0, list[str]()
        folder.mkdir(exist_ok=True)
        follower = LogFollower(folder, piece_bytes=2_000)
        self.sidecar = Sidecar(follower, self.watch, saved, say=self.said.append, clock=lambda: self.now)
        if saved is not None and (found := read_saved(saved, folder)) is not None:
            self.sidecar.resume(found)

    def at(self, now: float) -> World:
        self.now = now
        self.sidecar.round()
        return self

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"policy": "p", "version": "v1", **labels})

    def counters(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Everything that only grows, but what is 0."""
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.registry.collect()
            if family.type in ("counter", "histogram")
            for sample in family.samples
            if sample.value
        }


def test_worked_episodes(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    log.episode("a", 0.0, (1.0, 2.0))  # 3: a success
    log.episode("b", 10.0, (1.0,), action=1)  # 1: none
    name = log.decide("c", 20.0)
    log.reward(name, 21.0, 5.0)  # goes on
    world.at(99.0)
    assert world.value("rl_episodes_total", end="terminated") is None  # nothing is mature
    assert world.value("rl_episodes_unfinished") == 1.0
    world.at(120.0)
    assert world.value("rl_episodes_total", end="terminated") == 2.0
    assert world.value("rl_episodes_total", end="abandoned") == 1.0
    assert world.value("rl_episode_return_mean") == pytest.approx((3.0 + 1.0 + 5.0) / 3.0)
    assert world.value("rl_episode_steps_sum") == 2.0 + 1.0 + 1.0
    assert world.value("rl_success_ratio") == pytest.approx(1.0 / 3.0)
    assert world.value("rl_episodes_succeeded_total") == 1.0
    assert world.value("rl_actions_total", action="0") == 3.0
    assert world.value("rl_actions_total", action="1") == 1.0
    assert world.value("rl_reward_delay_seconds_count") == 4.0
    assert world.value("rl_reward_delay_seconds_sum") == pytest.approx(0.5 + 0.5 + 0.5 + 1.0)


def test_a_decision_without_a_session_is_an_episode(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    log.reward(log.decide(None, 0.0), 1.0, 4.0)
    log.decide(None, 1.0)  # nobody says what came of it
    world.at(101.0)
    assert world.value("rl_episodes_total", end="terminated") == 1.0
    assert world.value("rl_episodes_total", end="abandoned") == 1.0
    assert world.value("rl_rewards_expired_total") == 1.0


def test_rows_of_a_batch_are_episodes_of_their_own(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    both = {"observation": [[0.0, 1.0], [1.0, 0.0]], "action": [0, 1], "propensity": [0.5, 0.25]}
    name = log.decide(None, 0.0, fallback=[None, "timeout"], **both)
    log.reward(name, 1.0, 3.0, row=1)
    log.reward(name, 1.0, 1.0, row=0)
    world.at(100.0)
    assert world.value("rl_episode_return_mean") == 2.0
    assert world.watch.summary()[0]["fallbacks"] == {"timeout": 1}
    # The fallback's draw says nothing of the policy's entropy.
    assert world.value("rl_policy_entropy_nats") == pytest.approx(math.log(2.0))


def test_rewards_are_awaited_and_expire(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    first = log.decide("a", 0.0)
    log.decide("a", 1.0)
    world.at(10.0)
    assert world.value("rl_rewards_pending") == 2.0
    assert world.value("rl_rewards_expired_total") == 0.0
    log.reward(first, 11.0, 1.0)
    world.at(60.0)
    assert world.value("rl_rewards_pending") == 0.0
    assert world.value("rl_rewards_expired_total") == 1.0
    log.reward("nobody's", 61.0, 1.0)
    world.at(62.0)
    assert world.watch.unmatched == 1


def test_entropy_is_the_mean_surprise_of_drawn_actions(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    rng, p = np.random.default_rng(0), np.array([0.5, 0.25, 0.25])
    for n, action in enumerate(rng.choice(3, size=4_000, p=p).tolist()):
        log.decide(None, 0.001 * n, action=action, propensity=float(p[action]))
    log.decide(None, 5.0, propensity=1.0, greedy=True)
    world.at(10.0)
    # 1.5 bits; the surprise is 1 or 2 bits with a half each, so its mean has a deviation of 0.5 / sqrt(4000) bits.
    entropy = world.value("rl_policy_entropy_nats")
    assert entropy is not None
    assert abs(entropy - 1.5 * math.log(2.0)) < 4 * 0.5 * math.log(2.0) / math.sqrt(4_000)


def test_success_is_not_spoken_of_where_nobody_said_what_it_is(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path, success_return=None)
    log.episode("a", 0.0, (1.0,))
    world.at(200.0)
    assert world.value("rl_episode_return_mean") == 1.0
    assert world.value("rl_success_ratio") is None
    assert world.value("rl_episodes_succeeded_total") is None


def test_an_episode_belongs_to_the_version_that_began_it(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    log.reward(log.decide("a", 0.0, version="v2"), 0.5, 1.0)
    log.reward(log.decide("a", 1.0, version="v1"), 1.5, 2.0, terminated=True)  # rolled back in between
    log.episode("b", 2.0, (7.0,), version="v1")
    world.at(200.0)
    assert world.value("rl_episode_return_mean", version="v2") == 3.0
    assert world.value("rl_episode_return_mean", version="v1") == 7.0
    assert world.value("rl_reward_delay_seconds_count", version="v1") == 2.0


def test_a_memory_that_starts_anew_starts_an_episode(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    log.reward(log.decide("a", 0.0, started=True), 0.5, 1.0)
    log.reward(log.decide("a", 1.0, started=True), 1.5, 2.0, terminated=True)
    world.at(200.0)
    assert world.value("rl_episodes_total", end="abandoned") == 1.0
    assert world.value("rl_episodes_total", end="terminated") == 1.0


def test_a_client_that_asks_twice_decides_once(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    log.decide(None, 0.0, request_id="same")
    log.decide(None, 0.1, request_id="same")
    log.reward("same", 1.0, 4.0)
    world.at(200.0)
    assert world.value("rl_episodes_total", end="terminated") == 1.0
    assert world.value("rl_rewards_expired_total") == 0.0


@pytest.mark.parametrize("policies", [("p", "p"), ("p", "q")])
def test_a_request_id_of_two_sessions_is_two_decisions(tmp_path: Path, policies: tuple[str, str]) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    for session, policy in zip("ab", policies, strict=True):
        log.decide(session, 0.0, request_id="same", policy=policy)
    log.reward("same", 1.0, 4.0, session="a", terminated=True)
    log.reward("same", 1.5, 5.0, session="a", terminated=True)
    log.reward("same", 2.0, 1.0, session="b", terminated=True)
    world.at(200.0)
    world.watch.show()
    means = {policy: world.value("rl_episode_return_mean", policy=policy) for policy in policies}
    assert means == ({"p": 2.5} if policies == ("p", "p") else {"p": 4.0, "q": 1.0})
    assert world.watch.unmatched == 1, "a second reward of one session is not the other session's"
    assert not any(seen.sessions for seen in world.watch._versions.values())


def test_a_reward_that_could_be_of_two_sessions_is_nobodys(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path)
    for session in "ab":
        log.decide(session, 0.0, request_id="same")
    log.decide(None, 0.0, request_id="alone")
    log.reward("same", 1.0, 4.0, terminated=True)
    log.reward("alone", 1.0, 2.0, session="of-the-client")
    world.at(200.0)
    world.watch.show()
    assert world.watch.unmatched == 1
    assert world.value("rl_rewards_expired_total") == 2.0
    assert world.value("rl_episode_return_mean") == pytest.approx(2.0 / 3), (
        "the one without a session, and two of nothing"
    )


def test_memory_is_bounded_in_everything(tmp_path: Path) -> None:
    log = Written(tmp_path)
    world = World(
        tmp_path,
        drift=monitor(),
        max_episodes=50,
        max_decisions=80,
        max_versions=3,
        max_lines=120,
        window_episodes=20,
        window_decisions=30,
    )
    sessions = 1_500
    for n in range(sessions):
        name = log.decide(f"s{n}", 0.01 * n, version=f"v{n // 300}")
        if n % 3:
            log.reward(name, 0.01 * n, 1.0, terminated=n % 3 == 1)
    world.at(0.01 * sessions)
    assert len(world.watch._versions) == 3
    assert world.watch._kept <= 120
    kept = sum(len(one.lines or ()) for seen in world.watch._versions.values() for one in seen.running.values())
    assert kept == world.watch._kept
    assert len(world.watch._sessions) <= 50
    for seen in world.watch._versions.values():
        assert len(seen.running) <= 100
        assert len(seen.awaited) == len(seen.pending) <= 80
        assert list(seen.awaited) == list(seen.pending._since)
        assert sum(map(len, seen.sessions.values())) == len(seen.awaited)
    assert world.watch.crowded_out > 0
    world.at(1_000.0)
    # Every episode of the versions that are still watched was counted once, crowded out or mature.
    counted = world.counters()
    for version in ("v3", "v4"):
        ends = {
            dict(labels)["end"]: n
            for (name, labels), n in counted.items()
            if name == "rl_episodes_total" and ("version", version) in labels
        }
        assert ends == {"terminated": 100.0, "abandoned": 200.0}


@pytest.mark.parametrize("seed", range(4))
def test_a_restart_counts_nothing_twice(tmp_path: Path, seed: int) -> None:
    log, saved = Written(tmp_path / "log"), tmp_path / "follow.json"
    whole = World(tmp_path / "log")
    parts: list[World] = [World(tmp_path / "log", saved=saved)]
    rng = np.random.default_rng(seed)
    open_: list[str] = []
    for n in range(600):
        now = 1_000.0 + n
        session = f"s{rng.integers(8)}" if n % 5 else "endless"
        open_.append(log.decide(session, now, action=int(rng.integers(3))))
        if rng.random() < 0.8:
            name = open_.pop(int(rng.integers(len(open_))))
            log.reward(name, now, float(rng.normal()), terminated=bool(rng.random() < 0.05) and session != "endless")
        if n % 60 == 59:
            whole.at(now)
            parts[-1].at(now)
            if n % 120 == 119:
                parts.append(World(tmp_path / "log", saved=saved))  # the one before is killed
    for now in (1_650.0, 2_000.0):
        whole.at(now)
        parts[-1].at(now)
    together: dict[Any, float] = {}
    for part in parts:
        for key, value in part.counters().items():
            together[key] = together.get(key, 0.0) + value
    assert together == pytest.approx(whole.counters())
    assert sum(part.sidecar.lines for part in parts) == whole.sidecar.lines
    assert sums(parts[-1]) == pytest.approx(sums(whole))
    gauges = ("rl_rewards_pending", "rl_episodes_unfinished")
    assert [parts[-1].value(name) for name in gauges] == [whole.value(name) for name in gauges]


def sums(world: World) -> list[float]:
    """The returns by day and version."""
    (days,) = world.watch.returns.to_json()["policies"].values()
    return [number for _, versions in sorted(days.items()) for _, three in sorted(versions.items()) for number in three]


def test_what_was_not_saved_is_counted_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between counting and saving: nobody has seen those counts."""
    log, saved = Written(tmp_path / "log"), tmp_path / "follow.json"
    log.episode("a", 0.0, (1.0,))
    first = World(tmp_path / "log", saved=saved).at(150.0)
    shown = first.counters()
    log.episode("b", 160.0, (2.0, 2.0))
    with monkeypatch.context() as patch:
        patch.setattr(Sidecar, "_save", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            first.at(300.0)
    second = World(tmp_path / "log", saved=saved).at(300.0)
    assert shown["rl_episode_return_count", (("policy", "p"), ("version", "v1"))] == 1.0
    assert second.value("rl_episode_return_count") == 1.0
    assert second.value("rl_episode_return_mean") == pytest.approx((1.0 + 4.0) / 2.0)
    assert sums(second) == [2.0, 5.0, 17.0]


def test_lines_that_make_no_sense_are_passed_over(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path, drift=monitor())
    log.decide(None, 0.0, observation=[["no", "number"]], action=[0])
    log.add(b"{}\n")
    log.episode("a", 1.0, (1.0,))
    world.at(2.0).at(200.0)
    assert world.sidecar.unreadable == 2
    assert len(world.said) == 1
    assert world.value("rl_episodes_total", end="terminated") == 1.0


def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Written(tmp_path / "log").episode("a", 0.0, (1.0,))
    world = World(tmp_path / "log")
    world.sidecar.path = tmp_path / "file" / "p.json"
    world.at(200.0).at(201.0)
    assert len(world.said) == 1
    assert "could not be saved" in world.said[0]
    assert world.value("rl_episodes_total", end="terminated") == 1.0


def test_days_and_versions_of_returns_are_bounded() -> None:
    returns = DailyReturns(day_s=10.0, days=2, versions=2)
    for day, version in ((0, "v1"), (1, "v1"), (2, "v1"), (2, "v2"), (2, "v3")):
        returns.add("p", version, 10.0 * day, 3.0)
    returns.add("p", "v1", 29.0, -1.0)
    assert returns.to_json()["policies"] == {"p": {"1": {"v1": [1, 3, 9]}, "2": {"v1": [2, 2, 10], "v2": [1, 3, 9]}}}
    assert returns.left_out == 1
    again = DailyReturns(day_s=10.0, days=2, versions=2)
    again.restore(returns.to_json())
    assert again.to_json() == returns.to_json()


def test_a_position_of_another_log_is_refused(tmp_path: Path) -> None:
    saved = tmp_path / "follow.json"
    World(tmp_path / "a", saved=saved).at(1.0)
    with pytest.raises(ConfigError, match="is about"):
        World(tmp_path / "b", saved=saved)
    saved.write_text("[]")
    with pytest.raises(ConfigError, match="does not say"):
        World(tmp_path / "a", saved=saved)


LATER_S = 30_000.0
"""When the budget of the drift checks has another look."""


def monitor(**more: Any) -> DriftMonitor:
    healthy = small_plant(80, np.random.default_rng(1))
    config = DriftConfig(**{"window_episodes": 24, "stride_episodes": 24, **more})
    return DriftMonitor.fit(healthy, 2, config, seeds=Seeds(0))


def play(log: Written, episodes: Episodes, began: float, change: Callable[[Any], Any] = lambda obs: obs) -> None:
    first = episodes.first_steps()
    for e in range(episodes.num_episodes):
        for t in range(int(episodes.lengths[e])):
            step = int(first[e]) + t
            name = log.decide(
                f"day-{began}-{e}",
                began + e,
                observation=change(episodes.observations[step + e]).tolist(),
                action=episodes.actions[step].tolist(),
            )
            log.reward(
                name,
                began + e,
                float(episodes.rewards[step]),
                truncated=bool(t == episodes.lengths[e] - 1),
                next_observation=change(episodes.observations[step + e + 1]).tolist(),
            )


def test_drift_is_found_in_a_log_and_not_where_there_is_none(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path, drift=monitor())
    play(log, small_plant(24, np.random.default_rng(2)), 0.0)
    world.at(200.0)
    alarm = {
        check: world.registry.get_sample_value("rl_drift_alarm", {"policy": "p", "check": check}) for check in CHECKS
    }
    assert alarm == dict.fromkeys(CHECKS, 0.0)
    play(log, small_plant(24, np.random.default_rng(3)), LATER_S, lambda obs: obs + np.float32(2.0))
    world.at(LATER_S + 200.0)
    assert world.registry.get_sample_value("rl_drift_alarm", {"policy": "p", "check": "ks"}) == 1.0
    assert world.registry.get_sample_value("rl_drift_windows_total", {"policy": "p", "check": "ks"}) == 2.0


def test_a_busy_log_is_looked_at_no_oftener_than_the_budget_allows(tmp_path: Path) -> None:
    """A hundred short episodes in two minutes: four windows, one look."""
    log, world = Written(tmp_path), World(tmp_path, drift=monitor())
    play(log, small_plant(100, np.random.default_rng(5)), 0.0)
    world.at(300.0)
    play(log, small_plant(1, np.random.default_rng(6)), LATER_S)
    world.at(LATER_S + 200.0)
    assert world.registry.get_sample_value("rl_drift_windows_total", {"policy": "p", "check": "ks"}) == 2.0


def test_continuous_actions_are_watched_in_a_log(tmp_path: Path) -> None:
    config = DriftConfig(window_episodes=24, stride_episodes=24)
    watching = DriftMonitor.fit(steady_plant(80, np.random.default_rng(7)), 0, config, seeds=Seeds(0))
    log, world = Written(tmp_path), World(tmp_path, drift=watching)
    good = steady_plant(24, np.random.default_rng(8))
    play(log, good, 0.0)
    world.at(200.0)
    names = ("ks", "mmd", "actions", "rewards")

    def alarms() -> list[float | None]:
        return [world.registry.get_sample_value("rl_drift_alarm", {"policy": "p", "check": name}) for name in names]

    assert alarms() == [0.0] * 4
    play(log, replace(good, actions=good.actions + np.float32(1.0)), LATER_S)
    world.at(LATER_S + 200.0)
    assert alarms() == [0.0, 0.0, 1.0, 0.0]
    assert world.registry.get_sample_value("rl_drift_alarm", {"policy": "p", "check": "concept"}) is None


def test_the_monitor_is_given_the_episodes_that_were_played(tmp_path: Path) -> None:
    """The report is that of the same episodes handed over directly."""
    episodes = small_plant(24, np.random.default_rng(4))
    log, world = Written(tmp_path), World(tmp_path, drift=monitor())
    play(log, episodes, 0.0)
    world.at(200.0)
    direct = monitor()
    report = direct.compare(direct.ruler.measure(episodes))
    for one in report.findings:
        labels = {"policy": "p", "check": one.check, "feature": one.feature}
        assert world.registry.get_sample_value("rl_drift_statistic", labels) == pytest.approx(one.statistic, abs=1e-5)


def test_a_window_that_cannot_be_checked_is_a_failure(tmp_path: Path) -> None:
    log, world = Written(tmp_path), World(tmp_path, drift=monitor())
    for n in range(24):  # observations of three numbers, where the reference has two
        log.episode(f"s{n}", float(n), (1.0, 1.0), observation=[0.0, 1.0, 2.0])
    world.at(200.0)
    failures = {
        check: world.registry.get_sample_value("rl_drift_failures_total", {"policy": "p", "check": check})
        for check in CHECKS
    }
    assert failures == dict.fromkeys(CHECKS, 1.0)
    for n in range(24):  # nobody says what came of it
        log.decide(f"t{n}", LATER_S + n)
    world.at(LATER_S + 200.0)
    assert world.registry.get_sample_value("rl_drift_failures_total", {"policy": "p", "check": "ks"}) == 2.0
    assert world.registry.get_sample_value("rl_drift_windows_total", {"policy": "p", "check": "ks"}) is None
