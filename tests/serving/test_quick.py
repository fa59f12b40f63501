"""The hot route of the protocol itself, on a connection of paper: what is read once is known the next time, and only that."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from rlcourse.release.routing import Routing
from rlcourse.serving.assembly import Assembly, AssemblyConfig
from rlcourse.serving.decision_log import DecisionLogConfig
from rlcourse.serving.hot import HttpConfig
from rlcourse.serving.policies import Artifact
from rlcourse.serving.server import Head, Heads, ServerConfig, quick_protocol
from rlcourse.serving.service import ServiceConfig
from rlcourse.serving.shelf import ShelfConfig
from tests.serving.test_service import Scripted

OBS = json.dumps({"observation": [0.25, -1.0, 0.5, 2.0]}).encode()


def request(body: bytes = OBS, *more: str) -> bytes:
    lines = ["POST /predictions/rl_policy HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Paper(asyncio.Transport):
    """A connection that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def answers(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Head and JSON of each answer so far; forgets them."""
        found, rest = [], self.written
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            found.append((head, json.loads(rest[:size])))
            rest = rest[size:]
        self.written = b""
        return found


class Connection:
    """A protocol, its paper, and how often its parser was given something."""

    def __init__(self, assembly: Assembly, kind: Any, config: uvicorn.Config) -> None:
        state = uvicorn.server.ServerState()
        state.default_headers = [(b"date", b"today")]
        self.protocol = kind(config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop())
        self.paper, self.application, self.parsed = Paper(), assembly.application, 0
        parser = self.protocol.parser

        class Counting:
            def feed_data(_, data: bytes) -> None:
                self.parsed += 1
                parser.feed_data(data)

            def __getattr__(_, name: str) -> Any:
                return getattr(parser, name)

        self.protocol.connection_made(self.paper)
        self.protocol.parser = Counting()

    def ask(self, *parts: bytes) -> list[tuple[bytes, dict[str, Any]]]:
        for part in parts:
            self.protocol.data_received(part)
        return self.paper.answers()


@pytest.fixture
def connected(save: Callable[..., Any]) -> Callable[..., None]:
    """Run something with as many connections to one service as it takes."""

    def run(
        story: Callable[..., Awaitable[None]],
        connections: int = 1,
        keys: Sequence[str] = (),
        state: Path | None = None,
        log: DecisionLogConfig | None = None,
    ) -> None:
        async def told() -> None:
            log_config = log or DecisionLogConfig()
            config = AssemblyConfig(ServerConfig(), HttpConfig(), ServiceConfig(), ShelfConfig(), log_config)
            assembly = Assembly(config, state=state, keys=keys)
            assembly.load("rl_policy", save()[0])
            kind = quick_protocol(assembly.application)
            settings = uvicorn.Config(assembly.application, http=kind, lifespan="off", ws="none", access_log=False)
            settings.load()
            await story(*(Connection(assembly, kind, settings) for _ in range(connections)))
            assembly.application.close()
            assembly.close()

        asyncio.run(told())

    return run


def test_a_known_head_is_not_parsed_again_whoever_sends_it(connected: Callable[..., None]) -> None:
    async def story(one: Connection, other: Connection) -> None:
        ((head, first),) = one.ask(request())
        assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: today\r\n")
        ((again, second),) = one.ask(request())
        ((_, third),) = other.ask(request())
        assert (one.parsed, other.parsed) == (1, 0)
        assert again == head
        ids = {answer.pop("request_id") for answer in (first, second, third)}
        assert len(ids) == 3
        assert first == second == third
        one.ask(request(OBS + b" "))
        assert one.parsed == 2  # another length is another head
        assert one.protocol.reading_since is None
        assert one.protocol.idle_since is not None

    connected(story, 2)


def test_pieces_and_several_at_once_after_a_known_head(connected: Callable[..., None]) -> None:
    async def story(one: Connection) -> None:
        whole = request()
        assert len(one.ask(whole)) == 1
        for cut in (1, len(whole) - len(OBS) - 2, len(whole) - len(OBS), len(whole) - 1):
            assert one.ask(whole[:cut]) == []
            ((head, _),) = one.ask(whole[cut:])
            assert b"200 OK" in head
        numbered = [request(OBS[:-1] + b', "request_id": "n%d"}' % n) for n in range(3)]
        assert [answer["request_id"] for _, answer in one.ask(b"".join(numbered))] == ["n0", "n1", "n2"]
        assert [answer["request_id"] for _, answer in one.ask(whole + numbered[0][:40], numbered[0][40:])][1] == "n0"
        ((head, _),) = one.ask(b"\r\n\r\n" + whole)  # empty lines before a request are nothing
        assert b"200 OK" in head
        # What has begun in pieces ends before a known head may be looked for: this is a body that looks like one.
        inner = request(whole)
        assert one.ask(inner[: -len(whole)]) == []
        ((head, answer),) = one.ask(whole)
        assert b"400" in head
        assert "error" in answer

    connected(story)


def test_the_last_request_of_a_connection_is_not_known_the_next_time(connected: Callable[..., None]) -> None:
    async def story(one: Connection, other: Connection, third: Connection) -> None:
        closing = request(OBS, "Connection: close")
        ((head, _),) = one.ask(closing)
        assert b"connection: close" in head
        assert one.paper.closed
        ((head, _),) = other.ask(closing)
        assert (b"connection: close" in head, other.parsed, other.paper.closed) == (True, 1, True)
        third.ask(request())
        third.application.draining = True
        ((head, _),) = third.ask(request())
        assert (b"connection: close" in head, third.parsed, third.paper.closed) == (True, 1, True)

    connected(story, 3)


def test_keys_are_compared_for_known_heads_too(connected: Callable[..., None]) -> None:
    async def story(one: Connection) -> None:
        right, wrong = (request(OBS, f"X-API-Key: {key}") for key in ("right", "wrong"))
        for _ in range(2):
            for asked, status in ((right, b"200 OK"), (wrong, b"401 Unauthorized"), (request(), b"401 Unauthorized")):
                ((head, _),) = one.ask(asked)
                assert status in head
        assert one.parsed == 3

    connected(story, keys=("right",))


def test_a_client_that_does_not_read_is_not_answered_the_short_way(connected: Callable[..., None]) -> None:
    async def story(one: Connection) -> None:
        one.ask(request())
        one.protocol.pause_writing()
        assert one.ask(request()) == []
        assert one.parsed == 2
        one.protocol.resume_writing()
        for _ in range(100):
            await asyncio.sleep(0.001)
            if one.paper.written:
                break
        assert len(one.paper.answers()) == 1

    connected(story)


def test_a_slow_version_takes_the_short_way_from_its_own_policy_alone(connected: Callable[..., None]) -> None:
    async def story(one: Connection) -> None:
        shelf = one.application.service.shelf

        def load(name: str, version: str, *, inline: bool) -> None:
            loaded = shelf.warm(name, Artifact(Scripted(), version, None, None))
            loaded.inline_rows = sys.maxsize if inline else 0
            shelf.add(loaded)

        async def answered(asked: bytes) -> bool:
            """Whether at once; if not, it is waited for."""
            if found := one.ask(asked):
                return b"200 OK" in found[0][0]
            for _ in range(1_000):
                await asyncio.sleep(0.001)
                if one.paper.written:
                    break
            ((head, _),) = one.paper.answers()
            assert b"200 OK" in head
            return False

        body = b'{"observation": [0.25, -1.0], "deadline_ms": 20000}'
        other = request(body).replace(b"rl_policy", b"other")
        load("other", "v1", inline=True)
        for _ in range(2):
            assert [await answered(asked) for asked in (request(), other)] == [True, True]
        load("other", "v2", inline=False)
        shelf.route("other", Routing("v1", shadow="v2"))
        for _ in range(2):
            assert [await answered(asked) for asked in (request(), other)] == [True, False]
        shelf.route("other", Routing("v1"))
        shelf.unload("other", "v2")
        assert [await answered(asked) for asked in (request(), other)] == [True, True]
        one.application.service.shadows.close()

    connected(story)


def test_a_large_batch_keeps_nobody_else_waiting_and_is_late_by_itself(connected: Callable[..., None]) -> None:
    async def story(one: Connection, other: Connection) -> None:
        policy, gate = Scripted(), threading.Event()
        shelf = one.application.service.shelf
        loaded = shelf.warm("wide", Artifact(policy, "v1", None, None))
        loaded.inline_rows = 8
        shelf.add(loaded)

        def wait() -> None:
            if threading.current_thread() is not threading.main_thread():
                gate.wait(20)

        policy.does = wait

        def asked(rows: int, deadline_ms: int = 20_000) -> bytes:
            body = {"observation": [[0.25, -1.0]] * rows, "deadline_ms": deadline_ms}
            return request(json.dumps(body).encode()).replace(b"rl_policy", b"wide")

        async def answer() -> dict[str, Any]:
            for _ in range(5_000):
                await asyncio.sleep(0.001)
                if one.paper.written:
                    break
            ((head, found),) = one.paper.answers()
            assert b"200 OK" in head
            return found

        assert len(one.ask(asked(8))) == 1
        for _ in range(2):  # the first time its head is read, the second time it is known
            gate.clear()
            assert one.ask(asked(9)) == []
            assert len(other.ask(asked(8))) == 1, "who comes meanwhile is answered"
            gate.set()
            assert (await answer())["action"] == [1] * 9
        gate.clear()
        assert one.ask(asked(9, deadline_ms=5)) == []
        assert (await answer())["fallback"] == ["timeout"] * 9
        gate.set()

    connected(story, 2)


LONG = 1000.0
"""Seconds that no test lasts: what is written within them, the log's thread has not written."""


def logged(state: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (state / "decisions").iterdir())


def test_answers_go_out_after_their_lines_and_together(connected: Callable[..., None], tmp_path: Path) -> None:
    seen: list[int] = []

    class Watching(Paper):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            seen.append(logged(tmp_path))
            super().write(data)

    async def story(*all_: Connection) -> None:
        for one in all_:
            one.paper = Watching()
            one.protocol.transport = one.paper
        for turn in range(2):
            seen.clear()
            for one in all_:
                assert one.ask(request()) == [], "it waits for its line"
            assert logged(tmp_path) == 3 * turn
            await asyncio.sleep(0)
            assert seen == [3 * turn + 3] * 3, "one write for all of them, before the first of them"
            assert [len(one.paper.answers()) for one in all_] == [1, 1, 1]

    connected(story, 3, state=tmp_path, log=DecisionLogConfig(flush_interval_s=LONG))


def test_what_is_sent_or_closed_at_once_does_not_overtake_an_answer(
    connected: Callable[..., None], tmp_path: Path
) -> None:
    async def story(garbage: Connection, half: Connection, ending: Connection, last: Connection) -> None:
        garbage.protocol.data_received(request() + b"\x00\x01 nothing\r\n\r\n")
        assert garbage.paper.written.startswith(b"HTTP/1.1 200 OK") and b"HTTP/1.1 400" in garbage.paper.written
        half.protocol.data_received(request())
        half.protocol.eof_received()
        ending.protocol.data_received(request())
        ending.protocol.shutdown()
        for one in (half, ending):
            assert one.paper.written.startswith(b"HTTP/1.1 200 OK")
        assert ending.paper.closed
        last.protocol.data_received(request(OBS, "Connection: close"))
        assert not last.paper.closed
        await asyncio.sleep(0)
        assert last.paper.closed and b"connection: close" in last.paper.written

    connected(story, 4, state=tmp_path, log=DecisionLogConfig(flush_interval_s=LONG))


def test_batched_lines_keep_nobody_waiting(connected: Callable[..., None], tmp_path: Path) -> None:
    async def story(one: Connection) -> None:
        assert len(one.ask(request())) == 1
        assert logged(tmp_path) == 0

    connected(story, state=tmp_path, log=DecisionLogConfig(durability="batched", flush_interval_s=LONG))
    assert logged(tmp_path) == 1, "closing writes them out"


def test_heads_are_bounded() -> None:
    heads = Heads()
    for n in range(Heads.MOST + 10):
        heads.keep(b"%d" % n, Head("a", n, []))
        assert len(heads) <= Heads.MOST
    heads.keep(b"x" * (Heads.LONGEST + 1), Head("a", 0, []))
    assert max(map(len, heads)) <= Heads.LONGEST
