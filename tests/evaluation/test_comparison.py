from __future__ import annotations

import numpy as np
import pytest

from rlcourse.errors import ConfigError
from rlcourse.evaluation.comparison import AlgorithmSummary, median_run, summarise, verdict
from rlcourse.evaluation.statistics import Interval, bootstrap_interval
from rlcourse.randomness import Seeds


def line(name: str, low: float, estimate: float, high: float) -> AlgorithmSummary:
    interval = Interval(estimate, low, high)
    return AlgorithmSummary(name, interval, interval, None, 5)


BC = line("bc", 90, 100, 110)


def test_a_winner_whose_whole_interval_lies_above_is_kept() -> None:
    found = verdict([BC, line("cql", 111, 150, 200), line("iql", 80, 140, 190)], baseline="bc")
    assert (found.chosen, found.better_than_baseline) == ("cql", True)
    assert "cql 150.0 [111.0, 200.0] lies above bc 100.0 [90.0, 110.0]" in found.reason


@pytest.mark.parametrize("low", [110, 100, 0])
def test_intervals_that_touch_or_overlap_leave_the_baseline(low: float) -> None:
    found = verdict([BC, line("cql", low, 150, 200)], baseline="bc")
    assert (found.chosen, found.better_than_baseline) == ("bc", False)
    assert "bc stays" in found.reason and "cql 150.0" in found.reason


def test_a_baseline_that_wins_stays() -> None:
    found = verdict([line("cql", 10, 20, 30), BC], baseline="bc")
    assert (found.chosen, found.better_than_baseline) == ("bc", False)
    assert "bc has the highest" in found.reason


def test_only_the_winner_is_asked_about() -> None:
    """Trying the runner-up next would be a second look at the same dice."""
    found = verdict([BC, line("cql", 50, 160, 300), line("iql", 140, 150, 160)], baseline="bc")
    assert (found.chosen, found.better_than_baseline) == ("bc", False)


def test_a_tie_between_an_algorithm_and_the_baseline_leaves_the_baseline() -> None:
    assert verdict([line("cql", 90, 100, 110), BC], baseline="bc").chosen == "bc"


def test_summaries_keep_the_order_and_compare_with_the_baseline() -> None:
    last = {"bc": np.array([1.0, 2, 3, 4]), "cql": np.array([2.0, 3, 4, 5])}
    best = {name: scores + 10 for name, scores in last.items()}
    one, two = summarise(last, best, baseline="bc", seeds=Seeds(0))
    assert [one.algorithm, two.algorithm] == ["bc", "cql"]
    assert one.improvement is None
    assert two.improvement is not None
    # 16 pairs: 3 ties, and 10 wins (of 2: one, of 3: two, of 4: three, of 5: four).
    assert two.improvement.estimate == pytest.approx((10 + 1.5) / 16)
    assert (one.last.estimate, one.best.estimate, one.n) == (2.5, 12.5, 4)
    assert one.last == bootstrap_interval(last["bc"], rng=Seeds(0).numpy("bootstrap"))
    assert two.last.low - one.last.low == pytest.approx(1.0), "every line draws the same resamples"


def test_a_line_does_not_depend_on_who_else_is_compared() -> None:
    scores = {name: Seeds(i).numpy("scores").normal(size=5) for i, name in enumerate(("bc", "cql", "iql"))}
    both = summarise(scores, scores, baseline="bc", seeds=Seeds(0))
    alone = summarise({n: scores[n] for n in ("bc", "iql")}, scores, baseline="bc", seeds=Seeds(0))
    assert both[2] == alone[1]


def test_a_comparison_needs_its_baseline() -> None:
    with pytest.raises(ConfigError, match="bc"):
        summarise({"cql": np.ones(3)}, {"cql": np.ones(3)}, baseline="bc", seeds=Seeds(0))


@pytest.mark.parametrize(
    ("scores", "index"), [([5.0], 0), ([5.0, 1.0, 3.0], 2), ([4.0, 1.0, 3.0, 2.0], 3), ([2.0, 2.0, 2.0], 1)]
)
def test_the_run_in_the_middle(scores: list[float], index: int) -> None:
    assert median_run(np.array(scores)) == index
