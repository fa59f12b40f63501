"""The returns of both arms from the monitor that follows the decision log (``rlcourse monitor follow``).

::

    decision log ─▶ monitor ─▶ sums by day and version ─┬─▶ before a release: what is usual, and what conditions explain of it
                                                        └─▶ during it: adjusted returns of both arms, for the gate
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rlcourse.errors import ConfigError, DatasetInvalidError, ServerError
from rlcourse.release.adjusting import Variates, fit, judged
from rlcourse.release.conditions import Conditions, Moments, sums_from
from rlcourse.release.gates import LiveReturns
from rlcourse.release.matching import Array, Tally, Variation


class Counted(NamedTuple):
    """What a monitor knows of some versions of a policy; axes ``(D, V)``."""

    until_s: float
    """Everything up to then has been counted."""
    day_s: float
    days: Array
    """``(D,)`` numbers of the days, counted from the epoch."""
    tally: Tally
    conditions: Conditions | None
    moments: Moments | None
    """Of the episodes whose conditions are known."""

    def on(self, chosen: npt.NDArray[Any]) -> Counted:
        """Some of the days, by their places or by what holds of them."""
        some = None if self.moments is None else Moments(*(part[chosen] for part in self.moments))
        tally = Tally(*(part[chosen] for part in self.tally))
        return self._replace(days=self.days[chosen], tally=tally, moments=some)


def ask(url: str, policy: str, versions: Sequence[str], *, timeout_s: float = 5.0) -> Counted:
    """What the monitor says.

    Raises:
        ServerError: it does not answer, or says something else.
    """
    where = f"{url.rstrip('/')}/returns"
    # Without the proxies of the environment: the monitor is on this machine or close to it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(where, timeout=timeout_s) as response:
            return _counted(json.load(response), policy, versions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise ServerError(
            f"GET {where}: {type(error).__name__}, {error}.", mend="See whether rlcourse monitor follow runs there."
        ) from error


def _counted(content: Mapping[str, Any], policy: str, versions: Sequence[str]) -> Counted:
    by_day = {int(day): part for day, part in content["policies"].get(policy, {}).items()}
    sums = [[[float(one) for one in part.get(arm, (0, 0, 0))] for arm in versions] for part in by_day.values()]
    array = np.array(sums, np.float64).reshape(-1, len(versions), 3)
    told = content.get("conditions")
    conditions = None if told is None else Conditions(tuple(map(int, told["columns"])), told["over"])
    moments = None
    if conditions is not None:
        kept = {int(day): part for day, part in content["moments"].get(policy, {}).items()}
        moments = _moments([kept.get(day, {}) for day in by_day], versions, 1 + conditions.width)
    return Counted(
        float(content["counted_until_s"]),
        float(content["day_s"]),
        np.array(list(by_day), np.float64),
        Tally(array[..., 0], array[..., 1], array[..., 2]),
        conditions,
        moments,
    )


def _moments(days: Sequence[Mapping[str, Any]], versions: Sequence[str], size: int) -> Moments:
    shape = (len(days), len(versions))
    found = Moments(np.zeros(shape), np.zeros((*shape, size)), np.zeros((*shape, size, size)))
    for place, part in enumerate(days):
        for arm, version in enumerate(versions):
            if version in part:
                found.episodes[place, arm], found.first[place, arm], found.second[place, arm] = sums_from(
                    part[version], size
                )
    return found


def usual_returns(url: str, policy: str, incumbent: str, now_s: float, *, timeout_s: float = 5.0) -> Variates:
    """What the incumbent usually earned until yesterday, how much that varied, and what the conditions explain of it.

    The day that is not over is left out: it will be a day of the release, and coefficients that were fitted to it would not
    be independent of what is then compared. So is a day on which the conditions of more than one episode in twenty are not
    known, as all those before ``monitor follow`` was given its ``--conditions``: who is missing is not left to chance.

    Args:
        url: of the monitor, as ``http://127.0.0.1:9108``.
        policy: name of the policy.
        incumbent: its version.
        now_s: seconds since the epoch.
        timeout_s: for the answer.

    Raises:
        ServerError: the monitor does not answer.
        DatasetInvalidError: it has not seen enough yet, or its returns never vary.
    """
    found = ask(url, policy, [incumbent], timeout_s=timeout_s)
    found = found.on(found.days < now_s // found.day_s)
    n = found.tally.episodes[:, 0]
    if found.moments is None:
        return fit(n, found.tally.total, found.tally.squares[..., None], None)
    known = found.moments.episodes[:, 0]
    some, kept = n > 0.0, (n > 0.0) & (known >= 0.95 * n)
    try:
        n, first, second = (part[kept, 0] for part in found.moments)
        return fit(n, first, second, found.conditions)
    except DatasetInvalidError as error:
        if kept.sum() == some.sum():
            raise
        raise DatasetInvalidError(
            f"The conditions of 95 % of a day's episodes of {incumbent} are known on {kept.sum()} of {some.sum()} days "
            f"({known[kept].sum():.0f} episodes), and these are not enough. {error.problem}",
            mend="Wait until the monitor has kept them for some days, or see which readings are missing.",
        ) from error


class MonitorReturns:
    """Asks for the sums by day, and gives them the form in which the gate compares days.

    Args:
        url: of the monitor, as ``http://127.0.0.1:9108``.
        policy: name of the policy.
        incumbent: its version.
        candidate: its version.
        promised: how much returns vary by the plan of the release.
        variates: fitted when the release began; ``None`` takes returns as they were earned.
        stale_after_s: sums that are older are not known: the monitor stands still.
        timeout_s: for the answer.
    """

    def __init__(
        self,
        url: str,
        policy: str,
        incumbent: str,
        candidate: str,
        *,
        promised: Variation,
        variates: Variates | None = None,
        stale_after_s: float = 900.0,
        timeout_s: float = 5.0,
    ) -> None:
        self.url, self.policy, self.arms = url, policy, (incumbent, candidate)
        self.promised, self.variates = promised, variates
        self.stale_after_s, self.timeout_s = stale_after_s, timeout_s

    def __call__(self, since_s: float, now_s: float) -> LiveReturns | None:
        """Episodes counted on the day of ``since_s`` or later; ``None`` if the monitor does not say, or said it long ago."""
        try:
            found = ask(self.url, self.policy, self.arms, timeout_s=self.timeout_s)
        except ServerError:  # whatever it says, it is no knowledge of returns
            return None
        if now_s - found.until_s > self.stale_after_s:
            return None
        found = found.on(found.days >= since_s // found.day_s)
        return judged(found.tally, found.moments, found.conditions, variates=self.variates, promised=self.promised)
