"""How long the site takes to build from nothing, and when nothing has changed.

python benchmarks/site.py     writes book/results/site.md; replaces what was built
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from results import markdown_table, write_result

ROOT = Path(__file__).parents[1]
FRESH_LIMIT_S, UNCHANGED_LIMIT_S = 360.0, 30.0


def main() -> int:
    """Build twice, write the table; exit status 1 if a limit is broken."""
    fresh, unchanged = build("--fresh"), build()
    rows = [
        ["from nothing, every lab executed", f"{fresh:.0f} s"],
        ["again, nothing changed", f"{unchanged:.1f} s"],
    ]
    seconds = {"fresh_s": fresh, "unchanged_s": unchanged}
    write_result("site", markdown_table(["build", "time"], rows), command="python benchmarks/site.py", data=seconds)
    return 0 if fresh < FRESH_LIMIT_S and unchanged < UNCHANGED_LIMIT_S else 1


def build(*words: str) -> float:
    """Seconds of one build."""
    started = time.perf_counter()
    subprocess.run([sys.executable, ROOT / "tools" / "build_book.py", *words], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
