"""From the lines of a decision log to the monitor's signals: decisions and rewards joined, episodes counted when mature.

::

    decision s1 ──▶ decision s1 ──▶ decision s1                   one episode: from a session's first decision to the reward
    reward          reward          reward, terminated            that ends it, or to a decision that starts a memory anew

A decision without a session is an episode of one step. A session that goes on beyond the horizon is counted a horizon at a
time, each stretch as an episode that was abandoned. An episode belongs to the version that began it, whoever takes it
over. Memory is bounded in episodes, in decisions whose reward is awaited, in versions, and in lines kept for drift.

Request ids may come from clients, and two may use the same: a decision is known by its policy, session and id, as in
:mod:`rlcourse.serving.decisions`.

Costs, violations and overrides are taken from the rewards that name them, see :mod:`rlcourse.serving.outcomes`.

The log's own times are the clock, so reading the same lines twice gives the same counts. After a restart the last stretch
of the log is read again in silence (:attr:`LogWatch.live` is false): ledgers and windows fill, counters stand still.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from rlcourse.monitoring.drift import CHECKS, DriftMonitor, DriftReport
from rlcourse.monitoring.exporter import Exporter
from rlcourse.monitoring.streams import EpisodeRecord
from rlcourse.release.conditions import Conditions
from rlcourse.serving import wire
from rlcourse.serving.drifting import DriftWindows
from rlcourse.serving.following import Line
from rlcourse.serving.outcomes import counters, whole
from rlcourse.serving.returns import DailyReturns
from rlcourse.serving.rows import renamed, rows_of
from rlcourse.serving.tracking import Awaited, Running, VersionWatch, WatchConfig


class LogWatch:
    """Feed it lines and the time; it writes signals.

    Args:
        exporter: is told.
        config: what counts.
        policy: only decisions of this name; ``None`` for all.
        drift: what mature episodes are compared with.
        baselines: what the safe baseline of a policy costs, in euros an hour; of the others no return on investment is shown.
    """

    def __init__(
        self,
        exporter: Exporter,
        config: WatchConfig,
        *,
        policy: str | None = None,
        drift: DriftMonitor | None = None,
        baselines: Mapping[str, float] | None = None,
    ) -> None:
        self.config, self.policy = config, policy
        self.live = True
        """Whether counters count; see the module."""
        self.unmatched = 0
        """Rewards of decisions that had expired, were rewarded before, or are not in the log; and those that name no session,
        of an id that several sessions or policies have."""
        self.returns = DailyReturns(day_s=config.day_s, versions=config.max_versions, conditions=config.context)
        self._exporter, self._drift, self._baselines = exporter, drift, dict(baselines or {})
        self._context = config.context
        self._versions: OrderedDict[tuple[str, str], VersionWatch] = OrderedDict()  # silent for longest first
        self._sessions: OrderedDict[tuple[str, str], tuple[VersionWatch, Running]] = OrderedDict()
        self._windows: dict[str, DriftWindows] = {}
        self._known: frozenset[str] = frozenset()
        self._kept = 0

    def take(self, line: Line, now_s: float) -> None:
        """One line of the log; ``now_s``: no line is from later than that, whatever its clock said."""
        if isinstance(line, wire.RewardLine):
            self._reward(line, min(line.time, now_s))
        elif self.policy is None or line.policy == self.policy:
            self._decision(line, min(line.time, now_s))

    def advance(self, now_s: float) -> None:
        """Time has passed: count what is mature, give up what has expired."""
        for (policy, version), seen in list(self._versions.items()):
            who = {"policy": policy, "version": version}
            seen.pending.expire(now_s)
            seen.keep_in_step()
            self._count("rl_rewards_expired_total", seen.pending.expired - seen.told_expired, **who)
            seen.told_expired = seen.pending.expired
            self._count_mature(policy, version, seen, now_s)

    def show(self) -> None:
        """Set the gauges; before somebody looks is soon enough."""
        for (policy, version), seen in self._versions.items():
            self._gauges(policy, version, seen)

    def open_episodes(self) -> list[str]:
        """Names of the sessions' episodes that are not counted. Where the first lines of a session are not read again, a
        restart could not know where they began.
        """
        return [name for seen in self._versions.values() for name in seen.running if not name.startswith("\n")]

    def replaying(self, episodes: Iterable[str]) -> None:
        """From now on lines come that were counted before; ``episodes``: what :meth:`open_episodes` said last."""
        self.live, self._known = False, frozenset(episodes)

    def replayed(self) -> None:
        """From now on lines count."""
        for seen in self._versions.values():
            for name, one in seen.running.items():
                if not name.startswith("\n") and name not in self._known:
                    # It began earlier than could be seen now, and was counted; the session's next decision begins another.
                    one.skipped = one.ended = True
        self.live, self._known = True, frozenset()

    @property
    def crowded_out(self) -> int:
        """Episodes that were counted before their time for want of room."""
        return sum(seen.ledger.crowded_out for seen in self._versions.values())

    def summary(self) -> list[dict[str, object]]:
        """For each version, what this process has read of it."""
        return [
            {
                "policy": policy,
                "version": version,
                "decisions": seen.decisions,
                "rewards": seen.rewards,
                "rewards_pending": len(seen.pending),
                "episodes_unfinished": seen.ledger.unfinished,
                "fallbacks": dict(seen.fallbacks),
            }
            for (policy, version), seen in self._versions.items()
        ]

    def _decision(self, line: wire.DecisionLine, now_s: float) -> None:
        seen = self._version(line.policy, line.version)
        for row, one in enumerate(rows_of(line, observations=self._drift is not None or self._context is not None)):
            key = f"{line.session or ''}\n{line.request_id}\n{row}"
            running = self._episode(seen, key, one, now_s)
            if self._context is not None and key not in seen.awaited:  # not one that asked twice under one id
                running.meet(_conditions(one, self._context), self._context)
            seen.wait(key, now_s, Awaited(running, one.action))
            seen.decisions += self.live
            self._keep(running, one)
            if one.fallback is not None and self.live:
                reason = str(one.fallback)
                seen.fallbacks[reason] = seen.fallbacks.get(reason, 0) + 1
            if isinstance(one.action, int):
                self._count("rl_actions_total", 1, policy=line.policy, version=line.version, action=str(one.action))
                # The mean of -ln p over drawn actions is the entropy, whatever the other probabilities were.
                p = one.propensity
                if one.fallback is None and (line.greedy or one.explored is not None):
                    seen.stream.decision(explored=bool(one.explored))
                if not line.greedy and one.fallback is None and isinstance(p, float | int) and 0.0 < p <= 1.0:
                    seen.surprise.push(-math.log(p))

    def _episode(self, seen: VersionWatch, key: str, line: wire.DecisionLine, now_s: float) -> Running:
        """The episode that a decision belongs to; begun if there is none."""
        again = seen.awaited.get(key)
        if again is not None:  # a client that asked twice under one id
            return again.running
        name, place = key, (line.policy, line.session or "")
        owner, running = self._sessions.get(place, (None, None)) if line.session is not None else (None, None)
        if owner is not None and running is not None:
            anew = name in self._known
            # By the line's own time: how often somebody looks must not decide where an episode begins.
            young = running.name in owner.running and now_s < running.began_s + self.config.horizon_s
            if young and not (running.ended or line.started or anew):
                return running
            running.skipped |= anew and running.name not in self._known
        if name in seen.running:
            return seen.running[name]
        if len(seen.running) >= 2 * self.config.max_episodes:  # or the ledger would lose some that are to be counted
            self._count_mature(line.policy, line.version, seen, now_s)
        begun = seen.running[name] = Running(name, now_s, lines=None if self._drift is None else [])
        seen.ledger.begin(name, now_s)
        if line.session is not None:
            self._sessions[place] = (seen, begun)
            self._sessions.move_to_end(place)
            if len(self._sessions) > self.config.max_episodes:
                self._sessions.popitem(last=False)
        return begun

    def _keep(self, running: Running, line: Line) -> None:
        if running.lines is None:
            return
        running.lines.append(line)
        self._kept += 1
        if self._kept > self.config.max_lines:
            runs = (one for seen in self._versions.values() for one in seen.running.values())
            self._let_go(next(one for one in runs if one.lines))

    def _let_go(self, running: Running) -> None:
        self._kept -= len(running.lines or ())
        running.lines = None

    def _reward(self, line: wire.RewardLine, now_s: float) -> None:
        asked = f"{line.request_id}\n{line.row}"
        place = self._rewarded(asked, line.session, now_s)
        if place is None:
            self.unmatched += self.live
            return
        (policy, version), session = place
        seen = self._versions[policy, version]
        found, delay_s = seen.rewarded(f"{session}\n{asked}", now_s)
        self._observe("rl_reward_delay_seconds", max(0.0, delay_s), policy=policy, version=version)
        seen.rewards += self.live
        for name, amount, label in counters(found.action, line):
            self._count(name, amount, policy=policy, version=version, **label)
        self._spend(seen, found.running, line, now_s)
        self._credit(self._owner(found.running, seen), found.running, line, now_s)
        # Rows were told apart when they were kept.
        self._keep(found.running, renamed(line, asked))

    def _rewarded(self, asked: str, session: str | None, now_s: float) -> tuple[tuple[str, str], str] | None:
        """Who decided, and in which session; ``None`` if nobody did, or if it could be any of several.

        Args:
            asked: request id and row.
            session: that the reward names. It is then of that session, or of a decision that had none: that another one
                still awaits a reward says nothing.
            now_s: the line's own time, as with episodes.
        """
        found = []
        for who, seen in reversed(self._versions.items()):
            seen.pending.expire(now_s)
            seen.keep_in_step()
            found += [(who, one) for one in seen.sessions.get(asked, ())]
        if session is not None:
            found = [one for one in found if one[1] == session] or [one for one in found if not one[1]]
        # Of two versions of one policy, in one session, the last one asked answered the client.
        return found[0] if len({(policy, one) for (policy, _), one in found}) == 1 else None

    def _spend(self, decider: VersionWatch, running: Running, line: wire.RewardLine, now_s: float) -> None:
        """Money and safety; they are the decider's, whoever began the episode."""
        euros, times = whole(line.cost), whole(line.violations)
        hours = None if self.config.step_s is None else self.config.step_s / 3600.0
        decider.stream.step(euros=euros, hours=hours, violated=None if times is None else times > 0.0)
        if euros is not None and hours is not None and now_s <= running.began_s + self.config.horizon_s:
            running.euros += euros
            running.hours += hours

    def _credit(self, owner: VersionWatch, running: Running, line: wire.RewardLine, now_s: float) -> None:
        running.total += line.reward
        bandit, goal = running.name.startswith("\n"), self.config.success_return
        owner.ledger.reward(
            running.name,
            now_s,
            line.reward,
            terminated=line.terminated or (bandit and not line.truncated),
            truncated=line.truncated,
            succeeded=goal is not None and running.total >= goal,
        )
        running.ended |= line.terminated or line.truncated or bandit

    def _owner(self, running: Running, seen: VersionWatch) -> VersionWatch:
        """Whose ledger an episode is in: not the decider's, if the session has changed its version in between."""
        if running.name in seen.running:
            return seen
        return next((one for one in self._versions.values() if running.name in one.running), seen)

    def _count_mature(self, policy: str, version: str, seen: VersionWatch, now_s: float) -> None:
        for record in seen.ledger.matured(now_s):
            running = seen.running.pop(record.name)
            lines = running.lines
            self._let_go(running)
            if not running.skipped:
                if self.live:
                    self.returns.add(policy, version, now_s, record.total, running.conditions)
                self._compare(policy, seen, running)
                self._mature(policy, version, seen, record, lines)

    def _compare(self, policy: str, seen: VersionWatch, running: Running) -> None:
        """What the baseline would have cost in the same hours."""
        rate = self._baselines.get(policy)
        if rate is not None and running.hours > 0.0:
            seen.stream.compared(running.euros, rate * running.hours)

    def _mature(
        self, policy: str, version: str, seen: VersionWatch, record: EpisodeRecord, lines: list[Line] | None
    ) -> None:
        who = {"policy": policy, "version": version}
        seen.stream.episode(record)
        self._observe("rl_episode_return", record.total, **who)
        self._observe("rl_episode_steps", float(record.steps), **who)
        self._count("rl_episodes_total", 1, end=record.end, **who)
        if self.config.success_return is not None:
            self._count("rl_episodes_succeeded_total", int(record.succeeded), **who)
        if self._drift is None:
            return
        if policy not in self._windows and len(self._windows) >= self.config.max_versions:
            self._windows.pop(next(iter(self._windows)))
        window = self._windows.setdefault(policy, DriftWindows(self._drift))
        if window.take(lines, record) and self.live:
            self._report(policy, window.look())

    def _report(self, policy: str, report: DriftReport | None) -> None:
        if report is not None:
            self._exporter.drift(policy, report)
            return
        for check in CHECKS:
            self._exporter.count("rl_drift_failures_total", policy=policy, check=check)

    def _gauges(self, policy: str, version: str, seen: VersionWatch) -> None:
        found = seen.stream.gauges()
        if self.config.success_return is None:
            found = {name: value for name, value in found.items() if not name.startswith("rl_success")}
        found["rl_rewards_pending"] = float(len(seen.pending))
        found["rl_episodes_unfinished"] = float(seen.ledger.unfinished)
        if len(seen.surprise):
            found["rl_policy_entropy_nats"] = seen.surprise.mean()
        self._exporter.gauges(policy, version, found)

    def _version(self, policy: str, version: str) -> VersionWatch:
        key = (policy, version)
        seen = self._versions.get(key)
        if seen is None:
            if len(self._versions) >= self.config.max_versions:
                (gone_policy, gone_version), gone = self._versions.popitem(last=False)
                for running in gone.running.values():
                    self._let_go(running)
                gone.running.clear()
                self._exporter.forget(gone_policy, gone_version)
            seen = self._versions[key] = VersionWatch(self.config)
        self._versions.move_to_end(key)
        return seen

    def _count(self, name: str, amount: float, /, **labels: str) -> None:
        # An amount of 0 shows the series, and a series that begins at 0 loses nothing to rate().
        if self.live:
            self._exporter.count(name, amount, **labels)

    def _observe(self, name: str, value: float, /, **labels: str) -> None:
        if self.live:
            self._exporter.observe(name, value, **labels)


def _conditions(line: wire.DecisionLine, context: Conditions) -> list[float] | None:
    values, many = wire.read_observations(bytes(line.observation))
    return None if many else context.of(values)  # type: ignore[arg-type]  # a row of a batch is one observation
