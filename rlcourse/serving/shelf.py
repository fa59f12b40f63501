"""Policies by name and version, which of them answers whom, and the way back.

::

    request ── names a version? ──▶ that one
         │ no
         └── its session in the canary? ── yes ──▶ the trial's version       a hash of its name, as in rlcourse.release
                      └── no, or no session ─────▶ the default ── copy ──▶ the shadow, which answers nobody
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rlcourse.errors import ArtifactError, ConfigError
from rlcourse.release.assignment import in_canary
from rlcourse.release.routing import Routing
from rlcourse.serving.breaker import CircuitBreaker
from rlcourse.serving.continuous import ActionBounds
from rlcourse.serving.policies import Artifact, Floats, ServablePolicy, sound
from rlcourse.serving.refusals import Refused
from rlcourse.serving.sessions import SessionStore

QUICK_S = 1e-3
"""A policy whose decision takes less is asked where the request is read; a slower one in a thread of its own. So is a batch
that would take a quick one as long."""
MANY = 64
"""Observations that are asked together to see what a batch costs."""
WARM_S = 0.5
"""About so long is a policy asked before it is known how quick it is."""


@dataclass(frozen=True)
class ShelfConfig:
    """Bounds of what is loaded."""

    max_versions: int = 8
    """Loaded at once for one name."""
    max_sessions: int = 100_000
    """Memories kept for one version; beyond, the one unused for longest is forgotten."""
    session_lifetime_s: float = 3600.0
    """A session unused for longer is forgotten."""
    session_save_interval_s: float = 60.0
    """Between two savings of the memories into the state folder, and so the most that a kill loses: sessions then go on
    from what they remembered that long ago, and those that began since begin anew. An orderly end loses nothing. Lowering
    it costs a copy of all memories and a write of the file each time; it is looked at about once a second."""
    breaker_failures: int = 5
    """So many failed decisions in a row, and the fallback acts without asking."""
    breaker_cooldown_s: float = 5.0
    """... for so long."""

    def __post_init__(self) -> None:
        if self.max_versions < 1:
            raise ConfigError("No version may be loaded.", mend="Use --max-versions 1 or more.")
        if not self.session_save_interval_s > 0.0:
            raise ConfigError(
                f"Sessions cannot be saved every {self.session_save_interval_s} s.", mend="Use a number above 0."
            )


@dataclass(eq=False)
class Loaded:
    """One version, warm."""

    name: str
    version: str
    policy: ServablePolicy
    low: Floats | None
    high: Floats | None
    breaker: CircuitBreaker
    sessions: SessionStore | None
    inline_rows: (
        int  # so many observations may be asked about at once on the event loop; 0: the policy is too slow for it
    )
    path: Path | None = None
    actions: ActionBounds | None = None  # of continuous actions; None: they are counted
    counts: dict[str, int] = field(default_factory=dict)  # decisions by fallback reason ("" for none)


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """Who answers whom."""

    routing: Routing
    default: Loaded
    trial: Loaded | None = None
    shadow: Loaded | None = None  # with a breaker and memories of its own

    def answering(self, session: str | None) -> Loaded:
        """The trial for the sessions in its canary. Without a session nobody can be kept on one side: the default."""
        routing = self.routing
        if self.trial is not None and session is not None and in_canary(session, routing.salt, routing.share):
            return self.trial
        return self.default

    def share(self, loaded: Loaded) -> float:
        """Of the sessions that name no version, those that a version answers."""
        if loaded is self.trial:
            return self.routing.share
        return 1.0 - self.routing.share if loaded is self.default else 0.0


@dataclass(eq=False)
class Entry:
    """All versions of one name."""

    versions: dict[str, Loaded]
    split: Split
    history: list[str] = field(default_factory=list)  # earlier defaults, the latest last

    @property
    def default(self) -> Loaded:
        """Answers whoever is not told otherwise."""
        return self.split.default


class Shelf:
    """What can be asked.

    A switch replaces one reference, so a request sees the old version or the new one and nothing between; whoever has
    begun with the old one ends with it.
    """

    def __init__(self, config: ShelfConfig, *, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.config = config
        self._clock, self._wall = clock, wall
        self.entries: dict[str, Entry] = {}
        self.slow: set[str] = set()  # names with a version that needs a thread of its own; the same set for good
        self.shadowed = False  # somebody here has a shadow
        self.admit: Callable[[Loaded], None] = lambda loaded: None
        """Asked before a version is added; raises if whoever asks the policies cannot do with this one."""

    def warm(self, name: str, artifact: Artifact, *, version: str | None = None, path: Path | None = None) -> Loaded:
        """Make a version ready without showing it to anybody; may run in another thread.

        Raises:
            ArtifactError: what it answers to the first questions is no number, or nothing.
        """
        policy, config = artifact.policy, self.config
        sessions = None
        if policy.memory_size:
            sessions = self._sessions(policy.memory_size, artifact.weights)
        return Loaded(
            name,
            version or artifact.version,
            policy,
            artifact.low,
            artifact.high,
            CircuitBreaker(config.breaker_failures, config.breaker_cooldown_s, self._clock),
            sessions,
            inline_rows=_rows_within(QUICK_S, artifact, self._clock),
            path=path,
            actions=artifact.actions,
        )

    def add(self, loaded: Loaded, *, default: bool = False) -> None:
        """Put a warm version on the shelf, and let it answer if so wanted: both, or neither. The first of a name is its
        default.

        Raises:
            Refused: 409, that version is there already, or there are too many, or it cannot be the default.
            ConfigError: the service's fallback is no action of this policy.
        """
        self.admit(loaded)
        entry = self.entries.get(loaded.name)
        if entry is None:
            self.entries[loaded.name] = Entry({loaded.version: loaded}, Split(Routing(loaded.version), loaded))
            self._pace(loaded.name)
            return
        if loaded.version in entry.versions:
            raise Refused(
                409, f"{loaded.name} {loaded.version} is loaded already.", mend="Give it another version, or unload it."
            )
        if len(entry.versions) >= self.config.max_versions:
            raise Refused(409, f"{loaded.name} has {len(entry.versions)} versions loaded.", mend="Unload one first.")
        entry.versions[loaded.version] = loaded
        if default:
            try:
                self.set_default(loaded.name, loaded.version)
            except Refused:  # the trial or the shadow does not fit it
                del entry.versions[loaded.version]
                raise
        self._pace(loaded.name)

    def entry(self, name: str) -> Entry:
        """All versions of a name.

        Raises:
            Refused: 404.
        """
        try:
            return self.entries[name]
        except KeyError:
            raise Refused(
                404, f"There is no policy {name!r} here.", mend="GET /v1/policies lists those that are."
            ) from None

    def find(self, name: str, version: str | None, session: str | None = None) -> Loaded:
        """The version named; without a name the trial or the default, as the session has it.

        Raises:
            Refused: 404.
        """
        entry = self.entry(name)
        if version is None:
            split = entry.split
            return split.default if split.trial is None else split.answering(session)
        try:
            return entry.versions[version]
        except KeyError:
            raise Refused(
                404,
                f"Version {version} of {name} is not loaded.",
                mend=f"GET /v1/policies/{name} lists those that are.",
            ) from None

    def set_default(self, name: str, version: str) -> None:
        """Let another version answer; the one that did is what :meth:`rollback` goes back to.

        Raises:
            Refused: 404.
        """
        self.route(name, self.entry(name).split.routing.led_by(version))

    def route(self, name: str, routing: Routing) -> None:
        """Settle at once who answers whom: the default, the trial and its share, the shadow.

        Raises:
            Refused: 404, one of the versions is not loaded; 409, who asks the one could not ask the other. Nothing has
                changed then.
        """
        entry = self.entry(name)
        before, default = entry.split, self.find(name, routing.live)
        trial = None if routing.trial is None else self.find(name, routing.trial)
        shadow = None if routing.shadow is None else self.find(name, routing.shadow)
        if trial is not None and routing.share > 0.0:
            _demand_same(name, default, trial, answers=True)
        if shadow is not None:
            _demand_same(name, default, shadow, answers=False)
        if shadow is not None:
            same = before.shadow is not None and routing.shadow == before.routing.shadow
            shadow = before.shadow if same else self._apart(shadow)
        if default is not before.default:
            entry.history.append(before.default.version)
        entry.split = Split(routing, default, trial, shadow)
        self.shadowed = any(one.split.shadow is not None for one in self.entries.values())

    def rollback(self, name: str) -> str:
        """Go back to the default before this one; returns its version.

        Raises:
            Refused: 409, there was none, or it is no longer loaded.
        """
        entry = self.entry(name)
        if not entry.history:
            raise Refused(409, f"{name} has had one default only.", mend="Set the default to the version you want.")
        *earlier, version = entry.history
        self.set_default(name, version)
        entry.history = earlier
        return version

    def unload(self, name: str, version: str) -> None:
        """Take a version off the shelf; it can no longer be rolled back to.

        Raises:
            Refused: 404, or 409 for the default, the trial and the shadow.
        """
        entry, loaded = self.entry(name), self.find(name, version)
        if loaded is entry.default:
            raise Refused(409, f"{version} is the default of {name}.", mend="Set another default first.")
        for part in ("trial", "shadow"):
            if getattr(entry.split.routing, part) == version:
                raise Refused(
                    409,
                    f"{version} is the {part} of {name}.",
                    mend=f"End that first: DELETE /v1/policies/{name}/{part}.",
                )
        del entry.versions[version]
        self._pace(name)
        entry.history = [earlier for earlier in entry.history if earlier != version]

    def _pace(self, name: str) -> None:
        # Of the policy, not of the version: which one answers is known only when the request has been read.
        if all(one.inline_rows for one in self.entries[name].versions.values()):
            self.slow.discard(name)
        else:
            self.slow.add(name)

    def _sessions(self, size: int, weights: str) -> SessionStore:
        config = self.config
        return SessionStore(size, config.max_sessions, config.session_lifetime_s, self._wall, weights)

    def _apart(self, loaded: Loaded) -> Loaded:
        """The same policy with a breaker and memories of its own: who asks the version by name must not feel the shadow."""
        config, sessions = self.config, loaded.sessions
        if sessions is not None:
            sessions = self._sessions(sessions.size, sessions.weights)
        breaker = CircuitBreaker(config.breaker_failures, config.breaker_cooldown_s, self._clock)
        return replace(loaded, breaker=breaker, sessions=sessions, counts={})


def _demand_same(name: str, default: Loaded, other: Loaded, *, answers: bool) -> None:
    """Whether who asks the default may get the answers of another version, or, of a shadow, have it asked beside.

    Raises:
        Refused: 409, and in what they differ.
    """
    one, two = default.policy, other.policy
    counted = default.actions is None, other.actions is None
    differs = ""
    if one.obs_size != two.obs_size or one.num_actions != two.num_actions or counted[0] != counted[1]:
        differs = f"takes other observations than {default.version}, or other actions"
    elif answers and default.actions is not None and not default.actions.same(other.actions):
        differs = f"keeps its actions within other bounds than {default.version}"
    elif answers and two.memory_size and not one.memory_size:  # the other way round nobody is refused anything
        differs = f"remembers sessions and {default.version} does not: their batches would be refused"
    if differs:
        raise Refused(
            409,
            f"{other.version} of {name} {differs}.",
            mend="End its trial or its work as a shadow. Let clients name it, or make it the default once all of them know.",
        )


def _rows_within(limit_s: float, artifact: Artifact, clock: Callable[[], float]) -> int:
    """About how many observations a policy surely decides on in so long; 0 if even one takes longer.

    Worked number: 0.8 ms for 64 are 0.0125 ms for each, what a call costs anyhow included, so 1 ms is enough for 80.
    """
    if _seconds(artifact, 1, clock) >= limit_s:
        return 0
    many_s = _seconds(artifact, MANY, clock)
    return max(1, int(MANY * limit_s / many_s)) if many_s > 0.0 else sys.maxsize


def _seconds(artifact: Artifact, rows: int, clock: Callable[[], float]) -> float:
    """How long a decision about so many observations takes; raises :class:`ArtifactError` if it is no number."""
    # Also the warm-up: the first calls load what is loaded late and fill the caches.
    policy = artifact.policy
    rng = np.random.default_rng(0)  # what it draws is thrown away
    obs = np.zeros((rows, policy.obs_size), np.float32)
    memory = policy.first_memory(rows) if policy.memory_size else None
    taken: list[float] = []
    for greedy in (True, False) * 10:
        began = clock()
        decided = policy.decide(obs, greedy=greedy, mask=None, memory=memory, rng=rng)
        taken.append(clock() - began)
        if not sound(decided, rows, artifact.actions):
            raise ArtifactError(
                f"Version {artifact.version} answers an observation of zeros with what is no number.",
                mend="Serve a policy from before its training diverged.",
            )
        if sum(taken) > WARM_S:
            break
    return float(np.median(taken))
