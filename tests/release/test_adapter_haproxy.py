"""A real HAProxy in front of two small servers."""

from __future__ import annotations

import http.client
import json
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
from rlcourse.recipes.command_line import main
from rlcourse.release.adapters.haproxy import HAProxyRouter, configuration
from rlcourse.release.audit import read_audit
from rlcourse.release.controller import Controller
from rlcourse.release.gates import Demand, GateConfig, Reason
from rlcourse.release.matching import Variation
from rlcourse.release.routing import Routing
from rlcourse.release.stages import Release, Stage
from rlcourse.release.straying import PAUSE, PUT_RIGHT, strayed
from tests.release.pieces import evidence, verdict

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
    process = running(program, folder)
    yield path, port
    process.terminate()
    process.wait(20)
    for server in backends.values():
        server.shutdown()
        server.server_close()


def running(program: str, folder: Path) -> subprocess.Popen[bytes]:
    words = [program, "-db", "-f", str(folder / "haproxy.cfg")]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began = time.monotonic()
    while not (folder / "admin.sock").exists() and time.monotonic() - began < 20.0:
        time.sleep(0.02)
    return process


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
    with pytest.raises(ConfigError, match="cannot mirror"):
        HAProxyRouter(proxy[0], "policy", SERVERS).apply(Routing("v1", shadow="v2"))


def test_it_is_asked_in_its_own_words(proxy: tuple[Path, int]) -> None:
    router = HAProxyRouter(proxy[0], "policy", SERVERS)
    for routing, said in (
        (Routing("v1"), Routing("v1")),
        (Routing("v1", "v2", 0.05, "r7"), Routing("v1", "v2", 13 / 256)),
        (Routing("v1", "v2", 0.5, "r7"), Routing("v1", "v2", 0.5)),
        (Routing("v1", "v2", 0.95, "r7"), Routing("v2", "v1", 13 / 256)),
        (Routing("v2", "v1", 0.0, "r7"), Routing("v2")),
    ):
        router.apply(routing)
        assert (router.current(), router.nearest(routing)) == (said, said)
        assert strayed(router, routing, "v2") is None
    assert (strayed(router, Routing("v1", "v2", 0.95, "r7"), "v2") or Reason("", "")).code == PUT_RIGHT
    router.apply(Routing("v1"))
    router.check("v1", "v2")
    for weights in ((0, 0), (200, 56)):
        for server, weight in zip(("blue", "green"), weights, strict=True):
            router._command(f"set weight policy/{server} {weight}")
        assert (router.current() is None) == (weights == (0, 0))
        assert (strayed(router, Routing("v1", "v2", 0.5), "v2") or Reason("", "")).code == PAUSE
        with pytest.raises(ConfigError, match="not v1 alone"):
            router.check("v1", "v2")
    with pytest.raises(ConfigError, match="v3"):
        router.check("v1", "v3")


def test_a_restart_in_the_middle_is_noticed(proxy: tuple[Path, int], tmp_path: Path) -> None:
    """On a HAProxy of its own, which begins again with the weights of its configuration."""
    (tmp_path / "haproxy.cfg").write_text(
        configuration(
            tmp_path / "admin.sock", free_port(), {"blue": ("127.0.0.1", 9), "green": ("127.0.0.1", 9)}, "blue"
        )
    )
    program = str(shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin"))
    router = HAProxyRouter(tmp_path / "admin.sock", "policy", SERVERS)
    stages = (Stage("canary", 0.2, Demand("no_harm", 1e6)),)
    release = Release("r7", "v2", "v1", stages, GateConfig(tuned_at=20.0), Variation(1.0, 1.0))
    process = running(program, tmp_path)
    try:
        controller = Controller.start(tmp_path / "r7", release, router, who="mia", why="", clock=lambda: 1_000.0)
        assert controller.tick(evidence(at=1_000.0), verdict()).reasons[0].code == "collecting"
        assert router.current() == Routing("v1", "v2", 51 / 256)
        process.terminate()
        process.wait(20)
        (tmp_path / "admin.sock").unlink(missing_ok=True)
        process = running(program, tmp_path)
        assert router.current() == Routing("v1")
        assert controller.tick(evidence(at=1_000.0), verdict()).reasons[0].code == PAUSE
        last = read_audit(tmp_path / "r7" / "audit.jsonl").entries[-1]
        assert (last.who, last.what) == ("controller", "pause")
        controller.override("resume", "mia", "it was restarted")
        assert router.current() == Routing("v1", "v2", 51 / 256)
    finally:
        process.terminate()
        process.wait(20)


def test_blue_green_passes_without_a_shadow(
    proxy: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, port = proxy
    HAProxyRouter(path, "policy", SERVERS).apply(Routing("v1"))
    folder = str(tmp_path / "r7")
    there = ["--router.kind", "haproxy", "--router.policy", "policy", "--router.socket", str(path)]
    told = ["--candidate", "v2", "--incumbent", "v1", *there, "--router.servers", "v1=blue", "v2=green"]
    why = ["--who", "mia", "--why", "a new build"]
    assert (
        main(["release", "start", str(tmp_path / "r8"), *told, *why, "--sessions", "day", "--shadow-requests", "5"])
        == 2
    )
    assert "--shadow-requests" in capsys.readouterr().err
    begin = ["release", "start", folder, "--strategy", "blue-green", "--least-hours", "0", *told, *why]
    assert main(begin) == 0
    assert on_trial(port) == set()
    assert main(["release", "approve", folder, *why]) == 0
    assert on_trial(port) == set(SESSIONS)
    found = tmp_path / "evidence.json"
    counts = {name: {"bad": 0, "total": 1_000} for name in ("latency", "errors", "fallbacks")}
    found.write_text(json.dumps({"measured_at_s": time.time(), "counts": counts, "violations": 0}))
    assert main(["release", "step", folder, "--evidence", str(found)]) == 0  # asks: no log was read
    assert main(["release", "approve", folder, *why]) == 0
    assert main(["release", "step", folder, "--evidence", str(found)]) == 0
    assert Controller(Path(folder), HAProxyRouter(path, "policy", SERVERS)).state().status == "promoted"
    assert main(["release", "start", str(tmp_path / "r8"), *begin[3:]]) == 2  # v2 is live now
    assert "not v1 alone" in capsys.readouterr().err
