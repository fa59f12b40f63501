"""``rlcourse offline import``: somebody else's log becomes a data set that the other commands take."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlcourse.experience.minari_files import load_dataset
from rlcourse.recipes.command_line import main


def columns(steps: int = 400) -> dict[str, Any]:
    """Pendulum-like: episodes of 200 steps that a time limit cuts."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(steps + 1, 3)).astype(np.float32)
    return {
        "observations": seen[:-1],
        "next_observations": seen[1:],
        "actions": rng.uniform(-2, 2, (steps, 1)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminals": np.zeros(steps, dtype=bool),
        "timeouts": np.arange(steps) % 200 == 199,
        "infos/action_log_probs": np.full(steps, np.log(0.25)),
    }


@pytest.fixture
def d4rl(tmp_path: Path) -> Path:
    path = tmp_path / "pendulum.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in columns().items():
            file[name] = values
    return path


def test_a_d4rl_file_becomes_a_data_set(d4rl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "offline",
        "import",
        str(d4rl),
        "--name",
        "pendulum/d4rl-v0",
        "--env",
        "Pendulum-v1",
        "--root",
        str(tmp_path),
    ]
    assert main([*words, "--quality", "medium", "--json", "-"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)["results"]
    assert (row["steps"], row["episodes"], row["propensities"]) == (400, 2, 1.0)
    assert "400 transitions in 2 episodes" in captured.err
    loaded = load_dataset("pendulum/d4rl-v0", root=tmp_path)
    assert loaded.checksum is not None
    assert loaded.episodes.behaviour_probabilities == pytest.approx(0.25)
    assert (loaded.card.quality, loaded.card.env_id, loaded.card.action_high) == ("medium", "Pendulum-v1", (2.0,))
    assert loaded.card.command == (
        f"rlcourse offline import {d4rl} --name pendulum/d4rl-v0 --env Pendulum-v1 --quality medium"
    )
    assert main(["offline", "describe", "pendulum/d4rl-v0", "--root", str(tmp_path)]) == 0
    assert "pendulum.hdf5" in capsys.readouterr().out


def test_a_table_with_a_schema_file_and_options_that_overrule_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.csv").write_text(
        "x,y,push,paid,over\n0,1,-2,1,0\n1,2,1.5,2,0\n2,3,0.5,3,1\n3,4,0,4,0\n4,5,1,5,0\n"
    )
    (tmp_path / "s.toml").write_text('observation = ["x", "y"]\naction = "push"\nreward = "pay"\nterminated = "over"\n')
    words = ["offline", "import", str(tmp_path / "log.csv"), "--name", "mine/log-v0", "--root", str(tmp_path)]
    words += ["--schema", str(tmp_path / "s.toml")]
    bounds = ["--action-low", "-2", "--action-high", "2"]
    assert main([*words, *bounds]) == 1
    assert "Did you mean paid?" in capsys.readouterr().err
    assert main([*words, "--reward", "paid"]) == 2
    assert "what could be done" in capsys.readouterr().err
    assert main([*words, "--reward", "paid", *bounds]) == 0
    assert "their last steps are left out" in capsys.readouterr().out
    loaded = load_dataset("mine/log-v0", root=tmp_path)
    assert loaded.episodes.lengths.tolist() == [3, 1] and loaded.card.action_low == (-2.0,)
    assert loaded.card.command.endswith("--reward paid --action-low -2.0 --action-high 2.0")


def test_what_is_already_there_survives_every_failure(
    d4rl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["offline", "import", str(d4rl), "--name", "pendulum/d4rl-v0", "--root", str(tmp_path / "sets")]
    assert main([*words, "--env", "Pendulum-v1"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "sets").rglob("*") if path.is_file()}
    assert main([*words, "--env", "Pendulum-v1"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--action-low", "-1", "--action-high", "1"]) == 1
    assert "outside -1 to 1" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--env", "Nope-v0"]) == 2
    with h5py.File(d4rl, "a") as file:
        file["rewards"][3] = np.nan
    assert main([*words, "--overwrite", "--env", "Pendulum-v1"]) == 1
    assert "NaN or infinite in row 3" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in (tmp_path / "sets").rglob("*") if path.is_file()}
    assert after == before


def test_a_pickle_is_opened_only_when_trusted_and_then_only_for_arrays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"

    class Runs:
        def __reduce__(self) -> Any:
            return open, (str(marker), "w")

    good, bad = tmp_path / "good.pkl", tmp_path / "bad.pkl"
    good.write_bytes(pickle.dumps(columns()))
    bad.write_bytes(pickle.dumps({**columns(), "infos": Runs()}))
    rest = ["--name", "mine/log-v0", "--env", "Pendulum-v1", "--root", str(tmp_path)]
    for path in (good, bad):
        assert main(["offline", "import", str(path), *rest]) == 1
        assert "--trust-pickle" in capsys.readouterr().err
    assert main(["offline", "import", str(bad), *rest, "--trust-pickle"]) == 1
    assert "Do not open it" in capsys.readouterr().err
    assert not marker.exists() and not (tmp_path / "mine").exists()
    assert main(["offline", "import", str(good), *rest, "--trust-pickle"]) == 0
    assert load_dataset("mine/log-v0", root=tmp_path).episodes.num_transitions == 400


@pytest.mark.parametrize("env", ["Pendulum-v1", "unknown"])
def test_a_log_that_says_nothing_of_cut_off_episodes_is_not_one_long_episode(
    tmp_path: Path, env: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where one episode ends and the next begins, the state jumps: that would be learned as a step of the task."""
    path = tmp_path / "log.npz"
    np.savez(path, **{name: columns()[name] for name in ("observations", "actions", "rewards", "terminals")})
    words = ["offline", "import", str(path), "--root", str(tmp_path), "--action-low", "-2", "--action-high", "2"]
    words += [] if env == "unknown" else ["--env", env]
    assert main([*words, "--name", "log-v0"]) == 1
    said = capsys.readouterr().err
    assert "says where episodes were cut off" in said and "--max-episode-steps" in said and "--truncated none" in said
    assert ("399 steps, and Pendulum-v1 stops after 200" in said) == (env != "unknown")
    for number, more in enumerate((["--max-episode-steps", "200"], ["--truncated", "none"]), 1):
        assert main([*words, "--name", f"log-v{number}", *more]) == 0
        assert load_dataset(f"log-v{number}", root=tmp_path).episodes.num_episodes == 3 - number


def test_a_file_is_to_be_imported_and_a_folder_is_looked_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my log.csv").write_text("a\n1\n")
    for where, words in ((tmp_path / "my log.csv", "rlcourse offline import"), (tmp_path, "holds no data set")):
        assert main(["offline", "describe", str(where)]) == 1
        assert words in capsys.readouterr().err
