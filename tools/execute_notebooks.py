"""Run the labs from top to bottom and store what they print, so that the stored outputs are true.

    python tools/execute_notebooks.py [NOTEBOOK ...]     run and write back; every lab when none is named
    python tools/execute_notebooks.py --check            write nothing; exit 1 when a lab would change

Text is stored. The outputs of a cell tagged ``nbval-ignore-output`` are not: the site makes them afresh. A cell that
makes a picture or HTML (a table, coloured source) has to carry that tag; half of an output would fail the comparison.
No times, no widget state and no machine's Python version are stored, so running twice gives the same bytes. The cell
that installs the package on Colab is written into each lab from ``tools/colab_first_cell.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from rlcourse.errors import RLCourseError
from rlcourse.files import write_text

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
COLAB_CELL = Path(__file__).resolve().parent / "colab_first_cell.py"
COLAB_TAGS = ["colab", "hide-cell"]
IGNORED = "nbval-ignore-output"
TIMEOUT_S = 180
TAG_IT = f"Give the cell the tag {IGNORED}; the site shows its output all the same."
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class LabError(RLCourseError):
    """A lab cannot be stored as it is."""


def colab_source() -> str:
    """The text of every lab's first code cell."""
    return COLAB_CELL.read_text(encoding="utf-8").strip()


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    found: list[str] = cell.metadata.get("tags", [])
    return found


def with_colab_cell(notebook: NotebookNode) -> NotebookNode:
    """Put the Colab cell before the first code cell, or bring it up to date. Changes and returns the notebook."""
    for cell in notebook.cells:
        if "colab" in tags(cell):
            cell.source, cell.metadata["tags"] = colab_source(), list(COLAB_TAGS)
            return notebook
    first = next((n for n, cell in enumerate(notebook.cells) if cell.cell_type == "code"), len(notebook.cells))
    notebook.cells.insert(first, nbformat.v4.new_code_cell(colab_source(), metadata={"tags": list(COLAB_TAGS)}))
    return notebook


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in a fresh kernel started in ``folder``.

    Raises:
        CellExecutionError: a cell failed that is not tagged ``raises-exception``.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return notebook


def stored(notebook: NotebookNode, name: str) -> NotebookNode:
    """Strip what must not be stored. Changes and returns the notebook."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for n, cell in enumerate(notebook.cells):
        # An id made from the place instead of chance: running twice gives the same bytes.
        cell["id"] = hashlib.sha256(f"{name}:{n}".encode()).hexdigest()[:8]
        if tags(cell):
            cell.metadata = nbformat.from_dict({"tags": tags(cell)})
        else:
            cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [] if IGNORED in tags(cell) else merged(cell.outputs)
            if not all(map(is_text, cell.outputs)):
                raise LabError(f"{name}: cell {n} makes a picture or HTML:\n{cell.source}\n", mend=TAG_IT)
    return notebook


def is_text(output: Any) -> bool:
    """Whether an output is text alone, and so can be stored and compared."""
    return output.output_type in ("stream", "error") or set(output.data) <= {"text/plain"}


def merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream; where a stream is cut depends on the kernel's timing."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def text_of(notebook: NotebookNode) -> str:
    """The bytes that belong on the disk."""
    text: str = nbformat.writes(notebook, version=4)
    return text.rstrip("\n") + "\n"


def refreshed(path: Path) -> str:
    """What the file should hold: the lab executed and stripped.

    Raises:
        CellExecutionError: a cell failed.
        LabError: an untagged cell makes more than text.
    """
    notebook = nbformat.read(path, as_version=4)
    return text_of(stored(execute(with_colab_cell(notebook), path.parent), path.stem))


def main(argv: list[str] | None = None) -> int:
    """Run the labs; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a lab would change")
    arguments = parser.parse_args(argv)
    status = 0
    for path in arguments.notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        try:
            text = refreshed(path)
        except (CellExecutionError, LabError) as error:
            print(f"{path.name}: the file is as it was.\n{error}", file=sys.stderr)
            status = 1
            continue
        changed = text != path.read_text(encoding="utf-8")
        if arguments.check:
            status = 1 if changed else status
        elif changed:
            write_text(path, text)
        wording = ("would change" if arguments.check else "written") if changed else "unchanged"
        print(f"{path.name}: {wording}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
