from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.description import observation_bounds
from rlcourse.deployment.numpy_policy import NumpyPolicy, draw
from rlcourse.deployment.stored import FORMAT
from rlcourse.errors import ArtifactError, ShapeError
from rlcourse.experience import manifest
from rlcourse.networks import RecurrentCategoricalPolicy
from rlcourse.randomness import Seeds
from tests.deployment.policies import ACTIONS, CONTINUOUS, DISCRETE, KINDS, artifact_of, policy_of

OBS = 3.0 * torch.randn(500, 4, generator=Seeds(0).torch("obs"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["policy", "policy.zip"])
def test_every_kind_comes_back_and_acts_the_same(kind: str, name: str, tmp_path: Path) -> None:
    artifact_of(kind).save(tmp_path / name)
    policy, original = PolicyArtifact.load(tmp_path / name).policy(), policy_of(kind)
    assert type(policy) is type(original)
    for greedy in (True, False):
        one, other = (p.act(OBS, greedy=greedy, generator=Seeds(1).torch("draws")) for p in (policy, original))
        assert torch.equal(one, other)
    assert len(one.unique()) > 1, "a constant policy would hide a swap"
    assert (tmp_path / name).is_dir() == (name == "policy")


def test_what_a_policy_says_of_itself(tmp_path: Path) -> None:
    low = observation_bounds([-4.8, -np.inf, -0.4, -np.inf])
    artifact = PolicyArtifact.from_policy(
        policy_of("recurrent"),
        algorithm="ppo",
        env_id="Task-v0",
        version="7",
        provenance={"dataset_checksum": "ab", "code": "0.1.0", "config": {"memory": 12}},
        evaluation={"mean": 12.5, "episodes": 100},
        obs_low=low,
        obs_high=observation_bounds([4.8, np.inf, 0.4, np.inf]),
    )
    artifact.save(tmp_path / "policy")
    about = PolicyArtifact.load(tmp_path / "policy").description
    assert about == artifact.description
    assert (about.obs_low, about.obs_high) == ((-4.8, None, -0.4, None), (4.8, None, 0.4, None))
    assert (about.memory_size, about.takes_mask, about.discrete, about.version) == (12, True, True, "7")
    assert about.first_memory == (0.0,) * 12
    assert about.provenance["config"] == {"memory": 12}
    continuous = artifact_of("squashed-gaussian")
    assert (continuous.description.low, continuous.description.high) == ((-2.0, 0.0), (1.0, 5.0))
    assert (continuous.description.takes_mask, continuous.description.num_actions) == (False, 2)


def test_a_version_is_the_checksum_unless_it_is_given(tmp_path: Path) -> None:
    artifact_of("tanh").save(tmp_path / "one")
    artifact_of("tanh", version="2026.1").save(tmp_path / "two")
    expected = json.loads((tmp_path / "one" / "policy.json").read_text())["weights_sha256"][:12]
    assert NumpyPolicy.load(tmp_path / "one").version == expected
    assert NumpyPolicy.load(tmp_path / "two").version == "2026.1"


def test_the_first_format_is_still_read(tmp_path: Path) -> None:
    # Written by hand, as version 1 wrote it: without the fields that came later.
    folder = tmp_path / "old"
    artifact = artifact_of("tanh")
    artifact.save(folder)
    about = json.loads((folder / "policy.json").read_text())
    fields = ("algorithm", "env_id", "head", "hidden", "obs_size", "num_actions", "provenance", "evaluation")
    kept = {name: about["description"][name] for name in (*fields, "activation")}
    content = {"format": 1, "weights_sha256": about["weights_sha256"], "description": kept}
    (folder / "policy.json").write_text(manifest.sealed(content))
    assert torch.equal(
        PolicyArtifact.load(folder).policy().act(OBS, greedy=True), policy_of("tanh").act(OBS, greedy=True)
    )


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    folder = _changed(tmp_path, format=FORMAT + 1)
    with pytest.raises(ArtifactError, match=f"format {FORMAT + 1}.* up to {FORMAT}.*Install the rlcourse"):
        PolicyArtifact.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 0},
        {"format": "2"},
        {"format": True},
        {"network": "recurrent"},
        {"network": "transformer"},
        {"head": "gaussian"},
        {"head": ["q"]},
        {"activation": "gelu"},
        {"low": [0.0, 0.0, 0.0], "high": [1.0, 1.0, 1.0]},
        {"obs_low": [0.0]},
        {"obs_low": [0.0, 0.0, 0.0, "x"]},
        {"first_memory": [0.0]},
        {"hidden": [0, 8]},
        {"hidden": [16.0, 8]},
        {"obs_size": True},
        {"provenance": []},
        {"version": 3},
        {"description": 3},
    ],
    ids=str,
)
def test_a_sealed_description_of_nothing_possible_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError):
        PolicyArtifact.load(_changed(tmp_path, **changes))


def test_sizes_that_lie_cost_no_memory(tmp_path: Path) -> None:
    folder = _changed(tmp_path, hidden=[2**20, 2**20])  # four TiB of weights, if anybody made them
    with pytest.raises(ArtifactError, match="do not fit"):
        PolicyArtifact.load(folder).policy()
    with pytest.raises(ArtifactError, match=r"layers.0.weight has shape \(16, 4\)"):
        NumpyPolicy.load(folder)


def test_weights_in_another_precision_are_refused(tmp_path: Path) -> None:
    artifact = artifact_of("greedy-q")
    doubled = PolicyArtifact(artifact.description, {name: value.double() for name, value in artifact.weights.items()})
    doubled.save(tmp_path / "policy")
    with pytest.raises(ArtifactError, match="32 bits"):
        PolicyArtifact.load(tmp_path / "policy").policy()
    with pytest.raises(ArtifactError, match="float64"):
        NumpyPolicy.load(tmp_path / "policy")


def test_only_single_actions_have_probabilities() -> None:
    assert artifact_of("tanh").discrete_policy().probabilities(OBS).shape == (500, 3)
    for kind in ("recurrent", *CONTINUOUS):
        with pytest.raises(ArtifactError, match="probabilities"):
            artifact_of(kind).discrete_policy()


def _zip(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def _contents(tmp_path: Path) -> dict[str, bytes]:
    artifact_of("tanh").save(tmp_path / "whole")
    return {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("path that climbs out", "exactly"),
        ("absolute path", "exactly"),
        ("third entry", "exactly"),
        ("entry twice", "exactly"),
        ("missing entry", "exactly"),
        ("compressed", "compressed"),
        ("other weights", "not those that were saved"),
        ("not a zip", "damaged"),
    ],
)
def test_a_file_that_no_save_made_is_refused(tmp_path: Path, how: str, says: str) -> None:
    contents = _contents(tmp_path)
    entries, path = list(contents.items()), tmp_path / "policy.zip"
    about, weights = contents["policy.json"], contents["weights.safetensors"]
    match how:
        case "path that climbs out":
            _zip(path, [*entries[:1], ("../" + entries[1][0], entries[1][1])])
        case "absolute path":
            _zip(path, [("/tmp/policy.json", about), ("weights.safetensors", weights)])
        case "third entry":
            _zip(path, [*entries, ("run.py", b"")])
        case "entry twice":
            with pytest.warns(UserWarning, match="Duplicate"):
                _zip(path, [("policy.json", about), ("policy.json", about)])
        case "missing entry":
            _zip(path, entries[:1])
        case "compressed":
            _zip(path, entries, zipfile.ZIP_DEFLATED)
        case "other weights":
            other = save(artifact_of("tanh", seed=1).weights)
            _zip(path, [("policy.json", about), ("weights.safetensors", other)])
        case _:
            path.write_bytes(about)
    before = {entry.name for entry in tmp_path.iterdir()}
    with pytest.raises(ArtifactError, match=says):
        PolicyArtifact.load(path)
    assert {entry.name for entry in tmp_path.iterdir()} == before, "nothing may be unpacked"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact_of("tanh").save(tmp_path / "policy.zip")
    artifact_of("tanh").save(tmp_path / "policy")
    monkeypatch.setattr("rlcourse.deployment.stored.LIMITS", {"policy.json": 2**20, "weights.safetensors": 100})
    for name in ("policy", "policy.zip"):
        with pytest.raises(ArtifactError, match="at most 100"):
            PolicyArtifact.load(tmp_path / name)


def test_a_damaged_file_is_refused_or_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "policy.zip"
    artifact_of("tanh").save(path)
    whole, truth = path.read_bytes(), NumpyPolicy.load(path)
    refused = 0
    for position in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[position] ^= 0x41
        path.write_bytes(changed)
        try:
            found = NumpyPolicy.load(path)
        except ArtifactError:
            refused += 1
        else:  # a date in the zip's own tables: nothing that a policy is made of
            assert found.description == truth.description and found.version == truth.version
    assert refused > 0.9 * len(range(0, len(whole), 5))
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError):
            NumpyPolicy.load(path)


def test_equal_policies_make_equal_files(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        artifact_of("recurrent").save(tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    artifact_of("recurrent", seed=1).save(tmp_path / "one.zip")  # an older one may be replaced
    assert PolicyArtifact.load(tmp_path / "one.zip").description.provenance == {"seed": 1}
    (tmp_path / "notes.zip").write_text("mine")
    with pytest.raises(ArtifactError, match="no saved policy"):
        artifact_of("recurrent").save(tmp_path / "notes.zip")
    assert (tmp_path / "notes.zip").read_text() == "mine"


def _numpy(kind: str, tmp_path: Path) -> NumpyPolicy:
    artifact_of(kind).save(tmp_path / "policy.zip")
    return NumpyPolicy.load(tmp_path / "policy.zip")


@pytest.mark.parametrize("kind", DISCRETE)
def test_numpy_samples_what_it_says_it_samples(kind: str, tmp_path: Path) -> None:
    policy = _numpy(kind, tmp_path)
    obs = np.tile(OBS[:1].numpy(), (40_000, 1))
    mask = np.tile([True, False, True], (40_000, 1))
    acted = policy.act(obs, greedy=False, generator=np.random.default_rng(0), mask=mask)
    assert acted.probabilities is not None
    expected = acted.probabilities[0]
    assert expected[1] == 0.0 and expected.sum() == pytest.approx(1.0, abs=1e-6)
    shares = np.bincount(acted.actions, minlength=3) / 40_000
    assert np.abs(shares - expected).max() < 0.012  # five standard errors of a fair coin
    assert shares[1] == 0.0


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_numpy_spreads_as_the_policy_does(kind: str, tmp_path: Path) -> None:
    obs = OBS[:1].expand(40_000, -1)
    ours = _numpy(kind, tmp_path).act(obs.numpy(), greedy=False, generator=np.random.default_rng(0)).actions
    theirs = policy_of(kind).act(obs, greedy=False, generator=Seeds(0).torch("draws")).numpy()
    assert ours.dtype == np.float32 and ours.shape == (40_000, 2)
    half = ACTIONS.half_range.numpy()
    for moment in (np.mean, np.std):
        assert (np.abs(moment(ours, 0) - moment(theirs, 0)) / half < 0.03).all()
    assert (np.ptp(ours, 0) > 0).all() == (kind != "deterministic")


def test_numpy_remembers_a_whole_episode(tmp_path: Path) -> None:
    policy, theirs = _numpy("recurrent", tmp_path), policy_of("recurrent")
    assert isinstance(theirs, RecurrentCategoricalPolicy)
    memory, their_memory = None, theirs.first_memory(5)
    for step in range(50):
        obs = OBS[5 * step : 5 * step + 5]
        acted = policy.act(obs.numpy(), greedy=True, memory=memory)
        action, their_memory = theirs.act_remembering(obs, their_memory, greedy=True)
        memory = acted.memory
        assert memory is not None
        np.testing.assert_allclose(memory, their_memory.numpy(), atol=1e-5)
        np.testing.assert_array_equal(acted.actions, action.numpy())
    assert memory is not None and np.abs(memory - policy.first_memory(5)).max() > 0.1


def test_what_numpy_refuses(tmp_path: Path) -> None:
    policy, rng = _numpy("recurrent", tmp_path), np.random.default_rng(0)
    obs = np.zeros((2, 4), np.float32)
    for wrong in (
        {"obs": obs[0]},
        {"obs": obs[:, :3]},
        {"mask": np.ones((2, 2), np.bool_)},
        {"mask": np.ones((2, 3))},
        {"mask": np.array([[True, True, True], [False, False, False]])},
        {"memory": np.zeros((1, 12), np.float32)},
        {"greedy": False, "generator": None},
    ):
        with pytest.raises(ShapeError):
            policy.act(**{"obs": obs, "greedy": True, "generator": rng, **wrong})
    continuous = _numpy("gaussian", tmp_path)
    with pytest.raises(ShapeError, match="cannot be masked"):
        continuous.act(obs, greedy=True, mask=np.ones((2, 2), np.bool_))


def test_a_value_that_is_no_number_is_no_certainty(tmp_path: Path) -> None:
    for kind in ("greedy-q", "categorical"):
        acted = _numpy(kind, tmp_path).act(np.full((1, 4), np.nan, np.float32), greedy=True)
        assert acted.probabilities is not None and np.isnan(acted.probabilities).any()


def test_the_draw_by_hand() -> None:
    class Fixed:
        def random(self, size: int) -> Any:
            return np.array([0.0, 0.25, 0.74, 0.75])[:size]

    probabilities = np.tile(np.array([0.25, 0.0, 0.5, 0.25], np.float32), (4, 1))
    assert draw(probabilities, Fixed()).tolist() == [0, 2, 2, 3]  # type: ignore[arg-type]


def test_a_weight_that_is_missing_or_too_many(tmp_path: Path) -> None:
    artifact = artifact_of("free-gaussian")
    weights = load(save(artifact.weights))
    for changed in (
        {name: value for name, value in weights.items() if name != "log_std"},
        {**weights, "log_std": torch.zeros(3)},
        {**weights, "more": torch.zeros(1)},
    ):
        PolicyArtifact(artifact.description, changed).save(tmp_path / "policy")
        with pytest.raises(ArtifactError):
            NumpyPolicy.load(tmp_path / "policy")
        with pytest.raises(ArtifactError):
            PolicyArtifact.load(tmp_path / "policy").policy()


def test_numpy_needs_no_torch(tmp_path: Path) -> None:
    artifact_of("tanh").save(tmp_path / "policy")
    program = (
        "import sys; from pathlib import Path; from rlcourse.deployment.numpy_policy import NumpyPolicy; "
        f"NumpyPolicy.load(Path({str(tmp_path / 'policy')!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def _changed(tmp_path: Path, **changes: Any) -> Path:
    """A saved policy whose description was changed by somebody who also mended its checksum."""
    folder = tmp_path / "policy"
    artifact_of("categorical").save(folder)
    about = json.loads((folder / "policy.json").read_text())
    del about["checksum"]
    for key, value in changes.items():
        (about if key in about else about["description"])[key] = value
    (folder / "policy.json").write_text(manifest.sealed(about))
    return folder
