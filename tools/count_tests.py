"""Add up the reports of all test runs and print one closing line; fails if a run left no report or ran nothing."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

EXPECTED = ("unit", "labs", "site", "learning")


def main(folder: Path) -> int:
    """Print ``N passed, N failed, N skipped`` over the reports in ``folder``."""
    passed = failed = skipped = 0
    for name in EXPECTED:
        report = folder / f"{name}.xml"
        if not report.exists():
            print(f"{report} is missing: the {name} tests did not run")
            return 1
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
        tests, bad, missed = (int(suite.get(key, 0)) for key in ("tests", "failures", "skipped"))
        bad += int(suite.get("errors", 0))
        if tests == missed:
            print(f"the {name} tests ran nothing")
            return 1
        passed, failed, skipped = passed + tests - bad - missed, failed + bad, skipped + missed
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
