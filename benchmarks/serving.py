"""The policy service beside plainer and more usual ways to serve the same network, under the same load.

    python benchmarks/serving.py

Needs wrk (Debian has it). Every server is one process on 127.0.0.1; they take turns, three rounds, so that a slow minute
of the machine falls on all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import torch
from results import markdown_table, write_result

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.networks import CategoricalPolicy, LogitsNetwork
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import say, versions

HERE = Path(__file__).parent / "peers"
COMMAND = "python benchmarks/serving.py"
OURS, BARE, USUAL = "rlcourse serve http", "bare ASGI, NumPy, orjson", "FastAPI + TorchScript"
OPTIONAL = {"litserve": "LitServe", "bentoml": "BentoML", "ray.serve": "Ray Serve", "ts": "TorchServe"}
CONNECTIONS = (1, 16, 64)
BATCH = 64
SHOWN = ("numpy", "fastapi", "uvicorn", "msgspec", "orjson")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def artifact(folder: Path) -> Path:
    with Seeds(0).initialising("network"):
        policy = CategoricalPolicy(LogitsNetwork(torch.zeros(4), torch.ones(4), (64, 64), 2))
    PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="CartPole-v1").save(folder)
    return folder


@contextlib.contextmanager
def serving(words: list[str], port: int) -> Iterator[tuple[int, float]]:
    """A server's process id and the seconds from its start to its first answer."""
    began = time.perf_counter()
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *words], env=one_thread, stderr=subprocess.DEVNULL)
    try:
        question = Request(
            f"http://127.0.0.1:{port}/predictions/rl_policy", body(1), {"content-type": "application/json"}
        )
        while True:
            try:
                with urlopen(question, timeout=5) as response:
                    response.read()
                break
            except (URLError, ConnectionError):
                if process.poll() is not None or time.perf_counter() - began > 60:
                    raise RuntimeError(f"{words} does not answer") from None
                time.sleep(0.01)
        yield process.pid, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def body(rows: int) -> bytes:
    obs = np.round(Seeds(1).numpy("load").normal(0.0, 0.5, (rows, 4)), 4).tolist()
    return json.dumps({"observation": obs[0] if rows == 1 else obs}).encode()


def load(port: int, connections: int, seconds: float, rows: int, folder: Path) -> dict[str, float]:
    """What wrk measures."""
    script = folder / f"rows{rows}.lua"
    quoted = body(rows).decode().replace('"', '\\"')
    script.write_text(f'wrk.method="POST"\nwrk.body="{quoted}"\nwrk.headers["Content-Type"]="application/json"\n')
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    said = subprocess.run(
        [*words, f"http://127.0.0.1:{port}/predictions/rl_policy"], capture_output=True, text=True, check=True
    ).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", said)
    assert rate is not None
    assert tail is not None
    return {"rate": float(rate[1]), "p99_ms": float(tail[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[tail[2]]}


def memory_mb(pid: int) -> float:
    said = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", said)
    assert found is not None
    return int(found[1]) / 1024


def million_sessions() -> dict[str, float]:
    """Memory and time of a million sessions of 16 numbers, all kept, and of as many within a bound of 100,000."""
    found: dict[str, float] = {}
    for name, capacity in (("all kept", 1_000_000), ("bound of 100,000", 100_000)):
        code = (
            "import os, re, time, numpy as np; from pathlib import Path\n"
            "from rlcourse.serving.sessions import SessionStore\n"
            "def rss(): return int(re.search(r'VmRSS:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
            f"store = SessionStore(16, {capacity}, 3600.0, time.time); row = np.ones(16, np.float32); before = rss()\n"
            "began = time.perf_counter()\n"
            "for n in range(1_000_000): store.put(f'session-{n:016x}', row)\n"
            "print(rss() - before, time.perf_counter() - began, len(store))"
        )
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        found[f"{name}: MB"], found[f"{name}: microseconds each"] = float(said[0]), float(said[1])
    return found


def main() -> int:
    """Measure, write the tables; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(description="Requests a second of several policy servers, side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load at each number of connections")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        say("wrk is not installed (Debian: apt-get install wrk)")
        return 1
    for module, name in OPTIONAL.items():
        if importlib.util.find_spec(module.split(".")[0]) is None:
            say(f"skipped: {name}, which is not installed")
        else:
            say(f"skipped: {name} is measured by its own chapter's benchmark")
    found: defaultdict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    batches: list[float] = []
    started: defaultdict[str, list[float]] = defaultdict(list)
    memory: defaultdict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = str(artifact(folder / "policy"))
        for count in range(options.rounds):
            for server in (OURS, BARE, USUAL):
                port, other = free_port(), free_port()
                state = str(folder / f"state{count}")
                ours = ["-m", "rlcourse.recipes.command_line", "serve", "http", policy, "--state", state]
                words = {
                    OURS: [*ours, "--port", str(port), "--management-port", str(other)],
                    BARE: [str(HERE / "serving_bare.py"), policy, str(port)],
                    USUAL: [str(HERE / "serving_torchscript.py"), policy, str(port)],
                }[server]
                with serving(words, port) as (pid, seconds):
                    started[server].append(seconds)
                    load(port, 16, 1.0, 1, folder)
                    for connections in CONNECTIONS:
                        found[server, connections].append(load(port, connections, options.seconds, 1, folder))
                    if server == OURS:
                        batches.append(BATCH * load(port, 4, options.seconds, BATCH, folder)["rate"])
                    memory[server].append(memory_mb(pid))
                say(f"round {count + 1}: {server}: {found[server, 16][-1]}")
    sessions = million_sessions()

    def rate(server: str, connections: int) -> float:
        return median(row["rate"] for row in found[server, connections])

    def tail(server: str, connections: int) -> float:
        return median(row["p99_ms"] for row in found[server, connections])

    rows = [
        [
            server,
            *(f"{rate(server, n):,.0f} ({tail(server, n):.1f} ms)" for n in CONNECTIONS),
            f"{median(memory[server]):.0f} MB",
            f"{median(started[server]):.1f} s",
        ]
        for server in (OURS, BARE, USUAL)
    ]
    header = ["one process", *(f"{n} connections" for n in CONNECTIONS), "memory", "start to first answer"]

    def times(other: str) -> list[float]:
        """Ours over another's requests a second, at each number of connections."""
        return [
            median(a["rate"] / b["rate"] for a, b in zip(found[OURS, n], found[other, n], strict=True))
            for n in CONNECTIONS
        ]

    near, far, observations = times(BARE), times(USUAL), median(batches)
    worst_mb, worst_s = max(memory[OURS]), max(started[OURS])
    targets = [
        ("of the bare application's requests/s", "70 % or more", [f"{x:.0%}" for x in near], min(near) >= 0.7),
        ("times FastAPI + TorchScript's", "3 or more", [f"{x:.1f}" for x in far], min(far) >= 3.0),
        ("99th percentile at 16 connections", "under 10 ms", [f"{tail(OURS, 16):.1f} ms"], tail(OURS, 16) < 10.0),
        (f"observations/s in batches of {BATCH}", "200,000 or more", [f"{observations:,.0f}"], observations >= 200_000),
        ("memory while serving", "under 400 MB", [f"{worst_mb:.0f} MB"], worst_mb < 400.0),
        ("start to first answer", "under 3 s", [f"{worst_s:.2f} s"], worst_s < 3.0),
    ]
    used = {name: version for name, version in versions(*SHOWN).items() if name in SHOWN}
    lines = [
        "Requests a second (99th percentile of the latency), network 4-64-64-2, median of "
        f"{options.rounds} interleaved rounds. Ours checks every request, counts it and writes it into the decision log; "
        "the bare application does none of this.",
        "",
        markdown_table(header, rows),
        "",
        markdown_table(
            ["ours", "target", f"measured (at {', '.join(map(str, CONNECTIONS))} connections)", "held"],
            [[name, target, ", ".join(values), "yes" if held else "**no**"] for name, target, values, held in targets],
        ),
        "",
        "A million sessions of 16 numbers each:",
        "",
        markdown_table(
            ["", "memory", "time for each"],
            [
                [kind, f"{sessions[f'{kind}: MB']:.0f} MB", f"{sessions[f'{kind}: microseconds each']:.1f} µs"]
                for kind in ("all kept", "bound of 100,000")
            ],
        ),
        "",
        "With " + ", ".join(f"{name} {version}" for name, version in used.items()) + ".",
    ]
    data: dict[str, Any] = {
        "load": [{"server": server, "connections": n, "rounds": found[server, n]} for server, n in found],
        "observations_per_second_in_batches": batches,
        "memory_mb": dict(memory),
        "start_s": dict(started),
        "sessions": sessions,
        "targets": [dict(zip(("name", "target", "measured", "held"), row, strict=True)) for row in targets],
    }
    write_result("serving", "\n".join(lines), command=COMMAND, data=data)
    return 0 if all(held for *_, held in targets) else 1


if __name__ == "__main__":
    raise SystemExit(main())
