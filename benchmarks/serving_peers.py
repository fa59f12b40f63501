"""The policy service beside TorchServe, Ray Serve, LitServe and BentoML: the same network, the same load.

    make servers                         LitServe and BentoML, in an environment of their own, .venv-servers
    python benchmarks/serving_peers.py   writes book/results/serving_peers.md

Needs wrk (apt-get install wrk) and, for TorchServe, Java 17. What is not installed stands in the table as such.

Every server is one replica on 127.0.0.1 with one thread for torch, set up as its manual advises for small requests, and
quiet: nothing is written for each request. They take turns, so that a slow minute of the machine falls on all of them.
Before it is measured, each must answer 32 fixed observations with the policy's greedy actions. The request is
``{"observation": [...]}``, but for BentoML's batches, which are lists.

Not alike, and not to be made alike:

- Ours and the Ray replica compute in NumPy, which is how this package serves a policy there. The others compute in
  TorchScript: TorchServe knows nothing else, and it is what one would hand to LitServe and BentoML.
- One replica is one process in ours. It is two or more elsewhere: one that speaks HTTP, one that computes.
- Ours also writes each decision into its log.
- Ray Serve's HAProxy is left out, as it would listen to the whole network.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from load import HEADER, PATH, Found, Server, artifact, check, free_port, measure, serving
from results import markdown_table, write_result
from serving import OURS, ours

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.exports import export
from rlcourse.errors import MissingExtraError
from rlcourse.recipes.common import say
from rlcourse.serving.torchserve import archive, find_java

HERE = Path(__file__).parent
PEERS = HERE / "peers"
THEIRS = HERE.parent / ".venv-servers" / "bin" / "python"
COMMAND = "python benchmarks/serving_peers.py"
MODEL = PATH.rpartition("/")[2]
INTERFACES = ("inference", "management", "metrics")
"""Of TorchServe; the first two come for gRPC as well."""


def main() -> int:
    """Measure and write the table; exit status 1 if a server failed."""
    parser = argparse.ArgumentParser(description="Requests a second of five kinds of policy servers, side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load at each number of connections")
    parser.add_argument("--python", type=Path, default=THEIRS, help="of the environment with LitServe and BentoML")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="names with such a word; shown, not written"
    )
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        say("wrk is not installed (Debian: apt-get install wrk)")
        return 1
    signal.signal(signal.SIGTERM, interrupt)
    theirs = installed(options.python, "litserve", "bentoml", "torch")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        policy = artifact(folder / "policy")
        servers = candidates(policy, folder, options.python, theirs)
        servers = {n: s for n, s in servers.items() if not options.only or any(word in n for word in options.only)}
        found = {name: Found() for name in servers}
        missing = {name: "not installed" for name, server in servers.items() if server is None}
        for count in range(options.rounds):
            for name, server in servers.items():
                if server is None or name in missing:
                    say(f"round {count + 1}: {name}: {missing[name]}")
                    continue
                try:
                    with serving(server) as running:
                        check(running, policy)
                        measure(running, found[name], seconds=options.seconds, folder=folder)
                    say(f"round {count + 1}: {name}: {found[name].load[16][-1]}")
                except RuntimeError as error:  # it did not start, or answered wrongly, or broke down under load
                    missing[name] = "**failed**"
                    say(str(error))
    table = markdown_table(
        HEADER,
        [
            [name, *[missing[name]] * (len(HEADER) - 1)] if name in missing else here.row(name)
            for name, here in found.items()
        ],
    )
    if options.only:
        print(table)
    else:
        data = {name: missing.get(name) or here.plain() for name, here in found.items()}
        write(table, data, theirs, f"median of {options.rounds} interleaved rounds, {options.seconds:g} s each")
    return int("**failed**" in missing.values())


def candidates(policy: Path, folder: Path, python: Path, theirs: Mapping[str, str]) -> dict[str, Server | None]:
    """Every server by its name; nothing for one that is not installed.

    Args:
        policy: the saved policy.
        folder: for what servers need besides.
        python: the interpreter of the environment with LitServe and BentoML.
        theirs: which packages that has.
    """
    script = folder / "policy.pt"
    export(PolicyArtifact.load(policy), "torchscript", script)
    found: dict[str, Server | None] = {OURS: ours(policy, folder)}
    found |= dict.fromkeys(("TorchServe, tuned", "TorchServe, defaults, one worker"))
    if torchserve_runs():
        mar = archive(PolicyArtifact.load(policy), folder / "store" / f"{MODEL}.mar", name=MODEL, version="1")
        found |= {server.name: server for server in (torchserve_tuned(mar), torchserve_defaults(mar, folder))}
    found |= dict.fromkeys(("Ray Serve", "Ray Serve, throughput options"))
    if importlib.util.find_spec("ray") is not None:
        plain = ray_serve("Ray Serve", policy, {})
        hurried = ray_serve("Ray Serve, throughput options", policy, {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"})
        found |= {server.name: server for server in (plain, hurried)}
    found["LitServe"] = None
    if "litserve" in theirs:
        found["LitServe"] = Server("LitServe", lambda port: [python, PEERS / "serving_litserve.py", script, str(port)])
    for name, service in (("BentoML", "Single"), ("BentoML, adaptive batches", "Batched")):
        found[name] = bentoml(name, service, python, script) if "bentoml" in theirs else None
    return found


def torchserve_runs() -> bool:
    """Whether TorchServe, its archiver and its Java are here."""
    try:
        find_java()
    except MissingExtraError:
        return False
    return all(importlib.util.find_spec(module) is not None for module in ("ts", "model_archiver", "yaml"))


def torchserve_tuned(mar: Path) -> Server:
    """As chapter 16 serves with it: batches of 16, 1 ms of waiting, nothing written below errors, one worker."""

    def command(port: int) -> list[str | Path]:
        words = ["-m", "rlcourse.recipes.command_line", "serve", "torchserve", str(mar)]
        return [sys.executable, *words, "--port", str(port)]  # it takes the four ports after this one as well

    return Server("TorchServe, tuned", command)


def torchserve_defaults(mar: Path, folder: Path) -> Server:
    """TorchServe as it comes, but for one worker instead of one for each core, and for addresses on this machine."""
    home = folder / "ts"
    home.mkdir()

    def command(port: int) -> list[str | Path]:
        (home / ".model_server.pid").unlink(missing_ok=True)  # of one that was killed; it would trip over it
        ports = dict(zip(INTERFACES, (port, free_port(), free_port()), strict=True))
        lines = [f"{name}_address=http://127.0.0.1:{number}" for name, number in ports.items()]
        for name in INTERFACES[:2]:
            lines += [f"grpc_{name}_address=127.0.0.1", f"grpc_{name}_port={free_port()}"]
        settings = home / "config.properties"
        settings.write_text("\n".join([*lines, "default_workers_per_model=1", ""]))
        words = ["--start", "--foreground", "--ncs", "--disable-token-auth", "--ts-config", str(settings)]
        words += ["--model-store", str(mar.parent), "--models", f"{MODEL}={mar.name}"]
        return [sys.executable, "-m", "ts.model_server", *words]

    places = dict.fromkeys(("TEMP", "TMPDIR", "LOG_LOCATION", "METRICS_LOCATION"), str(home))
    return Server("TorchServe, defaults, one worker", command, places)


def ray_serve(name: str, policy: Path, environment: Mapping[str, str]) -> Server:
    """As the course uses it, in a Ray of its own. Ray gives its helpers 15 s to start, which a busy machine may miss."""
    return Server(
        name,
        lambda port: [sys.executable, PEERS / "serving_ray.py", policy, str(port)],
        {"RAY_USAGE_STATS_ENABLED": "0", **environment},
        attempts=4,
    )


def bentoml(name: str, service: str, python: Path, script: Path) -> Server:
    """One of the services of ``peers/serving_bentoml.py``."""
    words = ["-m", "bentoml", "serve", f"serving_bentoml:{service}", "--working-dir", str(PEERS)]
    return Server(
        name,
        lambda port: [python, *words, "--host", "127.0.0.1", "--port", str(port)],
        {"POLICY": str(script), "BENTOML_DO_NOT_TRACK": "True"},
        batched=service == "Batched",
    )


def installed(python: Path, *packages: str) -> dict[str, str]:
    """Those of the packages that an interpreter has, with their versions."""
    if not python.exists():
        return {}
    code = (
        "import json, sys; from importlib import metadata\n"
        "known = {d.name.lower(): d.version for d in metadata.distributions()}\n"
        "print(json.dumps({name: known[name] for name in sys.argv[1:] if name in known}))"
    )
    said = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = json.loads(said)
    return found


def write(table: str, data: Mapping[str, Any], theirs: Mapping[str, str], how: str) -> None:
    """The table and what belongs to it, for the reader and as JSON.

    Args:
        table: in Markdown.
        data: every number, by server.
        theirs: versions in the environment with LitServe and BentoML.
        how: the rounds and seconds.
    """
    used = installed(Path(sys.executable), "torchserve", "ray", "numpy", "uvicorn")
    used |= {name: version for name, version in theirs.items() if name != "torch"}
    versions = ", ".join(f"{name} {version}" for name, version in used.items())
    if "torch" in theirs:
        versions += f"; LitServe and BentoML with torch {theirs['torch']}"
    body = (
        "Requests a second (99th percentile of the latency), network 4-64-64-2, one replica each, all listening on one "
        f"machine; {how}. Memory is that of all processes together, and what two of them share counts twice.\n\n{table}\n\n"
        "TorchServe, LitServe and BentoML run the network as TorchScript, ours and the Ray replica in NumPy. Tuned "
        "TorchServe, Ray Serve and LitServe join up to 16 requests and wait at most 1 ms for them; BentoML's batches "
        f"choose the wait by themselves. With {versions}."
    )
    write_result(
        "serving_peers",
        body,
        command=" ".join([COMMAND, *sys.argv[1:]]),
        data={"servers": data, "servers_versions": used},
    )


def interrupt(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does, so that no server stays behind."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
