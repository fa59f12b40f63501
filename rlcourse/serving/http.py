"""The service as a web application: FastAPI for what is rare and documented, a bare ASGI endpoint for what is hot.

::

    POST /v1/policies/{name}/action   ┐ answered here, before any routing: FastAPI's own way costs as much as
    POST /predictions/{name}          ┘ everything else together
    POST /v1/rewards     GET /v1/policies    DELETE /v1/policies/{name}/sessions/{session}
    GET /healthz /readyz /metrics /openapi.json /docs

Versions are loaded and switched by another application (:func:`management`), which belongs on a port that only this
machine can reach.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from rlcourse.errors import ArtifactError, ConfigError, StorageError
from rlcourse.serving import wire
from rlcourse.serving.batching import Batcher
from rlcourse.serving.policies import Artifact
from rlcourse.serving.refusals import Refused
from rlcourse.serving.service import PolicyService
from rlcourse.serving.shelf import Loaded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")


@dataclass(frozen=True)
class HttpConfig:
    """Bounds of the web layer."""

    max_body_bytes: int = 1_000_000
    """A larger body is refused, and not read into memory."""
    max_in_flight: int = 1024
    """Requests begun and not answered; beyond, 429."""
    max_batch_rows: int = 256
    """Observations of several requests asked together, of a policy too slow to be asked at once."""
    linger_s: float = 2.0
    """How long the rest of a refused body is thrown away, so that the client sees the answer."""

    def __post_init__(self) -> None:
        if min(self.max_body_bytes, self.max_in_flight, self.max_batch_rows) < 1:
            raise ConfigError("A bound of the web layer is below 1.", mend="Use 1 or more.")


class Application:
    """ASGI: the hot route, and FastAPI behind it.

    Args:
        service: who decides.
        exposition: what a scrape of /metrics is answered.
        refused: counts refusals by status.
        keys: API keys, any of which opens; none: no key is asked for.
        ready: why the service is not ready, or ``None``.
    """

    def __init__(
        self,
        service: PolicyService,
        config: HttpConfig,
        *,
        exposition: Callable[[], tuple[bytes, str]],
        refused: MutableMapping[int, int],
        keys: Sequence[str] = (),
        ready: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.service, self.config = service, config
        self.in_flight = 0
        self.draining = False
        self.refused = refused
        self._keys = [key.encode() for key in keys]
        self._batcher = Batcher(service, max_rows=config.max_batch_rows, max_waiting=config.max_in_flight)
        self._hot: dict[bytes, str] = {}
        self._lengths = [(b"content-length", str(n).encode()) for n in range(4096)]
        self._ready = ready
        self._rest = self._documented(exposition)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            path = scope["path"]
            if scope["method"] == "POST":
                if path.startswith("/predictions/"):
                    return await self._act(path[13:], scope, receive, send)
                if path.startswith("/v1/policies/") and path.endswith("/action"):
                    return await self._act(path[13:-7], scope, receive, send)
            if self._keys and not path.startswith(("/healthz", "/readyz")) and not self._opens(scope):
                return await self._refuse(_no_key(), receive, send)
        return await self._rest(scope, receive, send)

    async def _act(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.service
        arrived = service.clock()
        self.in_flight += 1
        unread = True
        try:
            if self.in_flight > self.config.max_in_flight:
                raise Refused(429, "Too many requests at once.", mend="Ask again a little later.", retry_after_s=1.0)
            if self._keys and not self._opens(scope):
                raise _no_key()
            message = await receive()
            body = message.get("body", b"")
            if message.get("more_body") or len(body) > self.config.max_body_bytes:
                body, unread = await self._long_body(scope, body, message, receive)
                if len(body) > self.config.max_body_bytes or unread:
                    limit = self.config.max_body_bytes
                    raise Refused(
                        413, f"The body has more than {limit} bytes.", mend="Send fewer observations at once."
                    )
            elif message["type"] != "http.request":
                return None  # the client has gone
            unread = False
            prepared = service.prepare(name, wire.read_action(body), arrived)
            outcome = service.run(prepared) if prepared.loaded.inline else await self._batcher.run(prepared)
            answer = wire.encode(service.finish(prepared, outcome))
        except Refused as refusal:
            return await self._refuse(refusal, receive, send, unread=unread)
        except _Gone:
            return None
        finally:
            self.in_flight -= 1
        size = len(answer)
        length = self._lengths[size] if size < 4096 else (b"content-length", str(size).encode())
        headers = [JSON, length, CLOSE] if self.draining else [JSON, length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        return None

    @property
    def quick(self) -> bool:
        """Whether every policy here is asked on the spot."""
        return self.service.shelf.all_inline

    def hot(self, url: bytes) -> str | None:
        """The policy that a POST to this address asks, if it is loaded."""
        name = self._hot.get(url)
        if name is None and url.startswith((b"/predictions/", b"/v1/policies/")):
            wanted = url[13:].decode("latin-1").removesuffix("/action" if url[1] == 118 else "")
            if wanted in self.service.shelf.entries and (url[1] == 112 or url.endswith(b"/action")):
                name = self._hot[url] = wanted  # as many as there are policies, at most
        return name

    def answer(self, name: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, bytes, bytes]:
        """The hot route without ASGI, for policies that are asked on the spot: status, more header lines, body."""
        service = self.service
        arrived = service.clock()
        try:
            if self._keys and not self._opens({"headers": headers}):
                raise _no_key()
            if self.in_flight >= self.config.max_in_flight:
                raise Refused(429, "Too many requests at once.", mend="Ask again a little later.", retry_after_s=1.0)
            if len(body) > self.config.max_body_bytes:
                limit = self.config.max_body_bytes
                raise Refused(413, f"The body has more than {limit} bytes.", mend="Send fewer observations at once.")
            return 200, b"", wire.encode(service.act(name, wire.read_action(body), arrived))
        except Refused as refusal:
            self.refused[refusal.status] = self.refused.get(refusal.status, 0) + 1
            lines = b"\r\nwww-authenticate: Bearer" if refusal.status == 401 else b""
            if refusal.retry_after_s is not None:
                lines += f"\r\nretry-after: {round(refusal.retry_after_s)}".encode()
            return refusal.status, lines, wire.encode({"error": refusal.problem, "mend": refusal.mend})

    async def _long_body(self, scope: Scope, body: bytes, message: Message, receive: Receive) -> tuple[bytes, bool]:
        """What came of the body, up to the limit, and whether more of it is on its way."""
        limit = self.config.max_body_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            return body, bool(message.get("more_body"))
        parts, size = [body], len(body)
        while message.get("more_body") and size <= limit:
            message = await receive()
            if message["type"] != "http.request":
                raise _Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        return b"".join(parts), bool(message.get("more_body"))

    def _opens(self, scope: Scope) -> bool:
        given = b""
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                given = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:]
        # Every key is compared, and each in constant time: how long it takes says nothing of how near a guess came.
        return sum([hmac.compare_digest(given, key) for key in self._keys]) > 0

    async def _refuse(self, refusal: Refused, receive: Receive, send: Send, *, unread: bool = True) -> None:
        status = refusal.status
        self.refused[status] = self.refused.get(status, 0) + 1
        body = wire.encode({"error": refusal.problem, "mend": refusal.mend})
        headers = [JSON, (b"content-length", str(len(body)).encode())]
        if refusal.retry_after_s is not None:
            headers.append((b"retry-after", str(round(refusal.retry_after_s)).encode()))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if unread or self.draining:
            headers.append(CLOSE)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if unread:
            # The answer goes out now; whoever is still sending would otherwise find the connection reset before reading it.
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await self._throw_away(receive)
            body = b""
        await send({"type": "http.response.body", "body": body})

    async def _throw_away(self, receive: Receive) -> None:
        try:
            async with asyncio.timeout(self.config.linger_s):
                while (await receive()).get("more_body"):
                    pass
        except TimeoutError:
            pass

    def close(self) -> None:
        """No more requests."""
        self._batcher.close()

    def _documented(self, exposition: Callable[[], tuple[bytes, str]]) -> FastAPI:
        app = FastAPI(title="Policy service", version="1", description="What would the policy do?")

        @app.get("/healthz", summary="The process is alive")
        async def healthz() -> dict[str, str]:
            return {"status": "alive"}

        @app.get("/readyz", summary="Policies are loaded and warm", responses={503: {"description": "Not ready"}})
        async def readyz() -> Response:
            why = "draining" if self.draining else self._ready()
            return JSONResponse({"status": why or "ready"}, 200 if why is None else 503)

        @app.get("/metrics", summary="For Prometheus", response_class=Response)
        async def metrics() -> Response:
            content, kind = exposition()
            return Response(content, media_type=kind)

        @app.get("/v1/policies", summary="What is loaded")
        async def policies() -> dict[str, Any]:
            return {"policies": [listed(self.service, name) for name in self.service.shelf.entries]}

        @app.get("/v1/policies/{name}", summary="The versions of a policy", responses=_errors(404))
        async def policy(name: str) -> Response:
            return self._answered(lambda: listed(self.service, name))

        action = {
            "requestBody": {"required": True, "content": {"application/json": {"schema": ACTION_SCHEMA}}},
            "responses": {
                "200": {"description": "The action", "content": {"application/json": {"schema": ANSWER_SCHEMA}}}
            },
        }

        # Answered above, before routing; declared here for the documentation.
        @app.post(
            "/v1/policies/{name}/action",
            summary="Ask for an action",
            openapi_extra=action,
            responses=_errors(400, 401, 404, 413, 422, 429),
        )
        @app.post(
            "/predictions/{name}",
            summary="The same, as TorchServe names it",
            openapi_extra=action,
            responses=_errors(400, 401, 404, 413, 422, 429),
        )
        async def act(name: str, request: Request) -> Response:
            body = await self._body(request)
            return (
                body
                if isinstance(body, Response)
                else self._answered(lambda: self.service.act(name, wire.read_action(body)))
            )

        reward = {"requestBody": {"required": True, "content": {"application/json": {"schema": REWARD_SCHEMA}}}}

        @app.post(
            "/v1/rewards",
            summary="Say what an action led to; one object, or a list of them",
            status_code=202,
            openapi_extra=reward,
            responses=_errors(400, 413, 422),
        )
        async def rewards(request: Request) -> Response:
            body = await self._body(request)
            if isinstance(body, Response):
                return body

            def take() -> dict[str, int]:
                given = wire.read_rewards(body) if body.lstrip()[:1] == b"[" else [wire.read_reward(body)]
                for one in given:
                    self.service.reward(one)
                return {"accepted": len(given)}

            return self._answered(take, 202)

        @app.delete("/v1/policies/{name}/sessions/{session}", summary="Forget a session", responses=_errors(404))
        async def forget(name: str, session: str) -> Response:
            return self._answered(lambda: {"forgotten": self.service.forget(session, name)})

        return app

    async def _body(self, request: Request) -> bytes | Response:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self.config.max_body_bytes:
                self.refused[413] = self.refused.get(413, 0) + 1
                return JSONResponse(
                    {"error": "The body is too large.", "mend": "Send less at once."}, 413, {"connection": "close"}
                )
            parts.append(part)
        return b"".join(parts)

    def _answered(self, produce: Callable[[], Any], status: int = 200) -> Response:
        try:
            content = produce()
        except Refused as refusal:
            self.refused[refusal.status] = self.refused.get(refusal.status, 0) + 1
            return refusal_response(refusal)
        return Response(wire.encode(content), status, media_type="application/json")


class _Gone(Exception):
    """The client left before its request was whole."""


def _no_key() -> Refused:
    return Refused(401, "No valid API key was sent.", mend="Send one as Authorization: Bearer KEY or X-API-Key: KEY.")


def refusal_response(refusal: Refused) -> Response:
    """A refusal in FastAPI's words."""
    return JSONResponse({"error": refusal.problem, "mend": refusal.mend}, refusal.status)


def listed(service: PolicyService, name: str) -> dict[str, Any]:
    """A policy's versions, for people and programs."""
    entry = service.shelf.entry(name)
    return {
        "name": name,
        "default": entry.default.version,
        "previous": entry.history[-1] if entry.history else None,
        "versions": [
            {
                "version": loaded.version,
                "obs_size": loaded.policy.obs_size,
                "num_actions": loaded.policy.num_actions,
                "memory_size": loaded.policy.memory_size,
                "breaker": loaded.breaker.state.name.lower(),
                "decisions": sum(loaded.counts.values()),
            }
            for loaded in entry.versions.values()
        ],
    }


def management(
    service: PolicyService,
    *,
    read: Callable[[Path], Artifact],
    unloading: Callable[[Loaded], None] = lambda loaded: None,
    changed: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application that loads, switches and unloads versions.

    Args:
        read: an artifact from its folder.
        unloading: told of a version before it goes.
        changed: told after every change, to write it down.
    """
    app = FastAPI(title="Policy service: management", version="1")
    shelf = service.shelf

    async def respond(produce: Callable[[], Awaitable[Any]], status: int = 200) -> Response:
        try:
            content = await produce()
        except Refused as refusal:
            return refusal_response(refusal)
        except ArtifactError as error:
            return refusal_response(Refused(422, error.problem, mend=error.mend))
        except StorageError as error:
            # Done, but a restart would not know of it.
            return refusal_response(Refused(507, error.problem, mend=error.mend))
        return JSONResponse(content, status)

    def schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
        content = {"type": "object", "properties": properties, "required": list(required)}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": content}}}}

    @app.get("/v1/policies", summary="What is loaded")
    async def policies() -> dict[str, Any]:
        return {"policies": [listed(service, name) for name in shelf.entries]}

    @app.post(
        "/v1/policies/{name}/versions",
        summary="Load a version, warm it, and put it on the shelf",
        status_code=201,
        responses=_errors(400, 409, 422),
        openapi_extra=schema({"path": _TEXT, "version": NAME_SCHEMA, "default": {"type": "boolean"}}, "path"),
    )
    async def load(name: str, request: Request) -> Response:
        body = await request.body()

        async def produce() -> Any:
            wanted = wire.read_load(body)
            folder = Path(wanted.path)
            # In a thread: reading and warming take longer than a request may wait.
            artifact = await asyncio.to_thread(read, folder)
            loaded = await asyncio.to_thread(shelf.warm, name, artifact, version=wanted.version, path=folder)
            shelf.add(loaded, default=wanted.default)
            changed()
            return listed(service, name)

        return await respond(produce, 201)

    @app.put(
        "/v1/policies/{name}/default",
        summary="Let another version answer",
        responses=_errors(400, 404, 422),
        openapi_extra=schema({"version": NAME_SCHEMA}, "version"),
    )
    async def set_default(name: str, request: Request) -> Response:
        body = await request.body()

        async def produce() -> Any:
            shelf.set_default(name, wire.read_default(body).version)
            changed()
            return listed(service, name)

        return await respond(produce)

    @app.post("/v1/policies/{name}/rollback", summary="Back to the default before", responses=_errors(404, 409))
    async def rollback(name: str) -> Response:
        async def produce() -> Any:
            shelf.rollback(name)
            changed()
            return listed(service, name)

        return await respond(produce)

    @app.delete("/v1/policies/{name}/versions/{version}", summary="Unload", responses=_errors(404, 409))
    async def unload(name: str, version: str) -> Response:
        async def produce() -> Any:
            loaded = shelf.find(name, version)
            shelf.unload(name, version)
            unloading(loaded)
            changed()
            return listed(service, name)

        return await respond(produce)

    return app


def action_path(name: str) -> str:
    """Where to ask a policy."""
    return f"/v1/policies/{quote(name, safe='')}/action"


_TEXT = {"type": "string", "minLength": 1, "maxLength": 4096}
NAME_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[\\x21-\\x7e]+$"}
_NUMBERS = {"type": "array", "items": {"type": ["number", "null"]}}
_BOOLEANS = {"type": "array", "items": {"type": "boolean"}}
ACTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["observation"],
    "properties": {
        "observation": {"anyOf": [_NUMBERS, {"type": "array", "items": _NUMBERS}]},
        "deterministic": {"type": "boolean", "default": True},
        "mask": {"anyOf": [_BOOLEANS, {"type": "array", "items": _BOOLEANS}, {"type": "null"}]},
        "session": NAME_SCHEMA,
        "reset": {"type": "boolean", "default": False},
        "version": NAME_SCHEMA,
        "request_id": NAME_SCHEMA,
        "deadline_ms": {"type": "number", "exclusiveMinimum": 0, "maximum": 60000},
    },
}


def _or_list(kind: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [kind, {"type": "array", "items": kind}]}


ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["action", "probability", "policy", "version", "request_id", "fallback"],
    "properties": {
        "action": _or_list({"type": "integer", "minimum": 0}),
        "probability": _or_list({"type": "number"}),
        "confidence": _or_list({"type": ["number", "null"]}),
        "policy": {"type": "string"},
        "version": {"type": "string"},
        "request_id": {"type": "string"},
        "deterministic": {"type": "boolean"},
        "fallback": _or_list({"type": ["string", "null"]}),
    },
}
_REWARD: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["request_id", "reward"],
    "properties": {
        "request_id": NAME_SCHEMA,
        "reward": {"type": "number", "minimum": -wire.LARGEST, "maximum": wire.LARGEST},
        "terminated": {"type": "boolean"},
        "truncated": {"type": "boolean"},
        "next_observation": {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]},
        "row": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
        "session": NAME_SCHEMA,
    },
}
REWARD_SCHEMA = _or_list(_REWARD)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "No JSON",
        401: "No valid API key",
        404: "No such policy or version",
        409: "It cannot be done as things stand",
        413: "The body is too large",
        422: "JSON of another shape",
        429: "Too many requests; see Retry-After",
    }
    return {status: {"description": words[status]} for status in statuses}
