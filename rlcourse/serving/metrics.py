"""What the service counts, for Prometheus: the one file of serving that imports prometheus_client.

The request path adds to plain integers; they become metric families when somebody scrapes them.

A service lives for years and sees a version a day. So at most ``max_versions`` of them have series of their own: one that is
loaded takes the place of the one that has been gone for longest, and where all are loaded the next ones are ``other``::

    loaded   v7 v8              shown by name
    gone     v1 v2 ... v6       still shown, so that rates over the last hours are whole, until their place is needed
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from rlcourse.errors import ConfigError
from rlcourse.serving.decision_log import DecisionLog
from rlcourse.serving.shelf import Loaded, Shelf

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Registry = CollectorRegistry
OTHER = "other"
Key = tuple[str, str]
"""Policy and version."""
BOUNDS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Counting(Collector):
    """Counts for a :class:`~rlcourse.serving.service.PolicyService`; give it to a registry.

    Args:
        shelf: whose versions are shown.
        log: whose lines are counted.
        max_versions: so many policies' versions have series of their own, and so many statuses; the rest is ``other``.
    """

    def __init__(self, shelf: Shelf, log: DecisionLog | None = None, *, max_versions: int = 64) -> None:
        if max_versions < 1:
            raise ConfigError(f"{max_versions} versions have series.", mend="Use 1 or more.")
        self.shelf, self.log, self.max_versions = shelf, log, max_versions
        self._gone: dict[Key, bool] = {}  # those with series of their own; the first to be unloaded first
        self._others: set[Key] = set()  # loaded without; they stay so, or their counts would leave ``other`` again
        self.in_flight: Callable[[], int] = int  # the web layer knows
        self.rewards = 0
        self.refused: defaultdict[int, int] = defaultdict(int)
        self._buckets: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * (len(BOUNDS_S) + 1))
        self._seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._decisions: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # of versions no longer loaded
        self._shadows: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._shadow_buckets: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * (len(BOUNDS_S) + 1))
        self._shadow_seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.shadows_dropped: Callable[[], int] = int  # the service knows

    def decided(self, loaded: Loaded, rows: int, seconds: float) -> None:
        """One request."""
        key = (loaded.name, loaded.version)
        if key not in self._buckets:
            key = self._shown(key)
        self._buckets[key][bisect_left(BOUNDS_S, seconds)] += 1
        self._seconds[key] += seconds

    def shadowed(self, loaded: Loaded, rows: int, seconds: float, *, failed: bool) -> None:
        """One copy of a request; from one thread only."""
        key = (loaded.name, loaded.version)
        if key not in self._shadow_buckets:
            key = self._shown(key)
        self._shadows[(*key, "error" if failed else "none")] += rows
        self._shadow_buckets[key][bisect_left(BOUNDS_S, seconds)] += 1
        self._shadow_seconds[key] += seconds

    def rewarded(self) -> None:
        """One reward."""
        self.rewards += 1

    def unloading(self, loaded: Loaded) -> None:
        """Its counts must not fall back to 0 when it goes."""
        key = self._shown((loaded.name, loaded.version))
        for reason, count in loaded.counts.items():
            self._decisions[(*key, reason)] += count
        self._others.discard((loaded.name, loaded.version))
        if self._gone.pop(key, None) is not None:
            self._gone[key] = True

    def _shown(self, key: Key) -> Key:
        """Under which names a loaded version is shown."""
        if key in self._gone:
            self._gone[key] = False
            return key
        if key in self._others:
            return (OTHER, OTHER)
        if len(self._gone) >= self.max_versions:
            old = next((one for one, gone in list(self._gone.items()) if gone), None)
            if old is None:
                self._others.add(key)
                return (OTHER, OTHER)
            self._drop(old)
        self._gone[key] = False
        return key

    def _drop(self, old: Key) -> None:
        del self._gone[old]
        for by_version in (self._buckets, self._seconds, self._shadow_buckets, self._shadow_seconds):
            by_version.pop(old, None)
        for by_reason in (self._decisions, self._shadows):
            for key in [key for key in by_reason if key[:2] == old]:
                del by_reason[key]

    def collect(self) -> Iterator[Metric]:
        """Everything, as it stands."""
        decisions = CounterMetricFamily(
            "rl_decisions", "Observations answered with an action", labels=("policy", "version", "fallback")
        )
        default = GaugeMetricFamily(
            "rl_default_version", "1 for the version that answers", labels=("policy", "version")
        )
        share = GaugeMetricFamily(
            "rl_traffic_share", "Of the sessions that name no version, those it answers", labels=("policy", "version")
        )
        breaker = GaugeMetricFamily("rl_breaker_state", "0 closed, 1 half open, 2 open", labels=("policy", "version"))
        sessions = GaugeMetricFamily("rl_sessions", "Sessions remembered", labels=("policy", "version"))
        totals: dict[tuple[str, str, str], int] = {}
        for entry in list(self.shelf.entries.values()):
            split = entry.split
            for loaded in list(entry.versions.values()):
                labels = self._shown((loaded.name, loaded.version))
                for reason, count in list(loaded.counts.items()):
                    key = (*labels, reason)
                    totals[key] = totals.get(key, 0) + count
                if labels == (OTHER, OTHER):
                    continue  # of several versions there is no one gauge
                default.add_metric(labels, float(loaded is split.default))
                share.add_metric(labels, split.share(loaded))
                breaker.add_metric(labels, loaded.breaker.state.value)
                if loaded.sessions is not None:
                    sessions.add_metric(labels, len(loaded.sessions))
        # What is loaded has taken its places by now.
        for key, count in list(self._decisions.items()):
            totals[key] = totals.get(key, 0) + count
        for (name, version, reason), count in totals.items():
            decisions.add_metric((name, version, reason or "none"), count)
        latency = _histogram(
            "rl_request_seconds", "From the arrival of a request to its decision", self._buckets, self._seconds
        )
        shadows = CounterMetricFamily(
            "rl_shadow_decisions", "Observations a shadow was asked about", labels=("policy", "version", "fallback")
        )
        for (name, version, reason), count in list(self._shadows.items()):
            shadows.add_metric((name, version, reason), count)
        shadow_latency = _histogram(
            "rl_shadow_seconds", "Time a shadow took for a request", self._shadow_buckets, self._shadow_seconds
        )
        refused = CounterMetricFamily("rl_refused", "Requests answered without an action", labels=("status",))
        statuses = list(self.refused.items())  # in the order in which they came first
        for status, count in statuses[: self.max_versions]:
            refused.add_metric((str(status),), count)
        if len(statuses) > self.max_versions:
            refused.add_metric((OTHER,), sum(count for _, count in statuses[self.max_versions :]))
        yield from (decisions, default, share, breaker, sessions, latency, refused, shadows, shadow_latency)
        yield CounterMetricFamily("rl_shadow_dropped", "Copies lost to a full queue", value=self.shadows_dropped())
        yield CounterMetricFamily("rl_rewards", "Rewards that came in", value=self.rewards)
        yield GaugeMetricFamily("rl_requests_in_flight", "Requests begun and not answered", value=self.in_flight())
        if self.log is not None:
            yield CounterMetricFamily("rl_decision_log_lines", "Lines written", value=self.log.written)
            yield CounterMetricFamily("rl_decision_log_dropped", "Lines lost to a full queue", value=self.log.dropped)
            yield GaugeMetricFamily("rl_decision_log_waiting", "Lines in memory alone", value=self.log.waiting)
            yield GaugeMetricFamily(
                "rl_decision_log_failing", "1 while the disk takes nothing", value=float(self.log.problem is not None)
            )


def _histogram(
    name: str, words: str, buckets: Mapping[tuple[str, str], list[int]], seconds: Mapping[tuple[str, str], float]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, words, labels=("policy", "version"))
    for names, counts in list(buckets.items()):
        total, cumulated = 0, []
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), counts, strict=True):
            total += count
            cumulated.append((bound, total))
        family.add_metric(names, cumulated, seconds[names])
    return family


def exposition(registry: CollectorRegistry) -> bytes:
    """What a scrape is answered, as :data:`CONTENT_TYPE`."""
    return generate_latest(registry)
