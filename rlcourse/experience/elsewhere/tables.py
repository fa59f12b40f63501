"""The formats: each says which columns a file has, and reads those that are wanted.

==========  =============================================================================================
.hdf5, .h5  D4RL's: one data set a column; those in groups are named ``infos/action_log_probs``
.npz        NumPy's archive: one array a column
.csv        a first line with names, then a row a step; 0 and 1, true and false; an empty cell is NaN
.parquet    a row a step; a column may hold lists of equal length. Needs the extra ``parquet``
.pkl        a dictionary of arrays, or one such for each episode, and only if its sender is trusted
==========  =============================================================================================

An array of objects in a .npz is a pickle, and treated as one.
"""

from __future__ import annotations

import csv
import importlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from rlcourse.errors import (
    ConfigError,
    DatasetCorruptError,
    DatasetInvalidError,
    DatasetNotFoundError,
    DatasetUntrustedError,
    MissingExtraError,
)
from rlcourse.experience.elsewhere.pickles import read_pickle
from rlcourse.experience.episodes import Array

EPISODE = "episode (by its place in the file)"
"""Column added where a file holds one array for each episode."""
CHUNK = 50_000
"""Rows of text turned into numbers at a time; a whole file of small strings would take gigabytes."""
_TRUTH = {"true": "1", "false": "0", "": "nan"}
Columns = dict[str, Array]


@dataclass(frozen=True)
class Table:
    """A file whose columns are known and not yet read."""

    names: list[str]
    read: Callable[[Sequence[str]], Columns]


def open_table(path: Path, *, trust_pickle: bool = False) -> Table:
    """Find out what a file holds.

    Raises:
        DatasetNotFoundError: there is no such file.
        ConfigError: its ending is none of those known here.
        DatasetUntrustedError: it is a pickle, or holds one, and nobody said that its sender is trusted; or it asks for
            more than arrays.
        DatasetCorruptError: it is not what its ending says.
        MissingExtraError: it is Parquet and pyarrow is not installed.
    """
    if not path.is_file():
        raise DatasetNotFoundError(f"There is no file {path}.", mend="Check the name.")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        return _pickle(path, trust_pickle)
    if suffix == ".npz":
        return _npz(path, trust_pickle)
    if suffix not in _FORMATS:
        raise ConfigError(f"{path} ends in none of {', '.join(ENDINGS)}.", mend="Rename it if it is one of them.")
    return _FORMATS[suffix](path)


def _hdf5(path: Path) -> Table:
    def found(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    names: list[str] = []
    with _readable(path, "HDF5"), h5py.File(path, "r") as file:
        file.visititems(found)

    def read(wanted: Sequence[str]) -> Columns:
        with _readable(path, "HDF5"), h5py.File(path, "r") as file:
            return {name: np.asarray(file[name][()]) for name in wanted}

    return Table(names, read)


def _csv(path: Path) -> Table:
    with _readable(path, "CSV"), _text(path) as file:
        header = [name.strip() for name in next(csv.reader(file), [])]
    if len(set(header)) < len(header):
        raise DatasetInvalidError(f"{path} names a column twice: {header}.", mend="Give every column its own name.")

    def read(wanted: Sequence[str], *, as_text: bool = False) -> Columns:
        places = [header.index(name) for name in wanted]
        parts: list[list[Array]] = [[] for _ in wanted]
        with _readable(path, "CSV"), _text(path) as file:
            rows = csv.reader(file)
            next(rows)
            whole = _whole_rows(rows, len(header), path)
            while chunk := list(islice(whole, CHUNK)):
                for part, place in zip(parts, places, strict=True):
                    cells = [row[place] for row in chunk]
                    part.append(_words(cells) if as_text else _numbers(cells))
        found = {name: np.concatenate(part) if part else np.empty(0) for name, part in zip(wanted, parts, strict=True)}
        # Numbers up to here and names from there on: names, then, and "1" must not have become "1.0".
        mixed = [name for name, part in zip(wanted, parts, strict=True) if len({one.dtype.kind for one in part}) > 1]
        return {**found, **read(mixed, as_text=True)} if mixed else found

    return Table(header, read)


def _whole_rows(rows: Any, width: int, path: Path) -> Iterator[list[str]]:
    for row in rows:
        if not row:
            continue  # an empty line, most often the last
        if len(row) != width:
            raise DatasetInvalidError(
                f"Line {rows.line_num} of {path} has {len(row)} cells, the first line names {width}.",
                mend="Mend that line; a comma within a cell needs quotes around the cell.",
            )
        yield row


def _numbers(cells: list[str]) -> Array:
    """Numbers if all of them are, else text as it stands: an episode may have any name."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass
    try:
        return np.array([_TRUTH.get(cell.strip().lower(), cell) for cell in cells], dtype=np.float64)
    except ValueError:
        return _words(cells)


def _words(cells: list[str]) -> Array:
    return np.array([cell.strip() for cell in cells], dtype=str)


def _parquet(path: Path) -> Table:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            f"{path} is Parquet, and pyarrow is not installed.", mend="pip install 'rlcourse[parquet]'"
        ) from error
    with _readable(path, "Parquet"):
        names = list(parquet.read_schema(path).names)

    def read(wanted: Sequence[str]) -> Columns:
        with _readable(path, "Parquet"):
            table = parquet.read_table(path, columns=list(wanted))
            found = {name: table.column(name).to_numpy() for name in wanted}
        return {name: _regular(values, name, path) for name, values in found.items()}

    return Table(names, read)


def _regular(values: Array, name: str, path: Path) -> Array:
    if values.dtype.kind != "O":
        return values
    rows = values.tolist()
    if all(isinstance(row, str) for row in rows):
        return np.array(rows, dtype=str)
    try:
        return np.array([np.nan if row is None else row for row in rows], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetInvalidError(
            f"Column {name!r} of {path} holds neither numbers nor lists of equal length.", mend="Write it as numbers."
        ) from error


def _npz(path: Path, trust_pickle: bool) -> Table:
    with _readable(path, "a NumPy archive"), zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        objects = [name for name, member in members.items() if _of_objects(archive.open(member))]
    if not members:
        raise DatasetCorruptError(f"{path} holds no arrays.", mend="Write it with numpy.savez.")
    if objects and not trust_pickle:
        raise _untrusted(f"{path} holds pickled objects ({', '.join(objects)})")

    def load(name: str) -> Any:
        with zipfile.ZipFile(path) as archive, archive.open(members[name]) as file:
            if name not in objects:
                return np.lib.format.read_array(file, allow_pickle=False)
            shape, _, _ = _header(file)
            return read_pickle(file, f"{name} in {path}") if shape is not None else None

    if not objects:

        def read(wanted: Sequence[str]) -> Columns:
            with _readable(path, "a NumPy archive"):
                return {name: load(name) for name in wanted}

        return Table(list(members), read)
    with _readable(path, "a NumPy archive"):
        return _tabled({name: load(name) for name in members}, path)


def _header(file: IO[bytes]) -> tuple[Any, Any, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: tuple[Any, Any, np.dtype[Any]] = reader(file)
    return found


def _of_objects(file: IO[bytes]) -> bool:
    with file:
        return _header(file)[2].hasobject


def _pickle(path: Path, trust_pickle: bool) -> Table:
    if not trust_pickle:
        raise _untrusted(f"{path} is a pickle")
    with path.open("rb") as file:
        return _tabled(read_pickle(file, str(path)), path)


def _tabled(content: Any, path: Path) -> Table:
    """A dictionary of arrays, of lists with one array for each episode, or a list of dictionaries of arrays."""
    columns = {name: [] for name in content[0]} if isinstance(content, list) and _dictionaries(content) else content
    if isinstance(content, list) and isinstance(columns, dict):
        if any(set(episode) != set(columns) for episode in content):
            raise DatasetInvalidError(f"Episodes of {path} have different columns.", mend="Write them alike.")
        columns = {name: [episode[name] for episode in content] for name in columns}
    if not isinstance(columns, dict) or not columns or not all(isinstance(name, str) for name in columns):
        raise DatasetInvalidError(
            f"{path} holds neither a dictionary of arrays nor one for each episode.",
            mend="Write a dictionary with D4RL's names: observations, actions, rewards, terminals, timeouts.",
        )
    flattened, lengths = _flattened(columns, path)
    if lengths is not None:
        flattened[EPISODE] = np.repeat(np.arange(len(lengths)), lengths)
    return Table(list(flattened), lambda wanted: {name: flattened[name] for name in wanted})


def _flattened(columns: dict[str, Any], path: Path) -> tuple[Columns, list[int] | None]:
    found: Columns = {}
    lengths: list[int] | None = None
    for name, value in columns.items():
        try:
            if isinstance(value, list) and value and all(isinstance(one, np.ndarray) and one.ndim for one in value):
                own = [len(one) for one in value]
                if lengths is not None and own != lengths:
                    raise DatasetInvalidError(
                        f"Episodes of {path} have other lengths in {name!r} than in the columns before.",
                        mend="Every column has one row a step.",
                    )
                found[name], lengths = np.concatenate(value), own
            elif isinstance(value, dict):
                continue  # what D4RL keeps under metadata and infos is not needed
            else:
                found[name] = np.asarray(value)
        except ValueError as error:
            raise DatasetInvalidError(f"{name!r} in {path} is no array: {error}.", mend="Write it as one.") from error
    return found, lengths


def _dictionaries(content: list[Any]) -> bool:
    return bool(content) and all(isinstance(one, dict) for one in content)


def _untrusted(what: str) -> DatasetUntrustedError:
    return DatasetUntrustedError(
        f"{what}, and a pickle is a program.",
        mend="Write it as .npz without objects, .hdf5, .csv or .parquet; or say --trust-pickle if you trust its sender. "
        "Even then nothing but arrays and plain containers is read.",
    )


def _text(path: Path) -> IO[str]:
    return path.open(encoding="utf-8-sig", newline="")


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a reader makes of bytes that are not what they should be into an error with a mend."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        raise DatasetCorruptError(
            f"{path} cannot be read as {kind}: {error}.", mend="Fetch it again, or write it anew."
        ) from error


_FORMATS: dict[str, Callable[[Path], Table]] = {
    ".hdf5": _hdf5,
    ".h5": _hdf5,
    ".csv": _csv,
    ".parquet": _parquet,
}
ENDINGS = (*_FORMATS, ".npz", ".pkl", ".pickle")
"""Of the files that can be read here."""
