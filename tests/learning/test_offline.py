"""Learning runs: on logs that hold something to improve on, CQL and IQL beat cloning beyond their intervals.

One set of defaults, 100,000 transitions, five seeds; the command line does the work, as a reader would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlcourse.recipes.command_line import main

pytestmark = pytest.mark.slow


def compared(quality: str, folder: Path) -> dict[str, dict[str, Any]]:
    name, report = f"cartpole/{quality}-v0", folder / "report.json"
    shared = ["--root", str(folder / "data")]
    assert main(["offline", "generate", "--quality", quality, "--transitions", "100000", *shared]) == 0
    words = ["--dataset", name, "--seeds", "5", "--output", str(folder / "runs"), "--json", str(report)]
    assert main(["offline", "compare", *words, *shared]) == 0
    content = json.loads(report.read_text())
    assert len(content["results"]) == 15
    assert content["verdict"]["better_than_baseline"]
    assert (folder / "runs" / "policy" / "policy.json").exists()
    return {row["algorithm"]: row for row in content["summary"]}


def test_on_replay_both_beat_cloning_and_one_solves_the_task(tmp_path: Path) -> None:
    summary = compared("replay", tmp_path)
    bc, cql, iql = (summary[name] for name in ("bc", "cql", "iql"))
    assert cql["ci_low"] > bc["ci_high"]
    assert iql["ci_low"] > bc["ci_high"]
    assert min(cql["iqm"], iql["iqm"]) >= 400
    assert max(cql["iqm"], iql["iqm"]) >= 475


def test_on_mixed_both_beat_cloning(tmp_path: Path) -> None:
    summary = compared("mixed", tmp_path)
    bc, cql, iql = (summary[name] for name in ("bc", "cql", "iql"))
    assert cql["ci_low"] > bc["ci_high"]
    assert iql["ci_low"] > bc["ci_high"]
