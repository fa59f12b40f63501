"""``rlcourse serve ray``: replicas of a policy under Ray Serve, on this machine alone."""

from __future__ import annotations

import re
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlcourse.errors import ConfigError
from rlcourse.recipes.common import Common, report, say, write_report

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Serve(Common):
    """Serve a policy with Ray Serve until Ctrl-C or SIGTERM; Ray is started for it, and stopped with it.

    Send {"observation": [...]} to /predictions/NAME. On a cluster that runs already, deploy rlcourse.serving.ray_serve
    with Ray's own tools.

    Example: rlcourse serve ray runs/compare/policy --replicas 2
    """

    artifact: Annotated[Path, tyro.conf.Positional]
    """Folder or file of a saved policy."""
    name: str = "rl_policy"
    """Of the policy, in the address."""
    port: int = 8000
    """Where to listen, on 127.0.0.1."""
    replicas: int = 1
    """Processes that answer. Each has a processor to itself; raising it helps while there are processors left."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"The name is {self.name!r}.", mend="Use letters, digits, dots and dashes.")
        if not 0 < self.port < 65536:
            raise ConfigError(f"{self.port} is no port.", mend="Use 1 to 65535.")
        if self.replicas < 1:
            raise ConfigError(f"{self.replicas} replicas cannot answer.", mend="Use 1 or more.")


def run(config: Serve) -> int:
    """Start, wait, stop."""
    from rlcourse.serving.ray_serve import running

    started = time.perf_counter()
    with running(config.artifact, name=config.name, port=config.port, replicas=config.replicas) as address:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray has handlers of its own by now
            signal.signal(number, lambda *_: stop.set())
        say(f"ready: {address}")
        stop.wait()
    say("stopped")
    write_report(config.json, report("serve ray", config, seconds=time.perf_counter() - started, packages=("ray",)))
    return 0
