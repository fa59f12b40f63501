"""Learning runs: on logs that hold something to improve on, CQL and IQL beat cloning beyond their intervals.

On the logs of one steady author they are no worse than the clone: the intervals overlap, or theirs lies above.

One set of defaults for all; the command line does the work, as a reader would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlcourse.recipes.command_line import main

pytestmark = pytest.mark.slow

GRACE = 5.0
"""One percent of the largest return: whether a pole falls in one episode of a hundred hangs on the last bits of sums."""


def compared(
    quality: str, folder: Path, *, transitions: int = 100_000, seeds: int = 5, updates: int = 12_000
) -> dict[str, Any]:
    """The report of one comparison."""
    name, report = f"cartpole/{quality}-v0", folder / "report.json"
    shared = ["--root", str(folder / "data")]
    assert main(["offline", "generate", "--quality", quality, "--transitions", str(transitions), *shared]) == 0
    words = ["--dataset", name, "--seeds", str(seeds), "--output", str(folder / "runs"), "--json", str(report)]
    once = ["--updates", str(updates), "--eval-every", str(updates)]  # nothing but the end is looked at here
    assert main(["offline", "compare", *words, *once, *shared]) == 0
    content: dict[str, Any] = json.loads(report.read_text())
    assert len(content["results"]) == 3 * seeds
    assert (folder / "runs" / "policy" / "policy.json").exists()
    return content


def rows(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The summaries of BC, CQL and IQL."""
    found = {row["algorithm"]: row for row in content["summary"]}
    return found["bc"], found["cql"], found["iql"]


def test_on_replay_both_beat_cloning_and_one_solves_the_task(tmp_path: Path) -> None:
    content = compared("replay", tmp_path)
    assert content["verdict"]["better_than_baseline"]
    bc, cql, iql = rows(content)
    assert cql["ci_low"] > bc["ci_high"]
    assert iql["ci_low"] > bc["ci_high"]
    assert min(cql["iqm"], iql["iqm"]) >= 400
    assert max(cql["iqm"], iql["iqm"]) >= 475


def test_on_mixed_both_beat_cloning(tmp_path: Path) -> None:
    content = compared("mixed", tmp_path)
    assert content["verdict"]["better_than_baseline"]
    bc, cql, iql = rows(content)
    assert cql["ci_low"] > bc["ci_high"]
    assert iql["ci_low"] > bc["ci_high"]


# A third of the updates is enough to be ahead of a middling author.
@pytest.mark.parametrize(("quality", "updates"), [("medium", 4_000), ("expert", 12_000)])
def test_on_the_log_of_one_author_neither_is_worse_than_cloning(quality: str, updates: int, tmp_path: Path) -> None:
    bc, cql, iql = rows(compared(quality, tmp_path, transitions=50_000, seeds=3, updates=updates))
    assert cql["ci_high"] >= bc["ci_low"] - GRACE
    assert iql["ci_high"] >= bc["ci_low"] - GRACE


def test_on_a_pendulum_two_learners_leave_the_clone_of_a_half_noisy_log_behind(tmp_path: Path) -> None:
    shared, report = ["--root", str(tmp_path / "data")], tmp_path / "report.json"
    words = ["--env", "Pendulum-v1", "--quality", "mixed", "--transitions", "50000"]
    assert main(["offline", "generate", *words, *shared]) == 0
    words = [
        "--dataset",
        "pendulum/mixed-v0",
        "--seeds",
        "3",
        "--output",
        str(tmp_path / "runs"),
        "--json",
        str(report),
    ]
    chosen = ["--algorithms", "bc", "iql", "td3-bc", "--iql.tau", "0.9", "--iql.inverse-temperature", "3"]
    length = ["--n-step", "1", "--updates", "5000", "--eval-every", "5000", "--td3-bc.alpha", "10"]
    assert main(["offline", "compare", *words, *chosen, *length, *shared]) == 0
    content: dict[str, Any] = json.loads(report.read_text())
    bc, iql, td3_bc = (
        next(row for row in content["summary"] if row["algorithm"] == n) for n in ("bc", "iql", "td3-bc")
    )
    assert iql["ci_low"] > bc["ci_high"]
    assert td3_bc["ci_low"] > bc["ci_high"]
    assert content["verdict"]["better_than_baseline"]
