"""What is stored in the labs, so that comparing their outputs means something, and their first cell."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import execute_notebooks as tool  # noqa: E402
import nbformat  # noqa: E402

LABS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook as they stand in the file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


def cell_tags(cell: dict[str, Any]) -> list[str]:
    """The tags of a cell."""
    return list(cell["metadata"].get("tags", []))


def test_there_are_labs() -> None:
    assert LABS


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
class TestLab:
    """Each lab on the disk."""

    def test_every_code_cell_has_been_run_in_order(self, lab: Path) -> None:
        # A notebook that was never run would pass every comparison of its outputs.
        counts = [cell["execution_count"] for cell in code_cells(lab) if source(cell).strip()]
        assert counts == list(range(1, len(counts) + 1))

    def test_no_picture_and_no_markup_is_stored(self, lab: Path) -> None:
        for cell in code_cells(lab):
            for output in cell["outputs"]:
                assert output["output_type"] == "stream" or set(output.get("data", {})) <= {"text/plain"}, source(cell)

    def test_what_is_not_compared_is_not_stored(self, lab: Path) -> None:
        assert not [cell for cell in code_cells(lab) if tool.IGNORED in cell_tags(cell) and cell["outputs"]]

    def test_a_cell_that_prints_has_a_stored_output_or_is_marked(self, lab: Path) -> None:
        silent = [cell for cell in code_cells(lab) if not cell["outputs"] and tool.IGNORED not in cell_tags(cell)]
        for cell in silent:
            assert not speaks(source(cell)), f"run tools/execute_notebooks.py: no output is stored for\n{source(cell)}"

    def test_the_first_code_cell_is_the_one_for_colab(self, lab: Path) -> None:
        first = code_cells(lab)[0]
        assert source(first) == tool.colab_source()
        assert cell_tags(first) == tool.COLAB_TAGS

    def test_it_begins_with_its_only_title(self, lab: Path) -> None:
        cells = nbformat.read(lab, as_version=4).cells
        assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
        text = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
        assert len([line for line in text if line.startswith("# ")]) == 1


def speaks(text: str) -> bool:
    """Whether a cell surely makes an output: it prints at top level, or ends in a value that is not a call's."""
    body = ast.parse(text).body
    prints = any(
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Call)
        and isinstance(line.value.func, ast.Name)
        and line.value.func.id in {"print", "display", "show", "show_figure"}
        for line in body
    )
    last = body[-1] if body else None
    ends_in_value = isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call | ast.Constant | ast.Await)
    return prints or ends_in_value


@pytest.mark.parametrize(
    ("text", "answer"),
    [("print(1)", True), ("x = 1\nx", True), ("x = 1", False), ("", False), ("for i in y:\n    f(i)", False)],
)
def test_speaks_tells_a_silent_cell_from_one_that_answers(text: str, answer: bool) -> None:
    assert speaks(text) is answer


# The Colab cell, run as Colab runs it, with nothing really installed.


def run_cell(monkeypatch: pytest.MonkeyPatch, *, installed: bool, colab: bool) -> list[list[str]]:
    """Run the cell's text; the commands it would have started."""
    commands: list[list[str]] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(subprocess, "check_call", lambda command: commands.append(list(command)))
    if colab:
        monkeypatch.setenv("COLAB_RELEASE_TAG", "release-1")
    else:
        monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    exec(compile(tool.colab_source(), "colab_first_cell.py", "exec"), {"__name__": "__main__"})
    return commands


@pytest.mark.parametrize(("installed", "colab"), [(True, True), (True, False), (False, False)])
def test_the_colab_cell_does_nothing_elsewhere_or_twice(
    monkeypatch: pytest.MonkeyPatch, installed: bool, colab: bool
) -> None:
    assert run_cell(monkeypatch, installed=installed, colab=colab) == []


def test_the_colab_cell_installs_without_touching_torch_and_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = run_cell(monkeypatch, installed=False, colab=True)
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    constraints = Path(command[command.index("-c") + 1])
    frozen = constraints.read_text(encoding="utf-8").splitlines()
    constraints.unlink()
    assert f"torch=={importlib.metadata.version('torch')}" in frozen
    assert f"numpy=={importlib.metadata.version('numpy')}" in frozen
    assert command[-1].startswith("rlcourse @ git+https://")


# The tool that runs the labs.


def notebook(*cells: Any) -> nbformat.NotebookNode:
    """A notebook of the given cells."""
    made: nbformat.NotebookNode = nbformat.v4.new_notebook(cells=list(cells))
    return made


def output(**data: str) -> nbformat.NotebookNode:
    """A displayed output; ``text_plain`` stands for the type text/plain."""
    made: nbformat.NotebookNode = nbformat.v4.new_output(
        "display_data", data={key.replace("_", "/"): value for key, value in data.items()}
    )
    return made


def code(text: str, *outputs: Any, tags: tuple[str, ...] = ()) -> nbformat.NotebookNode:
    """A code cell with outputs."""
    cell: nbformat.NotebookNode = nbformat.v4.new_code_cell(text, outputs=list(outputs))
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def test_the_colab_cell_is_put_before_the_first_code_cell_once() -> None:
    lab = notebook(nbformat.v4.new_markdown_cell("# Title"), code("print(1)"))
    for _ in range(2):
        tool.with_colab_cell(lab)
    assert [cell.source for cell in lab.cells] == ["# Title", tool.colab_source(), "print(1)"]


def test_a_changed_colab_cell_is_brought_up_to_date() -> None:
    lab = tool.with_colab_cell(notebook(code("old", tags=("colab",))))
    assert [cell.source for cell in lab.cells] == [tool.colab_source()]


def test_outputs_of_marked_cells_are_dropped_and_text_is_kept() -> None:
    shown = output(text_plain="<Figure>", image_png="AAAA")
    lab = tool.stored(notebook(code("draw()", shown, tags=(tool.IGNORED,)), code("2", output(text_plain="2"))), "lab")
    assert [len(cell.outputs) for cell in lab.cells] == [0, 1]


def test_an_unmarked_picture_is_refused_and_the_cell_is_named() -> None:
    lab = notebook(code("draw_it()", output(text_plain="<Figure>", image_png="AAAA")))
    with pytest.raises(tool.LabError, match=r"draw_it\(\)") as caught:
        tool.stored(lab, "lab")
    assert tool.IGNORED in caught.value.mend


def test_pieces_of_one_stream_are_joined() -> None:
    pieces = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("a\n", "b\n")]
    lab = tool.stored(notebook(code("print()", *pieces)), "lab")
    assert [piece.text for piece in lab.cells[0].outputs] == ["a\nb\n"]


def test_what_chance_or_the_machine_put_in_is_not_stored() -> None:
    texts = []
    for version in ("3.11.2", "3.12.1"):
        lab = notebook(code("1"))  # nbformat gives each cell an id by chance
        lab.metadata["language_info"] = {"name": "python", "version": version}
        lab.cells[0].metadata["execution"] = {"iopub.execute_input": version}
        texts.append(tool.text_of(tool.stored(lab, "lab")))
    assert texts[0] == texts[1]
