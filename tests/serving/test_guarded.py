"""What the management port lets through, and the bounds of both ports."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from rlcourse.errors import ConfigError
from rlcourse.recipes.command_line import main
from rlcourse.serving.guarded import MOST_BYTES, Guarded
from rlcourse.serving.hot import Message, Receive, Scope, Send
from rlcourse.serving.server import ServerConfig, connections_within

HOST = "127.0.0.1:8081"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body; reads until there is no more."""
    body, more = b"", True
    while more:
        message: Message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def asked(method: str, content: Any = None, **headers: str) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(Guarded(echo))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, "/v1/policies/a/rollback", content=content, headers=named)

    return asyncio.run(run())


JSON = {"content_type": "application/json; charset=utf-8"}


@pytest.mark.parametrize("host", ["127.0.0.1:8081", "localhost:9000", "[::1]:8081", "LOCALHOST", "127.0.0.1"])
def test_this_machine_may(host: str) -> None:
    assert asked("POST", b"{}", host=host, **JSON).content == b"{}"
    assert asked("POST", host=host).status_code == 200
    assert asked("POST", host=host, origin=f"http://{host}").status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8081", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1:8081"])
def test_a_name_that_was_pointed_here_may_not(host: str) -> None:
    response = asked("GET", host=host)
    assert response.status_code == 403
    assert response.json()["mend"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:3000"])
def test_a_page_from_elsewhere_may_not(origin: str) -> None:
    assert asked("POST", origin=origin).status_code == 403


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_a_body_has_to_be_said_to_be_json(kind: str) -> None:
    assert asked("PUT", b"{}", content_type=kind).status_code == 415


def test_a_long_body_is_refused_and_not_read_on() -> None:
    read = []

    async def endless() -> Any:
        while True:
            read.append(1)
            yield b" " * 1000

    class Endless(httpx.AsyncByteStream):
        def __aiter__(self) -> Any:
            return endless()

    assert asked("PUT", Endless(), **JSON).status_code == 413
    assert len(read) <= MOST_BYTES // 1000 + 2
    read.clear()
    assert asked("PUT", Endless(), content_length="60000000", **JSON).status_code == 413
    assert not read, "it says itself how long it is"
    assert asked("PUT", b" " * MOST_BYTES, **JSON).status_code == 200


def test_both_ports_cannot_be_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="Both ports are 9000"):
        ServerConfig(port=9000, management_port=9000)
    ServerConfig(port=0, management_port=0)
    assert main(["serve", "http", "x", "--port", "9000", "--management-port", "9000"]) == 2
    assert "--management-port" in capsys.readouterr().err


def test_connections_stay_below_the_limit_of_files() -> None:
    assert connections_within(10_000, 1024) == 768
    assert connections_within(10_000, 128) == 80
    assert connections_within(50, 1024) == 50
    assert connections_within(10_000, -1) == 10_000
    with pytest.raises(ConfigError, match="ulimit"):
        connections_within(10_000, 48)
    with pytest.raises(ConfigError):
        ServerConfig(max_connections=0)
