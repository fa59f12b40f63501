"""What this package alerts on: the groups of rules that follow from the limits.

Every group stands alone: it records what its own alerts read, so that an alert sees the value of this very evaluation.
"""

from __future__ import annotations

from rlcourse.errors import ConfigError
from rlcourse.monitoring.limits import Baseline, Limits, return_floor
from rlcourse.monitoring.promql import duration
from rlcourse.monitoring.rules import Alert, Recording, RuleGroup, Severity
from rlcourse.monitoring.slo import LONGEST_S, WINDOW, Slo, slo_group

BROKEN = "timeout|error|breaker_open"
"""Reasons for a fallback that are the service's fault; the others are the observation's."""
UNANSWERED = "429|5.."
"""HTTP statuses that are the service's fault."""
OUTAGE = Recording(
    "service:up:none", f"1 - max(up and on (job, instance) max_over_time(rl_default_version[{duration(LONGEST_S)}]))"
)
"""1 while no policy service answers a scrape: what has shown versions before is one, whatever its job is called."""


def slos(limits: Limits) -> tuple[Slo, ...]:
    """The three promises of the policy service."""
    refused = f'(sum(rate(rl_refused_total{{status=~"{UNANSWERED}"}}[{WINDOW}])) or vector(0))'
    broken = f'sum by (policy) (rate(rl_decisions_total{{fallback=~"{BROKEN}"}}[{WINDOW}]))'
    decisions = f"sum by (policy) (rate(rl_decisions_total[{WINDOW}]))"
    down = f"{OUTAGE.name}[{WINDOW}]"
    within = f'sum by (policy) (rate(rl_request_seconds_bucket{{le="{limits.latency_s}"}}[{WINDOW}]))'
    requests = f"sum by (policy) (rate(rl_request_seconds_count[{WINDOW}]))"

    def counted(query: str) -> str:
        return query.replace("rate(", "increase(")

    return (
        Slo(
            name="answered",
            objective=limits.answered,
            promise="is answered with an action",
            events="requests that are well formed, and scrapes while no service answers",
            # Without a service there are no requests, and their share is no number: the time counts instead.
            bad_share=f"({refused} / (sum(rate(rl_request_seconds_count[{WINDOW}])) + {refused}) > 0 or vector(0)) "
            f"+ (avg_over_time({down}) or vector(0))",
            bad_count=f"{counted(refused)} + (sum_over_time({down}) or vector(0))",
            least_bad=limits.min_bad_events,
            before=(OUTAGE,),
        ),
        Slo(
            name="decided",
            objective=limits.decided,
            promise="is the policy's own, not the fallback's for want of one",
            events="decisions",
            bad_share=f"({broken} or 0 * {decisions}) / {decisions}",
            bad_count=counted(f"({broken} or 0 * {decisions})"),
            least_bad=limits.min_bad_events,
        ),
        Slo(
            name="fast",
            objective=limits.fast,
            promise=f"is decided within {1000 * limits.latency_s:g} ms",
            events="requests",
            bad_share=f"1 - {within} / {requests}",
            bad_count=counted(f"{requests} - {within}"),
            least_bad=limits.min_bad_events,
        ),
    )


def entropy_limit(limits: Limits, matchers: str = "") -> str:
    """The query below whose answer entropy is an alert, for each policy; ``matchers``, in braces, choose among them.

    A version that has collapsed from its start would look well beside itself, so the widest version of the day sets it.
    """
    return f"{limits.entropy_share} * max by (policy) (avg_over_time(rl_policy_entropy_nats{matchers}[1d]))"


def rule_groups(limits: Limits | None = None, baselines: tuple[Baseline, ...] = ()) -> tuple[RuleGroup, ...]:
    """Every rule, in the order in which the file has them.

    Without a baseline nothing is said about returns: there is no number that is bad for every task.

    Raises:
        ConfigError: two baselines for one policy.
    """
    limits = limits or Limits()
    if len({baseline.policy for baseline in baselines}) < len(baselines):
        raise ConfigError("A policy has two baselines.", mend="Give each policy one.")
    groups = [_service(limits), _log(limits), _policy(limits), _presence(limits)]
    groups += [_returns(limits, baselines)] if baselines else []
    return (*groups, *map(slo_group, slos(limits)))


def _service(limits: Limits) -> RuleGroup:
    window = duration(limits.window_s)
    by = "sum by (policy)"
    return RuleGroup(
        "rlcourse-service",
        (
            Recording(
                "policy:rl_request_seconds:p99",
                f"histogram_quantile(0.99, sum by (policy, le) (rate(rl_request_seconds_bucket[{window}])))",
            ),
            Alert(
                name="LatencyP99High",
                expr=f"policy:rl_request_seconds:p99 > {limits.latency_s} "
                f"and {by} (increase(rl_request_seconds_count[{window}])) >= {limits.min_requests}",
                hold_s=limits.hold_s,
                severity=Severity.PAGE,
                summary="The slowest 1 % of the decisions of {{ $labels.policy }} "
                f"take more than {1000 * limits.latency_s:g} ms.",
                first_step="Compare versions on the latency panel; if the newest is the slow one, go back a version.",
                runbook="latency",
            ),
            Recording(
                "policy:rl_decisions:fallback_share",
                f'{by} (rate(rl_decisions_total{{fallback!="none"}}[{window}])) '
                f"/ {by} (rate(rl_decisions_total[{window}]))",
            ),
            Alert(
                name="FallbackRateHigh",
                expr=f"policy:rl_decisions:fallback_share > {limits.fallback_share} "
                f"and {by} (increase(rl_decisions_total[{window}])) >= {limits.min_decisions}",
                hold_s=limits.hold_s,
                severity=Severity.PAGE,
                summary="The fallback decides too often in place of {{ $labels.policy }}.",
                first_step="Read the reasons on the fallback panel: timeout and error are the service's, "
                "non_finite and out_of_range the sensors'.",
                runbook="fallback",
            ),
            Alert(
                name="BreakerOpen",
                expr="max by (policy, version) (rl_breaker_state) > 0",
                hold_s=0.0,  # it has already failed several times in a row
                severity=Severity.PAGE,
                summary="Version {{ $labels.version }} of {{ $labels.policy }} failed again and again "
                "and is left alone.",
                first_step="Go back to the version before; then look for the exception in the service's output.",
                runbook="breaker",
            ),
        ),
    )


def _log(limits: Limits) -> RuleGroup:
    return RuleGroup(
        "rlcourse-decision-log",
        (
            Alert(
                name="DecisionLogFailing",
                expr="max by (job, instance) (rl_decision_log_failing) == 1",
                hold_s=0.0,
                severity=Severity.PAGE,
                summary="The disk takes no more lines of the decision log at {{ $labels.instance }}.",
                first_step="Free space or mount the disk again; lines wait in memory, and no longer than it lasts.",
                runbook="decision-log",
            ),
            Alert(
                name="DecisionLogLosing",
                expr="sum by (job, instance) "
                f"(increase(rl_decision_log_dropped_total[{duration(limits.window_s)}])) > 0",
                hold_s=0.0,
                severity=Severity.TICKET,
                summary="Lines of the decision log are lost at {{ $labels.instance }}.",
                first_step="Decisions without a line can be neither judged nor learned from: give the log a "
                "faster disk or a longer queue.",
                runbook="decision-log",
            ),
        ),
    )


def _policy(limits: Limits) -> RuleGroup:
    # The mean over a day moves towards a collapse that lasts; the floor, where there is one, stays.
    entropy, since = f"rl_policy_entropy_nats < on (policy) group_left () {entropy_limit(limits)}", ""
    if limits.entropy_floor is not None:
        entropy += f" or rl_policy_entropy_nats < {limits.entropy_floor}"
        since = f", or less than {limits.entropy_floor:g} nats"
    return RuleGroup(
        "rlcourse-policy",
        (
            Alert(
                name="SafetyViolations",
                expr=f"max by (policy, version) (rl_safety_violation_ratio) > {limits.violation_share} "
                f"and max by (policy, version) (rl_safety_violating_steps) >= {limits.min_violations}",
                hold_s=0.0,
                severity=Severity.PAGE,
                summary="Version {{ $labels.version }} of {{ $labels.policy }} leaves its safety limits.",
                first_step="Hand the plant to the safe baseline; ask why afterwards.",
                runbook="safety",
            ),
            Alert(
                name="EntropyCollapse",
                expr=entropy,
                hold_s=limits.hold_s,
                severity=Severity.TICKET,
                summary="Version {{ $labels.version }} of {{ $labels.policy }} chooses with far less variety "
                f"than the policy did over the last day{since}.",
                first_step="Look at the actions panel: one action for every observation is a frozen input "
                "or a policy that stopped exploring.",
                runbook="entropy",
            ),
            Alert(
                name="DriftAlarm",
                expr="max by (policy, check) (rl_drift_alarm) == 1",
                hold_s=limits.hold_s,
                severity=Severity.TICKET,
                summary="What {{ $labels.policy }} sees is no longer what it was trained on ({{ $labels.check }}).",
                first_step="See which feature moved: a sensor, a season, or the policy's own doing.",
                runbook="drift",
            ),
            Alert(
                name="DriftUnchecked",
                expr="sum by (policy, check) (increase(rl_drift_failures_total[1h])) > 0",
                hold_s=0.0,
                severity=Severity.NOTE,
                summary="A window of {{ $labels.policy }} could not be checked for drift ({{ $labels.check }}).",
                first_step="Silence is not health: see why the window was unusable.",
                runbook="drift",
            ),
        ),
    )


def _presence(limits: Limits) -> RuleGroup:
    return RuleGroup(
        "rlcourse-presence",
        (
            Alert(
                name="TargetDown",
                expr="up == 0",
                hold_s=limits.hold_s,
                severity=Severity.PAGE,
                summary="{{ $labels.job }} at {{ $labels.instance }} does not answer.",
                first_step="Ask its /healthz; if the process is gone, start it and read its last words.",
                runbook="no-data",
            ),
            Alert(
                name="MetricsAbsent",
                expr="absent(rl_default_version)",
                hold_s=limits.hold_s,
                severity=Severity.PAGE,
                summary="No policy service reports anything: every other alert is blind.",
                first_step="Check that the service runs and that Prometheus knows its address.",
                runbook="no-data",
            ),
            Alert(
                name="NoTraffic",
                expr=f"sum by (policy) (rate(rl_request_seconds_count[{duration(limits.window_s)}])) == 0",
                hold_s=limits.hold_s,
                severity=Severity.NOTE,
                summary="Nobody asks {{ $labels.policy }} for an action.",
                first_step="If the plant should be running, look at its connection to the service.",
                runbook="no-data",
            ),
        ),
    )


def _returns(limits: Limits, baselines: tuple[Baseline, ...]) -> RuleGroup:
    floors = [
        Recording(
            "policy:rl_episode_return:floor",
            f"vector({return_floor(baseline.mean_return, limits.return_share):.10g})",
            {"policy": baseline.policy},
        )
        for baseline in baselines
    ]
    return RuleGroup(
        "rlcourse-returns",
        (
            *floors,
            Recording(
                "policy_version:rl_episodes:ended",
                f"sum by (policy, version) (increase(rl_episode_return_count[{duration(limits.episodes_window_s)}]))",
            ),
            Alert(
                name="ReturnBelowBaseline",
                expr="max by (policy, version) (rl_episode_return_mean) "
                "< on (policy) group_left () policy:rl_episode_return:floor "
                f"and on (policy, version) policy_version:rl_episodes:ended >= {limits.min_episodes}",
                hold_s=limits.hold_s,
                severity=Severity.PAGE,
                summary="Version {{ $labels.version }} of {{ $labels.policy }} earns less than the baseline would.",
                first_step="Go back to the version before, or to the baseline; then compare the episodes.",
                runbook="return",
            ),
        ),
    )
