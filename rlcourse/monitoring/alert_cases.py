"""The unit tests of this package's alerts: for each one that it fires, that it stays quiet just below, that it resolves.

Samples are a minute apart, as rules are evaluated; what looks back over hours or days has its own pace.
Where a limit is a share, the quiet case lies within a tenth of it, so that a limit that slips by more fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlcourse.monitoring.budget_cases import budget_cases, day_cases
from rlcourse.monitoring.case_series import MINUTE, POLICY, WHERE, WHO, decisions, requests, when
from rlcourse.monitoring.limits import Baseline, Limits, return_floor
from rlcourse.monitoring.rule_cases import Case, Series, counter, gauge

BASELINES = (Baseline("rl_policy", -50.0), Baseline("cartpole", 475.0))
"""Two examples: one negative, one positive."""


def _service() -> list[Case]:
    breaker = Series("rl_breaker_state", WHO, gauge((5, 0), (2, 2), (2, 1), (5, 0)))
    return [
        Case(
            "2 % of the requests are slow for 20 minutes",
            requests((10, 1000, 0), (20, 1000, 20), (20, 1000, 0)),
            when(
                "LatencyP99High",
                POLICY,
                (10 * MINUTE, False),
                (13 * MINUTE, False),
                (20 * MINUTE, True),
                (30 * MINUTE, True),
                (36 * MINUTE, False),
            ),
        ),
        Case(
            "just below: 0.95 % of the requests are slow",
            requests((30, 2000, 19)),
            when("LatencyP99High", POLICY, (20 * MINUTE, False), (30 * MINUTE, False)),
        ),
        Case(
            "the fallback decides 5.25 % of the time",
            decisions((10, 400, 0), (20, 400, 21), (20, 400, 0), reason="non_finite"),
            when(
                "FallbackRateHigh",
                POLICY,
                (10 * MINUTE, False),
                (16 * MINUTE, False),
                (18 * MINUTE, True),
                (30 * MINUTE, True),
                (36 * MINUTE, False),
            ),
        ),
        Case(
            "just below: the fallback decides 4.75 % of the time",
            decisions((30, 400, 19)),
            when("FallbackRateHigh", POLICY, (20 * MINUTE, False), (30 * MINUTE, False)),
        ),
        *_night(),
        Case(
            "without any traffic there is no share",
            decisions((5, 400, 4), (30, 0, 0)),
            when("FallbackRateHigh", POLICY, (10 * MINUTE, False), (30 * MINUTE, False)),
        ),
        Case(
            "a breaker opens, half opens and closes",
            (breaker, Series("rl_breaker_state", {**WHO, "version": "b2"}, gauge((14, 0)))),
            when(
                "BreakerOpen",
                WHO,
                (4 * MINUTE, False),
                (5 * MINUTE, True),
                (8 * MINUTE, True),
                (9 * MINUTE, False),
            ),
        ),
    ]


def _night() -> list[Case]:
    """Thin traffic: all of it is bad, and it says something only when there is enough of it in five minutes."""
    fallback, latency = "FallbackRateHigh", "LatencyP99High"
    always_quiet = tuple((minute * MINUTE, False) for minute in range(10, 20))
    return [
        Case(
            "one fallback among two decisions at night",
            decisions((10, 0, 0), (1, 2, 1), (19, 0, 0)),
            when(fallback, POLICY, *always_quiet),
        ),
        Case(
            "one fallback where there are just enough decisions",
            decisions((10, 5.2, 0), (1, 5.2, 1), (19, 5.2, 0)),
            when(fallback, POLICY, *always_quiet),
        ),
        Case(
            "just too few: 24 decisions in five minutes, all of them the fallback's",
            decisions((30, 4.8, 4.8)),
            when(fallback, POLICY, (20 * MINUTE, False), (30 * MINUTE, False)),
        ),
        Case(
            "just enough: 26 in five minutes, until they are 24 again",
            decisions((20, 5.2, 5.2), (20, 4.8, 4.8)),
            when(fallback, POLICY, (20 * MINUTE, True), (30 * MINUTE, False)),
        ),
        Case(
            "one slow request where there are just enough of them",
            requests((10, 26, 0), (1, 26, 1), (19, 26, 0)),
            when(latency, POLICY, *always_quiet),
        ),
        Case(
            "just too few: 120 requests in five minutes, all of them slow",
            requests((30, 24, 24)),
            when(latency, POLICY, (20 * MINUTE, False), (30 * MINUTE, False)),
        ),
        Case(
            "just enough: 130 in five minutes, until they are 120 again",
            requests((20, 26, 26), (20, 24, 24)),
            when(latency, POLICY, (20 * MINUTE, True), (30 * MINUTE, False)),
        ),
    ]


def _log() -> list[Case]:
    return [
        Case(
            "the disk takes nothing for five minutes",
            (Series("rl_decision_log_failing", WHERE, gauge((5, 0), (5, 1), (5, 0))),),
            when("DecisionLogFailing", WHERE, (4 * MINUTE, False), (5 * MINUTE, True), (10 * MINUTE, False)),
        ),
        Case(
            "three lines are lost",
            (Series("rl_decision_log_dropped_total", WHERE, counter((5, 0), (1, 3), (15, 0))),),
            when("DecisionLogLosing", WHERE, (5 * MINUTE, False), (6 * MINUTE, True), (12 * MINUTE, False)),
        ),
    ]


def _policy() -> list[Case]:
    drift = {**POLICY, "check": "mmd"}
    return [
        Case(
            "1.05 % of the steps are unsafe, after 0.95 %",
            _unsafe((5, 0.0095, 95), (5, 0.0105, 105), (5, 0.0, 0)),
            when("SafetyViolations", WHO, (4 * MINUTE, False), (5 * MINUTE, True), (10 * MINUTE, False)),
        ),
        Case(
            "a version's first step is unsafe, then its second, and it is a fluke until there is a third",
            _unsafe((5, 1.0, 1), (5, 1.0, 2), (5, 1.0, 3), (5, 0.0, 0)),
            when(
                "SafetyViolations",
                WHO,
                (4 * MINUTE, False),
                (9 * MINUTE, False),
                (10 * MINUTE, True),
                (14 * MINUTE, True),
                (15 * MINUTE, False),
            ),
        ),
        Case(
            "a drift check raises its alarm for ten minutes, another for one",
            (
                Series("rl_drift_alarm", drift, gauge((5, 0), (10, 1), (5, 0))),
                Series("rl_drift_alarm", {**POLICY, "check": "psi"}, gauge((5, 0), (1, 1), (14, 0))),
            ),
            when(
                "DriftAlarm", drift, (5 * MINUTE, False), (6 * MINUTE, False), (7 * MINUTE, True), (15 * MINUTE, False)
            ),
        ),
        Case(
            "one window cannot be checked",
            (Series("rl_drift_failures_total", drift, counter((5, 0), (1, 1), (120, 0))),),
            when("DriftUnchecked", drift, (5 * MINUTE, False), (6 * MINUTE, True), (67 * MINUTE, False)),
        ),
    ]


def _unsafe(*phases: tuple[int, float, int]) -> tuple[Series, ...]:
    """For each phase so many minutes, the share of unsafe steps among the last, and their number."""
    return (
        Series("rl_safety_violation_ratio", WHO, gauge(*((minutes, share) for minutes, share, _ in phases))),
        Series("rl_safety_violating_steps", WHO, gauge(*((minutes, count) for minutes, _, count in phases))),
    )


def _presence() -> list[Case]:
    return [
        Case(
            "a target does not answer for five minutes, another for one",
            (
                Series("up", WHERE, gauge((5, 1), (5, 0), (5, 1))),
                Series("up", {**WHERE, "job": "rlcourse-monitor"}, gauge((5, 1), (1, 0), (9, 1))),
            ),
            when(
                "TargetDown", WHERE, (5 * MINUTE, False), (6 * MINUTE, False), (7 * MINUTE, True), (10 * MINUTE, False)
            ),
        ),
        Case(
            "nothing is reported until the eighth minute",
            (Series("rl_default_version", WHO, gauge((8, None), (8, 1))),),
            when("MetricsAbsent", {}, (1 * MINUTE, False), (2 * MINUTE, True), (7 * MINUTE, True), (8 * MINUTE, False)),
        ),
        Case(
            "nobody asks for ten minutes",
            (Series("rl_request_seconds_count", WHO, counter((10, 1), (10, 0), (10, 1))),),
            when(
                "NoTraffic",
                POLICY,
                (10 * MINUTE, False),
                (16 * MINUTE, False),
                (17 * MINUTE, True),
                (20 * MINUTE, True),
                (21 * MINUTE, False),
            ),
        ),
    ]


def _returns(baselines: tuple[Baseline, ...]) -> list[Case]:
    cases = []
    for baseline in baselines:
        who, mean = {"policy": baseline.policy, "version": "a1"}, baseline.mean_return
        size, floor = abs(mean) or 1.0, return_floor(mean, Limits().return_share)
        good, bad = floor + 0.01 * size, floor - 0.01 * size

        def series(
            ended: tuple[float, ...], *means: tuple[int, float], who: Mapping[str, str] = who
        ) -> tuple[Series, ...]:
            return Series("rl_episode_return_mean", who, gauge(*means)), Series("rl_episode_return_count", who, ended)

        about = f"{baseline.policy}, a baseline of {mean:g}"
        cases += [
            Case(
                f"{about}: {good:g} is good enough, {bad:g} is not",
                series(counter((80, 1)), (60, good), (10, bad), (10, good)),
                when(
                    "ReturnBelowBaseline",
                    who,
                    (59 * MINUTE, False),
                    (61 * MINUTE, False),
                    (62 * MINUTE, True),
                    (70 * MINUTE, False),
                ),
            ),
            Case(
                f"{about}: a little better than the baseline",
                series(counter((80, 1)), (80, mean + 0.02 * size)),
                when("ReturnBelowBaseline", who, (79 * MINUTE, False)),
            ),
            Case(
                f"{about}: 19 bad episodes say nothing yet",
                series(counter((10, 0), (19, 1), (61, 0)), (90, bad)),
                when("ReturnBelowBaseline", who, (40 * MINUTE, False), (60 * MINUTE, False)),
            ),
            Case(
                f"{about}: 21 do",
                series(counter((10, 0), (21, 1), (59, 0)), (90, bad)),
                when("ReturnBelowBaseline", who, (62 * MINUTE, True)),
            ),
        ]
    return cases


def alert_cases(baselines: tuple[Baseline, ...] = BASELINES) -> tuple[Case, ...]:
    """Every case, for default limits and these baselines."""
    return (
        *_service(),
        *_log(),
        *_policy(),
        *_presence(),
        *_returns(baselines),
        *budget_cases(),
        *day_cases(baselines),
    )
