from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from rlcourse.environments.server_room import OBSERVATION, Fault
from rlcourse.errors import ConfigError, DatasetInvalidError, RLCourseError, ShapeError
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.drift import CHECKS, DriftConfig, DriftMonitor, DriftReport, FalseAlarmBudget, Ruler, Units
from rlcourse.monitoring.exporter import Exporter
from rlcourse.monitoring.streams import EpisodeRecord
from rlcourse.randomness import Seeds
from tests.monitoring.worlds import packed, server_rooms, small_plant, steady_plant

RNG = np.random.default_rng
EASY = DriftConfig(window_episodes=16, stride_episodes=16, budget=FalseAlarmBudget(0.2, 4), permutations=199)


def margin(level: float, trials: int) -> float:
    """Four standard errors of a measured rate."""
    return 4.0 * math.sqrt(level * (1.0 - level) / trials)


def days_of_windows(config: DriftConfig, days: int, rng: np.random.Generator) -> list[list[DriftReport]]:
    """Healthy days, each with a reference of its own that all its windows share."""
    rulers = [Ruler.fit(small_plant(40, rng), 2) for _ in range(3)]
    episodes = config.window_episodes + (config.budget.windows_per_day - 1) * config.stride_episodes
    reports = []
    for day in range(days):
        ruler = rulers[day % 3]
        monitor = DriftMonitor(ruler, ruler.measure(small_plant(32, rng)), config, rng=rng)
        reports.append(monitor.take(small_plant(episodes, rng)))
    return reports


def test_every_check_keeps_its_level_and_the_day_keeps_its_budget() -> None:
    """Level of each test by itself: 5 %. A day of four windows: 20 % at most, shared out by Bonferroni and Holm."""
    trials = 300
    days = days_of_windows(EASY, trials, RNG(0))
    assert {len(reports) for reports in days} == {4}
    # Windows of a day share a reference; the first of each day are independent of each other.
    found = np.array([[one.p_value for one in reports[0].findings] for reports in days])
    names = [(one.check, one.feature) for one in days[0][0].findings]
    for name, p in zip(names, found.T, strict=True):
        if name != ("rewards", "abandoned"):  # nobody was, so nothing differs
            assert abs((p <= 0.05).mean() - 0.05) < margin(0.05, trials), name
            assert abs((p <= 0.5).mean() - 0.5) < margin(0.5, trials), name
    rate = float(np.mean([any(report.alarm for report in reports) for reports in days]))
    assert rate <= 0.2 + margin(0.2, trials), rate
    assert rate > 0.05, "a bound that nothing ever comes near would find nothing either"


def test_windows_that_overlap_keep_the_budget_too() -> None:
    trials, config = 100, replace(EASY, stride_episodes=8)
    days = days_of_windows(config, trials, RNG(1))
    rate = float(np.mean([any(report.alarm for report in reports) for reports in days]))
    assert {len(reports) for reports in days} == {4}
    assert rate <= 0.2 + margin(0.2, trials), rate


def test_rulers_from_the_reference_itself_would_break_the_level() -> None:
    """Why the reference is cut in two: Q fits the episodes that it was fitted to better than any others."""
    rng, trials, config = RNG(2), 60, replace(EASY, permutations=199)
    wrong = 0
    for _ in range(trials):
        log = small_plant(12, rng, steps=8)
        ruler = Ruler.fit(log, 2)
        monitor = DriftMonitor(ruler, ruler.measure(log), config, rng=rng)
        (size,) = (
            one.p_value
            for one in monitor.compare(ruler.measure(small_plant(16, rng, steps=8))).findings
            if (one.check, one.feature) == ("concept", "size")
        )
        wrong += size <= 0.05
    assert wrong / trials > 0.05 + margin(0.05, trials)


SEEN: dict[str, tuple[Fault, set[str], set[str]]] = {
    # fault, checks that see it, features whose distribution by itself does not move
    "growing_load": (
        Fault("growing_load", 4.0),
        {"ks", "mmd", "actions", "rewards"},
        {"outdoor_c", "price_eur_per_kwh"},
    ),
    "weak_chiller": (Fault("weak_chiller", 0.3), {"ks", "mmd", "actions", "rewards", "concept"}, {"it_load_kw"}),
    # The thermostat holds what the sensor says where it was, so the inlet looks well; the water gives it away.
    "sensor_drift": (Fault("sensor_drift", 2.0), {"ks", "mmd", "concept"}, {"inlet_c", "it_load_kw"}),
    # The same prices at other hours: no feature moves by itself.
    "new_tariff": (Fault("new_tariff", 12.0), {"mmd", "rewards", "concept"}, set(OBSERVATION)),
    "heat_wave": (Fault("heat_wave", 5.0), {"ks", "mmd", "rewards"}, {"it_load_kw", "sin_time"}),
}


@pytest.fixture(scope="module")
def server_room_monitor() -> DriftMonitor:
    return DriftMonitor.fit(server_rooms(128, 0), 5, seeds=Seeds(0), names=OBSERVATION)


@pytest.mark.parametrize("kind", list(SEEN))
def test_every_fault_of_the_server_room_is_found_by_the_checks_that_can(
    server_room_monitor: DriftMonitor, kind: str
) -> None:
    fault, checks, unmoved = SEEN[kind]
    (report,) = server_room_monitor.take(server_rooms(32, 1, fault))
    assert {check for check, raised in report.by_check().items() if raised} >= checks
    assert not {one.feature for one in report.raised if one.check == "ks"} & unmoved


def test_a_healthy_server_room_raises_nothing(server_room_monitor: DriftMonitor) -> None:
    reports = [report for seed in range(2, 6) for report in server_room_monitor.take(server_rooms(32, seed))]
    assert [report.raised for report in reports] == [()] * 4
    sizes = [one.statistic for report in reports for one in report.stability]
    assert max(sizes) < 0.25
    (ill,) = server_room_monitor.take(server_rooms(32, 1, Fault("heat_wave", 8.0)))
    assert {one.feature: one.statistic > 0.25 for one in ill.stability}["outdoor_c"]


def test_rewards_that_are_late_are_no_drift_and_episodes_that_fall_silent_are() -> None:
    """A fifth of the window's episodes is abandoned with what it had by then; the mean of the others would not move."""
    rng = RNG(3)
    ruler = Ruler.fit(small_plant(40, rng), 2)
    monitor = DriftMonitor(ruler, ruler.measure(small_plant(64, rng)), replace(EASY, permutations=999), rng=rng)

    def look(silent: int) -> set[str]:
        log = small_plant(32, rng)
        records = [
            EpisodeRecord(float(total), 24, "abandoned" if place < silent else "truncated", False)
            for place, total in enumerate(log.returns())
        ]
        report = monitor.compare(ruler.measure(log, records))
        return {one.feature for one in report.raised if one.check == "rewards"}

    assert look(silent=0) == set()
    assert look(silent=8) == {"abandoned"}


def test_a_window_is_judged_when_it_is_full_and_after_every_stride() -> None:
    rng = RNG(4)
    monitor = DriftMonitor.fit(small_plant(40, rng), 2, replace(EASY, stride_episodes=5), seeds=Seeds(0))
    counts = [len(monitor.take(small_plant(size, rng))) for size in (15, 1, 4, 1, 20)]
    assert counts == [0, 1, 0, 1, 4]
    assert len(monitor._window) == 16


def test_no_more_looks_are_made_than_the_budget_was_shared_out_among() -> None:
    """Two hundred rooms: at a stride of 16 they would make twelve looks a day, three times what the level allows."""
    rng, day_s = RNG(20), 86_400.0
    monitor = DriftMonitor.fit(small_plant(40, rng), 2, EASY, seeds=Seeds(0))
    log = small_plant(200, rng)

    def day(number: int) -> int:
        ends = number * day_s + day_s * np.arange(200) / 200
        records = [EpisodeRecord(0.0, 24, "truncated", False, mature_s=float(end)) for end in ends]
        return len(monitor.take(log, records))

    assert [day(number) for number in range(20_000, 20_003)] == [4, 4, 4]
    assert monitor.looks.skipped > 3 * 4


def test_continuous_actions_are_watched_entry_by_entry() -> None:
    ruler = Ruler.fit(steady_plant(60, RNG(21)), 0)
    config = replace(EASY, permutations=499)
    monitor = DriftMonitor(ruler, ruler.measure(steady_plant(64, RNG(22))), config, rng=RNG(23))
    log = steady_plant(16, RNG(24))
    further = replace(log, actions=log.actions + np.array([1.0, 0.0], np.float32))
    good, moved = (monitor.take(window)[0] for window in (log, further))
    assert not good.alarm
    assert [(one.check, one.feature) for one in moved.raised] == [("actions", "0")]
    assert set(moved.by_check()) == set(CHECKS) - {"concept"}, "what is not checked is not shown as well"


def test_states_and_rewards_are_watched_where_actions_are_continuous() -> None:
    ruler = Ruler.fit(steady_plant(60, RNG(26)), 0)
    monitor = DriftMonitor(
        ruler, ruler.measure(steady_plant(64, RNG(27))), replace(EASY, permutations=499), rng=RNG(28)
    )
    log = steady_plant(32, RNG(29))
    (warmer, _) = monitor.take(replace(log, observations=log.observations + np.array([0.0, 3.0], np.float32)))
    (_, poorer) = monitor.take(replace(log, rewards=log.rewards - np.float32(1.0)))
    assert {one.feature for one in warmer.raised if one.check == "ks"} == {"1"}
    assert {one.check for one in poorer.raised} == {"rewards"}


def test_tests_of_continuous_actions_keep_their_level() -> None:
    rng, trials = RNG(30), 200
    ruler = Ruler.fit(steady_plant(60, rng), 0)
    found = []
    for _ in range(trials):
        monitor = DriftMonitor(ruler, ruler.measure(steady_plant(32, rng)), replace(EASY, permutations=199), rng=rng)
        report = monitor.compare(ruler.measure(steady_plant(16, rng)))
        found.append([one.p_value for one in report.findings if one.check == "actions"])
    for p in np.array(found).T:
        assert abs((p <= 0.05).mean() - 0.05) < margin(0.05, trials)
        assert abs((p <= 0.5).mean() - 0.5) < margin(0.5, trials)


def test_the_same_seeds_make_the_same_report() -> None:
    def report() -> DriftReport:
        return DriftMonitor.fit(small_plant(40, RNG(5)), 2, EASY, seeds=Seeds(1)).take(small_plant(16, RNG(6)))[0]

    one, other = report(), report()
    assert one.findings == other.findings


def test_units_are_what_they_say() -> None:
    rng = RNG(7)
    ruler = Ruler.fit(small_plant(60, rng), 2, thresholds=3, rows_per_episode=2)
    states = np.array([[[0.0, 9.0], [1.0, 9.0], [-9.0, 9.0], [0.5, 9.0], [7.0, 7.0]]])
    log = packed(states, np.array([[0, 1, 1, 1]]), np.array([[1.0, 2.0, 3.0, 4.0]]))
    units = ruler.measure(log)
    wanted = [(states[0, :4, 0] <= threshold).mean() for threshold in ruler.thresholds[0]]
    np.testing.assert_allclose(units.below[0], [*wanted, 0.0, 0.0, 0.0], atol=1e-7)
    np.testing.assert_array_equal(units.actions, [[0.25, 0.75]])
    np.testing.assert_array_equal(units.rewards, [[10.0, 0.0]])
    np.testing.assert_allclose(units.rows[0] * ruler.spread + ruler.mean, states[0, [1, 3]], atol=1e-6)
    both = Units.concatenate([units, units])
    assert len(both) == 2
    assert all(len(getattr(both.select(np.array([1])), f.name)) == 1 for f in fields(Units))


def test_lengths_may_differ_and_memory_does_not_grow_with_them() -> None:
    rng = RNG(8)
    ruler = Ruler.fit(small_plant(40, rng), 2)
    short, long = ruler.measure(small_plant(1, rng, steps=3)), ruler.measure(small_plant(1, rng, steps=3_000))
    assert [getattr(short, f.name).shape for f in fields(Units)] == [getattr(long, f.name).shape for f in fields(Units)]
    mixed = Episodes.concatenate([small_plant(2, rng, steps=3), small_plant(2, rng, steps=50)])
    apart = [ruler.measure(mixed.select(np.array([place]))) for place in range(4)]
    for f in fields(Units):
        np.testing.assert_allclose(
            getattr(ruler.measure(mixed), f.name), getattr(Units.concatenate(apart), f.name), atol=1e-6
        )


def test_a_report_is_exported() -> None:
    registry = CollectorRegistry()
    exporter = Exporter(registry)
    monitor = DriftMonitor.fit(small_plant(80, RNG(9)), 2, EASY, seeds=Seeds(0), names=("x", "y"))
    log = small_plant(16, RNG(10))
    moved = replace(log, observations=log.observations + np.float32(3.0))
    for window in (log, moved):
        (report,) = monitor.take(window)
        exporter.drift("p", report)
    assert report.alarm

    def read(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"policy": "p", **labels})

    assert read("rl_drift_windows_total", check="ks") == 2.0
    assert read("rl_drift_alarms_total", check="ks") == 1.0
    assert read("rl_drift_alarm", check="ks") == 1.0
    assert read("rl_drift_statistic", check="ks", feature="x") == pytest.approx(report.findings[0].statistic)
    assert read("rl_drift_p_value", check="ks", feature="x") == pytest.approx(report.findings[0].adjusted)
    assert (read("rl_drift_statistic", check="psi", feature="x") or 0.0) > 0.25
    assert read("rl_drift_p_value", check="psi", feature="x") is None
    assert set(report.by_check()) == set(CHECKS)


LOG = small_plant(8, RNG(11))
RULER = Ruler.fit(small_plant(40, RNG(12)), 2)
UNITS = RULER.measure(LOG)
STEADY = steady_plant(8, RNG(31))


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: DriftConfig(window_episodes=0), ConfigError),
        (lambda: DriftConfig(correction="none"), ConfigError),  # type: ignore[arg-type]
        (lambda: DriftMonitor(RULER, UNITS, DriftConfig(permutations=99), rng=RNG(0)), ConfigError),
        (lambda: DriftMonitor(RULER, UNITS.select(np.array([0])), EASY, rng=RNG(0)), DatasetInvalidError),
        (lambda: DriftMonitor.fit(small_plant(3, RNG(0)), 2, seeds=Seeds(0)), DatasetInvalidError),
        (
            lambda: DriftMonitor(RULER, UNITS, EASY, rng=RNG(0)).compare(UNITS.select(np.array([], int))),
            DatasetInvalidError,
        ),
        (lambda: Units.concatenate([]), DatasetInvalidError),
        (lambda: Ruler.fit(LOG, 2, thresholds=4), ConfigError),
        (lambda: Ruler.fit(LOG, 2, names=("x",)), ShapeError),
        (lambda: RULER.measure(LOG, []), ShapeError),
        (lambda: RULER.measure(STEADY), DatasetInvalidError),
        (lambda: Ruler.fit(STEADY, 0).measure(LOG), DatasetInvalidError),
        (lambda: Ruler.fit(STEADY, 0).measure(replace(STEADY, actions=STEADY.actions[:, :1])), ShapeError),
        (lambda: Ruler.fit(STEADY, 0).measure(replace(STEADY, actions=STEADY.actions * np.nan)), DatasetInvalidError),
        (lambda: Ruler.fit(STEADY, 2), ConfigError),
        (lambda: Ruler.fit(LOG, 0), ConfigError),
        (lambda: RULER.measure(replace(LOG, observations=LOG.observations[:, :1])), ShapeError),
        (lambda: RULER.measure(replace(LOG, observations=LOG.observations * np.nan)), DatasetInvalidError),
        (lambda: RULER.measure(replace(LOG, rewards=LOG.rewards * np.inf)), DatasetInvalidError),
        (lambda: RULER.measure(replace(LOG, actions=LOG.actions + 1)), DatasetInvalidError),
        (lambda: RULER.measure(Episodes.concatenate([LOG, small_plant(1, RNG(0), steps=1)])), DatasetInvalidError),
    ],
)
def test_what_cannot_be_watched_is_a_typed_error(call: Callable[[], object], kind: type[RLCourseError]) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.mend


def test_a_bad_batch_leaves_the_window_as_it_was() -> None:
    monitor = DriftMonitor(RULER, UNITS, EASY, rng=RNG(0))
    monitor.take(LOG)
    with pytest.raises(DatasetInvalidError):
        monitor.take(replace(LOG, rewards=LOG.rewards * np.nan))
    assert len(monitor._window) == 8
