"""Unit tests for alerts: series that are given, and the moments at which an alert must fire or must not.

They are run by Prometheus itself (``promtool test rules``) and by the embedded evaluator, from the same objects. Each
alert has a case in which it fires, one a little below its limit in which it does not, and the moment at which it resolves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlcourse.errors import ConfigError
from rlcourse.monitoring.promql import duration
from rlcourse.monitoring.rules import Alert, RuleGroup, dump, filled

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Series:
    """Samples at equal distances, beginning at time 0; ``None``: there is none, a scrape that failed."""

    name: str
    labels: Labels
    samples: tuple[float | None, ...]

    def plain(self) -> dict[str, str]:
        """In promtool's notation, runs of equal steps made short: ``0+5x9`` for 0, 5, ... 45."""
        inner = ",".join(f'{label}="{value}"' for label, value in self.labels.items())
        return {"series": f"{self.name}{{{inner}}}", "values": " ".join(_runs(self.samples))}


@dataclass(frozen=True)
class Moment:
    """At that time, these alerts of that name fire, known by their labels beside ``alertname`` and ``severity``."""

    at_s: float
    alert: str
    fires: tuple[Labels, ...] = ()


@dataclass(frozen=True)
class Case:
    """Series and what must follow from them."""

    name: str
    series: tuple[Series, ...]
    moments: tuple[Moment, ...]
    interval_s: float = 60.0
    """Between two samples."""
    evaluate_s: float = 60.0
    """Between two evaluations of the rules."""


def counter(*phases: tuple[int, float]) -> tuple[float, ...]:
    """A counter from 0: for each phase so many samples, each so much above the last."""
    samples = [0.0]
    for count, step in phases:
        samples += [samples[-1] + step * (index + 1) for index in range(count)]
    return tuple(samples)


def gauge(*phases: tuple[int, float | None]) -> tuple[float | None, ...]:
    """A gauge: for each phase so many samples of one value."""
    return tuple(value for count, value in phases for _ in range(count))


def expected(alert: Alert, labels: Labels) -> dict[str, Any]:
    """What promtool compares: every label but the name, every annotation."""
    complete = {**labels, **alert.all_labels}
    texts = {key: filled(text, complete) for key, text in alert.annotations.items()}
    return {"exp_labels": complete, "exp_annotations": texts}


def case_files(cases: Sequence[Case], groups: Sequence[RuleGroup], *, rule_file: str) -> dict[str, str]:
    """Test files for ``promtool test rules``, by name: one for each pace at which rules are evaluated.

    Args:
        cases: what to try.
        groups: the rules, which say what an alert's labels and texts will be.
        rule_file: the name of the file that holds them, relative to the test files.

    Raises:
        ConfigError: a case asks after an alert that no rule makes.
    """
    files = {}
    for pace_s in sorted({case.evaluate_s for case in cases}):
        content = {
            "rule_files": [rule_file],
            "evaluation_interval": duration(pace_s),
            "group_eval_order": [group.name for group in groups],
            "tests": [_test(case, groups) for case in cases if case.evaluate_s == pace_s],
        }
        files[f"test-rules-{duration(pace_s)}.yml"] = dump(content)
    return files


def _test(case: Case, groups: Sequence[RuleGroup]) -> dict[str, Any]:
    for moment in case.moments:
        alert_for(groups, moment.alert, {})  # a name that is misspelt would "not fire" for ever
    return {
        "name": case.name,
        "interval": duration(case.interval_s),
        "input_series": [series.plain() for series in case.series],
        "alert_rule_test": [
            {
                "eval_time": duration(moment.at_s),
                "alertname": moment.alert,
                "exp_alerts": [expected(alert_for(groups, moment.alert, labels), labels) for labels in moment.fires],
            }
            for moment in case.moments
        ],
    }


def alert_for(groups: Sequence[RuleGroup], name: str, labels: Labels) -> Alert:
    """The rule behind an alert; where several share its name, the one whose own labels do not contradict.

    Raises:
        ConfigError: there is none.
    """
    for rule in (rule for group in groups for rule in group.rules):
        if isinstance(rule, Alert) and rule.name == name:
            own = rule.all_labels
            if all(own[label] == value for label, value in labels.items() if label in own):
                return rule
    raise ConfigError(f"No rule makes the alert {name} with {dict(labels)}.", mend="Check the name in the case.")


def _runs(samples: Sequence[float | None]) -> list[str]:
    words, start = [], 0
    while start < len(samples):
        first = samples[start]
        end = start + 1
        if first is None:
            while end < len(samples) and samples[end] is None:
                end += 1
            words.append(f"_x{end - start}")
        else:
            step = _step(samples, start)
            while step is not None and end < len(samples) and samples[end] == first + step * (end - start):
                end += 1
            sign = "-" if (step or 0.0) < 0.0 else "+"
            words.append(f"{first!r}{sign}{abs(step or 0.0)!r}x{end - start - 1}" if end > start + 1 else repr(first))
        start = end
    return words


def _step(samples: Sequence[float | None], start: int) -> float | None:
    following = samples[start + 1] if start + 1 < len(samples) else None
    first = samples[start]
    return None if following is None or first is None else following - first
