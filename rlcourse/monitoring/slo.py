r"""What the service promises, how fast it may break the promise, and the document that says so.

A *service level objective* promises a share of good events over a period: 99 % of the requests within 100 ms over 30 days.
What may go wrong, the other 1 %, is the *error budget*. The *burn rate* is how many times faster than evenly it is being
spent:

.. math:: \text{burn rate} = \frac{\text{share of bad events}}{1 - \text{objective}}

At a burn rate of 1 the budget lasts exactly the period; an alert asks when a stated share of it is gone. One window is
not enough: a long one alone goes on firing long after the repair, a short one alone fires at every spike. So both must
burn, and the short one is a twelfth of the long one.

At night one request may be all there is, and if it fails the share is 100 %. So an alert takes a least number of bad events
in its long window, and with it at least as many requests. (A least number of requests of any kind would do for the lone
failure, and would also keep quiet while *all* of a few requests fail.)

::

    share of the budget, in      1 h      6 h     1 d      3 d
                                 2 %      5 %    10 %     10 %
    burn rate over 30 days      14.4      6       3        1
    and, still, over             5 min   30 min   2 h      6 h
    severity                    page     page    ticket   ticket

Source: Beyer et al. (2018), *The Site Reliability Workbook*, chapter 5, "Alerting on SLOs", its sixth method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlcourse.errors import ConfigError
from rlcourse.monitoring.promql import duration
from rlcourse.monitoring.rules import Alert, Recording, RuleGroup, Severity

WINDOW = "WINDOW"
"""Stands in a query where a window will."""
PERIOD_S = 30 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Slo:
    """One promise."""

    name: str
    objective: float
    """Share of good events that is promised. Raising it leaves less room for change."""
    promise: str
    """It in words, for the document: "is answered within 100 ms"."""
    events: str
    """What is counted: "requests"."""
    bad_share: str
    """The share of bad events as a query, with ``[WINDOW]`` where its window goes."""
    bad_count: str
    """Their number in the window, as a query with the same labels."""
    least_bad: int = 3
    """So many bad events in the long window before anybody is told. Raising it forgives more where traffic is thin."""
    before: tuple[Recording, ...] = ()
    """Recorded first, for the two queries to read."""

    def __post_init__(self) -> None:
        if not 0.0 < self.objective < 1.0:
            raise ConfigError(
                f"The objective of {self.name} is {self.objective}.", mend="Promise a share between 0 and 1."
            )
        if any(f"[{WINDOW}]" not in query for query in (self.bad_share, self.bad_count)):
            raise ConfigError(f"A query of {self.name} has no [{WINDOW}].", mend="Write it into every rate.")
        if self.least_bad < 1:
            raise ConfigError(f"{self.name} alerts on {self.least_bad} bad events.", mend="Use 1 or more.")

    @property
    def budget(self) -> float:
        """Share of events that may go wrong."""
        return 1.0 - self.objective

    def recording(self, window_s: float) -> Recording:
        """The share of bad events over a window, as a series."""
        window = duration(window_s)
        return Recording(
            f"slo:rl_bad_events:share_{window}", self.bad_share.replace(WINDOW, window), {"slo": self.name}
        )

    def counting(self, window_s: float) -> Recording:
        """The number of bad events in a window, as a series."""
        window = duration(window_s)
        return Recording(
            f"slo:rl_bad_events:count_{window}", self.bad_count.replace(WINDOW, window), {"slo": self.name}
        )


@dataclass(frozen=True, kw_only=True)
class Burn:
    """Tell of a share of the budget that is gone in a window, while it is still going."""

    share: float
    """Of the whole period's budget."""
    window_s: float
    severity: Severity

    @property
    def short_s(self) -> float:
        """The window that shows whether it is still going on."""
        return self.window_s / 12.0

    def rate(self, period_s: float = PERIOD_S) -> float:
        """The burn rate that spends that share in that window: 2 % of 30 days in an hour is 14.4."""
        return self.share * period_s / self.window_s


BURNS = (
    Burn(share=0.02, window_s=3600.0, severity=Severity.PAGE),
    Burn(share=0.05, window_s=6 * 3600.0, severity=Severity.PAGE),
    Burn(share=0.10, window_s=86400.0, severity=Severity.TICKET),
    Burn(share=0.10, window_s=3 * 86400.0, severity=Severity.TICKET),
)
LONGEST_S = max(burn.window_s for burn in BURNS)


def burn_condition(slo: Slo, burns: Sequence[Burn]) -> str:
    """A query that is answered while any of the burns goes on, in its long window and in its short one, and is no lone
    failure.
    """
    parts = []
    for burn in burns:
        limit = f"{burn.rate() * slo.budget:.10g}"
        long, short = (
            f'slo:rl_bad_events:share_{duration(window_s)}{{slo="{slo.name}"}} > {limit}'
            for window_s in (burn.window_s, burn.short_s)
        )
        enough = f'slo:rl_bad_events:count_{duration(burn.window_s)}{{slo="{slo.name}"}} >= {slo.least_bad}'
        parts.append(f"({long} and {short} and {enough})")
    return " or ".join(parts)


def slo_group(slo: Slo, burns: Sequence[Burn] = BURNS) -> RuleGroup:
    """Its shares of bad events over every window, and one alert for each severity."""
    windows = sorted({window for burn in burns for window in (burn.window_s, burn.short_s)})
    long = sorted({burn.window_s for burn in burns})
    alerts = []
    for severity in Severity:
        mine = [burn for burn in burns if burn.severity is severity]
        if mine:
            alerts.append(
                Alert(
                    name="ErrorBudgetBurnFast" if severity is Severity.PAGE else "ErrorBudgetBurnSlow",
                    expr=burn_condition(slo, mine),
                    hold_s=0.0,  # the long window is the patience
                    severity=severity,
                    summary=f"The promise that each of the {slo.events} {slo.promise} is being broken too fast.",
                    first_step="See which kind of bad event grows, and what was released or changed before it did.",
                    runbook="error-budget",
                    labels={"slo": slo.name},
                )
            )
    shares, counts = map(slo.recording, windows), map(slo.counting, long)
    return RuleGroup(f"rlcourse-slo-{slo.name}", (*slo.before, *shares, *counts, *alerts))


def slo_document(slos: Sequence[Slo], groups: Sequence[RuleGroup], burns: Sequence[Burn] = BURNS) -> str:
    """The promises and every alert, as Markdown; written from the objects that the rules are written from."""
    days = f"{PERIOD_S / 86400:.0f}"
    lines = [
        "# Service level objectives",
        "",
        f"Each promise holds over {days} days. The error budget is what may go wrong in that time.",
        "",
        "| promise | events | objective | error budget | all of them bad spends it in |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{slo.name}`: {slo.promise} | {slo.events} | {_percent(slo.objective)} | {_percent(slo.budget)} "
        f"| {_minutes(PERIOD_S * slo.budget)} |"
        for slo in slos
    ]
    lines += [
        "",
        "## When somebody is told that a budget burns",
        "",
        "| share of the budget | spent within | burn rate | and still going on over | severity | bad events, by promise |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {_percent(burn.share)} | {duration(burn.window_s)} | {burn.rate():.4g} | {duration(burn.short_s)} "
        f"| {burn.severity.value} | {', '.join(f'`{slo.name}` {_percent(burn.rate() * slo.budget)}' for slo in slos)} |"
        for burn in burns
    ]
    least = ", ".join(f"`{slo.name}` {slo.least_bad}" for slo in slos)
    lines += [
        "",
        "With little traffic a single bad event is a large share. So nobody is told of fewer bad events than these,",
    ]
    lines += [f"counted over the first of the two windows: {least}."]
    lines += ["", "## Every alert", "", "| alert | severity | after | first step | runbook |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    seen = set()
    for rule in (rule for group in groups for rule in group.rules):
        if isinstance(rule, Alert) and rule.name not in seen:
            seen.add(rule.name)
            hold = duration(rule.hold_s) if rule.hold_s else "at once"
            lines.append(f"| {rule.name} | {rule.severity.value} | {hold} | {rule.first_step} | {rule.runbook} |")
    return "\n".join(lines) + "\n"


def _minutes(time_s: float) -> str:
    return f"{time_s / 60:.0f} min" if time_s < 2 * 3600 else f"{time_s / 3600:.1f} h"


def _percent(share: float) -> str:
    return f"{100 * share:.5g} %"
