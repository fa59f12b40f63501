"""``rlcourse offline``: the whole way from acting to a kept policy, on a data set small enough for seconds."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import save_dataset
from rlcourse.recipes.command_line import main
from rlcourse.training.metrics import METRICS

SHORT = ("--updates", "60", "--eval-every", "30", "--eval-episodes", "5", "--batch-size", "32")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one random log of 600 steps."""
    root = tmp_path_factory.mktemp("data")
    words = ["--quality", "random", "--transitions", "600", "--root", str(root), "--seed", "3"]
    assert main(["offline", "generate", *words]) == 0
    return root


def compared(root: Path, output: Path, *words: str) -> int:
    options = ["--dataset", "cartpole/random-v0", "--root", str(root), "--output", str(output), "--seeds", "2"]
    return main(["offline", "compare", *options, "--jobs", "1", *SHORT, *words])


def test_generate_reports_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "made.json"
    words = ["--quality", "random", "--transitions", "200", "--root", str(tmp_path), "--json", str(target)]
    assert main(["offline", "generate", *words]) == 0
    content = json.loads(target.read_text())
    (row,) = content["results"]
    assert (row["dataset"], row["steps"], row["seed"]) == ("cartpole/random-v0", 200, 0)
    assert content["config"]["quality"] == "random"
    assert "200 transitions" in capsys.readouterr().out


def test_generate_never_replaces_a_data_set_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["offline", "generate", "--quality", "random", "--root", str(tmp_path)]
    assert main([*words, "--transitions", "100"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*words, "--transitions", "150"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert main([*words, "--transitions", "150", "--overwrite"]) == 0


def test_the_same_seed_makes_the_same_log(tmp_path: Path) -> None:
    checksums = []
    for name in ("a/b-v0", "a/c-v0"):
        words = ["--quality", "random", "--transitions", "300", "--name", name, "--root", str(tmp_path), "--seed", "9"]
        assert main(["offline", "generate", *words]) == 0
        target = tmp_path / "described.json"
        assert main(["offline", "describe", name, "--root", str(tmp_path), "--json", str(target)]) == 0
        (row,) = json.loads(target.read_text())["results"]
        checksums.append((row["returns"], row["actions"]))
    assert checksums[0] == checksums[1]


@pytest.mark.parametrize("algorithm", ["bc", "cql", "iql"])
def test_train_saves_a_policy_that_acts_as_it_did(
    algorithm: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "cartpole/random-v0", "--root", str(root), "--algorithm", algorithm, *SHORT]
    assert main(["offline", "train", *words, "--output", str(tmp_path / "policy"), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)["results"]  # standard output holds the report and nothing else
    assert (row["algorithm"], row["dataset"], row["seed"], row["updates"]) == (algorithm, "cartpole/random-v0", 0, 60)
    assert row["best"] >= row["last"] > 0
    assert [update for update, _ in row["curve"]] == [30, 60]
    assert "greedy return" in err
    artifact = PolicyArtifact.load(tmp_path / "policy")
    assert len(artifact.description.provenance["dataset_checksum"]) == 64
    action = artifact.policy().act(torch.zeros(7, 4), greedy=True)
    assert action.shape == (7,)
    assert not list(tmp_path.glob(".*checkpoint*"))


def columns(path: Path) -> tuple[set[str], list[str]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return set(header[1:]), [row[0] for row in rows]


def test_train_tells_a_tracker_under_the_names_of_the_dictionary(root: Path, tmp_path: Path) -> None:
    words = ["--dataset", "cartpole/random-v0", "--root", str(root), "--algorithm", "iql", *SHORT]
    assert main(["offline", "train", *words, "--tracker", f"csv:{tmp_path}/{{run}}.csv"]) == 0
    names, steps = columns(tmp_path / "iql-0.csv")
    assert names == {name for name, metric in METRICS.items() if {"offline", "iql"} & set(metric.logged_by)}
    assert steps == ["30", "60"]


def test_a_tracker_that_is_none_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset", "cartpole/random-v0", "--root", str(root), *SHORT]
    assert main(["offline", "train", *words, "--tracker", "tensorbord:x"]) == 2
    assert "Did you mean tensorboard?" in capsys.readouterr().err


def test_compare_gives_each_run_a_tracker_of_its_own(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [root, tmp_path / "out", "--algorithms", "bc"]
    assert compared(*shared, "--tracker", f"csv:{tmp_path}/{{run}}.csv") == 0  # type: ignore[arg-type]
    for seed in range(2):
        names, steps = columns(tmp_path / f"bc-{seed}.csv")
        assert names == {name for name, metric in METRICS.items() if {"offline", "bc"} & set(metric.logged_by)}
        assert steps == ["30", "60"]
    assert compared(*shared, "--tracker", "csv:a.csv") == 2  # type: ignore[arg-type]
    assert "Write csv:a.csv/{run}." in capsys.readouterr().err


def test_the_settings_of_an_algorithm_reach_it(root: Path, tmp_path: Path) -> None:
    def losses(*words: str) -> float:
        target = tmp_path / "report.json"
        options = ["--dataset", "cartpole/random-v0", "--root", str(root), "--algorithm", "cql", *SHORT]
        assert main(["offline", "train", *options, *words, "--json", str(target)]) == 0
        config: dict[str, Any] = json.loads(target.read_text())["config"]
        return float(config["settings"]["cql"]["alpha"])

    assert losses("--cql.alpha", "7") == 7.0
    assert losses() == 0.3


def test_observations_are_normalised_unless_told_not_to(root: Path, tmp_path: Path) -> None:
    def scales(*words: str) -> tuple[torch.Tensor, torch.Tensor]:
        options = ["--dataset", "cartpole/random-v0", "--root", str(root), "--algorithm", "bc", *SHORT]
        assert main(["offline", "train", *options, *words, "--output", str(tmp_path / "policy")]) == 0
        weights = PolicyArtifact.load(tmp_path / "policy").weights
        return weights["normaliser.mean"], weights["normaliser.scale"]

    mean, scale = scales("--no-normalise")
    assert torch.equal(mean, torch.zeros(4)) and torch.equal(scale, torch.ones(4))
    mean, scale = scales()
    assert (mean != 0).all() and (scale > 1).all()  # a random policy falls before anything gets large


def test_train_refuses_to_write_over_anything_but_a_policy(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    words = ["--dataset", "cartpole/random-v0", "--root", str(root), *SHORT, "--output", str(tmp_path / "thesis")]
    assert main(["offline", "train", *words]) == 1
    assert "no saved policy" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_log_of_an_unknown_environment_is_refused_before_any_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = Episodes(
        observations=np.zeros((4, 4), dtype=np.float32),
        actions=np.array([0, 1, 0]),
        rewards=np.ones(3, dtype=np.float32),
        behaviour_probabilities=np.full(3, 0.5, dtype=np.float32),
        lengths=np.array([3]),
        terminated=np.array([True]),
    )
    save_dataset("elsewhere/log-v0", episodes, DatasetCard(env_id="Nope-v3", num_actions=2), root=tmp_path)
    words = ["--dataset", "elsewhere/log-v0", "--root", str(tmp_path), "--output", str(tmp_path / "made")]
    assert main(["offline", command, *words, *SHORT]) == 2
    said = capsys.readouterr().err
    assert "There is no environment called 'Nope-v3'.\nSee gymnasium.pprint_registry() for the names." in said
    assert not (tmp_path / "made").exists()


def test_compare_writes_table_report_picture_and_keeps_the_clone_that_nobody_beat(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, target, picture = tmp_path / "runs", tmp_path / "c.json", tmp_path / "c.svg"
    assert compared(root, output, "--json", str(target), "--plot", str(picture)) == 0
    out, _ = capsys.readouterr()
    content = json.loads(target.read_text())
    assert {(row["algorithm"], row["seed"]) for row in content["results"]} == {
        (name, seed) for name in ("bc", "cql", "iql") for seed in (0, 1)
    }
    for row in content["summary"]:
        assert set(row) >= {"algorithm", "iqm", "ci_low", "ci_high", "n"}
        assert row["ci_low"] <= row["iqm"] <= row["ci_high"]
        assert row["n"] == 2
        assert f"{row['iqm']:.1f} [{row['ci_low']:.1f}, {row['ci_high']:.1f}]" in out
    assert picture.read_text().lstrip().startswith("<?xml")
    # Sixty updates on a random log: the report decides, and the kept policy has to be the one it names.
    kept = PolicyArtifact.load(output / "policy")
    assert kept.description.algorithm == content["verdict"]["chosen"]
    assert f"kept: {kept.description.algorithm}" in out
    if not content["verdict"]["better_than_baseline"]:
        assert kept.description.algorithm == "bc"


def test_compare_goes_on_where_it_was(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, target = tmp_path / "runs", tmp_path / "c.json"
    assert compared(root, output, "--json", str(target)) == 0
    first = json.loads(target.read_text())["results"]
    lost = next((output / "runs").glob("iql-1-*"))
    (lost / "result.json").unlink()
    for path in lost.rglob("*"):
        if path.is_file():
            path.unlink()
    assert compared(root, output, "--json", str(target)) == 0
    assert "5 of 6 runs are already there" in capsys.readouterr().err
    again = json.loads(target.read_text())["results"]
    for before, after in zip(first, again, strict=True):
        assert before | {"seconds": 0} == after | {"seconds": 0}


def test_other_settings_are_other_runs(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "runs"
    assert compared(root, output, "--algorithms", "bc", "cql") == 0
    assert compared(root, output, "--algorithms", "bc", "cql", "--cql.alpha", "2") == 0
    assert "2 of 4 runs are already there" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_two_processes_find_what_one_finds(root: Path, tmp_path: Path) -> None:
    found = []
    for jobs in ("1", "2"):
        target = tmp_path / f"{jobs}.json"
        words = ("--algorithms", "bc", "--jobs", jobs, "--json", str(target))
        assert compared(root, tmp_path / jobs, *words) == 0
        found.append([(row["seed"], row["last"], row["curve"]) for row in json.loads(target.read_text())["results"]])
    assert found[0] == found[1]


def test_a_full_disk_while_saving_is_1_and_the_old_policy_is_whole(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "cartpole/random-v0", "--root", str(root), "--algorithm", "bc", *SHORT]
    words += ["--output", str(tmp_path / "policy")]
    assert main(["offline", "train", *words]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()}

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["offline", "train", *words, "--seed", "1"]) == 1
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()} == before
