"""Write the table of monitoring signals where the book includes it: ``python tools/write_signals_table.py``."""

from __future__ import annotations

from pathlib import Path

from rlcourse.files import write_text
from rlcourse.monitoring.catalogue import signals_table

TARGET = Path(__file__).resolve().parents[1] / "book" / "results" / "signals.md"


def main() -> int:
    """Replace the file."""
    write_text(TARGET, signals_table())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
