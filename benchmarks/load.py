"""What the measurements of servers share: a policy, a server as a process, a check of its answers, load, one row.

::

    Server ──▶ serving() ──▶ check() ──▶ measure() ──▶ Found ──▶ a row of the table
               started,      greedy      wrk with 1, 16,
               at last       actions     64 connections;
               ended                     memory
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.networks import CategoricalPolicy, LogitsNetwork
from rlcourse.randomness import Seeds

CONNECTIONS = (1, 16, 64)
PATH = "/predictions/rl_policy"
HEADER = ("one replica", *(f"{n} connections" for n in CONNECTIONS), "memory (processes)", "start to first answer")


@dataclass(frozen=True)
class Server:
    """One way to serve the policy."""

    name: str
    command: Callable[[int], Sequence[str | Path]]
    """What starts it on a port of 127.0.0.1."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables besides ours."""
    batched: bool = False
    """Whether it must be sent lists of observations, and answers with a list."""
    start_timeout_s: float = 120.0
    """How long it may take to answer for the first time."""
    attempts: int = 2
    """How often it is started at most, if it ends before that."""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    port: int
    pid: int
    start_s: float
    """From its start to its first answer."""


@dataclass
class Found:
    """What was measured of one server, a value for every round."""

    load: defaultdict[int, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    """By connections: ``rate`` in requests a second, ``p99_ms``."""
    memory_mb: list[float] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)

    def rate(self, connections: int) -> float:
        """Median of the requests a second."""
        return median(row["rate"] for row in self.load[connections])

    def p99_ms(self, connections: int) -> float:
        """Median of the 99th percentiles."""
        return median(row["p99_ms"] for row in self.load[connections])

    def times(self, other: Found) -> list[float]:
        """This over the other's requests a second within a round, the median of it, at each number of connections."""
        return [
            median(a["rate"] / b["rate"] for a, b in zip(self.load[n], other.load[n], strict=True)) for n in CONNECTIONS
        ]

    def row(self, name: str) -> list[str]:
        """A line under :data:`HEADER`."""
        return [
            name,
            *(f"{self.rate(n):,.0f} ({self.p99_ms(n):.1f} ms)" for n in CONNECTIONS),
            f"{median(self.memory_mb):,.0f} MB ({median(self.processes):.0f})",
            f"{median(self.start_s):.1f} s",
        ]

    def plain(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {**vars(self), "load": {str(n): rows for n, rows in self.load.items()}}


def artifact(folder: Path) -> Path:
    """The policy that every server gets: 4-64-64-2, untrained, saved."""
    with Seeds(0).initialising("network"):
        network = LogitsNetwork(torch.zeros(4), torch.ones(4), (64, 64), 2)
        last = network.layers[-1]
        assert isinstance(last, torch.nn.Linear)
        torch.nn.init.normal_(last.weight)  # as it is made, the first action is the best one everywhere
    policy = CategoricalPolicy(network)
    PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="CartPole-v1").save(folder)
    return folder


def body(rows: int, *, batched: bool = False) -> bytes:
    """A request with so many observations."""
    obs = np.round(Seeds(1).numpy("load").normal(0.0, 0.5, (rows, 4)), 4).tolist()
    return json.dumps({"observation": obs if rows > 1 or batched else obs[0]}).encode()


def measure(running: Running, found: Found, *, seconds: float, folder: Path) -> None:
    """One round of a server that answers: warmed, loaded, weighed."""
    asked = body(1, batched=running.server.batched)
    load(running.port, 16, 1.0, asked, folder)
    for connections in CONNECTIONS:
        found.load[connections].append(load(running.port, connections, seconds, asked, folder))
    pids = tree(running.pid)
    found.memory_mb.append(sum(memory_mb(pid) for pid in pids))
    found.processes.append(len(pids))
    found.start_s.append(running.start_s)


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Running]:
    """A server from its first answer until the block ends; nothing of it is left then.

    Raises:
        RuntimeError: it ended, or did not answer in time, or will not answer this.
    """
    for left in reversed(range(server.attempts)):
        try:
            process, running = start(server)
            break
        except RuntimeError:
            if not left:
                raise
    try:
        yield running
    finally:
        end(process)


def start(server: Server) -> tuple[subprocess.Popen[bytes], Running]:
    """Start a server once and wait until it answers.

    Raises:
        RuntimeError: it ended, or did not answer in time, or will not answer this; it is gone then.
    """
    port = free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **server.environment}
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in server.command(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            await_answer(process, server, port)
        except BaseException as error:
            end(process)
            if not isinstance(error, RuntimeError):
                raise
            output.seek(0)
            said = output.read().decode(errors="replace")
            raise RuntimeError(f"{server.name} {error}\n{said[-3000:]}") from None
    return process, Running(server, port, process.pid, time.perf_counter() - began)


def await_answer(process: subprocess.Popen[bytes], server: Server, port: int) -> None:
    """Wait for a server's first answer.

    Raises:
        RuntimeError: there will be none, or there was none in time.
    """
    until = time.perf_counter() + server.start_timeout_s
    last: Exception | None = None
    while time.perf_counter() < until:
        try:
            ask(port, body(1, batched=server.batched))
            return
        except (URLError, ConnectionError, TimeoutError) as error:
            if isinstance(error, HTTPError) and error.code in (400, 422):
                raise RuntimeError(f"does not take the request: {error.read()!r}") from error
            if process.poll() is not None:
                raise RuntimeError(f"ended with status {process.returncode}") from None
            last = error
            time.sleep(0.01)
    raise RuntimeError(f"does not answer: {last}")


def ask(port: int, asked: bytes) -> Any:
    """The answer to one request; errors are urllib's."""
    request = Request(f"http://127.0.0.1:{port}{PATH}", asked, {"content-type": "application/json"})
    with urlopen(request, timeout=5) as response:
        return json.load(response)


def check(running: Running, policy: Path) -> None:
    """Ask for 32 fixed observations what the policy would do.

    Raises:
        RuntimeError: the server answers something else.
    """
    obs = np.round(Seeds(2).numpy("check").normal(0.0, 2.0, (32, 4)), 4).astype(np.float32)
    chosen = PolicyArtifact.load(policy).policy().act(torch.from_numpy(obs), greedy=True).tolist()
    assert set(chosen) == {0, 1}  # a server that always says the same must not pass
    for row, expected in zip(obs.tolist(), chosen, strict=True):
        asked = json.dumps({"observation": [row] if running.server.batched else row}).encode()
        try:
            answer = ask(running.port, asked)
        except HTTPError as error:
            raise RuntimeError(f"{running.server.name} answers {error.code} to {asked!r}: {error.read()!r}") from error
        if (answer[0] if running.server.batched else answer)["action"] != expected:
            raise RuntimeError(f"{running.server.name} answers {answer} to {row}; the policy does {expected}")


def load(port: int, connections: int, seconds: float, asked: bytes, folder: Path) -> dict[str, float]:
    """What wrk measures: ``rate`` in requests a second and ``p99_ms``.

    Raises:
        RuntimeError: a request failed.
    """
    script = folder / "request.lua"
    quoted = asked.decode().replace('"', '\\"')
    script.write_text(f'wrk.method="POST"\nwrk.body="{quoted}"\nwrk.headers["Content-Type"]="application/json"\n')
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "20s", "-s", str(script)]
    said = subprocess.run([*words, f"http://127.0.0.1:{port}{PATH}"], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", said)
    assert rate is not None
    assert tail is not None
    return {"rate": float(rate[1]), "p99_ms": float(tail[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[tail[2]]}


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to stop; after 20 s, or when it has, kill whatever of its group and of its children is left."""
    pids = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    left = processes()
    for pid, began in pids.items():
        if left.get(pid, (0, 0))[1] == began:  # the number may belong to somebody else by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def processes() -> dict[int, tuple[int, int]]:
    """Every process of the machine: its parent, and when it began in clock ticks since the machine did."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = file.read_text().rpartition(")")[2].split()
            found[int(file.parent.name)] = int(fields[1]), int(fields[19])
    return found


def tree(pid: int) -> dict[int, int]:
    """A process and all that came from it, with the times at which they began."""
    known = processes()
    found = {pid: known[pid][1]} if pid in known else {}
    grown = True
    while grown:
        more = {child: began for child, (parent, began) in known.items() if parent in found and child not in found}
        found.update(more)
        grown = bool(more)
    return found


def memory_mb(pid: int) -> float:
    """The resident memory of one process; what two processes share counts in both."""
    said = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", said)
    return 0.0 if found is None else int(found[1]) / 1024  # a process that has ended has none


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
