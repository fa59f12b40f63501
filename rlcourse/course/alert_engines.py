"""Two ways to run a reader's rules over the hidden series: Prometheus' own ``promtool``, and the embedded evaluator."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from rlcourse.course.alert_incident import BEGINS, MINUTE, POLICY, hidden_cases, last_minute
from rlcourse.errors import ConfigError, MissingExtraError
from rlcourse.monitoring import promtool
from rlcourse.monitoring.promql import duration, seconds
from rlcourse.monitoring.replay import firing, replay
from rlcourse.monitoring.rule_cases import Case
from rlcourse.monitoring.rules import Alert, Recording, Rule, RuleGroup, Severity, dump

NAME = "PolicyStuck"
"""How the alert must be called."""


class Engine(Protocol):
    """Runs the rules over a case."""

    def fired(self, case: str, since_min: float, until_min: float, *, policy: bool = False) -> bool:
        """Whether the alert fired between the two minutes, both included; ``policy``: with the policy's label."""
        ...


def engine_for(wanted: str, content: Mapping[str, Any], seed: int) -> tuple[Engine, str]:
    """The one that is wanted, and its name; ``auto`` takes promtool where it is installed.

    Raises:
        ConfigError: there is no such engine, or the rules are none.
        MissingExtraError: promtool is wanted and not installed.
    """
    if wanted not in ("auto", "promtool", "embedded"):
        raise ConfigError(f"There is no engine {wanted!r}.", mend="Use auto, promtool or embedded.")
    if wanted != "embedded":
        try:
            promtool.program("promtool")
            return _Promtool(content, seed), "promtool"
        except MissingExtraError:
            if wanted == "promtool":
                raise
    return _Embedded(content, seed), "embedded"


class _Promtool:
    """Asks Prometheus: ``ALERTS`` is the series that it keeps of its own alerts."""

    def __init__(self, content: Mapping[str, Any], seed: int) -> None:
        self._text, self._cases = dump(content), hidden_cases(seed)
        self._known: dict[tuple[str, float, float, bool], bool] = {}
        with tempfile.TemporaryDirectory() as folder:
            rules = Path(folder) / "rules.yml"
            rules.write_text(self._text, encoding="utf-8")
            promtool.check_rules(rules)

    def fired(self, case: str, since_min: float, until_min: float, *, policy: bool = False) -> bool:
        # Beyond the last sample there are no data, which no case is about.
        key = (case, since_min, min(until_min, last_minute(self._cases[case])), policy)
        if key not in self._known:
            self._known[key] = self._answer(*key)
        return self._known[key]

    def _answer(self, case: str, since_min: float, until_min: float, policy: bool) -> bool:
        likely = since_min == BEGINS  # asked first what will be so: a run costs a fifth of a second
        for fires in (likely, not likely):
            try:
                self._ask(case, since_min, until_min, policy, fires)
                return fires
            except ConfigError as error:
                said = error.problem
        # Neither yes nor no: the rules could not be run.
        raise ConfigError(f"promtool cannot evaluate the rules. {said}", mend="Try the query piece by piece.")

    def _ask(self, case: str, since_min: float, until_min: float, policy: bool, fires: bool) -> None:
        label = f',policy="{POLICY}"' if policy else ""
        selector = f'ALERTS{{alertname="{NAME}",alertstate="firing"{label}}}'
        window = duration((until_min - since_min) * MINUTE)
        test = {
            "interval": "1m",
            "input_series": [series.plain() for series in self._cases[case].series],
            "promql_expr_test": [
                {
                    "expr": f"(count(count_over_time({selector}[{window}])) or vector(0)) > bool 0",
                    "eval_time": duration(until_min * MINUTE),
                    "exp_samples": [{"labels": "{}", "value": int(fires)}],
                }
            ],
        }
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "rules.yml").write_text(self._text, encoding="utf-8")
            file = Path(folder) / "test.yml"
            file.write_text(
                dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}), encoding="utf-8"
            )
            promtool.run_cases(file)


class _Embedded:
    """Asks the evaluator of this package."""

    def __init__(self, content: Mapping[str, Any], seed: int) -> None:
        self._cases = hidden_cases(seed)
        self._groups = tuple(
            RuleGroup(str(group.get("name", "")), tuple(map(_rule, group["rules"]))) for group in content["groups"]
        )
        self._firing: dict[str, list[tuple[float, str]]] = {}

    def fired(self, case: str, since_min: float, until_min: float, *, policy: bool = False) -> bool:
        if case not in self._firing:
            self._firing[case] = list(self._replayed(self._cases[case]))
        return any(
            since_min * MINUTE <= when <= until_min * MINUTE and (name == POLICY or not policy)
            for when, name in self._firing[case]
        )

    def _replayed(self, case: Case) -> Iterator[tuple[float, str]]:
        for now_s, evaluator in replay(case, self._groups, last_minute(case) * MINUTE):
            for alert in firing(evaluator):
                yield now_s, alert.labels.get("policy", "")


def _rule(plain: Mapping[str, Any]) -> Rule:
    if "record" in plain:
        return Recording(str(plain["record"]), str(plain["expr"]), dict(plain.get("labels") or {}))
    labels, texts = dict(plain.get("labels") or {}), plain.get("annotations") or {}
    return Alert(
        name=str(plain["alert"]),
        expr=str(plain.get("expr", "")),
        hold_s=seconds(str(plain.get("for", "0s"))),
        severity=Severity.PAGE if labels.pop("severity", "page") == "page" else Severity.TICKET,
        summary=str(texts.get("summary", "")).replace("$value", ""),
        first_step=str(texts.get("first_step", "")).replace("$value", ""),
        runbook=str(texts.get("runbook", "")),
        labels=labels,
    )
