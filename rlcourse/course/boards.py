"""Pictures of a dashboard's panels, each a figure of its own, so that three stand side by side on a desk and one on a phone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from itertools import groupby

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from rlcourse.course.figures import INK, PALETTE, ThemedFigure, new_figure, show_figure, style
from rlcourse.monitoring.panels import Line, Shown

WIDTH, HEIGHT = 3.3, 2.6
"""Of a panel, in inches; on the page it is as wide as its column."""
LIMIT, MOMENT = PALETTE[3], PALETTE[4]
COLOURS = (PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[5], "#8a8a8a", "#cc79a7", "#a6761d", "#7570b3")
"""Of the lines; never the limit's."""
HOUR_S = 3600.0
NO_DATA = "no data"
Span = tuple[float, float]
"""From when to when, in seconds."""


def panel_figure(panel: Shown, *, moment_s: float | None = None, span_s: Span | None = None) -> ThemedFigure:
    """One panel: title, lines, limits, legend; ``no data`` where its queries have no answer.

    Limits far above everything that is drawn are left out, but the lowest is always there.

    Args:
        panel: what a dashboard shows.
        moment_s: hours are counted from it, and a dotted line marks it; without one from the first sample.
        span_s: from when to when; without one from the panel's first sample to its last.
    """
    figure = new_figure(WIDTH, HEIGHT)
    with mpl.rc_context({**style(), "font.size": 10.0, "lines.linewidth": 1.4}):
        axes = figure.subplots()
        axes.set_title(panel.title, fontsize=12, loc="left")
        known = [line for line in panel.lines if any(map(math.isfinite, line.values))]
        if known:
            _draw(axes, panel, known, moment_s, span_s)
        else:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, NO_DATA, transform=axes.transAxes, ha="center", va="center", fontsize=12)
    return show_figure(figure, described(panel))


def described(panel: Shown) -> str:
    """What a reader who cannot see the picture should know."""
    known = [line for line in panel.lines if any(map(math.isfinite, line.values))]
    if not known:
        return f"{panel.title}: {NO_DATA}. {panel.says}"
    lines = "; ".join(
        f"{line.legend} from {_written(panel.unit, _ends(line)[0])} to {_written(panel.unit, _ends(line)[1])}"
        for line in known
    )
    limits = ", ".join(_written(panel.unit, limit) for limit in panel.limits)
    return f"{panel.title}: {panel.says} {lines}.{f' Limits: {limits}.' if limits else ''}"


def board(panels: Sequence[Shown], *, moment_s: float | None = None) -> str:
    """A whole dashboard as HTML, its rows one below the other; each row can be folded away."""
    rows, whole = [], span(panels)
    for title, inside in groupby(panels, key=lambda panel: panel.row):
        figures = "\n".join(
            _short(panel_figure(panel, moment_s=moment_s, span_s=whole)._repr_html_()) for panel in inside
        )
        rows.append(
            f'<details class="rlc-board" open><summary>{escape(title)}</summary>\n'
            f'<div class="rlc-board-row">\n{figures}\n</div></details>'
        )
    return "\n".join(rows) + "\n"


def span(panels: Sequence[Shown]) -> Span:
    """From the first sample to the last of all panels; an hour from 0 on if there is none."""
    times = [line.times_s for panel in panels for line in panel.lines if line.times_s]
    return (min(one[0] for one in times), max(one[-1] for one in times)) if times else (0.0, HOUR_S)


def _short(html: str) -> str:
    """Coordinates to a hundredth of a point: the page is read on phones, too. The description stays as it is."""
    head, tag, drawing = html.partition("<svg")
    words, end, inside = drawing.partition(">")
    return head + tag + words + end + re.sub(r"(\d+\.\d\d)\d+", r"\1", inside)


def _draw(axes: Axes, panel: Shown, known: Sequence[Line], moment_s: float | None, span_s: Span | None) -> None:
    first_s, last_s = span_s or span([panel])
    start_s = first_s if moment_s is None else moment_s
    for line, colour in zip(known, _cycle(len(known)), strict=True):
        axes.plot([(at_s - start_s) / HOUR_S for at_s in line.times_s], line.values, color=colour, label=line.legend)
    axes.set_xlim((first_s - start_s) / HOUR_S, (last_s - start_s) / HOUR_S)
    least, most = (
        pick(value for line in known for value in line.values if math.isfinite(value)) for pick in (min, max)
    )
    if least == most:  # matplotlib would show the rounding of a constant
        top = 1.2 * max(abs(most), *panel.limits, 0.0) or 1.0
        axes.set_ylim(-top if most < 0.0 else -0.05 * top, 0.05 * top if most < 0.0 else top)
    low, high = axes.get_ylim()
    near = [limit for limit in panel.limits if limit <= high + 2.0 * (high - low) or limit == panel.limits[0]]
    for limit in near:
        axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=1.2)
    if moment_s is not None:
        axes.axvline(0.0, color=MOMENT, linestyle=":", linewidth=1.4)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: _written(panel.unit, value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:+.0f} h" if value else "0"))
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=5)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=2 if max(len(line.legend) for line in known) <= 18 else 1,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1.0,
        borderaxespad=0.0,
    )


def _cycle(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _ends(line: Line) -> tuple[float, float]:
    finite = [value for value in line.values if math.isfinite(value)]
    return finite[0], finite[-1]


def _written(unit: str, value: float) -> str:
    """A number in one of Grafana's units, as short as it writes it."""
    match unit:
        case "percentunit":
            return f"{100.0 * value:.3g} %"
        case "s":
            return f"{value:.3g} s" if abs(value) >= 1.0 else f"{1e3 * value:.3g} ms" if value else "0"
        case "reqps":
            return f"{value:.3g}/s"
        case "currencyEUR":
            return f"€{value:.3g}"
    return f"{value:.4g}"
