"""Logs of continuous actions: the same contracts as those of discrete ones, from the array to the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import hypothesis.extra.numpy as arrays
import minari
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from rlcourse.errors import ConfigError, DatasetCorruptError, DatasetInvalidError
from rlcourse.experience import manifest
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import load_dataset, save_dataset
from rlcourse.experience.transitions import Transitions
from rlcourse.vocabulary import ContinuousActions, DiscreteActions

CARD = DatasetCard(env_id="Pendulum-v1", action_low=(-2.0, 0.0), action_high=(2.0, 1.0), quality="random", seed=3)
NAME = "pendulum/random-v0"


def some_episodes(lengths: tuple[int, ...] = (3, 1, 5), seed: int = 0) -> Episodes:
    rng = np.random.default_rng(seed)
    steps, count = sum(lengths), len(lengths)
    return Episodes(
        observations=rng.normal(size=(steps + count, 3)).astype(np.float32),
        actions=rng.uniform((-2, 0), (2, 1), (steps, 2)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        behaviour_probabilities=rng.uniform(0.1, 9.0, steps).astype(np.float32),  # densities may exceed 1
        lengths=np.array(lengths),
        terminated=np.arange(count) % 2 == 0,
    )


def assert_same(found: Episodes, expected: Episodes) -> None:
    for name in Episodes.__dataclass_fields__:
        left, right = getattr(found, name), getattr(expected, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)


@st.composite
def random_episodes(draw: st.DrawFn) -> tuple[Episodes, DatasetCard]:
    lengths = np.array(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)), dtype=np.int64)
    steps, size = int(lengths.sum()), draw(st.integers(1, 3))
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
    densities = st.one_of(st.just(np.nan), st.floats(2**-100, 2.0**100, width=32))
    episodes = Episodes(
        observations=draw(arrays.arrays(np.float32, (steps + len(lengths), 2), elements=numbers)),
        actions=draw(arrays.arrays(np.float32, (steps, size), elements=st.floats(-0.5, 2.0, width=32))),
        rewards=draw(arrays.arrays(np.float32, steps, elements=numbers)),
        behaviour_probabilities=draw(arrays.arrays(np.float32, steps, elements=densities)),
        lengths=lengths,
        terminated=draw(arrays.arrays(np.bool_, len(lengths))),
    )
    return episodes, DatasetCard(env_id="Any-v0", action_low=(-0.5,) * size, action_high=(2.0,) * size)


@given(random_episodes())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path, drawn: tuple[Episodes, DatasetCard]) -> None:
    episodes, card = drawn
    save_dataset("random/any-v0", episodes, card, root=tmp_path, overwrite=True)
    loaded = load_dataset("random/any-v0", root=tmp_path)
    assert_same(loaded.episodes, episodes)
    assert replace(loaded.card, versions={}) == card


def test_the_format_version_says_which_kind(tmp_path: Path) -> None:
    folder = save_dataset(NAME, some_episodes(), CARD, root=tmp_path)
    content = json.loads((folder / "manifest.json").read_text())
    assert content["format_version"] == 2
    assert (content["card"]["action_low"], content["card"]["action_high"]) == ([-2.0, 0.0], [2.0, 1.0])
    del content["checksum"]
    (folder / "manifest.json").write_text(manifest.sealed({**content, "format_version": 1}))
    with pytest.raises(DatasetInvalidError, match="format version"):
        load_dataset(folder)


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    folder = save_dataset(NAME, some_episodes(), CARD, root=tmp_path)
    whole = (folder / "columns.hdf5").read_bytes()
    (folder / "columns.hdf5").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DatasetCorruptError):
        load_dataset(folder)


def test_minari_reads_the_same_episodes_within_the_same_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = some_episodes()
    save_dataset(NAME, episodes, CARD)
    source = minari.load_dataset(NAME)
    low, high = np.array([-2, 0], np.float32), np.array([2, 1], np.float32)
    assert source.action_space == gymnasium.spaces.Box(low, high, dtype=np.float32)
    for index, episode in enumerate(source):
        expected = episodes.select(np.array([index]))
        np.testing.assert_array_equal(episode.actions, expected.actions)
        np.testing.assert_array_equal(episode.infos["behaviour_probability"], expected.behaviour_probabilities)
        assert episode.actions[0] in source.action_space


def foreign(name: str, episodes: Episodes, space: gymnasium.Space[np.ndarray]) -> None:
    buffers = []
    for index in range(episodes.num_episodes):
        one = episodes.select(np.array([index]))
        last = np.arange(one.num_transitions) == one.num_transitions - 1
        buffers.append(
            EpisodeBuffer(
                observations=one.observations,
                actions=one.actions,
                rewards=one.rewards.astype(np.float64),
                terminations=last & one.terminated[0],
                truncations=last & ~one.terminated[0],
            )
        )
    minari.create_dataset_from_buffers(
        name,
        buffers,
        env=gymnasium.spec("Pendulum-v1"),
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        action_space=space,
        algorithm_name="someone's SAC",
        author="someone",
        author_email="someone@example.org",
        code_permalink="https://example.org",
        description="made by Minari alone",
        eval_env="Pendulum-v1",
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_minari_data_set_from_elsewhere_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type[np.floating]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    space = gymnasium.spaces.Box(np.array([-2, 0], dtype), np.array([2, 1], dtype), dtype=dtype)
    foreign("other/box-v0", replace(some_episodes(), actions=some_episodes().actions.astype(dtype)), space)
    loaded = load_dataset("other/box-v0")
    unknown = np.full(9, np.nan, dtype=np.float32)
    assert_same(loaded.episodes, replace(some_episodes(), behaviour_probabilities=unknown))
    assert (loaded.card.env_id, loaded.card.action_low, loaded.card.action_high) == (
        "Pendulum-v1", (-2.0, 0.0), (2.0, 1.0),
    )  # fmt: skip
    assert loaded.checksum is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.full((9, 2), 1.01, np.float32)}, "outside 0 to 1"),
        ({"actions": np.full((9, 2), np.nan, np.float32)}, "actions are NaN"),
        ({"actions": np.full((9, 2), 1e39)}, "outside"),
        ({"actions": np.zeros((9, 3), np.float32)}, "An action is 3 numbers, but the card bounds 2"),
        ({"actions": np.zeros((9, 0), np.float32)}, "Actions have shape"),
        ({"actions": np.zeros(9, np.float32)}, "Actions have shape"),
        ({"actions": np.zeros((9, 2, 1), np.float32)}, "Actions have shape"),
        (
            {"actions": np.zeros(9, np.int64), "behaviour_probabilities": np.full(9, 0.5, np.float32)},
            "Actions are discrete, but the card says continuous",
        ),
        ({"behaviour_probabilities": np.zeros(9, np.float32)}, "propensities are not finite numbers above 0"),
        ({"behaviour_probabilities": np.full(9, np.inf, np.float32)}, "propensities are not finite numbers above 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_actions_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DatasetInvalidError, match=message):
        save_dataset(NAME, replace(some_episodes(), **changes), CARD, root=tmp_path)
    assert list(tmp_path.rglob("*")) == []


def test_what_rounding_does_to_an_action_on_its_bound_is_no_fault(tmp_path: Path) -> None:
    actions = np.full((9, 2), np.nextafter(np.float32(1), np.float32(2)), np.float32)
    save_dataset(NAME, replace(some_episodes(), actions=actions), CARD, root=tmp_path)
    assert load_dataset(NAME, root=tmp_path).episodes.actions.max() > 1


def test_select_and_concatenate_keep_actions_with_their_steps() -> None:
    episodes = some_episodes()
    parts = [episodes.select(np.array([index])) for index in range(3)]
    assert parts[2].actions.tolist() == episodes.actions[4:9].tolist()
    assert_same(Episodes.concatenate(parts), replace(episodes, lengths=episodes.lengths.astype(np.int64)))


def test_batches_hold_rows_of_actions_and_the_spec_their_bounds() -> None:
    found = Transitions.from_episodes(some_episodes(), gamma=0.9, actions=CARD.actions, n_step=2)
    batch = found.sample(64, torch.Generator().manual_seed(0)).validate()
    assert batch.row is not None and torch.equal(batch.action, found.action[batch.row])
    assert batch.action.shape == (64, 2) and batch.action.dtype == torch.float32
    space = found.spec().actions
    assert isinstance(space, ContinuousActions)
    assert (space.low.tolist(), space.high.tolist()) == ([-2.0, 0.0], [2.0, 1.0])
    with pytest.raises(ConfigError, match="continuous"):
        found.num_actions  # noqa: B018


def test_actions_of_another_kind_than_said_are_refused() -> None:
    discrete = replace(some_episodes(), actions=np.zeros(9, np.int64))
    wide = ContinuousActions(torch.zeros(3), torch.ones(3))
    for episodes, space in ((some_episodes(), DiscreteActions(2)), (discrete, CARD.actions), (some_episodes(), wide)):
        with pytest.raises(ConfigError, match="Actions are said to be"):
            Transitions.from_episodes(episodes, gamma=0.9, actions=space)
    with pytest.raises(ConfigError, match="Actions are said to be"):
        Transitions.from_episodes(some_episodes(), gamma=0.9, num_actions=0)
    with pytest.raises(ConfigError, match="one of the two"):
        Transitions.from_episodes(some_episodes(), gamma=0.9)
