from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.exports import FILES, Form, export, read_program
from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.deployment.onnx_file import OnnxPolicy
from rlcourse.deployment.parity import Arrays, compare, numpy_answerer, questions, reference
from rlcourse.deployment.portable import inputs_of, outputs_of, portable
from rlcourse.errors import ArtifactError, MissingExtraError
from tests.deployment.policies import KINDS, artifact_of, policy_of


@pytest.mark.slow
@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_every_kind_answers_as_the_policy_does(kind: str, form: Form, tmp_path: Path) -> None:
    parity = export(artifact_of(kind), form, tmp_path / FILES[form], count=8192, seed=3)
    assert parity.holds and parity.questions == 8192
    assert parity.ordinary < 5e-6
    assert parity.ties < 0.15 * 8192, "most answers must be clear, or nothing was compared"
    assert [path.name for path in tmp_path.iterdir()] == [FILES[form]]


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_answers_as_the_policy_does(kind: str, tmp_path: Path) -> None:
    parity = export(artifact_of(kind), "numpy", tmp_path / "policy.zip")
    assert parity.ordinary < 5e-6 and parity.holds


def test_the_questions_hold_the_awkward_ones() -> None:
    asked = questions(artifact_of("recurrent"))
    obs, mask, memory = asked["observation"], asked["mask"], asked["memory"]
    assert (obs[0] == 0).all() and obs[1].tolist() == [1.0, 0.0, -1.0, 0.5]
    assert np.abs(obs).max() > 1e6 and np.isfinite(obs).all()
    assert set(mask.sum(-1).tolist()) == {1, 2, 3}
    assert (memory[0] == 0).all() and np.abs(memory).max() > 0.9
    assert inputs_of(artifact_of("gaussian").description) == ("observation",)


def test_the_reference_is_the_policy_itself() -> None:
    artifact = artifact_of("categorical")
    asked = questions(artifact, 64)
    policy = policy_of("categorical")
    obs, mask = torch.from_numpy(asked["observation"]), torch.from_numpy(asked["mask"])
    expected = policy.act_within(obs, mask, greedy=True)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(reference(artifact, asked).answers["action"], expected.numpy())


@pytest.mark.parametrize("wrong", ["weight", "memory", "mask", "action", "spread", "squash"])
def test_another_policy_does_not_pass(wrong: str, tmp_path: Path) -> None:
    kind = {"memory": "recurrent", "spread": "free-gaussian", "squash": "squashed-gaussian"}.get(wrong, "categorical")
    artifact = artifact_of(kind)
    artifact.save(tmp_path / "policy.zip")
    policy = NumpyPolicy.load(tmp_path / "policy.zip")
    right = numpy_answerer(policy)

    def answer(asked: Arrays) -> Arrays:
        if wrong == "mask":
            asked = {**asked, "mask": np.ones_like(asked["mask"])}
        said = dict(right(asked))
        if wrong == "memory":
            said["memory"] = said["memory"] + np.float32(1e-3)
        elif wrong == "action":
            said["action"] = (said["action"] + 1) % 3
        elif wrong == "spread":
            said["std"] = said["std"] * np.float32(1.001)
        elif wrong == "squash":
            said["action"] = said["mean"]
        return said

    if wrong == "weight":
        weights = {name: value.clone() for name, value in artifact.weights.items()}
        weights["layers.0.weight"][0, 0] += 1e-2
        artifact = PolicyArtifact(artifact.description, weights)
    parity = compare(wrong, artifact, answer)
    assert not parity.holds
    with pytest.raises(ArtifactError, match="does not answer as the policy does"):
        parity.demand()


def test_an_answer_of_the_wrong_kind_is_no_answer(tmp_path: Path) -> None:
    artifact = artifact_of("categorical")
    artifact.save(tmp_path / "policy.zip")
    right = numpy_answerer(NumpyPolicy.load(tmp_path / "policy.zip"))
    for name, change in (("action", np.float32), ("probabilities", None)):

        def answer(asked: Arrays, name: str = name, change: type | None = change) -> Arrays:
            said = dict(right(asked))
            said[name] = said[name][:, :1] if change is None else said[name].astype(change)
            return said

        with pytest.raises(ArtifactError, match=f"no {name} of the right kind"):
            compare("numpy", artifact, answer)


def test_a_form_that_fails_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "policy.pt"
    export(artifact_of("tanh"), "torchscript", target)
    before = target.read_bytes()
    monkeypatch.setattr("rlcourse.deployment.exports.portable", lambda _: portable(artifact_of("tanh", seed=1)))
    with pytest.raises(ArtifactError, match="does not answer"):
        export(artifact_of("tanh"), "torchscript", target)
    assert target.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_onnx_carries_its_description_and_names(tmp_path: Path) -> None:
    artifact = artifact_of("recurrent", version="3")
    export(artifact, "onnx", tmp_path / "policy.onnx", count=256)
    policy = OnnxPolicy(tmp_path / "policy.onnx")
    assert policy.description["version"] == "3" and policy.description["num_actions"] == 3
    for size in (1, 7):
        said = policy(questions(artifact, size))
        assert set(said) == set(outputs_of(artifact.description))
        assert said["action"].shape == (size,) and said["memory"].shape == (size, 12)
    (tmp_path / "policy.onnx").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="no exported policy"):
        OnnxPolicy(tmp_path / "policy.onnx")


def test_a_program_takes_any_batch(tmp_path: Path) -> None:
    artifact = artifact_of("tanh")
    export(artifact, "torch", tmp_path / "policy.pt2", count=3)
    answer = read_program(artifact, tmp_path / "policy.pt2")
    for size in (1, 2, 1000):  # a thousand rows are where the training's tanh goes another way
        assert answer(questions(artifact, size))["probabilities"].shape == (size, 3)


def test_without_onnx_the_mend_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rlcourse.deployment.onnx_file", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlcourse\[onnx\]'"):
        export(artifact_of("tanh"), "onnx", tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())
