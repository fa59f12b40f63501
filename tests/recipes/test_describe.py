from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlcourse.experience.card import DatasetCard
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import save_dataset
from rlcourse.recipes.command_line import main

NAME = "cartpole/random-v0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lengths = np.array([10, 20, 30])
    episodes = Episodes(
        observations=rng.normal(size=(63, 4)).astype(np.float32),
        actions=np.arange(60) % 4 // 3,  # every fourth is 1
        rewards=np.ones(60, dtype=np.float32),
        behaviour_probabilities=np.full(60, 0.5, dtype=np.float32),
        lengths=lengths,
        terminated=np.array([True, True, False]),
    )
    card = DatasetCard(
        env_id="CartPole-v1", num_actions=2, quality="random", behaviour="even choice", seed=5, command="made by hand"
    )
    save_dataset(NAME, episodes, card, root=tmp_path)
    return tmp_path


def test_prints_what_a_reader_wants_to_know(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["offline", "describe", NAME, "--root", str(root)]) == 0
    text = capsys.readouterr().out
    assert f"{NAME}: 60 transitions in 3 episodes of CartPole-v1" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["return", "10.0", "15.0", "20.0", "25.0", "30.0", "20.0"] in rows
    assert "2 terminated (66.7%), 1 cut off (33.3%)" in text
    assert "0: 75.0%, 1: 25.0%; entropy 0.562 nats" in text
    assert "of 10000 cells occupied" in text and "each entry's range in 10 parts" in text
    assert "behaviour entropy 0.693 nats" in text
    for word in ("random", "even choice", "made by hand", "every byte checked"):
        assert word in text


def test_json_and_picture(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, picture = tmp_path / "d.json", tmp_path / "returns.svg"
    words = ["offline", "describe", NAME, "--root", str(root), "--json", str(target), "--plot", str(picture)]
    assert main(words) == 0
    content = json.loads(target.read_text())
    (row,) = content["results"]
    assert content["command"] == "offline describe"
    assert row["returns"]["median"] == 20.0
    assert row["provenance"]["seed"] == 5
    assert row["checksum"] == json.loads((root / NAME / "manifest.json").read_text())["checksum"]
    assert sum(row["returns"]["histogram"]["counts"]) == 3
    assert picture.read_text().lstrip().startswith("<?xml") and "</svg>" in picture.read_text()


def test_continuous_actions_are_shown_with_their_bounds_and_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--env", "Pendulum-v1", "--quality", "random", "--transitions", "2000", "--root", str(tmp_path)]
    assert main(["offline", "generate", *words]) == 0
    capsys.readouterr()
    target, picture = tmp_path / "d.json", tmp_path / "returns.png"
    words = ["pendulum/random-v0", "--root", str(tmp_path), "--json", str(target), "--plot", str(picture)]
    assert main(["offline", "describe", *words]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert ["action", "low", "min", "mean", "max", "high", "spread", "at", "a", "bound"] in rows
    # An even choice between -2 and 2 has the density 1/4, and so the entropy ln 4.
    assert "0.25 to 0.25, behaviour entropy 1.386 nats (differential)" in text
    assert "0 terminated (0.0%), 10 cut off (100.0%)" in text
    (row,) = json.loads(target.read_text())["results"]
    (entry,) = row["actions"]["entries"]
    assert (entry["low"], entry["high"]) == (-2.0, 2.0)
    # The spread of an even choice is the width over the root of 12; one in fifty lies within 1 % of a bound.
    assert entry["spread"] == pytest.approx(4 / 12**0.5, rel=0.05)
    assert entry["at_bounds"] == pytest.approx(0.02, abs=5 * (0.02 * 0.98 / 2_000) ** 0.5)
    assert row["coverage"]["cells"] == 8_000 and row["ends"] == {"terminated": 0, "time_limit": 10}
    assert len(row["checksum"]) == 64 and picture.stat().st_size > 1_000


def test_json_to_standard_output_is_json_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["offline", "describe", NAME, "--root", str(root), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["results"][0]["episodes"] == 3
    assert "60 transitions" in captured.err


def test_what_is_wrong_decides_the_exit_status(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--root", str(root)]
    assert main(["offline", "describe", "cartpole/rundom-v0", *words]) == 1
    assert f"Did you mean {NAME}?" in capsys.readouterr().err
    assert main(["offline", "describe", NAME, *words, "--plot", "picture.txt"]) == 2
    damaged = root / NAME / "columns.hdf5"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(["offline", "describe", NAME, *words]) == 1
    assert "is damaged" in capsys.readouterr().err
