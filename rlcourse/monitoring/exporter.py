"""The catalogue's signals for Prometheus: the one file of the room that imports prometheus_client.

Whoever counts adds to plain numbers; they become metric families when somebody scrapes. Histograms have classic buckets:
prometheus_client (0.26) can print a native histogram that somebody else has made, in a text format that Prometheus does
not ask for, but its own histograms cannot be native; the day that changes, ``Buckets`` is the class to replace.

Labels are bounded. A label takes the first ``max_values`` values that it meets; a later one is shown as ``other`` and
counted in ``rl_label_overflow_total``. A request id that slipped into a label then costs one series, not a million.

One thread adds to a series; another may scrape.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.monitoring.catalogue import CATALOGUE, Kind, Signal, signal_named
from rlcourse.monitoring.drift.monitor import DriftReport
from rlcourse.monitoring.watched import ActionCounts

OTHER = "other"
Registry = CollectorRegistry
_OVERFLOW = "rl_label_overflow_total"


@dataclass(frozen=True)
class ExporterConfig:
    """Bounds of what is exported."""

    max_values: int = 64
    """Of each label of each signal. Raising it shows more actions or versions; the series multiply."""
    buckets: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Other buckets than the catalogue's, by signal: returns are of the task's size."""

    def __post_init__(self) -> None:
        if self.max_values < 1:
            raise ConfigError(f"Labels of {self.max_values} values.", mend="Use 1 or more.")
        for name, bounds in self.buckets.items():
            known = signal_named(name)
            Signal(name, known.kind, known.unit, known.labels, known.help, tuple(bounds))  # checks them


class Cell:
    """One series of a counter or a gauge; hold on to it where speed matters."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Count. The amount is not looked at: see :meth:`Exporter.count`."""
        self.value += amount


class Buckets:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Take one number. It is not looked at: see :meth:`Exporter.observe`."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Exporter(Collector):
    """Everything that the monitor writes, given to ``registry``.

    Signals that the service or training writes are refused: two writers of one series would overwrite each other.
    """

    def __init__(self, registry: CollectorRegistry | None = None, config: ExporterConfig | None = None) -> None:
        self.config = config or ExporterConfig()
        self._signals = {signal.name: signal for signal in CATALOGUE if signal.source == "monitor"}
        self._cells: defaultdict[str, dict[tuple[str, ...], Cell]] = defaultdict(dict)
        self._buckets: defaultdict[str, dict[tuple[str, ...], Buckets]] = defaultdict(dict)
        self._known: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._actions: list[tuple[str, str, ActionCounts]] = []
        if registry is not None:
            registry.register(self)

    def cell(self, name: str, /, **labels: str) -> Cell:
        """The series of a counter or gauge, made if it is new.

        A value that is shown as ``other`` is counted once here, whatever is added later: ask again for each observation
        where labels come from outside.

        Raises:
            ConfigError: no such signal, another kind, or other labels than its own.
        """
        signal = self._signal(name, ("counter", "gauge"))
        cells, key = self._cells[name], self._key(signal, labels)
        if key not in cells:
            cells[key] = Cell()
        return cells[key]

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """Add to a counter.

        Raises:
            ConfigError: see :meth:`cell`; or it is a gauge.
            DatasetInvalidError: an amount below 0, NaN or infinite. A counter does not fall.
        """
        self._signal(name, ("counter",))
        if not (0.0 <= amount < math.inf):
            raise DatasetInvalidError(f"{name} was to grow by {amount}.", mend="Mend what counts.")
        self.cell(name, **labels).add(amount)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge. Infinity is a value (the end of an interval that has none), NaN is none.

        Raises:
            ConfigError: see :meth:`cell`; or it is a counter.
            DatasetInvalidError: NaN.
        """
        self._signal(name, ("gauge",))
        if math.isnan(value):
            raise DatasetInvalidError(f"{name} was to be NaN.", mend="Leave out what is not known.")
        self.cell(name, **labels).value = value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Take one number into a histogram.

        Raises:
            ConfigError: no such signal, another kind, or other labels than its own.
            DatasetInvalidError: no finite number: it would spoil the sum for good.
        """
        if not math.isfinite(value):
            raise DatasetInvalidError(f"{name} was to take {value}.", mend="Count it as a failure where it arises.")
        self.histogram(name, **labels).observe(value)

    def histogram(self, name: str, /, **labels: str) -> Buckets:
        """The series of a histogram, made if it is new; see :meth:`cell`."""
        signal = self._signal(name, ("histogram",))
        found, key = self._buckets[name], self._key(signal, labels)
        if key not in found:
            found[key] = Buckets(tuple(self.config.buckets.get(name) or signal.buckets or ()))
        return found[key]

    def gauges(self, policy: str, version: str, values: Mapping[str, float]) -> None:
        """What :meth:`rlcourse.monitoring.streams.PolicyStream.gauges` found."""
        for name, value in values.items():
            self.set(name, value, policy=policy, version=version)

    def actions(self, policy: str, version: str, counts: ActionCounts) -> None:
        """Show these counts from now on, as they stand when somebody scrapes."""
        self._actions.append((policy, version, counts))

    def drift(self, policy: str, report: DriftReport) -> None:
        """What one window showed; see :class:`rlcourse.monitoring.drift.monitor.DriftMonitor`."""
        for one in (*report.findings, *report.stability):
            self.set("rl_drift_statistic", one.statistic, policy=policy, check=one.check, feature=one.feature)
            if one.adjusted is not None:
                self.set("rl_drift_p_value", one.adjusted, policy=policy, check=one.check, feature=one.feature)
        for check, raised in report.by_check().items():
            self.set("rl_drift_alarm", float(raised), policy=policy, check=check)
            self.count("rl_drift_alarms_total", float(raised), policy=policy, check=check)
            self.count("rl_drift_windows_total", policy=policy, check=check)

    def forget(self, policy: str, version: str) -> None:
        """Drop the gauges of a version that is gone, which would stand at their last value for ever. Counters stay.

        What no gauge of a signal names any longer makes room for another value of its label.
        """
        for name, cells in self._cells.items():
            signal = self._signals[name]
            if signal.kind == "gauge" and signal.labels[:2] == ("policy", "version"):
                for key in [key for key in cells if key[:2] == (policy, version)]:
                    del cells[key]
                for place, label in enumerate(signal.labels):
                    self._known[name, label] &= {key[place] for key in cells}

    def collect(self) -> Iterator[Metric]:
        """Everything, as it stands."""
        taken = self._taken()
        for signal in self._signals.values():
            if signal.kind == "histogram":
                yield self._histogram(signal)
                continue
            family: CounterMetricFamily | GaugeMetricFamily
            if signal.kind == "counter":
                family = CounterMetricFamily(signal.name.removesuffix("_total"), signal.help, labels=signal.labels)
            else:
                family = GaugeMetricFamily(signal.name, signal.help, labels=signal.labels)
            values = {key: cell.value for key, cell in list(self._cells[signal.name].items())}
            for key, amount in taken.get(signal.name, {}).items():
                values[key] = values.get(key, 0.0) + amount
            for key, value in values.items():
                family.add_metric(key, value)
            yield family

    def _taken(self) -> dict[str, dict[tuple[str, ...], float]]:
        """What :meth:`actions` shows, and how much of it is ``other``."""
        found: defaultdict[tuple[str, ...], float] = defaultdict(float)
        hidden = 0.0
        for policy, version, counted in self._actions:
            for action, count in enumerate(list(counted.counts)):
                shown = str(action) if action < self.config.max_values else OTHER
                found[policy, version, shown] += count
                hidden += count if shown == OTHER else 0.0
        return {
            "rl_actions_total": dict(found),
            _OVERFLOW: {("rl_actions_total", "action"): hidden} if hidden else {},
        }

    def _histogram(self, signal: Signal) -> HistogramMetricFamily:
        family = HistogramMetricFamily(signal.name, signal.help, labels=signal.labels)
        for key, series in list(self._buckets[signal.name].items()):
            total, cumulative = 0, []
            for bound, count in zip((*map(str, series.bounds), "+Inf"), list(series.counts), strict=True):
                total += count
                cumulative.append((bound, float(total)))
            if series.bounds[0] >= 0.0:
                family.add_metric(key, cumulative, series.total)
                continue
            # What may be negative has no sum that only grows; without one the family would leave out the count as well.
            family.add_metric(key, cumulative, None)
            family.add_sample(f"{signal.name}_count", dict(zip(signal.labels, key, strict=True)), float(total))
        return family

    def _signal(self, name: str, kinds: tuple[Kind, ...]) -> Signal:
        signal = signal_named(name)
        if name not in self._signals:
            raise ConfigError(f"{name} is written by another program.", mend=f"Leave it to {signal.written_by}.")
        if signal.kind not in kinds:
            raise ConfigError(f"{name} is a {signal.kind}.", mend="count a counter, set a gauge, observe a histogram.")
        return signal

    def _key(self, signal: Signal, labels: Mapping[str, str]) -> tuple[str, ...]:
        if labels.keys() != set(signal.labels):
            raise ConfigError(
                f"{signal.name} was given the labels {sorted(labels)}.", mend=f"Its own are {list(signal.labels)}."
            )
        return tuple(self._bounded(signal.name, label, labels[label]) for label in signal.labels)

    def _bounded(self, name: str, label: str, value: str) -> str:
        known = self._known[name, label]
        if value in known or value == OTHER:
            return value
        if len(known) < self.config.max_values or name == _OVERFLOW:
            known.add(value)
            return value
        self.cell(_OVERFLOW, signal=name, label=label).add()
        return OTHER


def exposition(registry: CollectorRegistry) -> bytes:
    """What a scrape is answered, in Prometheus' text format 0.0.4."""
    return generate_latest(registry)
