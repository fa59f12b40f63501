from __future__ import annotations

import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from rlcourse.errors import ConfigError
from rlcourse.monitoring.catalogue import CATALOGUE, Signal, series_names, signal_named
from rlcourse.serving.decision_log import DecisionLog, DecisionLogConfig
from rlcourse.serving.metrics import BOUNDS_S, Counting
from rlcourse.serving.shelf import Shelf, ShelfConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import write_signals_table

WANTED = {
    *("rl_episode_return", "rl_episode_steps", "rl_episodes_succeeded_total", "rl_policy_entropy_nats"),
    *("rl_exploration_ratio", "rl_q_value", "rl_loss", "rl_gradient_norm", "rl_actions_total", "rl_request_seconds"),
    *("rl_refused_total", "rl_decisions_total", "rl_human_overrides_total", "rl_safety_violations_total"),
    *("rl_cost_euros_per_hour", "rl_roi_ratio", "rl_steps_to_threshold", "rl_drift_statistic"),
}


def test_names_are_unique_and_the_wanted_ones_are_there() -> None:
    names = [signal.name for signal in CATALOGUE]
    assert len(set(names)) == len(names)
    assert set(names) >= WANTED


def test_what_the_service_exposes_is_in_the_catalogue_as_it_is(tmp_path: Path) -> None:
    """The service is the oracle: name, kind and labels of each signal that the catalogue says it writes."""
    shelf = Shelf(ShelfConfig(), clock=float, wall=float)
    log = DecisionLog(tmp_path, DecisionLogConfig())
    try:
        families = {family.name: family for family in Counting(shelf, log).collect()}
    finally:
        log.close()
    for signal in CATALOGUE:
        if signal.source == "service":
            family = families[signal.name.removesuffix("_total")]
            assert family.type == signal.kind
            assert tuple(getattr(family, "_labelnames", ())) == signal.labels
    assert signal_named("rl_request_seconds").buckets == BOUNDS_S


def test_a_histogram_of_signed_numbers_has_no_sum() -> None:
    assert signal_named("rl_episode_return").series == ("rl_episode_return_bucket", "rl_episode_return_count")
    assert "rl_request_seconds_sum" in series_names()
    assert "rl_episode_return_sum" not in series_names()
    assert "rl_request_seconds" not in series_names(), "a histogram's bare name has no series"


@pytest.mark.parametrize(
    ("name", "kind", "labels", "buckets"),
    [
        ("return", "gauge", (), None),
        ("rl_Return", "gauge", (), None),
        ("rl_episodes", "counter", (), None),
        ("rl_entropy_total", "gauge", (), None),
        ("rl_x", "gauge", ("policy", "policy"), None),
        ("rl_x", "gauge", ("le",), None),
        ("rl_x", "histogram", (), None),
        ("rl_x", "histogram", (), ()),
        ("rl_x", "histogram", (), (1.0, 1.0)),
        ("rl_x", "histogram", (), (1.0, float("inf"))),
        ("rl_x", "gauge", (), (1.0,)),
    ],
)
def test_a_signal_against_the_conventions_is_refused(
    name: str, kind: str, labels: tuple[str, ...], buckets: tuple[float, ...] | None
) -> None:
    with pytest.raises(ConfigError):
        Signal(name, kind, "1", labels, "Something.", buckets)  # type: ignore[arg-type]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="rl_nothing"):
        signal_named("rl_nothing")


def test_the_table_in_the_book_is_the_catalogue() -> None:
    texts = write_signals_table.texts()
    for path, wanted in texts.items():
        assert path.read_text(encoding="utf-8") == wanted, "python tools/write_signals_table.py"
    text = next(iter(texts.values()))
    assert len(text.splitlines()) == 2 + len(CATALOGUE)
    assert all(line.count("|") == 7 for line in text.splitlines())


def test_prometheus_takes_every_name_and_label() -> None:
    from prometheus_client import Counter, Gauge, Histogram

    registry = CollectorRegistry()
    for signal in CATALOGUE:
        if signal.kind == "histogram":
            Histogram(signal.name, signal.help, signal.labels, registry=registry, buckets=signal.buckets or ())
        else:
            (Counter if signal.kind == "counter" else Gauge)(signal.name, signal.help, signal.labels, registry=registry)
