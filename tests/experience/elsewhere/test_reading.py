"""Logs from elsewhere: the same episodes out of every format, and an error that names the mend for every fault."""

from __future__ import annotations

import csv
import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcourse.errors import (
    ConfigError,
    DataError,
    DatasetCorruptError,
    DatasetInvalidError,
    DatasetNotFoundError,
    DatasetUntrustedError,
    MissingExtraError,
)
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.elsewhere import tables
from rlcourse.experience.elsewhere.flat import FlatLog, episodes_of
from rlcourse.experience.elsewhere.reading import read_log
from rlcourse.experience.elsewhere.schema import Schema
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import list_datasets, save_dataset

CONTINUOUS = Schema(action_low=(-1.0,), action_high=(1.0,))
DISCRETE = Schema(num_actions=3)


def written(*, discrete: bool = False, following: bool = True) -> tuple[dict[str, Any], Episodes]:
    """D4RL's columns for an episode of 3 steps that ended and one of 2 that was cut off, and the same as Episodes."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, 2)).astype(np.float32)
    actions = rng.integers(0, 3, 5) if discrete else rng.uniform(-1, 1, (5, 2)).astype(np.float32)
    log_chances = -rng.uniform(0.1, 2.0, 5)
    rewards = rng.normal(size=5).astype(np.float32)
    before, after = [0, 1, 2, 4, 5], [1, 2, 3, 5, 6]
    columns = {
        "observations": rows[before],
        "actions": actions,
        "rewards": rewards,
        "terminals": np.array([0, 0, 1, 0, 0], dtype=bool),
        "timeouts": np.array([0, 0, 0, 0, 1], dtype=bool),
        "infos/action_log_probs": log_chances,
    }
    if following:
        columns["next_observations"] = rows[after]
    episodes = Episodes(
        observations=rows,
        actions=actions,
        rewards=rewards,
        behaviour_probabilities=np.exp(log_chances).astype(np.float32),
        lengths=np.array([3, 2]),
        terminated=np.array([True, False]),
    )
    return columns, episodes


def assert_same(found: Episodes, expected: Episodes) -> None:
    for name in Episodes.__dataclass_fields__:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, err_msg=name)
    found.validate()


def write_hdf5(path: Path, columns: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


def flattened(columns: dict[str, Any]) -> dict[str, Any]:
    """Vectors as one column for each entry: observations_0, observations_1."""
    found: dict[str, Any] = {}
    for name, column in columns.items():
        values = np.asarray(column)
        parts = {name: values} if values.ndim == 1 else {f"{name}_{k}": part for k, part in enumerate(values.T)}
        found.update(parts)
    return found


def write_csv(path: Path, columns: dict[str, Any], *, cell: Callable[[Any], Any] = lambda value: value) -> Path:
    flat = flattened(columns)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(flat)
        writer.writerows([[cell(value) for value in row] for row in zip(*flat.values(), strict=True)])
    return path


TABLE = Schema(
    observation=("observations_*",),
    action=("actions*",),
    reward="rewards",
    terminated="terminals",
    truncated="timeouts",
    log_propensity="infos/action_log_probs",
    next_observation=("next_observations_*",),
)


@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
@pytest.mark.parametrize("kind", ["hdf5", "h5", "npz", "pkl", "pickle", "csv", "parquet", "lists.parquet"])
def test_every_format_gives_the_same_episodes(tmp_path: Path, kind: str, discrete: bool) -> None:
    columns, expected = written(discrete=discrete)
    path, schema, trusted = tmp_path / f"log.{kind}", DISCRETE if discrete else CONTINUOUS, False
    if kind in ("hdf5", "h5"):
        write_hdf5(path, columns)
    elif kind == "npz":
        np.savez(path, **columns)
    elif kind in ("pkl", "pickle"):
        path.write_bytes(pickle.dumps(columns))
        trusted = True
    elif kind == "csv":
        write_csv(path, columns)
        schema = TABLE.overridden_by(schema)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(flattened(columns)), path)
        schema = TABLE.overridden_by(schema)
    else:
        lists = {name: values.tolist() for name, values in columns.items()}
        pyarrow.parquet.write_table(pyarrow.table(lists), path)
        whole = replace(TABLE, observation=("observations",), next_observation=("next_observations",))
        schema = whole.overridden_by(schema)
    found = read_log(str(path), schema, trust_pickle=trusted)
    assert_same(found.episodes, expected)
    assert found.card.continuous is not discrete
    assert found.card.details["source"] == path.name and len(found.card.details["source_sha256"]) == 64
    assert "last_steps_left_out" not in found.card.details


@pytest.mark.parametrize("kind", ["list of episodes", "dictionary of episodes", "npz of objects"])
def test_one_array_for_each_episode_is_as_good(tmp_path: Path, kind: str) -> None:
    columns, expected = written()
    parts = [{name: values[rows] for name, values in columns.items()} for rows in (slice(0, 3), slice(3, 5))]
    for part in parts:
        del part["timeouts"]  # the array's end is the episode's
    by_column = {name: [part[name] for part in parts] for name in parts[0]}
    path = tmp_path / "log.pkl"
    if kind == "npz of objects":
        path = tmp_path / "log.npz"
        ragged: dict[str, Any] = {name: np.empty(2, dtype=object) for name in by_column}
        for name, array in ragged.items():
            array[:] = by_column[name]
        np.savez(path, **ragged)
    else:
        path.write_bytes(pickle.dumps(parts if kind == "list of episodes" else by_column))
    with pytest.raises(DatasetUntrustedError, match="a pickle is a program") as caught:
        read_log(str(path), CONTINUOUS)
    assert "--trust-pickle" in caught.value.mend
    assert_same(read_log(str(path), CONTINUOUS, trust_pickle=True).episodes, expected)


def test_a_malicious_pickle_is_refused_even_from_a_trusted_sender(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Runs:
        def __reduce__(self) -> Any:
            return open, (str(marker), "w")

    columns, _ = written()
    columns["infos"] = Runs()
    (tmp_path / "log.pkl").write_bytes(pickle.dumps(columns))
    hidden = np.empty(1, dtype=object)
    hidden[0] = Runs()
    np.savez(tmp_path / "log.npz", **{**written()[0], "infos": hidden})
    for name in ("log.pkl", "log.npz"):
        with pytest.raises(DatasetUntrustedError, match=r"asks for (io|_io)\.open"):
            read_log(str(tmp_path / name), CONTINUOUS, trust_pickle=True)
        with pytest.raises(DatasetUntrustedError, match="a pickle is a program"):
            read_log(str(tmp_path / name), CONTINUOUS)
    assert not marker.exists()


def test_without_next_observations_the_last_step_of_a_cut_off_episode_is_left_out(tmp_path: Path) -> None:
    columns, expected = written(following=False)
    found = read_log(str(write_hdf5(tmp_path / "log.hdf5", columns)), CONTINUOUS)
    rows = expected.observations
    assert found.episodes.lengths.tolist() == [3, 1]
    assert found.episodes.terminated.tolist() == [True, False]
    # After the end nobody looks: the last observation again. After the cut: what the step left out had seen.
    np.testing.assert_array_equal(found.episodes.observations, rows[[0, 1, 2, 2, 4, 5]])
    np.testing.assert_array_equal(found.episodes.rewards, expected.rewards[:4])
    assert (found.card.details["rows"], found.card.details["last_steps_left_out"]) == (5, 1)


def by_loop(log: FlatLog) -> list[tuple[list[float], list[float], bool]]:
    """Rewards, observations and end of each episode, by a plain loop; with next observations."""
    assert log.next_observation is not None and log.episode is not None
    names = list(dict.fromkeys(log.episode.tolist()))
    found = []
    for name in names:
        rows = [row for row in range(len(log.reward)) if log.episode[row] == name]
        seen = [log.observation[row, 0] for row in rows] + [log.next_observation[rows[-1], 0]]
        found.append(([log.reward[row] for row in rows], seen, bool(log.terminated[rows[-1]])))
    return found


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_interleaved_episodes_are_put_together_as_a_plain_loop_does(shape: list[tuple[int, bool]], random: Any) -> None:
    rows = [(name, step, length, ended) for name, (length, ended) in enumerate(shape) for step in range(length)]
    names = [row[0] for row in rows]
    random.shuffle(names)  # episodes interleave, and the steps of each stay in order
    taken = dict.fromkeys(names, 0)
    order = []
    for name in names:
        order.append((name, taken[name], *shape[name]))
        taken[name] += 1
    place = np.array([[10.0 * name + step] for name, step, _, _ in order])
    last = np.array([step == length - 1 for _, step, length, _ in order])
    ended = np.array([end for *_, end in order])
    log = FlatLog(
        observation=place,
        action=np.zeros(len(order), dtype=np.int64),
        reward=np.arange(len(order), dtype=np.float64),
        terminated=last & ended,
        truncated=last & ~ended,
        propensity=np.full(len(order), np.nan),
        episode=np.array(names) + 7,
        next_observation=place + 1,
    )
    found = episodes_of(log).episodes.validate()
    expected = by_loop(log)
    assert found.num_episodes == len(expected)
    for index, (rewards, seen, terminated) in enumerate(expected):
        one = found.select(np.array([index]))
        assert one.rewards.tolist() == rewards
        assert one.observations[:, 0].tolist() == seen
        assert bool(one.terminated[0]) == terminated


def test_a_time_limit_that_left_no_mark_is_told_by_its_length() -> None:
    seen = np.arange(7.0)[:, None]
    log = FlatLog(
        observation=seen,
        action=np.zeros(7, dtype=np.int64),
        reward=np.ones(7),
        terminated=np.arange(7) == 1,
        truncated=np.zeros(7, dtype=bool),
        propensity=np.full(7, np.nan),
        next_observation=seen + 1,
    )
    found = episodes_of(log, max_episode_steps=3).episodes
    assert found.lengths.tolist() == [2, 3, 2] and found.terminated.tolist() == [True, False, False]


def test_a_gap_is_an_error_or_a_cut() -> None:
    seen = np.array([[0.0], [1.0], [5.0], [6.0]])
    log = FlatLog(
        observation=seen,
        action=np.zeros(4, dtype=np.int64),
        reward=np.ones(4),
        terminated=np.zeros(4, dtype=bool),
        truncated=np.zeros(4, dtype=bool),
        propensity=np.full(4, np.nan),
        next_observation=seen + 1,
    )
    with pytest.raises(DatasetInvalidError, match="follow row 1") as caught:
        episodes_of(log)
    assert "--cut-at-gaps" in caught.value.mend
    found = episodes_of(log, cut_at_gaps=True).episodes
    assert found.lengths.tolist() == [2, 2] and found.observations[:, 0].tolist() == [0, 1, 2, 5, 6, 7]


def test_a_table_may_say_true_and_name_its_episodes_and_leave_propensities_open(tmp_path: Path) -> None:
    path = tmp_path / "plant.csv"
    path.write_text(
        "day,t,inlet_c,level,paid,over,chance\n"
        'monday,0,24.5,1,-0.1,false,0.5\n"tuesday, late",0,25,0,-0.2,FALSE,\n'
        'monday,1,24,2,-0.3,True,0.25\n"tuesday, late",1,26,0,-0.4,False,1\n'
    )
    schema = Schema(
        observation=("inlet_c", "t"),
        action=("level",),
        reward="paid",
        terminated="over",
        episode="day",
        propensity="chance",
        num_actions=3,
    )
    found = read_log(str(path), schema).episodes.validate()
    assert found.lengths.tolist() == [2, 1] and found.terminated.tolist() == [True, False]
    assert found.observations.tolist() == [[24.5, 0], [24, 1], [24, 1], [25, 0], [26, 1]]
    assert found.actions.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(found.behaviour_probabilities, np.array([0.5, 0.25, np.nan], np.float32))


def test_columns_that_are_numbers_in_one_part_and_names_in_another_are_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CHUNK", 2)
    path = tmp_path / "log.csv"
    path.write_text("e,o,a,r\n1,0,0,1\n1,1,0,1\n1,2,0,1\nb,3,0,1\nb,4,0,1\n")
    schema = Schema(observation=("o",), action=("a",), reward="r", terminated="none", episode="e", num_actions=1)
    assert read_log(str(path), schema).episodes.lengths.tolist() == [2, 1]


def test_numbered_columns_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    columns = {f"obs_{k}": np.full(3, float(k)) for k in (10, 2, 0, 1)}
    columns |= {"a": np.zeros(3), "r": np.zeros(3), "end": np.array([0, 0, 1])}
    write_csv(tmp_path / "log.csv", columns)
    schema = Schema(observation=("obs_*",), action=("a",), reward="r", terminated="end", num_actions=2)
    assert read_log(str(tmp_path / "log.csv"), schema).episodes.observations[0].tolist() == [0, 1, 2, 10]


def test_the_task_says_what_could_be_done(tmp_path: Path) -> None:
    columns, _ = written()
    columns["observations"] = np.zeros((5, 3), np.float32)
    columns["next_observations"] = np.zeros((5, 3), np.float32)
    columns["actions"] = columns["actions"][:, :1] * 2
    path = str(write_hdf5(tmp_path / "log.hdf5", columns))
    card = read_log(path, env_id="Pendulum-v1").card
    assert (card.env_id, card.action_low, card.action_high) == ("Pendulum-v1", (-2.0,), (2.0,))
    with pytest.raises(DatasetInvalidError, match="CartPole-v1 shows 4"):
        read_log(path, Schema(action_low=(-2.0,), action_high=(2.0,)), env_id="CartPole-v1")
    with pytest.raises(ConfigError, match="what could be done") as caught:
        read_log(path)
    assert "--env" in caught.value.mend and "--num-actions" in caught.value.mend


def put(name: str, make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[name] = make(columns[name].copy())

    return change


def entry(name: str, index: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[name] = columns[name].astype(np.float64)
        columns[name][index] = value

    return change


def empty(columns: dict[str, Any]) -> None:
    columns.update({name: values[:0] for name, values in columns.items()})


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "empty": (empty, "holds no steps", "how it was written"),
    "no rewards": (lambda c: c.pop("rewards"), "no column 'rewards' for the reward", "schema"),
    "a misspelt name": (lambda c: c.update(terminal=c.pop("terminals")), "'terminals'", "Did you mean terminal?"),
    "NaN observation": (entry("observations", (2, 1), np.nan), "NaN or infinite in row 2", "Leave those episodes out"),
    "infinite reward": (entry("rewards", 4, np.inf), "NaN or infinite in row 4", "Leave those episodes out"),
    "NaN action": (entry("actions", (0, 0), np.nan), "NaN or infinite in row 0", "Leave those episodes out"),
    "NaN terminal": (entry("terminals", 1, np.nan), "NaN or infinite in row 1", "Leave those episodes out"),
    "reward beyond float32": (entry("rewards", 1, 1e300), "rewards are NaN or infinite", "collected"),
    "action out of bounds": (entry("actions", (3, 1), 1.5), "Entry 1 of action 3 is 1.5, outside -1 to 1", "--action-high"),
    "rewards too short": (put("rewards", lambda a: a[:-1]), "5 rows of 'observations' and 4 of 'rewards'", "one row a step"),
    "one observation more": (put("observations", lambda a: np.vstack([a, a[:1]])), "6 rows", "one row a step"),
    "pictures": (put("observations", lambda a: a.reshape(5, 2, 1)), "shape", "flatten"),
    "two rewards": (put("rewards", lambda a: np.stack([a, a], -1)), "shape", "one number a step"),
    "a reward that is one number": (put("rewards", lambda a: a[0]), "0 of 'rewards'", "one row a step"),
    "rewards that are text": (put("rewards", lambda a: np.array([b"x"] * 5)), "holds text", "numbers"),
    "terminals of 2": (entry("terminals", 2, 2), "is 2 in row 2", "0 or 1"),
    "next observations that jump": (entry("next_observations", (0, 0), 9.0), "follow row 0", "--cut-at-gaps"),
    "next observations of another size": (put("next_observations", lambda a: a[:, :1]), "next observations of 1", "same"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_named_with_its_mend(tmp_path: Path, name: str) -> None:
    change, problem, mend = FAULTS[name]
    columns, _ = written()
    change(columns)
    with pytest.raises(DatasetInvalidError) as caught:
        read_log(str(write_hdf5(tmp_path / "log.hdf5", columns)), CONTINUOUS)
    assert problem in caught.value.problem and mend in caught.value.mend


@pytest.mark.parametrize("value", [0.0, -0.5, np.inf])
def test_a_propensity_of_what_cannot_have_been_done_is_refused(tmp_path: Path, value: float) -> None:
    columns, _ = written()
    columns["chance"] = np.array([0.5, value, 0.5, 0.5, 0.5])
    path = str(write_hdf5(tmp_path / "log.hdf5", columns))
    with pytest.raises(DatasetInvalidError, match="in row 1"):
        read_log(path, replace(CONTINUOUS, propensity="chance"))


@pytest.mark.parametrize("value", [-1.0, 0.5, 3.0])
def test_discrete_actions_are_whole_and_few(tmp_path: Path, value: float) -> None:
    columns, _ = written(discrete=True)
    entry("actions", 2, value)(columns)
    with pytest.raises(DatasetInvalidError, match=r"row 2|action 3"):
        read_log(str(write_hdf5(tmp_path / "log.hdf5", columns)), DISCRETE)


def test_an_episode_that_goes_on_after_its_end_is_refused(tmp_path: Path) -> None:
    columns, _ = written()
    columns["who"] = np.array([0, 0, 1, 1, 1])
    with pytest.raises(DatasetInvalidError, match="goes on after it ended"):
        read_log(str(write_hdf5(tmp_path / "log.hdf5", columns)), replace(CONTINUOUS, episode="who"))


def test_a_row_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("o,a,r,end\n1,0,1,0\n2,0,1\n")
    schema = Schema(observation=("o",), action=("a",), reward="r", terminated="end", num_actions=2)
    with pytest.raises(DatasetInvalidError, match=r"Line 3 of .* has 3 cells"):
        read_log(str(path), schema)


@pytest.mark.parametrize("missing", ["observation", "action", "reward", "terminated"])
def test_a_table_without_a_schema_says_what_is_there_and_what_to_say(tmp_path: Path, missing: str) -> None:
    columns, _ = written()
    path = write_csv(tmp_path / "log.csv", columns)
    nothing: Any = {missing: () if missing in ("observation", "action") else None}
    schema = replace(TABLE, **nothing)
    with pytest.raises(ConfigError, match="observations_0") as caught:
        read_log(str(path), schema.overridden_by(CONTINUOUS))
    assert f"--{missing}" in caught.value.mend


@pytest.mark.parametrize("kind", ["hdf5", "npz", "csv", "parquet", "pkl"])
def test_noise_is_corrupt_in_every_format(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"log.{kind}"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError) as caught:
        read_log(str(path), CONTINUOUS, trust_pickle=True)
    assert isinstance(caught.value, DatasetCorruptError)


@pytest.mark.parametrize("kind", ["hdf5", "npz", "parquet"])
def test_half_a_file_is_corrupt(tmp_path: Path, kind: str) -> None:
    columns, _ = written()
    path = tmp_path / f"log.{kind}"
    if kind == "hdf5":
        write_hdf5(path, columns)
    elif kind == "npz":
        np.savez(path, **columns)
    else:
        pyarrow.parquet.write_table(pyarrow.table(flattened(columns)), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetCorruptError):
        read_log(str(path), CONTINUOUS if kind != "parquet" else TABLE.overridden_by(CONTINUOUS))


def test_what_is_not_there_or_of_no_known_kind(tmp_path: Path) -> None:
    for name in ("none.hdf5", "none.pkl"):
        with pytest.raises(DatasetNotFoundError):
            read_log(str(tmp_path / name), CONTINUOUS)
    (tmp_path / "log.xlsx").write_bytes(b"x")
    with pytest.raises(ConfigError, match="ends in none of"):
        read_log(str(tmp_path / "log.xlsx"), CONTINUOUS)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match="pyarrow") as caught:
        read_log(str(tmp_path / "log.parquet"), TABLE)
    assert "rlcourse[parquet]" in caught.value.mend


# Schemas


def test_a_schema_is_read_from_toml_and_json_alike_and_overridden_by_options(tmp_path: Path) -> None:
    content = {"observation": ["x", "y"], "action": "u", "reward": "r", "action_low": -1, "action_high": [1]}
    (tmp_path / "s.json").write_text(json.dumps(content))
    (tmp_path / "s.toml").write_text(
        'observation = ["x", "y"]\naction = "u"\nreward = "r"\naction_low = -1\naction_high = [1]\n'
    )
    found = Schema.load(tmp_path / "s.toml")
    assert found == Schema.load(tmp_path / "s.json")
    assert found == Schema(observation=("x", "y"), action=("u",), reward="r", action_low=(-1.0,), action_high=(1.0,))
    assert found.overridden_by(Schema(reward="other")) == replace(found, reward="other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reward = 3", "reward = 3"),
        ('rewrd = "r"', "Did you mean reward?"),
        ("observation = []", "observation = "),
        ("num_actions = true", "num_actions = True"),
        ("num_actions = 0", "num_actions is 0"),
        ('action_low = ["x"]', "action_low"),
        ("action_low = 1", "Only one of"),
        ("num_actions = 2\naction_low = 0\naction_high = 1", "both discrete and within bounds"),
        ('propensity = "p"\nlog_propensity = "q"', "Both propensity and log_propensity"),
        ("= =", "cannot be read"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Schema.load(path)
    assert message in str(caught.value)
    with pytest.raises(DatasetNotFoundError):
        Schema.load(tmp_path / "none.toml")


@pytest.mark.parametrize(("low", "high"), [((0.0, 0.0), (1.0, 1.0, 1.0)), ((1.0,), (0.0,)), ((0.0,), (np.inf,))])
def test_bounds_that_fit_no_action_are_refused(tmp_path: Path, low: Any, high: Any) -> None:
    columns, _ = written()
    with pytest.raises(ConfigError):
        read_log(str(write_hdf5(tmp_path / "log.hdf5", columns)), Schema(action_low=low, action_high=high))


# Minari


def test_a_minari_data_set_is_taken_by_name_or_folder(tmp_path: Path) -> None:
    _, episodes = written()
    card = DatasetCard(env_id="Mine-v0", action_low=(-1.0,) * 2, action_high=(1.0,) * 2, quality="medium")
    folder = save_dataset("mine/log-v0", episodes, card, root=tmp_path)
    for source in ("mine/log-v0", str(folder)):
        found = read_log(source, root=tmp_path)
        assert_same(found.episodes, episodes)
        assert (found.card.quality, found.card.details["imported_from"]) == ("medium", source)
    with pytest.raises(ConfigError, match="says itself"):
        read_log("mine/log-v0", DISCRETE, root=tmp_path)


def test_fetching_without_the_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(source: str) -> None:
        raise ImportError("huggingface_hub is not installed")

    monkeypatch.setattr(minari, "download_dataset", without)
    with pytest.raises(MissingExtraError, match="huggingface_hub") as caught:
        read_log("mujoco/hopper/medium-v0", root=tmp_path)
    assert "rlcourse[remote]" in caught.value.mend
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [OSError("no route to host"), ValueError("Couldn't find any version"), RuntimeError()]
)
def test_fetching_without_a_network_is_an_error_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(source: str) -> None:
        raise error

    monkeypatch.setattr(minari, "download_dataset", failing)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/as/it/was")
    with pytest.raises(DatasetNotFoundError, match="could not be fetched") as caught:
        read_log("mujoco/hopper/medium-v0", root=tmp_path)
    assert "network" in caught.value.mend
    assert list(tmp_path.iterdir()) == []
    assert os.environ["MINARI_DATASETS_PATH"] == "/as/it/was"


def test_what_was_fetched_is_read_and_put_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, episodes = written()
    card = DatasetCard(env_id="Mine-v0", action_low=(-1.0,) * 2, action_high=(1.0,) * 2)

    def fetched(source: str) -> None:
        print("Downloading", source)
        save_dataset("far/away-v0", episodes, card)  # to where the environment says

    monkeypatch.setattr(minari, "download_dataset", fetched)
    for source in ("far/away-v0", "hf://somebody/far/away-v0"):
        assert_same(read_log(source, root=tmp_path).episodes, episodes)
    assert list_datasets(tmp_path) == [] and list(tmp_path.iterdir()) == []
    assert "Downloading" not in capsys.readouterr().out
    with pytest.raises(DatasetNotFoundError):
        read_log("./no/such/folder", root=tmp_path)
