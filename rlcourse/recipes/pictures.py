"""Pictures that commands draw to files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlcourse.errors import ConfigError
from rlcourse.evaluation.comparison import AlgorithmSummary
from rlcourse.evaluation.curves import Curve
from rlcourse.files import atomic_path
from rlcourse.recipes.benchmark_report import Environment, Findings, Part

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
    curves.set(xlabel="updates", ylabel="greedy return", title=title)
    curves.legend()
    _intervals(intervals, summaries, "last return, IQM (95%)")
    _save(figure, target)


def benchmark_picture(target: Path, found: Findings) -> None:
    """For each environment, learning curves by steps and by CPU seconds; then, of the last returns, which share of runs
    lies above what, and the interquartile means with their intervals.

    Raises:
        ConfigError: a file ending that is none of :data:`FORMATS`.
        StorageError: the file could not be written.
    """
    check_format(target)
    parts = found.environments if found.all is None else [found.all]
    names = list(dict.fromkeys(s.algorithm for e in found.environments for s in e.summaries))
    colours = {name: f"C{index}" for index, name in enumerate(names)}
    rows = len(found.environments) + len(parts)
    figure = Figure(figsize=(9, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    for (by_steps, by_cpu_seconds), one in zip(axes, found.environments, strict=False):
        _curves(by_steps, one.by_steps, one, colours, "environment steps")
        _curves(by_cpu_seconds, one.by_cpu_seconds, one, colours, "CPU seconds")
        by_steps.legend()
    for (profile, intervals), part in zip(axes[len(found.environments) :], parts, strict=True):
        _profiles(profile, part, colours)
        _intervals(intervals, part.summaries, f"{_score(part)}, IQM (95%)", colours)
    _save(figure, target)


def _curves(axes: Axes, curves: Mapping[str, Curve], one: Environment, colours: Mapping[str, str], label: str) -> None:
    for name, curve in curves.items():
        if one.by_steps[name].x[-1] == 0:  # no steps: it learns nothing
            axes.axhline(curve.mean[0], color=colours[name], label=name, linestyle="--")
            axes.axhspan(curve.low[0], curve.high[0], color=colours[name], alpha=0.2, linewidth=0)
            continue
        axes.plot(curve.x, curve.mean, color=colours[name], label=name, marker="o" if len(curve.x) == 1 else None)
        axes.fill_between(curve.x, curve.low, curve.high, color=colours[name], alpha=0.2, linewidth=0)
    if one.solved is not None:
        axes.axhline(one.solved, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel=label, ylabel="greedy return, mean (95%)", title=one.env)


def _profiles(axes: Axes, part: Part, colours: Mapping[str, str]) -> None:
    for name, profile in part.profiles.items():
        axes.step(profile.thresholds, profile.share, where="post", color=colours[name], label=name)
        axes.fill_between(
            profile.thresholds, profile.low, profile.high, step="post", color=colours[name], alpha=0.2, linewidth=0
        )
    axes.set(xlabel=f"{_score(part)} x", ylabel="share of runs above x", ylim=(-0.03, 1.03), title=part.env)


def _score(part: Part) -> str:
    return "last return" if isinstance(part, Environment) else "normalised last return"


def _intervals(
    axes: Axes, summaries: Sequence[AlgorithmSummary], label: str, colours: Mapping[str, str] | None = None
) -> None:
    for index, summary in enumerate(summaries):
        last, colour = summary.last, f"C{index}" if colours is None else colours[summary.algorithm]
        # Rounding may put a mean a hair outside the interval of identical runs.
        below, above = max(0.0, last.estimate - last.low), max(0.0, last.high - last.estimate)
        axes.errorbar(last.estimate, index, xerr=[[below], [above]], fmt="o", color=colour, capsize=4)
    axes.set(xlabel=label, ylim=(len(summaries) - 0.5, -0.5))
    axes.set_yticks(range(len(summaries)), [summary.algorithm for summary in summaries])


def _save(figure: Figure, target: Path) -> None:
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
