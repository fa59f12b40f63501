"""A stage of ``make test`` is skipped only when nothing it depends on has changed since it last passed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import build_book  # noqa: E402
import count_tests  # noqa: E402
import run_stage  # noqa: E402

# Instead of pytest: notes that it ran, writes a report where it is told to, ends with the status it is given.
STAND_IN = """
import pathlib, sys
with open("runs.txt", "a") as runs:
    runs.write("ran\\n")
assert sys.argv[-2] == "--junitxml"
pathlib.Path(sys.argv[-1]).write_text('<testsuites><testsuite tests="3" failures="0" skipped="1"/></testsuites>')
raise SystemExit(int(sys.argv[1]))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A module, a lab, a page, a quick test and a slow one."""
    contents = {
        "rlcourse/m.py": "",
        "notebooks/a.ipynb": "",
        "book/a.md": "",
        "tests/test_quick.py": "",
        "tests/test_slow.py": f"pytestmark = pytest.mark.{'slow'}",
    }
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def ran(tree: Path, stage: str, *words: str, status: int = 0) -> bool:
    """Ask for a stage; whether it was run."""
    log = tree / "runs.txt"
    before = log.read_text() if log.exists() else ""
    command = [sys.executable, "-c", STAND_IN, str(status), *words]
    assert run_stage.run(tree, tree / "reports" / f"{stage}.xml", command) == status
    return log.exists() and log.read_text() != before


@pytest.mark.parametrize("stage", run_stage.STAGES)
def test_a_stage_that_passed_is_not_run_again_and_its_report_stays(
    tree: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(tree, stage)
    report = tree / "reports" / f"{stage}.xml"
    before = report.read_text()
    assert not ran(tree, stage)
    assert report.read_text() == before
    stamp = capsys.readouterr().out.split("remove ")[1].strip()
    Path(stamp).unlink()
    assert ran(tree, stage), "removing what the message names runs it all the same"


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ("rlcourse/m.py", {"labs", "learning", "site"}),
        ("notebooks/a.ipynb", {"labs", "site"}),
        ("book/a.md", {"site"}),
        ("tests/test_slow.py", {"learning"}),
        ("tests/test_quick.py", set()),
    ],
)
def test_a_change_runs_the_stages_that_depend_on_it(tree: Path, changed: str, stages: set[str]) -> None:
    for stage in run_stage.STAGES:
        ran(tree, stage)
    with (tree / changed).open("a") as file:
        file.write("# changed")
    assert {stage for stage in run_stage.STAGES if ran(tree, stage)} == stages


def test_a_new_slow_test_and_another_command_are_changes(tree: Path) -> None:
    ran(tree, "learning")
    (tree / "tests" / "test_quick.py").write_text(f"@pytest.mark.{'slow'}\n", encoding="utf-8")
    assert ran(tree, "learning")
    assert ran(tree, "learning", "--another-word")


@pytest.mark.parametrize(("stage", "shown"), [("learning", ["tests/test_slow.py"]), ("labs", [])])
def test_a_stage_with_a_marker_is_shown_the_files_in_which_it_stands(tree: Path, stage: str, shown: list[str]) -> None:
    command = [sys.executable, "-c", "import sys; open('words', 'w').write(' '.join(sys.argv[1:-2]))"]
    assert run_stage.run(tree, tree / "reports" / f"{stage}.xml", command) == 0
    assert (tree / "words").read_text().split() == shown


def test_a_stage_that_failed_is_run_again(tree: Path) -> None:
    assert ran(tree, "labs", status=1)
    assert ran(tree, "labs", status=1)
    assert ran(tree, "labs")
    (tree / "rlcourse" / "m.py").write_text("broken", encoding="utf-8")
    assert ran(tree, "labs", status=1)
    (tree / "rlcourse" / "m.py").write_text("", encoding="utf-8")
    assert ran(tree, "labs"), "a failure takes the older stamp away"


def test_what_is_edited_during_a_run_was_not_tested(tree: Path) -> None:
    edit = "from pathlib import Path; Path('rlcourse/m.py').write_text('x = 1')"
    command = [sys.executable, "-c", f"{edit}; Path('reports/labs.xml').write_text('')"]
    assert run_stage.run(tree, tree / "reports" / "labs.xml", command) == 0
    now = run_stage.depends_on(tree, "labs", command)
    assert (tree / "reports" / "labs.passed").read_text() != now


def test_a_lost_report_is_made_again(tree: Path) -> None:
    ran(tree, "site")
    (tree / "reports" / "site.xml").unlink()
    assert ran(tree, "site")


def test_reports_of_skipped_stages_are_still_counted(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        for stage in run_stage.STAGES:
            ran(tree, stage)
    (tree / "reports" / "unit.xml").write_text('<testsuites><testsuite tests="5"/></testsuites>', encoding="utf-8")
    capsys.readouterr()
    assert count_tests.main(tree / "reports") == 0
    assert capsys.readouterr().out == "11 passed, 0 failed, 3 skipped\n"


def test_an_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage.main(["_build/reports/unit.xml", "pytest"]) == 2
    assert run_stage.main(["_build/reports/labs.xml"]) == 2
    assert "labs, learning, site" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", sorted({pattern for patterns in run_stage.STAGES.values() for pattern in patterns}))
def test_what_a_stage_depends_on_exists(pattern: str) -> None:
    assert build_book.files(ROOT, [pattern])


def test_the_makefile_runs_each_stage_and_the_closing_line_counts_it() -> None:
    asked = re.findall(r"\$\(STAGE\) \$\(REPORTS\)/(\w+)\.xml", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert sorted(asked) == sorted(run_stage.STAGES)
    assert set(count_tests.EXPECTED) == {"unit", *asked}


def test_the_files_with_slow_tests_are_found() -> None:
    found = run_stage.chosen(ROOT, "slow")
    assert "tests/learning/test_offline.py" in found
    assert "tests/project/test_run_stage.py" not in found
