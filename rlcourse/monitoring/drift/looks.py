"""When to look: after enough new episodes, and no oftener than the budget of false alarms was made for.

The level of a window is one N-th of the day's. A busy fleet fills a window every few minutes, and if each were judged at that
level nothing would be left of the day's rate. So a day has N slots of equal length, by the log's own clock, and each has one
look at most; what happens in between is seen by the next look, if it lasts::

    a day of four slots     |              |              |              |              |
    enough new episodes       x   x   x   x   x   x   x          x               x   x
    looked                    ^              ^                   ^               ^
"""

from __future__ import annotations

import math

from rlcourse.monitoring.drift.correction import FalseAlarmBudget

DAY_S = 86_400.0


class Looks:
    """Counts the episodes of one stream.

    Args:
        window_episodes: no look before so many have come.
        stride_episodes: nor before so many since the last look.
        budget: how many looks a day has.
    """

    def __init__(self, window_episodes: int, stride_episodes: int, budget: FalseAlarmBudget) -> None:
        self._window, self._stride = window_episodes, stride_episodes
        self._slot_s = DAY_S / budget.windows_per_day
        self._seen = self._since = 0
        self._slot = -math.inf
        self.skipped = 0
        """Looks for which there were enough new episodes, and none of the budget left."""

    def episode(self, at_s: float | None = None) -> bool:
        """One more has come; says whether to look now.

        Args:
            at_s: when, by a clock that does not go back; ``None``: nobody knows, and the stride alone decides.
        """
        self._seen, self._since = self._seen + 1, self._since + 1
        if self._seen < self._window or self._since < self._stride:
            return False
        slot = math.inf if at_s is None else at_s // self._slot_s
        if slot <= self._slot:
            self.skipped += self._since % self._stride == 0
            return False
        self._since = 0
        if at_s is not None:
            self._slot = slot
        return True
