"""Who hears of an alert: Alertmanager's configuration, from dataclasses.

::

    page    ─▶ PagerDuty, Slack, webhook       a person, now
    ticket  ─▶ Slack, webhook                  a person, on the next working day
    note    ─▶ webhook                         machines

Alerts of one policy come in one message, and an alert that explains others keeps them quiet. Secrets stay in files that
Alertmanager reads itself: neither this configuration nor whoever keeps it under version control ever holds one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcourse.errors import ConfigError
from rlcourse.monitoring.promql import duration
from rlcourse.monitoring.rules import Severity, dump

_TITLE = "{{ .Status | toUpper }}: {{ .CommonLabels.alertname }}{{ with .CommonLabels.policy }} of {{ . }}{{ end }}"
_SUMMARY = "{{ .Annotations.summary }}"
_FIRST = "{{ .Annotations.first_step }}"


def _of_each(text: str) -> str:
    return f"{{{{ range .Alerts }}}}{text}{{{{ end }}}}"


def _section(runbooks: str) -> str:
    return f"{runbooks}#{{{{ .Annotations.runbook }}}}"


@dataclass(frozen=True, kw_only=True)
class Slack:
    """A channel."""

    api_url_file: Path
    """Holds the address of an incoming webhook, which is a secret."""
    channel: str = "#rl-operations"

    def plain(self, runbooks: str) -> dict[str, Any]:
        """As it stands in the configuration; ``runbooks`` is where their sections are."""
        return {
            "api_url_file": str(self.api_url_file),
            "channel": self.channel,
            "send_resolved": True,
            "title": _TITLE,
            "text": _of_each(f"{_SUMMARY}\nFirst: {_FIRST}\nThen: {_section(runbooks)}\n"),
        }


@dataclass(frozen=True, kw_only=True)
class PagerDuty:
    """A service whose people are on call."""

    routing_key_file: Path
    """Holds the integration key (Events API v2), which is a secret."""
    url: str | None = None
    """Where events are sent; ``None``: to PagerDuty's own address. Another is for a proxy, or for a test."""

    def __post_init__(self) -> None:
        if self.url is not None:
            _demand_address(self.url, "PagerDuty's events")

    def plain(self, runbooks: str) -> dict[str, Any]:
        """As it stands in the configuration; ``runbooks`` is where their sections are."""
        content: dict[str, Any] = {
            "routing_key_file": str(self.routing_key_file),
            "severity": "critical",
            "description": f"{{{{ .CommonLabels.alertname }}}}: {_of_each(f'{_SUMMARY} ')}",
            "details": {"first_step": _of_each(f"{_FIRST} "), "runbook": _of_each(f"{_section(runbooks)} ")},
        }
        return content | ({"url": self.url} if self.url else {})


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A program that takes alerts as JSON: a ticket system, or what rolls a release back."""

    url: str
    token_file: Path | None = None
    """Holds a token that is sent as ``Authorization: Bearer``."""

    def __post_init__(self) -> None:
        _demand_address(self.url, "a webhook")

    def plain(self, runbooks: str) -> dict[str, Any]:
        """As it stands in the configuration. Whoever reads JSON has the name of the section among the annotations."""
        token = {"authorization": {"type": "Bearer", "credentials_file": str(self.token_file)}}
        return {"url": self.url, "send_resolved": True} | ({"http_config": token} if self.token_file else {})


@dataclass(frozen=True, kw_only=True)
class AlertingConfig:
    """Where messages go, and how they are put together. Without any receiver alerts are shown, and sent to nobody."""

    slack: Slack | None = None
    pagerduty: PagerDuty | None = None
    webhooks: tuple[Webhook, ...] = ()
    runbooks: str = "runbooks.md"
    """Where whoever is told finds the runbooks; each message ends with this and its section, such as ``#latency``."""
    group_wait_s: float = 10.0
    """How long the first alert of a group waits for company. Longer makes fewer messages, and every one later."""
    group_interval_s: float = 60.0
    """Between two messages about a group that changes."""
    repeat_interval_s: float = 4 * 3600.0
    """Between two messages about a group that does not."""

    def __post_init__(self) -> None:
        if self.group_wait_s < 0.0 or min(self.group_interval_s, self.repeat_interval_s) <= 0.0:
            raise ConfigError("A waiting time is below its range.", mend="Use seconds, 0 or more; intervals above 0.")
        if not self.runbooks or "{{" in self.runbooks or "\n" in self.runbooks:
            raise ConfigError(f"The runbooks are nowhere: {self.runbooks!r}.", mend="Name an address or a file.")


@dataclass(frozen=True)
class Inhibition:
    """While the source fires, the target is not told, if both agree on the labels."""

    source: str
    targets: tuple[str, ...]
    equal: tuple[str, ...] = ()
    why: str = field(default="", compare=False)

    def plain(self) -> dict[str, Any]:
        """As it stands in the configuration."""
        content: dict[str, Any] = {
            "source_matchers": [self.source],
            "target_matchers": list(self.targets),
        }
        return content | ({"equal": list(self.equal)} if self.equal else {})


INHIBITIONS = (
    Inhibition(
        'alertname = "MetricsAbsent"',
        ('alertname !~ "MetricsAbsent|TargetDown"',),
        why="when no service reports, what was last heard of it explains nothing",
    ),
    Inhibition(
        'alertname = "TargetDown"',
        ('alertname = "NoTraffic"',),
        why="a service that is down has no traffic",
    ),
    Inhibition(
        'alertname = "BreakerOpen"',
        ('alertname = "FallbackRateHigh"',),
        ("policy",),
        why="while the breaker is open the fallback decides everything",
    ),
    Inhibition(
        'alertname = "ErrorBudgetBurnFast"',
        ('alertname = "ErrorBudgetBurnSlow"',),
        ("policy", "slo"),
        why="who is awake already needs no ticket",
    ),
)


def alertmanager_file(config: AlertingConfig) -> str:
    """The text of Alertmanager's configuration."""
    routes = [_route(config, severity) for severity in Severity]
    content = {
        "route": {
            "receiver": "nobody",
            "group_by": ["alertname", "policy"],
            "group_wait": duration(config.group_wait_s),
            "group_interval": duration(config.group_interval_s),
            "repeat_interval": duration(config.repeat_interval_s),
            "routes": [route for route in routes if route["receiver"] != "nobody"],
        },
        "inhibit_rules": [inhibition.plain() for inhibition in INHIBITIONS],
        "receivers": [
            {"name": "nobody"},
            *(_receiver(config, severity) for severity in Severity if heard(config, severity)),
        ],
    }
    return dump(content)


def heard(config: AlertingConfig, severity: Severity) -> tuple[str, ...]:
    """The kinds of receivers that hear of alerts of that severity."""
    pagerduty = ("pagerduty",) if config.pagerduty and severity is Severity.PAGE else ()
    slack = ("slack",) if config.slack and severity is not Severity.NOTE else ()
    return (*pagerduty, *slack, *(("webhook",) if config.webhooks else ()))


def _route(config: AlertingConfig, severity: Severity) -> dict[str, Any]:
    # What pages must not wait for company that may never come.
    soon = {"group_wait": duration(min(config.group_wait_s, 5.0))} if severity is Severity.PAGE else {}
    receiver = severity.value if heard(config, severity) else "nobody"
    return {"receiver": receiver, "matchers": [f'severity = "{severity.value}"']} | soon


def _receiver(config: AlertingConfig, severity: Severity) -> dict[str, Any]:
    kinds = heard(config, severity)
    content: dict[str, Any] = {"name": severity.value}
    found: dict[str, Sequence[Slack | PagerDuty | Webhook | None]] = {
        "pagerduty": (config.pagerduty,),
        "slack": (config.slack,),
        "webhook": config.webhooks,
    }
    for kind in kinds:
        content[f"{kind}_configs"] = [one.plain(config.runbooks) for one in found[kind] if one is not None]
    return content


def _demand_address(url: str, of: str) -> None:
    if not url.startswith(("http://", "https://")) or "@" in url:
        raise ConfigError(
            f"{url!r} is no address for {of}.",
            mend="Use http:// or https://, and keep passwords in a file.",
        )
