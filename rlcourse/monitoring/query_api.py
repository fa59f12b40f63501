"""The part of Prometheus' HTTP API with which a release asks for its evidence, answered by the embedded evaluator.

::

    GET /api/v1/query        query, time                 the value of each series now, or with a range its samples
    GET /api/v1/query_range  query, start, end, step     the values at start, start + step, ... up to end
    GET /api/v1/alerts                                   what is pending or firing
    GET /-/ready

What is outside of this part, about a metric that is not kept, or about a time before the first scrape or before what is kept,
is refused with status 400 and the reason. So is a time so long ago that samples have been thinned out around it, unless
nothing happened there. An empty answer would be taken for "there is none", and one that begins late for a counter that began
at 0. Whoever asks for a range of times early, and again, is always answered: the samples around its start are kept from the
first question on.

Reference: Prometheus documentation, "HTTP API".
"""

from __future__ import annotations

import http
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rlcourse.errors import ConfigError
from rlcourse.monitoring.embedded import Evaluator
from rlcourse.monitoring.evaluation import evaluate
from rlcourse.monitoring.exposing import Asked, Page
from rlcourse.monitoring.promql import Binary, Expression, Number, Selector, parse, seconds, selectors
from rlcourse.monitoring.samples import Labels

MOST_POINTS = 11_000
"""Of each series of one answer; Prometheus' own bound."""


@dataclass(frozen=True)
class QueryApi:
    """Answers questions about what an evaluator keeps."""

    evaluator: Evaluator
    lock: threading.Lock
    """Held by whoever changes what the evaluator keeps."""
    clock: Callable[[], float] = time.time
    """Seconds since the epoch, for a question that names no time."""

    def pages(self) -> dict[str, Asked]:
        """For :class:`~rlcourse.monitoring.exposing.Pages`."""
        return {
            "/api/v1/query": self._told(self.instant),
            "/api/v1/query_range": self._told(self.over_time),
            "/api/v1/alerts": self._told(self.alerts),
            "/-/ready": lambda words: Page(b"ready\n", "text/plain"),
        }

    def instant(self, words: Mapping[str, str]) -> dict[str, Any]:
        """``query`` at ``time``.

        Raises:
            ConfigError: the question is not understood, or about something that is not kept.
        """
        tree, now_s = self._query(words), _time(words, "time", self.clock())
        if words.get("time") and not _is_number(tree):
            self._refuse_unknown(now_s)
        if isinstance(tree, Selector) and tree.range_s is not None:
            windows = self.evaluator.samples.window(tree, now_s)
            result = [
                {"metric": dict(labels), "values": [_point(w.times[at], w.values[at]) for at in range(w.first, w.last)]}
                for labels, w in windows.items()
            ]
            return {"resultType": "matrix", "result": result}
        answer = evaluate(tree, self.evaluator.samples, now_s)
        if _is_number(tree):
            return {"resultType": "scalar", "result": _point(now_s, answer[()])}
        return {
            "resultType": "vector",
            "result": [{"metric": dict(labels), "value": _point(now_s, value)} for labels, value in answer.items()],
        }

    def over_time(self, words: Mapping[str, str]) -> dict[str, Any]:
        """``query`` at every ``step`` from ``start`` to ``end``.

        The first and the last value of a bare series are exact. Long ago, one in between may be a little older than its
        time: by so much the samples are apart there. A counter's restarts are all seen.

        Raises:
            ConfigError: see :meth:`instant`; or too many points, or none.
        """
        tree, start_s, end_s = self._query(words), _time(words, "start"), _time(words, "end")
        step_s = _step(words)
        if not start_s <= end_s or (end_s - start_s) / step_s >= MOST_POINTS:
            raise ConfigError(
                f"From {start_s:g} to {end_s:g} in steps of {step_s:g} s.",
                mend=f"End after the start, with fewer than {MOST_POINTS:,} steps.",
            )
        self._refuse_unknown(start_s)
        samples = self.evaluator.samples
        samples.count_from(start_s)
        bare = tree if isinstance(tree, Selector) and tree.range_s is None else None
        steps = math.floor((end_s - start_s) / step_s)
        series: dict[Labels, list[list[Any]]] = {}
        for number in range(steps + 1):
            at_s = start_s + number * step_s
            found = (
                evaluate(tree, samples, at_s) if bare is None else samples.latest(bare, at_s, coarse=0 < number < steps)
            )
            for labels, value in found.items():
                series.setdefault(labels, []).append(_point(at_s, value))
        result = [{"metric": dict(labels), "values": values} for labels, values in series.items()]
        return {"resultType": "matrix", "result": result}

    def alerts(self, words: Mapping[str, str]) -> dict[str, Any]:
        """What is pending or firing, in Prometheus' words."""
        return {
            "alerts": [
                {
                    "labels": {"alertname": alert.name, **alert.labels},
                    "annotations": dict(alert.annotations),
                    "state": alert.state.value,
                    "activeAt": datetime.fromtimestamp(alert.since_s, UTC).isoformat().replace("+00:00", "Z"),
                    "value": _number(alert.value),
                }
                for alert in self.evaluator.active()
            ]
        }

    def _told(self, answer: Callable[[Mapping[str, str]], dict[str, Any]]) -> Asked:
        def page(words: Mapping[str, str]) -> Page:
            try:
                with self.lock:
                    content = {"status": "success", "data": answer(words)}
            except ConfigError as error:
                content = {"status": "error", "errorType": "bad_data", "error": str(error)}
                return Page(json.dumps(content).encode(), status=http.HTTPStatus.BAD_REQUEST)
            return Page(json.dumps(content).encode())

        return page

    def _refuse_unknown(self, time_s: float) -> None:
        """Every round of scrapes writes ``up``, whether a target answers or not."""
        scraped = self.evaluator.samples.window(Selector("up", range_s=math.inf), math.inf).values()
        if not scraped:
            raise ConfigError("Nothing has been scraped yet.", mend="Ask again after the first round.")
        first_s = min(one.times[one.first] for one in scraped)
        last_s = max(one.times[one.last - 1] for one in scraped)
        known_s = max(first_s, last_s - self.evaluator.samples.retention_s)
        if time_s < known_s:
            raise ConfigError(
                f"Nothing is known of {time_s:.0f}: what is kept begins {known_s - time_s:.0f} s later.",
                mend="The embedded evaluator forgets when it restarts; run Prometheus, or begin the release again.",
            )

    def _query(self, words: Mapping[str, str]) -> Expression:
        tree = parse(_word(words, "query"))
        for selector in selectors(tree):
            if selector.name not in self.evaluator.names:
                raise ConfigError(
                    f"{selector.name} is not kept by the embedded evaluator.",
                    mend="Ask for what a rule or a release reads, or run Prometheus.",
                )
            if (selector.range_s or 0.0) > self.evaluator.samples.retention_s:
                raise ConfigError(
                    f"{selector.range_s:g} s of {selector.name} are not kept.",
                    mend=f"Ask for {self.evaluator.samples.retention_s:g} s or less.",
                )
        return tree


def _is_number(tree: Expression) -> bool:
    return isinstance(tree, Number) or (isinstance(tree, Binary) and _is_number(tree.left) and _is_number(tree.right))


def _word(words: Mapping[str, str], name: str) -> str:
    if not words.get(name):
        raise ConfigError(f"The question has no {name}.", mend="Name it behind the question mark.")
    return words[name]


def _time(words: Mapping[str, str], name: str, otherwise: float | None = None) -> float:
    if otherwise is not None and not words.get(name):
        return otherwise
    try:
        time_s = float(_word(words, name))
    except ValueError:
        time_s = math.nan
    if not math.isfinite(time_s):
        raise ConfigError(f"{words[name]!r} is no time.", mend="Use seconds since the epoch.")
    return time_s


def _step(words: Mapping[str, str]) -> float:
    text = _word(words, "step")
    try:
        step_s = float(text)
    except ValueError:
        step_s = seconds(text)
    if not 0.0 < step_s < math.inf:
        raise ConfigError(f"A step of {text}.", mend="Use a duration above 0, such as 15s.")
    return step_s


def _point(time_s: float, value: float) -> list[Any]:
    return [time_s, _number(value)]


def _number(value: float) -> str:
    """As Go writes it, which Prometheus is written in."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.17g}" if math.isfinite(value) else ("+Inf" if value > 0.0 else "-Inf")
