"""``rlcourse serve http``: what it refuses. What it serves: ``tests/serving/test_http.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlcourse.recipes.command_line import main


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 2, "No policy was named"),
        (["nowhere"], 1, "nowhere"),
        (["=x"], 2, "'=x'"),
        (["a@=x"], 2, "'a@=x'"),
        (["x", "--port", "70000"], 2, "70000"),
        (["x", "--device", "cuda"], 2, "CPU"),
        (["x", "--fallback", "left"], 2, "left"),
        (["x", "--api-keys", "nowhere"], 2, "nowhere"),
    ],
)
def test_wrong_words(words: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "http", *words]) == status
    out, err = capsys.readouterr()
    assert says in err + out
    assert "Traceback" not in err


def test_an_empty_file_of_keys_does_not_open_the_door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text("\n \n")
    assert main(["serve", "http", "x", "--api-keys", str(tmp_path / "keys")]) == 2
    assert "no key" in capsys.readouterr().err


def test_serving_loads_no_torch() -> None:
    code = "import sys, rlcourse.recipes.serve_http; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "False"
