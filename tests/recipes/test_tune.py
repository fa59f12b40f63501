"""``rlcourse tune``: the whole way on runs short enough for seconds, and wrong words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlcourse.recipes.command_line import main

SHORT = ("--num-steps", "600", "--seeds-per-trial", "2", "--n-trials", "3", "--fresh-seeds", "2")


def test_a_small_study_from_words_to_report_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, picture = tmp_path / "t.json", tmp_path / "t.svg"
    words = ["tune", *SHORT, "--storage", str(tmp_path / "a"), "--json", str(target), "--plot", str(picture)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    content = json.loads(target.read_text())
    assert content["command"] == "tune"
    assert content["versions"]["optuna"]
    assert len(content["trials"]) == 3
    assert {row["algorithm"] for row in content["results"]} == {"ppo default", "ppo tuned"}
    assert {row["seed"] for row in content["results"]} == {0, 1}
    for row in content["summary"]:
        assert row["ci_low"] <= row["iqm"] <= row["ci_high"] and row["n"] == 2
    best = content["best"]
    assert f"the best is trial {best['number']} with a score of {best['score']:.1f}" in shown
    assert "on fresh seeds" in shown and content["verdict"]["reason"] in shown
    assert picture.read_text().lstrip().startswith("<?xml")
    # Said again it finds everything done; another length is another study.
    assert main(words) == 0
    again = json.loads(target.read_text())
    assert (again["trials"], again["results"]) == (content["trials"], content["results"])
    assert main(["tune", *SHORT, "--num-steps", "700", "--storage", str(tmp_path / "a")]) == 2
    assert "num_steps 600 instead of 700" in capsys.readouterr().err
    fewer = ["tune", *SHORT, "--fresh-seeds", "0", "--storage", str(tmp_path / "a"), "--json", "-"]
    assert main(fewer) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["results"] == [] and "3 trials" in err


def test_each_run_of_a_study_has_a_tracker_of_its_own(tmp_path: Path) -> None:
    words = ["tune", *SHORT, "--n-trials", "1", "--storage", str(tmp_path / "a"), "--no-prune"]
    assert main([*words, "--tracker", f"csv:{tmp_path}/{{run}}.csv"]) == 0
    files = sorted(path.name for path in tmp_path.glob("*.csv"))
    # The one trial has the default settings: two seeds of it, and two fresh ones.
    assert len(files) == 4 and len({name.rsplit("-", 1)[0] for name in files}) == 1
    assert all(name.startswith("CartPole-v1-ppo-") for name in files)
    for name in files:
        assert "eval/greedy_return" in (tmp_path / name).read_text()
    # The tracker is no part of what a study is.
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--algorithm", "pqo"], 2, "pqo"),
        (["--algorithm", "random"], 2, "random"),
        (["--env", "CartPole-v9"], 2, "CartPole-v9"),
        (["--n-jobs", "1000"], 2, "1000 jobs"),
        (["--n-trials", "0"], 2, "0 trials"),
        (["--fresh-seeds", "1"], 2, "1 fresh seeds"),
        (["--num-steps", "3"], 2, "num_steps is 3"),
        (["--plot", "a.gif"], 2, "a.gif"),
        (["--tracker", "csv:a.csv"], 2, "Write csv:a.csv/{run}."),
        (["--tracker", "prometheus:9109"], 2, "Use prometheus:runs/{run}.prom."),
        (["--storage", "mysql://here/db"], 2, "no local file"),
        (["--storage", str(Path(__file__))], 1, "no journal"),
    ],
)
def test_wrong_words_are_told_before_any_work(
    words: list[str],
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = Path(__file__).read_bytes()
    assert main(["tune", *words]) == status
    out, err = capsys.readouterr()
    assert says in err and "Traceback" not in err and out == ""
    assert Path(__file__).read_bytes() == before
    assert not Path(f"{__file__}.lock").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_ctrl_c_is_130_and_leaves_no_process_and_no_half_trial(tmp_path: Path, hear_ctrl_c: Callable[[], None]) -> None:
    words = ["--num-steps", "200000", "--n-trials", "6", "--n-jobs", "2", "--storage", str(tmp_path / "a")]
    command = [sys.executable, "-m", "rlcourse.recipes.command_line", "tune", *words]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c
    )
    until = time.monotonic() + 90
    while len(list(tmp_path.glob("a.worker-*"))) < 2:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = process.communicate(timeout=30)
    until = time.monotonic() + 10
    assert process.returncode == 130
    assert "interrupted" in err and "Traceback" not in err
    while is_there(process.pid):  # Python's own resource tracker takes a moment to notice that it is alone
        assert time.monotonic() < until
        time.sleep(0.1)


def is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
