"""Series that the cases of the alerts are made of: a latency histogram, decisions, refusals, scrapes."""

from __future__ import annotations

from collections.abc import Mapping

from rlcourse.monitoring.rule_cases import Moment, Series, counter, gauge

MINUTE, HOUR, DAY = 60, 3600, 86400
POLICY = {"policy": "rl_policy"}
WHO = {"policy": "rl_policy", "version": "a1"}
WHERE = {"job": "rlcourse", "instance": "127.0.0.1:8080"}


def requests(*phases: tuple[int, float, float]) -> tuple[Series, ...]:
    """A latency histogram: for each phase so many minutes, requests a minute, and how many take 0.1 to 0.2 s.

    The others take 0.05 to 0.1 s.
    """
    every = counter(*((minutes, rate) for minutes, rate, _ in phases))
    quick = counter(*((minutes, rate - slow) for minutes, rate, slow in phases))
    bounds = (("0.05", (0.0,) * len(every)), ("0.1", quick), ("0.2", every), ("+Inf", every))
    buckets = [Series("rl_request_seconds_bucket", {**WHO, "le": bound}, counts) for bound, counts in bounds]
    return (*buckets, Series("rl_request_seconds_count", WHO, every))


def decisions(*phases: tuple[int, float, float], reason: str = "timeout") -> tuple[Series, ...]:
    """Decisions: for each phase so many minutes, decisions a minute, and how many of them are the fallback's."""
    own = counter(*((minutes, rate - other) for minutes, rate, other in phases))
    fallback = counter(*((minutes, other) for minutes, _, other in phases))
    named = (("none", own), (reason, fallback))
    return tuple(Series("rl_decisions_total", {**WHO, "fallback": why}, counts) for why, counts in named)


def when(alert: str, labels: Mapping[str, str], *moments: tuple[float, bool]) -> tuple[Moment, ...]:
    """For each moment whether the alert with these labels fires."""
    return tuple(Moment(at_s, alert, (labels,) if fires else ()) for at_s, fires in moments)


def refused(status: str, *phases: tuple[int, float]) -> tuple[Series, ...]:
    """About 1000 requests a minute: for each phase so many minutes, and how many a minute get no action."""
    answered = counter(*((minutes, 1000 - lost) for minutes, lost in phases))
    lost = Series("rl_refused_total", {"status": status}, counter(*phases))
    return Series("rl_request_seconds_count", WHO, answered), lost


def scrapes(*phases: tuple[int, int], instance: str = WHERE["instance"]) -> tuple[Series, ...]:
    """A policy service: for each phase so many minutes, and whether it answers a scrape (1) or not (0)."""
    where = {**WHERE, "instance": instance}
    shown = gauge(*((minutes, 1 if up else None) for minutes, up in phases))
    return Series("up", where, gauge(*phases)), Series("rl_default_version", {**WHO, **where}, shown)
