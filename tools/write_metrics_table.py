"""Write the table of metric names where the book includes it: ``python tools/write_metrics_table.py``."""

from __future__ import annotations

from pathlib import Path

from rlcourse.files import write_text
from rlcourse.training.metrics import metrics_table

TARGET = Path(__file__).resolve().parents[1] / "book" / "results" / "metrics.md"


def main() -> int:
    """Replace the file."""
    write_text(TARGET, metrics_table())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
