"""Where fine ends: the numbers that the rules, the dashboard and the promises share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlcourse.errors import ConfigError
from rlcourse.monitoring.catalogue import REQUEST_BUCKETS_S


@dataclass(frozen=True)
class Baseline:
    """What another policy, trusted and simple, earns in the same place."""

    policy: str
    """The name under which the policy that is compared with it is served."""
    mean_return: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where fine ends. Defaults are for a policy that must act within 100 ms, and whose mistakes cost money."""

    latency_s: float = 0.1
    """The slowest 1 % may take no longer. One of the histogram's bounds, because nothing is known between them."""
    return_share: float = 0.9
    """Of the baseline's return. Raising it tells of smaller losses, and of more that are chance."""
    min_episodes: int = 20
    """So many of a version must have ended within ``episodes_window_s`` before its return says anything. Raising it forgives
    more of what is chance, and asks for more traffic."""
    episodes_window_s: float = 86_400.0
    """Over which episodes are counted. It must be long enough to hold ``min_episodes``, or nothing is ever said: a hundred
    rooms whose days are episodes end four an hour, and 96 a day. Longer only lets an old verdict stand longer."""
    entropy_share: float = 0.5
    """Of the highest mean over a day among the policy's versions, its own included. Raising it tells of smaller changes. A
    collapse that lasts becomes the mean that it is compared with once no other version was there, and the alert ends within
    the day: only ``entropy_floor`` keeps telling."""
    entropy_floor: float | None = None
    """In nats: entropy below it is an alert whatever it was yesterday. Take it from a healthy run of this policy; there is
    no number that is low for every task, so by default there is none."""
    fallback_share: float = 0.05
    """Of the decisions may be the fallback's."""
    min_decisions: int = 25
    """So many must lie in the window before their share of fallbacks says anything: one fallback in 25 is 4 %, so that by
    default it wakes nobody alone. Raising it forgives more of them where traffic is thin."""
    min_requests: int = 125
    """So many must lie in the window before the slowest 1 % of them says anything: below 100, a single slow one is more.
    The rest is for scrapes: a window of five minutes that is scraped every minute has seen four of them."""
    min_bad_events: int = 3
    """So many requests must have gone wrong in the long window of an error budget before anybody is told that it burns: one
    that fails at night, alone, is 100 %. Raising it forgives more where traffic is thin, and tells later there."""
    violation_share: float = 0.01
    """Of the last steps may end outside a safety limit."""
    min_violations: int = 3
    """So many of the last steps must have ended outside before their share says anything: after one step, one violation is
    100 %. A least number of steps would do for that, too, and would keep quiet while all of a few are bad. Raising it
    forgives more, and tells later."""
    window_s: float = 300.0
    """Over which rates are taken. Longer is smoother, and later to notice and to forget."""
    hold_s: float = 120.0
    """How long a condition must last. Longer forgives more, and tells later."""
    answered: float = 0.999
    """Promised share of requests that are answered with an action."""
    decided: float = 0.99
    """Promised share of decisions that are the policy's own where the observation is sound."""
    fast: float = 0.99
    """Promised share of requests within ``latency_s``."""

    def __post_init__(self) -> None:
        if self.latency_s not in REQUEST_BUCKETS_S:
            raise ConfigError(
                f"A latency limit of {self.latency_s} s lies between the histogram's bounds.",
                mend=f"Use one of {', '.join(map(str, REQUEST_BUCKETS_S))}.",
            )
        for share in (self.return_share, self.entropy_share, self.fallback_share, self.violation_share):
            if not 0.0 < share < 1.0:
                raise ConfigError(f"A limit of {share} is no share.", mend="Use a number between 0 and 1.")
        if self.entropy_floor is not None and not 0.0 < self.entropy_floor < math.inf:
            raise ConfigError(
                f"No entropy is below a floor of {self.entropy_floor} nats, or every one is.",
                mend="Use a number above 0, or none.",
            )
        if (
            min(self.min_episodes, self.min_decisions, self.min_requests, self.min_bad_events, self.min_violations) < 1
            or min(self.window_s, self.episodes_window_s) <= 0.0
            or self.hold_s < 0.0
        ):
            raise ConfigError("A count or a time is below its range.", mend="Count 1 or more, in times above 0.")

    @property
    def episodes_per_hour(self) -> float:
        """Of one version, without which nothing is ever said of its return."""
        return self.min_episodes * 3600.0 / self.episodes_window_s


def return_floor(baseline: float, share: float) -> float:
    """The least return that counts as good enough.

    ``baseline - (1 - share) * |baseline|``: for 475 and 0.9 it is 427.5; for -50 it is -55, a tenth of the baseline's size
    worse. The product ``share * baseline`` would be -45, which is *better* than the baseline.
    """
    return baseline - (1.0 - share) * abs(baseline)
