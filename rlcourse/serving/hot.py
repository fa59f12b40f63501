"""The hot route as a bare ASGI application, and what guards it: bounds, API keys, an orderly end.

::

    POST /v1/policies/{name}/action   ┐ answered here, before any routing: FastAPI's own way costs as much as
    POST /predictions/{name}          ┘ everything else together
    everything else                     :func:`rlcourse.serving.http.documented`, once the API key is right
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from rlcourse.errors import ConfigError
from rlcourse.serving import wire
from rlcourse.serving.batching import Batcher
from rlcourse.serving.refusals import Refused
from rlcourse.serving.service import PolicyService

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Rest = Callable[[Scope, Receive, Send], Awaitable[None]]

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
    """ASGI: the hot route, and another application behind it.

    Args:
        service: who decides.
        rest: the application that answers every other path.
        refused: counts refusals by status.
        keys: API keys, any of which opens; none: no key is asked for.
        flush: called before answers go out, once for all of a turn of the event loop: what they say has then left this
            process, for the log. ``None``: answers do not wait.
    """

    def __init__(
        self,
        service: PolicyService,
        config: HttpConfig,
        *,
        rest: Rest,
        refused: MutableMapping[int, int],
        keys: Sequence[str] = (),
        flush: Callable[[], None] | None = None,
    ) -> None:
        self.service, self.config, self.flush = service, config, flush
        self.in_flight = 0
        self.draining = False
        self.refused = refused
        self._keys = [key.encode() for key in keys]
        self._batcher = Batcher(service, max_rows=config.max_batch_rows, max_waiting=config.max_in_flight)
        self._hot: dict[bytes, str] = {}
        self._lengths = [(b"content-length", str(n).encode()) for n in range(4096)]
        self._rest = rest
        self.slow: Set[str] = service.shelf.slow
        """Policies that are not asked on the spot, or not by all of their versions."""

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
            spot = len(prepared.obs) <= prepared.loaded.inline_rows
            outcome = service.run(prepared) if spot else await self._batcher.run(prepared)
            answer = wire.encode(service.finish(prepared, outcome))
            if self.flush is not None:
                self.flush()
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

    def hot(self, url: bytes) -> str | None:
        """The policy that a POST to this address asks, if it is loaded."""
        name = self._hot.get(url)
        if name is None and url.startswith((b"/predictions/", b"/v1/policies/")):
            wanted = url[13:].decode("latin-1").removesuffix("/action" if url[1] == 118 else "")
            if wanted in self.service.shelf.entries and (url[1] == 112 or url.endswith(b"/action")):
                name = self._hot[url] = wanted  # as many as there are policies, at most
        return name

    def answer(self, name: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, bytes, bytes] | None:
        """The hot route without ASGI, for policies that are asked on the spot: status, more header lines, body.

        ``None``: so many observations would keep everybody else waiting; ask the other way.
        """
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
            prepared = service.prepare(name, wire.read_action(body), arrived)
            if len(prepared.obs) > prepared.loaded.inline_rows:
                return None
            return 200, b"", wire.encode(service.finish(prepared, service.run(prepared)))
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


class _Gone(Exception):
    """The client left before its request was whole."""


def _no_key() -> Refused:
    return Refused(401, "No valid API key was sent.", mend="Send one as Authorization: Bearer KEY or X-API-Key: KEY.")
