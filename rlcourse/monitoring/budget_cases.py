"""The unit tests of what looks back over hours and days: error budgets, few episodes, and entropy beside its past."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rlcourse.monitoring.case_series import DAY, HOUR, MINUTE, POLICY, WHO, decisions, refused, requests, scrapes, when
from rlcourse.monitoring.limits import Baseline, Limits, return_floor
from rlcourse.monitoring.rule_cases import Case, Series, counter, gauge

ENTROPY_FLOOR = 0.5
"""An example, in nats."""


def budget_cases() -> list[Case]:
    """The fast burn of the hour, pinned from both sides while six hours do not burn; then the other windows."""
    fast, decided, answered = ({**POLICY, "slo": "fast"}, {**POLICY, "slo": "decided"}, {"slo": "answered"})
    page, ticket = "ErrorBudgetBurnFast", "ErrorBudgetBurnSlow"
    return [
        replace(case, evaluate_s=5 * MINUTE)
        for case in (
            Case(
                "15 % of the requests are slow for 70 minutes after four good hours",
                requests((240, 100, 0), (70, 100, 15), (20, 100, 0)),
                (
                    *when(page, fast, (240 * MINUTE, False), (280 * MINUTE, False), (305 * MINUTE, True)),
                    *when(page, fast, (320 * MINUTE, False)),
                ),
            ),
            Case(
                "just below: 14 % for 70 minutes after four good hours",
                requests((240, 100, 0), (70, 100, 14)),
                when(page, fast, (305 * MINUTE, False), (310 * MINUTE, False)),
            ),
            Case(
                "6.5 % of the requests are slow for two hours",
                requests((120, 200, 13), (60, 200, 0)),
                (
                    *when(page, fast, (60 * MINUTE, True), (120 * MINUTE, True)),
                    *when(page, fast, (155 * MINUTE, False)),
                ),
            ),
            Case(
                "just below: 5.5 % for two hours",
                requests((120, 200, 11)),
                when(page, fast, (60 * MINUTE, False), (120 * MINUTE, False)),
            ),
            Case(
                "15 % of the decisions are the fallback's by the service's fault",
                decisions((240, 100, 0), (70, 100, 15), (20, 100, 0)),
                when(page, decided, (240 * MINUTE, False), (305 * MINUTE, True), (320 * MINUTE, False)),
            ),
            Case(
                "just below: 14 % of them for an hour after four good hours",
                decisions((240, 100, 0), (65, 100, 14)),
                when(page, decided, (300 * MINUTE, False)),
            ),
            Case(
                "observations that are no numbers spend nobody's budget",
                decisions((120, 100, 50), reason="non_finite"),
                (*when(page, decided, (110 * MINUTE, False)), *when(ticket, decided, (110 * MINUTE, False))),
            ),
            Case(
                "2 % of the requests are turned away as too many, for 70 minutes",
                refused("429", (240, 0), (70, 20), (20, 0)),
                when(page, answered, (240 * MINUTE, False), (305 * MINUTE, True), (320 * MINUTE, False)),
            ),
            Case(
                "just below: 0.55 % of the requests are turned away",
                refused("503", (120, 5.5)),
                when(page, answered, (60 * MINUTE, False), (110 * MINUTE, False)),
            ),
            Case(
                "a client's own faults spend nobody's budget",
                refused("422", (120, 500)),
                (*when(page, answered, (110 * MINUTE, False)), *when(ticket, answered, (110 * MINUTE, False))),
            ),
            *_thin(),
        )
    ] + _outages()


def _outages() -> list[Case]:
    """Nothing answers, so nothing is refused either; a scrape a minute is what still asks."""
    page, slo = "ErrorBudgetBurnFast", {"slo": "answered"}
    other = "127.0.0.1:8081"
    return [
        Case(
            "the only service is gone for an hour, after a quiet one, and comes back",
            scrapes((60, 1), (60, 0), (40, 1)),
            when(page, slo, (59 * MINUTE, False), (61 * MINUTE, False), (62 * MINUTE, True), (119 * MINUTE, True))
            + when(page, slo, (155 * MINUTE, False)),
        ),
        Case(
            "just below: two scrapes in a row find nobody",
            scrapes((60, 1), (2, 0), (20, 1)),
            when(page, slo, *((minute * MINUTE, False) for minute in range(60, 70))),
        ),
        Case(
            "one of two services is gone for an hour, and the other answers",
            (*scrapes((60, 1), (60, 0)), *scrapes((120, 1), instance=other)),
            when(page, slo, (90 * MINUTE, False), (119 * MINUTE, False)),
        ),
        Case(
            "what never showed a version is no service: a follower is gone for an hour",
            (
                *scrapes((120, 1)),
                Series("up", {"job": "decisions", "instance": other}, gauge((60, 1), (60, 0))),
            ),
            when(page, slo, (90 * MINUTE, False), (119 * MINUTE, False)),
        ),
    ]


def _thin() -> Iterator[Case]:
    """Six requests an hour, one every ten minutes; the last of them go wrong."""
    page, slo = "ErrorBudgetBurnFast", {**POLICY, "slo": "decided"}
    hour = 6 * ((10, 0.1, 0.0),)
    for failed, what in ((1, "a lone failure at night"), (2, "just below: two at night"), (3, "three at night")):
        wrong = failed * ((1, 1.0, 1.0), (9, 0.0, 0.0))
        until = (4 * 60 + 10 * failed) * MINUTE
        yield Case(
            f"{what}, and then nothing for two hours",
            decisions(*(4 * hour), *wrong, (120, 0.0, 0.0)),
            (
                *when(page, slo, (until - 5 * MINUTE, failed >= 3), (until + 90 * MINUTE, False)),
                *when("ErrorBudgetBurnSlow", slo, (until - 5 * MINUTE, failed >= 3)),
            ),
        )


def day_cases(baselines: tuple[Baseline, ...]) -> tuple[Case, ...]:
    """What looks back over days: samples ten minutes apart, evaluated every hour."""
    fast, ticket = {**POLICY, "slo": "fast"}, "ErrorBudgetBurnSlow"
    day = DAY // 600
    budgets = (
        (
            "3.3 % slow for a day and a bit, after three good days with more traffic",
            ((3 * day, 3000, 0), (day + 12, 1000, 33), (day, 1000, 0)),
            ((3 * DAY, False), (4 * DAY, True), (4 * DAY + 8 * HOUR, False)),
        ),
        (
            "just below: 2.7 % for a day",
            ((3 * day, 3000, 0), (day, 1000, 27)),
            ((4 * DAY - HOUR, False), (4 * DAY, False)),
        ),
        (
            "1.1 % slow for four days",
            ((4 * day, 1000, 11), (day, 1000, 0)),
            ((3 * DAY + 12 * HOUR, True), (4 * DAY + 7 * HOUR, False)),
        ),
        ("just below: 0.9 % for four days", ((4 * day, 1000, 9),), ((3 * DAY, False), (4 * DAY, False))),
    )
    return (
        *(Case(name, requests(*phases), when(ticket, fast, *at), 600.0, HOUR) for name, phases, at in budgets),
        Case(
            "entropy falls to 45 % of what it was, and recovers",
            _entropy((20, 1.0), (3, 0.45), (2, 1.0)),
            when(
                "EntropyCollapse",
                WHO,
                (19 * HOUR, False),
                (20 * HOUR, False),
                (21 * HOUR, True),
                (22 * HOUR, True),
                (23 * HOUR, False),
            ),
            600.0,
            HOUR,
        ),
        Case(
            "just below: entropy falls to 52 % of what it was",
            _entropy((20, 1.0), (3, 0.52)),
            when("EntropyCollapse", WHO, (21 * HOUR, False), (22 * HOUR, False)),
            600.0,
            HOUR,
        ),
        *_from_the_start(),
        _lasting(told=False),
        *_seldom(baselines),
    )


def _from_the_start() -> Iterator[Case]:
    """A new version beside the one that it replaces after ten hours."""
    new = {**WHO, "version": "b2"}
    for entropy, told, what in (
        (0.001, True, "a new version has hardly any entropy from its first hour on, the old one 1 nat"),
        (0.52, False, "just below: the new version has 52 % of the old one's entropy"),
    ):
        yield Case(
            what,
            (*_entropy((20, 1.0)), *_entropy((10, None), (40, entropy), version="b2")),
            when("EntropyCollapse", new, (9 * HOUR, False), (11 * HOUR, told), (19 * HOUR, told), (40 * HOUR, told))
            # A day after its last hour the old version is no measure any more; only a floor still tells.
            + when("EntropyCollapse", new, (45 * HOUR, False)),
            600.0,
            HOUR,
        )


def _seldom(baselines: tuple[Baseline, ...]) -> Iterator[Case]:
    """Long episodes, some every hour: all of them cost twice what the baseline does."""
    for baseline in baselines:
        who, floor = (
            {"policy": baseline.policy, "version": "a1"},
            return_floor(baseline.mean_return, Limits().return_share),
        )
        bad = floor - (abs(baseline.mean_return) or 1.0)
        for ends, told, what in (
            ((4, 1, 1, 1, 1, 0), True, "four ends an hour, as of a hundred rooms"),
            ((1, 0, 0, 0, 0, 0), True, "one end an hour"),
            ((0.75, 0, 0, 0, 0, 0), False, "just too few: 18 ends a day"),
        ):
            ended = counter(*(2 * 24 * tuple((1, end) for end in ends[-5:] + ends[:1])))
            yield Case(
                f"{baseline.policy}, a baseline of {baseline.mean_return:g}: {what}, and all of them bad",
                (
                    Series("rl_episode_return_mean", who, gauge((len(ended), bad))),
                    Series("rl_episode_return_count", who, ended),
                ),
                when("ReturnBelowBaseline", who, (2 * HOUR, False), (25 * HOUR, told), (48 * HOUR, told)),
                600.0,
                HOUR,
            )


def floor_cases() -> tuple[Case, ...]:
    """What :data:`ENTROPY_FLOOR` as a limit adds to the comparison with the last day."""
    good, bad = 1.05 * ENTROPY_FLOOR, 0.95 * ENTROPY_FLOOR
    told = ((40, False), (42, False), (43, True), (44, True), (45, False))
    return (
        _lasting(told=True),
        Case(
            "entropy falls so slowly that no day looks bad beside it, to a little below the floor, and recovers",
            _entropy((20, 1.0), (22, good), (3, bad), (2, good)),
            when("EntropyCollapse", WHO, *((hours * HOUR, fires) for hours, fires in told)),
            600.0,
            HOUR,
        ),
    )


def _lasting(*, told: bool) -> Case:
    """A collapse that lasts: once it fills most of the day that it is compared with, only a floor still tells of it."""
    return Case(
        "entropy falls to 20 % of what it was, and stays there",
        _entropy((20, 1.0), (40, 0.2)),
        when("EntropyCollapse", WHO, (21 * HOUR, True), (30 * HOUR, True), (44 * HOUR, told), (59 * HOUR, told)),
        600.0,
        HOUR,
    )


def _entropy(*phases: tuple[int, float | None], version: str = WHO["version"]) -> tuple[Series, ...]:
    """For each phase so many hours of one value."""
    values = gauge(*((6 * hours, value) for hours, value in phases))
    return (Series("rl_policy_entropy_nats", {**WHO, "version": version}, values),)
