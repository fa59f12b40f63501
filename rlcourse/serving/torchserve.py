"""TorchServe: archives, a server process that listens on this machine alone, and its management interface.

TorchServe is no longer developed; 0.12 is its last version. It runs in processes of its own (a Java front, Python
workers), so nothing of it is imported here.

::

    policy ──archive──▶ model.mar ──TorchServe──▶ http://127.0.0.1:8085/predictions/NAME[/VERSION]
                                    │              8086  versions, workers (management)
                                    └──            8087  /metrics for Prometheus

The management interface can make another version the default one. That choice outlives the process only where there is
a ``state`` folder (:mod:`rlcourse.serving.torchserve_state`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

from rlcourse.errors import ConfigError, MissingExtraError, ServerError
from rlcourse.files import storage_errors
from rlcourse.serving.torchserve_archive import Model, archive, demand_package, read_archive
from rlcourse.serving.torchserve_ports import HOST, demand_free, demand_free_in
from rlcourse.serving.torchserve_state import forget_old, in_order, remembered

__all__ = [
    "HOST",
    "Management",
    "Model",
    "TorchServe",
    "TorchServeConfig",
    "archive",
    "ask",
    "find_java",
    "metrics",
    "predict",
    "properties",
    "read_archive",
]

NEEDED_JAVA = 17
_QUIET = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error">
  <Appenders>
    <Console name="console" target="SYSTEM_ERR"><PatternLayout pattern="%d{ISO8601} %p %c{1} %m%n"/></Console>
  </Appenders>
  <Loggers><Root level="error"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""
"""TorchServe writes a line for every request; that alone costs half of its speed."""


@dataclass(frozen=True, kw_only=True)
class TorchServeConfig:
    """How the server runs."""

    port: int = 8085
    """Where predictions are asked for. The next four ports are management, metrics and two for gRPC."""
    workers: int = 1
    """Python processes for each version. More answer more at once, and each takes a core and a copy of torch."""
    batch_size: int = 16
    """The most requests that are answered together."""
    max_batch_delay_ms: int = 1
    """How long a request may wait for company. Longer batches fill better and every answer comes later."""
    start_timeout_s: float = 90.0
    """How long the workers may take to be ready."""
    state: Path | None = None
    """Folder for the archives and the chosen default versions, of one server at a time. The next start with it goes on
    with them. Without it nothing outlives the process."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65531:
            raise ConfigError(f"The port is {self.port}.", mend="Use 1 to 65531; the four after it are used too.")
        if min(self.workers, self.batch_size, self.max_batch_delay_ms) < 1 or self.start_timeout_s <= 0:
            raise ConfigError("Workers, batch size, delay and timeout must be above 0.", mend="Use 1 or more.")


def properties(config: TorchServeConfig, archives: Sequence[Path], store: Path) -> str:
    """The text of ``config.properties``: loopback only, batched, and quiet.

    Args:
        config: how it runs.
        archives: ``.mar`` files in ``store``; the first version of each name is its default, as TorchServe loads them
            in this order.
        store: the folder that TorchServe may load from.
    """
    models: dict[str, dict[str, Any]] = {}
    for file in archives:
        model = read_archive(file)
        versions = models.setdefault(model.name, {})
        versions[model.version] = {
            "defaultVersion": not versions,
            "marName": file.name,
            "minWorkers": config.workers,
            "maxWorkers": config.workers,
            "batchSize": config.batch_size,
            "maxBatchDelay": config.max_batch_delay_ms,
            "responseTimeout": 60,
        }
    settings = {
        "inference_address": f"http://{HOST}:{config.port}",
        "management_address": f"http://{HOST}:{config.port + 1}",
        "metrics_address": f"http://{HOST}:{config.port + 2}",
        "grpc_inference_address": HOST,
        "grpc_inference_port": config.port + 3,
        "grpc_management_address": HOST,
        "grpc_management_port": config.port + 4,
        "model_store": store,
        "load_models": ",".join(file.name for file in archives),
        "models": json.dumps(models),
        "metrics_mode": "prometheus",
        "disable_system_metrics": "true",
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
        "default_response_timeout": 60,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


class TorchServe:
    """A running server, as a context: ready when the block begins, gone when it ends.

    ::

        with TorchServe([Path("policy.mar")], TorchServeConfig(port=9085)) as server:
            server.management.set_default("policy", "2")
    """

    def __init__(self, archives: Sequence[Path], config: TorchServeConfig | None = None) -> None:
        self.config = config or TorchServeConfig()
        self.archives = [Path(file) for file in archives]
        self.models = [read_archive(file) for file in self.archives]
        if len({(model.name, model.version) for model in self.models}) < len(self.models) or not self.models:
            raise ConfigError("Each archive must hold another version.", mend="Name at least one, and none twice.")
        self.management = Management(self.config.port + 1)
        self._folder: Path | None = None
        self._store: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it and wait until every worker is ready.

        Raises:
            ArtifactError: what the state folder remembers cannot be read, or an archive of it is gone.
            MissingExtraError: TorchServe or Java is missing.
            ServerError: one of its ports is taken, or it did not become ready.
            StorageError: the state folder cannot be written to.
        """
        java = find_java()
        for package in ("ts", "yaml"):
            demand_package(package)
        demand_free(self.config.port)
        # Workers talk through sockets in the temporary folder, whose names may have 107 characters at most.
        self._folder = folder = Path(tempfile.mkdtemp(prefix="ts"))
        try:
            self._start(java, folder)
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and its workers; twice does no harm."""
        if self._process is not None:
            for signal_, seconds in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
                if self._signal(signal_, seconds):
                    break
            self._process.wait(5.0)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def wait(self) -> int:
        """Wait until it ends by itself; its exit status."""
        assert self._process is not None
        return self._process.wait()

    def store(self, file: Path) -> str:
        """Copy an archive to where the running server may load it from; the name to register it by."""
        assert self._store is not None
        name = read_archive(file).file
        with storage_errors(self._store / name):
            part = self._store / f".{name}.part"
            shutil.copyfile(file, part)
            part.replace(self._store / name)
        return name

    def log(self) -> str:
        """What the server wrote so far."""
        assert self._folder is not None
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def _start(self, java: Path, folder: Path) -> None:
        state = self.config.state
        self._store = store = (state or folder).absolute() / "store"
        with storage_errors(store):
            for part in (store, folder / "tmp"):
                part.mkdir(parents=True, exist_ok=True)
        for file in self.archives:
            self.store(file)
        if state is not None:
            self.models = in_order(self.models, remembered(state), store)
            forget_old(state)
        stored = [store / model.file for model in self.models]
        (folder / "config.properties").write_text(properties(self.config, stored, store), encoding="utf-8")
        (folder / "log4j2.xml").write_text(_QUIET, encoding="utf-8")
        words = ["--start", "--foreground", "--disable-token-auth", "--enable-model-api"]
        words += ["--ncs"] if state is None else []
        words += ["--model-store", str(store), "--ts-config", str(folder / "config.properties")]
        words += ["--log-config", str(folder / "log4j2.xml")]
        temporary = str(folder / "tmp")
        # TMPDIR also moves the file with the process number, so that two servers on one machine do not meet.
        own = {"JAVA_HOME": str(java.parent.parent), "TEMP": temporary, "TMPDIR": temporary, "OMP_NUM_THREADS": "1"}
        own["LOG_LOCATION"] = str(store.parent)  # where its snapshots go
        environment = {**{k: v for k, v in os.environ.items() if not k.startswith("TS_")}, **own}
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ts.model_server", *words],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # one signal to the group reaches Java and the workers
            )

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + self.config.start_timeout_s
        while time.monotonic() < until:
            if self._process.poll() is not None:
                demand_free_in(self.log(), self.config.port)
                raise ServerError(
                    f"TorchServe ended with status {self._process.returncode}: {self.log().strip()[-1500:]}",
                    mend="Read the lines above.",
                )
            with contextlib.suppress(ServerError):
                if all(self.management.ready(model.name, model.version) for model in self.models):
                    return
            time.sleep(0.1)
        raise ServerError(
            f"TorchServe's workers were not ready after {self.config.start_timeout_s:.0f} s: {self.log().strip()[-1500:]}",
            mend="Read the lines above; a slow machine needs a longer --start-timeout-s.",
        )

    def _signal(self, signal_: signal.Signals, seconds: float) -> bool:
        """Send it to every process of the group; whether all of them are gone in time."""
        assert self._process is not None
        until = time.monotonic() + seconds
        try:
            os.killpg(self._process.pid, signal_)
            while time.monotonic() < until:
                self._process.poll()  # a child that has ended counts as alive until somebody asks after it
                os.killpg(self._process.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return True
        return False


class Management:
    """The management interface of a running TorchServe on this machine: versions come, go, and become the default."""

    def __init__(self, port: int = 8086) -> None:
        self.port = port

    def versions(self, name: str) -> dict[str, dict[str, Any]]:
        """Every version of a model, and what TorchServe says of it."""
        found = json.loads(self._ask("GET", f"/models/{quote(name)}/all"))
        return {entry["modelVersion"]: entry for entry in found}

    def default(self, name: str) -> str:
        """The version that is asked when none is named."""
        (found,) = json.loads(self._ask("GET", f"/models/{quote(name)}"))
        return str(found["modelVersion"])

    def ready(self, name: str, version: str) -> bool:
        """Whether every worker of a version is ready."""
        entry = self.versions(name).get(version)
        workers = [] if entry is None else entry["workers"]
        return bool(workers) and all(worker["status"] == "READY" for worker in workers)

    def register(self, file: str, config: TorchServeConfig | None = None) -> None:
        """Load an archive that lies in the server's store, and start its workers; returns when they are ready."""
        config = config or TorchServeConfig()
        settings = {
            "url": file,
            "batch_size": config.batch_size,
            "max_batch_delay": config.max_batch_delay_ms,
            "initial_workers": config.workers,
            "synchronous": "true",
        }
        self._ask("POST", f"/models?{urlencode(settings)}")

    def set_default(self, name: str, version: str) -> None:
        """Let requests that name no version go to this one."""
        self._ask("PUT", f"/models/{quote(name)}/{quote(version)}/set-default")

    def unregister(self, name: str, version: str) -> None:
        """Stop a version. The default one can only be stopped as the last."""
        self._ask("DELETE", f"/models/{quote(name)}/{quote(version)}")

    def _ask(self, method: str, path: str) -> bytes:
        status, body = ask(self.port, method, path, timeout_s=120.0)
        if status >= 400:
            raise ServerError(
                f"TorchServe answers {status} to {method} {path}: {body.decode(errors='replace').strip()[:500]}",
                mend="See which models and versions it has: rlcourse serve versions NAME.",
            )
        return body


def predict(port: int, name: str, request: Mapping[str, Any], version: str | None = None) -> tuple[int, Any]:
    """Ask a running TorchServe on this machine; the status and what the JSON of the answer says."""
    path = f"/predictions/{quote(name)}" + (f"/{quote(version)}" if version else "")
    status, body = ask(port, "POST", path, json.dumps(request).encode())
    return status, json.loads(body)


def metrics(port: int) -> str:
    """What Prometheus would read; ``port`` is the metrics port."""
    status, body = ask(port, "GET", "/metrics")
    if status != 200:
        raise ServerError(f"TorchServe answers {status} to /metrics.", mend="Check the port.")
    return body.decode()


def ask(port: int, method: str, path: str, body: bytes | None = None, *, timeout_s: float = 30.0) -> tuple[int, bytes]:
    """One request to this machine.

    Raises:
        ServerError: nobody answers there.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(
            f"Nobody answers at {HOST}:{port}: {error}.", mend="Start it: rlcourse serve torchserve."
        ) from error
    finally:
        connection.close()


def find_java() -> Path:
    """The ``java`` program, of version 17 or later: ``$JAVA_HOME``'s, or the first one found.

    Raises:
        MissingExtraError: there is none, or it is too old.
    """
    mend = "Install it: sudo apt-get install openjdk-17-jre-headless. Or set JAVA_HOME."
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        raise MissingExtraError("TorchServe needs Java, and there is none.", mend=mend)
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False, timeout=60)
    version = re.search(r'version "(\d+)', said.stderr + said.stdout)
    if version is None or int(version[1]) < NEEDED_JAVA:
        raise MissingExtraError(f"TorchServe needs Java {NEEDED_JAVA}, and {found} is another.", mend=mend)
    return Path(found).resolve()
