"""``rlcourse serve versions``: which versions a running TorchServe has, and which one is the default."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from rlcourse.recipes.common import Common, report, show_result, table, write_report
from rlcourse.serving.torchserve import Management


@dataclass(frozen=True, kw_only=True)
class Versions(Common):
    """List the versions of a model in TorchServe; make one the default; stop one.

    Example: rlcourse serve versions cartpole --default 2
    """

    name: Annotated[str, tyro.conf.Positional] = "rl_policy"
    """The model."""
    default: str | None = None
    """Make this version the default."""
    unregister: str | None = None
    """Stop this version."""
    port: int = 8086
    """Of the management interface."""


def run(config: Versions) -> int:
    """Change what is asked for, then list."""
    started = time.perf_counter()
    management = Management(config.port)
    if config.default is not None:
        management.set_default(config.name, config.default)
    if config.unregister is not None:
        management.unregister(config.name, config.unregister)
    default = management.default(config.name)
    rows: list[dict[str, Any]] = [
        {"version": version, "default": version == default, "workers": [one["status"] for one in entry["workers"]]}
        for version, entry in management.versions(config.name).items()
    ]
    lines = [[str(row["version"]), "default" if row["default"] else "", " ".join(row["workers"])] for row in rows]
    show_result(table(["version", "", "workers"], lines), config.json)
    write_report(config.json, report("serve versions", config, seconds=time.perf_counter() - started, results=rows))
    return 0
