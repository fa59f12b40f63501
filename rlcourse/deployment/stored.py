"""A policy on the disk: one folder or one file, whole or refused. Needs no torch.

::

    policy/                       policy.zip
    ├── policy.json               ├── policy.json           what it is; SHA-256 of the weights and of itself
    └── weights.safetensors       └── weights.safetensors   only numbers

The file is an uncompressed zip of exactly those two entries. It is read into memory and never unpacked, so no name in
it can point anywhere; nothing is decompressed, so it cannot grow.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from rlcourse.deployment.description import PolicyDescription
from rlcourse.errors import ArtifactError, DatasetCorruptError
from rlcourse.experience import manifest
from rlcourse.files import atomic_directory, atomic_path

FORMAT = 2
"""1 had discrete actions without a memory alone, and is still read."""
DESCRIPTION, WEIGHTS = FILES = ("policy.json", "weights.safetensors")
LIMITS = {DESCRIPTION: 2**24, WEIGHTS: 2**30}
"""The most bytes that each may have."""
MEND = "Name the folder or file that a save made, or copy it again."


class Stored(NamedTuple):
    """What was read, with every checksum found right."""

    description: PolicyDescription
    weights: bytes  # a safetensors file
    sha256: str  # of the weights

    @property
    def version(self) -> str:
        """The description's, or the first 12 digits of the weights' SHA-256."""
        return self.description.version or self.sha256[:12]


def write_stored(target: Path, description: PolicyDescription, weights: bytes) -> None:
    """Write a folder, or one file if the name ends in ``.zip``; atomically.

    Raises:
        StorageError: the disk is full or not writable.
        ArtifactError: something that is no policy is there, or the description is impossible.
    """
    refuse_anything_else(target)
    problem = description.problem()
    if problem is not None:
        raise ArtifactError(f"A policy described so cannot be saved: {problem}.", mend="Correct the description.")
    about = {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "description": asdict(description),
    }
    contents = {DESCRIPTION: manifest.sealed(about).encode(), WEIGHTS: weights}
    if target.suffix != ".zip":
        with atomic_directory(target) as part:
            for name, data in contents.items():
                (part / name).write_bytes(data)
        return
    with atomic_path(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980: equal contents make equal files


def read_stored(source: Path) -> Stored:
    """Read a folder or a file, and verify it.

    Raises:
        ArtifactError: missing, damaged, too large, or of a format that is not known here.
    """
    contents = _from_file(source) if source.is_file() else _from_folder(source)
    try:
        about = manifest.unsealed_bytes(contents[DESCRIPTION], str(source / DESCRIPTION))
    except DatasetCorruptError as error:
        raise ArtifactError(error.problem, mend=MEND) from error
    try:
        version, expected, fields = about["format"], about["weights_sha256"], about["description"]
        if type(version) is not int or version < 1:
            raise ArtifactError(f"{source} has format {version!r}.", mend="Save the policy again.")
        if version > FORMAT:
            raise ArtifactError(
                f"{source} has format {version}, and this rlcourse reads formats up to {FORMAT}.",
                mend="Install the rlcourse that wrote it, or a later one.",
            )
        sha256 = hashlib.sha256(contents[WEIGHTS]).hexdigest()
        if sha256 != expected:
            raise ArtifactError(
                f"The weights in {source} are not those that were saved.", mend="Copy the artifact again."
            )
        return Stored(PolicyDescription.from_json(fields, str(source)), contents[WEIGHTS], sha256)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{source} does not hold a policy: {error}.", mend=MEND) from error


def refuse_anything_else(target: Path) -> None:
    """Raise :class:`ArtifactError` if saving to ``target`` would replace anything but an older policy."""
    if not target.exists():
        return
    if target.is_dir():
        if target.suffix != ".zip" and {entry.name for entry in target.iterdir()} <= set(FILES):
            return
    elif target.suffix == ".zip":
        try:
            _from_file(target)
        except ArtifactError:
            pass
        else:
            return
    raise ArtifactError(f"{target} holds something that is no saved policy.", mend="Choose another name.")


def _from_folder(folder: Path) -> dict[str, bytes]:
    contents = {}
    for name in FILES:
        path = folder / name
        try:
            _within_limit(path, name, path.stat().st_size)
            contents[name] = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror or error}.", mend=MEND) from error
    return contents


def _from_file(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sorted(entry.filename for entry in entries) != sorted(FILES):
                raise ArtifactError(f"{path} does not hold exactly {' and '.join(FILES)}.", mend=MEND)
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise ArtifactError(f"{path} is compressed or encrypted, as no saved policy is.", mend=MEND)
                _within_limit(path, entry.filename, max(entry.file_size, entry.compress_size))
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError, struct.error, OverflowError) as error:
        raise ArtifactError(f"{path} is damaged or no saved policy: {error}.", mend=MEND) from error


def _within_limit(path: Path, name: str, size: int) -> None:
    if size > LIMITS[name]:
        raise ArtifactError(f"{name} in {path} has {size} bytes; at most {LIMITS[name]} are read.", mend=MEND)
