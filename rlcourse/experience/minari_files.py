"""Data sets as files: Minari's layout for everybody, flat columns beside it for speed, checksums over both.

::

    cartpole/mixed-v0/
    ├── manifest.json          the card, and the SHA-256 of every file below and of itself
    ├── columns.hdf5           the arrays of Episodes, whole: what load_dataset reads
    └── data/
        ├── main_data.hdf5     one group per episode: what minari.load_dataset reads
        └── metadata.json      Minari's description

Minari's layout opens slowly (a million CartPole steps are 45,000 groups), hence the columns. HDF5 files are built in
memory and then written like any other bytes: that is several times faster than letting the library seek about on the
disk, and a full disk shows up as an ordinary ``OSError`` instead of as whatever the library makes of it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import torch
from h5py import h5a, h5d, h5g, h5p, h5s, h5t
from minari.serialization import serialize_space

from rlcourse.errors import DatasetCorruptError, DatasetExistsError, DatasetInvalidError
from rlcourse.experience import manifest
from rlcourse.experience.card import DatasetCard, installed_versions
from rlcourse.experience.episodes import Array, Episodes
from rlcourse.experience.names import dataset_id, datasets_root, find, is_only_dataset, list_datasets, place
from rlcourse.files import atomic_directory
from rlcourse.vocabulary import ActionSpace, ContinuousActions, DiscreteActions

__all__ = [
    "Dataset",
    "datasets_root",
    "list_datasets",
    "load_dataset",
    "refuse_existing",
    "save_dataset",
]

FORMAT = "rlcourse data set"
DISCRETE, CONTINUOUS = 1, 2
"""Versions of the format. They differ in the kind of actions alone, so that logs of discrete ones are what they were."""
MANIFEST, COLUMNS = "manifest.json", "columns.hdf5"
MAIN, METADATA = "data/main_data.hdf5", "data/metadata.json"
DTYPES: dict[str, np.dtype[Any]] = {
    "observations": np.dtype(np.float32),
    "actions": np.dtype(np.int64),
    "rewards": np.dtype(np.float32),
    "behaviour_probabilities": np.dtype(np.float32),
    "lengths": np.dtype(np.int64),
    "terminated": np.dtype(np.bool_),
}
BOUND_TOLERANCE = 1e-5
"""Share of the range by which a continuous action may lie outside its bounds: what float32 may do to one upon them."""
_UNREADABLE = (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError)  # what h5py raises, by turns
PROPENSITY = "behaviour_probability"
"""Key in Minari's infos: ``(T,)``, the probability of ``actions[t]``, or its density in the units of the actions."""


@dataclass(frozen=True)
class Dataset:
    """A data set that was loaded and found sound."""

    episodes: Episodes
    card: DatasetCard
    path: Path
    checksum: str | None  # the manifest's, which covers every file; None for a data set from elsewhere
    size_bytes: int  # all its files


def save_dataset(
    name_or_path: str | Path,
    episodes: Episodes,
    card: DatasetCard,
    *,
    root: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a data set, all of it or nothing.

    The same episodes and card give the same bytes.

    Args:
        name_or_path: a name under the root, such as ``cartpole/mixed-v0``, or a path.
        episodes: checked before anything is written.
        card: its versions are filled in.
        root: ``$MINARI_DATASETS_PATH`` or ``~/.minari/datasets`` if not given.
        overwrite: replace a data set of that name; it stays until the new one is complete.

    Returns:
        The folder.

    Raises:
        DatasetInvalidError: the episodes make no sense.
        DatasetExistsError: there is one, and ``overwrite`` is false; or something that is no data set is there.
        StorageError: the disk is full or not writable; what was there before is whole.
    """
    _check(episodes, card)
    refuse_existing(name_or_path, root=root, overwrite=overwrite)
    folder = place(name_or_path, root)
    card = replace(card, versions=installed_versions())
    kinds = dtypes(continuous=card.continuous)
    stored = Episodes(**{name: np.ascontiguousarray(getattr(episodes, name), dtype) for name, dtype in kinds.items()})
    _check(stored, card)  # again: float64 beyond float32's range has become infinite
    with atomic_directory(folder) as part:
        (part / "data").mkdir()
        (part / COLUMNS).write_bytes(_columns(stored))
        (part / MAIN).write_bytes(_minari_groups(stored))
        (part / METADATA).write_text(_minari_metadata(dataset_id(name_or_path), stored, card), encoding="utf-8")
        content = {
            "format": FORMAT,
            "format_version": _version(card),
            "card": card.to_json(),
            "files": {name: manifest.entry(part / name) for name in (COLUMNS, MAIN, METADATA)},
        }
        (part / MANIFEST).write_text(manifest.sealed(content), encoding="utf-8")
    return folder


def load_dataset(name_or_path: str | Path, *, root: Path | None = None) -> Dataset:
    """Read a data set and check every byte of it.

    One written by :func:`save_dataset` opens in a fraction of a second. One from elsewhere is read episode by episode;
    its card says that propensities are not known.

    Raises:
        DatasetNotFoundError: nothing of that name; the message says what is near and how to make it.
        DatasetCorruptError: a file is missing, cut short or changed.
        DatasetInvalidError: the files are as they were written and make no sense.
    """
    folder = find(name_or_path, root)
    if not (folder / MANIFEST).exists():
        return _load_foreign(folder)
    content = manifest.unsealed(folder / MANIFEST)
    if content.get("format") != FORMAT or content.get("format_version") not in (DISCRETE, CONTINUOUS):
        raise DatasetInvalidError(
            f"{folder} is in format {content.get('format')!r} {content.get('format_version')!r}, "
            f"expected {FORMAT!r} {DISCRETE} or {CONTINUOUS}.",
            mend="Install the version of rlcourse that wrote it, or write it again with this one.",
        )
    if set(content["files"]) != {COLUMNS, MAIN, METADATA}:
        raise DatasetInvalidError(f"{folder}'s manifest lists other files than expected.", mend=manifest.MEND)
    manifest.verify(folder, content["files"])
    card = DatasetCard.from_json(content["card"])
    if content["format_version"] != _version(card):
        raise DatasetInvalidError(f"{folder}'s card does not fit its format version.", mend=manifest.MEND)
    episodes = _check(_read_columns(folder / COLUMNS, dtypes(continuous=card.continuous)), card)
    return Dataset(episodes, card, folder, content["checksum"], _size(folder))


def refuse_existing(name_or_path: str | Path, *, root: Path | None = None, overwrite: bool = False) -> None:
    """Raise :class:`DatasetExistsError` if saving there would replace something it may not."""
    folder = place(name_or_path, root)
    if not os.path.lexists(folder):
        return
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.is_dir() or not is_only_dataset(folder):
        raise DatasetExistsError(f"{folder} holds something that is no data set.", mend="Choose another name.")
    if not overwrite:
        raise DatasetExistsError(
            f"There already is a data set at {folder}.", mend="Choose another name, or say --overwrite to replace it."
        )


def dtypes(*, continuous: bool) -> dict[str, np.dtype[Any]]:
    """What each column is stored as."""
    return {**DTYPES, "actions": np.dtype(np.float32)} if continuous else DTYPES


def _version(card: DatasetCard) -> int:
    return CONTINUOUS if card.continuous else DISCRETE


def _check(episodes: Episodes, card: DatasetCard) -> Episodes:
    problem = misfit(episodes.validate(), card)
    if problem is not None:
        raise DatasetInvalidError(problem, mend="Look at how the data was collected; it cannot be learned from.")
    return episodes


def misfit(episodes: Episodes, card: DatasetCard) -> str | None:
    """What in sound episodes is not as the card says: the kind of actions, their number, their bounds."""
    if card.continuous != episodes.continuous:
        kinds = "continuous", "discrete"
        return f"Actions are {kinds[not episodes.continuous]}, but the card says {kinds[not card.continuous]}."
    if not card.continuous:
        highest, named = int(episodes.actions.max()), card.num_actions
        there_is = f"There is an action {highest}, but the card names {named} actions (0 to {named - 1})."
        return there_is if highest >= named else None
    size, bounds = episodes.actions.shape[-1], (card.action_low, card.action_high)
    if size != len(card.action_low):
        return f"An action is {size} numbers, but the card bounds {len(card.action_low)}."
    low, high = (np.asarray(bound, dtype=np.float64) for bound in bounds)
    slack = BOUND_TOLERANCE * (high - low)
    outside = (episodes.actions < low - slack) | (episodes.actions > high + slack)
    if not outside.any():
        return None
    step, entry = (int(index) for index in np.argwhere(outside)[0])
    return (
        f"Entry {entry} of action {step} is {episodes.actions[step, entry]:.6g}, outside {low[entry]:.6g} to "
        f"{high[entry]:.6g}; so are {int(outside.any(-1).sum())} actions in all."
    )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _columns(episodes: Episodes) -> bytes:
    with _memory_file("columns.hdf5") as file:
        for name in DTYPES:  # of every kind of actions: only their types differ
            file.create_dataset(name, data=getattr(episodes, name))
        return _image(file)


def _read_columns(path: Path, kinds: dict[str, np.dtype[Any]]) -> Episodes:
    try:
        with h5py.File(path, "r") as file:
            columns = {name: file[name][()] for name in kinds}
    except _UNREADABLE as error:
        raise DatasetInvalidError(
            f"{path} does not hold the columns of a data set: {error}.", mend=manifest.MEND
        ) from error
    for name, dtype in kinds.items():
        if not isinstance(columns[name], np.ndarray) or columns[name].dtype != dtype:
            raise DatasetInvalidError(f"Column {name} of {path} is not an array of {dtype}.", mend=manifest.MEND)
    return Episodes(**columns)


def _minari_groups(episodes: Episodes) -> bytes:
    """Minari's ``main_data.hdf5``: one group per episode, written through h5py's low-level interface.

    The high-level one spends most of its time on choices that are the same for every episode.
    """
    creation, grouping = h5p.create(h5p.DATASET_CREATE), h5p.create(h5p.GROUP_CREATE)
    for choices in (creation, grouping):
        choices.set_obj_track_times(False)  # the same data give the same bytes, whenever they are written
    kinds = {dtype: h5t.py_create(dtype, logical=True) for dtype in DTYPES.values()}  # actions have one of these, too
    scalar = h5s.create(h5s.SCALAR)
    spaces: dict[tuple[int, ...], Any] = {}

    def put(group: Any, name: bytes, values: Array) -> None:
        shape = values.shape
        if shape not in spaces:
            spaces[shape] = h5s.create_simple(shape)
        h5d.create(group, name, kinds[values.dtype], spaces[shape], creation).write(h5s.ALL, h5s.ALL, values)

    def mark(group: Any, name: bytes, value: int) -> None:
        integer = np.array(value, dtype=np.int64)
        h5a.create(group, name, kinds[integer.dtype], scalar).write(integer)

    longest = int(episodes.lengths.max())
    never, once = np.zeros(longest, dtype=np.bool_), np.zeros(longest, dtype=np.bool_)
    once[-1] = True
    first = 0
    with _memory_file("main_data.hdf5") as file:
        for index, (steps, terminated) in enumerate(
            zip(episodes.lengths.tolist(), episodes.terminated.tolist(), strict=True)
        ):
            end = first + steps
            group = h5g.create(file.id, b"episode_%d" % index, gcpl=grouping)
            mark(group, b"id", index)
            mark(group, b"total_steps", steps)
            put(group, b"observations", episodes.observations[first + index : end + index + 1])
            put(group, b"actions", episodes.actions[first:end])
            put(group, b"rewards", episodes.rewards[first:end])
            put(group, b"terminations", once[-steps:] if terminated else never[-steps:])
            put(group, b"truncations", never[-steps:] if terminated else once[-steps:])
            put(
                h5g.create(group, b"infos", gcpl=grouping),
                PROPENSITY.encode(),
                episodes.behaviour_probabilities[first:end],
            )
            first = end
        return _image(file)


def _memory_file(name: str) -> Any:
    # "latest" makes files a third smaller; every HDF5 since 1.10 (2016) reads them.
    return h5py.File(name, "w", driver="core", backing_store=False, block_size=1 << 24, libver=("v110", "v110"))


def _image(file: Any) -> bytes:
    file.flush()
    image: bytes = file.id.get_file_image()
    return image


def _minari_metadata(identity: str, episodes: Episodes, card: DatasetCard) -> str:
    box = gymnasium.spaces.Box(-np.inf, np.inf, episodes.observations.shape[1:], np.float32)
    content: dict[str, Any] = {
        "dataset_id": identity,
        "minari_version": minari.__version__,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "total_episodes": episodes.num_episodes,
        "total_steps": episodes.num_transitions,
        "dataset_size": round(2 * episodes.num_bytes / 1e6, 1),
        "observation_space": serialize_space(box),
        "action_space": serialize_space(_action_space(card)),
        "algorithm_name": card.behaviour,
        "description": f"{card.quality} data of {card.env_id}. Written by: {card.command or 'rlcourse'}",
        "requirements": [],
        "rlcourse_format": _version(card),
    }
    spec = gymnasium.registry.get(card.env_id)
    if spec is not None:
        content["env_spec"] = spec.to_json()
    return json.dumps(content, indent=2) + "\n"


def _action_space(card: DatasetCard) -> gymnasium.Space[Any]:
    if not card.continuous:
        return gymnasium.spaces.Discrete(card.num_actions)
    low, high = (np.asarray(bound, dtype=np.float32) for bound in (card.action_low, card.action_high))
    return gymnasium.spaces.Box(low, high, dtype=np.float32)


def _foreign_actions(folder: Path, space: gymnasium.Space[Any]) -> ActionSpace:
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        return DiscreteActions(int(space.n))
    if isinstance(space, gymnasium.spaces.Box) and space.dtype is not None and space.dtype.kind == "f":
        low, high = (torch.as_tensor(bound, dtype=torch.float32) for bound in (space.low, space.high))
        if low.dim() == 1 and bool((low.isfinite() & high.isfinite()).all()):
            return ContinuousActions(low, high)
    raise DatasetInvalidError(
        f"{folder} has actions of {space}.",
        mend="Only actions 0 to A - 1, or a bounded Box of numbers with one axis, can be used.",
    )


def _load_foreign(folder: Path) -> Dataset:
    """A Minari data set that this package did not write: no columns, no checksums, usually no propensities."""
    try:
        raw = json.loads(manifest.read_bytes(folder / METADATA))
        ours = "rlcourse_format" in raw
    except (ValueError, TypeError) as error:
        raise DatasetCorruptError(
            f"{folder / METADATA} is damaged: it cannot be read as JSON.", mend=manifest.MEND
        ) from error
    if ours or (folder / COLUMNS).exists():
        raise DatasetCorruptError(f"{folder / MANIFEST} is missing.", mend=manifest.MEND)
    try:
        source = minari.MinariDataset(folder / "data")
        spaces = source.observation_space, source.action_space
        if not (isinstance(spaces[0], gymnasium.spaces.Box) and len(spaces[0].shape or ()) == 1):
            raise DatasetInvalidError(
                f"{folder} has observations of {spaces[0]}.", mend="Only flat vectors can be used."
            )
        actions = _foreign_actions(folder, spaces[1])
        kinds = dtypes(continuous=isinstance(actions, ContinuousActions))
        found = source.storage.get_episodes(range(source.total_episodes))
        parts = [_foreign_episode(episode, kinds) for episode in found]
        env_id = source.env_spec.id if source.env_spec is not None else "unknown"
    except (*_UNREADABLE, AssertionError, IndexError) as error:
        raise DatasetCorruptError(
            f"{folder} cannot be read as a Minari data set: {error}.", mend=manifest.MEND
        ) from error
    if not parts:
        raise DatasetInvalidError(f"{folder} holds no episodes.", mend="Look at how the data was collected.")
    episodes = Episodes.concatenate(parts)
    unknown = int(np.isnan(episodes.behaviour_probabilities).sum())
    logged = "Propensities were logged." if not unknown else f"Propensities of {unknown} steps were not logged."
    card = DatasetCard(
        env_id=env_id,
        **DatasetCard.fields_of(actions),
        behaviour=str(raw.get("algorithm_name", "unknown")),
        details={
            "source": f"Minari data set {raw.get('dataset_id', folder.name)}, not written by rlcourse: no checksum.",
            "propensities": logged,
        },
        versions={"minari": str(raw.get("minari_version", "unknown"))},
    )
    return Dataset(_check(episodes, card), card, folder, None, _size(folder))


def _foreign_episode(episode: dict[str, Any], kinds: dict[str, np.dtype[Any]]) -> Episodes:
    steps = len(episode["actions"])
    if episode["terminations"][:-1].any() or episode["truncations"][:-1].any():
        raise DatasetInvalidError(f"Episode {episode['id']} goes on after its end.", mend="It cannot be learned from.")
    probabilities = np.asarray((episode["infos"] or {}).get(PROPENSITY, []), dtype=np.float32).reshape(-1)
    # Minari's collector logs one info at the reset too, before any action.
    probabilities = probabilities[1:] if len(probabilities) == steps + 1 else probabilities
    if len(probabilities) != steps:
        probabilities = np.full(steps, np.nan, dtype=np.float32)
    values: dict[str, Any] = {
        "observations": episode["observations"],
        "actions": episode["actions"],
        "rewards": episode["rewards"],
        "behaviour_probabilities": probabilities,
        "lengths": [steps],
        "terminated": [bool(episode["terminations"][-1])],
    }
    return Episodes(**{name: np.asarray(value, dtype=kinds[name]) for name, value in values.items()})
