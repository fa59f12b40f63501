"""Returns of episodes by day and version, as the three sums that a comparison of two versions needs: days that never grow.

Prometheus keeps buckets, and buckets have no variance. So whoever counts the episodes keeps these sums besides; a release's
gate reads them (:mod:`rlcourse.release.adapters.returns`). Where conditions are named that no policy can change, their sums
and products are kept as well (:mod:`rlcourse.release.conditions`): with them the gate takes out what the weather explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlcourse.errors import ConfigError
from rlcourse.release.conditions import Conditions, RunningSums, sums_from


class DailyReturns:
    """Number, sum and sum of squares of returns, by policy, day and version.

    Args:
        day_s: length of a day; days are counted from the epoch.
        days: kept; older ones are forgotten.
        versions: kept of one policy and day; the returns of further ones are left out, and counted in :attr:`left_out`.
        conditions: kept beside the returns; none by default.
    """

    def __init__(
        self, *, day_s: float = 86_400.0, days: int = 60, versions: int = 16, conditions: Conditions | None = None
    ) -> None:
        if not day_s > 0.0 or min(days, versions) < 1:
            raise ConfigError(f"{days} days of {day_s} s.", mend="Use numbers above 0.")
        self.day_s, self.days, self.versions = day_s, days, versions
        self.left_out, self.conditions = 0, conditions
        self._sums: dict[str, dict[int, dict[str, list[float]]]] = {}
        self._moments: dict[tuple[str, int, str], RunningSums] = {}

    def add(
        self, policy: str, version: str, now_s: float, total: float, conditions: Sequence[float] | None = None
    ) -> None:
        """An episode was counted, with this return; ``None``: its conditions are not known."""
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
        if self.conditions is not None and conditions is not None:
            moments = self._moments.setdefault((policy, day, version), RunningSums(1 + self.conditions.width))
            moments.add([total, *conditions])
        for old in [one for one in by_day if one <= day - self.days]:
            for name in by_day.pop(old):
                self._moments.pop((policy, old, name), None)

    def to_json(self) -> dict[str, Any]:
        """``{"day_s": ..., "policies": {policy: {day: {version: [episodes, total, squares]}}}}``.

        With conditions also ``"conditions": {"columns": [...], "over": ...}`` and ``"moments"``, a tree of the same form, of
        the numbers of :class:`~rlcourse.release.conditions.RunningSums`.
        """
        policies = {
            policy: {str(day): {name: list(sums) for name, sums in versions.items()} for day, versions in days.items()}
            for policy, days in self._sums.items()
        }
        found: dict[str, Any] = {"day_s": self.day_s, "policies": policies}
        if self.conditions is not None:
            found["conditions"] = {**asdict(self.conditions), "columns": list(self.conditions.columns)}
            moments: dict[str, dict[str, dict[str, list[float]]]] = {}
            for (policy, day, version), sums in self._moments.items():
                moments.setdefault(policy, {}).setdefault(str(day), {})[version] = list(sums.numbers)
            found["moments"] = moments
        return found

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go on from what :meth:`to_json` gave; days of another length are not days of this one, nor are other conditions.

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
        told = content.get("conditions")
        if told is None:
            return
        kept = Conditions(tuple(map(int, told["columns"])), told["over"])
        moments: dict[tuple[str, int, str], RunningSums] = {}
        for policy, days in content["moments"].items():
            for day, part in days.items():
                for name, numbers in part.items():
                    sums_from(numbers, 1 + kept.width)  # to see that they are as many
                    sums = moments[str(policy), int(day), str(name)] = RunningSums(1 + kept.width)
                    sums.numbers = [float(number) for number in numbers]
        if kept == self.conditions:
            self._moments = moments
