"""A circuit breaker: what fails again and again is left alone for a while instead of being asked once more.

::

    closed ──failures in a row──▶ open ──cooldown──▶ half open ──one success──▶ closed
                                   ▲                     │
                                   └────────failure──────┘

Nygard (2007), *Release It!*, chapter 5.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from rlcourse.errors import ConfigError


class State(enum.Enum):
    """Where a breaker stands; the value is what its metric shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """Counts failures in a row.

    Args:
        failures: so many in a row open it; raising it tolerates more before the fallback takes over.
        cooldown_s: how long nothing is tried; raising it spares what is broken, and notices its recovery later.
        clock: seconds that only grow.
    """

    def __init__(self, failures: int, cooldown_s: float, clock: Callable[[], float]) -> None:
        if failures < 1 or not cooldown_s > 0.0:
            raise ConfigError(
                f"A breaker that opens after {failures} failures for {cooldown_s} s.",
                mend="Use 1 failure or more and a time above 0.",
            )
        self.failures = failures
        self.cooldown_s = cooldown_s
        self._clock = clock
        self.in_a_row = 0
        self._opened = 0.0
        self._since = 0.0
        self._trying = False
        self.closed = True  # read on every request, hence no property

    @property
    def state(self) -> State:
        """Where it stands now."""
        if self.closed:
            return State.CLOSED
        return State.OPEN if self._clock() < self._opened + self.cooldown_s else State.HALF_OPEN

    def allow(self) -> bool:
        """Whether to try. While half open, one attempt is let through, and no other until it has ended."""
        if self.closed:
            return True
        now = self._clock()
        if now < self._opened + self.cooldown_s:
            return False
        if self._trying and now < self._since + self.cooldown_s:  # an attempt that never reported is forgotten
            return False
        self._trying, self._since = True, now
        return True

    def succeeded(self) -> None:
        """An attempt went well."""
        self.in_a_row = 0
        self._trying = False
        self.closed = True

    def failed(self) -> None:
        """An attempt did not."""
        self.in_a_row += 1
        if not self.closed or self.in_a_row >= self.failures:
            self.closed = False
            self._trying = False
            self._opened = self._clock()
