"""What is on the disk of one release: its settings, its state, its lock and its kill switch."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlcourse.errors import ConfigError, DatasetCorruptError
from rlcourse.files import storage_errors
from rlcourse.release.audit import FIRST
from rlcourse.release.routing import Routing
from rlcourse.release.stages import Release, release_from_json

Status = Literal["running", "awaiting", "paused", "promoted", "rolled_back", "killed"]
ENDED: tuple[Status, ...] = ("promoted", "rolled_back", "killed")


@dataclass(frozen=True)
class ReleaseState:
    """Where a release is."""

    status: Status
    stage: int
    since_s: float
    """When this stage began."""
    routing: Routing
    """What is wanted of the router; the only opinion there is on which version is live."""
    applied: bool = False
    """Whether the router has taken it."""
    question: str = ""
    """What a person is asked, while ``awaiting``."""
    approved: bool = False
    """A person has approved of what the log could not tell."""
    seen_s: float | None = None
    """When evidence of this stage was measured last of which nothing was missing; ``None``: never yet."""
    began_s: float | None = None
    """When the release began; ``None``: before that was written down, and then ``since_s`` is what is known."""
    acts_since_s: float | None = None
    """When the candidate first answered clients; ``None``: not yet."""
    said: tuple[str, ...] = ()
    """The gate's reasons last time, so that the log repeats none."""
    events: int = 0
    pending: tuple[Mapping[str, Any], ...] = field(default=())
    """Audit lines that are decided and not known to be written."""
    audit_head: str = FIRST
    """The last hash that is known to be in the log."""

    @property
    def ended(self) -> bool:
        """Nothing more happens by itself."""
        return self.status in ENDED


def killed(folder: Path) -> bool:
    """Whether the kill switch is on; anybody can throw it: ``touch FOLDER/KILL``."""
    return (folder / "KILL").exists()


def read_release(folder: Path) -> Release:
    """What was settled before a release began.

    Raises:
        ConfigError: no release there.
    """
    return release_from_json(_read(folder / "release.json"))


def read_state(folder: Path) -> ReleaseState:
    """Where a release is.

    Raises:
        ConfigError: no release there, or none that began.
        DatasetCorruptError: the file is not what was written.
        StorageError: it cannot be read.
    """
    content = _read(folder / "state.json")
    try:
        content["routing"] = Routing(**content["routing"])
        content["said"], content["pending"] = tuple(content["said"]), tuple(content["pending"])
        return ReleaseState(**content)
    except (KeyError, TypeError) as error:
        raise DatasetCorruptError(
            f"{folder / 'state.json'} is no state: {error}.", mend="Bring it back from a copy."
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with storage_errors(path):
            text = path.read_bytes() if path.exists() else None
        if text is None:
            raise ConfigError(f"There is no {path}.", mend="Begin a release: rlcourse release start.")
        content = json.loads(text)
    except ValueError as error:
        raise DatasetCorruptError(f"{path} is no JSON: {error}.", mend="Bring it back from a copy.") from error
    if not isinstance(content, dict):
        raise DatasetCorruptError(f"{path} holds something else.", mend="Bring it back from a copy.")
    return content


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; others wait."""
    with storage_errors(folder / "lock"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # given back by the system, also when this process is killed
        yield
    finally:
        os.close(handle)
