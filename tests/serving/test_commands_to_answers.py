"""From the command that makes a policy to what a client is answered: nothing in between is made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.limits import MARGIN
from rlcourse.experience.minari_files import load_dataset
from rlcourse.networks import RecurrentCategoricalPolicy
from rlcourse.recipes.command_line import main
from rlcourse.recipes.provenance import code
from rlcourse.serving.client import ClientConfig, PolicyClient

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("one_at_a_time")]
PATIENT = ClientConfig(deadline_s=10.0)
SHORT = ("--updates", "40", "--eval-every", "40", "--eval-episodes", "3", "--batch-size", "32", "--device", "cpu")


def test_an_impossible_observation_gets_the_fallback_of_a_policy_learned_from_a_log(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    log = ["--root", str(tmp_path / "data")]
    assert main(["offline", "generate", "--quality", "random", "--transitions", "600", *log]) == 0
    log += ["--dataset", "cartpole/random-v0", *SHORT]
    assert main(["offline", "train", *log, "--algorithm", "bc", "--output", str(tmp_path / "one")]) == 0
    several = ["--algorithms", "bc", "iql", "--seeds", "2", "--jobs", "1", "--output", str(tmp_path / "two")]
    assert main(["offline", "compare", *log, *several]) == 0

    seen = load_dataset("cartpole/random-v0", root=tmp_path / "data").episodes.observations.astype(np.float64)
    fastest = seen[:, 1].max() + MARGIN * np.ptp(seen[:, 1])
    server = serve(f"one={tmp_path / 'one'}", f"two={tmp_path / 'two' / 'policy'}")
    for name, folder in (("one", tmp_path / "one"), ("two", tmp_path / "two" / "policy")):
        about = PolicyArtifact.load(folder).description
        assert about.obs_high == pytest.approx([4.8, fastest, 0.41887903, about.obs_high[3]])
        assert about.provenance["code"] == code()
        with PolicyClient(server.url, name, config=PATIENT) as client:
            for obs, why in (
                ([0.0, 0.0, 0.0, 0.0], None),
                ([2.4, -3.0, 0.2, 3.0], None),
                ([1e6, 0.0, 0.0, 0.0], "out_of_range"),
                ([4.9, 0.0, 0.0, 0.0], "out_of_range"),
                ([0.0, 1e6, 0.0, 0.0], "out_of_range"),
                ([0.0, 0.0, 0.0, -1e6], "out_of_range"),
            ):
                assert client.act(obs).fallback == why, (name, obs)


def trained(tmp_path: Path, env: str, *algorithms: str) -> Path:
    folder = tmp_path / "policies"
    words = ["--env", env, "--algorithms", *algorithms, "--trials", "1", "--num-steps", "1024", "--jobs", "1"]
    where = ["--folder", str(tmp_path / "trials"), "--output-policies", str(folder), "--device", "cpu"]
    assert main(["benchmark", *words, *where]) == 0
    return folder


def test_a_recurrent_policy_of_a_benchmark_is_served_with_its_memory(
    serve: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path, "CartPole-v1", "recurrent-ppo", "random")
    assert "1 policies written" in capsys.readouterr().err
    artifact = PolicyArtifact.load(folder / "CartPole-v1-recurrent-ppo-0")
    about, policy = artifact.description, artifact.policy()
    assert (about.algorithm, about.network, about.memory_size) == ("recurrent-ppo", "recurrent", 64)
    assert about.evaluation["episodes"] == 100 and about.evaluation["greedy_return"] > 0
    assert (about.provenance["seed"], about.provenance["num_steps"], about.provenance["code"]) == (0, 1024, code())
    assert artifact.weights["normaliser.scale"].tolist() != [1.0] * 4
    assert isinstance(policy, RecurrentCategoricalPolicy)
    memory, rows = policy.first_memory(1), torch.linspace(-1, 1, 40).view(10, 4) * 0.2
    server = serve(folder / "CartPole-v1-recurrent-ppo-0", "--state", tmp_path / "state")
    with PolicyClient(server.url, config=PATIENT) as client:
        for row in rows:
            action, memory = policy.act_remembering(row[None], memory, greedy=True)
            chances = policy.network.actor(memory).softmax(-1)[0].detach()
            answer = client.act(row.tolist(), session="a")
            assert answer.fallback is None
            assert answer.confidence == pytest.approx(float(chances[answer.action]), abs=1e-5)
            assert answer.action == int(action) or abs(float(chances[0] - chances[1])) < 1e-5
        fresh = client.act(rows[-1].tolist(), session="b")
        assert fresh.confidence != pytest.approx(answer.confidence, abs=1e-6), "the memory matters"
        assert client.act([1e6, 0.0, 0.0, 0.0], session="a").fallback == "out_of_range"
        assert client.act(rows[0].tolist(), mask=[False, True]).action == 1


def test_a_continuous_policy_of_a_benchmark_is_served_within_its_bounds(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    folder = trained(tmp_path, "Pendulum-v1", "sac", "ppo")
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 8.0], [-1.0, 0.0, -3.0]])
    names = {"sac": folder / "Pendulum-v1-sac-0", "ppo": folder / "Pendulum-v1-ppo-0"}
    server = serve(*(f"{name}={path}" for name, path in names.items()))
    for name, path in names.items():
        artifact = PolicyArtifact.load(path)
        wanted = artifact.policy().act(rows, greedy=True).numpy()
        with PolicyClient(server.url, name, config=PATIENT) as client:
            np.testing.assert_allclose(client.act_batch(rows.tolist()).action, wanted.clip(-2, 2), atol=1e-5)
            drawn = client.act(rows[0].tolist(), deterministic=False)
            assert drawn.fallback is None and drawn.probability > 0.0 and -2.0 <= drawn.action[0] <= 2.0
            assert client.act([0.0, 1.0, 8.1]).fallback == "out_of_range"
