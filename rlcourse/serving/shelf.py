"""Policies by name and version, which one of them answers, and the way back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rlcourse.errors import ConfigError
from rlcourse.serving.breaker import CircuitBreaker
from rlcourse.serving.continuous import ActionBounds
from rlcourse.serving.policies import Artifact, Floats, ServablePolicy
from rlcourse.serving.refusals import Refused
from rlcourse.serving.sessions import SessionStore

QUICK_S = 1e-3
"""A policy whose decision takes less is asked where the request is read; a slower one in a thread of its own."""


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
    inline: bool  # quick enough to be asked on the event loop
    path: Path | None = None
    actions: ActionBounds | None = None  # of continuous actions; None: they are counted
    counts: dict[str, int] = field(default_factory=dict)  # decisions by fallback reason ("" for none)


@dataclass(eq=False)
class Entry:
    """All versions of one name."""

    versions: dict[str, Loaded]
    default: Loaded
    history: list[str] = field(default_factory=list)  # earlier defaults, the latest last


class Shelf:
    """What can be asked.

    A switch replaces one reference, so a request sees the old version or the new one and nothing between; whoever has
    begun with the old one ends with it.
    """

    def __init__(self, config: ShelfConfig, *, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.config = config
        self._clock, self._wall = clock, wall
        self.entries: dict[str, Entry] = {}
        self.all_inline = True  # nothing here needs a thread of its own
        self.admit: Callable[[Loaded], None] = lambda loaded: None
        """Asked before a version is added; raises if whoever asks the policies cannot do with this one."""

    def warm(self, name: str, artifact: Artifact, *, version: str | None = None, path: Path | None = None) -> Loaded:
        """Make a version ready without showing it to anybody; may run in another thread."""
        policy, config = artifact.policy, self.config
        sessions = None
        if policy.memory_size:
            sessions = SessionStore(policy.memory_size, config.max_sessions, config.session_lifetime_s, self._wall)
        return Loaded(
            name,
            version or artifact.version,
            policy,
            artifact.low,
            artifact.high,
            CircuitBreaker(config.breaker_failures, config.breaker_cooldown_s, self._clock),
            sessions,
            inline=_seconds(policy) < QUICK_S,
            path=path,
            actions=artifact.actions,
        )

    def add(self, loaded: Loaded, *, default: bool = False) -> None:
        """Put a warm version on the shelf; the first of a name is its default.

        Raises:
            Refused: 409, that version is there already, or there are too many.
            ConfigError: the service's fallback is no action of this policy.
        """
        self.admit(loaded)
        entry = self.entries.get(loaded.name)
        if entry is None:
            self.all_inline &= loaded.inline
            self.entries[loaded.name] = Entry({loaded.version: loaded}, loaded)
            return
        if loaded.version in entry.versions:
            raise Refused(
                409, f"{loaded.name} {loaded.version} is loaded already.", mend="Give it another version, or unload it."
            )
        if len(entry.versions) >= self.config.max_versions:
            raise Refused(409, f"{loaded.name} has {len(entry.versions)} versions loaded.", mend="Unload one first.")
        self.all_inline &= loaded.inline
        entry.versions[loaded.version] = loaded
        if default:
            self.set_default(loaded.name, loaded.version)

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

    def find(self, name: str, version: str | None) -> Loaded:
        """The default version, or the one named.

        Raises:
            Refused: 404.
        """
        entry = self.entry(name)
        if version is None:
            return entry.default
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
        entry, loaded = self.entry(name), self.find(name, version)
        if loaded is not entry.default:
            entry.history.append(entry.default.version)
            entry.default = loaded

    def rollback(self, name: str) -> str:
        """Go back to the default before this one; returns its version.

        Raises:
            Refused: 409, there was none, or it is no longer loaded.
        """
        entry = self.entry(name)
        if not entry.history:
            raise Refused(409, f"{name} has had one default only.", mend="Set the default to the version you want.")
        loaded = entry.versions[entry.history.pop()]
        entry.default = loaded
        return loaded.version

    def unload(self, name: str, version: str) -> None:
        """Take a version off the shelf; it can no longer be rolled back to.

        Raises:
            Refused: 404, or 409 for the default.
        """
        entry, loaded = self.entry(name), self.find(name, version)
        if loaded is entry.default:
            raise Refused(409, f"{version} is the default of {name}.", mend="Set another default first.")
        del entry.versions[version]
        self.all_inline = all(one.inline for each in self.entries.values() for one in each.versions.values())
        entry.history = [earlier for earlier in entry.history if earlier != version]


def _seconds(policy: ServablePolicy) -> float:
    # Also the warm-up: the first calls load what is loaded late and fill the caches.
    rng = np.random.default_rng(0)  # what it draws is thrown away
    obs = np.zeros((1, policy.obs_size), np.float32)
    memory = policy.first_memory(1) if policy.memory_size else None
    taken = []
    for greedy in (True, False) * 10:
        began = time.perf_counter()
        policy.decide(obs, greedy=greedy, mask=None, memory=memory, rng=rng)
        taken.append(time.perf_counter() - began)
        if taken[-1] > 1.0:
            break
    return float(np.median(taken))
