from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from rlcourse.errors import ConfigError, DatasetInvalidError, RLCourseError
from rlcourse.monitoring.catalogue import CATALOGUE, signal_named
from rlcourse.monitoring.exporter import Exporter, ExporterConfig, exposition
from rlcourse.monitoring.streams import EpisodeRecord, PolicyStream
from rlcourse.monitoring.watched import ActionCounts, WatchedPolicy
from rlcourse.serving.metrics import Counting
from rlcourse.serving.policies import Decided, ServablePolicy
from rlcourse.serving.shelf import Shelf, ShelfConfig

WHO = {"policy": "p", "version": "1"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def scraped(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Through the text and Prometheus' own parser of it."""
    families = text_string_to_metric_families(exposition(registry).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return scraped(registry).get((name, frozenset(labels.items())))


def test_every_signal_of_the_monitor_is_exposed_under_its_name_and_kind(registry: CollectorRegistry) -> None:
    exporter = Exporter(registry)
    for signal in CATALOGUE:
        labels = dict.fromkeys(signal.labels, "x")
        if signal.source != "monitor":
            with pytest.raises(ConfigError, match="written by another program"):
                exporter.cell(signal.name, **labels)
        elif signal.kind == "histogram":
            exporter.observe(signal.name, 1.0, **labels)
        elif signal.kind == "counter":
            exporter.count(signal.name, **labels)
        else:
            exporter.set(signal.name, 1.0, **labels)
    names = {name for name, _ in scraped(registry)}
    assert names == {name for signal in CATALOGUE if signal.source == "monitor" for name in signal.series}


def test_it_shares_a_registry_with_the_service(registry: CollectorRegistry) -> None:
    registry.register(Counting(Shelf(ShelfConfig(), clock=float, wall=float)))
    exporter = Exporter(registry)
    exporter.count("rl_human_overrides_total", reason="drill", **WHO)
    text = exposition(registry).decode()
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(set(types)) == len(types), "no family comes twice"
    assert value(registry, "rl_human_overrides_total", reason="drill", **WHO) == 1.0


@pytest.mark.parametrize("name", ["rl_episode_steps", "rl_episode_return"])
def test_buckets_are_those_of_the_librarys_own_histogram(registry: CollectorRegistry, name: str) -> None:
    """prometheus_client's Histogram is the oracle, bounds themselves included."""
    exporter, other = Exporter(registry), CollectorRegistry()
    signal = signal_named(name)
    oracle = Histogram(name, signal.help, signal.labels, buckets=signal.buckets or (), registry=other)
    for number in (*np.random.default_rng(0).normal(50.0, 200.0, 500).tolist(), *(signal.buckets or ())):
        exporter.observe(name, number, **WHO)
        oracle.labels(**WHO).observe(number)
    theirs = {key: number for key, number in scraped(other).items() if not key[0].endswith("_created")}
    assert scraped(registry) == pytest.approx(theirs)


def test_a_label_beyond_its_bound_is_other_and_counted(registry: CollectorRegistry) -> None:
    exporter = Exporter(registry, ExporterConfig(max_values=3))
    for reason in ("a", "b", "c", "d", "e", "a", "d"):
        exporter.count("rl_human_overrides_total", reason=reason, **WHO)
    found = scraped(registry)
    shown = {
        dict(labels)["reason"]: number for (name, labels), number in found.items() if name == "rl_human_overrides_total"
    }
    assert shown == {"a": 2.0, "b": 1.0, "c": 1.0, "other": 3.0}
    assert value(registry, "rl_label_overflow_total", signal="rl_human_overrides_total", label="reason") == 3.0


def test_a_version_that_is_gone_makes_room_for_the_next(registry: CollectorRegistry) -> None:
    exporter = Exporter(registry, ExporterConfig(max_values=2))
    for number in range(20):
        exporter.set("rl_policy_entropy_nats", float(number), policy="p", version=f"v{number}")
        assert value(registry, "rl_policy_entropy_nats", policy="p", version=f"v{number}") == number
        if number:
            exporter.forget("p", f"v{number - 1}")
    assert value(registry, "rl_policy_entropy_nats", policy="p", version="other") is None


def test_a_million_request_ids_make_a_bounded_number_of_series(registry: CollectorRegistry) -> None:
    exporter = Exporter(registry, ExporterConfig(max_values=8))
    for number in range(2_000):
        exporter.set("rl_policy_entropy_nats", 1.0, policy=f"p{number}", version=f"v{number}")
    series = [name for name, _ in scraped(registry) if name == "rl_policy_entropy_nats"]
    assert len(series) == 9
    assert len(exporter._known) <= 2 + 2


def test_actions_beyond_the_bound_are_other(registry: CollectorRegistry) -> None:
    exporter, counts = Exporter(registry, ExporterConfig(max_values=2)), ActionCounts(4)
    exporter.actions("p", "1", counts)
    counts.counts[:] = [5, 4, 3, 2]
    assert value(registry, "rl_actions_total", action="1", **WHO) == 4.0
    assert value(registry, "rl_actions_total", action="other", **WHO) == 5.0
    assert value(registry, "rl_label_overflow_total", signal="rl_actions_total", label="action") == 5.0
    counts.counts[0] += 1
    assert value(registry, "rl_actions_total", action="0", **WHO) == 6.0


def test_a_streams_gauges_come_out_and_go_with_their_version(registry: CollectorRegistry) -> None:
    exporter, stream = Exporter(registry), PolicyStream()
    for number in range(10):
        stream.episode(EpisodeRecord(1.0, 1, "terminated", number < 8))
    exporter.gauges("p", "1", stream.gauges())
    exporter.count("rl_episodes_total", end="terminated", **WHO)
    assert value(registry, "rl_success_ratio_low", **WHO) == pytest.approx(0.4902, abs=1e-4)
    exporter.forget("p", "1")
    assert value(registry, "rl_success_ratio_low", **WHO) is None
    assert value(registry, "rl_episodes_total", end="terminated", **WHO) == 1.0, "a counter does not fall"


def test_an_interval_without_an_end_is_infinite(registry: CollectorRegistry) -> None:
    Exporter(registry).set("rl_roi_ratio_low", -math.inf, **WHO)
    assert value(registry, "rl_roi_ratio_low", **WHO) == -math.inf


def test_buckets_of_the_tasks_size(registry: CollectorRegistry) -> None:
    exporter = Exporter(registry, ExporterConfig(buckets={"rl_episode_return": (0.0, 1.0)}))
    exporter.observe("rl_episode_return", 0.5, **WHO)
    assert value(registry, "rl_episode_return_bucket", le="1.0", **WHO) == 1.0


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda e: e.count("rl_nothing_total"), ConfigError),
        (lambda e: e.count("rl_success_ratio", **WHO), ConfigError),
        (lambda e: e.set("rl_episodes_succeeded_total", 1.0, **WHO), ConfigError),
        (lambda e: e.observe("rl_success_ratio", 1.0, **WHO), ConfigError),
        (lambda e: e.cell("rl_episode_return", **WHO), ConfigError),
        (lambda e: e.set("rl_success_ratio", 1.0, policy="p"), ConfigError),
        (lambda e: e.set("rl_success_ratio", 1.0, session="s", **WHO), ConfigError),
        (lambda e: e.set("rl_success_ratio", math.nan, **WHO), DatasetInvalidError),
        (lambda e: e.observe("rl_episode_return", math.inf, **WHO), DatasetInvalidError),
        (lambda e: e.count("rl_episodes_succeeded_total", -1.0, **WHO), DatasetInvalidError),
        (lambda _: ExporterConfig(max_values=0), ConfigError),
        (lambda _: ExporterConfig(buckets={"rl_episode_return": (2.0, 1.0)}), ConfigError),
        (lambda _: ExporterConfig(buckets={"rl_success_ratio": (1.0, 2.0)}), ConfigError),
        (lambda _: ActionCounts(0), ConfigError),
    ],
)
def test_what_makes_no_sense_is_a_typed_error(call: Callable[[Exporter], object], kind: type[RLCourseError]) -> None:
    with pytest.raises(kind):
        call(Exporter())


class Coin:
    """Four actions; the third is the likeliest, the one that was drawn is the first."""

    obs_size, num_actions, memory_size = 2, 4, 0

    def first_memory(self, batch_size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.zeros((batch_size, 0), np.float32)

    def decide(self, obs: object, *, greedy: bool, mask: object, memory: object, rng: object) -> Decided:
        rows = len(obs)  # type: ignore[arg-type]
        odds = np.tile(np.array([0.25, 0.25, 0.5, 0.0], np.float32), (rows, 1))
        return Decided(np.full(rows, 2 if greedy else 0), odds, None)


def test_a_watched_policy_answers_as_before_and_is_counted() -> None:
    stream, rng = PolicyStream(), np.random.default_rng(0)
    watched: ServablePolicy = WatchedPolicy(Coin(), stream=stream, every=2)
    plain = Coin()
    assert (watched.obs_size, watched.num_actions, watched.memory_size) == (2, 4, 0)
    for turn in range(6):
        obs = np.zeros((3, 2), np.float32)
        one = watched.decide(obs, greedy=turn < 2, mask=None, memory=None, rng=rng)
        other = plain.decide(obs, greedy=turn < 2, mask=None, memory=None, rng=rng)
        np.testing.assert_array_equal(one.actions, other.actions)
    assert isinstance(watched, WatchedPolicy)
    assert watched.actions.counts == [12, 0, 6, 0]
    found = stream.gauges()
    assert found["rl_policy_entropy_nats"] == pytest.approx(1.5 * math.log(2), abs=1e-6)
    assert found["rl_exploration_ratio"] == pytest.approx(2 / 3), "of decisions 1, 3 and 5"


def test_a_watched_policy_passes_on_what_it_cannot_count() -> None:
    class Continuous(Coin):
        def decide(self, obs: object, *, greedy: bool, mask: object, memory: object, rng: object) -> Decided:
            return Decided(np.zeros((1, 2)), np.full((1, 4), np.nan, np.float32), None)  # type: ignore[arg-type]

    class Broken(Coin):
        def decide(self, obs: object, *, greedy: bool, mask: object, memory: object, rng: object) -> Decided:
            return Decided(np.zeros(1, np.int64), np.full((1, 4), np.nan, np.float32), None)

    for policy, uncounted in ((Continuous(), 1), (Broken(), 0)):
        stream = PolicyStream()
        watched = WatchedPolicy(policy, stream=stream, every=1)
        obs, rng = np.zeros((1, 2), np.float32), np.random.default_rng(0)
        answer = watched.decide(obs, greedy=True, mask=None, memory=None, rng=rng)
        assert np.isnan(answer.probabilities).all()
        assert watched.actions.uncounted == uncounted
        assert stream.gauges() == {}, "no entropy of what is no distribution"


def test_a_service_that_is_watched_need_not_load_torch() -> None:
    code = "import sys, rlcourse.monitoring.exporter, rlcourse.monitoring.watched; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.strip() == "False"
