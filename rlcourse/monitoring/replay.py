"""Runs the unit tests of alerts with the embedded evaluator, as ``promtool test rules`` runs them with Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlcourse.monitoring.embedded import ActiveAlert, Evaluator, State
from rlcourse.monitoring.promql import duration
from rlcourse.monitoring.rule_cases import Case, alert_for
from rlcourse.monitoring.rules import RuleGroup
from rlcourse.monitoring.samples import NAME, labels_of


def replay(case: Case, groups: Sequence[RuleGroup], until_s: float) -> Iterator[tuple[float, Evaluator]]:
    """The evaluator after each evaluation, from time 0 until ``until_s``."""
    evaluator = Evaluator(groups)
    fed = 0
    for step in range(round(until_s / case.evaluate_s) + 1):
        now_s = step * case.evaluate_s
        while fed * case.interval_s <= now_s:
            for series in case.series:
                value = series.samples[fed] if fed < len(series.samples) else None
                if value is not None and series.name in evaluator.names:
                    labels = labels_of({**series.labels, NAME: series.name})
                    evaluator.samples.add(labels, fed * case.interval_s, value)
            fed += 1
        evaluator.evaluate(now_s)
        yield now_s, evaluator


def firing(evaluator: Evaluator) -> list[ActiveAlert]:
    """The alerts that fire now."""
    return [alert for alert in evaluator.active() if alert.state is State.FIRING]


def failures(cases: Sequence[Case], groups: Sequence[RuleGroup]) -> Iterator[str]:
    """What does not come out as the cases say, one sentence each; none when all is well.

    Raises:
        ConfigError: a case asks after an alert that no rule makes.
    """
    for case in cases:
        until_s = max(moment.at_s for moment in case.moments)
        for now_s, evaluator in replay(case, groups, until_s):
            for moment in (moment for moment in case.moments if moment.at_s == now_s):
                alert_for(groups, moment.alert, {})
                wanted = [{**labels, **alert_for(groups, moment.alert, labels).all_labels} for labels in moment.fires]
                came = [dict(alert.labels) for alert in firing(evaluator) if alert.name == moment.alert]
                if sorted(map(labels_of, wanted)) != sorted(map(labels_of, came)):
                    yield (
                        f"{case.name}: after {duration(now_s)} {moment.alert} should fire for {wanted}, "
                        f"and fires for {came}."
                    )
