"""``rlcourse serve archive``: a saved policy as a .mar file for TorchServe."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.files import sha256_of
from rlcourse.recipes.common import Common, report, show_result, write_report
from rlcourse.serving.torchserve import archive


@dataclass(frozen=True, kw_only=True)
class Archive(Common):
    """Pack a saved policy for TorchServe.

    Example: rlcourse serve archive runs/cql --name cartpole --version 1 --output store/cartpole-1.mar
    """

    artifact: Annotated[Path, tyro.conf.Positional]
    """The policy: a folder, or a .zip file."""
    name: str = "rl_policy"
    """What it is asked by: /predictions/NAME."""
    version: str | None = None
    """Of this policy under that name; by default the version that the artifact says it is, or 1."""
    output: Path = Path("rl_policy.mar")
    """The file; an older one is replaced."""


def run(config: Archive) -> int:
    """Pack and report."""
    started = time.perf_counter()
    artifact = PolicyArtifact.load(config.artifact)
    version = config.version or artifact.description.version or "1"
    file = archive(artifact, config.output, name=config.name, version=version)
    row = {"file": str(file), "version": version, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
    show_result(f"{config.name} {version} packed into {file}; start it: rlcourse serve torchserve {file}", config.json)
    write_report(config.json, report("serve archive", config, seconds=time.perf_counter() - started, results=[row]))
    return 0
