"""Pictures that commands draw to files."""

from __future__ import annotations

import math
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


def tuning_picture(
    target: Path,
    trials: Sequence[tuple[int, float, bool]],
    history: Sequence[float],
    importances: Mapping[str, float],
    fresh: Sequence[AlgorithmSummary],
    *,
    title: str,
) -> None:
    """Left, every trial's score, the best so far, and what fresh seeds say; right, the importance of each setting.

    Args:
        target: where to.
        trials: number, score, and whether it was pruned; scores may be infinite and are then left out.
        history: the best score so far, after each trial.
        importances: shares by setting; may be empty.
        fresh: intervals on fresh seeds; may be empty.
        title: of the left picture.

    Raises:
        ConfigError: a file ending that is none of :data:`FORMATS`.
        StorageError: the file could not be written.
    """
    check_format(target)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    scores, shares = figure.subplots(1, 2, width_ratios=(2, 1))
    for pruned, marker, label in ((False, "o", "complete"), (True, "x", "pruned")):
        shown = [(number, score) for number, score, was in trials if was is pruned and math.isfinite(score)]
        if shown:
            scores.plot(*zip(*shown, strict=True), marker, color="C0", alpha=0.7, label=label)
    scores.plot([number for number, _, _ in trials], history, color="C0", drawstyle="steps-post", label="best so far")
    end = max((number for number, _, _ in trials), default=0)
    for index, summary in enumerate(fresh, 1):
        low, high = summary.last.estimate - summary.last.low, summary.last.high - summary.last.estimate
        scores.errorbar(
            end + 2 * index,
            summary.last.estimate,
            yerr=[[low], [high]],
            fmt="s",
            color=f"C{index}",
            capsize=4,
            label=f"{summary.algorithm}, fresh seeds",
        )
    scores.set(xlabel="trial", ylabel="score", title=title)
    scores.legend(fontsize="small")
    shares.barh(list(importances)[::-1], list(importances.values())[::-1], color="C0")
    shares.set(xlabel="importance" if importances else "importance: too few complete trials")
    with atomic_path(target) as part:
        figure.savefig(part, format=target.suffix[1:], dpi=150)
