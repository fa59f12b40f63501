"""What to do when an alert rings, one section for each name that an alert carries.

A section answers three questions in the order in which somebody asks who has just been woken: is it real, what stops the
harm, what then. Commands are those of this package; ``tests/monitoring/test_runbooks.py`` holds them to the command line,
and the sections to the alerts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlcourse.errors import ConfigError
from rlcourse.monitoring.rules import Alert, RuleGroup


@dataclass(frozen=True)
class Runbook:
    """One section."""

    real: str
    """How to tell a fault from a false alarm."""
    stop: str
    """What ends the harm, before anybody knows the cause."""
    then: str
    """Where to look for the cause, and what has to be put right afterwards."""


RUNBOOKS: Mapping[str, Runbook] = {
    "latency": Runbook(
        real="Look at the 99th percentile by version, and at the number of requests beside it. Slow with twice the requests is "
        "too little capacity; slow with as many as yesterday is the version or the machine.",
        stop="If one version is slow, go back: `rlcourse release rollback`. If all are, send fewer requests or more "
        "observations in each, and start a second service behind the load balancer.",
        then="Ask the service for `/metrics` on the machine itself. If it is quick there, the network is slow. A policy that "
        "is asked in batches waits for company; one that has grown is slower by its size.",
    ),
    "fallback": Runbook(
        real="Read the reasons on the fallback panel. `non_finite` and `out_of_range` come with the observation; `timeout`, "
        "`error` and `breaker` come from the service.",
        stop="The fallback is already deciding, so the plant is in safe hands. For sensors: take the broken one out of use. "
        "For the service: `rlcourse release rollback` if the share rose with a version.",
        then="Find the first line of the decision log with this reason. Decisions of the fallback are marked there, and leave "
        "them out when the log becomes a data set for learning.",
    ),
    "breaker": Runbook(
        real="A breaker opens after several failures in a row, so it is real.",
        stop="`rlcourse release rollback`. Until then the fallback answers.",
        then="The exception is in the service's output, once for every failure. Ask the version with the observation from the "
        "log, alone, on your own machine.",
    ),
    "decision-log": Runbook(
        real="Compare lines waiting and lines dropped on the log panel with the free space of the disk.",
        stop="Free space, or mount the disk again. Lines wait in memory meanwhile, up to a bound; decisions go on.",
        then="Write down from when to when lines are missing. Returns, drift and estimates over that time are estimates of "
        "what was kept, and no release may be judged by them.",
    ),
    "safety": Runbook(
        real="One violation is not yet an alarm; a few of them and a share above the limit are. Look at the plant itself, not "
        "only at its numbers.",
        stop="Hand the plant to the safe baseline now: `rlcourse release kill` goes back and lets nothing move until a person "
        "says so. Then ask why.",
        then="Replay the episodes around the first violation from the decision log. Was the state one that the policy had "
        "never seen, was a sensor wrong, or does the policy buy reward with safety?",
    ),
    "entropy": Runbook(
        real="Look at the panel of actions. One action for every observation is a frozen input or a collapsed policy. Less "
        "variety at night, when little happens, is neither.",
        stop="If returns fall with it, `rlcourse release rollback`. If they do not, it can wait for the morning.",
        then="A policy that no longer tries anything leaves a log from which nothing can be estimated. Its propensities say "
        "since when.",
    ),
    "drift": Runbook(
        real="See which check rang and which feature moved. With the rate of false alarms that was set, some days ring by "
        "chance; the same check on the next day as well is not chance.",
        stop="Nothing has to be stopped while returns hold. If they fall too, `rlcourse release rollback` helps only where "
        "the older version knew this state of the world.",
        then="A sensor, a season, or the policy's own doing? Mend the sensor; for a new season learn from the new log "
        "(`rlcourse serve dataset`, `rlcourse offline train`) and renew the reference on purpose. A window that could not be "
        "checked says why in the output of `rlcourse monitor follow`.",
    ),
    "no-data": Runbook(
        real="Ask the service itself: `/healthz` says whether it lives, `/readyz` whether it takes requests.",
        stop="If the process is gone, start it again: its versions, sessions and routing come back from its state folder. A "
        "release that sees nothing holds, and goes back by itself after its patience.",
        then="Read its last words. If it lives and Prometheus does not see it, compare the address in `prometheus.yml`. If "
        "nobody asks it, look at the plant's connection.",
    ),
    "return": Runbook(
        real="Look at returns by version, with the number of episodes. All versions down at once is the world, one of them "
        "down is that version. Late rewards make the newest episodes look bad: compare with the share that is rewarded.",
        stop="One version: `rlcourse release rollback`. All of them: hand the plant to the baseline if that would earn more.",
        then="Compare the episodes of both versions with `rlcourse release ab`, and the two policies on the older log with "
        "`rlcourse ope`. What did the estimate promise, and why did it not come?",
    ),
    "error-budget": Runbook(
        real="The burn is counted in events, so it is real. See which kind of bad event grows. For `answered`, each scrape "
        "that no service answers is one: then the service is gone, or Prometheus does not reach it.",
        stop="Undo what was changed before it began; a release first: `rlcourse release rollback`.",
        then="Work out what is left of the budget for the month. When it is gone, nothing is released until it has grown "
        "again: that is what the promise means.",
    ),
}
"""By the name that alerts carry."""


def runbook_document(groups: Sequence[RuleGroup], runbooks: Mapping[str, Runbook] = RUNBOOKS) -> str:
    """A section for every name that the alerts of these groups carry, as Markdown, in the order of the rules.

    Raises:
        ConfigError: an alert names a section that nobody has written.
    """
    named: dict[str, list[Alert]] = {}
    for rule in (rule for group in groups for rule in group.rules):
        if isinstance(rule, Alert) and rule.name not in {alert.name for alert in named.get(rule.runbook, [])}:
            named.setdefault(rule.runbook, []).append(rule)
    if missing := sorted(set(named) - set(runbooks)):
        raise ConfigError(
            f"No runbook has a section {missing[0]!r}.", mend=f"Write it, or name one of {', '.join(runbooks)}."
        )
    lines = ["# Runbooks", ""]
    for name, alerts in named.items():
        book = runbooks[name]
        lines += [f"## {name}", ""]
        lines += [f"- **{alert.name}** ({alert.severity.value}). First: {alert.first_step}" for alert in alerts]
        lines += [
            "",
            f"*Is it real?* {book.real}",
            "",
            f"*What stops the harm?* {book.stop}",
            "",
            f"*And then?* {book.then}",
            "",
        ]
    return "\n".join(lines)
