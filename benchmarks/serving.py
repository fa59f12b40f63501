"""The policy service beside plainer and more usual ways to serve the same network, under the same load.

    python benchmarks/serving.py

Needs wrk (Debian has it). Every server is one process on 127.0.0.1; they take turns, three rounds, so that a slow minute
of the machine falls on all of them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from load import CONNECTIONS, HEADER, Found, Server, artifact, body, check, free_port, load, measure, serving
from results import markdown_table, write_result

from rlcourse.recipes.common import say, versions

HERE = Path(__file__).parent / "peers"
COMMAND = "python benchmarks/serving.py"
OURS, BARE, USUAL = "rlcourse serve http", "bare ASGI, NumPy, orjson", "FastAPI + TorchScript"
BATCH = 64
SHOWN = ("numpy", "fastapi", "uvicorn", "msgspec", "orjson")


def ours(policy: Path, folder: Path) -> Server:
    """The service with everything on: checks, counts, the decision log."""

    def command(port: int) -> list[str | Path]:
        state = Path(tempfile.mkdtemp(dir=folder)) / "state"
        words: list[str | Path] = [
            sys.executable,
            "-m",
            "rlcourse.recipes.command_line",
            "serve",
            "http",
            policy,
            "--state",
            state,
        ]
        return [*words, "--port", str(port), "--management-port", str(free_port())]

    return Server(OURS, command)


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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = artifact(folder / "policy")
        servers = [
            ours(policy, folder),
            Server(BARE, lambda port: [sys.executable, HERE / "serving_bare.py", policy, str(port)]),
            Server(USUAL, lambda port: [sys.executable, HERE / "serving_torchscript.py", policy, str(port)]),
        ]
        found = {server.name: Found() for server in servers}
        batches: list[float] = []
        for count in range(options.rounds):
            for server in servers:
                here = found[server.name]
                with serving(server) as running:
                    check(running, policy)
                    measure(running, here, seconds=options.seconds, folder=folder)
                    if server.name == OURS:
                        whole = load(running.port, 4, options.seconds, body(BATCH), folder)
                        batches.append(BATCH * whole["rate"])
                say(f"round {count + 1}: {server.name}: {here.load[16][-1]}")
    sessions = million_sessions()
    near, far = found[OURS].times(found[BARE]), found[OURS].times(found[USUAL])
    observations, tail = median(batches), found[OURS].p99_ms(16)
    worst_mb, worst_s = max(found[OURS].memory_mb), max(found[OURS].start_s)
    targets = [
        ("of the bare application's requests/s", "70 % or more", [f"{x:.0%}" for x in near], min(near) >= 0.7),
        ("times FastAPI + TorchScript's", "3 or more", [f"{x:.1f}" for x in far], min(far) >= 3.0),
        ("99th percentile at 16 connections", "under 10 ms", [f"{tail:.1f} ms"], tail < 10.0),
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
        markdown_table(HEADER, [here.row(name) for name, here in found.items()]),
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
        "servers": {name: here.plain() for name, here in found.items()},
        "observations_per_second_in_batches": batches,
        "sessions": sessions,
        "targets": [dict(zip(("name", "target", "measured", "held"), row, strict=True)) for row in targets],
    }
    write_result("serving", "\n".join(lines), command=COMMAND, data=data)
    return 0 if all(held for *_, held in targets) else 1


if __name__ == "__main__":
    raise SystemExit(main())
