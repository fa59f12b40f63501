"""What a generated dashboard would show of a run: its panels' own queries, asked at moments of the run.

::

    dashboard.json ──title, unit, limits, queries, legends──▶ Shown ◀──answers── samples of the run

Nothing about a panel is written here a second time: what the picture says is what Grafana would read from the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlcourse.errors import ConfigError
from rlcourse.monitoring.evaluation import evaluate
from rlcourse.monitoring.promql import Expression, parse, selectors
from rlcourse.monitoring.samples import NAME, Labels, Samples

EVERY_POLICY = ".*"
"""What Grafana puts in the place of the variable when no policy is chosen."""


@dataclass(frozen=True)
class Line:
    """One series of a panel."""

    legend: str
    times_s: tuple[float, ...]
    values: tuple[float, ...]
    """As many as times; may hold NaN."""


@dataclass(frozen=True)
class Shown:
    """One panel as it would be seen."""

    row: str
    title: str
    says: str
    unit: str
    """Grafana's name for it."""
    limits: tuple[float, ...]
    """Drawn as lines, from the lowest."""
    queries: tuple[str, ...]
    """As they stand in the file."""
    lines: tuple[Line, ...]
    """None: the queries give no data."""


def names_read(dashboard: Mapping[str, Any]) -> frozenset[str]:
    """The metrics that a dashboard's queries read: whoever wants to draw it has to keep these."""
    return frozenset(
        selector.name
        for panel in _panels(dashboard)
        for target in panel["targets"]
        for selector in selectors(_tree(target))
    )


def shown(dashboard: Mapping[str, Any], samples: Samples, times_s: Sequence[float]) -> tuple[Shown, ...]:
    """Every panel of a dashboard, its queries evaluated over ``samples`` at ``times_s``.

    Args:
        dashboard: the content of the file that :func:`~rlcourse.monitoring.dashboards.dashboard_file` writes.
        samples: of the metrics in :func:`names_read`.
        times_s: rising.

    Raises:
        ConfigError: it is no dashboard of this package, or a query is outside of what is understood.
    """
    row, found = "", []
    for panel in dashboard.get("panels", ()):
        if panel["type"] == "row":
            row = panel["title"]
            continue
        found.append(_shown(row, panel, samples, times_s))
    if not found:
        raise ConfigError("There are no panels.", mend="Give the content of dashboard.json.")
    return tuple(found)


def _shown(row: str, panel: Mapping[str, Any], samples: Samples, times_s: Sequence[float]) -> Shown:
    defaults = panel["fieldConfig"]["defaults"]
    steps = defaults.get("thresholds", {}).get("steps", [])
    lines: list[Line] = []
    for target in panel["targets"]:
        tree, series = _tree(target), dict[Labels, tuple[list[float], list[float]]]()
        for at_s in times_s:
            for labels, value in evaluate(tree, samples, at_s).items():
                times, values = series.setdefault(labels, ([], []))
                times.append(at_s)
                values.append(value)
        lines += [
            Line(legend_of(target.get("legendFormat", ""), labels), tuple(times), tuple(values))
            for labels, (times, values) in sorted(series.items())
        ]
    return Shown(
        row,
        panel["title"],
        panel["description"],
        defaults["unit"],
        tuple(step["value"] for step in steps if step["value"] is not None),
        tuple(target["expr"] for target in panel["targets"]),
        tuple(lines),
    )


def legend_of(pattern: str, labels: Labels) -> str:
    """A legend with its labels filled in, as Grafana does: ``{{version}}`` of a series with version v2 is v2."""
    values = dict(labels)
    if not pattern:
        return "{" + ", ".join(f"{name}={value}" for name, value in labels if name != NAME) + "}"
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: values.get(found[1], ""), pattern).strip()


def _panels(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (panel for panel in dashboard.get("panels", ()) if panel["type"] != "row")


def _tree(target: Mapping[str, Any]) -> Expression:
    return parse(target["expr"].replace("$policy", EVERY_POLICY))
