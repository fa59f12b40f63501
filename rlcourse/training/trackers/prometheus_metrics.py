"""Metrics as signals that Prometheus scrapes, from a port of this machine or from a file.

::

    log(metrics, step) ──▶ rl_loss, rl_gradient_norm                      histograms: one observation for each call
                           rl_q_value                                     ... five: the middle of each fifth of a batch
                           rl_training_return, ..._exploration_ratio      gauges: the last value
                           rl_training_steps_total, rl_steps_to_threshold
                                │
              port ◀────────────┴────────────▶ file.prom, for the textfile collector of node_exporter

Names, kinds and buckets are those of the catalogue of signals (:mod:`rlcourse.monitoring.catalogue`), which stands above
training and cannot be imported here; a test holds the two together. What is no number is left out: it would spoil a
histogram's sum for good.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcourse.errors import ConfigError, MissingExtraError, ServerError
from rlcourse.files import write_text
from rlcourse.training.metrics import SHARES
from rlcourse.training.trackers._shared import closed, prove_writable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

HOST = "127.0.0.1"
OTHER = "other"
MAX_LOSSES = 64
"""So many losses have series of their own; a learner has five at most."""
SIGNED = (
    *(-1000.0, -300.0, -100.0, -30.0, -10.0, -3.0, -1.0, -0.3, -0.1, -0.03, -0.01),
    *(0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
)
NORMS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
RETURN, EPSILON, NORM = "eval/greedy_return", "explore/epsilon", "loss/gradient_norm"
Q = tuple(f"loss/q_p{share}" for share in SHARES)
"""One observation each: a fifth of a batch, so the histogram is that of the Q-values, and not of their means."""
LOSSES = ("_loss", "_penalty")
"""Ends of the names under ``loss/`` that a gradient step goes down; the other names there are looked at, not minimised."""


class _Buckets:
    """One series of a histogram."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulated(self) -> list[tuple[str, float]]:
        seen, rows = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            rows.append((bound, float(seen)))
        return rows


class PrometheusTracker:
    """One run's metrics as signals, labelled with its name.

    Args:
        where: a port on 127.0.0.1 (0 takes a free one), open until the tracker is closed; or a file whose name ends in
            ``.prom``, replaced as a whole at every call. The file outlives the run, as the last word about it: remove it
            when nobody should see it any longer.
        run: becomes the label ``policy``.
        threshold: the return whose first reaching ``rl_steps_to_threshold`` tells; without it that signal is not there.

    Raises:
        MissingExtraError: prometheus_client is not installed.
        ConfigError: a file of another name, a port that is none, or a threshold that is no number.
        ServerError: the port is taken.
        StorageError: the folder cannot be written to.
    """

    def __init__(self, where: int | Path, *, run: str = "run", threshold: float | None = None) -> None:
        if threshold is not None and not math.isfinite(threshold):
            raise ConfigError(f"The threshold is {threshold}.", mend="Use a number, or leave it out.")
        self.where, self.run, self.threshold = where, run, threshold
        self.steps, self._reached = 0, math.inf
        self._gauges: dict[str, float] = {}
        self._losses: dict[str, _Buckets] = {}
        self._norms: dict[tuple[str, ...], _Buckets] = {}  # not every learner has them
        self._q: dict[tuple[str, ...], _Buckets] = {}
        self._lock = threading.Lock()  # a scrape comes from another thread
        self._closed = False
        self._registry = _registry(self.collect)
        self._end: Callable[[], None] = lambda: None
        self.address: str | None = None
        """host:port, where there is one."""
        if isinstance(where, int):
            self._open(where)
        elif where.suffix != ".prom":
            raise ConfigError(f"Nobody reads {where.name}.", mend=f"Name it {where.stem or 'run'}.prom.")
        else:
            prove_writable(where.absolute().parent)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Take these numbers in; steps may come in any order.

        Raises:
            StorageError: the file cannot be replaced, or the tracker is closed.
        """
        if self._closed:
            raise closed(Path(str(self.where)))
        with self._lock:
            self.steps = max(self.steps, step)
            for name, value in metrics.items():
                if math.isfinite(value):
                    self._take(name, float(value), step)
        if isinstance(self.where, Path):
            from prometheus_client import generate_latest

            write_text(self.where, generate_latest(self._registry).decode())

    def close(self) -> None:
        """Give the port back; a file stays."""
        if not self._closed:
            self._closed = True
            self._end()

    def collect(self) -> Iterator[Metric]:
        """Everything, as it stands."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            who, labels = ("policy",), (self.run,)
            steps = CounterMetricFamily(
                "rl_training_steps", "Steps of training: in the environment, or updates", labels=who
            )
            steps.add_metric(labels, self.steps)
            yield steps
            for name, value in self._gauges.items():
                gauge = GaugeMetricFamily(name, _HELP[name], labels=who)
                gauge.add_metric(labels, value)
                yield gauge
            yield _histogram("rl_q_value", "Q-values of a batch's actions", self._q, who)
            yield _histogram("rl_gradient_norm", "Length of the gradient before it was cut", self._norms, who)
            losses: dict[tuple[str, ...], _Buckets] = {(self.run, name): one for name, one in self._losses.items()}
            yield _histogram("rl_loss", "What gradient steps go down", losses, ("policy", "loss"))

    def _take(self, name: str, value: float, step: int) -> None:
        if name == RETURN:
            self._gauges["rl_training_return"] = value
            if self.threshold is not None:
                if value >= self.threshold:
                    self._reached = min(self._reached, float(step))
                self._gauges["rl_steps_to_threshold"] = self._reached
        elif name == EPSILON:
            self._gauges["rl_training_exploration_ratio"] = value
        elif name == NORM:
            self._norms.setdefault((self.run,), _Buckets(NORMS)).observe(value)
        elif name in Q:
            self._q.setdefault((self.run,), _Buckets(SIGNED)).observe(value)
        elif name.startswith("loss/") and name.endswith(LOSSES):
            loss = name.removeprefix("loss/")
            if loss not in self._losses and len(self._losses) >= MAX_LOSSES:
                loss = OTHER
            self._losses.setdefault(loss, _Buckets(SIGNED)).observe(value)

    def _open(self, port: int) -> None:
        from prometheus_client import start_http_server

        if not 0 <= port < 65536:
            raise ConfigError(f"{port} is no port.", mend="Use 1 to 65535.")
        try:
            server, thread = start_http_server(port, HOST, self._registry)
        except OSError as error:
            raise ServerError(f"Port {port} is taken: {error}.", mend="Choose another.") from error

        def end() -> None:
            server.shutdown()
            thread.join()
            server.server_close()

        self._end, self.address = end, f"{HOST}:{server.server_port}"


_HELP = {
    "rl_training_return": "Mean return of the last evaluation",
    "rl_training_exploration_ratio": "Share of actions that training draws at random",
    "rl_steps_to_threshold": "Steps until an evaluation first reached the wanted return",
}


def _registry(collect: Callable[[], Iterator[Metric]]) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.registry import Collector
    except ImportError as error:
        raise MissingExtraError(
            f"PrometheusTracker needs a package that is not installed: {error}.", mend="pip install 'rlcourse[monitor]'"
        ) from error

    class Run(Collector):
        def collect(self) -> Iterator[Metric]:
            return collect()

    registry = CollectorRegistry()
    registry.register(Run())
    return registry


def _histogram(name: str, words: str, series: Mapping[tuple[str, ...], _Buckets], names: tuple[str, ...]) -> Any:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, words, labels=names)
    for labels, buckets in series.items():
        rows = buckets.cumulated()
        if buckets.bounds[0] >= 0.0:
            family.add_metric(labels, rows, buckets.total)
            continue
        # What may be negative has no sum that only grows, see rlcourse.monitoring.catalogue.Signal.series.
        family.add_metric(labels, rows, None)
        family.add_sample(f"{name}_count", dict(zip(names, labels, strict=True)), rows[-1][1])
    return family
