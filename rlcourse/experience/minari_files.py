"""Data sets on the disk: Minari's format, with flat columns beside it and a checksum over every byte.

::

    cartpole/mixed-v0/
    ├── manifest.json          card, format, and the SHA-256 of every other file and of itself
    └── data/
        ├── main_data.hdf5     Minari's layout, one group per episode: what minari.load_dataset reads
        ├── metadata.json      Minari's description
        └── columns.hdf5       the same numbers end to end: what this package reads

One group per episode is slow to open: a million CartPole transitions are some 45,000 groups. Decision record 1 says
why the columns are kept twice. Nothing here is pickled, and nothing read is executed.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
from minari.dataset.minari_storage import MinariStorage

from rlcourse.errors import DatasetCorruptError, DatasetExistsError, DatasetInvalidError, DatasetNotFoundError
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.episodes import Episodes
from rlcourse.files import atomic_directory, sha256_of

FORMAT = 1
MANIFEST = "manifest.json"
COLUMNS = "data/columns.hdf5"
PROPENSITY = "behaviour_probability"
VERSIONED = ("rlcourse", "torch", "numpy", "gymnasium", "minari", "h5py")


@dataclass(frozen=True)
class Dataset:
    """What a file held, and proof of which file it was."""

    episodes: Episodes
    card: DatasetCard
    checksum: str  # SHA-256 of the columns, or of Minari's own file where there are none
    folder: Path


def datasets_root(root: Path | None) -> Path:
    """The folder of the data sets: ``root``, ``$MINARI_DATASETS_PATH``, or Minari's default."""
    if root is not None:
        return root
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def dataset_folder(name_or_path: str | Path, root: Path | None = None) -> Path:
    """Where a data set is or would be. An existing folder or anything that starts with / or . is taken as a path."""
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.is_absolute() or text.startswith(".") or (path / "data").is_dir():
        return path
    return datasets_root(root) / text


def list_datasets(root: Path | None = None) -> list[str]:
    """The names of all data sets under the root."""
    top = datasets_root(root)
    found = (folder.parent for folder in top.rglob("data") if (folder / "metadata.json").exists())
    return sorted(str(f.relative_to(top)) for f in found if not any(part.startswith(".") for part in f.parts[len(top.parts) :]))


def refuse_existing(name_or_path: str | Path, *, root: Path | None = None) -> None:
    """Raise :class:`DatasetExistsError` if something is already there."""
    folder = dataset_folder(name_or_path, root)
    if folder.exists():
        raise DatasetExistsError(
            f"There is a data set {name_or_path} already, in {folder}.",
            mend="Choose another --name, or allow it to be replaced with --overwrite.",
        )


def save_dataset(
    name_or_path: str | Path, episodes: Episodes, card: DatasetCard, *, root: Path | None = None, overwrite: bool = False
) -> Path:
    """Write a data set; one that was there before stays whole until this one is complete.

    Returns:
        Its folder.

    Raises:
        DatasetInvalidError: the episodes cannot be what they claim.
        DatasetExistsError: there is one already, and ``overwrite`` is false.
        StorageError: the disk is full or not writable.
    """
    _validate(episodes, card)
    if not overwrite:
        refuse_existing(name_or_path, root=root)
    folder = dataset_folder(name_or_path, root)
    card = replace(card, versions=_versions())
    with atomic_directory(folder) as part:
        with _full_disk_is_an_os_error(part):
            _write_minari(part / "data", str(name_or_path), episodes, card)
            _write_columns(part / COLUMNS, episodes)
        _write_manifest(part, card)
    return folder


def load_dataset(name_or_path: str | Path, *, root: Path | None = None) -> Dataset:
    """Read a data set and verify every byte of it.

    A Minari data set that some other program wrote has no manifest; it is read episode by episode, its propensities
    are unknown (NaN), and its card says so.

    Raises:
        DatasetNotFoundError: nothing there.
        DatasetCorruptError: a byte differs from what was written, or a file is missing.
        DatasetInvalidError: intact, but impossible.
    """
    folder = dataset_folder(name_or_path, root)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise _not_found(name_or_path, root)
    if not (folder / MANIFEST).exists():
        if (folder / COLUMNS).exists():
            raise _corrupt(folder, f"{MANIFEST} is missing")
        return _load_foreign(folder, name_or_path)
    card, checksum = _verified(folder)
    try:
        with h5py.File(folder / COLUMNS, "r", locking=False) as file:
            episodes = Episodes(**{name: file[name][()] for name in Episodes.__dataclass_fields__})
    except (OSError, KeyError) as error:
        raise DatasetInvalidError(f"The columns of {folder} cannot be read: {error}.", mend="Generate it again.") from error
    return Dataset(_validate(episodes, card), card, checksum, folder)


def _validate(episodes: Episodes, card: DatasetCard) -> Episodes:
    episodes.validate()
    highest = int(episodes.actions.max())
    if highest >= card.num_actions:
        raise DatasetInvalidError(
            f"There is an action {highest}, and {card.env_id} has {card.num_actions} actions.",
            mend="Actions are counted from 0; look at how the data was collected.",
        )
    return episodes


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}}


def _write_minari(data: Path, name: str, episodes: Episodes, card: DatasetCard) -> None:
    spec = gym.spec(card.env_id) if card.env_id in gym.registry else None
    width = episodes.observations.shape[1]
    observation_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)
    storage = MinariStorage.new(data, observation_space, gym.spaces.Discrete(card.num_actions), spec)
    _write_episode_groups(data / "main_data.hdf5", episodes)
    storage.update_metadata(
        {
            "total_steps": episodes.num_transitions,
            "total_episodes": episodes.num_episodes,
            "dataset_size": storage.get_size(),
            "dataset_id": name,
            "minari_version": metadata.version("minari"),
            "algorithm_name": card.behaviour,
            "description": f"{card.quality} data on {card.env_id}. {card.command}".strip(),
        }
    )


def _write_episode_groups(path: Path, episodes: Episodes) -> None:
    """Minari's layout, written as Minari writes it but for the options that make small groups slow and large.

    Minari tracks the order in which members were added: 18 kB and 10 ms an episode here, against 3 kB and 1 ms
    without. Its reader asks for members by name and never for their order.
    """
    first_steps = episodes.first_steps().tolist()
    with h5py.File(path, "w", libver="latest") as file:
        for index, (first, length) in enumerate(zip(first_steps, episodes.lengths.tolist(), strict=True)):
            steps = slice(first, first + length)
            terminations, truncations = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
            (terminations if episodes.terminated[index] else truncations)[-1] = True
            group = file.create_group(f"episode_{index}")
            group.attrs["id"] = index
            group.attrs["total_steps"] = length
            group.create_dataset("observations", data=episodes.observations[first + index : first + index + length + 1])
            group.create_dataset("actions", data=episodes.actions[steps])
            group.create_dataset("rewards", data=episodes.rewards[steps])
            group.create_dataset("terminations", data=terminations)
            group.create_dataset("truncations", data=truncations)
            # Minari's infos begin with the one from reset, so the propensity of action t stands at t + 1.
            propensities = np.concatenate([[np.float32(np.nan)], episodes.behaviour_probabilities[steps]])
            group.create_dataset(f"infos/{PROPENSITY}", data=propensities)


def _write_columns(path: Path, episodes: Episodes) -> None:
    with h5py.File(path, "w") as file:
        for name in Episodes.__dataclass_fields__:
            file.create_dataset(name, data=getattr(episodes, name))


def _write_manifest(part: Path, card: DatasetCard) -> None:
    files = {str(p.relative_to(part)): sha256_of(p) for p in sorted(part.rglob("*")) if p.is_file()}
    manifest: dict[str, Any] = {"format": FORMAT, "card": asdict(card), "files": files}
    manifest["self"] = _digest(manifest)
    (part / MANIFEST).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _digest(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "self"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _verified(folder: Path) -> tuple[DatasetCard, str]:
    """Check every file against the manifest, and the manifest against itself."""
    text = (folder / MANIFEST).read_bytes()
    try:
        manifest = json.loads(text)
        canonical = (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode()
        # Comparing the bytes too catches a change that JSON would not notice, such as a space turned into a tab.
        intact = canonical == text and manifest["self"] == _digest(manifest)
        version, files = manifest["format"], manifest["files"]
    except (ValueError, KeyError, TypeError):
        raise _corrupt(folder, f"{MANIFEST} is damaged") from None
    if not intact:
        raise _corrupt(folder, f"{MANIFEST} is damaged")
    if version != FORMAT:
        raise DatasetInvalidError(f"{folder} has format {version}.", mend=f"This version reads format {FORMAT}.")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise _corrupt(folder, f"{missing[0]} is missing")
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter's lock
        found = dict(zip(files, pool.map(lambda name: sha256_of(folder / name), files), strict=True))
    changed = [name for name, digest in files.items() if found[name] != digest]
    if changed:
        raise _corrupt(folder, f"{changed[0]} is not what was written")
    return DatasetCard(**manifest["card"]), files[COLUMNS]


def _load_foreign(folder: Path, name: str | Path) -> Dataset:
    try:
        dataset = minari.MinariDataset(folder / "data")
        parts = list(dataset.iterate_episodes())
        space, spec = dataset.action_space, dataset.env_spec
    except (OSError, KeyError, ValueError, AssertionError) as error:
        raise _corrupt(folder, f"Minari cannot read it ({error})") from error
    if not isinstance(space, gym.spaces.Discrete) or not parts or not isinstance(parts[0].observations, np.ndarray):
        raise DatasetInvalidError(
            f"{name} has actions {space}.", mend="Data sets with number vectors and discrete actions can be used here."
        )
    episodes = Episodes(
        observations=np.concatenate([p.observations.reshape(len(p.observations), -1) for p in parts]).astype(np.float32),
        actions=np.concatenate([p.actions for p in parts]).astype(np.int64) - int(space.start),
        rewards=np.concatenate([p.rewards for p in parts]).astype(np.float32),
        behaviour_probabilities=np.full(sum(len(p) for p in parts), np.nan, dtype=np.float32),
        lengths=np.array([len(p) for p in parts], dtype=np.int64),
        terminated=np.array([bool(p.terminations[-1]) for p in parts]),
    )
    card = DatasetCard(
        env_id=spec.id if spec is not None else "unknown",
        num_actions=int(space.n),
        behaviour="unknown: a Minari data set without this package's manifest, so without propensities",
    )
    return Dataset(_validate(episodes, card), card, sha256_of(folder / "data" / "main_data.hdf5"), folder)


class _full_disk_is_an_os_error:
    """HDF5 reports a full disk now as OSError without a number, now as RuntimeError; ask the disk which it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError | RuntimeError) or getattr(error, "errno", None):
            return
        status = os.statvfs(self.folder)
        full = status.f_bavail * status.f_frsize < 1 << 20 or "No space left" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error


def _corrupt(folder: Path, problem: str) -> DatasetCorruptError:
    return DatasetCorruptError(
        f"The data set in {folder} is damaged: {problem}.",
        mend="Copy it again from where it came from, or make it again with rlcourse offline generate --overwrite.",
    )


def _not_found(name_or_path: str | Path, root: Path | None) -> DatasetNotFoundError:
    near = difflib.get_close_matches(str(name_or_path), list_datasets(root), n=3, cutoff=0.4)
    meant = f"Did you mean {' or '.join(near)}?" if near else "Make one with rlcourse offline generate --quality mixed."
    return DatasetNotFoundError(
        f"There is no data set {name_or_path} under {datasets_root(root)}, nor at that path.", mend=meant
    )
