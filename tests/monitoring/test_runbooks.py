"""Every alert leads to a section, every section to commands that exist."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rlcourse.errors import ConfigError
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.limits import Baseline
from rlcourse.monitoring.rules import Alert
from rlcourse.monitoring.runbooks import RUNBOOKS, runbook_document
from rlcourse.recipes.command_line import COMMANDS

GROUPS = rule_groups(baselines=(Baseline("rl_policy", -50.0),))
ALERTS = [rule for group in GROUPS for rule in group.rules if isinstance(rule, Alert)]


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert {alert.runbook for alert in ALERTS} == set(RUNBOOKS)
    text = runbook_document(GROUPS)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(dict.fromkeys(alert.runbook for alert in ALERTS))
    for alert in ALERTS:
        section = text.split(f"## {alert.runbook}\n")[1].split("\n## ")[0]
        assert section.count(f"**{alert.name}**") == 1
        assert alert.first_step in section


def test_the_commands_in_it_exist() -> None:
    named = re.findall(r"`rlcourse ([a-z ]+)`", runbook_document(GROUPS))
    assert len(named) > 8
    assert {tuple(words.split()) for words in named} <= set(COMMANDS)


def test_an_alert_without_a_section_is_refused() -> None:
    group = replace(GROUPS[0], rules=(replace(ALERTS[0], runbook="nobody-wrote-it"),))
    with pytest.raises(ConfigError, match="nobody-wrote-it"):
        runbook_document([group])
