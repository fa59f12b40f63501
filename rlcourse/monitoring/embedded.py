"""Rule files without Prometheus: the same rules, the same alerts, in one Python process.

It is meant for a laptop without the system packages, and for tests. It keeps samples in memory only, and understands the
part of PromQL in :mod:`~rlcourse.monitoring.promql`. A contract test holds it to Prometheus on the same series.

::

    evaluate(now):   group ─▶ rule ─▶ answer ─┬─ recording ─▶ samples
                                              └─ alert ─▶ pending ──held long enough──▶ firing ──no answer──▶ resolved
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rlcourse.monitoring.evaluation import evaluate
from rlcourse.monitoring.promql import Expression, selectors
from rlcourse.monitoring.rules import Alert, Recording, Rule, RuleGroup, filled
from rlcourse.monitoring.samples import LOOKBACK_S, NAME, Labels, Samples, labels_of, without


class State(enum.Enum):
    """Of an alert."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True)
class ActiveAlert:
    """One answer of an alerting rule's query."""

    name: str
    labels: Mapping[str, str]
    """Without ``alertname``."""
    annotations: Mapping[str, str]
    value: float
    since_s: float
    """When the query was first answered so."""
    state: State


class Evaluator:
    """Runs rules over samples.

    Args:
        groups: what to run; a group's own interval is ignored, all are run at each :meth:`evaluate`.
        also: metrics to keep beside those that the rules read, for whoever asks (:mod:`rlcourse.monitoring.query_api`).
        retention_s: how long samples are kept at least; the rules' own ranges may ask for more.
        max_series: series to remember, of all these metrics.
    """

    def __init__(
        self,
        groups: Sequence[RuleGroup],
        *,
        also: Iterable[str] = (),
        retention_s: float = LOOKBACK_S,
        max_series: int = 2000,
    ) -> None:
        self.groups = tuple(groups)
        self._rules: list[tuple[Rule, Expression]] = [(rule, rule.tree) for group in groups for rule in group.rules]
        read = [selector for _, tree in self._rules for selector in selectors(tree)]
        self.names = frozenset(selector.name for selector in read).union(also)
        """The metrics whose samples are to be kept."""
        ranges = (selector.range_s or 0.0 for selector in read)
        self.samples = Samples(max([LOOKBACK_S, retention_s, *ranges]), max_series)
        self._active: dict[int, dict[Labels, ActiveAlert]] = {}
        self._recorded: dict[int, set[Labels]] = {}

    def evaluate(self, now_s: float) -> list[ActiveAlert]:
        """Run every rule once; the alerts that are pending or firing, and those that have just resolved."""
        told: list[ActiveAlert] = []
        for number, (rule, tree) in enumerate(self._rules):
            answer = evaluate(tree, self.samples, now_s)
            if isinstance(rule, Recording):
                self._record(number, rule, answer, now_s)
            else:
                told += self._alert(number, rule, answer, now_s)
        self.samples.forget_old(now_s)
        return told

    def active(self) -> Iterator[ActiveAlert]:
        """What is pending or firing."""
        for alerts in self._active.values():
            yield from alerts.values()

    def _record(self, number: int, rule: Recording, answer: Mapping[Labels, float], now_s: float) -> None:
        named = {labels_of({**dict(labels), **rule.labels, NAME: rule.name}): value for labels, value in answer.items()}
        for labels in self._recorded.get(number, set()) - named.keys():
            self.samples.end(labels, now_s)
        for labels, value in named.items():
            self.samples.add(labels, now_s, value)
        self._recorded[number] = set(named)

    def _alert(self, number: int, rule: Alert, answer: Mapping[Labels, float], now_s: float) -> list[ActiveAlert]:
        before, now = self._active.get(number, {}), {}
        for series, value in answer.items():
            labels = labels_of({**dict(without(series, (NAME,))), **rule.all_labels})
            known = before.get(labels)
            since_s = known.since_s if known else now_s
            state = State.FIRING if now_s - since_s >= rule.hold_s else State.PENDING
            texts = {name: filled(text, dict(labels)) for name, text in rule.annotations.items()}
            now[labels] = ActiveAlert(rule.name, dict(labels), texts, value, since_s, state)
        self._active[number] = now
        gone = [
            replace(alert, state=State.RESOLVED)
            for labels, alert in before.items()
            if labels not in now and alert.state is State.FIRING
        ]
        return [*now.values(), *gone]
