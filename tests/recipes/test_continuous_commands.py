"""Logs of continuous actions on the command line: learned from, compared, judged; and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.recipes.command_line import main

SHORT = ("--updates", "40", "--eval-every", "20", "--eval-episodes", "3", "--batch-size", "32")
LOG = "pendulum/random-v0"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten episodes of even torques, and a small log of counted actions."""
    root = tmp_path_factory.mktemp("data")
    shared = ["--quality", "random", "--root", str(root)]
    assert main(["offline", "generate", "--env", "Pendulum-v1", "--transitions", "2000", *shared]) == 0
    assert main(["offline", "generate", "--transitions", "300", *shared]) == 0
    return root


@pytest.fixture(scope="module")
def policies(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one short run of every algorithm."""
    folder = tmp_path_factory.mktemp("policies")
    for algorithm in ("bc", "cql", "iql", "td3-bc"):
        words = ["--dataset", LOG, "--root", str(root), "--algorithm", algorithm, "--output", str(folder / algorithm)]
        assert main(["offline", "train", *words, *SHORT, "--cql-continuous.samples", "2"]) == 0
    return folder


@pytest.mark.parametrize(
    ("algorithm", "head"),
    [("bc", "gaussian"), ("iql", "gaussian"), ("cql", "squashed_gaussian"), ("td3-bc", "deterministic")],
)
def test_every_algorithm_leaves_a_policy_that_acts_within_the_bounds(policies: Path, algorithm: str, head: str) -> None:
    artifact = PolicyArtifact.load(policies / algorithm)
    assert artifact.description.head == head
    action = artifact.policy().act(torch.randn(100, 3), greedy=True)
    assert action.shape == (100, 1) and float(action.abs().max()) <= 2.0


def test_all_four_are_compared(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.json"
    words = ["--dataset", LOG, "--root", str(root), "--output", str(tmp_path / "runs"), "--json", str(target)]
    more = [
        "--algorithms",
        "bc",
        "cql",
        "iql",
        "td3-bc",
        "--seeds",
        "2",
        "--jobs",
        "1",
        "--cql-continuous.samples",
        "2",
    ]
    assert main(["offline", "compare", *words, *more, *SHORT]) == 0
    content = json.loads(target.read_text())
    assert [row["algorithm"] for row in content["summary"]] == ["bc", "cql", "iql", "td3-bc"]
    assert "td3-bc" in capsys.readouterr().out


def test_a_reward_scale_and_a_normed_q_are_written_down_with_the_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.json"
    log = ["--dataset", LOG, "--root", str(root), *SHORT]
    new = ["--reward-scale", "0.1", "--cql-continuous.layer-norm", "--cql-continuous.samples", "2"]
    once = ["--algorithm", "cql", "--output", str(tmp_path / "policy"), "--json", str(target)]
    assert main(["offline", "train", *log, *new, *once]) == 0
    config = json.loads(target.read_text())["config"]
    told = PolicyArtifact.load(tmp_path / "policy").description.provenance
    assert config["training"]["reward_scale"] == told["training"]["reward_scale"] == 0.1
    assert config["settings"]["cql_continuous"]["layer_norm"] is told["config"]["layer_norm"] is True

    several = ["--algorithms", "bc", "td3-bc", "--seeds", "2", "--jobs", "1", "--output", str(tmp_path / "runs")]
    for words in ([], ["--reward-scale", "0.1"], ["--reward-scale", "0.1", "--td3-bc.layer-norm"]):
        assert main(["offline", "compare", *log, *several, *words]) == 0
    assert len(list((tmp_path / "runs" / "runs").glob("td3-bc-*"))) == 6
    capsys.readouterr()
    assert main(["offline", "train", *log, "--reward-scale", "0"]) != 0
    assert "reward_scale is 0" in capsys.readouterr().err


def test_another_alpha_is_another_run_on_continuous_actions(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", LOG, "--root", str(root), "--output", str(tmp_path / "runs"), "--seeds", "2", "--jobs", "1"]
    few = ["--cql-continuous.samples", "2", *SHORT]
    for alpha in ("1", "2"):
        once = ["--algorithms", "bc", "cql", "--cql-continuous.alpha", alpha]
        assert main(["offline", "compare", *words, *once, *few]) == 0
    assert len(list((tmp_path / "runs" / "runs").glob("cql-*"))) == 4
    assert len(list((tmp_path / "runs" / "runs").glob("bc-*"))) == 2
    capsys.readouterr()


def test_counted_actions_are_refused_by_what_cannot_learn_them(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "cartpole/random-v0", "--root", str(root), "--algorithm", "td3-bc"]
    assert main(["offline", "train", *words, *SHORT]) == 2
    assert "Use bc, cql or iql" in capsys.readouterr().err


def test_policies_with_a_density_are_judged_and_one_without_is_judged_by_models_alone(
    root: Path, policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.json"
    words = ["--dataset", LOG, "--root", str(root), "--json", str(target), "--gamma", "0.9", "--resamples", "100"]
    models = ["--estimators", "linear", "mdr", "--decide-by", "mdr", "--fqe.updates", "50"]
    assert main(["ope", *words, *models, "--policy", str(policies / "cql"), "uniform"]) == 0
    content = json.loads(target.read_text())
    assert len(content["results"]) == 4
    assert content["verdict"]["decision"] != "promote"
    assert content["diagnostics"]["uniform"]["mean_weight"] == pytest.approx(1.0)  # the logger was just that
    capsys.readouterr()
    assert main(["ope", *words, "--policy", str(policies / "td3-bc"), "--fqe.updates", "50"]) == 0
    content, out = json.loads(target.read_text()), capsys.readouterr().out
    assert {row["estimator"] for row in content["results"]} == {"fqe", "linear"}
    assert content["verdict"]["decision"] == "inconclusive" and "no density" in content["verdict"]["reason"]
    assert "No answer from wis, wpdis, wdr for" in out and "no density" in out


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--dataset", LOG, "--policy", "uniform", "--epsilon", "0.1"], 2, "epsilon is for actions that can be listed"),
        (["--dataset", "cartpole/random-v0", "--policy", "{bc}"], 1, "log"),
    ],
)
def test_what_does_not_fit_is_refused(
    root: Path, policies: Path, words: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(bc=policies / "bc") for word in words]
    assert main(["ope", "--root", str(root), *given]) == status
    assert says in capsys.readouterr().err
