"""Which version answers whom: what a controller wants of the world, and the fake that ships with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rlcourse.errors import ConfigError
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
