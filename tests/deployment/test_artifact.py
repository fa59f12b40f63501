from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.errors import ArtifactError, StorageError
from rlcourse.experience import manifest
from rlcourse.networks import (
    ActionNetwork,
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianNetwork,
    GaussianPolicy,
    GreedyQPolicy,
    LogitsNetwork,
    MLPNetwork,
    QNetwork,
    SquashedGaussianPolicy,
    UniformPolicy,
)
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ContinuousActions, DiscretePolicy, Policy

MEAN, STD = torch.tensor([1.0, 0.0, -1.0, 0.5]), torch.tensor([1.0, 2.0, 0.5, 3.0])
OBS = torch.randn(200, 4, generator=Seeds(0).torch("obs"))
FILES = ("policy.json", "weights.safetensors")


def discrete(artifact: PolicyArtifact) -> DiscretePolicy:
    policy = artifact.policy()
    assert isinstance(policy, DiscretePolicy)
    return policy


def policy_of(head: str, seed: int = 0) -> CategoricalPolicy | GreedyQPolicy:
    with Seeds(seed).initialising("networks"):
        if head == "logits":
            return CategoricalPolicy(LogitsNetwork(MEAN, STD, (16, 8), 3))
        return GreedyQPolicy(QNetwork(MEAN, STD, (16, 8), 3))


def saved(folder: Path, head: str = "q", seed: int = 0) -> Path:
    artifact = PolicyArtifact.from_policy(
        policy_of(head, seed), algorithm="cql", env_id="CartPole-v1", provenance={"seed": 7}, evaluation={"mean": 1.5}
    )
    artifact.save(folder / "policy")
    return folder / "policy"


@pytest.mark.parametrize("head", ["logits", "q"])
def test_a_policy_comes_back_with_every_probability(tmp_path: Path, head: str) -> None:
    artifact = PolicyArtifact.load(saved(tmp_path, head))
    assert artifact.description.head == head
    assert artifact.description.hidden == (16, 8)
    assert (artifact.description.obs_size, artifact.description.num_actions) == (4, 3)
    assert artifact.description.provenance == {"seed": 7}
    assert artifact.description.evaluation == {"mean": 1.5}
    policy, original = discrete(artifact), policy_of(head)
    assert torch.equal(policy.probabilities(OBS), original.probabilities(OBS))
    assert torch.equal(policy.act(OBS, greedy=True), original.act(OBS, greedy=True))
    draws = [p.act(OBS, greedy=False, generator=Seeds(1).torch("draws")) for p in (policy, original)]
    assert torch.equal(*draws)
    assert len(policy.act(OBS, greedy=True).unique()) > 1, "a constant policy would hide a swap"


def test_what_stands_between_the_layers_comes_back_too(tmp_path: Path) -> None:
    with Seeds(0).initialising("networks"):
        original = CategoricalPolicy(LogitsNetwork(MEAN, STD, (16, 8), 3, "tanh"))
    artifact = PolicyArtifact.from_policy(original, algorithm="ppo", env_id="CartPole-v1")
    artifact.save(tmp_path / "policy")
    policy = discrete(PolicyArtifact.load(tmp_path / "policy"))
    assert torch.equal(policy.probabilities(OBS), original.probabilities(OBS))


ACTIONS = ContinuousActions(torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 5.0]))


def continuous(head: str) -> Policy:
    with Seeds(0).initialising("networks"):
        if head == "gaussian":
            network = GaussianNetwork(MEAN, STD, (16, 8), ACTIONS)
            return GaussianPolicy(network, network.log_std, ACTIONS)
        if head == "squashed_gaussian":
            return SquashedGaussianPolicy(MLPNetwork(MEAN, STD, (16, 8), 4), ACTIONS)
        return DeterministicPolicy(ActionNetwork(MEAN, STD, (16, 8), ACTIONS))


@pytest.mark.parametrize("head", ["gaussian", "squashed_gaussian", "deterministic"])
def test_continuous_actions_come_back_to_the_last_bit(tmp_path: Path, head: str) -> None:
    original = continuous(head)
    PolicyArtifact.from_policy(original, algorithm="sac", env_id="Pendulum-v1").save(tmp_path / "policy")
    artifact = PolicyArtifact.load(tmp_path / "policy")
    about = artifact.description
    assert (about.head, about.num_actions, about.low, about.high) == (head, 2, (-2.0, 0.0), (2.0, 5.0))
    for greedy in (True, False):
        drawn = [p.act(OBS, greedy=greedy, generator=Seeds(1).torch("draws")) for p in (artifact.policy(), original)]
        assert torch.equal(*drawn) and drawn[0].shape == (200, 2)
    assert artifact.policy().act(OBS, greedy=True).std(0).min() > 0.01, "a constant policy would hide a swap"


def test_bounds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    PolicyArtifact.from_policy(continuous("gaussian"), algorithm="bc", env_id="Pendulum-v1").save(tmp_path / "policy")
    path = tmp_path / "policy" / "policy.json"
    about = manifest.unsealed(path)
    about["description"]["high"] = []
    path.write_text(manifest.sealed({key: about[key] for key in ("format", "weights_sha256", "description")}))
    with pytest.raises(ArtifactError, match="bounds"):
        PolicyArtifact.load(tmp_path / "policy")


def test_the_artifact_is_a_copy(tmp_path: Path) -> None:
    network = QNetwork(MEAN, STD, (8,), 2)
    artifact = PolicyArtifact.from_policy(GreedyQPolicy(network), algorithm="dqn", env_id="CartPole-v1")
    before = discrete(artifact).probabilities(OBS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.neg_()
    assert torch.equal(discrete(artifact).probabilities(OBS), before)


def test_only_networks_can_be_saved() -> None:
    with pytest.raises(ArtifactError):
        PolicyArtifact.from_policy(UniformPolicy(2), algorithm="random", env_id="CartPole-v1")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_anywhere_is_noticed(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path) / name
    whole = path.read_bytes()
    for position in sorted({*range(0, len(whole), 7), len(whole) - 1}):
        changed = bytearray(whole)
        changed[position] ^= 0x20
        path.write_bytes(changed)
        with pytest.raises(ArtifactError):
            PolicyArtifact.load(path.parent).policy()
    path.write_bytes(whole)
    PolicyArtifact.load(path.parent)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [None, 0, 50])
def test_a_missing_or_truncated_file_is_noticed(tmp_path: Path, name: str, left: int | None) -> None:
    path = saved(tmp_path) / name
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ArtifactError):
        PolicyArtifact.load(path.parent)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        PolicyArtifact.load(tmp_path / "nothing")


def resealed(folder: Path, **changes: Any) -> Path:
    """Change the description and make the checksum fit, as somebody might who edits it by hand."""
    about = json.loads((folder / "policy.json").read_text())
    del about["checksum"]
    about["weights_sha256"] = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    for key, value in changes.items():
        (about if key in about else about["description"])[key] = value
    (folder / "policy.json").write_text(manifest.sealed(about))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "policy"},
        {"format": 99},
        {"hidden": 16},
        {"hidden": [16, 9]},
        {"num_actions": 2},
        {"obs_size": 5},
        {"colour": "red"},
    ],
    ids=str,
)
def test_an_intact_description_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = resealed(saved(tmp_path), **changes)
    with pytest.raises(ArtifactError):
        PolicyArtifact.load(folder).policy()


@pytest.mark.parametrize("wrong", ["missing", "extra", "shape"])
def test_intact_weights_that_do_not_fit_are_refused(tmp_path: Path, wrong: str) -> None:
    folder = saved(tmp_path)
    weights = load_file(folder / "weights.safetensors")
    name = "layers.0.weight"
    if wrong == "missing":
        del weights[name]
    elif wrong == "extra":
        weights["another"] = torch.zeros(1)
    else:
        weights[name] = weights[name][:-1].clone()
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(ArtifactError, match="do not fit"):
        PolicyArtifact.load(resealed(folder)).policy()


def test_code_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    torch.save({"layers.0.weight": torch.zeros(1)}, folder / "weights.safetensors")  # a pickle
    with pytest.raises(ArtifactError):
        PolicyArtifact.load(resealed(folder))


def test_a_full_disk_leaves_the_older_artifact_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        saved(tmp_path, seed=1)
    monkeypatch.undo()
    assert torch.equal(discrete(PolicyArtifact.load(folder)).probabilities(OBS), policy_of("q").probabilities(OBS))
