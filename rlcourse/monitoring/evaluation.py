r"""What a query is answered at a moment, as Prometheus 2 would answer it.

A vector is a dictionary from labels to numbers. NaN and infinity follow IEEE 754 as in Prometheus: 0/0 is NaN, and NaN is
neither above nor below anything, so that a share of no events fires no alert.

``rate`` has to guess: the samples of a window cover less than the window. The increase that was seen is scaled up to the
window's edges, but by no more than half a sample's distance where the series seems to begin or end inside, and never to
before the moment at which a counter would have been 0.

Reference: Prometheus documentation, "Query functions"; Prometheus 2.42 where it says nothing.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable

from rlcourse.errors import ConfigError
from rlcourse.monitoring.promql import (
    COMPARISONS,
    SETS,
    Aggregate,
    Binary,
    Call,
    Expression,
    Number,
    Selector,
)
from rlcourse.monitoring.samples import NAME, Labels, Samples, Window, labels_of, only, without

Vector = dict[Labels, float]
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def evaluate(tree: Expression, samples: Samples, now_s: float) -> Vector:
    """The answer to a query; a bare number is a series without labels.

    Raises:
        ConfigError: series on the two sides of an operator cannot be told apart.
    """
    value = _value(tree, samples, now_s)
    return {(): value} if isinstance(value, float) else value


def _value(tree: Expression, samples: Samples, now_s: float) -> float | Vector:
    match tree:
        case Number(value):
            return value
        case Selector(range_s=None):
            return samples.latest(tree, now_s)
        case Selector():
            raise ConfigError(f"{tree.name}[...] stands alone.", mend="Give a range to a function such as rate.")
        case Call():
            return _call(tree, samples, now_s)
        case Aggregate():
            return _aggregate(tree, evaluate(tree.expression, samples, now_s))
        case Binary():
            return _binary(tree, _value(tree.left, samples, now_s), _value(tree.right, samples, now_s))


def _call(tree: Call, samples: Samples, now_s: float) -> Vector:
    match tree.function, tree.arguments:
        case "vector", (Number(value),):
            return {(): value}
        case "histogram_quantile", (Number(share), inner):
            return _quantiles(share, evaluate(inner, samples, now_s))
        case "abs", (inner,):
            return {without(labels, (NAME,)): abs(v) for labels, v in evaluate(inner, samples, now_s).items()}
        case "absent", (inner,):
            return {} if evaluate(inner, samples, now_s) else {_promised(inner): 1.0}
        case function, (Selector(range_s=float(range_s)) as selector,):
            over = _OVER[function]
            windows = samples.window(selector, now_s)
            found = {labels: over(points, now_s, range_s) for labels, points in windows.items()}
            return {without(labels, (NAME,)): value for labels, value in found.items() if value is not None}
    raise ConfigError(f"{tree.function} is not understood.", mend="Parse queries with rlcourse.monitoring.promql.")


def increase(window: Window, now_s: float, range_s: float) -> float | None:
    """How much a counter grew in the window that ends now; ``None``: fewer than two samples say nothing.

    A value below the one before is a restart from 0: what it had fallen from is added.
    """
    if len(window) < 2:
        return None
    first, last = window.first, window.last - 1
    restarts = window.losses[last] - window.losses[first]
    seen = window.values[last] - window.values[first] + restarts
    covered_s = window.times[last] - window.times[first]
    mean_s = covered_s / (len(window) - 1)
    before_s, after_s = window.times[first] - (now_s - range_s), now_s - window.times[last]
    if seen > 0.0 and window.values[first] >= 0.0:
        before_s = min(before_s, covered_s * window.values[first] / seen)  # further back it would have been below 0
    reach_s = covered_s + sum(gap_s if gap_s < 1.1 * mean_s else mean_s / 2.0 for gap_s in (before_s, after_s))
    return seen * reach_s / covered_s


def _rate(window: Window, now_s: float, range_s: float) -> float | None:
    grown = increase(window, now_s, range_s)
    return None if grown is None else grown / range_s


def _greatest(window: Window, now_s: float, range_s: float) -> float:
    return max(_numbers_in(window.values[window.first : window.last]), default=math.nan)


def _least(window: Window, now_s: float, range_s: float) -> float:
    return min(_numbers_in(window.values[window.first : window.last]), default=math.nan)


def _numbers_in(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(window: Window, now_s: float, range_s: float) -> float:
    return _sum(window, now_s, range_s) / len(window)


def _sum(window: Window, now_s: float, range_s: float) -> float:
    return math.fsum(window.values[window.first : window.last])


_OVER: dict[str, Callable[[Window, float, float], float | None]] = {
    "avg_over_time": _mean,
    "increase": increase,
    "max_over_time": _greatest,
    "min_over_time": _least,
    "rate": _rate,
    "sum_over_time": _sum,
}


def _promised(inner: Expression) -> Labels:
    """What labels the missing series would have had: those that the query fixes."""
    if not isinstance(inner, Selector):
        return ()
    fixed = [matcher.label for matcher in inner.matchers]
    return labels_of({m.label: m.value for m in inner.matchers if m.op == "=" and fixed.count(m.label) == 1})


def _aggregate(tree: Aggregate, vector: Vector) -> Vector:
    groups: dict[Labels, list[float]] = {}
    for labels, value in vector.items():
        groups.setdefault(only(labels, tree.by), []).append(value)
    together: Callable[[list[float]], float] = {
        "sum": sum,
        "count": lambda values: float(len(values)),
        "avg": lambda values: math.fsum(values) / len(values),
        "max": lambda values: max(_numbers_in(values), default=math.nan),
        "min": lambda values: min(_numbers_in(values), default=math.nan),
    }[tree.op]
    return {labels: together(values) for labels, values in groups.items()}


def _quantiles(share: float, vector: Vector) -> Vector:
    histograms: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in vector.items():
        bound = dict(labels).get("le")
        if bound is not None:
            histograms.setdefault(without(labels, (NAME, "le")), []).append((float(bound), count))
    return {labels: quantile(share, buckets) for labels, buckets in histograms.items()}


def quantile(share: float, buckets: list[tuple[float, float]]) -> float:
    """The value that so large a share lies below, from cumulative counts by upper bound.

    Within a bucket values are taken to be spread evenly: 10 below 1 and 20 below 2 have their median at 1. Beyond the last
    finite bound nothing is known, and that bound is the answer.
    """
    buckets = sorted(buckets)
    if len(buckets) < 2 or not math.isinf(buckets[-1][0]) or not buckets[-1][1] > 0.0:
        return math.nan
    highest, counts = 0.0, []
    for _, count in buckets:  # scrapes of several instances may disagree a little
        highest = max(highest, count)
        counts.append(highest)
    rank = share * counts[-1]
    place = next((index for index, count in enumerate(counts) if count >= rank), len(counts) - 1)
    if place == len(counts) - 1:
        return buckets[-2][0]
    bound = buckets[place][0]
    if place == 0 and bound <= 0.0:
        return bound
    low, below = (0.0, 0.0) if place == 0 else (buckets[place - 1][0], counts[place - 1])
    return low + (bound - low) * (rank - below) / (counts[place] - below)


def _binary(tree: Binary, left: float | Vector, right: float | Vector) -> float | Vector:
    if isinstance(left, float) and isinstance(right, float):
        return _numbers(tree.op, left, right)
    if isinstance(left, float) or isinstance(right, float):
        return _with_number(tree.op, left, right)
    if tree.op in SETS:
        return _sets(tree, left, right)
    partners: dict[Labels, float] = {}
    for labels, value in right.items():
        key = _key(tree, labels)
        if key in partners:
            raise ConfigError(f"{tree.op}: several series on the right have {dict(key)}.", mend="Aggregate them first.")
        partners[key] = value
    answer: Vector = {}
    for labels, value in left.items():
        key = _key(tree, labels)
        if key not in partners:
            continue
        if tree.op in COMPARISONS and not _COMPARE[tree.op](value, partners[key]):
            continue
        shown = labels if tree.group_left else key
        if tree.op not in COMPARISONS:
            value, shown = _numbers(tree.op, value, partners[key]), without(shown, (NAME,))
        elif tree.on is None:
            shown = labels
        if shown in answer:
            raise ConfigError(f"{tree.op}: several series on the left have {dict(key)}.", mend="Add group_left ().")
        answer[shown] = value
    return answer


def _with_number(op: str, left: float | Vector, right: float | Vector) -> Vector:
    answer: Vector = {}
    vector = left if isinstance(left, dict) else right
    assert isinstance(vector, dict)
    for labels, value in vector.items():
        a = left if isinstance(left, float) else value
        b = right if isinstance(right, float) else value
        if op not in COMPARISONS:
            answer[without(labels, (NAME,))] = _numbers(op, a, b)
        elif _COMPARE[op](a, b):
            answer[labels] = value
    return answer


def _sets(tree: Binary, left: Vector, right: Vector) -> Vector:
    keys = {_key(tree, labels) for labels in (left if tree.op == "or" else right)}
    if tree.op == "or":
        return left | {labels: value for labels, value in right.items() if _key(tree, labels) not in keys}
    return {labels: value for labels, value in left.items() if (_key(tree, labels) in keys) == (tree.op == "and")}


def _key(tree: Binary, labels: Labels) -> Labels:
    return without(labels, (NAME,)) if tree.on is None else only(labels, tree.on)


def _numbers(op: str, a: float, b: float) -> float:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/" if b == 0.0:
            return math.nan if a == 0.0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)
        case "/":
            return a / b
    raise ConfigError(f"{op} compares two constants.", mend="Compare a series with a constant.")
