from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlcourse.errors import DatasetCorruptError
from rlcourse.release.audit import FIRST, AuditEntry, append_audit, read_audit


def entry(number: int) -> AuditEntry:
    return AuditEntry(f"e{number}", 100.0 + number, "mia", "approve", f"reason {number}", {"share": 0.05, "n": number})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    for number in range(3):
        append_audit(path, entry(number))
    return path


def test_what_was_written_is_read_and_each_line_seals_the_one_before(log: Path) -> None:
    trail = read_audit(log)
    assert list(trail.entries) == [entry(n) for n in range(3)]
    assert not trail.torn
    before = FIRST
    for line in log.read_text().splitlines():
        content = json.loads(line)
        sealed = content.pop("hash")
        assert content["before"] == before
        assert sealed == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        before = sealed
    assert trail.head == before


def test_no_line_can_be_changed_removed_moved_or_added_unseen(log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    changed = lines[1].replace(b"mia", b"tom")
    forged = json.loads(lines[1])
    for wrong in (
        [lines[0], changed, lines[2]],
        [lines[0], lines[2]],
        [lines[1], lines[0], lines[2]],
        [*lines, lines[2]],
        [lines[0], json.dumps({**forged, "before": FIRST}).encode() + b"\n", lines[2]],
        [lines[0], b"{}\n", lines[2]],
        [lines[0], b"[1]\n", lines[2]],
        [lines[0], b"\xff\n", lines[2]],
    ):
        log.write_bytes(b"".join(wrong))
        with pytest.raises(DatasetCorruptError, match="line"):
            read_audit(log)
        with pytest.raises(DatasetCorruptError):
            append_audit(log, entry(9))


def test_killed_while_writing_at_any_byte(log: Path) -> None:
    whole = log.read_bytes()
    second = len(b"".join(whole.splitlines(keepends=True)[:2]))
    for size in range(second, len(whole)):
        log.write_bytes(whole[:size])
        trail = read_audit(log)
        assert list(trail.entries) == [entry(0), entry(1)]
        assert trail.torn == (size > second)
        append_audit(log, entry(2))
        assert log.read_bytes() == whole


def test_the_same_event_is_written_once(log: Path) -> None:
    before = log.read_bytes()
    assert append_audit(log, entry(1)) == read_audit(log).head
    append_audit(log, replace(entry(2), why="another"))
    assert log.read_bytes() == before


def test_an_absent_log_is_empty(tmp_path: Path) -> None:
    trail = read_audit(tmp_path / "none.jsonl")
    assert (len(trail.entries), trail.head, set(trail.hashes)) == (0, FIRST, {FIRST})
