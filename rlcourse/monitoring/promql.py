"""The part of PromQL that this package's rules are written in, as a syntax tree.

PromQL is Prometheus' query language. Rules use a small part of it, so that two programs can run the same rule file:
Prometheus, and :mod:`~rlcourse.monitoring.embedded` on a machine that has none. Anything else is refused here, early,
instead of being evaluated wrongly later.

::

    or  <  and, unless  <  == != > < >= <=  <  + -  <  * /  <  -x          binds tighter to the right

    name{label="value"}[5m]   f(x)   sum by (label) (x)   x / on (label) group_left () y

Reference: Prometheus documentation, "Querying basics" and "Operators".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rlcourse.errors import ConfigError

FUNCTIONS = {
    "abs": ("vector",),
    "absent": ("vector",),
    "avg_over_time": ("range",),
    "histogram_quantile": ("scalar", "vector"),
    "increase": ("range",),
    "max_over_time": ("range",),
    "min_over_time": ("range",),
    "rate": ("range",),
    "sum_over_time": ("range",),
    "vector": ("scalar",),
}
"""What each function takes."""
AGGREGATIONS = ("sum", "max", "min", "avg", "count")
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
SETS = ("and", "or", "unless")
LEVELS = (("or",), ("and", "unless"), COMPARISONS, ("+", "-"), ("*", "/"))
"""Binary operators, from those that bind least."""
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")
    |\[(?P<range>(?:\d+(?:ms|[smhdw]))+)\]
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)
    |(?P<sign>=~|!~|==|!=|>=|<=|[=<>+\-*/(){},]))""",
    re.VERBOSE,
)
_OTHER_WORDS = ("bool", "group_right", "offset", "without")


@dataclass(frozen=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True)
class Matcher:
    """A condition on one label; a pattern must match the whole value."""

    label: str
    op: str
    value: str

    def holds(self, value: str) -> bool:
        """Whether a label of that value is wanted; a label that is missing counts as empty."""
        if self.op in ("=~", "!~"):
            return (re.fullmatch(self.value, value) is not None) == (self.op == "=~")
        return (value == self.value) == (self.op == "=")


@dataclass(frozen=True)
class Selector:
    """Series by name and labels: their last values, or with ``range_s`` every sample of so many seconds."""

    name: str
    matchers: tuple[Matcher, ...] = ()
    range_s: float | None = None


@dataclass(frozen=True)
class Call:
    """A function of its arguments."""

    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True)
class Aggregate:
    """Many series into one for each combination of the labels."""

    op: str
    by: tuple[str, ...]
    expression: Expression


@dataclass(frozen=True)
class Binary:
    """Two sides. ``on``: the labels by which series of both meet, ``None`` for all of them."""

    op: str
    left: Expression
    right: Expression
    on: tuple[str, ...] | None = None
    group_left: bool = False


Expression = Number | Selector | Call | Aggregate | Binary


def parse(text: str) -> Expression:
    """The syntax tree of a query.

    Raises:
        ConfigError: it is no PromQL, or outside of the part that is understood.
    """
    parser = _Parser(text)
    tree = parser.binary(0)
    parser.want("")
    return tree


def selectors(tree: Expression) -> Iterator[Selector]:
    """Every selector in a tree, from left to right."""
    match tree:
        case Selector():
            yield tree
        case Call():
            for argument in tree.arguments:
                yield from selectors(argument)
        case Aggregate():
            yield from selectors(tree.expression)
        case Binary():
            yield from selectors(tree.left)
            yield from selectors(tree.right)
        case Number():
            pass


def seconds(text: str) -> float:
    """A duration in seconds: ``1h30m`` is 5400.

    Raises:
        ConfigError: it is none.
    """
    if re.fullmatch(r"(?:\d+(?:ms|[smhdw]))+", text) is None:
        raise ConfigError(f"{text!r} is no duration.", mend="Write it like 30s, 5m or 1h30m.")
    return sum(int(count) * UNITS_S[unit] for count, unit in re.findall(r"(\d+)(ms|[smhdw])", text))


def duration(seconds: float) -> str:
    """Seconds in the largest unit that holds a whole number of them: 300 is ``5m``, 90 is ``90s``.

    Raises:
        ConfigError: negative, or finer than a millisecond.
    """
    milliseconds = round(seconds * 1000)
    if milliseconds < 0 or abs(milliseconds - seconds * 1000) > 1e-6:
        raise ConfigError(f"{seconds} s is no duration for a rule.", mend="Use whole milliseconds, 0 or more.")
    for unit in ("d", "h", "m", "s"):
        size = round(UNITS_S[unit] * 1000)
        if milliseconds % size == 0 and milliseconds:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


class _Parser:
    """Recursive descent; one method for each kind of thing."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            found = _TOKEN.match(text, position)
            if found is None:
                raise self.refused(f"nothing that begins with {text[position : position + 10].strip()!r}")
            kind = found.lastgroup or ""
            self.tokens.append((kind, found[kind]))
            position = found.end()
        self.tokens.append(("end", ""))
        self.tokens.reverse()  # the next one is the last

    def refused(self, why: str) -> ConfigError:
        return ConfigError(
            f"The query {self.text!r} is not understood: {why}.",
            mend="Use the part of PromQL in rlcourse.monitoring.promql, or run this rule with Prometheus alone.",
        )

    @property
    def next(self) -> str:
        return self.tokens[-1][1]

    def take(self) -> tuple[str, str]:
        return self.tokens.pop()

    def skip(self, word: str) -> bool:
        if self.next == word and self.tokens[-1][0] != "string":
            self.tokens.pop()
            return True
        return False

    def want(self, word: str) -> None:
        if not self.skip(word):
            raise self.refused(f"{word or 'the end'} was expected before {self.next or 'the end'}")

    def binary(self, level: int) -> Expression:
        if level == len(LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.next in LEVELS[level] and self.tokens[-1][0] != "string":
            op = self.take()[1]
            on, group_left = None, False
            if self.skip("on"):
                on = self.labels()
                if self.skip("group_left"):
                    group_left = True
                    if self.labels():
                        raise self.refused("group_left may not copy labels")
            right = self.binary(level + 1)
            if op in SETS and (group_left or isinstance(left, Number) or isinstance(right, Number)):
                raise self.refused(f"{op} is for two sets of series")
            left = Binary(op, left, right, on, group_left)
        return left

    def unary(self) -> Expression:
        if self.skip("-"):
            inner = self.unary()
            return Number(-inner.value) if isinstance(inner, Number) else Binary("*", Number(-1.0), inner)
        kind, text = self.take()
        if kind == "number":
            return Number(float(text))
        if text == "(" and kind == "sign":
            inner = self.binary(0)
            self.want(")")
            return inner
        if kind != "word" or text in _OTHER_WORDS:
            raise self.refused(f"{text or 'the end'} stands where a value should")
        if text in AGGREGATIONS:
            return self.aggregate(text)
        if self.next == "(":
            return self.call(text)
        return self.selector(text)

    def aggregate(self, op: str) -> Aggregate:
        by = self.labels() if self.skip("by") else ()
        self.want("(")
        inner = self.binary(0)
        self.want(")")
        return Aggregate(op, by, inner)

    def call(self, function: str) -> Call:
        if function not in FUNCTIONS:
            raise self.refused(f"there is no function {function} here")
        self.want("(")
        arguments = [self.binary(0)]
        while self.skip(","):
            arguments.append(self.binary(0))
        self.want(")")
        kinds = FUNCTIONS[function]
        if len(arguments) != len(kinds) or not all(map(_fits, arguments, kinds)):
            raise self.refused(f"{function} takes {' and '.join(kinds)}")
        return Call(function, tuple(arguments))

    def selector(self, name: str) -> Selector:
        matchers = []
        if self.skip("{"):
            while not self.skip("}"):
                label, op, (kind, quoted) = self.take()[1], self.take()[1], self.take()
                if op not in ("=", "!=", "=~", "!~") or kind != "string" or "\\" in quoted:
                    raise self.refused("a condition is label, operator and a plain string")
                matchers.append(Matcher(label, op, quoted[1:-1]))
                if not self.skip(","):
                    self.want("}")
                    break
        range_s = seconds(self.take()[1]) if self.tokens[-1][0] == "range" else None
        return Selector(name, tuple(matchers), range_s)

    def labels(self) -> tuple[str, ...]:
        self.want("(")
        names: list[str] = []
        while not self.skip(")"):
            kind, name = self.take()
            if kind != "word":
                raise self.refused(f"{name or 'the end'} stands where a label should")
            names.append(name)
            if not self.skip(","):
                self.want(")")
                break
        return tuple(names)


def _fits(argument: Expression, kind: str) -> bool:
    if kind == "scalar":
        return isinstance(argument, Number)
    is_range = isinstance(argument, Selector) and argument.range_s is not None
    return is_range if kind == "range" else not (is_range or isinstance(argument, Number))
