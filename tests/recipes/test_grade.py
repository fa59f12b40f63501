"""``rlcourse grade``: exit statuses and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcourse.recipes.grade import Grade, run

RIGHT = "def discounts(terminated, gamma):\n    return gamma * (~terminated).float()\n"
STUB = "def discounts(terminated, gamma):\n    raise NotImplementedError\n"


def test_a_class_is_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "class"
    (source / "ada").mkdir(parents=True)
    (source / "ada/anything.py").write_text(RIGHT)
    (source / "bob.py").write_text(STUB)
    assert run(Grade(source, seed=3, json=str(tmp_path / "copy.json"))) == 0
    assert "ada: 1 of 11" in capsys.readouterr().out
    output = tmp_path / "class-grades"
    assert {path.name for path in output.iterdir()} == {"marks.csv", "grades.json", "report.md", "feedback"}
    content = json.loads((output / "grades.json").read_text())
    assert content == json.loads((tmp_path / "copy.json").read_text())
    assert content["config"]["exercises"] == ["ch03_behavioural_cloning"], "nobody handed in another chapter"
    assert [row["points"] for row in content["results"]] == [1, 0]


def test_wrong_words_are_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "class").mkdir()
    assert run(Grade(tmp_path / "nowhere")) == 2
    assert run(Grade(tmp_path / "class")) == 2
    (tmp_path / "class/ada.py").write_text(STUB)
    assert run(Grade(tmp_path / "class", exercises=("ch99",))) == 2
    assert run(Grade(tmp_path / "class", jobs=0)) == 2
    assert run(Grade(tmp_path / "class", memory_mib=0)) == 2
    said = capsys.readouterr().err
    for word in ("no folder", "no submission", "ch04_cql", "jobs", "limit"):
        assert word in said
    assert not (tmp_path / "class-grades").exists()
