"""Figures that stay legible on a light and on a dark page.

A figure is drawn with a transparent background, and everything that matplotlib would draw in black is handed to the
page as ``currentColor``: axes and letters then take the colour of the text around them, in the site's dark mode as in
Jupyter's. Data colours are from Okabe and Ito's palette, which people with colour-blindness can tell apart and which
stands out from white and from near-black alike.
"""

from __future__ import annotations

import hashlib
import io
import re
from html import escape
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the colour of the surrounding text; no data is ever drawn in it."""

PALETTE = ("#0084d1", "#e69f00", "#009e73", "#d55e00", "#b86fa0", "#56b4e9")
"""Okabe and Ito (2008), the darkest two lightened for dark pages."""

STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=PALETTE),
    "font.size": 10.0,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
}


class ThemedFigure:
    """A finished figure; Jupyter and the site show it as inline SVG."""

    def __init__(self, svg: str, description: str) -> None:
        self.svg = svg
        self.description = description

    def _repr_html_(self) -> str:
        return f'<div class="rlc-figure">{self.svg}</div>'

    def __repr__(self) -> str:
        return f"<figure: {self.description}>"


def new_figure(width: float = 7.0, height: float = 3.2) -> Figure:
    """An empty figure in the course's style, sizes in inches. Add axes with ``figure.subplots()``."""
    with mpl.rc_context(STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def style() -> mpl.RcParams:
    """The course's style for a ``with mpl.rc_context(style())`` block."""
    return mpl.RcParams(STYLE)


def show_figure(figure: Figure, description: str) -> ThemedFigure:
    """Turn a figure into inline SVG that follows the page's colours.

    Args:
        figure: drawn with :func:`new_figure` and axes made inside ``with mpl.rc_context(style())``.
        description: what a reader who cannot see the picture should know; becomes its accessible name.
    """
    buffer = io.StringIO()
    # The hash salt names the clip paths; without one they are random, and two figures on a page could collide.
    salt = hashlib.sha256(description.encode()).hexdigest()[:8]
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    # Axes made outside the style are drawn in plain black: those follow the page too.
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace("#000000", "currentColor")
    # A white frame, as a legend made outside the style has one, would hide light letters in the dark.
    svg = svg.replace("fill: #ffffff", "fill: none")
    # An inline picture's <style> would apply to the whole page.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    label = f'<svg role="img" aria-label="{escape(description, quote=True)}" fill="currentColor"'
    return ThemedFigure(svg.replace("<svg", label, 1), description)
