"""From a request to a decision, without a word about HTTP.

::

    request ─▶ prepare ─▶ run ─▶ finish ─▶ answer
               shapes     the     fallback where the policy has none;       └── copy ─▶ a shadow, later and apart
               checked    policy  counted; a line into the decision log                  (rlcourse.serving.shadows)

Whatever happens to the policy, the client gets an action: the fallback's, with the reason beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rlcourse.errors import ConfigError
from rlcourse.serving import wire
from rlcourse.serving.answers import sampled_rows, with_fallbacks, worded
from rlcourse.serving.continuous import Drawn
from rlcourse.serving.exploring import explored
from rlcourse.serving.fallbacks import Fallback
from rlcourse.serving.outcomes import possible
from rlcourse.serving.policies import Booleans, Floats, sound
from rlcourse.serving.prepared import Outcome, Prepared, out_of_range
from rlcourse.serving.refusals import Refused
from rlcourse.serving.shadows import Shadows
from rlcourse.serving.shelf import Loaded, Shelf


class Recorder(Protocol):
    """Where lines of the decision log go; :class:`~rlcourse.serving.decision_log.ListRecorder` is the fake."""

    def append(self, line: bytes) -> None:
        """Take one line without its line break. Must not wait for anything."""
        ...


class Watcher(Protocol):
    """Who counts; :class:`NullWatcher` is the fake."""

    def decided(self, loaded: Loaded, rows: int, seconds: float) -> None:
        """A request was answered with an action for each of ``rows`` observations."""
        ...

    def shadowed(self, loaded: Loaded, rows: int, seconds: float, *, failed: bool) -> None:
        """A shadow was asked about ``rows`` observations. Comes from a thread of its own."""
        ...

    def rewarded(self) -> None:
        """A reward came in."""
        ...


class NullWatcher:
    """Counts nothing."""

    def decided(self, loaded: Loaded, rows: int, seconds: float) -> None:
        """Do nothing."""

    def shadowed(self, loaded: Loaded, rows: int, seconds: float, *, failed: bool) -> None:
        """Do nothing."""

    def rewarded(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class ServiceConfig:
    """How requests are answered."""

    deadline_s: float = 0.05
    """A decision that takes longer is replaced by the fallback, unless the request names its own deadline."""
    fallback: str = "uniform"
    """What to do without the policy: uniform; the number of an action (where it is not allowed, the first that is); or, of
    policies over continuous actions, the numbers of one, separated by commas. Every policy loaded must know it."""
    max_rows: int = 4096
    """Observations in one request."""

    def __post_init__(self) -> None:
        Fallback(self.fallback)
        if not self.deadline_s > 0.0 or self.max_rows < 1:
            raise ConfigError("A deadline or a batch of nothing.", mend="Use numbers above 0.")


class PolicyService:
    """Answers requests with the policies on a shelf.

    Args:
        shelf: what can be asked.
        rng: where sampled actions come from.
        clock: seconds that only grow, for deadlines and latencies.
        wall: the time of day, for the log.
        prefix: begins every request id this process makes up; must differ from process to process.

    Raises:
        ConfigError: the fallback is no action of a policy on the shelf; so does whoever adds another one later.
    """

    def __init__(
        self,
        shelf: Shelf,
        config: ServiceConfig,
        *,
        rng: np.random.Generator,
        clock: Callable[[], float],
        wall: Callable[[], float],
        recorder: Recorder,
        watcher: Watcher,
        prefix: str,
    ) -> None:
        self.shelf, self.config, self.rng = shelf, config, rng
        self.clock, self.wall = clock, wall
        self.recorder, self.watcher = recorder, watcher
        self._ids = itertools.count()
        self._prefix = prefix
        self._fallback = Fallback(config.fallback)
        (apart,) = rng.spawn(1)  # or a shadow would change what is drawn for those who are answered
        self.shadows = Shadows(self.ask, apart, clock=clock, wall=wall, recorder=recorder, watcher=watcher)
        for entry in shelf.entries.values():
            for loaded in entry.versions.values():
                self.admit(loaded)
        shelf.admit = self.admit

    def admit(self, loaded: Loaded) -> None:
        """Whether the fallback is an action of this policy.

        Raises:
            ConfigError: it is not.
        """
        self._fallback.check(loaded.policy.num_actions, loaded.actions)

    def act(self, name: str, request: wire.ActionRequest, arrived: float | None = None) -> wire.ActionAnswer:
        """All three steps at once.

        Raises:
            Refused: 404 or 422.
        """
        prepared = self.prepare(name, request, self.clock() if arrived is None else arrived)
        return self.finish(prepared, self.run(prepared))

    def prepare(self, name: str, request: wire.ActionRequest, arrived: float) -> Prepared:
        """Find the version and check that the request fits it.

        Raises:
            Refused: 404 or 422.
        """
        loaded = self.shelf.find(name, request.version, request.session)
        policy = loaded.policy
        obs, many, unusable = wire.observation(bytes(request.observation), policy.obs_size)
        bad: list[Any] | None = ["non_finite" if wrong else None for wrong in unusable] if unusable else None
        if many:
            if len(obs) > self.config.max_rows:
                raise Refused(
                    422, f"There are {len(obs)} observations.", mend=f"Send at most {self.config.max_rows} at once."
                )
            if request.session is not None and policy.memory_size:
                raise Refused(
                    422, "A session lives through one observation at a time.", mend="Send them one after the other."
                )
        if loaded.low is not None or loaded.high is not None:
            bad = out_of_range(obs, loaded, bad)
        mask = None
        if request.mask is not wire.NULL and bytes(request.mask) != b"null":
            if loaded.actions is not None:
                raise Refused(422, "Continuous actions cannot be masked.", mend="Leave the mask out.")
            mask = wire.action_mask(bytes(request.mask), len(obs), policy.num_actions)
        allowed_s = self.config.deadline_s if request.deadline_ms is None else request.deadline_ms / 1000.0
        return Prepared(request, loaded, obs, many, mask, bad, arrived, allowed_s)

    def barred(self, prepared: Prepared) -> Outcome | None:
        """Why the policy need not be asked; ``None``: ask it."""
        bad = prepared.bad
        if bad is not None and None not in bad:
            return Outcome(None, None)
        if self.clock() - prepared.arrived > prepared.allowed_s:
            return Outcome(None, "timeout")
        if not prepared.loaded.breaker.closed and not prepared.loaded.breaker.allow():
            return Outcome(None, "breaker_open")
        return None

    def run(self, prepared: Prepared) -> Outcome:
        """Ask the policy, here and now."""
        barred = self.barred(prepared)
        if barred is not None:
            return barred
        memory = self.recall(prepared)
        outcome = self.ask(prepared.loaded, prepared.obs, prepared.request.deterministic, prepared.mask, memory)
        if self.clock() - prepared.arrived > prepared.allowed_s:
            return self.late(prepared)
        self.settle(prepared, outcome)
        return outcome

    def late(self, prepared: Prepared) -> Outcome:
        """The policy's answer did not come in time.

        It counts against the breaker, which is everybody's, where the service's own patience was at an end. A client that
        allowed less than that says nothing about the policy.
        """
        if prepared.allowed_s >= self.config.deadline_s:
            prepared.loaded.breaker.failed()
        return Outcome(None, "timeout")

    def ask(
        self,
        loaded: Loaded,
        obs: Floats,
        greedy: bool,
        mask: Booleans | None,
        memory: Floats | None,
        rng: np.random.Generator | None = None,
    ) -> Outcome:
        """One call of the policy; an exception or an answer that is no number counts against its breaker."""
        try:
            with np.errstate(all="ignore"):
                decided = loaded.policy.decide(obs, greedy=greedy, mask=mask, memory=memory, rng=rng or self.rng)
            # Somebody else's code: whatever it raises, the client is owed an action.
        except Exception:
            loaded.breaker.failed()
            return Outcome(None, "error")
        if not sound(decided, len(obs), loaded.actions):
            loaded.breaker.failed()
            return Outcome(None, "error")
        return Outcome(decided, None)

    def recall(self, prepared: Prepared) -> Floats | None:
        """The session's memory, or the first one."""
        sessions, request = prepared.loaded.sessions, prepared.request
        if sessions is None:
            return None
        memory = None if request.session is None or request.reset else sessions.get(request.session)
        if memory is None:
            prepared.started = True
            memory = prepared.loaded.policy.first_memory(len(prepared.obs))
        return memory

    def settle(self, prepared: Prepared, outcome: Outcome) -> None:
        """What came in time is good news for the breaker, and the session's next memory; after a failure the old one stays."""
        if outcome.decided is None:
            return
        session, sessions, breaker = prepared.request.session, prepared.loaded.sessions, prepared.loaded.breaker
        if not breaker.closed or breaker.in_a_row:
            breaker.succeeded()
        if session is not None and sessions is not None:
            assert outcome.decided.memory is not None
            sessions.put(session, outcome.decided.memory)

    def finish(self, prepared: Prepared, outcome: Outcome) -> wire.ActionAnswer:
        """Fill in fallbacks, count, log, and word the answer."""
        loaded, request, many = prepared.loaded, prepared.request, prepared.many
        greedy = request.deterministic
        fallback: Any = None
        sampled: Any = None
        action: Any
        probability: Any
        confidence: Any
        rows = 1
        if outcome.decided is not None and prepared.bad is None:
            decided = outcome.decided
            if isinstance(decided, Drawn):
                action, probability, sampled = worded(decided, many)
                confidence, rows = None, len(decided.actions)
            elif many:
                action = decided.actions.tolist()
                rows = len(action)
                confidence = decided.probabilities[np.arange(rows), decided.actions].tolist()
                probability = [1.0] * rows if greedy else confidence
            else:
                action = decided.actions.item(0)
                confidence = decided.probabilities.item(action)
                probability = 1.0 if greedy else confidence
            loaded.counts[""] = loaded.counts.get("", 0) + rows
        else:
            found = with_fallbacks(prepared, outcome, self._fallback, self.rng)
            action, probability, confidence, fallback = (list(column) for column in zip(*found, strict=True))
            rows = len(action)
            sampled = sampled_rows(outcome.decided, action, fallback)
            if not many:
                action, probability, confidence, fallback = found[0]
                sampled = sampled and sampled[0]
            elif any(one is None for one in confidence):
                confidence = None
        request_id = request.request_id or f"{self._prefix}{next(self._ids):x}"
        seconds = self.clock() - prepared.arrived
        self.recorder.append(
            wire.encode(
                wire.DecisionLine(
                    request_id,
                    self.wall(),
                    loaded.name,
                    loaded.version,
                    wire.one_line(request.observation),
                    action,
                    probability,
                    round(seconds * 1e3, 3),
                    greedy,
                    wire.NULL if prepared.mask is None else wire.one_line(request.mask),
                    fallback,
                    request.session,
                    prepared.started or request.reset,
                    sampled,
                    explored(outcome.decided, many=many, greedy=greedy),
                )
            )
        )
        self.watcher.decided(loaded, rows, seconds)
        if self.shelf.shadowed and fallback is None:
            split = self.shelf.entries[loaded.name].split
            # What a fallback did, or a version that somebody named, says nothing of the default.
            if split.shadow is not None and loaded is split.default:
                self.shadows.take(split.shadow, prepared, request_id, action)
        return wire.ActionAnswer(
            action, probability, confidence, loaded.name, loaded.version, request_id, greedy, fallback
        )

    def rewards(self, requests: Sequence[wire.RewardRequest]) -> None:
        """See :meth:`reward`; all of them, or none where one is refused."""
        # Whose decision it was is not remembered, so what fits any version will do; a log's reader knows the policy.
        loaded = [one for entry in self.shelf.entries.values() for one in entry.versions.values()]
        for request in requests:
            _demand_fitting(request, loaded)
        for request in requests:
            self._write(request)

    def reward(self, request: wire.RewardRequest) -> None:
        """Write a reward into the log; at the end of an episode, drop the session's memory.

        Raises:
            Refused: 422, what was carried out is no action of any version that is loaded, or what was seen then is no
                observation of any.
        """
        self.rewards([request])

    def _write(self, request: wire.RewardRequest) -> None:
        self.recorder.append(
            wire.encode(
                wire.RewardLine(
                    request.request_id,
                    self.wall(),
                    request.reward,
                    request.terminated,
                    request.truncated,
                    request.next_observation,
                    request.row,
                    request.executed,
                    request.cost,
                    request.violations,
                    request.session,
                )
            )
        )
        self.watcher.rewarded()
        if request.session is not None and (request.terminated or request.truncated):
            self.forget(request.session)

    def forget(self, session: str, name: str | None = None) -> bool:
        """Drop a session's memory, of every version (of one policy); says whether there was any."""
        dropped = False
        for entry in self.shelf.entries.values() if name is None else [self.shelf.entry(name)]:
            if entry.split.shadow is not None:
                self.shadows.forget(entry.split.shadow, session)
            for loaded in entry.versions.values():
                if loaded.sessions is not None:
                    dropped |= loaded.sessions.forget(session)
        return dropped


def _demand_fitting(request: wire.RewardRequest, loaded: Sequence[Loaded]) -> None:
    """Whether a reward can be of one of the versions at all; without any, nobody knows."""
    done, seen = request.executed, request.next_observation
    if not loaded:
        return
    if done is not None and not any(possible(done.action, one.policy.num_actions, one.actions) for one in loaded):
        raise Refused(
            422,
            f"executed: {done.action} is no action of any policy here.",
            mend="Send an action as the answers name them. If none of them was carried out, send no reward for that "
            "decision: the episode is cut off before it.",
        )
    sizes = {one.policy.obs_size for one in loaded}
    if seen is not None and len(seen) not in sizes:
        raise Refused(
            422,
            f"next_observation: there are {len(seen)} numbers.",
            mend=f"Send {' or '.join(map(str, sorted(sizes)))} of them, as in a request for an action; or leave it out.",
        )
