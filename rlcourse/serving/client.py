"""Asking a policy service, from a program that must act in time whatever the network does.

One interface, three ways: :class:`PolicyClient` over HTTP, :class:`AsyncPolicyClient` likewise, and
:class:`~rlcourse.serving.asking.InProcessClient` that asks a service in the same process, for tests. The one file that
imports httpx.

::

    ask ──answer in time──▶ the policy's action
     │
     ├─ could not connect: nothing was sent, so it is asked again
     ├─ broke off later: asked again only if asking twice does no harm (deterministic, no session)
     └─ too late, refused for now, broken, no answer of a policy service: the fallback action if there is one, else an error
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Self

import httpx

from rlcourse.serving import deadline, wire
from rlcourse.serving.asking import (
    Answer,
    Client,
    ClientConfig,
    InProcessClient,
    Mask,
    Observation,
    ServiceUnavailableError,
    question,
)
from rlcourse.serving.breaker import CircuitBreaker
from rlcourse.serving.refusals import Refused

__all__ = [
    "Answer",
    "AsyncPolicyClient",
    "Client",
    "ClientConfig",
    "InProcessClient",
    "Mask",
    "Observation",
    "PolicyClient",
    "ServiceUnavailableError",
    "question",
]
REWARD_DEADLINES = 10
"""So many deadlines may the delivery of a reward take, repeats included: nobody waits for it before acting."""


class _Rules:
    """What the two clients over HTTP have in common: everything but the waiting."""

    def __init__(self, config: ClientConfig, policy: str, clock: Callable[[], float]) -> None:
        self.config, self.clock = config, clock
        self.path = f"/v1/policies/{policy}/action"
        self.breaker = CircuitBreaker(config.breaker_failures, config.breaker_cooldown_s, clock)
        self._ids = itertools.count()  # several threads may draw from it at once
        self.headers = {"content-type": "application/json"}
        if config.api_key is not None:
            self.headers["authorization"] = f"Bearer {config.api_key}"

    def next_id(self) -> str:
        return f"{secrets.token_hex(6)}-{next(self._ids):x}"

    def exchange(
        self, observation: Sequence[Any], rows: int | None, options: Mapping[str, Any]
    ) -> Generator[tuple[bytes, float], httpx.Response | httpx.RequestError | TimeoutError, Answer]:
        """Yields what to send and the seconds left for it, is told what came of it, returns the answer."""
        end = self.clock() + self.config.deadline_s
        request_id = options.get("request_id") or self.next_id()
        why = "the deadline passed"
        for _ in range(1 + self.config.retries):
            if not self.breaker.allow():
                why = "it has failed too often"
                break
            left = end - self.clock()
            if left <= 0.0:
                break
            body = question(observation, **{**options, "request_id": request_id, "deadline_s": left})
            reply = yield wire.encode(body), left
            if isinstance(reply, httpx.Response):
                answer = self.understood(reply)
                if isinstance(answer, Answer):
                    return answer
                why = answer
                break
            self.breaker.failed()
            if isinstance(reply, TimeoutError):
                break
            why = type(reply).__name__
            if not self.may_repeat(reply, body):
                break
        return self.without(why, request_id, rows)

    def may_repeat(self, error: httpx.RequestError, body: Mapping[str, Any]) -> bool:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            return True  # nothing was sent
        return not isinstance(error, httpx.TimeoutException) and body["deterministic"] and "session" not in body

    def understood(self, response: httpx.Response) -> Answer | str:
        """An answer, or why there is none for now.

        Raises:
            Refused: the request itself is wrong; asking again would not help, nor would a fallback be honest.
        """
        if response.status_code == 200:
            answer = _answer(response)
            if answer is None:
                self.breaker.failed()
                return "what answers there is no policy service"
            self.breaker.succeeded()
            return answer
        if response.status_code < 400 or response.status_code == 429 or response.status_code >= 500:
            self.breaker.failed()
            return f"status {response.status_code}"
        self.breaker.succeeded()
        try:
            said = response.json()
            problem, mend = str(said["error"]), str(said["mend"])
        except (ValueError, KeyError, TypeError):
            problem, mend = f"The service answered {response.status_code}.", "Check the address."
        raise Refused(response.status_code, problem, mend=mend)

    def without(self, why: str, request_id: str, rows: int | None) -> Answer:
        """The fallback.

        Raises:
            ServiceUnavailableError: there is none.
        """
        fixed = self.config.fallback_action
        if fixed is None:
            raise ServiceUnavailableError(
                f"The policy service gave no answer: {why}.",
                mend="Name a fallback_action for when that happens, or a longer deadline.",
            )
        action = list(fixed) if isinstance(fixed, tuple) else fixed
        reason = f"client: {why}"
        if rows is None:
            return Answer(action, None, None, None, request_id, reason)
        return Answer([action] * rows, None, None, None, request_id, [reason] * rows)


def _answer(response: httpx.Response) -> Answer | None:
    """``None`` if it is none: the page of a proxy, say."""
    try:
        found = response.json()
        return Answer(*(found[part.name] for part in fields(Answer)))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _given(done: StopIteration) -> Answer:
    answer: Answer = done.value
    return answer


class _Network(httpx.BaseTransport):
    """The network, with the request's limit for all of it together, where httpx's own is for each read."""

    def __init__(self) -> None:
        self._pool = deadline.pool(httpx.create_ssl_context(trust_env=False))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url, limit_s = request.url, request.extensions["timeout"]["read"]
        parts = deadline.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        try:
            found = deadline.exchanged(self._pool, request.method, parts, request.headers.raw, request.read(), limit_s)
        except deadline.FAILURES as error:
            # httpx names every one of them as httpcore does.
            raise getattr(httpx, type(error).__name__)(str(error), request=request) from error
        return httpx.Response(found.status, headers=found.headers, content=found.content, request=request)

    def close(self) -> None:
        self._pool.close()


class PolicyClient:
    """Over HTTP, with connections kept open. Use it as a context manager, or close it.

    Args:
        url: of the service, as ``http://127.0.0.1:8080``.
        policy: which one to ask.
        clock: seconds that only grow.
        transport: in place of the network.
    """

    def __init__(
        self,
        url: str,
        policy: str = "rl_policy",
        config: ClientConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._rules = _Rules(config or ClientConfig(), policy, clock)
        self._http = httpx.Client(
            base_url=url, headers=self._rules.headers, transport=transport or _Network(), trust_env=False
        )

    @property
    def breaker(self) -> CircuitBreaker:
        """Open while the service is left alone."""
        return self._rules.breaker

    def act(self, observation: Observation, **options: Any) -> Answer:
        """One action.

        Raises:
            Refused: the request is wrong.
            ServiceUnavailableError: no answer and no fallback action.
        """
        return self._ask(observation, None, options)

    def act_batch(self, observations: Sequence[Observation], **options: Any) -> Answer:
        """One action for each; errors as for :meth:`act`."""
        return self._ask(observations, len(observations), options)

    def _ask(self, observation: Sequence[Any], rows: int | None, options: Mapping[str, Any]) -> Answer:
        exchange = self._rules.exchange(observation, rows, options)
        try:
            content, left = next(exchange)
            while True:
                reply: httpx.Response | httpx.RequestError
                try:
                    reply = self._http.post(self._rules.path, content=content, timeout=left)
                except httpx.RequestError as error:
                    reply = error
                content, left = exchange.send(reply)
        except StopIteration as done:
            return _given(done)

    def reward(self, request_id: str, reward: float, **more: Any) -> None:
        """What an action led to; waits up to ten deadlines in all, and may be sent twice, which joins as once.

        Raises:
            Refused: the request is wrong.
            ServiceUnavailableError: it could not be delivered.
        """
        rules = self._rules
        content = wire.encode({"request_id": request_id, "reward": reward, **more})
        end = rules.clock() + REWARD_DEADLINES * rules.config.deadline_s
        for attempt in range(1 + rules.config.retries):
            try:
                response = self._http.post("/v1/rewards", content=content, timeout=max(end - rules.clock(), 1e-3))
            except httpx.RequestError as error:
                if attempt == rules.config.retries or rules.clock() >= end:
                    raise ServiceUnavailableError(
                        f"A reward was not delivered: {error}.", mend="Send it again."
                    ) from error
                continue
            if response.status_code != 202:
                rules.understood(response)
                raise ServiceUnavailableError(
                    f"A reward was answered {response.status_code}.", mend="Send it again a little later."
                )
            return

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncPolicyClient:
    """As :class:`PolicyClient`, for asyncio."""

    def __init__(
        self,
        url: str,
        policy: str = "rl_policy",
        config: ClientConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._rules = _Rules(config or ClientConfig(), policy, clock)
        self._http = httpx.AsyncClient(base_url=url, headers=self._rules.headers, transport=transport, trust_env=False)

    @property
    def breaker(self) -> CircuitBreaker:
        """Open while the service is left alone."""
        return self._rules.breaker

    async def act(self, observation: Observation, **options: Any) -> Answer:
        """See :meth:`PolicyClient.act`."""
        return await self._ask(observation, None, options)

    async def act_batch(self, observations: Sequence[Observation], **options: Any) -> Answer:
        """See :meth:`PolicyClient.act_batch`."""
        return await self._ask(observations, len(observations), options)

    async def _ask(self, observation: Sequence[Any], rows: int | None, options: Mapping[str, Any]) -> Answer:
        exchange = self._rules.exchange(observation, rows, options)
        try:
            content, left = next(exchange)
            while True:
                reply: httpx.Response | httpx.RequestError | TimeoutError
                try:
                    async with asyncio.timeout(left):  # httpx's own limits are for each read, not for all of them
                        reply = await self._http.post(self._rules.path, content=content, timeout=left)
                except (httpx.RequestError, TimeoutError) as error:
                    reply = error
                content, left = exchange.send(reply)
        except StopIteration as done:
            return _given(done)

    async def reward(self, request_id: str, reward: float, **more: Any) -> None:
        """See :meth:`PolicyClient.reward`; asked once."""
        content = wire.encode({"request_id": request_id, "reward": reward, **more})
        limit_s = REWARD_DEADLINES * self._rules.config.deadline_s
        try:
            async with asyncio.timeout(limit_s):
                response = await self._http.post("/v1/rewards", content=content, timeout=limit_s)
        except (httpx.RequestError, TimeoutError) as error:
            raise ServiceUnavailableError(f"A reward was not delivered: {error}.", mend="Send it again.") from error
        if response.status_code != 202:
            self._rules.understood(response)
            raise ServiceUnavailableError(f"A reward was answered {response.status_code}.", mend="Send it again later.")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
