"""Pages on a port of this machine: a text on which Prometheus finds numbers, and documents that other programs ask for."""

from __future__ import annotations

import contextlib
import http
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

from rlcourse.errors import ConfigError, ServerError

HOST = "127.0.0.1"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True)
class Page:
    """One answer."""

    body: bytes
    content_type: str = JSON
    status: int = http.HTTPStatus.OK


Asked = Callable[[Mapping[str, str]], Page]
"""Makes a page from the words behind the question mark, the last of each name."""


class Pages:
    """``GET path`` is answered with a page, for as long as a block lasts.

    Args:
        pages: by path; each is called for every request, in a thread of its own.
        port: on 127.0.0.1; 0 takes a free one.

    Raises:
        ConfigError: there is no such port.
        ServerError: it is taken.
    """

    def __init__(self, pages: Mapping[str, Asked], port: int) -> None:
        if not 0 <= port < 65536:
            raise ConfigError(f"{port} is no port.", mend="Use 1 to 65535, or 0 for a free one.")
        known = f"GET {', '.join(pages)}\n".encode()

        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0  # of a client that connects and says nothing

            def do_GET(self) -> None:
                path, _, words = self.path.partition("?")
                asked = pages.get(path)
                if asked is None:
                    page = Page(known, "text/plain", http.HTTPStatus.NOT_FOUND)
                else:
                    page = asked(dict(parse_qsl(words, keep_blank_values=True)))
                with contextlib.suppress(OSError):  # whoever asked has gone
                    self.send_response(page.status)
                    self.send_header("Content-Type", page.content_type)
                    self.send_header("Content-Length", str(len(page.body)))
                    self.end_headers()
                    self.wfile.write(page.body)

            def log_message(self, format: str, *args: object) -> None:
                """A scrape every few seconds is no news."""

        try:
            self._server = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise ServerError(f"Port {port} is taken: {error}.", mend="Choose another with --port.") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="pages", daemon=True)

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


class Exposed(Pages):
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
        def document(content: Callable[[], bytes]) -> Asked:
            return lambda words: Page(content())

        pages: dict[str, Asked] = {
            "/metrics": lambda words: Page(text(), CONTENT_TYPE),
            "/healthz": lambda words: Page(b"ok\n", "text/plain"),
        }
        super().__init__(pages | {path: document(content) for path, content in (documents or {}).items()}, port)
