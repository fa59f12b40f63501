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


COMPARED = ["log", "method", "last: IQM [95 % interval]", "best: IQM", "P(a run beats a BC run)"]


def compared_rows(reports: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows under :data:`COMPARED` from reports of ``rlcourse offline compare``, one report to a log."""
    return [
        [
            name,
            row["algorithm"].upper(),
            f"**{row['iqm']:.0f}** [{row['ci_low']:.0f}, {row['ci_high']:.0f}]",
            f"{row['best_iqm']:.0f}",
            "" if row["improvement_over_bc"] is None else f"{row['improvement_over_bc']['estimate']:.2f}",
        ]
        for name, report in reports.items()
        for row in report["summary"]
    ]


def _without_targets(value: Any) -> Any:
    # Where a report was written to says nothing of what is in it, and mostly names a folder that is gone.
    if isinstance(value, dict):
        return {key: _without_targets(item) for key, item in value.items() if key not in ("json", "folder")}
    return [_without_targets(item) for item in value] if isinstance(value, list) else value


def write_result(name: str, body: str, *, command: str, data: Mapping[str, Any]) -> None:
    """Write ``book/results/NAME.md`` for the reader and ``NAME.json`` for the next program."""
    made = versions()
    machine = hardware()
    note = (
        f"Measured on {datetime.date.today():%d %B %Y} with `{command}`; {machine['cpus']} CPU cores ({machine['machine']}), "
        f"Python {made['python']}, torch {made['torch']}, rlcourse {made['rlcourse']}."
    )
    write_text(RESULTS / f"{name}.md", f"{body}\n\n{note}\n")
    content = {"command": command, "versions": made, "hardware": machine, **data}
    write_json(RESULTS / f"{name}.json", _without_targets(plain(content)))
    print(f"{body}\n\n{note}")
