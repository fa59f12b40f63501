"""Grades the alert that a reader writes in chapter 17: it must catch an incident and none of its look-alikes.

The rule file is run over series that the reader has not seen (:mod:`~rlcourse.course.alert_incident`), by Prometheus' own
``promtool`` where that is installed, by the embedded evaluator where it is not; the verdict says by which. What is asked is
always the same: *did the alert fire at any time between these two minutes?* Questions are asked in a fixed order, and the
first that comes out wrong decides the hint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcourse.course.alert_engines import NAME, Engine, engine_for
from rlcourse.course.alert_hints import HINTS, OVER_MIN, WITHIN_MIN
from rlcourse.course.alert_incident import BEGINS, ENDS, MENDED, MINUTE, scraped_names
from rlcourse.errors import ExerciseError, MissingExtraError
from rlcourse.monitoring.promql import seconds
from rlcourse.monitoring.rules import Severity

try:
    import yaml
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "Grading a rule file needs PyYAML, which is not installed.", mend="pip install 'rlcourse[monitor]'"
    ) from error

UNWRITTEN = "vector(0) > 1"
"""The query of the stub: it is never answered."""


@dataclass(frozen=True)
class AlertVerdict:
    """What a rule file is worth."""

    status: str
    """passed, failed or not_attempted."""
    engine: str
    """promtool, or embedded."""
    checks: tuple[str, ...]
    """What was found so far, one sentence each."""
    fault: str = ""
    """Which fault, by its name in :data:`HINTS`; empty when there is none."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.status == "passed"

    @property
    def hint(self) -> str:
        """What to think about; empty when nothing is wrong."""
        return HINTS[self.fault] if self.fault else ""

    def __str__(self) -> str:
        lines = [f"{NAME}: {self.status.replace('_', ' ')}. Graded by {self.engine}.", *(f"  {c}" for c in self.checks)]
        return "\n".join([*lines, f"  Hint: {self.hint}"] if self.fault else lines)


def grade_alert(path: Path, *, seed: int = 0, engine: str = "auto") -> AlertVerdict:
    """Grade a rule file.

    Args:
        path: the file.
        seed: of the chance in the hidden series.
        engine: ``promtool``, ``embedded``, or ``auto``: promtool where it is installed.

    Raises:
        ExerciseError: the file cannot be read or holds no alert of that name.
        ConfigError: a query is wrong; with the embedded evaluator, also one that is outside of its part of PromQL.
        MissingExtraError: promtool was asked for and is not installed.
    """
    content = _content(path)
    rule = _alert(content, path)
    runner, name = engine_for(engine, content, seed)
    if str(rule.get("expr", "")).strip() == UNWRITTEN:
        return AlertVerdict("not_attempted", name, (f"The query is still {UNWRITTEN}.",))
    checks: list[str] = []
    fault = _texts(rule)
    if not fault and any(window < 2 * MINUTE for window in _windows(_queries(content))):
        # Not left to the engines: whether a range holds the sample at its far end has changed from Prometheus 2 to 3.
        fault = "narrow"
    if not fault:
        for sentence, wrong in _questions(runner, content):
            if wrong:
                fault = wrong
                break
            checks.append(sentence)
    return AlertVerdict("failed" if fault else "passed", name, tuple(checks), fault)


def _questions(engine: Engine, content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was found, and the fault if there is one; lazily: nothing more is asked after the first."""
    first, second = "incident-4", "incident-0"
    caught = {
        case: engine.fired(case, BEGINS, BEGINS + WITHIN_MIN) and not engine.fired(case, 0, BEGINS - 1)
        for case in (first, second)
    }
    if any(engine.fired(case, 0, BEGINS - 1) for case in (first, second)):
        yield "", "ordinary"
    yield "quiet on an ordinary morning", ""
    if any(caught.values()) and not all(caught.values()):
        yield "", "one action"
    if not all(caught.values()):
        ever = engine.fired(first, BEGINS, MENDED)
        yield "", "late" if ever else _why_never(content)
    yield f"fires within {WITHIN_MIN} minutes of the incident", ""
    named = engine.fired(first, BEGINS, BEGINS + WITHIN_MIN, policy=True)
    yield "says which policy", "" if named else "nobody"
    for case, sentence in (
        ("spike", "quiet during a spike of five minutes"),
        ("night", "quiet during a quiet night"),
        ("gap", "quiet while there are no data, and after"),
        ("busy", "quiet during a busy hour"),
    ):
        yield sentence, case if engine.fired(case, 0, ENDS) else ""
    lasting = engine.fired(first, MENDED + OVER_MIN, ENDS)
    yield f"over {OVER_MIN} minutes after the repair", "for ever" if lasting else ""


def _why_never(content: Mapping[str, Any]) -> str:
    """The likeliest reason that an alert never fires, from the text of its queries."""
    text = _queries(content)
    if set(re.findall(r"(?<![\w:])rl_\w+(?![\w:])", text)) - scraped_names():
        return "unknown"
    if "rl_actions_total" not in text:
        return "service"
    if not _windows(text):
        return "raw"
    return "one action" if re.search(r'action\s*=~?\s*"', text) else "never"


def _queries(content: Mapping[str, Any]) -> str:
    return " ".join(str(rule.get("expr", "")) for rule in _rules(content))


def _windows(text: str) -> list[float]:
    """Every range in the queries, in seconds."""
    return [seconds(found) for found in re.findall(r"\[((?:\d+(?:ms|[smhdw]))+)", text)]


def _texts(rule: Mapping[str, Any]) -> str:
    labels, annotations = rule.get("labels") or {}, rule.get("annotations") or {}
    if labels.get("severity") not in (Severity.PAGE.value, Severity.TICKET.value):
        return "severity"
    if not all(str(annotations.get(name) or "").strip() for name in ("summary", "first_step", "runbook")):
        return "runbook"
    return "value" if any("$value" in str(text) for text in annotations.values()) else ""


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ExerciseError(f"{path} cannot be read: {error}.", mend="Begin with exercises/ch17_alert.yml.") from error
    groups = content.get("groups") if isinstance(content, dict) else None
    well = isinstance(groups, list) and all(
        isinstance(group, dict)
        and isinstance(group.get("rules"), list)
        and all(isinstance(rule, dict) for rule in group["rules"])
        for group in groups
    )
    if not well:
        raise ExerciseError(f"{path} is no rule file.", mend="It has groups, and each group rules: see the stub.")
    found: Mapping[str, Any] = content
    return found


def _rules(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [rule for group in content["groups"] for rule in group["rules"]]


def _alert(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    found = [rule for rule in _rules(content) if rule.get("alert") == NAME]
    if len(found) != 1 or sum("alert" in rule for rule in _rules(content)) != 1:
        raise ExerciseError(f"{path} should hold one alert, {NAME}.", mend="Recording rules may stand beside it.")
    return found[0]
