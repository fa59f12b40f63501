"""A folder in, reports out; interrupted, resumed, repeated."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlcourse.course.exercise_set import exercises_of
from rlcourse.course.grading import report
from rlcourse.course.grading.grader import PROGRESS, ClassResult, Graded, Plan, find_submissions, grade_folder
from rlcourse.course.grading.sandbox import Sandbox, bubblewrap_works, choose, sandbox
from rlcourse.course.verdicts import Verdict
from rlcourse.errors import ConfigError, ExerciseError

STUB = 'def discounts(terminated, gamma):\n    """What?"""\n    raise NotImplementedError\n'
CHAPTER = ("ch03_behavioural_cloning",)


def folder_of(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_submissions_are_files_or_folders_by_student(tmp_path: Path) -> None:
    folder_of(
        tmp_path,
        {
            "ada.py": "",
            "ada.ipynb": "",
            "bob/ch03.py": "",
            "bob/more/ch04.ipynb": "",
            "bob/.ipynb_checkpoints/ch03.py": "",
            "bob/__pycache__/x.py": "",
            "cy/readme.txt": "",
            "notes.txt": "",
            ".hidden.py": "",
        },
    )
    found = {s.student: sorted(path.name for path in s.paths) for s in find_submissions(tmp_path)}
    assert found == {"ada": ["ada.ipynb", "ada.py"], "bob": ["ch03.py", "ch04.ipynb"], "cy": []}


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_grade_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExerciseError):
        find_submissions(tmp_path / name)


def test_an_unknown_exercise_file_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ExerciseError, match="ch05_iql"):
        Plan(tmp_path, tmp_path, exercises=("ch99",)).chosen()


def test_every_finished_submission_is_kept_and_a_second_run_goes_on(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"ada.py": STUB, "bob.py": STUB})
    plan = Plan(source, tmp_path / "out", exercises=CHAPTER, seed=1)
    first = grade_folder(plan)
    progress = tmp_path / "out" / PROGRESS
    assert len(progress.read_text().splitlines()) == 3

    with pytest.raises(ExerciseError, match="--resume"):
        grade_folder(plan)
    with pytest.raises(ExerciseError, match="another seed"):
        grade_folder(replace(plan, seed=2), resume=True)

    # Bob's line is only half written, and Ada's verdict is marked, to see that it is read and not made again.
    lines = progress.read_text().splitlines()
    ada, bob = sorted(lines[1:], key=lambda line: json.loads(line)["student"])
    marked = ada.replace("still raises", "STILL RAISES")
    progress.write_text("\n".join([lines[0], marked, bob[:40]]))
    second = grade_folder(plan, resume=True)
    assert [graded.student for graded in second.graded] == ["ada", "bob"]
    assert "STILL RAISES" in second.graded[0].verdicts[0].message
    assert second.graded[1] == next(graded for graded in first.graded if graded.student == "bob")


def test_a_submission_that_changed_is_graded_again(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"ada.py": STUB})
    plan = Plan(source, tmp_path / "out", exercises=CHAPTER, seed=1)
    grade_folder(plan)
    (source / "ada.py").write_text("x = 1\n")
    assert grade_folder(plan, resume=True).graded[0].verdicts[0].status == "missing"


def processes_with(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text in (entry / "cmdline").read_text(errors="replace"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")
@pytest.mark.parametrize("isolation", ["auto", "process"])
def test_an_interrupt_leaves_no_orphan_and_loses_nothing(tmp_path: Path, isolation: str) -> None:
    loop = "while True:\n    pass\n"
    source = folder_of(tmp_path / "in", {"ada.py": STUB, "bob.py": loop, "cy.py": loop, "dan.py": loop})
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    code = (
        # A shell starts background jobs deaf to Ctrl-C, and their children inherit that; this one must hear it.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from pathlib import Path; from rlcourse.recipes.grade import Grade, run; "
        f"sys.exit(run(Grade(Path({str(source)!r}), exercises={CHAPTER!r}, load_time_s=100, isolation={isolation!r})))"
    )
    environment = os.environ | {"TMPDIR": str(temporary)}
    grader = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    progress = tmp_path / "in-grades" / PROGRESS
    deadline = time.monotonic() + 60
    try:
        while not progress.exists() or len(progress.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline, "Ada was not graded"
            time.sleep(0.1)
        grader.send_signal(signal.SIGINT)
        _, said = grader.communicate(timeout=60)
    finally:
        grader.kill()
        grader.communicate()
    assert grader.returncode == 130
    assert b"--resume" in said
    assert json.loads(progress.read_text().splitlines()[1])["student"] == "ada"
    assert processes_with(str(temporary)) == []
    assert list(temporary.iterdir()) == []


def test_bubblewrap_is_used_when_it_works_and_refused_when_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto") == ("bubblewrap" if bubblewrap_works() else "process")
    monkeypatch.setattr("rlcourse.course.grading.sandbox.bubblewrap_works", lambda: False)
    assert choose("auto") == "process"
    with pytest.raises(ConfigError, match="apt install"):
        choose("bubblewrap")


def test_the_sandbox_can_read_no_answer() -> None:
    with sandbox("process") as walls:
        names = {str(path.relative_to(walls.facade)) for path in walls.facade.rglob("*.py")}
        text = "".join(path.read_text() for path in walls.facade.rglob("*.py"))
    assert names == {
        "rlcourse/__init__.py",
        "rlcourse/errors.py",
        "rlcourse/vocabulary.py",
        "rlcourse/course/__init__.py",
        *(
            f"rlcourse/course/inside/{n}.py"
            for n in ("__init__", "calling", "confinement", "facade", "loading", "worker")
        ),
    }
    assert "expectile" not in text


EXERCISES = exercises_of("ch05_iql")


def made_up() -> ClassResult:
    def verdicts(*statuses: str) -> tuple[Verdict, ...]:
        return tuple(
            Verdict(exercise.name, status, "said", "a hint" if status == "failed" else "")  # type: ignore[arg-type]
            for exercise, status in zip(EXERCISES, statuses, strict=True)
        )

    graded = (
        Graded(
            "=ada|1", "0" * 64, verdicts("passed", "passed", "failed", "passed", "missing"), locks=("limits", "system")
        ),
        Graded("bob", "1" * 64, verdicts("failed", "passed", "failed", "imports_answer", "missing"), locks=("limits",)),
        Graded("cy", "2" * 64, verdicts(*["unreadable"] * 5), problems=("cy.py is damaged.",)),
    )
    return ClassResult(Plan(Path("in"), Path("out"), seed=7), EXERCISES, "process", graded)


def test_the_marks_are_the_difficulties_of_what_passed() -> None:
    rows = list(csv.reader(report.marks_csv(made_up(), EXERCISES).splitlines()))
    difficulty = [exercise.difficulty for exercise in EXERCISES]
    assert rows[0][:4] == ["student", "points", "out_of", "expectile_loss"]
    assert rows[1][0] == "'=ada|1", "a spreadsheet must not run a file name"
    assert [int(x) for x in rows[1][1:3]] == [difficulty[0] + difficulty[1] + difficulty[3], sum(difficulty)]
    assert rows[2][3] == "0"
    assert rows[2][8:] == ["failed", "passed", "failed", "imports the answer", "missing"]


def test_the_report_says_what_to_talk_about_and_what_held() -> None:
    text = report.class_report(made_up(), EXERCISES, seconds=12.3)
    assert "Seed 7" in text
    assert "2 x implicit_policy_loss: a hint" in text
    assert "=ada\\|1" in text
    assert "bob: imports the answer" in text
    assert "without bubblewrap" in text
    assert "does not offer: system, files" in text, "only what held in every worker counts"


def test_the_plain_results_hold_every_verdict() -> None:
    result = made_up()
    rows = json.loads(json.dumps(report.results(result, EXERCISES)))
    assert [(row["student"], row["points"]) for row in rows][2] == ("cy", 0)
    assert [verdict["status"] for verdict in rows[1]["exercises"]][3] == "imports_answer"
    assert report.isolation(result) == {"walls": "process", "locks": ["limits"]}
    assert report.summary(result, EXERCISES)[0]["verdicts"] == {"passed": 1, "failed": 1, "unreadable": 1}


def test_files_that_nobody_handed_in_are_left_out() -> None:
    ch05 = made_up()
    others = exercises_of("ch04_cql")
    graded = tuple(
        replace(
            g,
            verdicts=g.verdicts + tuple(Verdict(e.name, "unreadable" if g.problems else "missing", "") for e in others),
        )
        for g in ch05.graded
    )
    both = ClassResult(ch05.plan, EXERCISES + others, "process", graded)
    assert report.handed_in(both) == EXERCISES


def test_reports_are_written_whole(tmp_path: Path) -> None:
    result = made_up()
    plan = replace(result.plan, output=tmp_path)
    report.write_reports(replace(result, plan=plan), EXERCISES, seconds=1.0)
    assert {path.name for path in tmp_path.iterdir()} == {"marks.csv", "report.md", "feedback"}
    assert "cy.py is damaged" in (tmp_path / "feedback/cy.md").read_text()
    assert "Hint: a hint" in (tmp_path / "feedback/bob.md").read_text()


def test_an_environment_that_lies_under_tmp_stays_visible_behind_the_walls(tmp_path: Path) -> None:
    walls = Sandbox("bubblewrap", tmp_path, ())._bubblewrap(tmp_path)
    cleared = next(i for i in range(len(walls)) if walls[i : i + 2] == ["--tmpfs", "/tmp"])
    shown = [i for i, word in enumerate(walls) if word in ("--ro-bind", "--ro-bind-try")]
    assert cleared < min(shown)  # what is mounted later lies on top
