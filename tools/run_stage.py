"""Run one stage of ``make test``, unless nothing it depends on has changed since it last passed.

    python tools/run_stage.py _build/reports/labs.xml pytest --nbval notebooks

The report's name says which stage it is. Beside a report of a stage that passed lies a stamp: a hash over all that the
stage depends on. While it still fits, the stage is skipped and its report stays, so that ``tools/count_tests.py`` adds
up the same tests. A clean checkout has no stamps, so everything runs there.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from build_book import COMPUTED_FROM, WRITTEN_FROM, files, fingerprint

ROOT = Path(__file__).resolve().parent.parent
# What any test can depend on: the package with its versions, and the settings of pytest.
ALWAYS = (*COMPUTED_FROM, "pyproject.toml", "tools/run_stage.py", "tests/conftest.py")
STAGES = {
    "labs": (*ALWAYS, "notebooks/*.ipynb", "exercises/*.py", "tests/nbval_sanitize.cfg"),
    "learning": ALWAYS,
    "site": (*ALWAYS, *WRITTEN_FROM, "exercises/*.py", "tools/serve.py", "tests/site/**/*"),
}
# Stages that choose their tests by a marker depend on every file in which it stands.
MARKERS = {"learning": "slow", "site": "site"}


def chosen(root: Path, marker: str) -> list[str]:
    """The test files in which a marker stands."""
    mark = re.compile(rf"\bmark\.{marker}\b")
    found = (path for path in files(root, ["tests/**/*.py"]) if mark.search(path.read_text(encoding="utf-8")))
    return [path.relative_to(root).as_posix() for path in found]


def depends_on(root: Path, stage: str, command: Sequence[str]) -> str:
    """A hash over the files behind a stage, its command and the Python that runs it."""
    tests = chosen(root, MARKERS[stage]) if stage in MARKERS else []
    parts = [fingerprint(root, [*STAGES[stage], *tests]), sys.version, *command]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def run(root: Path, report: Path, command: Sequence[str]) -> int:
    """Run the command, told which files to look at and to write the report, unless its stamp still fits; the exit status."""
    stage, stamp = report.stem, report.with_suffix(".passed")
    now = depends_on(root, stage, command)  # before the run: what is edited meanwhile was not tested
    if report.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == now:
        print(f"{stage}: nothing it depends on has changed since it passed. To run it all the same, remove {stamp}")
        return 0
    stamp.unlink(missing_ok=True)
    report.unlink(missing_ok=True)  # a stage that is interrupted leaves no old report behind
    report.parent.mkdir(parents=True, exist_ok=True)
    # Each worker imports every file it is shown: half a minute for all of them.
    tests = chosen(root, MARKERS[stage]) if stage in MARKERS else []
    status = subprocess.run([*command, *tests, "--junitxml", str(report)], cwd=root).returncode
    if status == 0:
        stamp.write_text(now, encoding="utf-8")
    return status


def main(argv: Sequence[str]) -> int:
    """Run a stage; the exit status."""
    if len(argv) < 2 or Path(argv[0]).stem not in STAGES:
        print(f"Give a report named after one of {', '.join(STAGES)}, then a command.", file=sys.stderr)
        return 2
    return run(ROOT, Path(argv[0]), argv[1:])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
