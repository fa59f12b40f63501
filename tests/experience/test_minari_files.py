from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import hypothesis.extra.numpy as arrays
import minari
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from rlcourse.errors import (
    ConfigError,
    DatasetCorruptError,
    DatasetExistsError,
    DatasetInvalidError,
    DatasetNotFoundError,
    StorageError,
)
from rlcourse.experience import manifest
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import (
    list_datasets,
    load_dataset,
    refuse_existing,
    save_dataset,
)

CARD = DatasetCard(
    env_id="CartPole-v1",
    num_actions=2,
    quality="random",
    behaviour="even choice",
    seed=7,
    details={"epsilon": 0.5},
    command="rlcourse offline generate --quality random",
)
FILES = ("columns.hdf5", "data/main_data.hdf5", "data/metadata.json", "manifest.json")
NAME = "cartpole/random-v0"


def some_episodes(lengths: tuple[int, ...] = (3, 1, 5), seed: int = 0) -> Episodes:
    rng = np.random.default_rng(seed)
    steps, count = sum(lengths), len(lengths)
    return Episodes(
        observations=rng.normal(size=(steps + count, 4)).astype(np.float32),
        actions=rng.integers(0, 2, steps),
        rewards=rng.normal(size=steps).astype(np.float32),
        behaviour_probabilities=rng.uniform(0.1, 1.0, steps).astype(np.float32),
        lengths=np.array(lengths),
        terminated=np.arange(count) % 2 == 0,
    )


def assert_same(found: Episodes, expected: Episodes) -> None:
    for name in Episodes.__dataclass_fields__:
        left, right = getattr(found, name), getattr(expected, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_dataset(NAME, some_episodes(), CARD, root=tmp_path)


@st.composite
def random_episodes(draw: st.DrawFn) -> Episodes:
    lengths = np.array(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)), dtype=np.int64)
    steps, size = int(lengths.sum()), draw(st.integers(1, 3))
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
    chances = st.one_of(st.just(np.nan), st.floats(2**-20, 1.0, width=32))
    return Episodes(
        observations=draw(arrays.arrays(np.float32, (steps + len(lengths), size), elements=numbers)),
        actions=draw(arrays.arrays(np.int64, steps, elements=st.integers(0, 1))),
        rewards=draw(arrays.arrays(np.float32, steps, elements=numbers)),
        behaviour_probabilities=draw(arrays.arrays(np.float32, steps, elements=chances)),
        lengths=lengths,
        terminated=draw(arrays.arrays(np.bool_, len(lengths))),
    )


@given(random_episodes())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path, episodes: Episodes) -> None:
    save_dataset("random/any-v0", episodes, CARD, root=tmp_path, overwrite=True)
    loaded = load_dataset("random/any-v0", root=tmp_path)
    assert_same(loaded.episodes, episodes)


def test_the_card_comes_back_with_versions(saved: Path, tmp_path: Path) -> None:
    loaded = load_dataset(NAME, root=tmp_path)
    assert replace(loaded.card, versions={}) == CARD
    assert set(loaded.card.versions) == {"python", "rlcourse", "torch", "numpy", "gymnasium", "minari", "h5py"}
    assert loaded.path == saved
    assert loaded.size_bytes == sum((saved / name).stat().st_size for name in FILES)


def test_the_same_data_give_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    time.sleep(1.1)  # HDF5 would write its times in whole seconds: two quick saves could agree by luck
    again = save_dataset(NAME, some_episodes(), CARD, root=tmp_path / "other")
    for name in FILES:
        assert (saved / name).read_bytes() == (again / name).read_bytes(), name


def test_the_manifest_names_the_sha256_of_every_other_file(saved: Path) -> None:
    content = json.loads((saved / "manifest.json").read_text())
    on_disk = {p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(content["files"]) == on_disk == set(FILES) - {"manifest.json"}
    for name, entry in content["files"].items():
        assert entry["sha256"] == hashlib.sha256((saved / name).read_bytes()).hexdigest()


def test_minari_reads_the_same_episodes(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = some_episodes()
    source = minari.load_dataset(NAME)
    assert list(minari.list_local_datasets()) == [NAME]
    assert (source.total_episodes, source.total_steps) == (3, 9)
    assert source.spec.env_spec is not None and source.spec.env_spec.id == "CartPole-v1"
    assert source.action_space == gymnasium.spaces.Discrete(2)
    for index, episode in enumerate(source):
        expected = episodes.select(np.array([index]))
        ends = np.arange(len(episode)) == len(episode) - 1
        assert episode.id == index
        np.testing.assert_array_equal(episode.observations, expected.observations)
        np.testing.assert_array_equal(episode.actions, expected.actions)
        np.testing.assert_array_equal(episode.rewards, expected.rewards)
        np.testing.assert_array_equal(episode.infos["behaviour_probability"], expected.behaviour_probabilities)
        np.testing.assert_array_equal(episode.terminations, ends & expected.terminated[0])
        np.testing.assert_array_equal(episode.truncations, ends & ~expected.terminated[0])
        assert episode.terminations.dtype == np.bool_


def test_the_root_is_the_one_minari_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "a"))
    assert save_dataset(NAME, some_episodes(), CARD) == tmp_path / "a" / NAME
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert save_dataset(NAME, some_episodes(), CARD) == tmp_path / ".minari" / "datasets" / NAME
    assert list_datasets() == [NAME]


@pytest.mark.parametrize("folder", ["plain", "with-v3", "odd name!"])
def test_a_path_is_as_good_as_a_name(tmp_path: Path, folder: str) -> None:
    save_dataset(tmp_path / folder, some_episodes(), CARD)
    assert_same(load_dataset(str(tmp_path / folder)).episodes, some_episodes())
    assert minari.MinariDataset(tmp_path / folder / "data").spec.version in (0, 3)


def flips(size: int) -> list[int]:
    """Every byte of a small file; of a large one its ends and a few hundred between."""
    return sorted({*range(min(size, 64)), *range(max(0, size - 64), size), *range(0, size, max(1, size // 300))})


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_anywhere_is_noticed(saved: Path, name: str) -> None:
    path = saved / name
    whole = path.read_bytes()
    positions = range(len(whole)) if name == "manifest.json" else flips(len(whole))
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 0x20 if name == "manifest.json" else 1 << position % 8  # 0x20 turns A to a, a space to NUL
        path.write_bytes(changed)
        with pytest.raises(DatasetCorruptError):
            load_dataset(saved)
    path.write_bytes(whole)
    assert_same(load_dataset(saved).episodes, some_episodes())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 1, 100])
def test_a_truncated_file_is_noticed(saved: Path, name: str, left: int) -> None:
    path = saved / name
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DatasetCorruptError):
        load_dataset(saved)


@pytest.mark.parametrize("name", FILES)
def test_bytes_added_at_the_end_are_noticed(saved: Path, name: str) -> None:
    with (saved / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(DatasetCorruptError):
        load_dataset(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(DatasetCorruptError):
        load_dataset(saved)


def test_losing_manifest_and_columns_is_not_mistaken_for_a_foreign_data_set(saved: Path) -> None:
    (saved / "manifest.json").unlink()
    (saved / "columns.hdf5").unlink()
    with pytest.raises(DatasetCorruptError, match=r"manifest\.json is missing"):
        load_dataset(saved)


def set_entry(name: str, index: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[name] = columns[name].copy()
        columns[name][index] = value

    return change


def set_column(name: str, make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[name] = make(columns[name])

    return change


def empty(columns: dict[str, Any]) -> None:
    columns.update({name: value[:0] for name, value in columns.items()})


IMPOSSIBLE = {
    "NaN reward": set_entry("rewards", 2, np.nan),
    "infinite reward": set_entry("rewards", 2, np.inf),
    "NaN observation": set_entry("observations", (1, 0), np.nan),
    "infinite observation": set_entry("observations", (1, 0), -np.inf),
    "propensity of 0": set_entry("behaviour_probabilities", 0, 0.0),
    "propensity above 1": set_entry("behaviour_probabilities", 0, 1.5),
    "negative propensity": set_entry("behaviour_probabilities", 0, -0.5),
    "infinite propensity": set_entry("behaviour_probabilities", 0, np.inf),
    "action out of range": set_entry("actions", 0, 2),
    "negative action": set_entry("actions", 0, -1),
    "an episode of no steps": set_entry("lengths", slice(None), [3, 0, 6]),
    "lengths that do not add up": set_entry("lengths", 0, 4),
    "rewards too short": set_column("rewards", lambda a: a[:-1]),
    "rewards in two axes": set_column("rewards", lambda a: a[:, None]),
    "actions in two axes": set_column("actions", lambda a: a[:, None]),
    "lengths in two axes": set_column("lengths", lambda a: a[:, None]),
    "propensities too short": set_column("behaviour_probabilities", lambda a: a[:-1]),
    "terminated too short": set_column("terminated", lambda a: a[:-1]),
    "observations too short": set_column("observations", lambda a: a[:-1]),
    "observations in one axis": set_column("observations", lambda a: a[:, 0]),
    "observations without entries": set_column("observations", lambda a: a[:, :0]),
    "actions that are not whole": set_column("actions", lambda a: a.astype(np.float32)),
    "terminated that is a number": set_column("terminated", lambda a: a.astype(np.float32)),
    "rewards that are text": set_column("rewards", lambda a: np.array([b"x"] * len(a))),
    "empty": empty,
}


@pytest.mark.parametrize("change", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible_episodes_are_refused_on_saving(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    columns = dict(vars(some_episodes()))
    change(columns)
    with pytest.raises(DatasetInvalidError):
        save_dataset(NAME, Episodes(**columns), CARD, root=tmp_path)
    assert list(tmp_path.rglob("*")) == []


def reseal(folder: Path, **changes: Any) -> None:
    """Write a manifest that fits the files as they now are."""
    content = json.loads((folder / "manifest.json").read_text())
    del content["checksum"]
    files = {name: manifest.entry(folder / name) for name in FILES if name != "manifest.json"}
    (folder / "manifest.json").write_text(manifest.sealed({**content, "files": files, **changes}))


@pytest.mark.parametrize("change", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible_episodes_are_refused_on_loading(saved: Path, change: Callable[[dict[str, Any]], None]) -> None:
    columns = dict(vars(some_episodes()))
    change(columns)
    with h5py.File(saved / "columns.hdf5", "w") as file:
        for name, value in columns.items():
            file[name] = value
    reseal(saved)
    with pytest.raises(DatasetInvalidError):
        load_dataset(saved)


def test_a_well_sealed_file_that_is_no_hdf5_or_lacks_a_column_is_invalid(saved: Path) -> None:
    with h5py.File(saved / "columns.hdf5", "a") as file:
        del file["rewards"]
    reseal(saved)
    with pytest.raises(DatasetInvalidError, match="columns"):
        load_dataset(saved)
    (saved / "columns.hdf5").write_bytes(b"not HDF5")
    reseal(saved)
    with pytest.raises(DatasetInvalidError, match="columns"):
        load_dataset(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 3},
        {"format_version": 2},
        {"format": "another"},
        {"card": {"env_id": "CartPole-v1"}},
        {"card": {**CARD.to_json(), "num_actions": "two"}},
        {"files": {"../elsewhere": {"bytes": 0, "sha256": ""}}},
    ],
    ids=[
        "newer version",
        "version of continuous actions",
        "another format",
        "card lacks fields",
        "card of wrong types",
        "files outside",
    ],
)
def test_a_well_sealed_manifest_that_makes_no_sense_is_invalid(saved: Path, changes: dict[str, Any]) -> None:
    reseal(saved, **changes)
    with pytest.raises(DatasetInvalidError):
        load_dataset(saved)


def test_an_unknown_name_says_what_is_near_and_how_to_make_it(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError) as caught:
        load_dataset("cartpole/mixed-v0", root=tmp_path)
    assert "Did you mean cartpole/random-v0?" in caught.value.mend
    assert f"rlcourse offline generate --quality mixed --root {tmp_path}" in caught.value.mend
    with pytest.raises(DatasetNotFoundError, match="generate --name"):
        load_dataset(tmp_path / "nothing")
    for name in ("cartpole", "", "x" * 400 + "-v0", "with\0null"):  # the first is a namespace, not a data set
        with pytest.raises(DatasetNotFoundError):
            load_dataset(name, root=tmp_path)
    with pytest.raises(StorageError):
        save_dataset("x" * 400 + "-v0", some_episodes(), CARD, root=tmp_path)


@pytest.mark.parametrize("name", ["mixed", "", "cartpole/mixed", "cart pole/mixed-v0", "a/../b-v0"])
def test_names_that_minari_would_not_find_again_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        save_dataset(name, some_episodes(), CARD, root=tmp_path)


def test_an_existing_data_set_is_replaced_only_on_request(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetExistsError):
        save_dataset(NAME, some_episodes(seed=1), CARD, root=tmp_path)
    with pytest.raises(DatasetExistsError):
        refuse_existing(NAME, root=tmp_path)
    assert_same(load_dataset(saved).episodes, some_episodes())
    save_dataset(NAME, some_episodes(seed=1), CARD, root=tmp_path, overwrite=True)
    assert_same(load_dataset(saved).episodes, some_episodes(seed=1))


def test_overwrite_never_removes_a_folder_that_holds_anything_else(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "thesis.tex").write_text("years of work")
    with pytest.raises(DatasetExistsError):
        save_dataset(project, some_episodes(), CARD, overwrite=True)
    assert (project / "thesis.tex").read_text() == "years of work"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 256 KiB, or None where this user may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False, capture_output=True
        ).returncode
    )
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def assert_survives_full_disk(root: Path, large: Episodes) -> None:
    with pytest.raises(StorageError) as caught:
        save_dataset(NAME, large, CARD, root=root, overwrite=True)
    assert os.strerror(errno.ENOSPC) in caught.value.problem and "space" in caught.value.mend
    assert [path.name for path in (root / "cartpole").iterdir()] == ["random-v0"]  # no leavings
    assert_same(load_dataset(NAME, root=root).episodes, some_episodes())


@pytest.mark.parametrize("fails_at", range(4))
def test_a_disk_that_fills_up_while_saving_leaves_the_old_data_set_whole(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    flushed = 0

    def fsync(handle: int) -> None:
        nonlocal flushed
        if flushed == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flushed += 1

    monkeypatch.setattr(os, "fsync", fsync)
    assert_survives_full_disk(tmp_path, some_episodes(seed=1))


@pytest.mark.parametrize("with_number", [True, False], ids=["errno", "text alone"])
def test_a_write_that_fails_half_way_leaves_the_old_data_set_whole(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_number: bool
) -> None:
    write = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        text = os.strerror(errno.ENOSPC)
        raise OSError(errno.ENOSPC, text) if with_number else OSError(f"Can't write data ({text})")

    monkeypatch.setattr(Path, "write_bytes", half)
    if with_number:
        assert_survives_full_disk(tmp_path, some_episodes(seed=1))
    else:
        with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
            save_dataset(NAME, some_episodes(seed=1), CARD, root=tmp_path, overwrite=True)
    monkeypatch.undo()
    assert_same(load_dataset(saved).episodes, some_episodes())


def test_a_disk_that_is_really_full(
    small_disk: Path | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a real full file system where one may be mounted, else with a limit on what may be written."""
    root = small_disk if small_disk is not None else tmp_path
    print("full disk:", "injected" if small_disk is None else "mounted")  # pytest -rP shows it
    assert os.path.ismount(root) == (small_disk is not None)
    save_dataset(NAME, some_episodes(), CARD, root=root)
    large = some_episodes(lengths=(5_000, 5_000))
    if small_disk is None:
        write = Path.write_bytes

        def limited(path: Path, data: bytes) -> int:
            if len(data) > 200_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, data)

        monkeypatch.setattr(Path, "write_bytes", limited)
    assert_survives_full_disk(root, large)


def foreign(
    name: str, episodes: Episodes, *, infos: bool = False, **spaces: gymnasium.Space[Any]
) -> minari.MinariDataset:
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
                infos={"behaviour_probability": np.append(np.nan, one.behaviour_probabilities)} if infos else None,
            )
        )
    return minari.create_dataset_from_buffers(
        name,
        buffers,
        env=gymnasium.spec("CartPole-v1"),
        observation_space=spaces.get("observation_space", gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)),
        action_space=spaces.get("action_space", gymnasium.spaces.Discrete(2)),
        algorithm_name="an older script",
        author="someone",
        author_email="someone@example.org",
        code_permalink="https://example.org",
        description="made by Minari alone",
        eval_env="CartPole-v1",
    )


def test_a_minari_data_set_from_elsewhere_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    foreign("other/plain-v0", some_episodes())
    loaded = load_dataset("other/plain-v0")
    unknown = np.full(9, np.nan, dtype=np.float32)
    assert_same(loaded.episodes, replace(some_episodes(), behaviour_probabilities=unknown))
    assert loaded.checksum is None
    assert (loaded.card.env_id, loaded.card.num_actions, loaded.card.seed) == ("CartPole-v1", 2, None)
    assert loaded.card.details["propensities"] == "Propensities of 9 steps were not logged."
    assert "not written by rlcourse" in loaded.card.details["source"]


def test_propensities_that_minaris_collector_logged_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    foreign("other/logged-v0", some_episodes(), infos=True)
    assert_same(load_dataset("other/logged-v0").episodes, some_episodes())


def test_a_minari_data_set_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    continuous = replace(some_episodes(), actions=np.zeros((9, 1), dtype=np.float32))
    foreign("other/unbounded-v0", continuous, action_space=gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32))
    with pytest.raises(DatasetInvalidError, match="actions of Box"):
        load_dataset("other/unbounded-v0")
    counted_from_one = replace(some_episodes(), actions=np.ones(9, dtype=np.int64))
    foreign("other/from-one-v0", counted_from_one, action_space=gymnasium.spaces.Discrete(2, start=1))
    with pytest.raises(DatasetInvalidError, match="actions of Discrete"):
        load_dataset("other/from-one-v0")


def test_a_damaged_minari_data_set_from_elsewhere_is_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    foreign("other/plain-v0", some_episodes())
    path = tmp_path / "other/plain-v0/data/main_data.hdf5"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetCorruptError):
        load_dataset("other/plain-v0")
    path.with_name("metadata.json").write_text("{")
    with pytest.raises(DatasetCorruptError):
        load_dataset("other/plain-v0")
