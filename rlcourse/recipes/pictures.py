"""Pictures that commands draw to files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rlcourse.errors import ConfigError
from rlcourse.evaluation.comparison import AlgorithmSummary
from rlcourse.files import atomic_path

FORMATS = (".png", ".svg", ".pdf")


def check_format(target: Path | None) -> None:
    """Raise :class:`ConfigError` for a file ending that is none of :data:`FORMATS`; commands ask before they work."""
    if target is not None and target.suffix not in FORMATS:
        raise ConfigError(f"Cannot draw to {target}.", mend=f"Name a file that ends in {' or '.join(FORMATS)}.")


def comparison_picture(
    target: Path, rows: Sequence[Mapping[str, Any]], summaries: Sequence[AlgorithmSummary], *, title: str
) -> None:
    """Left, every run's learning curve; right, the interquartile means with their intervals.

    Raises:
        ConfigError: a file ending that is none of :data:`FORMATS`.
        StorageError: the file could not be written.
    """
    check_format(target)
    figure = Figure(figsize=(9, 3.6), layout="constrained")  # not pyplot: no global state, no window
    curves, intervals = figure.subplots(1, 2, width_ratios=(2, 1))
    for index, summary in enumerate(summaries):
        for row in rows:
            if row["algorithm"] == summary.algorithm:
                curves.plot(*zip(*row["curve"], strict=True), color=f"C{index}", alpha=0.6, linewidth=1.2)
        curves.plot([], [], color=f"C{index}", label=summary.algorithm)
        low, high = summary.last.estimate - summary.last.low, summary.last.high - summary.last.estimate
        intervals.errorbar(summary.last.estimate, index, xerr=[[low], [high]], fmt="o", color=f"C{index}", capsize=4)
    curves.set(xlabel="updates", ylabel="greedy return", title=title)
    curves.legend()
    intervals.set(xlabel="last return, IQM (95%)", ylim=(len(summaries) - 0.5, -0.5))
    intervals.set_yticks(range(len(summaries)), [summary.algorithm for summary in summaries])
    with atomic_path(target) as part:
        figure.savefig(part, format=target.suffix[1:], dpi=150)
