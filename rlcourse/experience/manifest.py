"""A list of a folder's files with their checksums, which also vouches for itself.

The manifest is a JSON file. Its own SHA-256 is computed over its bytes with 64 zeros in the checksum's place, so that
*any* changed byte is noticed: in a value, in a name, in the white space between them, or in the checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcourse.errors import DatasetCorruptError
from rlcourse.files import sha256_of

MEND = "Copy the data set again from where it is whole, or write it again with rlcourse offline generate --overwrite."
_ZEROS = "0" * 64


def sealed(content: Mapping[str, Any]) -> str:
    """The manifest's text: ``content`` with its checksum in front. NaN is refused: it is not JSON."""
    text = json.dumps({"checksum": _ZEROS, **content}, indent=2, allow_nan=False, ensure_ascii=True) + "\n"
    return text.replace(_ZEROS, _digest(text.encode()), 1)


def unsealed(path: Path) -> dict[str, Any]:
    """Read a manifest and check it against its own checksum, which stays in it as ``checksum``.

    Raises:
        DatasetCorruptError: it is missing, cut short or changed.
    """
    return unsealed_bytes(read_bytes(path), str(path))


def unsealed_bytes(data: bytes, path: str) -> dict[str, Any]:
    """The same for bytes that have been read already; ``path`` says in an error where they came from.

    Raises:
        DatasetCorruptError: they are cut short or changed.
    """
    try:
        content = json.loads(data)
        checksum = content["checksum"]
        intact = len(checksum) == len(_ZEROS) and checksum == _digest(
            data.replace(checksum.encode(), _ZEROS.encode(), 1)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetCorruptError(f"{path} is damaged: it cannot be read as JSON.", mend=MEND) from error
    if not intact:
        raise DatasetCorruptError(f"{path} is damaged: its checksum does not hold.", mend=MEND)
    found: dict[str, Any] = content
    return found


def entry(path: Path) -> dict[str, Any]:
    """What a manifest says of one file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def verify(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Check every listed file, byte by byte.

    Raises:
        DatasetCorruptError: a file is missing, cannot be read, has another size or another checksum.
    """
    for name, expected in files.items():
        path = folder / name
        try:
            found = entry(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if found["bytes"] != expected["bytes"]:
            raise DatasetCorruptError(
                f"{path} is damaged: it has {found['bytes']} bytes and should have {expected['bytes']}.", mend=MEND
            )
        if found["sha256"] != expected["sha256"]:
            raise DatasetCorruptError(f"{path} is damaged: its SHA-256 is not the one in the manifest.", mend=MEND)


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DatasetCorruptError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DatasetCorruptError:
    return DatasetCorruptError(f"{path} cannot be read: {error.strerror or error}.", mend=MEND)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
