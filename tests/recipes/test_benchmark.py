"""``rlcourse benchmark``: what it reports, what it does not do twice, and what a failing trial leaves of the others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.randomness import Seeds
from rlcourse.recipes.benchmark_report import describe, readable
from rlcourse.recipes.command_line import main
from rlcourse.recipes.parallel import cores

SHORT = ("--num-steps", "1024", "--jobs", "1", "--device", "cpu")


def benchmark(folder: Path, *words: str, status: int = 0) -> dict[str, Any]:
    target = folder / "report.json"
    assert main(["benchmark", "--folder", str(folder / "trials"), "--output", str(target), *SHORT, *words]) == status
    content: dict[str, Any] = json.loads(target.read_text())
    return content


def test_table_report_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "p.svg"
    words = ["--algorithms", "ppo", "sb3-ppo", "random", "--trials", "2", "--plot", str(picture), "--json", "-"]
    found = benchmark(tmp_path, *words)
    out, err = capsys.readouterr()
    assert json.loads(out) == found, "--output holds what --json writes"
    assert picture.read_text().lstrip().startswith("<?xml")
    assert found["command"] == "benchmark" and found["jobs"] == 1 and found["failures"] == []
    assert {"rlcourse", "torch", "gymnasium", "stable-baselines3"} <= set(found["versions"])
    assert found["hardware"]["cpus"] >= 1
    assert found["settings"]["CartPole-v1"]["sb3-ppo"]["arguments"]["n_steps"] == 32
    wanted = [(name, seed) for seed in (0, 1) for name in ("ppo", "sb3-ppo", "random")]
    assert [(row["algorithm"], row["seed"]) for row in found["results"]] == wanted
    for row in found["results"]:
        assert row["env"] == "CartPole-v1" and row["best"] >= row["last"] > 0
        assert row["steps"] == (0 if row["algorithm"] == "random" else 1_024)
        assert row["curve"][-1] == [row["steps"], row["last"]]
        assert row["cpu_seconds"] == pytest.approx(row["cpu_curve"][-1][0], abs=1e-3)
    assert [row["algorithm"] for row in found["summary"]] == ["ppo", "sb3-ppo", "random"]
    for row in found["summary"]:
        assert (row["n"], row["baseline"]) == (2, "random") and row["ci_low"] <= row["iqm"] <= row["ci_high"]
        assert f"{row['iqm']:.1f} [{row['ci_low']:.1f}, {row['ci_high']:.1f}]" in err
    assert found["summary"][-1]["improvement"] is None and found["summary"][0]["improvement"]["estimate"] >= 0.0
    assert "P(run beats random)" in err and "steps/s" in err and "CPU s" in err and "until 475" in err
    assert {(c["algorithm"], c["by"]) for c in found["curves"]} == {
        (name, by) for name in ("ppo", "sb3-ppo", "random") for by in ("steps", "cpu_seconds")
    }
    assert {p["algorithm"] for p in found["profiles"]} == {"ppo", "sb3-ppo", "random"}
    assert found["profiles"][0]["share"][0] == 1.0
    assert [one["reached"] for one in found["time_to_solve"]] == [0, 0, 0]


def test_what_is_there_counts_and_other_settings_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--algorithms", "ppo", "random"]
    first = benchmark(tmp_path, *words, "--trials", "1")
    second = benchmark(tmp_path, *words, "--trials", "2")
    assert "2 of 4 trials are already there" in capsys.readouterr().err
    assert second["results"][:2] == first["results"], "not even the seconds change"
    benchmark(tmp_path, *words, "--trials", "2", "--num-steps", "600")
    assert "already there" not in capsys.readouterr().err
    shifted = benchmark(tmp_path, *words, "--trials", "1", "--seed", "1")
    assert "2 of 2 trials are already there" in capsys.readouterr().err
    assert shifted["results"] == second["results"][2:]


def test_several_environments_are_averaged_between_random_and_solved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["CartPole-v1", "Pendulum-v1"]
    found = benchmark(tmp_path, "--env", *names, "--algorithms", "random", "scripted", "--trials", "2")
    scales = {row["env"]: row for row in found["normalisation"]}
    assert [scales[name]["solved"] for name in names] == [475.0, -170.0]
    rows = {(row["env"], row["algorithm"]): row for row in found["summary"]}
    assert set(rows) == {(env, name) for env in (*names, "all") for name in ("random", "scripted")}
    assert -0.2 < rows["all", "random"]["iqm"] < 0.2, "random is where the scale begins"
    pooled = []
    for row in found["results"]:
        if row["algorithm"] == "scripted":
            scale = scales[row["env"]]
            pooled.append((row["last"] - scale["random"]) / (scale["solved"] - scale["random"]))
    assert rows["all", "scripted"]["iqm"] == pytest.approx(sum(sorted(pooled)[1:3]) / 2)
    out = capsys.readouterr().out
    assert "all environments, normalised" in out and "0 is what random actions earn and 1 is solved" in out


def row(env: str, algorithm: str, seed: int, last: float) -> dict[str, Any]:
    curve = [[10, last - 50], [20, last]]
    speed = {"steps": 20, "steps_per_s": 5.0, "cpu_seconds": 4.0}
    return {"env": env, "algorithm": algorithm, "seed": seed, "last": last, "best": last, **speed} | {
        "curve": curve,
        "cpu_curve": [[2.0, last - 50], [4.0, last]],
    }


def test_an_algorithm_that_lacks_a_trial_is_left_out_of_the_average_and_named() -> None:
    rows = [
        row(env, "random", seed, low) for env, low in (("CartPole-v1", 20), ("Acrobot-v1", -500)) for seed in (0, 1)
    ]
    rows += [row("CartPole-v1", "ppo", seed, 475) for seed in (0, 1)] + [row("Acrobot-v1", "ppo", 1, -85)]
    found = describe(rows, envs=["CartPole-v1", "Acrobot-v1"], baseline="random", seeds=Seeds(0))
    assert found.all is not None and [s.algorithm for s in found.all.summaries] == ["random"]
    assert "Left out, for want of trials in some: ppo." in found.notes[-1]
    assert [(one.algorithm, one.reached, one.median_steps) for one in found.environments[1].times] == [
        ("random", 0, None),
        ("ppo", 1, 20),
    ]
    unknown = describe([row("Nope-v0", "ppo", 0, 1.0)], envs=["Nope-v0", "CartPole-v1"], baseline="x", seeds=Seeds(0))
    assert unknown.all is None and "Nope-v0" in unknown.notes[-1]
    assert "P(run beats ppo)" in readable(unknown), "without the baseline the first stands in"
    assert readable(describe([], envs=["CartPole-v1"], baseline="x", seeds=Seeds(0))), "nothing finished is no crash"


FAILING = """
    import gymnasium as gym
    import numpy as np

    class Failing(gym.Env):
        observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
        action_space = gym.spaces.Discrete(2)
        made = 0

        def __init__(self, how):
            self.how, self.steps, self.value = how, 0, 0.0
            Failing.made += 1

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.full(2, self.value, dtype=np.float32), {}

        def step(self, action):
            self.steps += 1
            late = self.steps > 10
            if late and self.how == "raises":
                raise ZeroDivisionError("the pump has no pressure")
            obs = np.full(2, np.nan if late else 0.0, dtype=np.float32)
            return obs, 1.0, self.steps % 50 == 0, False, {}

    for how in ("raises", "nan"):
        gym.register(f"Failing-{how}-v0", Failing, kwargs={"how": how})
"""


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "failing_environments.py").write_text(textwrap.dedent(FAILING))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("failing_environments", None)
    for name in [name for name in gym.registry if name.startswith("Failing-")]:
        del gym.registry[name]


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("how", "says"), [("raises", "raised ZeroDivisionError: the pump has no pressure"), ("nan", "returned NaN")]
)
def test_an_environment_that_fails_in_mid_run_does_not_lose_the_other_trials(
    how: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = f"failing_environments:Failing-{how}-v0"
    words = ["--env", "CartPole-v1", broken, "--algorithms", "ppo", "random", "--trials", "1"]
    found = benchmark(tmp_path, *words, status=1)
    out, err = capsys.readouterr()
    assert [(f["env"], f["algorithm"], f["error"]) for f in found["failures"]] == [
        (f"Failing-{how}-v0", name, "EnvironmentFailedError") for name in ("ppo", "random")
    ]
    assert all(says in failure["problem"] and failure["mend"] for failure in found["failures"])
    assert {row["env"] for row in found["results"]} == {"CartPole-v1"} and len(found["results"]) == 2
    assert "2 of 4 trials failed" in err and says in err and "Traceback" not in err and "CartPole-v1" in out
    benchmark(tmp_path, *words, status=1)
    assert "2 of 4 trials are already there" in capsys.readouterr().err, "the failed ones are tried again"


@pytest.mark.usefixtures("failing")
def test_a_benchmark_of_failures_alone_still_reports(tmp_path: Path) -> None:
    words = ["--env", "failing_environments:Failing-nan-v0", "--algorithms", "dqn", "--trials", "1"]
    found = benchmark(tmp_path, *words, status=1)
    assert (found["results"], found["summary"], len(found["failures"])) == ([], [], 1)


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_killed_it_goes_on_where_it_was_and_counts_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials, target = tmp_path / "trials", tmp_path / "report.json"
    shared = ["benchmark", "--algorithms", "random", "ppo", "--num-steps", "8192", "--device", "cpu"]
    words = [*shared, "--folder", str(trials), "--trials", "4"]
    command = [sys.executable, "-m", "rlcourse.recipes.command_line", *words, "--jobs", str(min(2, cores()))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while len(list(trials.glob("*/result.json"))) < 2:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(0.5)  # its workers follow it
    kept = {path.parent.name: path.read_bytes() for path in trials.glob("*/result.json")}
    assert 2 <= len(kept) < 8
    assert main([*words, "--jobs", "1", "--json", str(target)]) == 0
    assert f"{len(kept)} of 8 trials are already there" in capsys.readouterr().err
    for name, content in kept.items():
        assert (trials / name / "result.json").read_bytes() == content, "a finished trial is left alone"
    found = json.loads(target.read_text())
    wanted = [(name, seed) for seed in range(4) for name in ("random", "ppo")]
    assert [(row["algorithm"], row["seed"]) for row in found["results"]] == wanted
    assert all(row["n"] == 4 for row in found["summary"])
    assert len([path for path in trials.iterdir() if path.name[0] != "."]) == 8
    # What other processes found is what this one finds.
    assert main([*shared, "--folder", str(tmp_path / "b"), "--trials", "1", "--jobs", "1", "--json", str(target)]) == 0
    again = json.loads(target.read_text())["results"]
    assert [row["curve"] for row in again] == [row["curve"] for row in found["results"][:2]]


def test_policies_are_handed_out_and_nothing_else_is_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--algorithms", "ppo", "random", "--trials", "1", "--output-policies", str(tmp_path / "policies")]
    thesis = tmp_path / "policies" / "CartPole-v1-ppo-0" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    command = ["benchmark", "--folder", str(tmp_path / "trials"), *SHORT, *words]
    assert main(command) == 1
    assert "no saved policy" in capsys.readouterr().err
    assert not (tmp_path / "trials").exists(), "said before the work"
    thesis.unlink()
    benchmark(tmp_path, *words)
    assert [path.name for path in (tmp_path / "policies").iterdir()] == ["CartPole-v1-ppo-0"]
    about = PolicyArtifact.load(tmp_path / "policies" / "CartPole-v1-ppo-0").description
    assert about.obs_high == pytest.approx((4.8, None, 0.41887903, None))
    (kept,) = (tmp_path / "trials").glob("*/policy")
    shutil.rmtree(kept)
    capsys.readouterr()
    assert main(command) != 0
    assert "and not its policy" in capsys.readouterr().err, "a trial of before there were policies"


def test_each_trial_has_a_tracker_of_its_own(tmp_path: Path) -> None:
    trackers = f"csv:{tmp_path}/{{run}}.csv,null,prometheus:{tmp_path}/{{run}}.prom"
    words = ["--algorithms", "ppo", "--trials", "2", "--tracker", trackers]
    benchmark(tmp_path, *words)
    files = sorted(path.name for path in tmp_path.glob("*.csv"))
    assert files == ["CartPole-v1-ppo-0.csv", "CartPole-v1-ppo-1.csv"]
    assert "eval/greedy_return" in (tmp_path / files[0]).read_text()
    for seed in range(2):  # the command knows when CartPole counts as solved
        shown = (tmp_path / f"CartPole-v1-ppo-{seed}.prom").read_text()
        assert f'rl_steps_to_threshold{{policy="CartPole-v1-ppo-{seed}"}}' in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--env", "CartPole-v1", "--algorithms", "sac"], "sac cannot act in CartPole-v1: its actions are discrete."),
        (["--env", "Pendulum-v1", "--algorithms", "dqn"], "Use ppo or sac there."),
        (["--env", "Pendulum-v1", "--algorithms", "recurrent-ppo"], "recurrent-ppo cannot act in Pendulum-v1"),
        (["--algorithms", "random", "sb3-ppo", "--output-policies", "p"], "No policy of random sb3-ppo can be saved."),
        (["--env", "CartPole-v1", "--algorithms", "sb3-sac"], "its actions are discrete"),
        (["--env", "CartPol-v1"], "Did you mean CartPole-v1"),
        (["--env", "no_such_module:Nope-v0"], "There is no module 'no_such_module'."),
        (["--algorithms", "ppo", "sb3-dq"], "Did you mean sb3-dqn?"),
        (["--algorithms", "ppo", "ppo"], "Name each once."),
        (["--jobs", str(cores() + 1)], f"{cores() + 1} jobs on {cores()} cores."),
        (["--jobs", "0"], "0 jobs"),
        (["--trials", "0"], "trials is 0"),
        (["--num-steps", "0"], "num_steps is 0"),
        (["--baseline", "scripted"], "Name it among the --algorithms."),
        (["--plot", "a.gif"], "a.gif"),
        (["--tracker", "csv:a.csv"], "{run}"),
        (["--tracker", "null,prometheus:runs/a.prom"], "Write prometheus:runs/a/{run}.prom."),
        (["--tracker", "prometheus:9109"], "Add --jobs 1."),
    ],
)
def test_wrong_words_are_2_before_any_work(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--folder", str(tmp_path / "trials"), *words]) == 2
    out, err = capsys.readouterr()
    assert says in err and "Traceback" not in err and out == ""
    assert not (tmp_path / "trials").exists()


def test_a_machine_without_stable_baselines_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import rlcourse.training

    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "rlcourse.training.sb3", raising=False)
    monkeypatch.delattr(rlcourse.training, "sb3", raising=False)
    assert main(["benchmark", "--folder", str(tmp_path), "--algorithms", "ppo", "sb3-ppo"]) == 1
    assert "pip install 'rlcourse[sb3]'" in capsys.readouterr().err
