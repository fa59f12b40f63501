"""Minari data sets as they come: a folder, a name under the root, or a name that has to be fetched."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import minari

from rlcourse.errors import DatasetNotFoundError, MissingExtraError
from rlcourse.experience.minari_files import Dataset, load_dataset
from rlcourse.experience.names import NAME, datasets_root, find, is_path
from rlcourse.files import storage_errors


def minari_source(source: str, root: Path | None = None) -> Dataset:
    """A data set that is here, or else is fetched from Minari's server into a folder that is removed again.

    Raises:
        DatasetNotFoundError: it is not here, and no name under which it could be fetched, or fetching failed.
        MissingExtraError: it has to be fetched, and what does that is not installed.
        DatasetCorruptError: its files are damaged.
        DatasetInvalidError: it holds what cannot be used here.
    """
    remote = source.split("://", 1)[-1].split("/", 1)[-1] if "://" in source else source
    try:
        find(source, root)
    except DatasetNotFoundError:
        if is_path(source) or not NAME.fullmatch(remote):
            raise
    else:
        return load_dataset(source, root=root)
    with _kept_for_a_while(root) as folder:
        _fetch(source, folder)
        return load_dataset(remote, root=folder)


def _fetch(source: str, folder: Path) -> None:
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the report's
            minari.download_dataset(source)
    except ImportError as error:
        raise MissingExtraError(
            f"There is no data set {source} here, and fetching it needs a package that is not installed: {error}",
            mend="pip install 'rlcourse[remote]', or copy its folder here and give its path.",
        ) from error
    except Exception as error:  # clients of two stores and of the network under them raise what they like
        raise DatasetNotFoundError(
            f"There is no data set {source} here, and it could not be fetched: {type(error).__name__}: {error}",
            mend="Check the name and the network; or fetch it elsewhere (minari download), copy its folder and give its path.",
        ) from error
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


@contextlib.contextmanager
def _kept_for_a_while(root: Path | None) -> Iterator[Path]:
    # Beside the data sets: where they fit, this fits too. The dot keeps it out of every list.
    top = datasets_root(root)
    with storage_errors(top):
        top.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=top, prefix=".fetched.")
    with folder as name:
        yield Path(name)
