"""The process around the application: sockets, time limits, signals, an orderly end. The one file that imports uvicorn.

::

    SIGTERM ─▶ /readyz says 503, answers carry "connection: close"     the load balancer looks elsewhere
            ─▶ drain_s later: no new connections, what has begun ends
            ─▶ the log is written out, sessions are saved               exit status 0
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rlcourse.errors import ConfigError
from rlcourse.serving.hot import Application

SPARE_FILES = 48
"""Files that stay free for the log, for policies that are loaded, and for the management port."""
MANAGERS = 16
"""Connections to the management port at once."""
REQUEST_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True)
class ServerConfig:
    """Where to listen, and for how long to be patient."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets others in."""
    port: int = 8080
    """0 takes a free one and says which."""
    management_port: int = 8081
    """For loading and switching versions, on 127.0.0.1 only; 0 takes a free one."""
    read_timeout_s: float = 10.0
    """A request that has not arrived whole by then is given up (408): nobody holds a connection by sending slowly."""
    keep_alive_s: float = 75.0
    """An idle connection is closed after this time."""
    max_connections: int = 10_000
    """To the public port, at once; at most three quarters of the files that this process may open (ulimit -n). Beyond, the
    one that has been waited for longest is closed for each that comes."""
    drain_s: float = 0.5
    """Between SIGTERM and the last connection: how long load balancers have to notice."""
    shutdown_s: float = 10.0
    """How long requests that have begun may still take then."""

    def __post_init__(self) -> None:
        for port in (self.port, self.management_port):
            if not 0 <= port < 65536:
                raise ConfigError(f"{port} is no port.", mend="Use 0 to 65535.")
        if self.port and self.port == self.management_port:
            raise ConfigError(
                f"Both ports are {self.port}.", mend="Give --management-port another number, or 0 for a free one."
            )
        if self.max_connections < 1:
            raise ConfigError("No connection is taken.", mend="Use --max-connections 1 or more.")
        if min(self.read_timeout_s, self.keep_alive_s, self.shutdown_s) <= 0.0 or self.drain_s < 0.0:
            raise ConfigError("A time limit is not above 0.", mend="Use seconds above 0.")


class _Timed(HttpToolsProtocol):
    """Knows since when it has been waiting, for the rest of a request or for the next one."""

    most = MANAGERS
    """Connections at once."""
    reading_since: float | None = None
    idle_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.reading_since = self.loop.time()
        if len(self.connections) > self.most:
            self._make_room()

    def _make_room(self) -> None:
        """Close the connection that has been waited for longest, be it this one: the others are being answered then."""
        oldest, since = self, self.loop.time()
        for one in self.connections:
            assert isinstance(one, _Timed)
            waited = one.waiting_since
            if waited is not None and waited < since and not one.transport.is_closing():
                oldest, since = one, waited
        oldest.give_up()

    @property
    def waiting_since(self) -> float | None:
        """Since when its client has kept it waiting; ``None`` while it is the client that waits."""
        return self.reading_since if self.reading_since is not None else self.idle_since

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and self.reading_since is None:
            self.idle_since = self.loop.time()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun()

    def _begun(self) -> None:
        self.idle_since = None
        if self.reading_since is None:
            self.reading_since = self.loop.time()

    def on_message_complete(self) -> None:
        self.reading_since = None
        super().on_message_complete()

    def give_up(self) -> None:
        """Close, with a word to the client if nothing has been answered yet."""
        if self.transport.is_closing():
            return
        unanswered = self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        if self.reading_since is not None and unanswered:
            self.transport.write(REQUEST_TIMEOUT)
        self.transport.close()


class Head(NamedTuple):
    """What the first lines of a request mean."""

    name: str
    """Of the policy that is asked."""
    length: int
    """Of the body, in bytes."""
    headers: list[tuple[bytes, bytes]]


class Heads(dict[bytes, Head]):
    """Heads that have been read, by their bytes."""

    MOST, LONGEST = 1024, 1024

    def keep(self, head: bytes, meaning: Head) -> None:
        """Know it the next time. All are forgotten when they are too many: those in use are read again at once."""
        if len(head) <= self.LONGEST:
            if len(self) >= self.MOST:
                self.clear()
            self[head] = meaning


class Opening:
    """How answers begin, until the date changes."""

    def __init__(self) -> None:
        self.made_for: list[tuple[bytes, bytes]] | None = None
        self.rest = self.line = b""

    def make(self, default: list[tuple[bytes, bytes]]) -> None:
        """Take the headers that uvicorn makes anew each second, and each second only."""
        self.made_for = default
        date = default[0][1] if default else b""
        self.rest = b"\r\ndate: %b\r\ncontent-type: application/json\r\ncontent-length: " % date
        self.line = b"HTTP/1.1 %b%b" % (STATUS[200], self.rest)


class Outbox:
    """Answers that wait for their lines in the log, until the end of this turn of the event loop.

    One write for all of them: a busy loop reads from many connections in one turn.

    Args:
        flush: gives the lines to the operating system.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._waiting: list[tuple[asyncio.WriteTransport, bytes, bool]] = []

    def put(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.WriteTransport, answer: bytes, *, last: bool
    ) -> None:
        """An answer; after the ``last`` one its connection is closed."""
        if not self._waiting:
            loop.call_soon(self.release)
        self._waiting.append((transport, answer, last))

    def release(self) -> None:
        """Write the lines, then send what waits for them."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        self._flush()
        for transport, answer, last in waiting:
            transport.write(answer)
            if last:
                transport.close()


class _Quick(_Timed):
    """Answers the hot route where its last byte is read: no task, no scope, no messages.

    Half of what a small request costs under ASGI is ASGI. Whatever is out of the ordinary (another path, a long or
    chunked body, a client that reads slowly, requests that overtake each other) goes the ordinary way.

    A client sends the same head again and again, and the parser calls back a dozen times for each. So a head that has
    been read once, as that of a whole request in one piece, is known by its bytes from then on; the parser does not see
    such a request at all.
    """

    application: Application
    heads: Heads
    opening: Opening
    outbox: Outbox | None = None  # None: answers wait for nothing
    _name: str | None = None  # the policy that the request being read is for
    _body: bytes = b""
    _ending = False
    _slowly = False  # what is being read goes the ordinary way
    _between = True  # the parser has seen the end of a request and nothing of the next one
    _answered: Head | None = None  # the last request, if another one with its head may go the short way

    def data_received(self, data: bytes) -> None:
        if not self._between:
            super().data_received(data)
            return
        end = data.find(b"\r\n\r\n") + 4
        head = data[:end]
        known = self.heads.get(head)
        if known is not None and len(data) - end == known.length and self._free(known.name):
            if self.timeout_keep_alive_task is not None:
                self._unset_keepalive_if_required()
            self.reading_since = None
            if self._answer(known.name, data[end:], known.headers, last=self._ending or self.application.draining):
                return
            self._slowly = True
        self._answered = None
        super().data_received(data)
        self._slowly = False
        answered = self._answered
        if answered is not None and self._between and len(data) - end == answered.length:
            self.heads.keep(head, answered)

    def _free(self, name: str) -> bool:
        """Whether an answer of this policy can go out at once."""
        if self.flow.write_paused or name in self.application.slow:
            return False
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        self._between = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._begun()

    def on_headers_complete(self) -> None:
        name = self.application.hot(self.url)
        if name is not None and self._ordinary(name):
            self._name, self._body = name, b""
            return
        self._usually()

    def _usually(self) -> None:
        """Begin an ASGI cycle with the head that has been read."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)  # the scope holds this list
        super().on_headers_complete()

    def _ordinary(self, name: str) -> bool:
        parser = self.parser
        if self._slowly:
            return False
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1" or parser.should_upgrade():
            return False
        if self.expect_100_continue or not self._free(name):
            return False
        for header, value in self.headers:
            if header == b"content-length":
                return len(value) < 5  # under 10,000 bytes, or a batch that can afford the other way
        return False

    def on_body(self, body: bytes) -> None:
        if self._name is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        self._between = True
        if self._name is None:
            super().on_message_complete()
            return
        name, self._name, self.reading_since = self._name, None, None
        last = self._ending or self.application.draining or not self.parser.should_keep_alive()
        if not last:
            self._answered = Head(name, len(self._body), self.headers)
        if not self._answer(name, self._body, self.headers, last=last):
            self._usually()
            super().on_body(self._body)
            super().on_message_complete()

    def _answer(self, name: str, body: bytes, headers: list[tuple[bytes, bytes]], *, last: bool) -> bool:
        """Whether it could be answered on the spot."""
        found = self.application.answer(name, body, headers)
        if found is None:
            return False
        status, lines, answer = found
        default = self.server_state.default_headers
        if default is not self.opening.made_for:
            self.opening.make(default)
        if status == 200 and not last:
            self._send(b"%b%d\r\n\r\n%b" % (self.opening.line, len(answer), answer))
            self.idle_since = self.loop.time()
            return True
        closing = b"\r\nconnection: close" if last else b""
        self._send(
            b"HTTP/1.1 %b%b%d%b%b\r\n\r\n%b"
            % (STATUS.get(status) or status_line(status), self.opening.rest, len(answer), lines, closing, answer),
            last=last,
        )
        if not last:
            self.idle_since = self.loop.time()
        return True

    def _send(self, answer: bytes, *, last: bool = False) -> None:
        if self.outbox is not None:
            self.outbox.put(self.loop, self.transport, answer, last=last)
            return
        self.transport.write(answer)
        if last:
            self.transport.close()

    def eof_received(self) -> None:
        self._release()  # the transport closes itself now
        super().eof_received()

    def send_400_response(self, msg: str) -> None:
        self._release()
        super().send_400_response(msg)

    def give_up(self) -> None:
        self._release()
        super().give_up()

    def shutdown(self) -> None:
        self._release()
        if self._name is None:
            super().shutdown()
        else:
            self._ending = True  # what is being read will be answered

    def _release(self) -> None:
        # What would be sent or closed at once must not overtake what waits.
        if self.outbox is not None:
            self.outbox.release()


STATUS = {200: b"200 OK"}


def status_line(status: int) -> bytes:
    """As ``404 Not Found``."""
    return f"{status} {http.HTTPStatus(status).phrase}".encode()


def quick_protocol(application: Application, *, most: int = sys.maxsize) -> type[asyncio.Protocol]:
    """The protocol of this application's connections, of which there are so many at once."""
    outbox = None if application.flush is None else Outbox(application.flush)
    shared = {"application": application, "heads": Heads(), "opening": Opening(), "outbox": outbox, "most": most}
    return type("_QuickHere", (_Quick,), shared)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # two servers, one loop: :func:`serve` listens to the signals for both


def bound(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is taken or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            mend="Choose another port, or 0 for a free one.",
        ) from error
    found.set_inheritable(False)
    return found


def connections_within(wanted: int, files: int) -> int:
    """How many connections may be taken by a process that may open so many files.

    Worked numbers: of 1024 files a quarter is spared, so 768; of 128 files 48 are, so 80.

    Raises:
        ConfigError: not even one.
    """
    if files == resource.RLIM_INFINITY:
        return wanted
    most = min(wanted, files - max(SPARE_FILES, files // 4))
    if most < 1:
        raise ConfigError(f"This process may open {files} files.", mend="Allow it 1024: ulimit -n 1024.")
    return most


def run(
    application: Application,
    management: Callable[..., Awaitable[None]],
    config: ServerConfig,
    *,
    listening: Callable[[str, str], None],
    every_second: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain.

    Args:
        application: for everybody.
        management: for this machine.
        listening: told both addresses when connections are taken.
        every_second: called while serving; must be quick.
    """
    most = connections_within(config.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    public, private = bound(config.host, config.port), bound("127.0.0.1", config.management_port)
    settings: dict[str, Any] = {
        "loop": "uvloop",
        "lifespan": "off",
        "ws": "none",
        "access_log": False,
        "log_level": "warning",
        "server_header": False,
        "timeout_keep_alive": int(config.keep_alive_s) or 1,
        "timeout_graceful_shutdown": int(config.shutdown_s) or 1,
        "backlog": 2048,
    }
    main = _Server(uvicorn.Config(application, http=quick_protocol(application, most=most), **settings))
    side = _Server(uvicorn.Config(management, http=_Timed, **settings))

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        tasks = [loop.create_task(main.serve([public])), loop.create_task(side.serve([private]))]
        while not (main.started and side.started):
            await asyncio.sleep(0.001)
        # What has been made by now lives as long as the process: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        listening(_address(public), _address(private))
        watch = loop.create_task(_watch((main, side), config, every_second))
        await stop.wait()
        application.draining = True
        await asyncio.sleep(config.drain_s)
        main.should_exit = side.should_exit = True
        await asyncio.gather(*tasks)
        watch.cancel()
        application.close()

    with asyncio.Runner(loop_factory=main.config.get_loop_factory()) as runner:
        runner.run(serve())


async def _watch(servers: tuple[uvicorn.Server, ...], config: ServerConfig, every_second: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    pause = min(1.0, config.read_timeout_s / 4)
    while True:
        await asyncio.sleep(pause)
        now = loop.time()
        for server in servers:
            for connection in list(server.server_state.connections):
                assert isinstance(connection, _Timed)
                if connection.reading_since is not None and now - connection.reading_since > config.read_timeout_s:
                    connection.give_up()
                elif connection.idle_since is not None and now - connection.idle_since > config.keep_alive_s:
                    connection.transport.close()
        every_second()


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
