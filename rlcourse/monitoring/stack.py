"""A Prometheus and an Alertmanager of our own, on this machine alone, for as long as a block lasts.

::

    service /metrics ◀──scrape── Prometheus ──alerts──▶ Alertmanager ──▶ Slack, PagerDuty, webhooks
                                   9090                    9093

Both listen on 127.0.0.1, keep their data below one folder, in bounded time and size, and end with the block.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from rlcourse.errors import ConfigError, ServerError
from rlcourse.files import storage_errors, write_text
from rlcourse.monitoring.promql import duration
from rlcourse.monitoring.promtool import check_alertmanager, check_prometheus, program
from rlcourse.monitoring.rules import dump
from rlcourse.monitoring.scraping import MAX_BYTES, Target, get

HOST = "127.0.0.1"
RULES, PROMETHEUS, ALERTMANAGER = "rules.yml", "prometheus.yml", "alertmanager.yml"
"""Names of the files, in one folder."""


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """How the two run."""

    port: int = 9090
    """Of Prometheus; 0 takes a free one."""
    alertmanager_port: int = 9093
    """Of Alertmanager; 0 takes a free one."""
    scrape_interval_s: float = 5.0
    """How often targets are asked, and rules evaluated. Shorter notices sooner, and stores more."""
    retention_days: int = 15
    """Older samples are deleted."""
    retention_mb: int = 512
    """... and the oldest when the data grow beyond this."""
    start_timeout_s: float = 30.0
    """How long the two may take to be ready."""

    def __post_init__(self) -> None:
        if not all(0 <= port < 65536 for port in (self.port, self.alertmanager_port)):
            raise ConfigError("There is no such port.", mend="Use 1 to 65535, or 0 for a free one.")
        if self.port == self.alertmanager_port != 0:
            raise ConfigError("Both programs are given one port.", mend="Choose another with --alertmanager-port.")
        if not 0.1 <= self.scrape_interval_s <= 120.0:
            # A sample counts as present for five minutes; two scrapes at least should fall into them.
            raise ConfigError(f"Scraping every {self.scrape_interval_s} s.", mend="Use 0.1 to 120 seconds.")
        if min(self.retention_days, self.retention_mb) < 1 or self.start_timeout_s <= 0.0:
            raise ConfigError("Nothing could be kept, or started in no time.", mend="Use numbers above 0.")

    def with_ports(self) -> StackConfig:
        """The same, with free ports in place of 0."""
        return replace(self, port=self.port or free_port(), alertmanager_port=self.alertmanager_port or free_port())


def free_port() -> int:
    """A port on which nobody listens at this moment."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def prometheus_file(config: StackConfig, targets: Sequence[Target]) -> str:
    """The text of Prometheus' configuration; rules are read from :data:`RULES` beside it."""
    interval = duration(config.scrape_interval_s)
    jobs: dict[str, list[str]] = {}
    for target in targets:
        jobs.setdefault(target.job, []).append(target.address)
    content = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": duration(min(config.scrape_interval_s, 10.0)),
            "evaluation_interval": interval,
        },
        "rule_files": [RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"{HOST}:{config.alertmanager_port}"]}]}]},
        "scrape_configs": [
            {
                "job_name": job,
                "sample_limit": 50_000,
                "body_size_limit": f"{MAX_BYTES // 1_000_000}MB",
                "static_configs": [{"targets": addresses}],
            }
            for job, addresses in jobs.items()
        ],
    }
    return dump(content)


class Stack:
    """Prometheus and Alertmanager, as a context: ready when the block begins, gone when it ends.

    Args:
        directory: holds the rules and Alertmanager's configuration; Prometheus' own is written into it, and the data
            below it.
        targets: what is scraped.
        config: how they run.
    """

    def __init__(self, directory: Path, targets: Sequence[Target], config: StackConfig | None = None) -> None:
        if not targets:
            raise ConfigError("There is nothing to watch.", mend="Name the address of a service.")
        self.directory = directory.resolve()
        self.targets = tuple(targets)
        self.config = (config or StackConfig()).with_ports()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Where Prometheus answers."""
        return f"http://{HOST}:{self.config.port}"

    @property
    def alertmanager_url(self) -> str:
        """Where Alertmanager answers."""
        return f"http://{HOST}:{self.config.alertmanager_port}"

    def __enter__(self) -> Self:
        """Check the configuration, start both, wait until they are ready.

        Raises:
            ConfigError: promtool or amtool refuses a file.
            MissingExtraError: a program is not installed.
            ServerError: one did not become ready.
            StorageError: the folder cannot be written to.
        """
        write_text(self.directory / PROMETHEUS, prometheus_file(self.config, self.targets))
        check_prometheus(self.directory / PROMETHEUS)  # and the rules that it names
        check_alertmanager(self.directory / ALERTMANAGER)
        try:
            for name, words in self._commands().items():
                self._start(name, words)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End both; twice does no harm."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5.0)
        self._running.clear()

    def wait(self) -> None:
        """Wait for as long as both run.

        Raises:
            ServerError: one of them ended by itself.
        """
        while True:
            self._demand_alive()
            time.sleep(0.2)

    def _commands(self) -> dict[str, list[str]]:
        config, data = self.config, self.directory / "data"
        return {
            "prometheus-alertmanager": [
                f"--config.file={self.directory / ALERTMANAGER}",
                f"--storage.path={data / 'alertmanager'}",
                f"--web.listen-address={HOST}:{config.alertmanager_port}",
                "--cluster.listen-address=",  # one alone; it would listen on every address for others
                "--log.level=warn",
            ],
            "prometheus": [
                f"--config.file={self.directory / PROMETHEUS}",
                f"--storage.tsdb.path={data / 'prometheus'}",
                f"--storage.tsdb.retention.time={config.retention_days}d",
                f"--storage.tsdb.retention.size={config.retention_mb}MB",
                f"--web.listen-address={HOST}:{config.port}",
                "--log.level=warn",
            ],
        }

    def _start(self, name: str, words: list[str]) -> None:
        found = program(name)
        with storage_errors(self.directory):
            (self.directory / "data").mkdir(parents=True, exist_ok=True)
            log = self._log(name).open("wb")
        with log:
            self._running[name] = subprocess.Popen(
                [*_dying_with_us(), found, *words],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "GOMAXPROCS": "2"},
                start_new_session=True,  # Ctrl-C reaches us alone, and we end them in order
            )

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + self.config.start_timeout_s
        waiting = [f"{self.alertmanager_url}/-/ready", f"{self.url}/-/ready"]
        while waiting:
            self._demand_alive()
            try:
                get(waiting[0], timeout_s=1.0)
                waiting.pop(0)
            except ServerError as error:
                if time.monotonic() > until:
                    raise ServerError(
                        f"{waiting[0]} was not ready after {self.config.start_timeout_s:.0f} s.",
                        mend="A slow machine needs a longer --start-timeout-s.",
                    ) from error
                time.sleep(0.05)

    def _demand_alive(self) -> None:
        for name, process in self._running.items():
            if process.poll() is not None:
                raise ServerError(
                    f"{name} ended with status {process.returncode}: {self._words(name)}",
                    mend="If a port is taken or the folder is in use, choose another.",
                )

    def _log(self, name: str) -> Path:
        return self.directory / "data" / f"{name}.log"

    def _words(self, name: str) -> str:
        return self._log(name).read_text(encoding="utf-8", errors="replace").strip()[-1000:]


def _dying_with_us() -> list[str]:
    """A prefix that ends a program when its parent is killed; empty where util-linux is not installed."""
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "TERM"] if found else []
