"""The directive ``{release-widget}``: a release to play with in the page, judged by the gate's own statistics.

The reader chooses who is released, the share, how often somebody looks, how many days a look takes together, and the rule;
``public/release.js`` draws one release day by day and counts two thousand of them, in the browser and without a server.
Whatever it takes from the package (the mixtures' tuning, quantiles, costs and deviations of the server room) is computed here
while the page is built and written into it, together with a few radii by which the script checks its own formula.
"""

from __future__ import annotations

import json
from functools import cache
from html import escape
from typing import Any

from docutils import nodes
from scipy.stats import norm
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rlcourse.devices import torch_threads
from rlcourse.environments.server_room import thermostat
from rlcourse.randomness import Seeds
from rlcourse.release.matching import ControlVariates
from rlcourse.release.power import always_valid_information
from rlcourse.release.sequential import contrast_radius, tuned_mixture
from rlcourse.release.simulate import run_days
from rlcourse.release.study import HARM, INCUMBENT_C

SCRIPT, STYLE = "../release.js", "../release.css"  # relative to _static; book/public is copied to the root of the site
ALPHAS = (0.01, 0.05, 0.1, 0.2)
SHARES = (1, 2, 5, 10, 20, 35, 50)
WINDOWS = (1, 2, 3, 5, 7, 14, 0)
"""Days that a look takes together, the last ones; 0 for all so far. The confidence sequence always takes all."""
EFFECTS = (  # in per cent, from the day after @ on
    ("10@0", "10 % dearer"),
    ("10@10", "the same for ten days, then 10 % dearer"),
    ("5@0", "5 % dearer"),
    ("0@0", "the same under another name"),
    ("-5@0", "5 % cheaper"),
)
RULES = (
    ("always", "always valid: the confidence sequence"),
    ("peeking", "the ordinary test, at every look"),
    ("threshold", "a fixed limit above what is usual"),
)
LOG_DAYS, FLEET, DAYS, FEWEST, POWER = 2_000, 200, 30, 10, 0.95


@cache
def constants() -> dict[str, Any]:
    """Everything that the script takes from the package; plain values."""
    with torch_threads(1):
        log = run_days(thermostat(first_stage_c=INCUMBENT_C), LOG_DAYS, Seeds(0).child("log"))
    cost = -float(log.returns.mean())
    levels, checks = [], []
    for alpha in ALPHAS:
        tuned_at = always_valid_information(HARM * cost, alpha=alpha, power=POWER)
        rho = tuned_mixture(tuned_at, alpha)
        levels.append({"alpha": alpha, "rho": rho, "z": float(norm.ppf(1.0 - alpha / 2.0))})
        for information in (0.1 * tuned_at, tuned_at, 100.0 * tuned_at):
            radius = float(contrast_radius(information, alpha=alpha, rho=rho))
            checks.append({"alpha": alpha, "information": information, "radius": radius})
    return {
        "fleet": FLEET,
        "days": DAYS,
        "fewest": FEWEST,
        "cost": cost,
        "sdRaw": float(log.returns.std(ddof=1)),
        "sdLeft": ControlVariates.fit(log.conditions, log.returns).sd,
        "shares": [share / 100 for share in SHARES],
        "windows": list(WINDOWS),
        "levels": levels,
        "checks": checks,
    }


def page(data: dict[str, Any], name: str) -> str:
    """The widget as HTML: a form that works by keyboard, a picture, a table, a sentence for those who do not see them."""

    def field(label: str, key: str, control: str) -> str:
        return f'<div class="rlc-release-field"><label for="{name}-{key}">{label}</label>{control}</div>'

    def choice(key: str, options: list[tuple[str, str, bool]]) -> str:
        inside = "".join(
            f'<option value="{escape(value)}"{" selected" if chosen else ""}>{escape(text)}</option>'
            for value, text, chosen in options
        )
        return f'<select id="{name}-{key}" name="{key}">{inside}</select>'

    def slider(key: str, least: int, most: int, start: int) -> str:
        return (
            f'<span class="rlc-release-slider"><input type="range" id="{name}-{key}" name="{key}" min="{least}" '
            f'max="{most}" step="1" value="{start}"><output for="{name}-{key}"></output></span>'
        )

    fields = [
        field("The new policy is", "effect", choice("effect", [(key, text, key == "10@0") for key, text in EFFECTS])),
        field("Share of the rooms in the first step", "share", slider("share", 0, len(SHARES) - 1, 1)),
        field("Somebody looks every", "every", slider("every", 1, 10, 1)),
        field("Rule", "rule", choice("rule", [(key, text, key == "always") for key, text in RULES])),
        field(
            "Alpha", "alpha", choice("alpha", [(str(i), f"{100 * a:.0f} %", a == 0.05) for i, a in enumerate(ALPHAS)])
        ),
        field("... and takes together", "window", slider("window", 0, len(WINDOWS) - 1, len(WINDOWS) - 1)),
        field("Limit above what is usual", "limit", slider("limit", 1, 15, 5)),
        '<div class="rlc-release-field"><span class="rlc-release-check">'
        f'<input type="checkbox" id="{name}-adjusted" name="adjusted">'
        f'<label for="{name}-adjusted">Take out what weather and load explain</label></span></div>',
    ]
    return (
        f'<div class="rlc-release" data-constants="{escape(json.dumps(data))}">'
        f'<form aria-label="A release to play with"><div class="rlc-release-fields">{"".join(fields)}</div>'
        '<p class="rlc-release-buttons"><button type="button" name="play">Play day by day</button> '
        '<button type="button" name="another">Another release</button></p></form>'
        '<div class="rlc-release-picture"></div>'
        '<p role="status" class="rlc-release-said"></p>'
        '<div class="rlc-release-table"><table class="table"><caption>2,000 releases with these settings</caption><thead><tr>'
        '<th scope="col">the new policy is</th><th scope="col">rolled back</th><th scope="col">day, median</th>'
        '<th scope="col">extra cost until then, mean</th></tr></thead><tbody></tbody></table></div>'
        "<noscript><p>This picture is drawn by a script, and scripts are off. The table under “A measurement” has the same "
        "comparison in numbers.</p></noscript></div>"
    )


class widget(nodes.General, nodes.Element):
    """The finished HTML, as ``html``."""


class ReleaseWidgetDirective(SphinxDirective):
    """``{release-widget}``, without arguments."""

    def run(self) -> list[nodes.Node]:
        name = f"release{self.env.new_serialno('rlc-release')}"
        return [widget("", html=page(constants(), name))]


def visit_html(writer: Any, node: widget) -> None:
    """Put the HTML in."""
    writer.body.append(node["html"])
    raise nodes.SkipNode


def leave_out(writer: Any, node: widget) -> None:
    """Builders other than HTML have no place for it."""
    raise nodes.SkipNode


def load_script(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Add script and style to pages that have the widget."""
    if doctree is not None and next(iter(doctree.findall(widget)), None) is not None:
        app.add_js_file(SCRIPT, loading_method="defer")
        app.add_css_file(STYLE)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    quiet = (leave_out, None)
    app.add_node(widget, html=(visit_html, None), latex=quiet, text=quiet, man=quiet, texinfo=quiet)
    app.add_directive("release-widget", ReleaseWidgetDirective)
    app.connect("html-page-context", load_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
