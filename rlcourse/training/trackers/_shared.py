"""What the trackers have in common."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from rlcourse.errors import MissingExtraError, StorageError
from rlcourse.files import storage_errors

PROOF = bytes(4096)


def flat_settings(config: Any) -> dict[str, str | int | float | bool]:
    """A config dataclass (or mapping) as ``{"training.gamma": 0.99, ...}``; what is no number becomes text."""
    if is_dataclass(config) and not isinstance(config, type):
        config = {f.name: getattr(config, f.name) for f in fields(config)}
    flat: dict[str, str | int | float | bool] = {}
    for name, value in dict(config or {}).items():
        if isinstance(value, Mapping) or (is_dataclass(value) and not isinstance(value, type)):
            flat |= {f"{name}.{inner}": setting for inner, setting in flat_settings(value).items()}
        else:
            flat[str(name)] = value if isinstance(value, bool | int | float) else str(value)
    return flat


def prove_writable(folder: Path) -> None:
    """Make a folder and write a block to it, before hours of work whose numbers would have nowhere to go.

    Raises:
        StorageError: the folder cannot be made or written to, or the disk is full.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(PROOF)


def missing_extra(what: str, error: ImportError) -> MissingExtraError:
    """The error to raise where a tracker's library cannot be imported."""
    return MissingExtraError(
        f"{what} needs a package that is not installed: {error}.", mend="pip install 'rlcourse[trackers]'"
    )


def closed(target: Path) -> StorageError:
    """The error to raise where something is logged after the end."""
    return StorageError(f"The tracker of {target} is closed.", mend="Make a new one, or close this one later.")
