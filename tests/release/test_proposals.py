"""The override queue: proposals wait on the disk, and any process finds the same state there."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from rlcourse.errors import ConfigError, DatasetCorruptError
from rlcourse.release.apprentice import ApprenticeConfig, Level
from rlcourse.release.audit import read_audit
from rlcourse.release.proposals import ProposalQueue, Standing

# Three answers are enough: (0.9/0.5)^3 = 5.8 > 5.
QUICK = ApprenticeConfig(good=0.1, too_many=0.5, alpha=0.2, deadline_s=60.0, safe_action=4)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def at(folder: Path, level: Level) -> tuple[ProposalQueue, Clock]:
    clock = Clock()
    queue = ProposalQueue(folder, clock=clock)
    standing = queue.tell("approved", who="mia", why="", demands=QUICK)
    while standing.apprentice.level != level:
        standing = queue.tell("approved", who="mia", why="", demands=QUICK)
    return queue, clock


def settled(standing: Standing) -> list[tuple[str, int, str]]:
    return [(one.id, one.action, one.how) for one in standing.settled]


def test_whoever_opens_the_folder_finds_the_same(tmp_path: Path) -> None:
    queue, clock = at(tmp_path, "approve")
    queue.propose("a", 1, who="policy")
    clock.now += 30.0
    queue.propose("b", 2, who="policy")
    found = queue.answer("a", agrees=False, who="mia", why="too cold")
    assert settled(found) == [("a", 4, "vetoed")]
    again = ProposalQueue(tmp_path, clock=clock).look()
    assert (again.apprentice, again.entries, again.levels) == (found.apprentice, found.entries, found.levels)
    assert (set(again.apprentice.waiting), again.apprentice.refused) == ({"b"}, 1)
    entries = read_audit(tmp_path / "answers.jsonl").entries
    assert [(one.who, one.what) for one in entries[-3:]] == [
        ("policy", "proposed"),
        ("policy", "proposed"),
        ("mia", "vetoed"),
    ]


@pytest.mark.parametrize(("level", "done", "accepted"), [("approve", 4, 0), ("veto", 1, 1)])
def test_the_deadline_passes_whoever_calls_next(level: Level, done: int, accepted: int, tmp_path: Path) -> None:
    queue, clock = at(tmp_path, level)
    queue.propose("a", 1, who="policy")
    clock.now += 59.0
    assert settled(queue.look()) == []
    clock.now += 1.0
    with pytest.raises(ConfigError, match="deadline has passed"):
        queue.answer("a", agrees=True, who="mia")
    found = queue.look()
    assert (settled(found), found.apprentice.accepted) == ([], accepted)
    last = found.entries[-1]
    assert (last.what, last.data) == ("expired", {"proposal": "a", "action": done})


def test_an_autonomous_one_does_not_wait(tmp_path: Path) -> None:
    queue, _ = at(tmp_path, "autonomous")
    assert settled(queue.propose("a", 1, who="policy")) == [("a", 1, "expired")]
    queue.tell("violated", who="mia", why="31 C", demands=QUICK)
    assert settled(queue.propose("b", 1, who="policy")) == []  # back to asking


def test_silence_on_what_was_asked_is_not_made_consent_later(tmp_path: Path) -> None:
    queue, clock = at(tmp_path, "approve")
    queue.propose("a", 1, who="policy")
    for _ in range(3):
        queue.tell("approved", who="mia", why="", demands=QUICK)
    assert queue.look().apprentice.level == "veto"
    clock.now += 60.0
    assert settled(queue.look()) == [("a", 4, "expired")]


def test_an_id_is_used_once(tmp_path: Path) -> None:
    queue, _ = at(tmp_path, "approve")
    queue.propose("a", 1, who="policy")
    queue.answer("a", agrees=True, who="mia")
    with pytest.raises(ConfigError, match="made before"):
        queue.propose("a", 1, who="policy")
    imitating = ProposalQueue(tmp_path / "other")
    imitating.tell("approved", who="mia", why="", demands=QUICK)
    with pytest.raises(ConfigError, match="to imitate"):
        imitating.propose("a", 1, who="policy")


def test_a_veto_that_is_taken_out_is_missed(tmp_path: Path) -> None:
    queue, _ = at(tmp_path, "veto")
    queue.tell("vetoed", who="mia", why="too cold", demands=QUICK)
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(DatasetCorruptError, match="ends before"):
        queue.look()
    path.write_bytes(whole.replace(b"vetoed", b"approved"))
    with pytest.raises(DatasetCorruptError, match="not what was written"):
        queue.look()


def propose(folder: Path, name: str) -> None:
    for number in range(20):
        ProposalQueue(folder).propose(f"{name}{number}", 1, who=name)


def test_two_at_once_lose_no_line(tmp_path: Path) -> None:
    queue = ProposalQueue(tmp_path)
    for _ in range(3):
        queue.tell("approved", who="mia", why="", demands=ApprenticeConfig(0.1, 0.5, 0.2, deadline_s=1e6))
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=propose, args=(tmp_path, name)) for name in ("x", "y")]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert [one.exitcode for one in both] == [0, 0]
    assert len(queue.look().apprentice.waiting) == 40
