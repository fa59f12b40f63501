"""Breaker, sessions, decision log: each by itself."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlcourse.errors import ArtifactError, ConfigError, DatasetCorruptError, DatasetInvalidError, DatasetNotFoundError
from rlcourse.serving import wire
from rlcourse.serving.breaker import CircuitBreaker
from rlcourse.serving.decision_log import DecisionLog, DecisionLogConfig, read_lines
from rlcourse.serving.decisions import join, read_episodes
from rlcourse.serving.sessions import SessionStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_tries_once_and_closes() -> None:
    clock = Clock()
    breaker = CircuitBreaker(2, 10.0, clock)
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.allow()
    assert breaker.state.name == "CLOSED"
    breaker.failed()
    assert breaker.state.name == "OPEN"
    clock.now = 9.9
    assert not breaker.allow()
    clock.now = 10.0
    assert breaker.state.name == "HALF_OPEN"
    assert [breaker.allow() for _ in range(3)] == [True, False, False]
    breaker.failed()
    assert not breaker.allow()
    clock.now = 20.0
    assert breaker.allow()
    clock.now = 30.0
    assert breaker.allow(), "an attempt that never reported must not close the door for ever"
    breaker.succeeded()
    assert breaker.state.name == "CLOSED"
    assert all(breaker.allow() for _ in range(3))
    with pytest.raises(ConfigError):
        CircuitBreaker(0, 1.0, clock)


def row(value: float) -> np.ndarray:
    return np.full(3, value, np.float32)


def test_sessions_against_a_naive_store() -> None:
    clock, rng = Clock(), np.random.default_rng(0)
    store = SessionStore(3, 20, 50.0, clock)
    naive: dict[str, tuple[float, float]] = {}  # value, last use; in order of use
    for step in range(5000):
        clock.now += float(rng.exponential(1.0))
        name = f"s{rng.integers(30)}"
        kind = rng.integers(3)
        alive = {key: kept for key, kept in naive.items() if kept[1] + 50.0 >= clock.now}
        if kind == 0:
            found = store.get(name)
            assert (None if found is None else found[0, 0]) == (alive[name][0] if name in alive else None), step
        elif kind == 1:
            if name not in naive and len(alive) >= 20:
                del alive[min(alive, key=lambda key: alive[key][1])]
            naive = alive
            naive.pop(name, None)
            naive[name] = (step, clock.now)
            store.put(name, row(step))
        elif rng.random() < 0.3:
            store.forget(name)
            naive.pop(name, None)
        assert len(store) <= 20


def test_ten_thousand_sessions_stay_within_the_bound(tmp_path: Path) -> None:
    clock = Clock()
    store = SessionStore(3, 100, 50.0, clock)
    for n in range(10_000):
        store.put(f"s{n}", row(n))
    assert len(store) == 100
    assert store.evicted == 9_900
    assert store.get("s9899") is None
    kept = store.get("s9900")
    assert kept is not None
    assert kept[0].tolist() == [9900.0] * 3
    clock.now = 30.0
    store.save(tmp_path / "s.npz")
    other = SessionStore(3, 100, 50.0, clock)
    clock.now = 45.0
    other.restore(tmp_path / "s.npz")
    assert len(other) == 100
    clock.now = 50.1
    assert other.get("s9950") is None, "what was saved goes on ageing"
    late = SessionStore(3, 100, 50.0, clock)
    late.restore(tmp_path / "s.npz")
    assert len(late) == 0
    with pytest.raises(ArtifactError):
        SessionStore(4, 100, 50.0, clock).restore(tmp_path / "s.npz")
    (tmp_path / "s.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ArtifactError):
        late.restore(tmp_path / "s.npz")


def decision(request_id: str, obs: str = "[1,2]", action: int | list[int] = 0, **more: object) -> wire.DecisionLine:
    raw = wire.Raw(obs.encode())
    settings = {"version": "v1", "propensity": 0.5, "latency_ms": 1.0, **more}
    return wire.DecisionLine(request_id, 1.0, "p", observation=raw, action=action, **settings)  # type: ignore[arg-type]


def reward(request_id: str, value: float, **more: object) -> wire.RewardLine:
    return wire.RewardLine(request_id, 2.0, value, **more)  # type: ignore[arg-type]


def test_every_line_comes_back_through_many_files(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, DecisionLogConfig(rotate_bytes=2_000, flush_interval_s=0.001))
    lines = [decision(f"r{n}", f"[{n},0.5]", n % 3) for n in range(500)]
    for line in lines:
        log.append(wire.encode(line))
    log.close()
    log.close()
    assert log.written == 500
    assert log.dropped == 0
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert max(sizes) <= 2_000
    assert len(sizes) > 10
    assert [wire.encode(line) for line in read_lines(tmp_path)] == [wire.encode(line) for line in lines]


def test_a_torn_last_line_is_dropped_and_no_other(tmp_path: Path) -> None:
    for run in range(2):
        log = DecisionLog(tmp_path)
        for n in range(3):
            log.append(wire.encode(reward(f"r{run}{n}", 1.0)))
        log.close()
    older, newer = sorted(tmp_path.iterdir())
    for path in (older, newer):
        path.write_bytes(path.read_bytes()[:-5])
    assert [line.request_id for line in read_lines(tmp_path)] == ["r00", "r01", "r10", "r11"]
    older.write_bytes(older.read_bytes().replace(b"r00", b'"00'))
    with pytest.raises(DatasetCorruptError, match="line 1"):
        list(read_lines(tmp_path))
    with pytest.raises(DatasetNotFoundError):
        list(read_lines(tmp_path / "nothing"))


def test_a_full_disk_loses_nothing_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = os.write, [7]

    def full(handle: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, bytes(data[: room.pop()]))  # a part of it, and then no more

    log = DecisionLog(tmp_path, DecisionLogConfig(flush_interval_s=0.001, max_waiting=5))
    with monkeypatch.context() as patched:
        patched.setattr("rlcourse.serving.decision_log.os.write", full)
        log.append(wire.encode(reward("r0", 1.0)))
        end = time.monotonic() + 10.0
        while log.problem is None and time.monotonic() < end:
            time.sleep(0.001)
        assert log.problem is not None
        room.clear()
        log._stop.set()  # the writer is between two attempts for ever
        log._thread.join()
        for n in range(1, 7):
            log.append(wire.encode(reward(f"r{n}", 1.0)))
    assert log.dropped == 2
    log.close()
    assert [line.request_id for line in read_lines(tmp_path)] == [f"r{n}" for n in range(5)]
    assert log.problem is None


def test_a_flush_waits_for_the_line_that_the_thread_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun, on = os.write, threading.Event(), threading.Event()

    def slow(handle: int, data: bytes) -> int:
        begun.set()
        on.wait(20)
        return real(handle, bytes(data))

    log = DecisionLog(tmp_path, DecisionLogConfig(flush_interval_s=0.001))
    with monkeypatch.context() as patched:
        patched.setattr("rlcourse.serving.decision_log.os.write", slow)
        log.append(wire.encode(reward("r0", 1.0)))
        assert begun.wait(20)
        assert log.waiting == 0, "the thread has taken it, and it is nowhere yet"
        flushing = threading.Thread(target=log.flush)
        flushing.start()
        flushing.join(0.1)
        assert flushing.is_alive()
        on.set()
        flushing.join(20)
    assert [line.request_id for line in read_lines(tmp_path)] == ["r0"]
    log.close()


def test_without_a_next_file_the_full_one_keeps_its_lines_and_nobody_who_flushes_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def none_left(*_: object) -> int:
        tries.append(1)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    log = DecisionLog(tmp_path, DecisionLogConfig(rotate_bytes=100, flush_interval_s=1000.0))
    log.append(wire.encode(reward("r0", 1.0)))
    log.flush()
    with monkeypatch.context() as patched:
        patched.setattr("rlcourse.serving.decision_log.os.open", none_left)
        for n in range(1, 4):
            log.append(wire.encode(reward(f"r{n}", 1.0)))
            log.flush()
    assert (len(tries), log.waiting) == (1, 3), "after the first failure it is left to the thread"
    assert log.problem is not None
    assert [line.request_id for line in read_lines(tmp_path)] == ["r0"]
    log.close()
    assert [line.request_id for line in read_lines(tmp_path)] == ["r0", "r1", "r2", "r3"]
    assert log.problem is None


def test_sessions_become_episodes() -> None:
    joined = join(
        [
            decision("a0", "[0,0]", 1, session="a", started=True, propensity=0.25),
            decision("b0", "[9,9]", 2, session="b"),
            reward("a0", 1.0),
            decision("a1", "[1,1]", 0, session="a"),
            reward("b0", 5.0),
            reward("a1", 2.0, terminated=True, next_observation=[2.0, 2.0]),
            decision("a2", "[3,3]", 2, session="a", fallback="error"),
            reward("a2", 3.0),
            decision("a3", "[4,4]", 1, session="a"),
            reward("a3", 4.0, truncated=True, next_observation=[5.0, 5.0]),
            reward("gone", 4.0),
        ]
    )
    episodes = joined.episodes
    assert episodes.lengths.tolist() == [2, 2]
    assert episodes.terminated.tolist() == [True, False]
    assert episodes.observations.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3], [4, 4], [5, 5]]
    assert episodes.actions.tolist() == [1, 0, 2, 1]
    assert episodes.rewards.tolist() == [1, 2, 3, 4]
    assert episodes.behaviour_probabilities.tolist() == [0.25, 0.5, 0.5, 0.5]
    assert joined.fallbacks == (None, None, "error", None)
    # b0 gives its observation up: nobody said what followed.
    assert (joined.decisions, joined.given_up, joined.orphans, joined.without_reward) == (5, 1, 1, 0)


def test_requests_without_a_session_are_a_bandits() -> None:
    joined = join(
        [
            decision("m", "[[1,1],[2,2],[null,3]]", [0, 1, 2], propensity=[0.1, 0.2, 0.3]),
            decision("n", "[4,4]"),
            reward("m", 1.0, row=1),
            reward("m", 2.0, row=0),
            reward("m", 3.0, row=2),
        ]
    )
    assert joined.episodes.rewards.tolist() == [2.0, 1.0]
    assert joined.episodes.terminated.tolist() == [True, True]
    assert joined.episodes.behaviour_probabilities == pytest.approx([0.1, 0.2])
    assert (joined.unusable, joined.without_reward) == (1, 1)
    with pytest.raises(DatasetInvalidError):
        join([decision("x")])


def test_a_missing_reward_cuts_an_episode_there() -> None:
    lines: list[wire.DecisionLine | wire.RewardLine] = [
        decision(f"r{n}", f"[{n},{n}]", n % 2, session="s") for n in range(5)
    ]
    lines += [reward(f"r{n}", float(n)) for n in (0, 1, 3, 4)]
    joined = join(lines)
    assert joined.episodes.lengths.tolist() == [2, 1]
    assert joined.episodes.observations.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3], [4, 4]]
    assert joined.episodes.terminated.tolist() == [False, False]
    assert (joined.without_reward, joined.given_up) == (1, 1)


def test_clients_that_use_the_same_ids_keep_their_own_decisions() -> None:
    lines: list[wire.DecisionLine | wire.RewardLine] = []
    for session, value in (("a", 1.0), ("b", 5.0)):
        lines += [decision(f"{n}", f"[{n},{value}]", n, session=session) for n in range(3)]
        lines += [reward(f"{n}", value + n, session=session, terminated=n == 2) for n in range(3)]
    joined = join(lines)
    assert joined.episodes.rewards.tolist() == [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]
    assert joined.episodes.lengths.tolist() == [3, 3]
    assert (joined.decisions, joined.conflicts, joined.orphans) == (6, 0, 0)


def test_a_reward_that_could_be_anybodys_is_nobodys_and_is_counted() -> None:
    lines: list[wire.DecisionLine | wire.RewardLine] = [
        decision("1", "[1,1]", session="a"),
        decision("1", "[2,2]", session="b"),
        decision("2", "[3,3]", session="a"),
        decision("2", "[4,4]", session="a"),  # no client that asks again: it asks about something else
        decision("3", "[5,5]"),
        decision("3", "[5,5]", 1),  # asks again
        *(reward(name, float(name)) for name in "123"),
    ]
    joined = join(lines)
    assert (joined.episodes.rewards.tolist(), joined.episodes.actions.tolist()) == ([3.0], [1])
    assert (joined.decisions, joined.conflicts, joined.without_reward) == (5, 4, 0)
    other = wire.DecisionLine("3", 1.0, "other", "v1", wire.Raw(b"[6]"), 0, 0.5, 1.0)
    with pytest.raises(DatasetInvalidError):  # of the other policy's decision, perhaps
        join([*lines, other], "p")


def test_a_next_observation_that_cannot_have_followed_costs_one_step_and_not_the_log() -> None:
    lines: list[wire.DecisionLine | wire.RewardLine] = []
    for session, follows in (("a", [9.0, 9.0]), ("b", [9.0]), ("c", [1e300, 0.0])):
        lines += [decision(f"{session}{n}", f"[{n},0]", session=session) for n in range(3)]
        lines += [reward(f"{session}{n}", 1.0) for n in range(2)]
        lines.append(reward(f"{session}2", 1.0, truncated=True, next_observation=follows))
    joined = join(lines)
    assert joined.episodes.lengths.tolist() == [3, 2, 2]
    assert (joined.misfits, joined.given_up) == (2, 2)
    assert np.isfinite(joined.episodes.observations).all()


def test_versions_with_other_observations_are_told_apart() -> None:
    def lines() -> Iterator[wire.DecisionLine | wire.RewardLine]:
        for n in range(4):
            yield decision(f"r{n}", "[1,2]" if n < 2 else "[1,2,3]", session="s", version="v1" if n < 2 else "v2")
            yield reward(f"r{n}", float(n))

    with pytest.raises(DatasetInvalidError, match="p v1 2, p v2 3"):
        join(lines())
    for version, rewards in (("v1", [0.0]), ("v2", [2.0])):
        joined = join(lines(), version=version)
        assert joined.episodes.rewards.tolist() == rewards
        assert (joined.decisions, joined.given_up, joined.without_reward) == (2, 1, 0)


def test_an_episode_is_cut_where_another_version_decided() -> None:
    lines = [decision(f"r{n}", f"[{n},{n}]", session="s", version="v2" if n == 2 else "v1") for n in range(5)]
    joined = join([*lines, *(reward(f"r{n}", float(n)) for n in range(5))], version="v1")
    assert joined.episodes.rewards.tolist() == [0.0, 1.0, 3.0]
    assert joined.episodes.observations[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_log_on_the_disk_becomes_episodes(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append(wire.encode(decision("a")))
    log.append(wire.encode(reward("a", 2.5, terminated=True)))
    log.close()
    assert read_episodes(tmp_path, "p").episodes.rewards.tolist() == [2.5]
