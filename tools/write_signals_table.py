"""Write what monitoring knows where the book includes it: ``python tools/write_signals_table.py``."""

from __future__ import annotations

from pathlib import Path

from rlcourse.files import write_text
from rlcourse.monitoring.alerts import rule_groups, slos
from rlcourse.monitoring.catalogue import signals_table
from rlcourse.monitoring.limits import Baseline, Limits
from rlcourse.monitoring.runbooks import runbook_document
from rlcourse.monitoring.slo import slo_document

RESULTS = Path(__file__).resolve().parents[1] / "book" / "results"


def texts() -> dict[Path, str]:
    """Each file and what belongs into it; promises and runbooks are parts of a page, so their title is left out."""
    groups = rule_groups(baselines=(Baseline("rl_policy", -50.0),))
    return {
        RESULTS / "signals.md": signals_table(),
        RESULTS / "promises.md": _part(slo_document(slos(Limits()), groups)),
        RESULTS / "runbooks.md": _part(runbook_document(groups)),
    }


def _part(document: str) -> str:
    title, _, text = document.partition("\n\n")
    assert title.startswith("# ")
    return text.replace("## ", "### ").rstrip() + "\n"


def main() -> int:
    """Replace the files."""
    for path, text in texts().items():
        write_text(path, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
