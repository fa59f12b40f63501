from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

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
