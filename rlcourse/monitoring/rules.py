"""Rules as code: dataclasses that become a Prometheus rule file.

A *recording rule* computes a series from others, once for everybody. An *alerting rule* is a query whose every answer is
an alert: first pending, and firing when it has been answered without a gap for as long as the rule holds it back.

::

    query answers    ....xxxxxxxxx....
    alert            ....ppppFFFFF....      held back for four evaluations

Annotations name labels and never values: a text that changes at each evaluation would make one incident look like many.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcourse.errors import ConfigError, MissingExtraError
from rlcourse.monitoring.promql import Expression, duration, parse, seconds

try:
    import yaml
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "Rule files need PyYAML, which is not installed.", mend="pip install 'rlcourse[monitor]'"
    ) from error

_RECORD = re.compile(r"^[a-z][a-z0-9_]*:[a-z][a-z0-9_]*:[a-z][a-z0-9_]*$")
_ALERT = re.compile(r"^[A-Z][A-Za-z0-9]*$")
_TEMPLATE = re.compile(r"\{\{ \$labels\.([a-z_]+) \}\}")


class Severity(enum.Enum):
    """Who should hear of it, and when."""

    PAGE = "page"
    """A person, now, also at night."""
    TICKET = "ticket"
    """A person, on the next working day."""
    NOTE = "note"
    """Nobody; machines and the dashboard."""


@dataclass(frozen=True)
class Recording:
    """A series computed from others. Names say level, metric and operation: ``policy:rl_request_seconds:p99``."""

    name: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if _RECORD.match(self.name) is None:
            raise ConfigError(f"{self.name!r} names no recording rule.", mend="Use level:metric:operation.")
        parse(self.expr)

    @property
    def tree(self) -> Expression:
        """The query, parsed."""
        return parse(self.expr)

    def plain(self) -> dict[str, Any]:
        """As it stands in a rule file."""
        return {"record": self.name, "expr": self.expr} | ({"labels": dict(self.labels)} if self.labels else {})


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A condition that somebody should hear of."""

    name: str
    expr: str
    hold_s: float
    """How long the condition must last. Raising it forgives short spikes, and tells of long ones later."""
    severity: Severity
    summary: str
    """One sentence for whoever is woken; ``{{ $labels.policy }}`` is filled in."""
    first_step: str
    """What to do first."""
    runbook: str
    """The section of the runbooks that says the rest."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if _ALERT.match(self.name) is None:
            raise ConfigError(f"{self.name!r} names no alert.", mend="Use words in capitals, such as ServiceDown.")
        if "$value" in self.summary + self.first_step:
            raise ConfigError(f"{self.name} writes a value into a text.", mend="Leave values to the dashboard.")
        duration(self.hold_s)
        parse(self.expr)

    @property
    def tree(self) -> Expression:
        """The query, parsed."""
        return parse(self.expr)

    @property
    def annotations(self) -> dict[str, str]:
        """Texts that go with it, as templates."""
        return {"summary": self.summary, "first_step": self.first_step, "runbook": self.runbook}

    @property
    def all_labels(self) -> dict[str, str]:
        """Labels that are added to those of the query's answer."""
        return {"severity": self.severity.value, **self.labels}

    def plain(self) -> dict[str, Any]:
        """As it stands in a rule file."""
        hold = {"for": duration(self.hold_s)} if self.hold_s else {}
        texts = {"labels": self.all_labels, "annotations": self.annotations}
        return {"alert": self.name, "expr": self.expr} | hold | texts


Rule = Recording | Alert


@dataclass(frozen=True)
class RuleGroup:
    """Rules that are evaluated one after the other: a later one sees what an earlier one has just recorded."""

    name: str
    rules: tuple[Rule, ...]
    interval_s: float | None = None
    """How often; ``None``: as often as Prometheus' setting says."""

    def plain(self) -> dict[str, Any]:
        """As it stands in a rule file."""
        interval = {} if self.interval_s is None else {"interval": duration(self.interval_s)}
        return {"name": self.name} | interval | {"rules": [rule.plain() for rule in self.rules]}


def rule_file(groups: Sequence[RuleGroup]) -> str:
    """The text of a Prometheus rule file.

    Raises:
        ConfigError: two groups share a name.
    """
    if len({group.name for group in groups}) < len(groups):
        raise ConfigError("Two groups of rules share a name.", mend="Give each another.")
    return dump({"groups": [group.plain() for group in groups]})


def read_rules(text: str) -> tuple[RuleGroup, ...]:
    """What a rule file says; the inverse of :func:`rule_file`.

    Raises:
        ConfigError: it is no rule file, or a query is outside of the part of PromQL that is understood.
    """
    try:
        return tuple(_group(group) for group in yaml.safe_load(text)["groups"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"This is no rule file: {error!r}.", mend="Write one: rlcourse monitor render.") from error


def _group(plain: Mapping[str, Any]) -> RuleGroup:
    interval_s = seconds(plain["interval"]) if "interval" in plain else None
    return RuleGroup(plain["name"], tuple(map(_rule, plain["rules"])), interval_s)


def _rule(plain: Mapping[str, Any]) -> Rule:
    if "record" in plain:
        return Recording(plain["record"], str(plain["expr"]), dict(plain.get("labels", {})))
    labels = dict(plain["labels"])
    return Alert(
        name=plain["alert"],
        expr=str(plain["expr"]),
        hold_s=seconds(str(plain.get("for", "0s"))),
        severity=Severity(labels.pop("severity")),
        labels=labels,
        **plain["annotations"],
    )


def filled(template: str, labels: Mapping[str, str]) -> str:
    """A text with its labels filled in; a label that is missing is empty, as in Prometheus."""
    return _TEMPLATE.sub(lambda found: labels.get(found[1], ""), template)


def dump(content: Any) -> str:
    """YAML in the order it was written, without line breaks inside texts."""
    return yaml.safe_dump(content, sort_keys=False, width=10_000, allow_unicode=True)
