"""A port of this machine on which Prometheus finds a text that somebody else keeps up to date."""

from __future__ import annotations

import contextlib
import http
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from rlcourse.errors import ConfigError, ServerError

HOST = "127.0.0.1"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposed:
    """``GET /metrics`` is answered with ``text()``, ``GET /healthz`` with ok, for as long as a block lasts.

    Args:
        text: called for each scrape, in a thread of its own.
        port: on 127.0.0.1; 0 takes a free one.
        documents: more pages by their paths, of JSON.

    Raises:
        ConfigError: there is no such port.
        ServerError: it is taken.
    """

    def __init__(
        self, text: Callable[[], bytes], port: int, *, documents: Mapping[str, Callable[[], bytes]] | None = None
    ) -> None:
        if not 0 <= port < 65536:
            raise ConfigError(f"{port} is no port.", mend="Use 1 to 65535, or 0 for a free one.")

        pages = {"/metrics": (CONTENT_TYPE, text), "/healthz": ("text/plain", lambda: b"ok\n")}
        pages |= {path: ("application/json", document) for path, document in (documents or {}).items()}

        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0  # of a client that connects and says nothing

            def do_GET(self) -> None:
                kind, page = pages.get(self.path.partition("?")[0], ("text/plain", None))
                body = b"GET /metrics\n" if page is None else page()
                with contextlib.suppress(OSError):  # whoever asked has gone
                    self.send_response(http.HTTPStatus.NOT_FOUND if page is None else http.HTTPStatus.OK)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A scrape every few seconds is no news."""

        try:
            self._server = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise ServerError(f"Port {port} is taken: {error}.", mend="Choose another with --port.") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)

    @property
    def address(self) -> str:
        """host:port."""
        return f"{HOST}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
