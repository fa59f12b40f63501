"""``rlcourse serve manifest``: what KServe makes a policy service from."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rlcourse.files import write_text
from rlcourse.recipes.common import NO_PREFIX, Common, report, say, write_report
from rlcourse.serving.kserve import KServeConfig, manifest


@dataclass(frozen=True, kw_only=True)
class Manifest(Common):
    """Write a KServe InferenceService.

    Example: rlcourse serve manifest --storage-uri s3://policies/cartpole --image example.org/rlcourse:0.1.0
    """

    service: Annotated[KServeConfig, NO_PREFIX]
    """The service."""
    output: Path | None = None
    """File for the YAML; without it, standard output, to be piped into kubectl apply -f -."""


def run(config: Manifest) -> int:
    """Write it."""
    started = time.perf_counter()
    text = manifest(config.service)
    if config.output is None:
        (sys.stderr if config.json == "-" else sys.stdout).write(text)
    else:
        write_text(config.output, text)
        say(f"manifest written to {config.output}")
    content = report("serve manifest", config, seconds=time.perf_counter() - started, manifest=text)
    write_report(config.json, content)
    return 0
