"""A log is followed while it grows: every line once, whatever the writer or the reader does in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcourse.errors import ConfigError, DatasetNotFoundError
from rlcourse.serving import wire
from rlcourse.serving.following import LogFollower
from tests.monitoring.logs import Written


def ids(follower: LogFollower) -> list[str]:
    """What is new."""
    found = []
    while (piece := follower.next_piece()) is not None:
        found += [line.request_id for line in piece.lines]
        follower.done(piece)
    return found


def test_a_growing_rotating_log_is_read_once(tmp_path: Path) -> None:
    log = Written(tmp_path)
    follower = LogFollower(tmp_path, piece_bytes=200)
    assert ids(follower) == []
    wanted = [log.decide("a", float(n)) for n in range(10)]
    assert ids(follower) == wanted
    log.number = 1
    more = [log.decide("a", 10.0 + n) for n in range(3)]
    later = LogFollower(tmp_path, follower.position)
    assert ids(follower) == more == ids(later)
    assert follower.position == later.position == {f"{1:020}": (1, log.path.stat().st_size)}


def test_a_torn_line_waits_for_its_rest(tmp_path: Path) -> None:
    log = Written(tmp_path)
    first = log.decide("a", 0.0)
    line = wire.encode(wire.RewardLine("whole", 1.0, 2.0)) + b"\n"
    follower = LogFollower(tmp_path)
    log.add(line[:10])
    assert ids(follower) == [first]
    log.add(line[10:])
    assert ids(follower) == ["whole"]
    log.add(line[:10])  # its writer is killed, and another one begins
    following = Written(tmp_path, run=2)
    second = following.decide("a", 2.0)
    assert ids(follower) == [second]


def test_lines_that_a_full_disk_took_back_are_read_once(tmp_path: Path) -> None:
    log = Written(tmp_path)
    first = log.decide("a", 0.0)
    size = log.path.stat().st_size
    second = log.decide("a", 1.0)
    follower = LogFollower(tmp_path)
    assert ids(follower) == [first, second]
    data = log.path.read_bytes()
    log.path.write_bytes(data[:size])  # as DecisionLog does when a write fails half-way
    assert ids(follower) == []
    log.path.write_bytes(data)
    third = log.decide("a", 2.0)
    assert ids(follower) == [third]


def test_a_line_longer_than_a_piece_is_read_whole(tmp_path: Path) -> None:
    log = Written(tmp_path)
    wanted = [log.decide("a", 0.0, observation=[0.5] * 1000), log.decide("a", 1.0)]
    assert ids(LogFollower(tmp_path, piece_bytes=16)) == wanted


def test_a_line_that_is_none_is_counted_and_passed_over(tmp_path: Path) -> None:
    log = Written(tmp_path)
    log.add(b'{"kind": "decision"}\nno JSON\n')
    wanted = log.decide("a", 0.0)
    follower = LogFollower(tmp_path)
    piece = follower.next_piece()
    assert piece is not None
    assert (piece.unreadable, [line.request_id for line in piece.lines]) == (2, [wanted])


def test_runs_that_overlap_are_read_in_the_order_of_their_lines(tmp_path: Path) -> None:
    old, new = Written(tmp_path, run=1), Written(tmp_path, run=2)
    wanted = []
    for n in range(20):
        wanted.append((old if n % 2 == 0 else new).decide("a", float(n), observation=[float(n)]))
    # One line is about 150 bytes, so each piece holds one.
    assert ids(LogFollower(tmp_path, piece_bytes=160)) == wanted


def test_skipping_to_the_end_leaves_a_torn_line_to_be_read(tmp_path: Path) -> None:
    log = Written(tmp_path)
    log.decide("a", 0.0)
    line = wire.encode(wire.RewardLine("torn", 1.0, 2.0)) + b"\n"
    log.add(line[:7])
    follower = LogFollower(tmp_path)
    follower.skip_to_end()
    log.add(line[7:])
    assert ids(follower) == ["torn"]


def test_reading_up_to_a_position(tmp_path: Path) -> None:
    log = Written(tmp_path)
    wanted = [log.decide("a", float(n)) for n in range(4)]
    reader = LogFollower(tmp_path)
    assert ids(reader) == wanted
    until = dict(reader.position)
    log.decide("a", 9.0)
    Written(tmp_path, run=2).decide("a", 9.0)
    again = LogFollower(tmp_path)
    found = []
    while (piece := again.next_piece(until=until)) is not None:
        found += [line.request_id for line in piece.lines]
        again.done(piece)
    assert found == wanted
    assert again.position == until


def test_what_cannot_be_followed(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="no folder"):
        LogFollower(tmp_path / "missing")
    with pytest.raises(ConfigError):
        LogFollower(tmp_path, piece_bytes=0)
    (tmp_path / "gone").mkdir()
    follower = LogFollower(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(DatasetNotFoundError, match="cannot be read any more"):
        follower.next_piece()


def test_deleted_files_are_forgotten(tmp_path: Path) -> None:
    old, new = Written(tmp_path, run=1), Written(tmp_path, run=2)
    old.decide("a", 0.0)
    new.decide("a", 1.0)
    follower = LogFollower(tmp_path)
    ids(follower)
    old.path.unlink()
    follower.prune()
    assert list(follower.position) == [f"{2:020}"]
