"""``rlcourse monitor``: rules, routing and dashboards as files, and a stack that runs them against a policy service."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import tyro

from rlcourse.errors import ConfigError, MissingExtraError
from rlcourse.files import write_text
from rlcourse.monitoring import promtool
from rlcourse.monitoring.alert_cases import alert_cases
from rlcourse.monitoring.alerting import AlertingConfig, PagerDuty, Slack, Webhook, alertmanager_file
from rlcourse.monitoring.alerts import rule_groups, slos
from rlcourse.monitoring.catalogue import signals_table
from rlcourse.monitoring.embedded import ActiveAlert, State
from rlcourse.monitoring.exposing import Pages
from rlcourse.monitoring.limits import Baseline, Limits
from rlcourse.monitoring.promql import duration
from rlcourse.monitoring.query_api import QueryApi
from rlcourse.monitoring.replay import failures
from rlcourse.monitoring.rule_cases import case_files
from rlcourse.monitoring.rules import RuleGroup, rule_file
from rlcourse.monitoring.runbooks import runbook_document
from rlcourse.monitoring.scraping import Target, target
from rlcourse.monitoring.slo import slo_document
from rlcourse.monitoring.stack import ALERTMANAGER, PROMETHEUS, RULES, Stack, StackConfig, prometheus_file
from rlcourse.monitoring.watch import Watch, WebhookSender
from rlcourse.recipes.common import NO_PREFIX, Common, report, say, show_result, write_report
from rlcourse.release.adapters.prometheus import SERIES

DAY_S = 86_400.0
DASHBOARD, PROMISES, RUNBOOK, SIGNALS = "dashboard.json", "slo.md", "runbooks.md", "signals.md"


@dataclass(frozen=True, kw_only=True)
class Monitoring(Common):
    """What both commands are told."""

    targets: Annotated[tuple[str, ...], tyro.conf.Positional] = ("127.0.0.1:8080",)
    """What is watched, as HOST:PORT or JOB=HOST:PORT: the service, and a monitor of its decisions if there is one."""
    directory: Path = Path("runs/monitor")
    """Folder for the files, and for what is stored."""
    baseline: tuple[str, ...] = ()
    """What a trusted policy earns, as POLICY=RETURN; without it nothing is said about returns."""
    webhook: tuple[str, ...] = ()
    """Addresses that are sent every alert as JSON."""
    webhook_token_file: Path | None = None
    """Holds a token for them."""
    slack_url_file: Path | None = None
    """Holds the address of a Slack webhook; alerts that page and tickets go there."""
    slack_channel: str = "#rl-operations"
    """Where in Slack."""
    pagerduty_key_file: Path | None = None
    """Holds PagerDuty's integration key; alerts that page go there."""
    pagerduty_url: str | None = None
    """Where PagerDuty's events are sent, if not to PagerDuty itself: a proxy, say."""
    runbooks: str | None = None
    """Where people find the runbooks; messages name it and the section. By default the file that this command writes."""
    limits: Limits = field(default_factory=Limits)
    """Where fine ends."""
    group_wait_s: float = 10.0
    """How long the first alert of a group waits for company before anybody hears of it."""
    group_interval_s: float = 60.0
    """Between two messages about a group that changes: a new alert, or one that is over."""
    stack: Annotated[StackConfig, NO_PREFIX] = field(default_factory=StackConfig)
    """How Prometheus and Alertmanager run."""

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """The returns to compare with.

        Raises:
            ConfigError: one is no name and number.
        """
        return tuple(map(_baseline, self.baseline))

    @property
    def watched(self) -> tuple[Target, ...]:
        """What is scraped.

        Raises:
            ConfigError: one is no address.
        """
        return tuple(map(target, self.targets))

    @property
    def groups(self) -> tuple[RuleGroup, ...]:
        """The rules."""
        return rule_groups(self.limits, self.baselines)

    @property
    def alerting(self) -> AlertingConfig:
        """Who hears of alerts. Files are named by their whole path: Alertmanager runs elsewhere."""
        slack, key, token = (
            path and path.resolve() for path in (self.slack_url_file, self.pagerduty_key_file, self.webhook_token_file)
        )
        return AlertingConfig(
            slack=Slack(api_url_file=slack, channel=self.slack_channel) if slack else None,
            pagerduty=PagerDuty(routing_key_file=key, url=self.pagerduty_url) if key else None,
            webhooks=tuple(Webhook(url=url, token_file=token) for url in self.webhook),
            runbooks=self.runbooks or str((self.directory / RUNBOOK).resolve()),
            group_wait_s=self.group_wait_s,
            group_interval_s=self.group_interval_s,
        )


@dataclass(frozen=True, kw_only=True)
class Render(Monitoring):
    """Write the rules, their unit tests, Alertmanager's routing, the dashboard, promises, runbooks and signals as files.

    The files are for a Prometheus, an Alertmanager and a Grafana of your own. promtool and amtool check them where they
    are installed. Unit tests are written for the default limits, which are what they are about.

    Example: rlcourse monitor render --directory deploy/monitoring --baseline rl_policy=-50
    """


@dataclass(frozen=True, kw_only=True)
class Up(Monitoring):
    """Watch a running service with Prometheus and Alertmanager, until Ctrl-C or SIGTERM.

    Both listen on 127.0.0.1 and end with this command. Where they are not installed an embedded evaluator runs the same
    rules in this process. It has no history beyond this run and no pages to look at, and sends to webhooks alone. On
    Prometheus' port it answers what rlcourse release step --prometheus asks, and no more.

    The service counts what it answers; what came of it is counted by rlcourse monitor follow, to be named beside it.

    Example: rlcourse monitor up 127.0.0.1:8080 decisions=127.0.0.1:9108 --webhook http://127.0.0.1:9000/alerts
    """

    engine: Literal["auto", "prometheus", "embedded"] = "auto"
    """Who evaluates the rules; auto takes Prometheus where it is installed."""


def run(config: Render | Up) -> int:
    """Write the files; for :class:`Up` also run them."""
    started = time.perf_counter()
    if isinstance(config, Up):
        _demand_secrets(config)
    files = files_of(config)
    for name, text in files.items():
        write_text(config.directory / name, text)
    if config.baselines:
        limits = config.limits
        say(
            f"returns: a version is judged once {limits.min_episodes} of its episodes have ended within "
            f"{duration(limits.episodes_window_s)}, which is {limits.episodes_per_hour:.2g} an hour; with fewer nothing is "
            "ever said (--limits.min-episodes, --limits.episodes-window-s)"
        )
    if isinstance(config, Render):
        checked = _check(config, files)
        show_result("\n".join(str(config.directory / name) for name in files), config.json)
        command, rows = "monitor render", [{"file": name, "checked_by": checked.get(name)} for name in files]
    else:
        engine = _engine(config.engine)
        command, rows = "monitor up", [{"engine": engine}]
        with _ended_by_sigterm():
            _prometheus(config) if engine == "prometheus" else _embedded(config)
        say("stopped")
    write_report(config.json, report(command, config, seconds=time.perf_counter() - started, results=rows))
    return 0


def files_of(config: Monitoring) -> dict[str, str]:
    """Every file by its name.

    Raises:
        ConfigError: a setting makes no sense.
        MissingExtraError: the dashboard's library is not installed.
    """
    groups = config.groups
    files = {RULES: rule_file(groups)}
    if config.limits != Limits():
        say("unit tests of the rules are about the default limits; none are written")
    else:
        files |= case_files(alert_cases(config.baselines), groups, rule_file=RULES)
    files |= {
        PROMETHEUS: prometheus_file(config.stack, config.watched),
        ALERTMANAGER: alertmanager_file(config.alerting),
        PROMISES: slo_document(slos(config.limits), groups),
        RUNBOOK: runbook_document(groups),
        SIGNALS: f"# Signals, and who writes them\n\n{signals_table()}",
    }
    if isinstance(config, Render):  # nobody looks at Grafana while the stack runs
        from rlcourse.monitoring.dashboards import dashboard_file

        files[DASHBOARD] = dashboard_file(config.limits)
    return files


def _check(config: Render, files: dict[str, str]) -> dict[str, str]:
    """Which program has checked which file.

    Raises:
        ConfigError: it found a fault.
    """
    checks = {RULES: promtool.check_rules, ALERTMANAGER: promtool.check_alertmanager}
    checks |= {name: promtool.run_cases for name in files if name.startswith("test-rules")}
    checked, missing = {}, {}
    for name, check in checks.items():
        try:
            check(config.directory / name)
            checked[name] = "amtool" if name == ALERTMANAGER else "promtool"
        except MissingExtraError as error:
            missing[name] = str(error)
    tests = [name for name in missing if name.startswith("test-rules")]
    if tests:
        wrong = list(failures(alert_cases(config.baselines), config.groups))
        if wrong:
            raise ConfigError(" ".join(wrong), mend="Mend the rule or the case.")
        checked |= dict.fromkeys(tests, "embedded evaluator")
    for name in missing.keys() - checked.keys():
        say(f"not checked: {config.directory / name}. {missing[name]}")
    say(f"checked: {', '.join(f'{name} by {program}' for name, program in checked.items()) or 'nothing'}")
    return checked


def _demand_secrets(config: Up) -> None:
    """Alertmanager would notice only when it has something to say."""
    for file in (config.slack_url_file, config.pagerduty_key_file, config.webhook_token_file):
        if file is not None and not file.is_file():
            raise ConfigError(f"{file} is no file.", mend="Name the file that holds the secret.")


def _engine(wanted: Literal["auto", "prometheus", "embedded"]) -> Literal["prometheus", "embedded"]:
    if wanted == "embedded":
        return wanted
    try:
        for name in promtool.PACKAGES:
            promtool.program(name)
    except MissingExtraError as error:
        if wanted == "prometheus":
            raise
        say(f"rules are evaluated by the embedded evaluator: {error}")
        return "embedded"
    return "prometheus"


def _prometheus(config: Up) -> None:
    with Stack(config.directory, config.watched, config.stack) as stack:
        say("rules are evaluated by Prometheus")
        say(f"ready: {stack.url} (alerts: {stack.url}/alerts, Alertmanager: {stack.alertmanager_url})")
        try:
            stack.wait()
        except KeyboardInterrupt:
            say("stopping")


def _embedded(config: Up) -> None:
    if config.webhook_token_file or config.slack_url_file or config.pagerduty_key_file:
        raise ConfigError(
            "The embedded evaluator sends to webhooks without a token alone.",
            mend=f"Install Prometheus: sudo apt-get install {' '.join(sorted(set(promtool.PACKAGES.values())))}",
        )
    sender = WebhookSender(config.webhook, say=say)

    def tell(alert: ActiveAlert) -> None:
        state = "FIRING" if alert.state is State.FIRING else "resolved"
        say(f"{state} {alert.name} ({alert.labels['severity']}): {alert.annotations['summary']}")
        sender.send(alert, time.time())

    watch = Watch(
        config.watched, config.groups, tell=tell, also=SERIES, retention_s=config.stack.retention_days * DAY_S
    )
    with Pages(QueryApi(watch.evaluator, watch.lock).pages(), config.stack.port) as pages:
        say("rules are evaluated by the embedded evaluator")
        every = f"every {config.stack.scrape_interval_s:g} s, {len(config.watched)} targets"
        say(f"ready: http://{pages.address} (for rlcourse release step --prometheus; {every})")
        try:
            watch.run(config.stack.scrape_interval_s, threading.Event(), after=sender.flush)
        except KeyboardInterrupt:
            say("stopping")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:  # while it was starting
        say("stopped before it was ready")
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _baseline(words: str) -> Baseline:
    policy, _, number = words.partition("=")
    try:
        mean_return = float(number)
    except ValueError:
        mean_return = math.nan
    if not policy or not math.isfinite(mean_return):
        raise ConfigError(f"{words!r} is no baseline.", mend="Use POLICY=RETURN, such as rl_policy=-50.")
    return Baseline(policy, mean_return)
