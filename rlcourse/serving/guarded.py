"""What stands before the management: bounds, and a look at where a request comes from.

The port can be reached from this machine alone. But a browser on this machine fetches what any web page tells it to, and
sends it from here. So three things are asked of each request:

::

    Host            127.0.0.1, localhost or [::1]: a name that somebody pointed here (DNS rebinding) is none of these
    Origin          none, as from a program, or this very port: a page from elsewhere names itself
    content-type    application/json, where there is a body: a page may send other kinds without asking first
"""

from __future__ import annotations

from urllib.parse import urlsplit

from rlcourse.serving import wire
from rlcourse.serving.hot import CLOSE, JSON, Message, Receive, Rest, Scope, Send
from rlcourse.serving.refusals import Refused

HERE = frozenset({"127.0.0.1", "localhost", "::1"})
MOST_BYTES = 64 * 1024
"""Of a body. The longest that means anything is a path and a few names."""


class Guarded:
    """ASGI: another application, behind a guard.

    Args:
        app: what answers those who are let through.
        max_body_bytes: a larger body is refused, and not read into memory.
    """

    def __init__(self, app: Rest, *, max_body_bytes: int = MOST_BYTES) -> None:
        self._app, self._max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            _demand_local(headers)
            body = await self._body(headers, receive)
        except Refused as refusal:
            return await _refuse(refusal, send)

        async def again() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = {"type": "http.request", "body": body, "more_body": False}, None
            return message

        return await self._app(scope, again, send)

    async def _body(self, headers: dict[bytes, str], receive: Receive) -> bytes | None:
        declared = headers.get(b"content-length", "0")
        size = int(declared) if declared.isdecimal() else 0
        parts: list[bytes] = []
        more = True
        while more and size <= self._max_body_bytes:
            message = await receive()
            parts.append(message.get("body", b""))
            more = bool(message.get("more_body"))
            size = max(size, sum(map(len, parts)))
        if size > self._max_body_bytes:
            raise Refused(413, f"The body has more than {self._max_body_bytes} bytes.", mend="Send one JSON object.")
        body = b"".join(parts)
        if body and headers.get(b"content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "The body is not said to be JSON.", mend="Send content-type: application/json with it.")
        return body


def _demand_local(headers: dict[bytes, str]) -> None:
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    try:
        here = urlsplit(f"//{host}").hostname in HERE
    except ValueError:  # brackets that do not close
        here = False
    if not here:
        raise Refused(403, f"This port is not {host[:100]}.", mend="Ask for it as 127.0.0.1 or localhost.")
    if origin is not None and origin != f"http://{host}":
        raise Refused(403, "A web page from elsewhere may not manage this.", mend="Ask from a program, or from /docs.")


async def _refuse(refusal: Refused, send: Send) -> None:
    body = wire.encode({"error": refusal.problem, "mend": refusal.mend})
    headers = [JSON, (b"content-length", str(len(body)).encode()), CLOSE]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
