"""Where data sets lie: names under the Minari root, paths, and what to say when there is nothing of that name."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from pathlib import Path

from rlcourse.errors import ConfigError, DatasetNotFoundError

NAME = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")
"""Minari's rule: ``namespace/name-v0``; the namespace may be left out, the version may not."""
_PARTS = ("manifest.json", "columns.hdf5", "data")
QUALITIES = ("random", "scripted", "medium", "expert", "mixed", "replay", "medium-replay")


def datasets_root(root: Path | None = None) -> Path:
    """``root`` if one is given, else ``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``."""
    if root is not None:
        return Path(root)
    named = os.environ.get("MINARI_DATASETS_PATH")
    return Path(named) if named else Path.home() / ".minari" / "datasets"


def list_datasets(root: Path | None = None) -> list[str]:
    """The names of all data sets under the root, sorted."""
    top = datasets_root(root)
    return sorted(
        folder.parent.relative_to(top).as_posix()
        for folder in top.glob("**/data")
        if folder.is_dir() and not any(part.startswith(".") for part in folder.relative_to(top).parts)
    )


def place(name_or_path: str | Path, root: Path | None = None) -> Path:
    """The folder a data set of that name is written to.

    Raises:
        ConfigError: neither a path nor a name that Minari accepts.
    """
    if is_path(name_or_path):
        return Path(name_or_path).expanduser()
    if not NAME.fullmatch(str(name_or_path)):
        raise ConfigError(
            f"{str(name_or_path)!r} is not a name that Minari accepts.",
            mend="Use letters, digits, - and _, and a version: cartpole/mixed-v0. A path begins with / or ./",
        )
    return datasets_root(root) / str(name_or_path)


def find(name_or_path: str | Path, root: Path | None = None) -> Path:
    """The folder of an existing data set: under the root, or else at that path.

    Raises:
        DatasetNotFoundError: there is none; says which are near, and how to make it.
    """
    if not is_path(name_or_path):
        under_root = datasets_root(root) / str(name_or_path)
        if NAME.fullmatch(str(name_or_path)) and is_dataset(under_root):
            return under_root
    direct = Path(name_or_path).expanduser()
    if str(name_or_path) and is_dataset(direct):
        return direct
    raise not_found(name_or_path, root)


def is_path(name_or_path: str | Path) -> bool:
    """``Path`` objects and text that begins with ``/``, ``.`` or ``~``."""
    return isinstance(name_or_path, Path) or name_or_path.startswith(("/", ".", "~"))


def is_dataset(folder: Path) -> bool:
    """Whether it looks like a data set, whole or damaged."""
    return any(os.path.exists(folder / part) for part in _PARTS)  # unlike Path.exists, never an error: names too long


def is_only_dataset(folder: Path) -> bool:
    """Whether it looks like a data set and nothing else lies in it, so that replacing it loses nothing else."""
    return is_dataset(folder) and all(entry.name in _PARTS for entry in folder.iterdir())


def dataset_id(name_or_path: str | Path) -> str:
    """The name Minari knows it by; for a path, the folder's name, with a version if it has none."""
    if not is_path(name_or_path):
        return str(name_or_path)
    last = re.sub(r"[^-\w]", "_", Path(name_or_path).expanduser().resolve().name)
    return last if NAME.fullmatch(last) else f"{last or 'dataset'}-v0"


def not_found(name_or_path: str | Path, root: Path | None = None) -> DatasetNotFoundError:
    """The error for a data set that is not there."""
    wanted = str(name_or_path)
    there = Path(wanted).expanduser()
    if os.path.isfile(there):  # unlike Path.is_file, never an error: names too long
        own = re.sub(r"[^-\w]+", "_", there.stem).strip("_") or "mine"
        return DatasetNotFoundError(
            f"{wanted} is a file and not a data set.",
            mend=f"Make one of it with: rlcourse offline import {shlex.quote(wanted)} --name {own}-v0",
        )
    if os.path.isdir(there):
        return DatasetNotFoundError(
            f"The folder {wanted} holds no data set.", mend="Name the folder in which there is one called data."
        )
    if is_path(name_or_path):
        return DatasetNotFoundError(
            f"There is no data set at {wanted}.",
            mend=f"Make it with: rlcourse offline generate --name {shlex.quote(wanted)}",
        )
    near = difflib.get_close_matches(wanted, list_datasets(root), n=3, cutoff=0.5)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return DatasetNotFoundError(
        f"There is no data set {wanted} under {datasets_root(root)}.",
        mend=f"{meant}Make it with: {_command(wanted, root)}",
    )


def _command(wanted: str, root: Path | None) -> str:
    cleaned = re.sub(r"[^-\w/]+", "_", wanted).strip("/_") or "mine"
    name = wanted if NAME.fullmatch(wanted) else f"{cleaned}-v0"
    quality = re.sub(r"-v\d+$", "", name.rsplit("/", 1)[-1])
    words = ["rlcourse offline generate"]
    words += [f"--quality {quality}"] if quality in QUALITIES else []
    words += [] if quality in QUALITIES and name == f"cartpole/{quality}-v0" else [f"--name {name}"]
    words += [] if root is None else [f"--root {shlex.quote(str(root))}"]
    return " ".join(words)
