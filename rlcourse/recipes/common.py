"""What every command shares: its common options, its report, its table."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from rlcourse.files import write_text

NO_PREFIX = tyro.conf.arg(name="")
"""Marks a nested config whose options need no prefix: ``--updates`` and not ``--training.updates``."""
PACKAGES = ("rlcourse", "torch", "numpy", "scipy", "gymnasium", "minari", "h5py")
"""Whose versions go into every report."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    seed: int = 0
    """One integer from which everything random follows."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: str | None = None
    """Write a machine-readable report to this file; - writes it to standard output."""


def versions(*more: str) -> dict[str, str]:
    """The versions of Python, of :data:`PACKAGES` and of ``more``."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in (*PACKAGES, *more)}}


def hardware() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()}


def report(
    command: str,
    config: Any,
    *,
    seconds: float,
    results: Sequence[Mapping[str, Any]] = (),
    summary: Sequence[Mapping[str, Any]] = (),
    packages: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """The object that ``--json`` writes; PRODUCT-wide keys first, a command's own after.

    ``packages``: whose versions matter besides :data:`PACKAGES`.
    """
    return {
        "command": command,
        "config": plain(config),
        "versions": versions(*packages),
        "hardware": hardware(),
        "seconds": round(seconds, 3),
        "results": plain(list(results)),
        "summary": plain(list(summary)),
        **plain(more),
    }


def write_report(target: str | None, content: Mapping[str, Any]) -> None:
    """Write a report to a file (atomically) or, for ``-``, to standard output; do nothing for ``None``.

    Raises:
        StorageError: the file could not be written.
    """
    if target is None:
        return
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_text(Path(target), text)


def plain(value: Any) -> Any:
    """Dataclasses, paths and NumPy values as what JSON knows. NaN becomes ``null``: JSON has no NaN."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to one width; numbers are the caller's to format."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def say(message: str) -> None:
    """Progress and remarks go to standard error, so that standard output holds results alone."""
    print(message, file=sys.stderr, flush=True)


def result_goes_to_stdout(target: str | None) -> bool:
    """With ``--json -`` standard output is the report's; a readable table then goes to standard error."""
    return target != "-"


def show_result(text: str, target: str | None) -> None:
    """Print a readable result where it belongs."""
    print(text, file=sys.stdout if result_goes_to_stdout(target) else sys.stderr, flush=True)
