"""What Prometheus knows of a candidate, as evidence for the gate; and its alerts, which end a release.

::

    service, monitor ◀──scrape── Prometheus ──counts, violations──▶ gate ─▶ promote, hold, roll back
                                     └──────── alerts that page and name the candidate ─▶ roll back

A Prometheus that does not answer is no evidence: the gate holds, and goes back once it has been blind for too long. One that
answers with old samples, because it cannot reach the service, is stale evidence: what counts is the time of the newest
sample (:attr:`~rlcourse.release.gates.LiveEvidence.measured_at_s`), not of the question.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

from rlcourse.errors import ConfigError, DatasetCorruptError, ServerError, StorageError
from rlcourse.evaluation.off_policy.verdict import OffPolicyVerdict
from rlcourse.release.controller import Controller
from rlcourse.release.gates import Counts, GateAnswer, LiveEvidence, LiveReturns, Reason
from rlcourse.release.stages import DAY_S
from rlcourse.release.state import killed

Samples = Sequence[tuple[float, float]]
"""(time, value) of one series, in the order of time."""
Returns = Callable[[float, float], LiveReturns | None]
"""The episodes of both arms since a time, as they are known at another; ``None`` if they are not."""
POINTS = 1_000
"""Asked for of each series; between two of them a restart of the service may hide a few requests."""
SERIES = (
    "rl_default_version",
    "rl_request_seconds_count",
    "rl_request_seconds_bucket",
    "rl_decisions_total",
    "rl_shadow_seconds_count",
    "rl_shadow_seconds_bucket",
    "rl_shadow_decisions_total",
    "rl_safety_violations_total",
)
"""What is asked for; who keeps only some metrics must keep these."""
FAILED = "error|timeout|breaker_open"
"""Reasons for a fallback that are the policy's own doing."""


@dataclass(frozen=True)
class EvidenceConfig:
    """Where evidence comes from, and what counts as bad."""

    url: str = "http://127.0.0.1:9090"
    """Of Prometheus."""
    policy: str = "rl_policy"
    """Name of the policy in the service."""
    latency_s: float = 0.1
    """A slower decision is bad; one of the bounds of the service's histogram."""
    safety: bool = True
    """Whether to wait for violations to be counted: silence is not safety. Without it the release goes on where nobody counts
    any, and every answer says that safety is not watched."""
    severity: str = "page"
    """Alerts of this severity end a release."""
    recent_s: float = 3_600.0
    """Older samples are not looked for."""
    timeout_s: float = 5.0
    """For each question."""

    def __post_init__(self) -> None:
        if not min(self.latency_s, self.recent_s, self.timeout_s) > 0.0:
            raise ConfigError("A time of the evidence is 0 or less.", mend="Use seconds above 0.")


@dataclass(frozen=True)
class Alarm:
    """An alert that fires."""

    name: str
    summary: str
    labels: Mapping[str, str]


class RefusedError(ServerError):
    """It answers that it cannot answer this: the question is wrong, or about a time that it does not know."""


class PrometheusEvidence:
    """Asks Prometheus about one candidate.

    Args:
        config: where, and what counts as bad.
        candidate: its version.
        returns: of both arms, from whoever has counted the episodes (:mod:`rlcourse.release.adapters.returns`); Prometheus
            has buckets alone.
    """

    def __init__(
        self, config: EvidenceConfig, candidate: str, *, returns: Returns = lambda since_s, now_s: None
    ) -> None:
        self.config, self.candidate, self._returns = config, candidate, returns
        self._who = f"policy={json.dumps(config.policy)},version={json.dumps(candidate)}"

    def evidence(
        self, since_s: float, now_s: float, *, shadow: bool = False, counts_since_s: float | None = None
    ) -> LiveEvidence | None:
        """What is known; ``None`` if nobody answers, or has seen the service lately.

        Args:
            since_s: returns and violations count from then on.
            now_s: until then.
            shadow: the candidate is a shadow, so that its answers to copies count too. Later they do not: a live stage is
                about what clients were answered, and the copies, however many there were, must not dilute it.
            counts_since_s: requests count from then on; ``None``: from ``since_s``.
        """
        counts: dict[str, Counts] = {}
        violations, unknown = None, None
        try:
            measured_at_s = self._newest(now_s)
            if measured_at_s is None:
                return None
            try:
                counts = self._counts(since_s if counts_since_s is None else counts_since_s, now_s, shadow=shadow)
                violations = self._violations(since_s, now_s)
            except RefusedError as error:
                counts, unknown = {}, Reason("monitoring_refused", str(error))
            returns = self._returns(since_s, now_s)
        except ServerError:
            return None
        found = LiveEvidence(
            measured_at_s, None, counts, violations, unknown=unknown, safety_watched=self.config.safety
        )
        if returns is None:
            return found
        return replace(found, tally=returns.tally, variation=returns.variation, objection=returns.objection)

    def _counts(self, since_s: float, now_s: float, *, shadow: bool) -> dict[str, Counts]:
        def asked(name: str, more: str) -> int | None:
            return self._asked(name, more, since_s, now_s, shadow=shadow)

        requests = asked("request_seconds_count", "")
        fast = asked("request_seconds_bucket", f',le="{float(self.config.latency_s)}"')
        decisions = asked("decisions_total", "")
        failed = asked("decisions_total", f',fallback=~"{FAILED}"')
        replaced = asked("decisions_total", ',fallback!="none"')
        counts = {}
        if requests is not None and fast is not None:
            # The two series are read one after the other.
            counts["latency"] = Counts(max(0, requests - fast), requests)
        if decisions is not None:
            counts["errors"] = Counts(min(failed or 0, decisions), decisions)
            counts["fallbacks"] = Counts(min(replaced or 0, decisions), decisions)
        return counts

    def alarms(self) -> list[Alarm]:
        """The alerts that fire, page, and name the candidate. Those about the whole service accuse nobody.

        Raises:
            ServerError: Prometheus does not answer.
        """
        found = []
        for one in self._ask("alerts")["alerts"]:
            labels = {str(name): str(value) for name, value in one["labels"].items()}
            about = (labels.get("policy"), labels.get("version"), labels.get("severity"))
            if one["state"] == "firing" and about == (self.config.policy, self.candidate, self.config.severity):
                found.append(Alarm(labels["alertname"], one.get("annotations", {}).get("summary", ""), labels))
        return found

    def _newest(self, now_s: float) -> float | None:
        query = f"rl_default_version{{policy={json.dumps(self.config.policy)}}}[{max(1, round(self.config.recent_s))}s]"
        series = self._ask("query", query=query, time=f"{now_s:.3f}")["result"]
        times = [float(one["values"][-1][0]) for one in series if one["values"]]
        return max(times) if times else None

    def _violations(self, since_s: float, now_s: float) -> int | None:
        return self._increase("rl_safety_violations_total", "", since_s, now_s)

    def _asked(self, name: str, more: str, since_s: float, now_s: float, *, shadow: bool) -> int | None:
        """By how much a count grew of what the candidate was asked, for clients and, while it is one, as a shadow."""
        names = [f"rl_{name}", *([f"rl_shadow_{name.removeprefix('request_')}"] if shadow else [])]
        grown = [self._increase(one, more, since_s, now_s) for one in names]
        known = [one for one in grown if one is not None]
        return sum(known) if known else None

    def _increase(self, name: str, more: str, since_s: float, now_s: float) -> int | None:
        """By how much the candidate's counters grew; ``None`` where there is none.

        Prometheus' own ``increase()`` extrapolates to the ends of its window: 10 requests become 10.7, and a test of
        hypotheses wants those that were seen.
        """
        step = max(1, math.ceil((now_s - since_s) / POINTS))
        found = self._ask(
            "query_range",
            query=f"{name}{{{self._who}{more}}}",
            start=f"{since_s:.3f}",
            end=f"{max(now_s, since_s):.3f}",
            step=f"{step}s",
        )["result"]
        if not found:
            return None
        series = [[(float(at), float(value)) for at, value in one["values"]] for one in found]
        return round(sum(growth(samples, since_s + step) for samples in series))

    def _ask(self, what: str, **words: str) -> Any:
        url = f"{self.config.url.rstrip('/')}/api/v1/{what}{'?' + urlencode(words) if words else ''}"
        # Without the proxies of the environment: Prometheus is on this machine or close to it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=self.config.timeout_s) as response:
                return json.load(response)["data"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, urllib.error.HTTPError):
                with error:
                    if error.code in (400, 422):
                        raise RefusedError(
                            f"Monitoring cannot tell: {_why(error)}", mend="Until it can, a person has to decide."
                        ) from error
            raise ServerError(f"GET {url}: {error}", mend="See whether Prometheus runs, and what it says.") from error


def _why(refused: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(refused)["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(refused)


def growth(samples: Samples, first_by_s: float) -> float:
    """By how much a counter grew, over restarts that set it back to 0.

    Args:
        samples: of one series.
        first_by_s: one that begins later began at 0, because it was not there before.

    Worked number: 5, 9, 2, 3 grew by 4, then by 2 after a restart, then by 1: 7. If the series began after the window, 5 more.
    """
    total = samples[0][1] if samples and samples[0][0] > first_by_s else 0.0
    for (_, before), (_, after) in pairwise(samples):
        total += after - before if after >= before else after
    return total


def step(controller: Controller, source: PrometheusEvidence, verdict: OffPolicyVerdict | None = None) -> GateAnswer:
    """Look once and act: an alarm about the candidate goes back at once, all else is the gate's to weigh.

    An alarm, and harm, go back whatever is the matter with the release's folder.

    Raises:
        ServerError: the router did not obey; the next step tries again.
        StorageError: something could not be read or written; see :meth:`Controller.tick`.
        DatasetCorruptError: the state or the audit log is not what was written.
    """
    now_s = controller.clock()
    try:
        state = controller.state()
    except (StorageError, DatasetCorruptError):
        state = None
    try:
        alarms = [] if (state is not None and state.ended) or killed(controller.folder) else source.alarms()
    except ServerError:
        return controller.tick(None, verdict)
    if alarms:
        why = " ".join(f"{one.name} fires: {one.summary}" for one in alarms)
        controller.roll_back("prometheus", why)
        return GateAnswer("roll_back", tuple(Reason(f"alert_{one.name}", one.summary) for one in alarms))
    if state is None:  # harm of the last day is harm
        return controller.tick(source.evidence(now_s - DAY_S, now_s), verdict)
    began_s = state.since_s if state.began_s is None else state.began_s
    if state.stage >= 0 and not controller.release.stages[state.stage].acts:
        return controller.tick(source.evidence(began_s, now_s, shadow=True), verdict)
    counts_since_s = state.since_s if state.acts_since_s is None else state.acts_since_s
    return controller.tick(source.evidence(began_s, now_s, counts_since_s=counts_since_s), verdict)
