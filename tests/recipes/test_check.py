"""``rlcourse check``: exit statuses and what is printed where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcourse.recipes.check import Check, run

RIGHT = "def discounts(terminated, gamma):\n    return gamma * (~terminated).float()\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_all_right_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, RIGHT)
    assert run(Check(paths=(path,))) == 0
    assert capsys.readouterr().out.splitlines() == ["discounts: passed. All 12 cases agree.", f"{path}: 1 of 1 passed"]


def test_wrong_or_not_attempted_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Check(paths=(written(tmp_path, RIGHT.replace("~", "")),))) == 1
    assert "the other way round" in capsys.readouterr().out
    assert (
        run(Check(paths=(written(tmp_path, "def discounts(terminated, gamma):\n    raise NotImplementedError\n"),)))
        == 1
    )
    assert "not attempted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "says"), [("nowhere.py", "no file"), ("a.txt", "neither"), ("damaged.ipynb", "damaged")]
)
def test_a_file_that_cannot_be_used_is_2(
    tmp_path: Path, name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "damaged.ipynb").touch()
    assert run(Check(paths=(tmp_path / name,))) == 2
    assert says in capsys.readouterr().err


def test_no_file_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Check(paths=())) == 2
    assert "rlcourse check" in capsys.readouterr().err


def test_a_notebook_and_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["%matplotlib inline\n", RIGHT]}]}))
    assert run(Check(paths=(path,), json="-")) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert content["command"] == "check"
    assert [(row["exercise"], row["status"]) for row in content["results"]] == [("discounts", "passed")]
    assert "discounts: passed" in err
    run(Check(paths=(path,), json=str(tmp_path / "verdicts.json")))
    assert json.loads((tmp_path / "verdicts.json").read_text())["results"] == content["results"]
