"""Signals of a stream that never ends, in memory that does not grow.

An episode is counted when it is *mature*: ``horizon_s`` after it began, with the rewards that came until then, whether it
has ended or not::

    began ├────────── horizon ──────────┤ counted
    a     ├───x ended early, waits ─────┤ terminated
    b     ├─────────────────────────────┤──── still running: abandoned, with its return so far

So at any moment exactly the episodes that began before ``now - horizon_s`` have been counted, the good and the bad: there
is nothing left for survivorship to choose from. The price is that a signal is as old as the horizon.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.evaluation.statistics import Interval, wilson_interval
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.signals import Array, cost_per_hour, mean_interval, return_on_investment

End = Literal["terminated", "truncated", "abandoned"]


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """What is kept of an episode once it is counted."""

    total: float  # undiscounted return within the horizon
    steps: int  # rewards within the horizon
    end: End
    succeeded: bool  # never true of an abandoned one
    name: str = ""  # by which its log can be found
    mature_s: float | None = field(default=None, compare=False)  # when it was to be counted, by the ledger's clock


class Window:
    """The last ``capacity`` rows of ``width`` numbers."""

    def __init__(self, capacity: int, width: int = 1) -> None:
        if capacity < 1 or width < 1:
            raise ConfigError(f"A window of {capacity} rows of {width}.", mend="Use 1 or more of both.")
        self._width = width
        self._rows: deque[tuple[float, ...]] = deque(maxlen=capacity)
        self.seen = 0
        self._mean = 0, math.nan  # as it was when so many had come

    def __len__(self) -> int:
        return len(self._rows)

    def push(self, *row: float) -> None:
        """Take one row; the oldest goes if there is no room.

        Raises:
            ShapeError: a row of another width.
            DatasetInvalidError: a number that is none. It is not taken.
        """
        if len(row) != self._width:
            raise ShapeError(f"{len(row)} numbers for a window of {self._width}.", mend="Give a whole row.")
        if not all(map(math.isfinite, row)):
            raise DatasetInvalidError(f"{row} came into a window.", mend="Count it as missing where it is read.")
        self._rows.append(row)
        self.seen += 1

    @property
    def rows(self) -> Array:
        """``(len, width)``, the oldest first.

        Raises:
            DatasetInvalidError: nothing has come yet.
        """
        if not self._rows:
            raise DatasetInvalidError("The window is empty.", mend="Wait until something has come into it.")
        return np.array(self._rows, np.float64)

    def mean(self) -> float:
        """Of the first column; looked at again and again, it is computed once for each change.

        Raises:
            DatasetInvalidError: nothing has come yet.
        """
        if self._mean[0] != self.seen or not self._rows:
            self._mean = self.seen, float(self.rows[:, 0].mean())
        return self._mean[1]


@dataclass(slots=True)
class _Open:
    began_s: float
    total: float = 0.0
    steps: int = 0
    end: End | None = None
    succeeded: bool = False


class EpisodeLedger:
    """Running episodes by name, each counted once it is mature.

    Args:
        horizon_s: age at which an episode is counted. Choose it so that nearly all have ended by then.
        capacity: episodes kept at once. Beyond, the oldest is counted before its time, as abandoned unless it has ended,
            and :attr:`crowded_out` grows: a figure above 0 says that the returns are cut short.

    Times are seconds of any clock that does not go back.
    """

    def __init__(self, horizon_s: float, *, capacity: int = 10_000) -> None:
        if not horizon_s > 0.0 or capacity < 1:
            raise ConfigError(f"A horizon of {horizon_s} s for {capacity} episodes.", mend="Use numbers above 0.")
        self.horizon_s, self.capacity = horizon_s, capacity
        self._open: OrderedDict[str, _Open] = OrderedDict()  # in the order in which they began
        self._ready: deque[EpisodeRecord] = deque(maxlen=capacity)
        self.crowded_out = 0
        self.late = 0  # rewards of episodes that had been counted, or were never begun

    @property
    def unfinished(self) -> int:
        """Episodes that have begun, are not counted, and have not ended."""
        return sum(episode.end is None for episode in self._open.values())

    def begin(self, name: str, now_s: float) -> None:
        """An episode's first decision.

        Raises:
            ConfigError: one of that name is running.
        """
        if name in self._open:
            raise ConfigError(f"Episode {name!r} began twice.", mend="Give every episode a name of its own.")
        if len(self._open) >= self.capacity:
            self.crowded_out += 1
            self._count(*self._open.popitem(last=False))
        self._open[name] = _Open(now_s)

    def reward(
        self,
        name: str,
        now_s: float,
        reward: float,
        *,
        terminated: bool = False,
        truncated: bool = False,
        succeeded: bool = False,
    ) -> None:
        """What a decision led to, whenever it is learned. Later than the horizon it is counted as late, and not added.

        Raises:
            DatasetInvalidError: no number.
        """
        if not math.isfinite(reward):
            raise DatasetInvalidError(f"Episode {name!r} got the reward {reward}.", mend="Mend the join it comes from.")
        episode = self._open.get(name)
        if episode is None or episode.end is not None or now_s > episode.began_s + self.horizon_s:
            self.late += 1
            return
        episode.total += reward
        episode.steps += 1
        if terminated or truncated:
            episode.end, episode.succeeded = "terminated" if terminated else "truncated", succeeded

    def matured(self, now_s: float) -> list[EpisodeRecord]:
        """The episodes that have become mature since the last call; they are forgotten here."""
        while self._open:
            if now_s < next(iter(self._open.values())).began_s + self.horizon_s:
                break
            self._count(*self._open.popitem(last=False))
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def _count(self, name: str, episode: _Open) -> None:
        end = episode.end or "abandoned"
        mature_s = episode.began_s + self.horizon_s
        self._ready.append(EpisodeRecord(episode.total, episode.steps, end, episode.succeeded, name, mature_s))


class PendingRewards:
    """Decisions whose reward is still to come, and how long the others took.

    Args:
        deadline_s: a decision without a reward for so long has expired: counted, never dropped in silence.
        capacity: decisions kept at once; beyond, the oldest expires before its time.
    """

    def __init__(self, deadline_s: float, *, capacity: int = 100_000) -> None:
        if not deadline_s > 0.0 or capacity < 1:
            raise ConfigError(f"A deadline of {deadline_s} s for {capacity} decisions.", mend="Use numbers above 0.")
        self.deadline_s, self.capacity = deadline_s, capacity
        self._since: OrderedDict[str, float] = OrderedDict()
        self.expired = 0
        self.unknown = 0  # rewards of decisions that had expired, were rewarded before, or were never made

    def __len__(self) -> int:
        return len(self._since)

    def decided(self, request_id: str, now_s: float) -> None:
        """A decision that will be rewarded."""
        if len(self._since) >= self.capacity and request_id not in self._since:
            self._since.popitem(last=False)
            self.expired += 1
        self._since[request_id] = now_s

    def rewarded(self, request_id: str, now_s: float) -> float | None:
        """The delay in seconds; ``None`` for a decision that is not awaited, which is counted in :attr:`unknown`."""
        since = self._since.pop(request_id, None)
        if since is None:
            self.unknown += 1
            return None
        return now_s - since

    def expire(self, now_s: float) -> int:
        """Give up on those past the deadline; returns how many."""
        before = self.expired
        while self._since and now_s - next(iter(self._since.values())) > self.deadline_s:
            self._since.popitem(last=False)
            self.expired += 1
        return self.expired - before


class PolicyStream:
    """The windowed signals of one version of a policy: feed it, and read :meth:`gauges`.

    Args:
        episodes: how many of the last episodes count.
        steps: how many of the last steps count, for what is known at every step.
        confidence: of the intervals.
    """

    def __init__(self, *, episodes: int = 200, steps: int = 10_000, confidence: float = 0.95) -> None:
        self.confidence = confidence
        self._episodes = Window(episodes, 2)  # return, succeeded
        self._costs = Window(episodes, 2)  # ours, baseline's
        self._violations, self._money = Window(steps), Window(steps, 2)  # euros, hours
        self._entropies, self._explored = Window(steps), Window(steps)

    def episode(self, record: EpisodeRecord) -> None:
        """An episode was counted."""
        self._episodes.push(record.total, float(record.succeeded and record.end != "abandoned"))

    def step(self, *, euros: float | None = None, hours: float | None = None, violated: bool | None = None) -> None:
        """A step of the plant. What is not known is left out; money counts where the time is known, too."""
        if euros is not None and hours is not None:
            self._money.push(euros, hours)
        if violated is not None:
            self._violations.push(float(violated))

    def decision(self, entropy_nats: float | None = None, *, explored: bool) -> None:
        """A decision; ``explored``: its action was not the policy's likeliest."""
        if entropy_nats is not None:
            self._entropies.push(entropy_nats)
        self._explored.push(float(explored))

    def compared(self, euros: float, baseline_euros: float) -> None:
        """What the same day cost under the policy and would have cost under the safe baseline."""
        self._costs.push(euros, baseline_euros)

    def mean_return(self) -> Interval:
        """Over the window. Raises DatasetInvalidError: it is empty."""
        return mean_interval(self._episodes.rows[:, 0], confidence=self.confidence)

    def success_rate(self) -> Interval:
        """Over the window, an abandoned episode counting as no success. Raises DatasetInvalidError: it is empty."""
        won = self._episodes.rows[:, 1]
        return wilson_interval(int(won.sum()), won.size, confidence=self.confidence)

    def roi(self) -> Interval:
        """Raises DatasetInvalidError: fewer than two days, or a baseline that costs nothing."""
        ours, theirs = self._costs.rows.T
        return return_on_investment(ours, theirs, paired=True, confidence=self.confidence)

    def gauges(self) -> dict[str, float]:
        """Values by their names in the catalogue; what is not known yet is absent, not 0."""
        found: dict[str, float] = {}
        if len(self._episodes):
            success = self.success_rate()
            found["rl_episode_return_mean"] = self.mean_return().estimate
            found["rl_success_ratio"] = success.estimate
            found["rl_success_ratio_low"], found["rl_success_ratio_high"] = success.low, success.high
        if len(self._violations):
            found["rl_safety_violation_ratio"] = self._violations.mean()
            found["rl_safety_violating_steps"] = round(self._violations.mean() * len(self._violations))
        if len(self._money) and self._money.rows[:, 1].sum() > 0.0:
            found["rl_cost_euros_per_hour"] = cost_per_hour(*self._money.rows.T)
        if len(self._entropies):
            found["rl_policy_entropy_nats"] = self._entropies.mean()
        if len(self._explored):
            found["rl_exploration_ratio"] = self._explored.mean()
        if len(self._costs) > 1:
            try:
                roi = self.roi()
            except DatasetInvalidError:
                # A baseline that cannot be told from 0 leaves the ratio unknown, as one day does.
                return found
            found["rl_roi_ratio"], found["rl_roi_ratio_low"], found["rl_roi_ratio_high"] = (
                roi.estimate,
                roi.low,
                roi.high,
            )
        return found


def records(episodes: Episodes, success_return: float) -> Iterator[EpisodeRecord]:
    """Whole logged episodes as records; success is a return of ``success_return`` or more."""
    for total, steps, ended in zip(episodes.returns(), episodes.lengths, episodes.terminated, strict=True):
        yield EpisodeRecord(
            float(total), int(steps), "terminated" if ended else "truncated", bool(total >= success_return)
        )
