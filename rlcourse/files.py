"""Writing files so that a crash, a full disk or Ctrl-C never leaves half of one.

Everything is written beside its final place under a temporary name, flushed to the disk, and renamed.  A rename
within one file system either happens or does not.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlcourse.errors import StorageError


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary file path that becomes ``target`` if the block ends well, and vanishes if it does not.

    Raises:
        StorageError: the disk is full, the folder is not writable, or the like. ``target`` is as it was.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        os.close(handle)
    part = Path(name)
    try:
        with storage_errors(target):
            yield part
            _flush(part)
            os.chmod(part, 0o666 & ~_umask())  # mkstemp makes it private; a data file need not be
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target``, replacing what stood there, if the block ends well.

    Raises:
        StorageError: as for :func:`atomic_path`; the old folder is whole.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    old = part.with_suffix(".old")
    try:
        with storage_errors(target):
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    _flush(file)
            os.chmod(part, 0o777 & ~_umask())
            if target.exists():
                os.rename(target, old)
            try:
                os.rename(part, target)
            except OSError:
                if old.exists():
                    os.rename(old, target)
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Replace a text file atomically."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Replace a JSON file atomically. NaN and infinity are refused: they are not JSON."""
    write_text(target, json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n")


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals into :class:`StorageError` with a mend."""
    try:
        yield
    except OSError as error:
        mends = {
            errno.ENOSPC: "Free some space on that disk, or choose another folder.",
            errno.EDQUOT: "Your disk quota is used up; free some space or choose another folder.",
            errno.EACCES: "Choose a folder that you may write to.",
            errno.EROFS: "That file system is read-only; choose another folder.",
        }
        code = error.errno or 0
        reason = os.strerror(code) if code else str(error)
        raise StorageError(
            f"Could not write {target}: {reason}. What was there before is untouched.",
            mend=mends.get(code, "Check the folder and try again."),
        ) from error


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
