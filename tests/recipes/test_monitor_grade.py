"""``rlcourse monitor grade``: what it prints, what it reports, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcourse.recipes.monitor_grade import Grade, run

ROOT = Path(__file__).resolve().parents[2]


def test_the_answer_passes_and_the_report_says_who_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.json"
    assert run(Grade(path=ROOT / "solutions/ch17_alert.yml", engine="embedded", json=str(target))) == 0
    assert "PolicyStuck: passed. Graded by embedded." in capsys.readouterr().out
    written = json.loads(target.read_text())
    (result,) = written["results"]
    assert written["command"] == "monitor grade"
    assert (result["status"], result["engine"], result["fault"], result["hint"]) == ("passed", "embedded", "", "")
    assert len(result["checks"]) == 8


def test_the_stub_is_not_attempted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Grade(path=ROOT / "exercises/ch17_alert.yml", engine="embedded")) == 1
    assert "not attempted" in capsys.readouterr().out


def test_a_file_that_cannot_be_used_is_another_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Grade(path=tmp_path / "nothing.yml")) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "Begin with exercises/ch17_alert.yml" in shown.err
