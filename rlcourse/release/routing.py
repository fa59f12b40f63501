"""Which version answers whom: what a controller wants of the world, and the fake that ships with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from rlcourse.errors import ConfigError
from rlcourse.files import write_json
from rlcourse.release.assignment import in_canary


@dataclass(frozen=True)
class Routing:
    """One live version, and beside it at most one that is on trial."""

    live: str
    """Answers everybody who is not told otherwise. There is exactly one."""
    trial: str | None = None
    """Answers a share of the sessions, or none of them (a shadow) at share 0."""
    share: float = 0.0
    """Of the sessions that the trial answers."""
    salt: str = ""
    """Draws those sessions; see :mod:`rlcourse.release.assignment`."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share < 1.0 or (self.trial is None and self.share > 0.0) or self.trial == self.live:
            raise ConfigError(
                f"{self.live} live, {self.trial} on trial with a share of {self.share}.",
                mend="A trial is another version, with a share below 1; at 1 it is the live one.",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


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


class FileRouter:
    """A router that is a file: for tests, drills, and programs that read their routing from the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def apply(self, routing: Routing) -> None:
        """Replace the file; it is never half-written."""
        write_json(self.path, routing.to_json())

    def current(self) -> Routing | None:
        """What was applied last; ``None`` if nothing ever was."""
        if not self.path.exists():
            return None
        return Routing(**json.loads(self.path.read_text(encoding="utf-8")))
