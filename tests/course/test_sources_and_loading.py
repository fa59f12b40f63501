"""Reading what somebody else wrote, then running it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlcourse.course.inside.loading import File, load, read
from rlcourse.course.sources import MAX_BYTES, read_file
from rlcourse.errors import ExerciseError


def notebook(*cells: str) -> str:
    code = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": []} for cell in cells]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": "text"}, *code], "nbformat": 4})


def test_both_kinds_of_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfx = 1\n")
    (tmp_path / "b.ipynb").write_text(notebook("x = 1\n", "y = 2\n"))
    assert read_file(tmp_path / "a.py").cells == ("x = 1\n",)
    assert read_file(tmp_path / "b.ipynb").cells == ("x = 1\n", "y = 2\n")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.py", b"x = '\xe9'\n", "UTF-8"),
        ("a.py", b"# -*- coding: klingon -*-\n", "UTF-8"),
        ("a.py", b"x = 1\0\n", "null bytes"),
        ("a.py", b"#" * (MAX_BYTES[".py"] + 1), "larger"),
        ("a.ipynb", b'{"cells": [', "damaged"),
        ("a.ipynb", b"[" * 100_000, "damaged"),
        ("a.ipynb", b'{"worksheets": []}', "no list of cells"),
        ("a.ipynb", b'{"cells": [3]}', "no type"),
        ("a.ipynb", b'{"cells": [{"cell_type": "code", "source": 3}]}', "not text"),
        ("a.txt", b"", "neither"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExerciseError, match=says):
        read_file(tmp_path / name)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("x = 1")
    (tmp_path / "a.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(ExerciseError, match="no file"):
        read_file(tmp_path / "a.py")


def states(*cells: str, name: str = "a.py") -> dict[str, str]:
    return {key: found.state for key, found in read([File(name, cells)]).definitions.items()}


def test_reading_tells_stubs_from_answers_and_imports() -> None:
    source = (
        "def a():\n    '''doc'''\n    raise NotImplementedError('x')\n"
        "def b():\n    raise NotImplementedError\n"
        "def c():\n    return 1\n"
        "def d(): ...\n"
        "e = lambda: 1\n"
        "from rlcourse.objectives.values import expectile_loss as f\n"
        "from rlcourse.errors import ConfigError\n"
    )
    assert states(source) == {
        "a": "stub",
        "b": "stub",
        "c": "attempted",
        "d": "stub",
        "e": "attempted",
        "f": "imported",
    }


def test_a_later_stub_does_not_hide_an_answer() -> None:
    stub = "def a():\n    raise NotImplementedError\n"
    assert states("def a():\n    return 1\n", stub, name="a.ipynb") == {"a": "attempted"}
    assert states(stub, "def a():\n    return 1\n", name="a.ipynb") == {"a": "attempted"}


@pytest.mark.parametrize(
    ("line", "closed"),
    [
        ("import rlcourse.objectives.values", True),
        ("from rlcourse import objectives", True),
        ("from rlcourse.course import cases_ch05", True),
        ("from rlcourse.course.exercise_set import all_exercises", True),
        ("from rlcourse.course import check, show", False),
        ("import rlcourse", False),
        ("from rlcourse.errors import ConfigError", False),
        ("from rlcourse.vocabulary import Batch", False),
        ("import torch", False),
    ],
)
def test_imports_of_answers_are_noticed(line: str, closed: bool) -> None:
    assert bool(read([File("a.py", (line,))]).answer_imports) is closed


def test_jupyters_own_lines_are_blanked_only_where_they_stand_in_the_way() -> None:
    file = File(
        "a.ipynb",
        (
            "%matplotlib inline\nx = 5",
            "!pip install torch",
            "%%bash\nrm -rf /",
            "y = (x\n% 3)",
            "if x:\n    %time z = 1\nz = 2",
        ),
    )
    assert read([file]).syntax_errors == []
    loaded = load([file])
    assert loaded.failures == []
    assert {name: vars(loaded.modules[0])[name] for name in "xyz"} == {"x": 5, "y": 2, "z": 2}


def test_a_failing_cell_does_not_take_the_others_along() -> None:
    loaded = load([File("a.ipynb", ("def f(): return 1", "1 / 0", "raise SystemExit", "(", "def g(): return 2"))])
    assert [failure.place for failure in loaded.failures] == [f"a.ipynb, cell {i}" for i in (2, 3, 4)]
    functions: list[Any] = [loaded.function(name, None) for name in "fgh"]
    assert functions[0]() == 1
    assert functions[1]() == 2
    assert functions[2] is None


def test_what_a_file_defined_before_it_crashed_is_there() -> None:
    loaded = load([File("a.py", ("def f(): return 1\n1 / 0\ndef g(): return 2\n",))])
    assert loaded.function("f", 0) is not None
    assert loaded.function("g", 0) is None


def test_the_file_where_reading_found_the_answer_comes_first() -> None:
    files = [File("a.py", ("def f(): return 'a'",)), File("b.py", ("def f(): return 'b'",))]
    loaded = load(files)
    function: Any = loaded.function("f", read(files).definitions["f"].file)
    assert function() == "b"
