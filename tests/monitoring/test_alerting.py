"""Alertmanager's configuration, read and routed by its own amtool."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlcourse.errors import ConfigError
from rlcourse.monitoring import promtool
from rlcourse.monitoring.alert_cases import BASELINES
from rlcourse.monitoring.alerting import (
    INHIBITIONS,
    AlertingConfig,
    PagerDuty,
    Slack,
    Webhook,
    alertmanager_file,
    heard,
)
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.limits import Limits
from rlcourse.monitoring.rules import Alert, Severity

EVERYBODY = AlertingConfig(
    slack=Slack(api_url_file=Path("/run/secrets/slack")),
    pagerduty=PagerDuty(routing_key_file=Path("/run/secrets/pagerduty")),
    webhooks=(Webhook(url="http://127.0.0.1:9000/alerts", token_file=Path("/run/secrets/token")),),
)
ALERTS = [rule for group in rule_groups(Limits(), BASELINES) for rule in group.rules if isinstance(rule, Alert)]


@pytest.mark.parametrize(
    "config",
    [EVERYBODY, AlertingConfig(), AlertingConfig(webhooks=EVERYBODY.webhooks), AlertingConfig(slack=EVERYBODY.slack)],
)
def test_amtool_takes_it(config: AlertingConfig, tmp_path: Path) -> None:
    (tmp_path / "alertmanager.yml").write_text(alertmanager_file(config))
    promtool.check_alertmanager(tmp_path / "alertmanager.yml")


def test_amtool_refuses_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "alertmanager.yml").write_text(alertmanager_file(EVERYBODY).replace("receiver: page", "receiver: pgae"))
    with pytest.raises(ConfigError, match="pgae"):
        promtool.check_alertmanager(tmp_path / "alertmanager.yml")


@pytest.mark.parametrize(
    ("severity", "kinds"),
    [
        (Severity.PAGE, ("pagerduty", "slack", "webhook")),
        (Severity.TICKET, ("slack", "webhook")),
        (Severity.NOTE, ("webhook",)),
    ],
)
def test_severity_decides_who_hears(severity: Severity, kinds: tuple[str, ...], tmp_path: Path) -> None:
    assert heard(EVERYBODY, severity) == kinds
    file = tmp_path / "alertmanager.yml"
    file.write_text(alertmanager_file(EVERYBODY))
    (name,) = promtool.receivers_for(file, {"severity": severity.value, "alertname": "X"})
    (receiver,) = [one for one in yaml.safe_load(file.read_text())["receivers"] if one["name"] == name]
    assert {key for key in receiver if key != "name"} == {f"{kind}_configs" for kind in kinds}


def test_an_unknown_severity_wakes_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(alertmanager_file(EVERYBODY))
    assert promtool.receivers_for(tmp_path / "a.yml", {"severity": "fine"}) == ("nobody",)


def test_secrets_stay_in_files() -> None:
    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for inner in value.values() for key in keys(inner)}
        return {key for inner in value for key in keys(inner)} if isinstance(value, list) else set()

    found = keys(yaml.safe_load(alertmanager_file(EVERYBODY)))
    assert found & {"api_url_file", "routing_key_file", "credentials_file"} == {
        "api_url_file",
        "routing_key_file",
        "credentials_file",
    }
    assert not found & {
        "api_url",
        "slack_api_url",
        "routing_key",
        "service_key",
        "credentials",
        "password",
        "bearer_token",
    }


def test_inhibitions_are_about_alerts_that_exist() -> None:
    names = {alert.name for alert in ALERTS}
    for inhibition in INHIBITIONS:
        for matcher in (inhibition.source, *inhibition.targets):
            assert set(matcher.split('"')[1].split("|")) <= names
        assert inhibition.why


def test_the_loudest_alerts_wait_least() -> None:
    routes = yaml.safe_load(alertmanager_file(EVERYBODY))["route"]
    assert routes["group_wait"] == "10s" and routes["routes"][0]["group_wait"] == "5s"
    at_once = AlertingConfig(webhooks=EVERYBODY.webhooks, group_wait_s=0.0)
    assert yaml.safe_load(alertmanager_file(at_once))["route"]["routes"][0]["group_wait"] == "0s"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Webhook(url="ftp://x"),
        lambda: Webhook(url="http://user:secret@127.0.0.1/"),
        lambda: PagerDuty(routing_key_file=Path("key"), url="events.pagerduty.com"),
        lambda: AlertingConfig(runbooks="{{ .Labels }}"),
        lambda: AlertingConfig(group_wait_s=-1.0),
        lambda: AlertingConfig(repeat_interval_s=0.0),
    ],
)
def test_what_makes_no_configuration_is_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ConfigError):
        wrong()
