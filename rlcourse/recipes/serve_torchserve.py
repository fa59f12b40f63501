"""``rlcourse serve torchserve``: TorchServe in the foreground, on this machine alone."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated

import tyro

from rlcourse.errors import ConfigError, ServerError
from rlcourse.recipes.common import NO_PREFIX, Common, report, say, write_report
from rlcourse.serving.torchserve import HOST, TorchServe, TorchServeConfig


@dataclass(frozen=True, kw_only=True)
class Serve(Common):
    """Serve archives with TorchServe until Ctrl-C or SIGTERM; it stops cleanly.

    Example: rlcourse serve torchserve store/cartpole-1.mar store/cartpole-2.mar
    """

    archives: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files that rlcourse serve archive made. The first version of each name is the default one."""
    server: Annotated[TorchServeConfig, NO_PREFIX] = field(default_factory=TorchServeConfig)
    """How it runs."""

    def __post_init__(self) -> None:
        if not self.archives:
            raise ConfigError("There is nothing to serve.", mend="Name an archive; rlcourse serve archive makes one.")


def run(config: Serve) -> int:
    """Start, wait, stop."""
    started = time.perf_counter()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with TorchServe(config.archives, config.server) as server:
            port = config.server.port
            for model in server.models:
                say(f"ready: http://{HOST}:{port}/predictions/{model.name}/{model.version}")
            say(f"management on port {port + 1}, http://{HOST}:{port + 2}/metrics; stop with Ctrl-C")
            status = server.wait()
            raise ServerError(
                f"TorchServe ended by itself with status {status}.", mend=f"It said: {server.log()[-500:]}"
            )
    except KeyboardInterrupt:
        say("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
    write_report(config.json, report("serve torchserve", config, seconds=time.perf_counter() - started))
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
