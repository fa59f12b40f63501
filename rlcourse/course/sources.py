"""Reading ``.py`` and ``.ipynb`` files that somebody else wrote, without running or trusting them."""

from __future__ import annotations

import io
import json
import tokenize
from pathlib import Path
from typing import Any

from rlcourse.course.inside.loading import File
from rlcourse.errors import ExerciseError

SUFFIXES = (".py", ".ipynb")
MAX_BYTES = {".py": 1 << 20, ".ipynb": 32 << 20}  # a notebook may carry its pictures
MAX_CODE = 1 << 20


def read_file(path: Path) -> File:
    """The cells of a file.

    Raises:
        ExerciseError: there is no such file, it is too large, it is not text, or it is no notebook.
    """
    if path.suffix not in SUFFIXES:
        raise ExerciseError(f"{path.name} is neither a .py file nor a notebook.", mend="Hand in .py or .ipynb.")
    if not path.is_file() or path.is_symlink():
        raise ExerciseError(f"There is no file {path}.", mend="Check the path; links are not followed.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES[path.suffix] + 1)
    except OSError as error:
        raise ExerciseError(
            f"{path.name} cannot be opened: {error.strerror}.", mend="Check who may read it."
        ) from error
    if len(data) > MAX_BYTES[path.suffix]:
        raise ExerciseError(f"{path.name} is larger than {MAX_BYTES[path.suffix]} bytes.", mend="Clear the outputs.")
    cells = (_decoded(data, path.name),) if path.suffix == ".py" else _notebook_cells(data, path.name)
    if sum(map(len, cells)) > MAX_CODE:
        raise ExerciseError(f"{path.name} holds more than {MAX_CODE} characters of code.", mend="Hand in the answers.")
    if any("\0" in cell for cell in cells):
        raise ExerciseError(f"{path.name} holds null bytes, so it is not Python.", mend="Save it as UTF-8 text again.")
    return File(path.name, cells)


def _decoded(data: bytes, name: str) -> str:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise ExerciseError(f"{name} is not UTF-8 text ({error}).", mend="Save it again as UTF-8.") from error


def _notebook_cells(data: bytes, name: str) -> tuple[str, ...]:
    mend = "Open it in Jupyter and save it again, or hand in a .py file."
    try:
        notebook: Any = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ExerciseError(f"{name} is a damaged notebook: it is not JSON ({error}).", mend=mend) from error
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise ExerciseError(f"{name} is a damaged notebook: it has no list of cells.", mend=mend)
    sources = []
    for cell in cells:
        if not isinstance(cell, dict) or "cell_type" not in cell:
            raise ExerciseError(f"{name} is a damaged notebook: a cell has no type.", mend=mend)
        if cell["cell_type"] != "code":
            continue
        source = cell.get("source", "")
        lines = source if isinstance(source, list) else [source]
        if not all(isinstance(line, str) for line in lines):
            raise ExerciseError(f"{name} is a damaged notebook: a cell's source is not text.", mend=mend)
        sources.append("".join(lines))
    return tuple(sources)
