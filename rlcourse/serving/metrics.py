"""What the service counts, for Prometheus: the one file of serving that imports prometheus_client.

The request path adds to plain integers; they become metric families when somebody scrapes them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from rlcourse.serving.decision_log import DecisionLog
from rlcourse.serving.shelf import Loaded, Shelf

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Registry = CollectorRegistry
BOUNDS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Counting(Collector):
    """Counts for a :class:`~rlcourse.serving.service.PolicyService`; give it to a registry."""

    def __init__(self, shelf: Shelf, log: DecisionLog | None = None) -> None:
        self.shelf, self.log = shelf, log
        self.in_flight: Callable[[], int] = int  # the web layer knows
        self.rewards = 0
        self.refused: defaultdict[int, int] = defaultdict(int)
        self._buckets: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * (len(BOUNDS_S) + 1))
        self._seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._decisions: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # of versions no longer loaded

    def decided(self, loaded: Loaded, rows: int, seconds: float) -> None:
        """One request."""
        key = (loaded.name, loaded.version)
        self._buckets[key][bisect_left(BOUNDS_S, seconds)] += 1
        self._seconds[key] += seconds

    def rewarded(self) -> None:
        """One reward."""
        self.rewards += 1

    def unloading(self, loaded: Loaded) -> None:
        """Its counts must not fall back to 0 when it goes."""
        for reason, count in loaded.counts.items():
            self._decisions[loaded.name, loaded.version, reason] += count

    def collect(self) -> Iterator[Metric]:
        """Everything, as it stands."""
        decisions = CounterMetricFamily(
            "rl_decisions", "Observations answered with an action", labels=("policy", "version", "fallback")
        )
        totals = dict(self._decisions)
        default = GaugeMetricFamily(
            "rl_default_version", "1 for the version that answers", labels=("policy", "version")
        )
        breaker = GaugeMetricFamily("rl_breaker_state", "0 closed, 1 half open, 2 open", labels=("policy", "version"))
        sessions = GaugeMetricFamily("rl_sessions", "Sessions remembered", labels=("policy", "version"))
        for entry in list(self.shelf.entries.values()):
            for loaded in list(entry.versions.values()):
                for reason, count in list(loaded.counts.items()):
                    key = (loaded.name, loaded.version, reason)
                    totals[key] = totals.get(key, 0) + count
                labels = (loaded.name, loaded.version)
                default.add_metric(labels, float(loaded is entry.default))
                breaker.add_metric(labels, loaded.breaker.state.value)
                if loaded.sessions is not None:
                    sessions.add_metric(labels, len(loaded.sessions))
        for (name, version, reason), count in totals.items():
            decisions.add_metric((name, version, reason or "none"), count)
        latency = HistogramMetricFamily(
            "rl_request_seconds", "From the arrival of a request to its decision", labels=("policy", "version")
        )
        for names, counts in list(self._buckets.items()):
            total, buckets = 0, []
            for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, total))
            latency.add_metric(names, buckets, self._seconds[names])
        refused = CounterMetricFamily("rl_refused", "Requests answered without an action", labels=("status",))
        for status, count in list(self.refused.items()):
            refused.add_metric((str(status),), count)
        yield from (decisions, default, breaker, sessions, latency, refused)
        yield CounterMetricFamily("rl_rewards", "Rewards that came in", value=self.rewards)
        yield GaugeMetricFamily("rl_requests_in_flight", "Requests begun and not answered", value=self.in_flight())
        if self.log is not None:
            yield CounterMetricFamily("rl_decision_log_lines", "Lines written", value=self.log.written)
            yield CounterMetricFamily("rl_decision_log_dropped", "Lines lost to a full queue", value=self.log.dropped)
            yield GaugeMetricFamily("rl_decision_log_waiting", "Lines in memory alone", value=self.log.waiting)
            yield GaugeMetricFamily(
                "rl_decision_log_failing", "1 while the disk takes nothing", value=float(self.log.problem is not None)
            )


def exposition(registry: CollectorRegistry) -> bytes:
    """What a scrape is answered, as :data:`CONTENT_TYPE`."""
    return generate_latest(registry)
