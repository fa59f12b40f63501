"""The student's own check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlcourse.course import check, check_file
from rlcourse.course.exercise_set import exercise_named
from rlcourse.errors import ExerciseError

RIGHT = (
    "import torch\ndef expectile_loss(error, tau):\n    return torch.where(error < 0, 1 - tau, tau) * error.square()\n"
)


def answer(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = name
    return function


def test_a_right_answer(capsys: pytest.CaptureFixture[str]) -> None:
    def discounts(terminated: Tensor, gamma: float) -> Tensor:
        return gamma * (~terminated).float()

    verdict = check(discounts)
    assert verdict.passed
    assert capsys.readouterr().out == "discounts: passed. All 12 cases agree.\n"


def test_a_wrong_answer_is_shown_the_case_and_the_hint(capsys: pytest.CaptureFixture[str]) -> None:
    reversed_ = answer("expectile_loss", lambda error, tau: torch.where(error < 0, tau, 1 - tau) * error.square())
    verdict = check(reversed_)
    assert verdict.status == "failed"
    out = capsys.readouterr().out
    assert "tensor([1.2, 2.8])" in out
    assert "tensor([2.8, 1.2])" in out
    assert exercise_named("expectile_loss").mistakes[0].hint in out


def test_an_infinite_loop_gets_a_verdict() -> None:
    def discounts(terminated: Tensor, gamma: float) -> Tensor:
        while True:
            pass

    assert check(discounts, time_limit_s=0.3).status == "time_limit"


def test_an_answer_that_ends_the_process_ends_only_its_own() -> None:
    def discounts(terminated: Tensor, gamma: float) -> Tensor:
        import os

        os._exit(3)

    assert check(discounts).status == "process_died"


def test_a_function_of_another_name_is_refused() -> None:
    with pytest.raises(ExerciseError, match="Keep the name of the stub"):
        check(lambda: None)


def test_without_fork_a_thread_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlcourse.course.checking.sys.platform", "win32")
    assert check(answer("discounts", lambda terminated, gamma: gamma * (~terminated).float())).passed

    class Slow:
        def __call__(self, terminated: Tensor, gamma: float) -> Tensor:
            import time

            time.sleep(0.5)
            return terminated

    slow = Slow()
    slow.__name__ = "discounts"  # type: ignore[attr-defined]
    assert check(slow, time_limit_s=0.1).status == "time_limit"


def test_a_file_by_its_own_name_is_asked_everything(tmp_path: Path) -> None:
    path = tmp_path / "ch05_iql.py"
    path.write_text(RIGHT)
    statuses = {verdict.exercise: verdict.status for verdict in check_file(path)}
    assert statuses.pop("expectile_loss") == "passed"
    assert set(statuses.values()) == {"missing"}


def test_a_file_by_another_name_is_asked_what_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(RIGHT)
    assert [(verdict.exercise, verdict.status) for verdict in check_file(path)] == [("expectile_loss", "passed")]


def test_a_file_without_exercises_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "diary.py"
    path.write_text("x = 1\n")
    with pytest.raises(ExerciseError, match=r"ch04_cql\.py"):
        check_file(path)


def test_the_check_goes_on_after_an_answer_that_hangs(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(RIGHT + "def discounts(terminated, gamma):\n    while True: pass\n")
    assert [verdict.status for verdict in check_file(path, time_limit_s=0.5)] == ["time_limit", "passed"]


def test_an_import_of_the_answer_is_told_now_and_not_at_grading(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from rlcourse.objectives.values import expectile_loss\n"
        "from rlcourse.objectives import returns\n"
        "def discounts(terminated, gamma):\n    return returns.discounts(terminated, gamma)\n"
    )
    first, second = check_file(path)
    assert first.exercise == "discounts"
    assert "which is not there when answers are graded" in first.notes[0]
    assert second.status == "imports_answer"


def test_the_course_does_without_ipython() -> None:
    code = "import sys; sys.modules['IPython'] = None; from rlcourse.course import check, show; show(check)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("def check(")
