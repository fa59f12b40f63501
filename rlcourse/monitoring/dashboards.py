"""The dashboard, as Grafana's JSON: from the task's reward down to the service's milliseconds.

It is built with Grafana's own library, so that every field is one that Grafana knows. Whoever is woken reads from the top:
is the task going well, is the policy itself, is it safe, is the service.

::

    Task       return against the baseline's floor · success · episodes by end · cost
    Policy     actions · entropy · drift
    Safety     violations · human overrides
    Service    targets · latency · requests · fallbacks · refusals · breakers · decision log
    Promises   error budgets, by the windows in which they burn

Where an alert compares a signal with a limit, the signal's panel has that limit as a line. It is read from the rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rlcourse.errors import MissingExtraError

try:
    from grafana_foundation_sdk.builders import common, prometheus, timeseries
    from grafana_foundation_sdk.builders import dashboard as boards
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.common import (
        GraphThresholdsStyleMode,
        LegendDisplayMode,
        LegendPlacement,
        TooltipDisplayMode,
    )
    from grafana_foundation_sdk.models.dashboard import (
        DataSourceRef,
        GridPos,
        Threshold,
        ThresholdsMode,
        VariableRefresh,
    )
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"Dashboards need {error.name}, which is not installed.", mend="pip install 'rlcourse[monitor]'"
    ) from error

from rlcourse.monitoring.alerts import entropy_limit, rule_groups, slos
from rlcourse.monitoring.limits import Limits
from rlcourse.monitoring.promql import COMPARISONS, Binary, Expression, Number, duration
from rlcourse.monitoring.rules import Alert
from rlcourse.monitoring.slo import BURNS

GRID = 24
"""Columns of Grafana's grid."""
UID = "rlcourse-policy"
POLICY = 'policy=~"$policy"'
"""Narrows a query to the policies that the reader of the dashboard has chosen."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture of one or more queries over time."""

    title: str
    says: str
    """What a reader learns from it, one sentence."""
    queries: tuple[tuple[str, str], ...]
    """Each with its legend; ``{{label}}`` is filled in by Grafana."""
    unit: str = "short"
    """Grafana's name for it: s, percentunit, reqps, short."""
    limits: tuple[float, ...] = ()
    """Where alerts fire, from the lowest; drawn as lines."""
    width: int = 8


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


def rows(limits: Limits) -> tuple[Row, ...]:
    """What is shown. Windows and limits are those of the alerts."""
    window, of = duration(limits.window_s), _limits_by_alert(limits)
    who, version = "sum by (policy, version)", "{{policy}} {{version}}"
    task = (
        Panel(
            title="Return",
            says="Mean return of the last episodes, and the floor below which an alert fires.",
            queries=(
                (f"rl_episode_return_mean{{{POLICY}}}", version),
                (f"policy:rl_episode_return:floor{{{POLICY}}}", "floor of {{policy}}"),
            ),
        ),
        Panel(
            title="Success",
            says="Share of the last episodes that succeeded.",
            queries=((f"rl_success_ratio{{{POLICY}}}", version),),
            unit="percentunit",
        ),
        Panel(
            title="Episodes by how they ended",
            says="Episodes an hour; abandoned ones are missing data, not failures of the policy.",
            queries=((f"sum by (policy, end) (increase(rl_episodes_total{{{POLICY}}}[1h]))", "{{policy}} {{end}}"),),
        ),
        Panel(
            title="Cost",
            says="Euros for each hour of operation.",
            queries=((f"rl_cost_euros_per_hour{{{POLICY}}}", version),),
            unit="currencyEUR",
        ),
        Panel(
            title="Saved against the baseline",
            says="Share of the safe baseline's cost that the policy saves, with its 95 % interval.",
            queries=tuple((f"rl_roi_ratio{end}{{{POLICY}}}", version + end) for end in ("", "_low", "_high")),
            unit="percentunit",
        ),
        Panel(
            title="Rewards awaited",
            says="Decisions whose reward has not come in: the return is blind to them.",
            queries=((f"rl_rewards_pending{{{POLICY}}}", version),),
        ),
    )
    policy = (
        Panel(
            title="Actions",
            says="How often each action is chosen.",
            queries=(
                (f"sum by (policy, action) (rate(rl_actions_total{{{POLICY}}}[{window}]))", "{{policy}} {{action}}"),
            ),
            unit="reqps",
            width=6,
        ),
        Panel(
            title="Entropy",
            says="Variety of the choices, in nats, and the limit that the policy's last day sets.",
            queries=(
                (f"rl_policy_entropy_nats{{{POLICY}}}", version),
                (entropy_limit(limits, f"{{{POLICY}}}"), "limit of {{policy}}"),
            ),
            limits=of["EntropyCollapse"],
            width=6,
        ),
        Panel(
            title="Drift",
            says="1 while a check says that what the policy sees has changed.",
            queries=((f"max by (policy, check) (rl_drift_alarm{{{POLICY}}})", "{{policy}} {{check}}"),),
            limits=of["DriftAlarm"],
            width=6,
        ),
        Panel(
            title="Drift not checked",
            says="Windows an hour that could not be checked; above 0 it is not known whether anything has changed.",
            queries=(
                (f"sum by (policy, check) (increase(rl_drift_failures_total{{{POLICY}}}[1h]))", "{{policy}} {{check}}"),
            ),
            limits=of["DriftUnchecked"],
            width=6,
        ),
    )
    safety = (
        Panel(
            title="Steps outside a safety limit",
            says="Share of the last steps; above the line somebody is woken.",
            queries=((f"rl_safety_violation_ratio{{{POLICY}}}", version),),
            unit="percentunit",
            limits=of["SafetyViolations"],
        ),
        Panel(
            title="Violations by limit",
            says="Steps an hour outside each limit.",
            queries=(
                (
                    f"sum by (policy, constraint) (increase(rl_safety_violations_total{{{POLICY}}}[1h]))",
                    "{{policy}} {{constraint}}",
                ),
            ),
        ),
        Panel(
            title="Human overrides",
            says="Decisions an hour that a person replaced, by reason.",
            queries=(
                (
                    f"sum by (policy, reason) (increase(rl_human_overrides_total{{{POLICY}}}[1h]))",
                    "{{policy}} {{reason}}",
                ),
            ),
        ),
    )
    latency = ", ".join(("policy", "version", "le"))
    service = (
        Panel(
            title="Targets",
            says="1 for each program that answers when its numbers are asked for; 0 is an alert.",
            queries=(("up", "{{job}} {{instance}}"),),
            limits=of["TargetDown"],
        ),
        Panel(
            title="Decision latency",
            says="Half, 95 % and 99 % of the decisions are quicker than this.",
            queries=tuple(
                (
                    f"histogram_quantile({share}, sum by ({latency}) "
                    f"(rate(rl_request_seconds_bucket{{{POLICY}}}[{window}])))",
                    f"{100 * share:g} % {version}",
                )
                for share in (0.5, 0.95, 0.99)
            ),
            unit="s",
            limits=of["LatencyP99High"],
        ),
        Panel(
            title="Requests",
            says="Requests a second; 0 is noted, in case the plant should be running.",
            queries=((f"{who} (rate(rl_request_seconds_count{{{POLICY}}}[{window}]))", version),),
            unit="reqps",
            limits=of["NoTraffic"],
        ),
        Panel(
            title="Fallbacks",
            says="Share of the decisions that were not the policy's own: all of them, and by reason.",
            queries=(
                (f"policy:rl_decisions:fallback_share{{{POLICY}}}", "{{policy}} all"),
                (
                    f'sum by (policy, fallback) (rate(rl_decisions_total{{{POLICY}, fallback!="none"}}[{window}])) '
                    f"/ on (policy) group_left () sum by (policy) (rate(rl_decisions_total{{{POLICY}}}[{window}]))",
                    "{{policy}} {{fallback}}",
                ),
            ),
            unit="percentunit",
            limits=of["FallbackRateHigh"],
        ),
        Panel(
            title="Requests refused",
            says="By HTTP status: 4xx but 429 are the client's fault.",
            queries=((f"sum by (status) (rate(rl_refused_total[{window}]))", "{{status}}"),),
            unit="reqps",
        ),
        Panel(
            title="Breakers",
            says="0 closed, 1 half open, 2 open; above 0 a version has failed again and again.",
            queries=((f"max by (policy, version) (rl_breaker_state{{{POLICY}}})", version),),
            limits=of["BreakerOpen"],
        ),
        Panel(
            title="Decision log",
            says="Lines in memory alone; while the disk takes nothing they grow until they are lost.",
            queries=(("rl_decision_log_waiting", "waiting {{instance}}"),),
        ),
        Panel(
            title="Decision log fails",
            says="1 while the disk takes nothing.",
            queries=(("max by (job, instance) (rl_decision_log_failing)", "{{job}} {{instance}}"),),
            limits=of["DecisionLogFailing"],
        ),
        Panel(
            title="Decision log loses",
            says=f"Lines lost in {window}; above 0 some decisions can be neither judged nor learned from.",
            queries=(
                (
                    f"sum by (job, instance) (increase(rl_decision_log_dropped_total[{window}]))",
                    "{{job}} {{instance}}",
                ),
            ),
            limits=of["DecisionLogLosing"],
        ),
    )
    burning = sorted({burn.window_s for burn in BURNS})
    budgets = tuple(
        Panel(
            title=f"Error budget: {slo.name}",
            says=f"Share of bad {slo.events} by window. Each window has a limit, the shortest window the highest.",
            queries=tuple(
                (f'{slo.recording(window_s).name}{{slo="{slo.name}"}}', f"{{{{policy}}}} {duration(window_s)}")
                for window_s in burning
            ),
            unit="percentunit",
            limits=of[f"ErrorBudgetBurnSlow {slo.name}"] + of[f"ErrorBudgetBurnFast {slo.name}"],
        )
        for slo in slos(limits)
    )
    return (
        Row("Task", task),
        Row("Policy", policy),
        Row("Safety", safety),
        Row("Service", service),
        Row("Promises", budgets),
    )


def dashboard_file(limits: Limits | None = None) -> str:
    """The text of the dashboard's JSON, for Grafana's import or provisioning."""
    return json.dumps(_dashboard(limits or Limits()).build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def expressions(content: dict[str, Any]) -> Iterator[str]:
    """Every query in a dashboard's JSON."""
    for panel in content["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def limits_of(tree: Expression) -> tuple[float, ...]:
    """The numbers that an alert's query compares its signals with, from the lowest.

    What stands behind ``and`` is a condition under which the signal says something (enough requests, say), not its limit.
    """
    match tree:
        case Binary(op="and"):
            return limits_of(tree.left)
        case Binary(op="or"):
            return tuple(sorted({*limits_of(tree.left), *limits_of(tree.right)}))
        case Binary(op=op, right=Number(value)) if op in COMPARISONS:
            return (value,)
    return ()


def _limits_by_alert(limits: Limits) -> dict[str, tuple[float, ...]]:
    alerts = [rule for group in rule_groups(limits) for rule in group.rules if isinstance(rule, Alert)]
    return {f"{rule.name} {rule.labels.get('slo', '')}".rstrip(): limits_of(rule.tree) for rule in alerts}


def _dashboard(limits: Limits) -> boards.Dashboard:
    source = DataSourceRef(type_val="prometheus", uid="${datasource}")
    board = (
        boards.Dashboard("rlcourse: a policy in production")
        .uid(UID)
        .tags(["rlcourse", "generated"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .with_variable(boards.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            boards.QueryVariable("policy")
            .label("Policy")
            .datasource(source)
            .query("label_values(rl_default_version, policy)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    number = 1
    y = 0
    for row in rows(limits):
        board.with_row(boards.Row(row.title).id(number).grid_pos(GridPos(x=0, y=y, w=GRID, h=1)))
        number, y, x = number + 1, y + 1, 0
        for panel in row.panels:
            if x + panel.width > GRID:
                x, y = 0, y + 8
            board.with_panel(_panel(panel, source).id(number).grid_pos(GridPos(x=x, y=y, w=panel.width, h=8)))
            number, x = number + 1, x + panel.width
        y += 8
    return board


def _panel(panel: Panel, source: DataSourceRef) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True)
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.says)
        .unit(panel.unit)
        .datasource(source)
        .legend(legend.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for number, (query, name) in enumerate(panel.queries):
        built.with_target(prometheus.Dataquery().expr(query).legend_format(name).ref_id(chr(ord("A") + number)))
    if panel.limits:
        steps = [Threshold(value=None, color="green"), *(Threshold(value=one, color="red") for one in panel.limits)]
        built.thresholds(boards.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        built.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE))
    return built
