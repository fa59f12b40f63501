"""A real HAProxy in front of two small servers."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from rlcourse.errors import ConfigError, ServerError
from rlcourse.release.adapters.haproxy import HAProxyRouter, configuration
from rlcourse.release.routing import Routing

SESSIONS = [f"room-{n}" for n in range(400)]
SERVERS = {"v1": "blue", "v2": "green"}


def answering(version: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or head and body go apart, and the second waits 40 ms

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(version)))
            self.end_headers()
            self.wfile.write(version.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.fail("HAProxy is not installed: apt-get install -y --no-install-recommends haproxy")
    folder = tmp_path_factory.mktemp("haproxy")
    path, port = folder / "admin.sock", free_port()
    backends = {name: answering(version) for version, name in SERVERS.items()}
    places = {name: ("127.0.0.1", int(server.server_address[1])) for name, server in backends.items()}
    (folder / "haproxy.cfg").write_text(configuration(path, port, places, "blue"))
    checked = subprocess.run([program, "-c", "-f", folder / "haproxy.cfg"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(
        [program, "-db", "-f", folder / "haproxy.cfg"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    began = time.monotonic()
    while not path.exists() and time.monotonic() - began < 20.0:
        time.sleep(0.02)
    yield path, port
    process.terminate()
    process.wait(20)
    for server in backends.values():
        server.shutdown()
        server.server_close()


def on_trial(port: int) -> set[str]:
    """The sessions that v2 answers; every answer is one of the two."""
    found, connection = set(), http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for name in SESSIONS:
        connection.request("GET", "/", headers={"x-session": name})
        said = connection.getresponse().read().decode()
        assert said in ("v1", "v2")
        if said == "v2":
            found.add(name)
    connection.close()
    return found


def test_the_share_grows_nobody_leaves_the_canary_and_the_way_back_is_at_once(proxy: tuple[Path, int]) -> None:
    path, port = proxy
    router = HAProxyRouter(path, "policy", SERVERS)
    router.apply(Routing("v1"))
    assert on_trial(port) == set()
    before: set[str] = set()
    for share in (0.05, 0.2, 0.5):
        router.apply(Routing("v1", "v2", share))
        now = on_trial(port)
        assert now == on_trial(port)  # sticky
        assert before <= now
        # Points on a ring are not spaced evenly: the share is met roughly, not to the session.
        assert 0.4 * share < len(now) / len(SESSIONS) < 1.7 * share
        before = now
    router.apply(Routing("v1"))
    assert on_trial(port) == set()
    router.apply(Routing("v2"))
    assert on_trial(port) == set(SESSIONS)
    router.apply(Routing("v1", "v2", 0.0))
    assert on_trial(port) == set()


def test_weights_are_whole_numbers_that_never_round_a_canary_away(proxy: tuple[Path, int]) -> None:
    router = HAProxyRouter(proxy[0], "policy", SERVERS)
    for share, weight in ((0.001, 1), (0.05, 13), (0.999, 255)):
        router.apply(Routing("v1", "v2", share))
        assert (router.weight("green"), router.weight("blue")) == (weight, 256 - weight)
    assert np.isclose(13 / 256, 0.05, atol=1 / 512)


def test_what_cannot_be_applied_says_so(proxy: tuple[Path, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="v3"):
        HAProxyRouter(proxy[0], "policy", SERVERS).apply(Routing("v3"))
    with pytest.raises(ServerError, match="HAProxy"):
        HAProxyRouter(proxy[0], "elsewhere", SERVERS).apply(Routing("v1"))
    with pytest.raises(ServerError, match="does not answer"):
        HAProxyRouter(tmp_path / "none.sock", "policy", SERVERS).apply(Routing("v1"))
