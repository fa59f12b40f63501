"""``rlcourse serve dataset``: a decision log on the disk becomes a data set that other commands read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.experience.minari_files import load_dataset
from rlcourse.recipes.command_line import main
from rlcourse.serving import wire
from rlcourse.serving.client import InProcessClient
from rlcourse.serving.decision_log import DecisionLog
from rlcourse.serving.policies import Artifact, read_artifact
from tests.serving.conftest import make
from tests.serving.test_continuous import saved
from tests.serving.test_service import OBS, service


def counted(tmp_path: Path) -> Path:
    PolicyArtifact.from_policy(make("logits"), algorithm="ppo", env_id="CartPole-v1").save(tmp_path / "policy")
    return tmp_path / "policy"


def logged(artifact: Artifact, folder: Path) -> None:
    """Three sessions of 30 steps, the last of them cut off, and one decision whose reward never came."""
    made, lines = service(artifact)
    client = InProcessClient(made)
    for session in range(3):
        for step in range(30):
            answer = client.act(OBS[30 * session + step].tolist(), session=f"s{session}", deterministic=False)
            client.reward(answer.request_id, 1.0 + session, terminated=step == 29 and session < 2)
    client.act(OBS[0].tolist())
    log = DecisionLog(folder)
    for line in lines.lines:
        log.append(line)
    log.close()


def made_from(log: Path, target: Path, *words: str) -> int:
    return main(["serve", "dataset", str(log), "--name", str(target), "--env", "CartPole-v1", *words])


def test_a_log_becomes_a_data_set_and_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = counted(tmp_path)
    logged(read_artifact(folder), tmp_path / "log")
    assert made_from(tmp_path / "log", tmp_path / "set", "--num-actions", "3", "--json", "-") == 0
    row = json.loads(capsys.readouterr().out)["results"][0]
    assert (row["decisions"], row["steps"], row["episodes"]) == (91, 89, 3)
    assert (row["without_reward"], row["given_up"], row["unusable"], row["orphans"]) == (1, 1, 0, 0)
    assert row["propensities"] == 1.0
    found = load_dataset(tmp_path / "set")
    episodes, card = found.episodes, found.card
    assert episodes.lengths.tolist() == [30, 30, 29]
    assert card.details["steps_by_version"] and card.num_actions == 3
    words = ["ope", "--dataset", str(tmp_path / "set"), "--policy", str(folder), "--estimators", "wis"]
    assert main([*words, "--decide-by", "wis", "--resamples", "50", "--json", "-"]) == 0
    judged = json.loads(capsys.readouterr().out)
    # The policy that wrote the log is judged by it: every weight is 1.
    assert judged["diagnostics"][str(folder)]["mean_weight"] == pytest.approx(1.0, abs=1e-4)


def test_an_override_by_what_is_no_action_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, lines = service(read_artifact(counted(tmp_path)))
    client = InProcessClient(made)
    names = [client.act(OBS[n].tolist(), deterministic=False).request_id for n in range(30)]
    log = DecisionLog(tmp_path / "log")
    for line in lines.lines:
        log.append(line)
    for n, name in enumerate(names):  # an older service took whatever it was told
        done = wire.Executed(99, "off") if n < 4 else wire.Executed(4, "drill") if n == 4 else None
        log.append(wire.encode(wire.RewardLine(name, 1.0, 1.0, executed=done)))
    log.close()
    assert made_from(tmp_path / "log", tmp_path / "set", "--json", "-") == 0
    captured = capsys.readouterr()
    row = json.loads(captured.out)["results"][0]
    assert (row["steps"], row["overridden_by_no_action"], row["unusable"]) == (25, 5, 0)
    assert "5 overridden by no action that was ever chosen (--num-actions says" in captured.err
    found = load_dataset(tmp_path / "set")
    assert found.card.num_actions == 3
    assert found.card.details["overridden_by_no_action"] == 5
    assert made_from(tmp_path / "log", tmp_path / "other", "--num-actions", "5") == 0
    assert "4 overridden by no action," in capsys.readouterr().out
    other = load_dataset(tmp_path / "other")
    assert (other.card.num_actions, other.episodes.actions.max(), other.episodes.num_transitions) == (5, 4, 26)


def test_a_version_is_chosen_and_what_is_unclear_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = DecisionLog(tmp_path / "log")
    for version, size in (("v1", 1), ("v2", 2)):
        for n in range(4):
            name = f"{version}-{n}"
            seen = wire.Raw(wire.encode([float(n)] * size))
            log.append(wire.encode(wire.DecisionLine(name, 1.0, "p", version, seen, n % 2, 0.5, 1.0, session=version)))
            log.append(
                wire.encode(wire.RewardLine(name, 1.0, 1.0, n == 3, next_observation=[1e300] if n == 3 else None))
            )
    log.close()
    assert made_from(tmp_path / "log", tmp_path / "set") == 1
    assert "p v1 1, p v2 2" in capsys.readouterr().err
    assert made_from(tmp_path / "log", tmp_path / "set", "--version", "v2", "--json", "-") == 0
    captured = capsys.readouterr()
    row = json.loads(captured.out)["results"][0]
    assert (row["steps"], row["decisions"], row["misfits"], row["conflicts"]) == (4, 4, 2, 0)
    assert "2 next observations passed over" in captured.err
    assert load_dataset(tmp_path / "set").episodes.observations.shape == (5, 2)


def test_continuous_actions_get_a_box_that_holds_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged(saved("squashed-gaussian", tmp_path), tmp_path / "log")
    assert made_from(tmp_path / "log", tmp_path / "set") == 0
    found = load_dataset(tmp_path / "set")
    episodes, card = found.episodes, found.card
    np.testing.assert_array_equal(episodes.actions.min(0), np.array(card.action_low, np.float32))
    np.testing.assert_array_equal(episodes.actions.max(0), np.array(card.action_high, np.float32))
    assert made_from(tmp_path / "log", tmp_path / "other", "--num-actions", "2") == 2
    assert "--num-actions" in capsys.readouterr().err


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made_from(tmp_path / "nowhere", tmp_path / "set") == 1
    assert "nowhere" in capsys.readouterr().err
    logged(read_artifact(counted(tmp_path)), tmp_path / "log")
    assert made_from(tmp_path / "log", tmp_path / "set", "--policy", "another") == 1
    assert "None of the log's 0 decisions" in capsys.readouterr().err
    assert made_from(tmp_path / "log", tmp_path / "set") == 0
    before = sorted(path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file())
    assert made_from(tmp_path / "log", tmp_path / "set") == 1
    assert sorted(path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()) == before
    assert "--overwrite" in capsys.readouterr().err
