"""From the decisions of continuous policies to episodes that can be weighed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.errors import DatasetInvalidError
from rlcourse.evaluation.off_policy import Trajectories
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.minari_files import save_dataset
from rlcourse.recipes.command_line import main
from rlcourse.serving import wire
from rlcourse.serving.client import InProcessClient
from rlcourse.serving.decisions import join
from rlcourse.serving.policies import read_artifact
from tests.deployment.policies import ACTIONS, policy_of
from tests.serving.test_continuous import HIGH, LOW, SPREAD, saved, wide
from tests.serving.test_service import OBS, scripted, service


def asked(client: InProcessClient, deterministic: bool = False) -> np.ndarray:
    """Four sessions of 25 steps and a batch of 20; the actions in the order in which episodes have them."""
    actions = []
    for session in range(4):
        for step in range(25):
            answer = client.act(OBS[25 * session + step].tolist(), session=f"s{session}", deterministic=deterministic)
            actions.append(answer.action)
            client.reward(answer.request_id, float(step), terminated=step == 24)
    batch = client.act_batch(OBS[100:120].tolist(), deterministic=deterministic)
    for row in range(20):
        client.reward(batch.request_id, 1.0, row=row)
    return np.array([*actions, *batch.action], np.float32)


@pytest.mark.parametrize("kind", [*SPREAD, "wide"])
def test_a_log_becomes_episodes_in_which_the_policy_weighs_itself_as_one(kind: str, tmp_path: Path) -> None:
    policy, artifact = wide() if kind == "wide" else (policy_of(kind), saved(kind, tmp_path))
    made, log = service(artifact)
    actions = asked(InProcessClient(made))
    joined, taken = (join(map(wire.read_line, log.lines), as_taken=as_taken) for as_taken in (False, True))
    for found in (joined, taken):
        assert found.episodes.lengths.tolist() == [25] * 4 + [1] * 20
        assert found.episodes.actions.dtype == np.float32
        assert (found.fallbacks, found.unusable) == ((None,) * 120, 0)
    np.testing.assert_array_equal(taken.episodes.actions, actions)  # not a bit is lost
    np.testing.assert_array_equal(np.clip(joined.episodes.actions, LOW, HIGH), actions)
    cut = (joined.episodes.actions != actions).any(-1)
    assert joined.cut_off == taken.cut_off == int(cut.sum())
    assert np.isnan(taken.episodes.behaviour_probabilities).tolist() == cut.tolist()
    assert joined.cut_off > 20 or kind != "wide"
    weighed = Trajectories.from_episodes(joined.episodes, policy, gamma=1.0)
    ratios = (weighed.target / weighed.behaviour)[weighed.mask > 0]
    assert float(ratios.log().median()) == pytest.approx(0.0, abs=1e-4)
    assert float((ratios.log().abs() < 1e-2).double().mean()) > 0.95  # squashed ones near a bound: rounding


@pytest.mark.parametrize("kind", ["squashed-gaussian", "wide"])
def test_rlcourse_ope_reads_it(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "wide":
        PolicyArtifact.from_policy(wide()[0], algorithm="ppo", env_id="Task-v0").save(tmp_path / kind)
    made, log = service(read_artifact(tmp_path / kind) if kind == "wide" else saved(kind, tmp_path))
    asked(InProcessClient(made))
    drawn, taken = (join(map(wire.read_line, log.lines), as_taken=as_taken).episodes for as_taken in (False, True))
    true = DatasetCard(env_id="Task-v0", **DatasetCard.fields_of(ACTIONS))
    save_dataset(tmp_path / "taken", taken, true)
    low, high = np.minimum(drawn.actions.min(0), LOW), np.maximum(drawn.actions.max(0), HIGH)
    if kind == "wide":
        with pytest.raises(DatasetInvalidError, match="outside"):
            save_dataset(tmp_path / "drawn", drawn, true)
    card = DatasetCard(env_id="Task-v0", action_low=tuple(low.tolist()), action_high=tuple(high.tolist()))
    save_dataset(tmp_path / "drawn", drawn, card)
    words = ["ope", "--dataset", str(tmp_path / "drawn"), "--policy", str(tmp_path / kind)]
    assert main([*words, "--estimators", "wis", "--decide-by", "wis", "--resamples", "50", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["diagnostics"][str(tmp_path / kind)]["mean_weight"] == pytest.approx(1.0, abs=0.05)


def test_greedy_actions_have_no_density_and_mixed_logs_are_refused(tmp_path: Path) -> None:
    made, log = service(saved("deterministic", tmp_path))
    asked(InProcessClient(made), deterministic=True)
    lines = [wire.read_line(line) for line in log.lines]
    assert np.isnan(join(lines).episodes.behaviour_probabilities).all()
    counted, more, _, _ = scripted()
    answer = InProcessClient(counted).act([0.0, 0.0], request_id="another")
    InProcessClient(counted).reward(answer.request_id, 1.0)
    with pytest.raises(DatasetInvalidError, match="several"):
        join([*lines, *map(wire.read_line, more.lines)])
    broken = json.loads(more.lines[0])
    broken["action"] = [0.5, [1]]
    with pytest.raises(DatasetInvalidError):
        join([*map(wire.read_line, [json.dumps({**broken, "observation": [[0, 0], [0, 0]]}).encode(), more.lines[1]])])


@given(
    batch=st.integers(1, 4),
    cut=st.booleans(),
    numbers=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=8, max_size=8),
)
def test_every_number_comes_back_from_the_log_as_it_went_in(batch: int, cut: bool, numbers: list[float]) -> None:
    actions: list[Any] = [numbers[2 * row : 2 * row + 2] for row in range(batch)]
    sampled: list[Any] | None = [[2.0 * value for value in action] for action in actions] if cut else None
    line = wire.DecisionLine(
        "r", 1.0, "p", "v", wire.Raw(b"[[1,2]" + b",[1,2]" * (batch - 1) + b"]"), actions, [0.5] * batch, 1.0
    )
    line.sampled = sampled
    rewards = [wire.RewardLine("r", 1.0, 1.0, row=row) for row in range(batch)]
    found = join([wire.read_line(wire.encode(line)), *rewards]).episodes.actions
    np.testing.assert_array_equal(found, np.array(sampled or actions, np.float32))
