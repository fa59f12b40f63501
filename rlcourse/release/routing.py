"""Which version answers whom: what a controller wants of the world, and the fake that ships with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rlcourse.errors import ConfigError, ServerError
from rlcourse.files import write_json
from rlcourse.release.assignment import in_canary


@dataclass(frozen=True)
class Routing:
    """One live version, and beside it at most one that is on trial and one that is a shadow."""

    live: str
    """Answers everybody who is not told otherwise. There is exactly one."""
    trial: str | None = None
    """Answers a share of the sessions; at share 0 none, and only stands by."""
    share: float = 0.0
    """Of the sessions that the trial answers."""
    salt: str = ""
    """Draws those sessions; see :mod:`rlcourse.release.assignment`."""
    shadow: str | None = None
    """Is asked what the live version is asked, and answers nobody."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share < 1.0 or (self.trial is None and self.share > 0.0) or self.trial == self.live:
            raise ConfigError(
                f"{self.live} live, {self.trial} on trial with a share of {self.share}.",
                mend="A trial is another version, with a share below 1; at 1 it is the live one.",
            )
        if self.shadow == self.live:
            raise ConfigError(f"{self.live} live, and its own shadow.", mend="A shadow is another version.")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def share_of(self, version: str) -> float:
        """Of the sessions, those that a version answers."""
        return self.share if version == self.trial else 1.0 - self.share if version == self.live else 0.0

    def led_by(self, version: str) -> Routing:
        """The same with another version live; that one's trial ends, and so does its work as a shadow."""
        kept = self if version != self.trial else replace(self, trial=None, share=0.0, salt="")
        return replace(kept, live=version, shadow=None if version == self.shadow else self.shadow)


def version_for(routing: Routing, session: str) -> str:
    """Which version answers a session: the same one, however often and wherever it is asked."""
    if routing.trial is not None and in_canary(session, routing.salt, routing.share):
        return routing.trial
    return routing.live


class Router(Protocol):
    """What stands before the versions: our service, HAProxy, a gateway."""

    def apply(self, routing: Routing) -> None:
        """Bring the world to ``routing``; doing it twice does no more than doing it once.

        Raises:
            ServerError: it could not be reached or refused; the world is as it was, or half-way, and it may be tried again.
        """
        ...


@runtime_checkable
class Telling(Router, Protocol):
    """A router that can be asked what it does; one that cannot is believed."""

    def current(self) -> Routing | None:
        """What it does now; ``None`` if it was told nothing.

        Raises:
            ServerError: it could not be reached.
        """
        ...


@runtime_checkable
class Coarse(Telling, Protocol):
    """A router that cannot do every routing exactly."""

    def nearest(self, routing: Routing) -> Routing:
        """What it says that it does once it was told this one."""
        ...


class FileRouter:
    """A router that is a file: for tests, drills, and programs that read their routing from the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def apply(self, routing: Routing) -> None:
        """Replace the file; it is never half-written."""
        write_json(self.path, routing.to_json())

    def current(self) -> Routing | None:
        """What was applied last; ``None`` if nothing ever was.

        Raises:
            ServerError: the file holds something else.
        """
        if not self.path.exists():
            return None
        try:
            return Routing(**json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, ConfigError) as error:
            raise ServerError(
                f"{self.path} is no routing: {error}.", mend="Remove it: it is written again when somebody resumes."
            ) from error
