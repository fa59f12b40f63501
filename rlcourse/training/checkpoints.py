"""Checkpoints: everything an interrupted run needs to go on as if nothing had happened.

A file is one line that names the format and the SHA-256 of the rest; the rest is what ``torch.save`` writes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from rlcourse.errors import ArtifactError
from rlcourse.files import atomic_path

FORMAT = b"rlcourse checkpoint 1 "


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain numbers; the previous checkpoint stays whole until this one is.

    Raises:
        StorageError: the disk is full or not writable.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    with atomic_path(path) as part:
        part.write_bytes(_head(content) + content)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote. Only tensors and plain values are accepted, never code.

    Raises:
        ArtifactError: missing, damaged, or holding anything but tensors and plain values.
    """
    try:
        data = path.read_bytes()
        content = data[len(_head(b"")) :]
        if not data.startswith(_head(content)):
            raise ArtifactError(f"The checkpoint {path} is damaged: its checksum does not hold.", mend=_MEND)
        state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ArtifactError(f"The checkpoint {path} cannot be read.", mend=_MEND) from error
    return state


_MEND = "Remove it to begin the run again, or name another file."


def _head(content: bytes) -> bytes:
    return FORMAT + hashlib.sha256(content).hexdigest().encode() + b"\n"
