"""Checkpoints: everything an interrupted run needs to go on as if nothing had happened."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from rlcourse.errors import ArtifactError
from rlcourse.files import atomic_path


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain numbers; the previous checkpoint stays whole until this one is.

    Raises:
        StorageError: the disk is full or not writable.
    """
    with atomic_path(path) as part:
        torch.save(state, part)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote. Only tensors and plain values are accepted, never code.

    Raises:
        ArtifactError: missing, damaged, or holding anything but tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ArtifactError(
            f"The checkpoint {path} cannot be read.", mend="Remove it to begin the run again, or name another file."
        ) from error
    return state
