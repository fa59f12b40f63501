"""One time limit for the whole of a request, however many reads it takes. The one file that imports httpcore.

httpx and httpcore know limits for each operation: a server that sends one byte now and then never oversteps one. Here the
``timeout`` that httpcore hands to every connect, write and read of a request is a moment of :func:`time.monotonic`, the
same for all of them, and each operation may take what is left until then::

    connect ──▶ write ──▶ read ──▶ read ──▶ read ──▶ ...
    │◀───────────────── until the moment ──────────────▶│ then a timeout, whichever of them it is

Outside the limit stays what the operating system does in one piece: looking up a host's name, and trying each of several
addresses that a name may have (each may take what is left). An address in numbers has neither.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore

URL = httpcore.URL
FAILURES = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol)
"""What :func:`exchanged` raises."""
PIECE = 4096
"""Bytes written at once: what a socket that is ready takes without waiting."""


def exchanged(
    pool: httpcore.ConnectionPool, method: str, url: httpcore.URL, headers: Any, content: bytes, limit_s: float
) -> httpcore.Response:
    """Send a request and read its whole response, all within ``limit_s`` seconds.

    Raises:
        httpcore.TimeoutException: it was not enough.
        httpcore.NetworkError, httpcore.ProtocolError: the connection broke, or what came is no HTTP.
    """
    end = time.monotonic() + limit_s
    # Waiting for a free connection is the pool's own affair, with a duration.
    limits = {"pool": limit_s, "connect": end, "write": end, "read": end}
    return pool.request(method, url, headers=headers, content=content, extensions={"timeout": limits})


def pool(context: ssl.SSLContext) -> httpcore.ConnectionPool:
    """Connections that :func:`exchanged` can use, kept open for 5 s between two requests."""
    return httpcore.ConnectionPool(
        context, max_connections=100, max_keepalive_connections=20, keepalive_expiry=5.0, network_backend=_Backend()
    )


def _left(end: float | None, late: type[httpcore.TimeoutException]) -> float | None:
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0.0:
        raise late("The time limit of the whole request has passed.")
    return left


class _Backend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._sockets.connect_tcp(host, port, left, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), PIECE):
            self._stream.write(buffer[at : at + PIECE], _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
