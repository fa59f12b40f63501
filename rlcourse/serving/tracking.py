"""What is kept of each version while its log is followed, and the bounds of it."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlcourse.errors import ConfigError
from rlcourse.monitoring.streams import EpisodeLedger, PendingRewards, PolicyStream, Window
from rlcourse.release.conditions import Conditions, Over
from rlcourse.serving.following import Line


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What counts, and for how long things are kept."""

    horizon_s: float = 3600.0
    """Age at which an episode is counted, ended or not. Choose it so that nearly all have ended by then; signals are as old."""
    reward_deadline_s: float = 3600.0
    """A decision without a reward for so long has expired."""
    success_return: float | None = None
    """An episode that ends with this return or more has succeeded; without it nothing is said about success."""
    window_episodes: int = 200
    """So many of the last episodes make the mean return and the success rate."""
    window_decisions: int = 10_000
    """So many of the last decisions make entropy, exploration, violations and the cost of an hour."""
    step_s: float | None = None
    """For how long the plant follows one decision, in its own time. Without it nothing is said of the cost of an hour."""
    max_episodes: int = 10_000
    """Of one version, kept at once; beyond, the oldest is counted before its time."""
    max_decisions: int = 100_000
    """Of one version, whose reward is awaited; beyond, the oldest expires before its time."""
    max_versions: int = 16
    """Watched at once; beyond, the one that has been silent for longest is forgotten."""
    day_s: float = 86_400.0
    """Episodes of one day are compared with each other; what makes a day good for both versions then cancels."""
    max_lines: int = 200_000
    """Kept for drift; beyond, the oldest episode is left out of it."""
    conditions: tuple[int, ...] = ()
    """Columns of the observation that no policy can change: weather, load, price, hour. What they explain is taken out of the
    returns at a release, which then takes fewer days. Never a column that an action moves."""
    conditions_over: Over = "episode"
    """The mean over an episode, or its first decision alone: for tasks in which a policy can end an episode early."""

    def __post_init__(self) -> None:
        counts = (self.window_episodes, self.window_decisions, self.max_episodes, self.max_decisions)
        if (
            min(*counts, self.max_versions, self.max_lines) < 1
            or not min(self.horizon_s, self.reward_deadline_s, self.day_s) > 0.0
        ):
            raise ConfigError("A bound of what is watched is 0 or less.", mend="Use numbers above 0.")
        if self.step_s is not None and not 0.0 < self.step_s < math.inf:
            raise ConfigError(f"A decision lasts {self.step_s} s.", mend="Use a number above 0, or leave it out.")
        if self.success_return is not None and not math.isfinite(self.success_return):
            raise ConfigError(f"Success at {self.success_return}.", mend="Use a number, or leave it out.")
        _ = self.context  # checks it

    @property
    def context(self) -> Conditions | None:
        """The conditions that are kept; ``None`` without any.

        Raises:
            ConfigError: columns that are none.
        """
        return Conditions(self.conditions, self.conditions_over) if self.conditions else None

    @property
    def memory_s(self) -> float:
        """How far back lines are read again after a restart: all that is unfinished, and one horizon of windows."""
        return self.horizon_s + max(self.horizon_s, self.reward_deadline_s)


@dataclass(slots=True)
class Running:
    """An episode that has begun and is not counted."""

    name: str
    began_s: float
    total: float = 0.0
    euros: float = 0.0  # of the decisions whose cost is known ...
    hours: float = 0.0  # ... and how long they lasted
    ended: bool = False
    skipped: bool = False  # counted before the restart
    lines: list[Line] | None = None
    met: list[float] | None = None  # sums of its conditions, over so many decisions
    meetings: int = 0

    def meet(self, found: list[float] | None, conditions: Conditions) -> None:
        """The conditions of one more decision; where the first decision's are missing, ``first`` has none."""
        if conditions.over == "first" and self.meetings:
            return
        self.meetings += found is not None or conditions.over == "first"
        if found is not None:
            self.met = found if self.met is None else [a + b for a, b in zip(self.met, found, strict=True)]

    @property
    def conditions(self) -> list[float] | None:
        """Their mean; ``None`` if none are known."""
        return None if self.met is None else [one / self.meetings for one in self.met]


class Awaited(NamedTuple):
    """A decision whose reward has not come."""

    running: Running
    action: Any  # as answered


class VersionWatch:
    """What is known of one version of a policy."""

    def __init__(self, config: WatchConfig) -> None:
        self.ledger = EpisodeLedger(config.horizon_s, capacity=config.max_episodes)
        self.pending = PendingRewards(config.reward_deadline_s, capacity=config.max_decisions)
        self.stream = PolicyStream(episodes=config.window_episodes, steps=config.window_decisions)
        self.surprise = Window(config.window_decisions)  # -ln of the propensities of drawn actions
        # In step with ``pending``, which knows since when and not of what.
        self.awaited: OrderedDict[str, Awaited] = OrderedDict()
        self.sessions: dict[str, set[str]] = {}  # of what is awaited, by request id and row
        self.running: dict[str, Running] = {}  # by the ledger's name
        self.decisions = self.rewards = self.told_expired = 0
        self.fallbacks: dict[str, int] = {}

    def wait(self, key: str, now_s: float, decision: Awaited) -> None:
        """For the reward of a decision; ``key``: its session, id and row, each on a line."""
        session, _, asked = key.partition("\n")
        self.pending.decided(key, now_s)
        self.awaited[key] = decision
        self.sessions.setdefault(asked, set()).add(session)
        self.keep_in_step()

    def rewarded(self, key: str, now_s: float) -> tuple[Awaited, float]:
        """A decision that is awaited, and how long its reward took."""
        found = self.awaited.pop(key)
        self._forget(key)
        return found, self.pending.rewarded(key, now_s) or 0.0

    def keep_in_step(self) -> None:
        """Forget what ``pending`` has given up."""
        while len(self.awaited) > len(self.pending):
            self._forget(self.awaited.popitem(last=False)[0])

    def _forget(self, key: str) -> None:
        session, _, asked = key.partition("\n")
        self.sessions[asked].discard(session)
        if not self.sessions[asked]:
            del self.sessions[asked]
