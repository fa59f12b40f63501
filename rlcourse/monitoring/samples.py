"""A bounded memory of series: what the embedded evaluator has scraped and recorded.

With the default bounds it takes 300 MB at most, and a few for the hundred series of one service.

::

    time        0    15   30   45   60
    series      1    1    2    ✝              ✝ the end of a series: the target no longer shows it

What ended is not shown by an instant look, and its samples still count in a range that reaches back to them.

A series of more than :data:`MAX_SAMPLES` samples is thinned: what is old grows coarse, in proportion to its age. Some samples
stay: the first one; those around an end, around a counter's restart, and around the moments from which somebody counts
(:meth:`Samples.count_from`). Where samples are gone, a look answers what is still known for certain, or that it is not known::

    kept        5 . . . 5 . . . 9          a dot is a sample that is gone
    look            5       ?              between two equal ones nothing has happened
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rlcourse.errors import ConfigError, ServerError
from rlcourse.monitoring.promql import Selector

Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted by name; the metric's own name is the label ``__name__``."""
NAME = "__name__"
LOOKBACK_S = 300.0
"""How old a sample may be and still count as the present value; Prometheus' default."""
MAX_SAMPLES = 4096
"""Kept of one series; beyond, it is thinned to three quarters of them."""
FINEST = 1024
"""Gaps at age ``a`` are at most ``a / FINEST``, or ``2 a / FINEST``, ``4 a / FINEST``, ... where that leaves too many."""
COUNTERS = ("_total", "_count", "_sum", "_bucket")
"""How the names of counters end, and of a histogram's parts; where the value of one falls, it has restarted."""
MOMENTS = 64
"""So many moments are remembered from which somebody counts."""


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
    __slots__ = ("counts", "ends", "finest", "labels", "losses", "thinned", "times", "values")

    def __init__(self, labels: Labels = ()) -> None:
        self.labels = dict(labels)
        self.counts = self.labels.get(NAME, "").endswith(COUNTERS)
        self.finest = FINEST
        self.times, self.values, self.losses = array("d"), array("d"), array("d")
        self.thinned = array("b")  # whether there were more samples between this one and the next
        self.ends = array("d")

    def append(self, time_s: float, value: float) -> None:
        before = self.values[-1] if self.values else value
        lost = self.losses[-1] if self.losses else 0.0
        self.times.append(time_s)
        self.values.append(value)
        self.losses.append(lost + before if value < before else lost)
        self.thinned.append(0)

    def prune(self, before: float, moments: Iterable[float] = ()) -> None:
        # One older sample stays: it says what the series was when the rest begins.
        cut = bisect_right(self.times, before) - 1
        if cut > 64:  # in gulps: cutting the front off an array moves the rest
            for kept in (self.times, self.values, self.losses, self.thinned):
                del kept[:cut]
            del self.ends[: bisect_left(self.ends, self.times[0])]
        if len(self.times) > MAX_SAMPLES:
            self._thin(moments)

    def at(self, time_s: float) -> tuple[float | None, bool]:
        """The value at a moment, ``None`` where there is none; and whether that is certain.

        Where it is not, it is the value of the last sample that is left, and until the next that is left the series may have
        grown, but not ended, nor, if it is a counter, fallen. If it may have, there is no value.
        """
        place = bisect_right(self.times, time_s) - 1
        if place < 0:
            return None, True
        ended = bisect_left(self.ends, self.times[place])  # an end at the same moment is one after it
        if not self.thinned[place] or self.times[place] == time_s:
            gone = ended < len(self.ends) and self.ends[ended] <= time_s
            absent = gone or self.times[place] < time_s - LOOKBACK_S
            return (None if absent else self.values[place]), True
        fell = self.losses[place] != self.losses[place + 1]
        if (ended < len(self.ends) and self.ends[ended] < self.times[place + 1]) or (fell and self.counts):
            return None, False
        return self.values[place], not fell and self.values[place] == self.values[place + 1]

    def _thin(self, moments: Iterable[float]) -> None:
        events = self._events()
        fixed = self._around(moments) | (events if len(events) <= MAX_SAMPLES // 4 else set())
        kept = self._coarse(fixed)
        while len(kept) > 3 * MAX_SAMPLES // 4:
            self.finest //= 2
            kept = self._coarse(fixed)
        thinned = array("b", (self.thinned[a] or b > a + 1 for a, b in pairwise(kept)))
        thinned.append(0)
        self.times, self.values, self.losses = (
            array("d", [column[place] for place in kept]) for column in (self.times, self.values, self.losses)
        )
        self.thinned = thinned
        # Of the ends between two samples the first says it all.
        firsts = {bisect_right(self.times, end): end for end in reversed(self.ends)}
        self.ends = array("d", sorted(firsts.values()))

    def _coarse(self, fixed: set[int]) -> list[int]:
        """Places of the first sample, the last, the fixed, and as few others as leave no gap wider than age / finest."""
        times, finest = self.times, self.finest
        newest, last = times[-1], len(times) - 1
        kept, before = [0], times[0]
        for place in range(1, last):
            if place in fixed or (times[place + 1] - before) * finest > newest - times[place]:
                kept.append(place)
                before = times[place]
        return [*kept, last]

    def _around(self, moments: Iterable[float]) -> set[int]:
        """Places before and after moments."""
        after = {bisect_right(self.times, moment) for moment in moments}
        return {place for one in after for place in (one - 1, one)}

    def _events(self) -> set[int]:
        """Places before and after an end or, of a counter, a restart."""
        places = range(1, len(self.times)) if self.counts else ()
        after = {place for place in places if self.losses[place] != self.losses[place - 1]}
        after |= {bisect_right(self.times, end) for end in self.ends}
        return {place for one in after for place in (one - 1, one)}


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
        self._moments: OrderedDict[float, None] = OrderedDict()  # asked for longest ago first
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
            track.prune(time_s - self.retention_s, self._moments)

    def count_from(self, time_s: float) -> None:
        """Somebody counts from that moment on, and will ask again: keep what is known of it.

        Of the last :data:`MOMENTS` that were asked for, so that many questions cannot keep everything.
        """
        self._moments[time_s] = None
        self._moments.move_to_end(time_s)
        if len(self._moments) > MOMENTS:
            self._moments.popitem(last=False)

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

    def latest(self, selector: Selector, now_s: float, *, coarse: bool = False) -> dict[Labels, float]:
        """The value of each series that is selected, at a moment.

        Args:
            selector: which.
            now_s: the moment.
            coarse: where samples have been thinned out, an older value will do if the series only grew since.

        Raises:
            ConfigError: the value is not known any more.
        """
        found = {}
        for labels, track in self._selected(selector):
            value, certain = track.at(now_s)
            if not certain and (value is None or not coarse):
                raise ConfigError(
                    f"What {selector.name} was at {now_s:.0f} is not known any more: samples that old are kept far apart.",
                    mend="Ask for a later time, or run Prometheus, which keeps all of them.",
                )
            if value is not None:
                found[labels] = value
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
