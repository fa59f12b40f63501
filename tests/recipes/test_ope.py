"""``rlcourse ope`` from words to verdict."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcourse.algorithms.bc import BC, BCConfig
from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import load_dataset, save_dataset
from rlcourse.networks import ScriptedPolicy, UniformPolicy
from rlcourse.randomness import Seeds
from rlcourse.recipes.command_line import main
from rlcourse.vocabulary import TaskSpec

LOG = "cartpole/random-v0"
ONLY_IS = ["--estimators", "is", "--decide-by", "is"]
MODEL_FREE = ["--estimators", "wis", "wpdis", "linear", "--decide-by", "wis"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One-step episodes: the sign of the first number says which action pays 1; the log acts evenly."""
    folder = tmp_path_factory.mktemp("root")
    rng = Seeds(0).numpy("log")
    count = 400
    obs = np.repeat(rng.normal(size=(count, 1, 4)), 2, axis=1).reshape(-1, 4).astype(np.float32)
    action = rng.integers(2, size=count)
    right = (obs[::2, 0] > 0).astype(np.int64)
    episodes = Episodes(
        observations=obs,
        actions=action,
        rewards=(action == right).astype(np.float32),
        behaviour_probabilities=np.full(count, 0.5, dtype=np.float32),
        lengths=np.ones(count, dtype=np.int64),
        terminated=np.ones(count, dtype=bool),
    )
    card = DatasetCard(env_id="CartPole-v1", num_actions=2, quality="random", behaviour="even", seed=0, command="test")
    save_dataset(LOG, episodes, card, root=folder)
    unknown = Episodes(**{**vars(episodes), "behaviour_probabilities": np.full(count, np.nan, dtype=np.float32)})
    save_dataset("cartpole/unknown-v0", unknown, card, root=folder)
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that is right nearly always: its logits are the first number, times 5."""
    torch.manual_seed(0)
    clone = BC(TaskSpec.unscaled(4, 2), BCConfig(hidden=()))
    linear = clone.network.get_submodule("layers.0")
    assert isinstance(linear, torch.nn.Linear)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
        linear.weight[1, 0] = 5.0
    folder = tmp_path_factory.mktemp("policy") / "good"
    PolicyArtifact.from_policy(clone.policy, algorithm="bc", env_id="CartPole-v1").save(folder)
    return folder


def judged(root: Path, target: Path, *words: str) -> dict[str, Any]:
    assert main(["ope", "--root", str(root), "--json", str(target), *words]) == 0
    content: dict[str, Any] = json.loads(target.read_text())
    return content


def test_a_better_policy_is_promoted_and_random_actions_are_not(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--plot", str(tmp_path / "ope.png"), "--verdict", str(tmp_path / "verdict.json")]
    content = judged(
        root, tmp_path / "r.json", "--dataset", LOG, "--policy", str(artifact), "uniform", *MODEL_FREE, *files
    )
    assert content["command"] == "ope" and len(content["results"]) == 2 * 3
    found = {(row["policy"], row["estimator"]): row for row in content["results"]}
    # What a policy that is right with probability sigma(5 x) earns, over x from a normal distribution: about 0.89.
    worth = float(torch.sigmoid(5 * torch.randn(100_000, generator=torch.Generator().manual_seed(0)).abs()).mean())
    for estimator in ("wis", "wpdis"):
        row = found[str(artifact), estimator]
        assert row["ci_low"] < worth < row["ci_high"] < 1.0
    assert found["uniform", "wis"]["estimate"] == pytest.approx(0.5, abs=0.08)
    assert content["verdict"]["decision"] == "promote" and content["verdict"]["candidate"] == str(artifact)
    assert json.loads((tmp_path / "verdict.json").read_text()) == content["verdict"]
    assert (tmp_path / "ope.png").stat().st_size > 5_000
    text = capsys.readouterr().out
    assert "promote:" in text and "(the logger)" in text


def test_models_can_be_asked_too(root: Path, artifact: Path, tmp_path: Path) -> None:
    words = ["--estimators", "fqe", "dr", "wdr", "mis", "mdr", "--fqe.updates", "300", "--episodes", "200"]
    content = judged(root, tmp_path / "r.json", "--dataset", LOG, "--policy", str(artifact), *words)
    assert {row["estimator"] for row in content["results"]} == {"fqe", "dr", "wdr", "mis", "mdr"}
    assert all(0.7 < row["estimate"] < 1.1 for row in content["results"] if row["estimator"] in ("dr", "wdr"))
    assert content["diagnostics"][str(artifact)]["episodes"] == 200


def test_the_same_words_give_the_same_numbers(root: Path, artifact: Path, tmp_path: Path) -> None:
    words = ["--dataset", LOG, "--policy", str(artifact), *MODEL_FREE]
    one, two = (judged(root, tmp_path / f"{n}.json", *words) for n in "ab")
    assert one["results"] == two["results"] and one["verdict"] == two["verdict"]


def test_guessed_propensities_are_said_to_be(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "cartpole/unknown-v0", "--policy", str(artifact), *MODEL_FREE]
    assert main(["ope", "--root", str(root), *words]) == 1
    assert "--propensities estimated" in capsys.readouterr().err
    content = judged(root, tmp_path / "r.json", *words, "--propensities", "estimated")
    assert content["diagnostics"][str(artifact)]["propensities"] == "estimated"
    assert content["verdict"]["decision"] == "inconclusive"
    assert "No interval above knows" in capsys.readouterr().out


def test_a_log_without_propensities_is_judged_by_what_needs_none(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "cartpole/unknown-v0", "--policy", str(artifact), "--estimators", "linear", "mdr"]
    words += ["--decide-by", "mdr", "--fqe.updates", "300"]
    content = judged(root, tmp_path / "r.json", *words)
    about = content["diagnostics"][str(artifact)]
    assert about["propensities"] == "unknown" and about["mean_ratio"] is None and about["tail_shape"] is None
    assert all(0.7 < row["estimate"] < 1.1 for row in content["results"])
    weighing = ["--estimators", "wis", "mdr", "--decide-by", "mdr"]
    assert main(["ope", "--root", str(root), "--dataset", "cartpole/unknown-v0", "--policy", "uniform", *weighing]) == 1
    assert "estimators that need none: mdr, mis, fqe, linear" in capsys.readouterr().err


def test_one_silent_estimator_leaves_the_others_and_the_other_candidates_their_say(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that never does what was logged has no weighted estimate; a model has an answer all the same."""
    never = ScriptedPolicy(lambda obs: (obs[:, 0] > 0).long(), 3)
    log = load_dataset(LOG, root=root)
    wrong = (log.episodes.observations[::2, 0] > 0).astype(np.int64)
    monkeypatch.setattr(
        "rlcourse.recipes.ope._policy",
        lambda name, *_: never if name == "never" else UniformPolicy(3),
    )
    kept = log.episodes.select(np.flatnonzero(log.episodes.actions != wrong))
    save_dataset("cartpole/against-v0", kept, replace(log.card, num_actions=3), root=root, overwrite=True)
    words = ["--dataset", "cartpole/against-v0", "--policy", "never", "uniform", *MODEL_FREE]
    content = judged(root, tmp_path / "r.json", *words, "--plot", str(tmp_path / "x.png"))
    found = {(row["policy"], row["estimator"]) for row in content["results"]}
    assert found == {("never", "linear"), *(("uniform", name) for name in ("wis", "wpdis", "linear"))}
    out = capsys.readouterr().out
    assert "no answer" in out and "No answer from wis, wpdis for never: The target policy never does" in out
    last = content["verdict"]["evidence"][-1]
    assert last["candidate"] == "never" and "never does what was logged" in last["objections"][0]


def test_it_is_said_who_counts_what_comes_after_the_cut(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = load_dataset(LOG, root=root)
    cut = replace(log.episodes, terminated=np.zeros_like(log.episodes.terminated))
    save_dataset("cartpole/cut-v0", cut, log.card, root=root, overwrite=True)
    words = ["ope", "--root", str(root), "--policy", "uniform", *MODEL_FREE, "--dataset"]
    assert main([*words, "cartpole/cut-v0"]) == 0
    assert "99% of the discounted time comes later. linear: what would be earned" in capsys.readouterr().out
    assert main([*words, LOG]) == 0
    assert "comes later" not in capsys.readouterr().out


def test_guessed_propensities_promote_nobody_unless_somebody_says_so(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a guess that happens to be right, so that nothing else speaks against it."""
    monkeypatch.setattr("rlcourse.recipes.ope.estimate_propensities", lambda *_, **__: np.full(400, 0.5))
    words = ["--dataset", "cartpole/unknown-v0", "--policy", str(artifact), *MODEL_FREE, "--propensities", "estimated"]
    verdict = judged(root, tmp_path / "r.json", *words)["verdict"]
    assert verdict["decision"] == "inconclusive" and "guessed propensities" in verdict["reason"]
    assert "but its weights rest on guessed propensities" in capsys.readouterr().out
    verdict = judged(root, tmp_path / "r.json", *words, "--allow-estimated")["verdict"]
    assert verdict["decision"] == "promote" and "does not cover the error" in verdict["reason"]
    assert verdict["demands"]["allow_estimated"] and verdict["evidence"][0]["propensities"] == "estimated"


def test_what_trying_only_the_first_would_cost_is_shown(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", LOG, "--policy", "uniform", str(artifact), *MODEL_FREE]
    regret = judged(root, tmp_path / "r.json", *words)["verdict"]["expected_regret"]
    assert len(regret) == 2 and regret == pytest.approx([0.0, 0.0], abs=1e-3)  # the first is better in every resample
    out = capsys.readouterr().out
    assert re.search(rf"loses on average\n.*\n1 +{re.escape(str(artifact))} +0\.00\n2 +uniform", out)


def test_bounds_are_shown_where_there_are_some_and_reasons_where_there_are_none(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--estimators", "is", "wis", "fqe", "dr", "--decide-by", "dr", "--fqe.updates", "20", "--gamma", "1"]
    words = ["--dataset", LOG, "--policy", str(artifact), *models]
    judged(root, tmp_path / "r.json", *words)
    assert "No bounds" in capsys.readouterr().out
    known = ["--reward-range", "-0.5", "1", "--largest-ratio", "2"]
    content = judged(root, tmp_path / "r.json", *words, *known)
    found = {row["estimator"]: row for row in content["results"]}
    for name, kinds in (("is", ["hoeffding", "bernstein"]), ("dr", ["hoeffding"])):
        for kind in kinds:
            low, high = found[name]["bounds"][kind]
            assert -0.5 <= low < found[name]["ci_low"] < found[name]["ci_high"] < high <= 1.0
    assert found["is"]["bounds"]["reason"] is None and found["wis"]["bounds"]["hoeffding"] is None
    assert "ratio of two means" in found["wis"]["bounds"]["reason"]
    assert {name for name, row in found.items() if row["given_this_fit"]} == {"fqe", "dr"}
    out = capsys.readouterr().out
    assert "Hoeffding" in out and "ratio of two means" in out and "given this fit" in out


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--policy", "uniform", "uniform"], 2, "one twice"),
        (["--policy", "uniform", "--estimators", "wis"], 2, "wdr"),
        (["--policy", "uniform", "--estimators", "fqe", "--decide-by", "fqe"], 2, "a model and nothing else"),
        (["--policy", "uniform", "--estimators", "guess"], 2, "guess"),
        (["--policy", "nowhere"], 1, "nowhere"),
        (["--policy", "uniform", "--episodes", "0"], 2, "0 episodes"),
        (["--policy", "uniform", "--plot", "x.doc"], 2, ".png"),
        (["--policy", "uniform", "--gamma", "2", *MODEL_FREE], 2, "gamma"),
        (["--policy", "uniform", "--largest-ratio", "2"], 2, "--reward-range"),
        (["--policy", "uniform", "--reward-range", "1", "0"], 2, "lower number first"),
        (["--policy", "uniform", "--reward-range", "0", "0.5", "--largest-ratio", "2", *ONLY_IS], 2, "outside"),
    ],
)
def test_wrong_words(root: Path, words: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ope", "--dataset", LOG, "--root", str(root), *words]) == status
    assert says in capsys.readouterr().err


def test_a_policy_for_another_task_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = BC(TaskSpec.unscaled(3, 2), BCConfig(hidden=()))
    PolicyArtifact.from_policy(other.policy, algorithm="bc", env_id="x").save(tmp_path / "other")
    assert main(["ope", "--dataset", LOG, "--root", str(root), "--policy", str(tmp_path / "other")]) == 1
    assert "acts on 3 numbers" in capsys.readouterr().err
    assert load_dataset(LOG, root=root).episodes.num_episodes == 400
