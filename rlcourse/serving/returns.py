"""Returns of episodes by day and version, as the three sums that a comparison of two versions needs: days that never grow.

Prometheus keeps buckets, and buckets have no variance. So whoever counts the episodes keeps these sums besides; a release's
gate reads them (:mod:`rlcourse.release.adapters.returns`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlcourse.errors import ConfigError


class DailyReturns:
    """Number, sum and sum of squares of returns, by policy, day and version.

    Args:
        day_s: length of a day; days are counted from the epoch.
        days: kept; older ones are forgotten.
        versions: kept of one policy and day; the returns of further ones are left out, and counted in :attr:`left_out`.
    """

    def __init__(self, *, day_s: float = 86_400.0, days: int = 60, versions: int = 16) -> None:
        if not day_s > 0.0 or min(days, versions) < 1:
            raise ConfigError(f"{days} days of {day_s} s.", mend="Use numbers above 0.")
        self.day_s, self.days, self.versions = day_s, days, versions
        self.left_out = 0
        self._sums: dict[str, dict[int, dict[str, list[float]]]] = {}

    def add(self, policy: str, version: str, now_s: float, total: float) -> None:
        """An episode was counted, with this return."""
        by_day = self._sums.get(policy)
        if by_day is None:
            if len(self._sums) >= self.versions:
                self.left_out += 1
                return
            by_day = self._sums[policy] = {}
        day = int(now_s // self.day_s)
        versions = by_day.setdefault(day, {})
        if version not in versions and len(versions) >= self.versions:
            self.left_out += 1
            return
        sums = versions.setdefault(version, [0.0, 0.0, 0.0])
        for place, amount in enumerate((1.0, total, total * total)):
            sums[place] += amount
        for old in [one for one in by_day if one <= day - self.days]:
            del by_day[old]

    def to_json(self) -> dict[str, Any]:
        """``{"day_s": ..., "policies": {policy: {day: {version: [episodes, total, squares]}}}}``."""
        policies = {
            policy: {str(day): {name: list(sums) for name, sums in versions.items()} for day, versions in days.items()}
            for policy, days in self._sums.items()
        }
        return {"day_s": self.day_s, "policies": policies}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go on from what :meth:`to_json` gave; days of another length are not days of this one.

        Raises:
            KeyError, TypeError, ValueError: it gave something else.
        """
        if float(content["day_s"]) != self.day_s:
            return
        self._sums = {
            str(policy): {
                int(day): {
                    str(name): [float(n), float(total), float(squares)] for name, (n, total, squares) in part.items()
                }
                for day, part in days.items()
            }
            for policy, days in content["policies"].items()
        }
