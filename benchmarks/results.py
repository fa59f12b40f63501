"""Writes a benchmark's table where the book includes it, with the command and the versions that made it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcourse.files import write_json, write_text
from rlcourse.recipes.common import hardware, plain, versions

RESULTS = Path(__file__).parents[1] / "book" / "results"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_result(name: str, body: str, *, command: str, data: Mapping[str, Any]) -> None:
    """Write ``book/results/NAME.md`` for the reader and ``NAME.json`` for the next program."""
    made = versions()
    machine = hardware()
    note = (
        f"Measured on {datetime.date.today():%d %B %Y} with `{command}`; {machine['cpus']} CPU cores ({machine['machine']}), "
        f"Python {made['python']}, torch {made['torch']}, rlcourse {made['rlcourse']}."
    )
    write_text(RESULTS / f"{name}.md", f"{body}\n\n{note}\n")
    write_json(RESULTS / f"{name}.json", plain({"command": command, "versions": made, "hardware": machine, **data}))
    print(f"{body}\n\n{note}")
