"""What a dashboard would show: worked answers, and the recorded run that the book has pictures of."""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

import pytest

from rlcourse.course.boards import NO_DATA, board, described, panel_figure
from rlcourse.errors import ConfigError
from rlcourse.monitoring.dashboards import dashboard_file
from rlcourse.monitoring.panels import Shown, legend_of, names_read, shown
from rlcourse.monitoring.samples import Samples, labels_of

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import dashboard as recorded  # noqa: E402

RUN: list[Shown] = recorded.expanded(json.loads((ROOT / "book/results/dashboard.json").read_text(encoding="utf-8")))
PICTURE = (ROOT / "book/pictures/ch17_dashboard.html").read_text(encoding="utf-8")
NOTHING_HAPPENED = {
    "Drift not checked": "every window could be checked",
    "Requests refused": "every request was well formed",
}
"""Panels that have nothing to show, and why they ought not to have."""


def kept(*series: tuple[str, dict[str, str], list[float]]) -> Samples:
    samples = Samples(1e6)
    for name, labels, values in series:
        for step, value in enumerate(values):
            samples.add(labels_of({"__name__": name, **labels}), 60.0 * step, value)
    return samples


CONTENT: dict[str, Any] = json.loads(dashboard_file())


def panel(title: str, samples: Samples, times_s: list[float]) -> Shown:
    (one,) = [one for one in shown(CONTENT, samples, times_s) if one.title == title]
    return one


def test_a_panel_is_read_from_the_file_and_its_queries_are_answered() -> None:
    samples = kept(
        ("rl_safety_violation_ratio", {"policy": "a", "version": "v1"}, [0.0, 0.5, 0.25]),
        ("rl_safety_violation_ratio", {"policy": "b", "version": "v2"}, [0.125]),
    )
    found = panel("Steps outside a safety limit", samples, [0.0, 60.0, 120.0])
    assert (found.row, found.unit, found.limits) == ("Safety", "percentunit", (0.01,))
    assert [(line.legend, line.times_s, line.values) for line in found.lines] == [
        ("a v1", (0.0, 60.0, 120.0), (0.0, 0.5, 0.25)),
        ("b v2", (0.0, 60.0, 120.0), (0.125, 0.125, 0.125)),  # five minutes old and still the present value
    ]


def test_a_rate_is_a_rate() -> None:
    samples = kept(("rl_request_seconds_count", {"policy": "a", "version": "v1"}, [120.0 * step for step in range(11)]))
    (line,) = panel("Requests", samples, [600.0]).lines
    assert line.values == (2.0,)


def test_what_is_not_a_dashboard_is_refused() -> None:
    with pytest.raises(ConfigError, match="no panels"):
        shown({}, Samples(1.0), [0.0])


def test_legends() -> None:
    labels = labels_of({"__name__": "x", "policy": "a", "version": "v1"})
    assert legend_of("{{policy}} {{ version }}_low", labels) == "a v1_low"
    assert legend_of("99 % {{missing}}", labels) == "99 %"
    assert legend_of("", labels) == "{policy=a, version=v1}"


def test_who_draws_keeps_every_metric_that_is_read() -> None:
    assert {"up", "rl_request_seconds_bucket", "policy:rl_episode_return:floor"} <= names_read(CONTENT)


def test_a_panel_without_data_says_so() -> None:
    figure = panel_figure(panel("Cost", Samples(1.0), [0.0]))
    assert f">{NO_DATA}<" in figure.svg and "Cost" in figure.svg
    assert figure.description.startswith(f"Cost: {NO_DATA}.")
    not_a_number = kept(("rl_cost_euros_per_hour", {"policy": "a", "version": "v1"}, [float("nan")]))
    assert f">{NO_DATA}<" in panel_figure(panel("Cost", not_a_number, [0.0])).svg
    known = kept(("rl_cost_euros_per_hour", {"policy": "a", "version": "v1"}, [1.5, 2.0]))
    drawn = panel_figure(panel("Cost", known, [0.0, 60.0]))
    assert NO_DATA not in drawn.svg and "a v1 from €1.5 to €2" in drawn.description


def test_rows_of_a_board_can_be_folded_and_have_their_panels() -> None:
    html = board(shown(CONTENT, Samples(1.0), [0.0]))
    titles = [one["title"] for one in CONTENT["panels"] if one["type"] == "row"]
    assert [html.index(f"<summary>{title}</summary>") for title in titles] == sorted(
        html.index(f"<summary>{title}</summary>") for title in titles
    )
    assert html.count('<svg role="img"') == sum(one["type"] != "row" for one in CONTENT["panels"])
    assert "#000000" not in html and html.count("<details") == html.count("</details>") == len(titles)


# The recorded run


def test_the_recorded_run_is_of_the_dashboard_as_it_is_now() -> None:
    now = shown(json.loads(dashboard_file(recorded.LIMITS)), Samples(1.0), [])
    described_by = [(one.row, one.title, one.says, one.unit, one.limits, one.queries) for one in now]
    assert [(one.row, one.title, one.says, one.unit, one.limits, one.queries) for one in RUN] == described_by, (
        f"Run {recorded.COMMAND} again."
    )


@pytest.mark.parametrize("one", RUN, ids=lambda one: one.title)
def test_in_the_recorded_run_no_panel_is_empty_that_ought_to_have_data(one: Shown) -> None:
    finite = [value for line in one.lines for value in line.values if value == value]
    assert bool(finite) == (one.title not in NOTHING_HAPPENED)
    # Every query but those of reasons that never came: a panel may not live on one of its queries alone.
    if finite:
        assert len(one.lines) >= len(one.queries)


def test_the_recorded_run_shows_the_fault_where_it_is_and_nowhere_else() -> None:
    def mean(title: str, legend: str, begin_h: float, end_h: float) -> float:
        (line,) = [line for one in RUN if one.title == title for line in one.lines if line.legend == legend]
        inside = [v for at, v in zip(line.times_s, line.values, strict=True) if begin_h * 3600 <= at < end_h * 3600]
        return sum(inside) / len(inside)

    assert mean("Cost", "rl_policy v1", 12, 60) > 3.0 * mean("Cost", "rl_policy v1", -24, 0)
    assert mean("Return", "rl_policy v1", 30, 60) < mean("Return", "floor of rl_policy", 30, 60)
    assert mean("Return", "rl_policy v1", -12, 0) > mean("Return", "floor of rl_policy", -12, 0)
    assert mean("Steps outside a safety limit", "rl_policy v1", -48, 0) == 0.0
    assert mean("Steps outside a safety limit", "rl_policy v1", 12, 60) > 0.01
    assert mean("Decision latency", "50 % rl_policy v1", 0, 60) < 0.1
    assert mean("Targets", "rlcourse 127.0.0.1:8080", -60, 60) == 1.0
    assert mean("Fallbacks", "rl_policy all", 0, 60) == 0.0


def test_the_picture_in_the_book_is_of_the_recorded_run() -> None:
    at = [PICTURE.find(escape(described(one), quote=True)) for one in RUN]
    assert -1 not in at and at == sorted(at), f"Run {recorded.COMMAND} --draw."
    assert PICTURE.count(f">{NO_DATA}<") == len(NOTHING_HAPPENED)
