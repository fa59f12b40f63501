"""A bounded memory of series: what the embedded evaluator has scraped and recorded.

With the default bounds it takes 200 MB at most, and a few for the hundred series of one service.

::

    time        0    15   30   45   60
    series      1    1    2    ✝              ✝ the end of a series: the target no longer shows it

What ended is not shown by an instant look, and its samples still count in a range that reaches back to them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlcourse.errors import ConfigError, ServerError
from rlcourse.monitoring.promql import Selector

Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted by name; the metric's own name is the label ``__name__``."""
NAME = "__name__"
LOOKBACK_S = 300.0
"""How old a sample may be and still count as the present value; Prometheus' default."""
MAX_SAMPLES = 4096
"""Kept of one series. Beyond, every second sample of the older half is dropped: the distant past grows coarse."""


def labels_of(values: Mapping[str, str]) -> Labels:
    """As they are compared; an empty value is the same as no label."""
    return tuple(sorted((name, value) for name, value in values.items() if value))


@dataclass(frozen=True)
class Window:
    """Some samples of one series, in place: those from ``first`` to before ``last``."""

    times: array[float]
    values: array[float]
    losses: array[float]
    """How much the series had fallen in all up to each sample; between two of them that is what restarts took."""
    first: int
    last: int

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> Window:
        """A window over these times and values."""
        track = _Track()
        for time_s, value in points:
            track.append(time_s, value)
        return cls(track.times, track.values, track.losses, 0, len(points))

    def __len__(self) -> int:
        return self.last - self.first


class _Track:
    __slots__ = ("ends", "labels", "losses", "times", "values")

    def __init__(self, labels: Labels = ()) -> None:
        self.labels = dict(labels)
        self.times, self.values, self.losses = array("d"), array("d"), array("d")
        self.ends = array("d")

    def append(self, time_s: float, value: float) -> None:
        before = self.values[-1] if self.values else value
        lost = self.losses[-1] if self.losses else 0.0
        self.times.append(time_s)
        self.values.append(value)
        self.losses.append(lost + before if value < before else lost)

    def prune(self, before: float) -> None:
        cut = bisect_left(self.times, before)
        if cut > 64:  # in gulps: cutting the front off an array moves the rest
            for kept in (self.times, self.values, self.losses):
                del kept[:cut]
            del self.ends[: bisect_left(self.ends, before)]
        if len(self.times) > MAX_SAMPLES:
            for kept in (self.times, self.values, self.losses):
                del kept[1 : MAX_SAMPLES // 2 : 2]


class Samples:
    """Series and their samples, of the last ``retention_s`` seconds and of at most ``max_series`` series.

    Args:
        retention_s: older samples are forgotten.
        max_series: more are refused.
    """

    def __init__(self, retention_s: float, max_series: int = 2000) -> None:
        if retention_s <= 0.0 or max_series < 1:
            raise ConfigError("There would be no samples.", mend="Keep some seconds of at least one series.")
        self.retention_s, self.max_series = retention_s, max_series
        self._by_name: dict[str, dict[Labels, _Track]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Series that have a sample."""
        return self._count

    def add(self, labels: Labels, time_s: float, value: float) -> None:
        """One sample; times of a series only grow.

        Raises:
            ServerError: it would be one series too many.
        """
        track = self._track(labels)
        if not track.times or time_s > track.times[-1]:
            track.append(time_s, value)
            track.prune(time_s - self.retention_s)

    def end(self, labels: Labels, time_s: float) -> None:
        """The series is no longer there."""
        tracks = self._by_name.get(dict(labels)[NAME], {})
        if labels in tracks:
            tracks[labels].ends.append(time_s)

    def forget_old(self, now_s: float) -> None:
        """Drop series whose last sample is older than what is kept."""
        for name, tracks in list(self._by_name.items()):
            for labels, track in list(tracks.items()):
                if track.times[-1] < now_s - self.retention_s:
                    del tracks[labels]
                    self._count -= 1
            if not tracks:
                del self._by_name[name]

    def latest(self, selector: Selector, now_s: float) -> dict[Labels, float]:
        """The present value of each series that is selected."""
        found = {}
        for labels, track in self._selected(selector):
            last = bisect_right(track.times, now_s) - 1
            if last < 0 or track.times[last] < now_s - LOOKBACK_S:
                continue
            end = bisect_right(track.ends, now_s) - 1
            if end < 0 or track.ends[end] < track.times[last]:
                found[labels] = track.values[last]
        return found

    def window(self, selector: Selector, now_s: float) -> dict[Labels, Window]:
        """The samples of each selected series that has any, over the selector's range up to now."""
        found = {}
        for labels, track in self._selected(selector):
            first = bisect_left(track.times, now_s - (selector.range_s or 0.0))
            last = bisect_right(track.times, now_s)
            if first < last:
                found[labels] = Window(track.times, track.values, track.losses, first, last)
        return found

    def _track(self, labels: Labels) -> _Track:
        tracks = self._by_name.setdefault(dict(labels)[NAME], {})
        if labels not in tracks:
            if self._count >= self.max_series:
                raise ServerError(
                    f"There are more than {self.max_series} series.",
                    mend="Watch fewer targets, or labels with fewer values.",
                )
            tracks[labels] = _Track(labels)
            self._count += 1
        return tracks[labels]

    def _selected(self, selector: Selector) -> Iterator[tuple[Labels, _Track]]:
        for labels, track in self._by_name.get(selector.name, {}).items():
            if all(matcher.holds(track.labels.get(matcher.label, "")) for matcher in selector.matchers):
                yield labels, track


def without(labels: Labels, names: Iterable[str]) -> Labels:
    """All labels but those."""
    gone = set(names)
    return tuple(pair for pair in labels if pair[0] not in gone)


def only(labels: Labels, names: Iterable[str]) -> Labels:
    """Those labels alone."""
    kept = set(names)
    return tuple(pair for pair in labels if pair[0] in kept)
