"""The hidden series of chapter 17's alert exercise: one incident, and what only looks like it.

A server hall is run by ``rl_policy``. Version a1 makes nine decisions in ten, a canary b2 the tenth. Every sample is one
minute's scrape. From the moment of the incident on, a1 answers nearly every observation with one and the same action. The
service is quick, has no fallbacks and refuses nobody: every series that speaks of the service alone stays green.

::

    minutes            0 ......... 120 ........... 180 ......... 240
    incident           well         stuck           mended
    spike              well         stuck for 5 minutes, then well
    quiet night        60 well      hardly a decision, and all of them alike      well
    gap                60 well      25 without any sample, counters begin at 0, 2 minutes of one action, well
    busy hour          60 well      60 with five times the traffic                well
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlcourse.monitoring.rule_cases import Case, Series

MINUTE = 60.0
POLICY = "rl_policy"
USUAL = (0.12, 0.34, 0.26, 0.18, 0.10)
"""Shares of the five actions on an ordinary day; they wander, and none comes to more than about half."""
TRAFFIC = 600.0
"""Decisions a minute."""
BEGINS, MENDED, ENDS = 120, 180, 240
"""Minutes of the incident."""
_BOUNDS = ("0.005", "0.05", "0.1", "+Inf")
_IN_TIME = (0.7, 0.99, 0.999, 1.0)
"""Share of the requests within each bound."""


@dataclass(frozen=True)
class Minutes:
    """A stretch of time in which all minutes are alike."""

    count: int
    traffic: float = TRAFFIC
    stuck: int | None = None
    """The action that a1 takes nearly always; ``None``: it is well."""
    purity: float = 0.94
    """Share of that action while it is stuck."""
    scraped: bool = True


def incident(action: int, seed: int) -> Case:
    """Two hours of an ordinary day, an hour in which one action is taken nearly always, an hour after the repair."""
    phases = (Minutes(BEGINS), Minutes(MENDED - BEGINS, stuck=action), Minutes(ENDS - MENDED))
    return _case(f"incident-{action}", phases, seed)


def spike(seed: int) -> Case:
    """For five minutes one action is taken nearly always: a batch job that asks about one room."""
    return _case("spike", (Minutes(BEGINS), Minutes(5, stuck=3), Minutes(60)), seed)


def quiet_night(seed: int) -> Case:
    """Scheduled: somebody asks once in two minutes, and gets the same answer, the right one."""
    return _case("night", (Minutes(60), Minutes(180, traffic=0.5, stuck=1, purity=1.0), Minutes(30)), seed)


def gap(seed: int) -> Case:
    """Nothing can be scraped for 25 minutes, then the service comes back with counters at 0 and rooms in one state."""
    phases = (Minutes(60), Minutes(25, scraped=False), Minutes(2, stuck=2, purity=1.0), Minutes(60))
    return _case("gap", phases, seed)


def busy_hour(seed: int) -> Case:
    """Five times the traffic for an hour, otherwise as ever."""
    return _case("busy", (Minutes(60), Minutes(60, traffic=5 * TRAFFIC), Minutes(60)), seed)


def hidden_cases(seed: int = 0) -> dict[str, Case]:
    """All of them by name."""
    made = (incident(4, seed), incident(0, seed + 1), spike(seed), quiet_night(seed), gap(seed), busy_hour(seed))
    return {case.name: case for case in made}


def scraped_names() -> frozenset[str]:
    """The series that there are."""
    return frozenset(series.name for series in busy_hour(0).series)


def last_minute(case: Case) -> int:
    """Of the last scrape."""
    return len(case.series[0].samples) - 1


def _case(name: str, phases: Sequence[Minutes], seed: int) -> Case:
    rng = np.random.default_rng((17, seed))
    rows = [row for phase in phases for row in [phase] * phase.count]
    counts = np.stack([_decisions(row, minute, rng) for minute, row in enumerate(rows)])  # (T, 2, A)
    scraped = np.array([row.scraped for row in rows])
    restarts = np.flatnonzero(scraped[1:] & ~scraped[:-1]) + 1
    made = counts.sum(axis=2)
    series = [
        Series("rl_actions_total", {**_who(version), "action": str(action)}, _counter(column, scraped, restarts))
        for v, version in enumerate(("a1", "b2"))
        for action, column in enumerate(counts[:, v].T)
    ]
    for v, version in enumerate(("a1", "b2")):
        who, total = _who(version), made[:, v]
        series += [
            Series("rl_decisions_total", {**who, "fallback": "none"}, _counter(total, scraped, restarts)),
            Series("rl_decisions_total", {**who, "fallback": "timeout"}, _counter(0.0 * total, scraped, restarts)),
            Series("rl_request_seconds_count", who, _counter(total, scraped, restarts)),
            Series("rl_breaker_state", who, _gauge(0.0, scraped)),
            Series("rl_default_version", who, _gauge(float(version == "a1"), scraped)),
        ]
        series += [
            Series(
                "rl_request_seconds_bucket", {**who, "le": bound}, _counter(np.round(share * total), scraped, restarts)
            )
            for bound, share in zip(_BOUNDS, _IN_TIME, strict=True)
        ]
    where = {"job": "rlcourse", "instance": "127.0.0.1:8080"}
    series.append(Series("up", where, tuple(float(there) for there in scraped)))
    return Case(name, tuple(series), ())


def _decisions(
    row: Minutes, minute: int, rng: np.random.Generator
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """``(2, A)``: how often a1 and b2 took each action in this minute."""
    if not row.scraped:
        return np.zeros((2, len(USUAL)))
    if row.traffic < 1.0:  # one decision now and then
        found = np.zeros((2, len(USUAL)))
        found[0, row.stuck or 0] = float(minute % round(1.0 / row.traffic) == 0)
        return found
    usual = np.array(USUAL)
    usual[1] += 0.12 * np.sin(minute / 20.0)  # the day goes on: the usual action is now more, now less usual
    usual /= usual.sum()
    a1 = usual
    if row.stuck is not None:
        a1 = (1.0 - row.purity) * usual
        a1[row.stuck] += row.purity
    return np.stack(
        [
            rng.multinomial(round(0.9 * row.traffic), a1),
            rng.multinomial(round(0.1 * row.traffic), usual),
        ]
    ).astype(np.float64)


def _counter(
    per_minute: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    scraped: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    restarts: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
) -> tuple[float | None, ...]:
    """A counter that begins at 0, and at 0 again where the service does."""
    total = 0.0
    samples: list[float | None] = []
    begins = {0, *restarts.tolist()}
    for minute, (amount, there) in enumerate(zip(per_minute.tolist(), scraped.tolist(), strict=True)):
        total = 0.0 if minute in begins else total + amount
        samples.append(total if there else None)
    return tuple(samples)


def _gauge(value: float, scraped: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[float | None, ...]:
    return tuple(value if there else None for there in scraped.tolist())


def _who(version: str) -> dict[str, str]:
    return {"policy": POLICY, "version": version}
