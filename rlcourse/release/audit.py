"""Who did what, when and why: an append-only log in which each line seals all lines before it.

One JSON object a line; ``hash`` is the SHA-256 of everything else in it, ``before`` the hash of the line before::

    {"id": "r7-1", "at_s": ..., "who": "controller", "what": "start", "why": ..., "data": {...}, "before": "00…", "hash": "5f…"}
    {"id": "r7-2", "at_s": ..., "who": "mia",        "what": "approve", ...,                     "before": "5f…", "hash": "c1…"}

Whoever changes, removes or inserts a line breaks the chain from there on. Cutting off whole lines at the end leaves a shorter
chain that is sound, which is why the controller keeps the last hash in its state as well. A writer that was killed may leave
its last line without a line break: that line was never acknowledged, and it is removed before the next one is written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcourse.errors import DatasetCorruptError
from rlcourse.files import storage_errors

FIRST = "0" * 64


@dataclass(frozen=True)
class AuditEntry:
    """One thing that was done or decided."""

    id: str
    """Unlike any other in this log; writing an id twice writes it once."""
    at_s: float
    who: str
    what: str
    why: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class AuditTrail:
    """What a log holds."""

    entries: tuple[AuditEntry, ...]
    head: str
    """Hash of the last line."""
    size: int
    """Bytes of whole lines."""
    torn: bool
    """A killed writer left half a line behind these."""
    hashes: frozenset[str]


def read_audit(path: Path) -> AuditTrail:
    """All entries, the chain checked; an absent file is an empty log.

    Raises:
        DatasetCorruptError: a line that is not what was written, with its number.
        StorageError: it cannot be read.
    """
    with storage_errors(path):
        data = path.read_bytes() if path.exists() else b""
    size = data.rfind(b"\n") + 1
    entries, head, hashes, ids = [], FIRST, {FIRST}, set()
    for number, line in enumerate(data[:size].splitlines(), 1):
        try:
            content = json.loads(line)
            sealed = content.pop("hash")
            entry = AuditEntry(**{key: content[key] for key in ("id", "at_s", "who", "what", "why", "data")})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _corrupt(path, number, "is not a line of an audit log") from error
        if content.get("before") != head:
            raise _corrupt(path, number, "does not follow the line before it")
        if sealed != _seal(content) or entry.id in ids:
            raise _corrupt(path, number, "is not what was written")
        head = sealed
        hashes.add(head)
        ids.add(entry.id)
        entries.append(entry)
    return AuditTrail(tuple(entries), head, size, size != len(data), frozenset(hashes))


def append_audit(path: Path, entry: AuditEntry) -> str:
    """Write one line to the disk itself, unless its id is there already; returns the hash of the last line.

    One process at a time: the controller holds its lock.

    Raises:
        DatasetCorruptError: the log was tampered with; nothing is added to it.
        StorageError: the line could not be written.
    """
    trail = read_audit(path)
    if any(entry.id == known.id for known in trail.entries):
        return trail.head
    content = {**vars(entry), "data": dict(entry.data), "before": trail.head}
    sealed = _seal(content)
    line = json.dumps({**content, "hash": sealed}, allow_nan=False).encode() + b"\n"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if trail.torn:
                file.truncate(trail.size)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    return sealed


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _corrupt(path: Path, number: int, problem: str) -> DatasetCorruptError:
    return DatasetCorruptError(
        f"{path}: line {number} {problem}.", mend="Compare it with a copy; what stands before that line is sound."
    )
