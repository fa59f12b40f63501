"""Every signal that a policy in production is watched by: its name in Prometheus, its unit, its labels, its meaning.

Rules, dashboards and the exporter take their names from here, so that none of them can watch a series that nobody
writes. Names follow Prometheus' conventions: the prefix ``rl_``, base units (seconds, not milliseconds; shares from 0 to
1, not percent), ``_total`` at the end of what only grows.

Three programs write them::

    rlcourse benchmark --tracker prometheus:PORT     source training    rlcourse.training.trackers.prometheus_metrics
    rlcourse serve http                              source service     rlcourse.serving.metrics
      └─ decisions/*.jsonl, rewards and all
           └─ rlcourse monitor follow                source monitor     rlcourse.serving.watching, by way of
                                                                        rlcourse.monitoring.exporter

The policy service counts what it answers. What it cannot know, such as returns, safety and drift, is added by a monitor that
follows its decision log. :attr:`Signal.needs` says what must be there for a signal to appear at all.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rlcourse.errors import ConfigError

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["training", "service", "monitor"]
WRITERS: dict[Source, str] = {
    "training": "a training run, by its tracker `prometheus`",
    "service": "`rlcourse serve http`",
    "monitor": "`rlcourse monitor follow`",
}
"""The program behind each source."""

_NAME = re.compile(r"^rl_[a-z][a-z0-9_]*$")
_LABEL = re.compile(r"^[a-z][a-z0-9_]*$")


@dataclass(frozen=True)
class Signal:
    """One metric: a series for each combination of its labels' values."""

    name: str
    """As it is exposed; a counter's ends in ``_total``."""
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str
    """One sentence, without a line break or a bar: it goes into the exposition and into a table."""
    buckets: tuple[float, ...] | None = None
    """Upper bounds of a histogram, rising, without infinity."""
    source: Source = "monitor"
    needs: str = ""
    """Without what its writer leaves it out: an option, or a field of what clients send. Empty: nothing."""

    def __post_init__(self) -> None:
        for problem, wrong in (
            (f"{self.name!r} is no name for a signal.", _NAME.match(self.name) is None),
            (f"{self.name} and _total disagree.", self.name.endswith("_total") != (self.kind == "counter")),
            (
                f"{self.name} has the labels {self.labels}.",
                len(set(self.labels)) < len(self.labels)
                or any(_LABEL.match(label) is None or label in ("le", "quantile") for label in self.labels),
            ),
            (f"{self.name} and buckets disagree.", (self.buckets is not None) != (self.kind == "histogram")),
            (
                f"{self.name} explains nothing.",
                not self.help or "\n" in self.help or "|" in self.help + self.unit + self.needs,
            ),
        ):
            if wrong:
                raise ConfigError(problem, mend="Follow Prometheus' conventions; the other signals are examples.")
        bounds = self.buckets
        if bounds is not None and (
            not bounds or not all(map(math.isfinite, bounds)) or any(a >= b for a, b in pairwise(bounds))
        ):
            raise ConfigError(f"{self.name} has the buckets {bounds}.", mend="Use finite upper bounds that rise.")

    @property
    def written_by(self) -> str:
        """The program that writes it and what that wants for it, as Markdown."""
        return f"{WRITERS[self.source]}{f'; wants {self.needs}' if self.needs else ''}"

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a query may use.

        A histogram of numbers that may be negative has no ``_sum``: it would fall as well as rise, and ``rate()`` takes
        every fall for a restart. Its mean is a gauge of its own.
        """
        if self.buckets is None:
            return (self.name,)
        parts = ("_bucket", "_count") if self.buckets[0] < 0.0 else ("_bucket", "_count", "_sum")
        return tuple(self.name + part for part in parts)


RETURN_BUCKETS = (
    *(-1000.0, -500.0, -300.0, -200.0, -150.0, -120.0, -100.0, -90.0, -80.0, -70.0, -60.0, -50.0, -40.0, -20.0),
    *(0.0, 20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 475.0, 500.0, 1000.0),
)
STEP_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 144.0, 200.0, 500.0, 1000.0)
SIGNED_BUCKETS = (
    *(-1000.0, -300.0, -100.0, -30.0, -10.0, -3.0, -1.0, -0.3, -0.1, -0.03, -0.01),
    *(0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
)
NORM_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
REQUEST_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
DELAY_BUCKETS_S = (1.0, 10.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0, 43200.0, 86400.0, 604800.0)

_WHO = ("policy", "version")
_CHECK = ("policy", "check")
_ROI = "two episodes of rewards with `cost`, `--step-s` and `--baseline-cost`"
_SUCCESS, _REFERENCE, _RECURRENT = "`--success-return`", "`--reference`", "a policy with a memory"
_LOG, _REWARDS = "`--state`", "rewards"

# Task first, then policy, learner, service, safety and money, drift, and the monitor itself.
CATALOGUE: tuple[Signal, ...] = (
    Signal(
        "rl_episode_return",
        "histogram",
        "reward",
        _WHO,
        "Undiscounted return of each episode that ended, a time limit counting as an end.",
        RETURN_BUCKETS,
    ),
    Signal("rl_episode_return_mean", "gauge", "reward", _WHO, "Mean return of the last episodes that ended."),
    Signal("rl_episode_steps", "histogram", "steps", _WHO, "Length of each episode that ended.", STEP_BUCKETS),
    Signal(
        "rl_episodes_total",
        "counter",
        "episodes",
        (*_WHO, "end"),
        "Episodes by how they ended: terminated, truncated, or abandoned (nothing was heard of them for too long).",
    ),
    Signal(
        "rl_episodes_succeeded_total",
        "counter",
        "episodes",
        _WHO,
        "Episodes that reached what success means here.",
        needs=_SUCCESS,
    ),
    Signal("rl_episodes_unfinished", "gauge", "episodes", _WHO, "Episodes that have begun and not ended."),
    Signal(
        "rl_success_ratio",
        "gauge",
        "share",
        _WHO,
        "Share of the last episodes that succeeded; abandoned ones count as no success.",
        needs=_SUCCESS,
    ),
    Signal(
        "rl_success_ratio_low",
        "gauge",
        "share",
        _WHO,
        "Lower end of the 95 % Wilson interval of the success rate.",
        needs=_SUCCESS,
    ),
    Signal(
        "rl_success_ratio_high",
        "gauge",
        "share",
        _WHO,
        "Upper end of the 95 % Wilson interval of the success rate.",
        needs=_SUCCESS,
    ),
    Signal(
        "rl_reward_delay_seconds",
        "histogram",
        "s",
        _WHO,
        "From a decision to its reward.",
        DELAY_BUCKETS_S,
        needs=_REWARDS,
    ),
    Signal("rl_rewards_pending", "gauge", "decisions", _WHO, "Decisions whose reward is still awaited."),
    Signal("rl_rewards_expired_total", "counter", "decisions", _WHO, "Decisions whose reward did not come in time."),
    Signal(
        "rl_actions_total",
        "counter",
        "decisions",
        (*_WHO, "action"),
        "Decisions by action; actions beyond the bound of the labels are other.",
        needs="actions that are counted, not continuous ones",
    ),
    Signal(
        "rl_policy_entropy_nats",
        "gauge",
        "nat",
        _WHO,
        "Mean entropy of the policy's action distribution over the last decisions.",
        needs="drawn actions: requests that are not `deterministic`",
    ),
    Signal(
        "rl_exploration_ratio",
        "gauge",
        "share",
        _WHO,
        "Share of the last decisions, drawn or not, whose action was not the likeliest; the service, which alone has all "
        "the probabilities, notes it in the log.",
        needs="actions that are counted, not continuous ones",
    ),
    Signal(
        "rl_q_value",
        "histogram",
        "reward",
        ("policy",),
        "Q-values of a batch's actions: each time training logs, the middle of every fifth of them, so five observations.",
        SIGNED_BUCKETS,
        source="training",
        needs="a learner with Q-values, such as dqn or sac",
    ),
    Signal(
        "rl_loss",
        "histogram",
        "depends on the loss",
        ("policy", "loss"),
        "What the learner's gradient steps go down, one observation each time training logs.",
        SIGNED_BUCKETS,
        source="training",
    ),
    Signal(
        "rl_gradient_norm",
        "histogram",
        "1",
        ("policy",),
        "Length of the gradient before it was cut, one observation each time training logs.",
        NORM_BUCKETS,
        source="training",
        needs="a learner that cuts it: ppo",
    ),
    Signal(
        "rl_training_steps_total",
        "counter",
        "steps",
        ("policy",),
        "Steps of training: in the environment, or updates where there is none.",
        source="training",
    ),
    Signal(
        "rl_training_return",
        "gauge",
        "reward",
        ("policy",),
        "Mean return of the last evaluation, always with the favourite action.",
        source="training",
    ),
    Signal(
        "rl_training_exploration_ratio",
        "gauge",
        "share",
        ("policy",),
        "Share of actions that training draws at random instead of choosing.",
        source="training",
        needs="a learner that explores like this, such as dqn",
    ),
    Signal(
        "rl_steps_to_threshold",
        "gauge",
        "steps",
        ("policy",),
        "Steps of training until an evaluation first reached the wanted return; infinite while none has.",
        source="training",
        needs="a task for which somebody has said when it is solved",
    ),
    Signal(
        "rl_decisions_total",
        "counter",
        "observations",
        (*_WHO, "fallback"),
        "Observations answered with an action, by the reason for a fallback (none: the policy's own action).",
        source="service",
    ),
    Signal(
        "rl_request_seconds",
        "histogram",
        "s",
        _WHO,
        "From the arrival of a request to its decision; its count is the number of requests.",
        REQUEST_BUCKETS_S,
        source="service",
    ),
    Signal(
        "rl_refused_total",
        "counter",
        "requests",
        ("status",),
        "Requests answered without an action, by HTTP status.",
        source="service",
    ),
    Signal(
        "rl_requests_in_flight",
        "gauge",
        "requests",
        (),
        "Requests that have begun and are not answered.",
        source="service",
    ),
    Signal("rl_default_version", "gauge", "0 or 1", _WHO, "1 for the version that answers.", source="service"),
    Signal(
        "rl_traffic_share",
        "gauge",
        "share",
        _WHO,
        "Share of the sessions that name no version which this one answers.",
        source="service",
    ),
    Signal(
        "rl_shadow_decisions_total",
        "counter",
        "observations",
        (*_WHO, "fallback"),
        "Observations that a shadow was asked about, answering nobody; error where it failed, else none.",
        source="service",
        needs="a shadow",
    ),
    Signal(
        "rl_shadow_seconds",
        "histogram",
        "s",
        _WHO,
        "Time that a shadow took for a request.",
        REQUEST_BUCKETS_S,
        source="service",
        needs="a shadow",
    ),
    Signal(
        "rl_shadow_dropped_total",
        "counter",
        "requests",
        (),
        "Copies that a full queue kept from a shadow.",
        source="service",
    ),
    Signal("rl_breaker_state", "gauge", "0, 1, 2", _WHO, "0 closed, 1 half open, 2 open.", source="service"),
    Signal(
        "rl_sessions",
        "gauge",
        "sessions",
        _WHO,
        "Sessions remembered.",
        source="service",
        needs=_RECURRENT,
    ),
    Signal("rl_rewards_total", "counter", "rewards", (), "Rewards that came in.", source="service"),
    Signal(
        "rl_decision_log_lines_total",
        "counter",
        "lines",
        (),
        "Lines written to the decision log.",
        source="service",
        needs=_LOG,
    ),
    Signal(
        "rl_decision_log_dropped_total",
        "counter",
        "lines",
        (),
        "Lines lost to a full queue.",
        source="service",
        needs=_LOG,
    ),
    Signal(
        "rl_decision_log_waiting",
        "gauge",
        "lines",
        (),
        "Lines that are in memory alone.",
        source="service",
        needs=_LOG,
    ),
    Signal(
        "rl_decision_log_failing",
        "gauge",
        "0 or 1",
        (),
        "1 while the disk takes nothing.",
        source="service",
        needs=_LOG,
    ),
    Signal(
        "rl_human_overrides_total",
        "counter",
        "decisions",
        (*_WHO, "reason"),
        "Decisions in whose place a person or a safety layer put another action, by the reason given.",
        needs="rewards with `executed`",
    ),
    Signal(
        "rl_safety_violations_total",
        "counter",
        "steps",
        (*_WHO, "constraint"),
        "Steps that ended outside a safety limit, by limit (all: not told apart).",
        needs="rewards with `violations`",
    ),
    Signal(
        "rl_safety_violation_ratio",
        "gauge",
        "share",
        _WHO,
        "Share of the last decisions that led outside a safety limit, of those of which it is known.",
        needs="rewards with `violations`",
    ),
    Signal(
        "rl_safety_violating_steps",
        "gauge",
        "steps",
        _WHO,
        "How many of the last decisions led outside a safety limit; the share is theirs.",
        needs="rewards with `violations`",
    ),
    Signal(
        "rl_cost_euros_total",
        "counter",
        "EUR",
        (*_WHO, "cost"),
        "Money spent, by what for, such as energy and penalty (all: not told apart).",
        needs="rewards with `cost`",
    ),
    Signal(
        "rl_cost_euros_per_hour",
        "gauge",
        "EUR/h",
        _WHO,
        "Money spent for each hour of operation over the last decisions whose cost is known.",
        needs="rewards with `cost`, and `--step-s`",
    ),
    Signal(
        "rl_roi_ratio",
        "gauge",
        "share",
        _WHO,
        "Share of the safe baseline's cost that the policy saves: 0.1 is a tenth cheaper, below 0 it loses money.",
        needs=_ROI,
    ),
    Signal(
        "rl_roi_ratio_low", "gauge", "share", _WHO, "Lower end of the 95 % interval of the saved share.", needs=_ROI
    ),
    Signal(
        "rl_roi_ratio_high", "gauge", "share", _WHO, "Upper end of the 95 % interval of the saved share.", needs=_ROI
    ),
    Signal(
        "rl_drift_statistic",
        "gauge",
        "depends on the check",
        (*_CHECK, "feature"),
        "How far the last window lies from the reference, by check and feature (all: the whole distribution).",
        needs=_REFERENCE,
    ),
    Signal(
        "rl_drift_p_value",
        "gauge",
        "share",
        (*_CHECK, "feature"),
        "Probability of a statistic as large without drift, adjusted for the number of features tested.",
        needs=_REFERENCE,
    ),
    Signal(
        "rl_drift_alarm",
        "gauge",
        "0 or 1",
        _CHECK,
        "1 while the last window raises an alarm.",
        needs=_REFERENCE,
    ),
    Signal(
        "rl_drift_alarms_total",
        "counter",
        "windows",
        _CHECK,
        "Windows that raised an alarm.",
        needs=_REFERENCE,
    ),
    Signal(
        "rl_drift_windows_total",
        "counter",
        "windows",
        _CHECK,
        "Windows that were checked.",
        needs=_REFERENCE,
    ),
    Signal(
        "rl_drift_failures_total",
        "counter",
        "windows",
        _CHECK,
        "Windows that could not be checked: too few rows, NaN.",
        needs=_REFERENCE,
    ),
    Signal(
        "rl_label_overflow_total",
        "counter",
        "observations",
        ("signal", "label"),
        "Observations whose label value came after the bound was reached and is shown as other.",
        needs="more than 64 values of a label",
    ),
)

_BY_NAME = {signal.name: signal for signal in CATALOGUE}


def signal_named(name: str) -> Signal:
    """The signal of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _BY_NAME:
        raise ConfigError(f"There is no signal {name!r}.", mend="rlcourse.monitoring.catalogue lists them.")
    return _BY_NAME[name]


def series_names(signals: tuple[Signal, ...] = CATALOGUE) -> frozenset[str]:
    """Every name that a query may use, such as ``rl_request_seconds_bucket``."""
    return frozenset(name for signal in signals for name in signal.series)


def signals_table(signals: tuple[Signal, ...] = CATALOGUE) -> str:
    """The catalogue as a Markdown table, in its order."""
    lines = ["| name | kind | what it is | unit | labels | written by |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{signal.name}` | {signal.kind} | {signal.help} | {signal.unit} "
        f"| {', '.join(f'`{label}`' for label in signal.labels) or 'none'} | {signal.written_by} |"
        for signal in signals
    ]
    return "\n".join(lines) + "\n"
