from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from rlcourse.errors import ConfigError
from rlcourse.serving.client import AsyncPolicyClient, ClientConfig, PolicyClient, ServiceUnavailableError
from rlcourse.serving.refusals import Refused

ANSWER = {
    "action": 1,
    "probability": 1.0,
    "confidence": 0.7,
    "policy": "rl_policy",
    "version": "v1",
    "request_id": "r",
    "deterministic": True,
    "fallback": None,
}
Reply = httpx.Response | Exception


class Network:
    """Replies in turn; repeats the last one."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, content=reply.content)


def ok() -> httpx.Response:
    return httpx.Response(200, json=ANSWER)


def ask(
    asynchronous: bool, network: Network, times: int = 1, clock: Callable[[], float] | None = None, **settings: Any
) -> list[Any]:
    """The answers of one client, an exception in place of one that it raised."""
    options = settings.pop("options", {})
    config = ClientConfig(**settings)
    more: dict[str, Any] = {"transport": httpx.MockTransport(network), **({"clock": clock} if clock else {})}
    found: list[Any] = []
    if not asynchronous:
        with PolicyClient("http://service", config=config, **more) as client:
            for _ in range(times):
                try:
                    found.append(client.act([0.0, 1.0], **options))
                except (ServiceUnavailableError, Refused) as error:
                    found.append(error)
        return found

    async def run() -> None:
        async with AsyncPolicyClient("http://service", config=config, **more) as client:
            for _ in range(times):
                try:
                    found.append(await client.act([0.0, 1.0], **options))
                except (ServiceUnavailableError, Refused) as error:
                    found.append(error)

    asyncio.run(run())
    return found


both = pytest.mark.parametrize("asynchronous", [False, True])


@both
def test_what_is_asked_and_what_comes_back(asynchronous: bool) -> None:
    network = Network(ok())
    (answer,) = ask(asynchronous, network, api_key="k", options={"mask": [True, False], "session": "s", "reset": True})
    assert (answer.action, answer.confidence, answer.version, answer.fallback) == (1, 0.7, "v1", None)
    (request,) = network.seen
    assert request.url.path == "/v1/policies/rl_policy/action"
    assert request.headers["authorization"] == "Bearer k"
    body = json.loads(request.content)
    assert 0.0 < body.pop("deadline_ms") <= 100.0
    assert body.pop("request_id")
    assert body == {"observation": [0, 1], "deterministic": True, "mask": [True, False], "session": "s", "reset": True}


@both
@pytest.mark.parametrize(
    ("error", "options", "asked"),
    [
        (httpx.ConnectError("refused"), {}, 2),
        (httpx.ConnectError("refused"), {"deterministic": False, "session": "s"}, 2),
        (httpx.ReadError("reset"), {}, 2),
        (httpx.RemoteProtocolError("closed"), {}, 2),
        (httpx.ReadError("reset"), {"deterministic": False}, 1),
        (httpx.ReadError("reset"), {"session": "s"}, 1),
        (httpx.ReadTimeout("late"), {}, 1),
    ],
)
def test_only_what_is_safe_is_asked_again(
    asynchronous: bool, error: Exception, options: dict[str, object], asked: int
) -> None:
    network = Network(error, ok())
    (answer,) = ask(asynchronous, network, options=options, fallback_action=0)
    assert len(network.seen) == asked
    assert answer.action == (1 if asked == 2 else 0)
    assert len({json.loads(request.content)["request_id"] for request in network.seen}) == 1
    if asked == 1:
        assert answer.probability is None
        assert answer.fallback == f"client: {type(error).__name__}"


@both
@pytest.mark.parametrize("status", [429, 500, 503])
def test_no_answer_for_now_is_the_fallback_or_an_error(asynchronous: bool, status: int) -> None:
    network = Network(httpx.Response(status, json={"error": "e", "mend": "m"}))
    assert ask(asynchronous, network, fallback_action=2)[0].action == 2
    (error,) = ask(asynchronous, network)
    assert isinstance(error, ServiceUnavailableError)
    assert str(status) in error.problem


@both
@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, html="<title>Log in</title>"),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, json={"action": 1}),
        httpx.Response(200, json=[1]),
        httpx.Response(200, content=b"[" * 200_000),
        httpx.Response(204),
        httpx.Response(302, headers={"location": "http://elsewhere"}),
    ],
    ids=["html", "bytes", "partial", "list", "deep", "204", "302"],
)
def test_what_no_policy_service_would_say_is_no_answer(asynchronous: bool, reply: httpx.Response) -> None:
    network = Network(reply)
    (answer,) = ask(asynchronous, network, fallback_action=2)
    assert (answer.action, answer.probability, answer.version) == (2, None, None)
    assert answer.fallback.startswith("client: ")
    errors = ask(asynchronous, network, times=3, breaker_failures=2)
    assert all(isinstance(error, ServiceUnavailableError) for error in errors)
    assert "failed too often" in errors[2].problem, "it counts as a failure"


def test_an_answer_that_cannot_be_unpacked_is_no_answer() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": "gzip"}, content=b"no gzip")

    client = PolicyClient("http://service", transport=httpx.MockTransport(broken))
    with client, pytest.raises(ServiceUnavailableError):
        client.act([0.0])


def test_threads_may_share_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    both_inside = threading.Barrier(2)

    def token(size: int) -> str:
        both_inside.wait(20)
        return "same"

    monkeypatch.setattr("rlcourse.serving.client.secrets.token_hex", token)
    client = PolicyClient("http://service", transport=httpx.MockTransport(Network(ok())))
    with client, ThreadPoolExecutor(2) as pool:
        names = list(pool.map(lambda _: client._rules.next_id(), range(8)))
    assert len(set(names)) == 8


@both
def test_a_wrong_request_is_an_error_even_with_a_fallback(asynchronous: bool) -> None:
    network = Network(httpx.Response(422, json={"error": "too short", "mend": "more"}))
    (error,) = ask(asynchronous, network, fallback_action=2)
    assert isinstance(error, Refused)
    assert (error.status, error.problem, error.mend) == (422, "too short", "more")


@both
def test_a_broken_service_is_left_alone_for_a_while(asynchronous: bool) -> None:
    now = [0.0]

    class Recovering(Network):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            now[0] += 0.01
            return super().__call__(request)

    network = Recovering(*[httpx.Response(500)] * 3, ok())
    settings = {"breaker_failures": 3, "breaker_cooldown_s": 0.05, "fallback_action": 0}
    answers = ask(asynchronous, network, 6, lambda: now[0], **settings)
    assert [answer.fallback for answer in answers[:3]] == ["client: status 500"] * 3
    assert [answer.fallback for answer in answers[3:]] == ["client: it has failed too often"] * 3
    assert len(network.seen) == 3


def test_the_deadline_is_for_all_attempts_together() -> None:
    now = [0.0]

    class Slow(Network):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            now[0] += 0.06
            return super().__call__(request)

    network = Slow(httpx.ConnectTimeout("slow"))
    (answer,) = ask(False, network, 1, lambda: now[0], retries=9, fallback_action=0)
    assert len(network.seen) == 2
    assert answer.action == 0


def test_rewards_are_delivered_or_said_not_to_be() -> None:
    network = Network(httpx.ReadError("reset"), httpx.Response(202))
    with PolicyClient("http://service", transport=httpx.MockTransport(network)) as client:
        client.reward("r", 1.5, terminated=True)
        assert json.loads(network.seen[-1].content) == {"request_id": "r", "reward": 1.5, "terminated": True}
        network.replies = [httpx.ReadError("reset")]
        with pytest.raises(ServiceUnavailableError):
            client.reward("r", 1.5)


@both
def test_a_continuous_fallback_is_a_list_for_every_row(asynchronous: bool) -> None:
    network = Network(httpx.Response(500))
    assert ask(asynchronous, network, fallback_action=(0.5, -1.0))[0].action == [0.5, -1.0]
    with PolicyClient(
        "http://service", config=ClientConfig(fallback_action=(0.5,)), transport=httpx.MockTransport(network)
    ) as client:
        assert client.act_batch([[0.0], [1.0]]).action == [[0.5], [0.5]]
    for wrong in ((), (float("nan"),)):
        with pytest.raises(ConfigError):
            ClientConfig(fallback_action=wrong)


class Dripping:
    """A server that sends a sound answer, but a byte at a time from some place on, and never so slowly that one read alone
    would be too late."""

    PAUSE_S, BYTES = 0.05, 80

    def __init__(self, quick: int) -> None:
        body = json.dumps(ANSWER).encode()
        self.answer = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        self.quick = len(self.answer) - self.BYTES if quick < 0 else quick  # bytes sent at once
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.stop = threading.Event()
        self.connections = 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                while not self.stop.is_set() and self.one(connection):
                    pass

    def one(self, connection: socket.socket) -> bool:
        try:
            if not self.heard(connection):
                return False
            connection.sendall(self.answer[: self.quick])
            for at in range(self.quick, len(self.answer)):
                if self.stop.wait(self.PAUSE_S):
                    return False
                connection.sendall(self.answer[at : at + 1])
        except OSError:
            return False
        return True

    @staticmethod
    def heard(connection: socket.socket) -> bytes:
        said = b""
        while part := connection.recv(65536):
            said += part
            head, end, body = said.partition(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            if end and found and len(body) >= int(found[1]):
                return said
        return b""

    def close(self) -> None:
        self.stop.set()
        self.listener.close()
        self.thread.join(10)


@pytest.fixture(params=[0, -1], ids=["headers", "body"])
def dripping(request: pytest.FixtureRequest) -> Iterator[Dripping]:
    server = Dripping(request.param)
    yield server
    server.close()


@both
def test_the_deadline_is_for_all_reads_together(asynchronous: bool, dripping: Dripping) -> None:
    # At least four seconds of drops, each in time: a limit for each read would wait for all of them, and believe the answer.
    config = ClientConfig(deadline_s=0.3, retries=3, fallback_action=2)

    async def run() -> Any:
        async with AsyncPolicyClient(dripping.url, config=config) as client:
            return await client.act([0.0, 1.0])

    if asynchronous:
        answer = asyncio.run(run())
    else:
        with PolicyClient(dripping.url, config=config) as client:
            answer = client.act([0.0, 1.0])
    assert answer.action == 2
    assert answer.fallback.startswith("client:")


@both
def test_a_reward_has_a_deadline_for_all_of_it_too(asynchronous: bool, dripping: Dripping) -> None:
    config = ClientConfig(deadline_s=0.03, retries=3)

    async def run() -> None:
        async with AsyncPolicyClient(dripping.url, config=config) as client:
            await client.reward("r", 1.0)

    with pytest.raises(ServiceUnavailableError, match="not delivered"):
        if asynchronous:
            asyncio.run(run())
        else:
            with PolicyClient(dripping.url, config=config) as client:
                client.reward("r", 1.0)


def test_a_connection_is_kept_and_a_long_body_arrives_whole() -> None:
    server = Dripping(10_000)
    try:
        with PolicyClient(server.url, config=ClientConfig(deadline_s=10.0)) as client:
            assert [client.act([0.0, 1.0]).action for _ in range(5)] == [1] * 5
            assert server.connections == 1
            # More than a socket takes at once: written in pieces.
            assert client.act_batch([[0.123456789] * 2] * 50_000).action == 1
    finally:
        server.close()


def test_nobody_there_is_a_connection_error_as_httpx_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with PolicyClient(f"http://127.0.0.1:{port}", config=ClientConfig(fallback_action=0, deadline_s=5.0)) as client:
        assert client.act([0.0]).fallback == "client: ConnectError"
