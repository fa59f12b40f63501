"""``rlcourse offline import``: a log that somebody else wrote becomes a data set like any other."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from rlcourse.experience.elsewhere.reading import UNKNOWN, read_log
from rlcourse.experience.elsewhere.schema import Schema
from rlcourse.experience.minari_files import refuse_existing, save_dataset
from rlcourse.recipes.common import NO_PREFIX, Common, report, say, show_result, write_report

_ELSEWHERE = ("source", "name", "columns", "seed", "device", "json", "root", "overwrite")


@dataclass(frozen=True, kw_only=True)
class Import(Common):
    """Read somebody else's log, check it, and keep it as a Minari data set with a checksum.

    Nothing here is random and nothing runs on an accelerator; --seed and --device change nothing.

    Example: rlcourse offline import hopper_medium-v2.hdf5 --name hopper/d4rl-v2 --env Hopper-v5

    Example: rlcourse offline import plant.csv --name plant/log-v0 --schema plant.toml

    Example: rlcourse offline import mujoco/hopper/medium-v0 --name hopper/medium-v0
    """

    source: tyro.conf.Positional[str]
    """A file: D4RL's .hdf5, .npz, .csv, .parquet, or .pkl; a Minari data set's folder or name; or a name on Minari's server,
    which is then fetched."""
    name: str
    """Name under the Minari root, or a path."""
    env: str = UNKNOWN
    """Gymnasium name of the task, where it has one: it says what could be done, and where policies are evaluated."""
    schema: Path | None = None
    """A .toml or .json file that says which column is what; its keys are the options below, with _ for -."""
    columns: Annotated[Schema, NO_PREFIX] = field(default_factory=Schema)
    """Which column is what; what is said here overrules the file."""
    quality: str = "unknown"
    """A word for how good whoever acted was."""
    behaviour: str = "unknown"
    """Who acted, in words."""
    trust_pickle: bool = False
    """Open a pickle. Nothing but NumPy arrays and plain containers is read from it, whatever it asks for."""
    cut_at_gaps: bool = False
    """Where a next observation is not what is seen next, an episode was cut off. Without this it is an error."""
    root: Path | None = None
    """Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets."""
    overwrite: bool = False
    """Replace a data set of that name. The old one stays until the new one is complete."""


def run(config: Import) -> int:
    """Read, check, save, report."""
    started = time.perf_counter()
    if not config.overwrite:
        refuse_existing(config.name, root=config.root)  # before the work, not after it
    declared = config.columns
    if config.schema is not None:
        declared = Schema.load(config.schema).overridden_by(declared)
    say(f"reading {config.source}")
    found = read_log(
        config.source,
        declared,
        env_id=config.env,
        trust_pickle=config.trust_pickle,
        cut_at_gaps=config.cut_at_gaps,
        root=config.root,
    )
    said = {name: getattr(config, name) for name in ("quality", "behaviour") if getattr(config, name) != UNKNOWN}
    card = replace(found.card, **said, command=_command(config))
    folder = save_dataset(config.name, found.episodes, card, root=config.root, overwrite=config.overwrite)
    episodes, returns = found.episodes, found.episodes.returns()
    known = float((~np.isnan(episodes.behaviour_probabilities)).mean())
    dropped = int(card.details.get("last_steps_left_out", 0))
    seconds = time.perf_counter() - started
    lines = [
        f"{config.name}: {episodes.num_transitions} transitions in {episodes.num_episodes} episodes, "
        f"mean return {returns.mean():.1f}, propensities of {known:.0%} of the steps, {seconds:.1f} s",
        f"written to {folder}",
    ]
    if dropped:
        lines.append(
            f"{dropped} episodes were cut off and do not say what was seen last: their last steps are left out"
        )
    show_result("\n".join(lines), config.json)
    row = {
        "dataset": config.name,
        "source": config.source,
        "env": card.env_id,
        "steps": episodes.num_transitions,
        "episodes": episodes.num_episodes,
        "mean_return": float(returns.mean()),
        "propensities": known,
        "last_steps_left_out": dropped,
        "path": str(folder),
    }
    write_report(config.json, report("offline import", config, seconds=seconds, results=[row]))
    return 0


def _command(config: Import) -> str:
    """The words that say this again; where the data sets lie and what is reported are no part of it."""
    words = ["rlcourse", "offline", "import", config.source, "--name", config.name]
    for part in (config, config.columns):
        for one in fields(part):
            value = getattr(part, one.name)
            if one.name in _ELSEWHERE or value in (one.default, ()):
                continue
            words.append("--" + one.name.replace("_", "-"))
            words += [] if value is True else [str(item) for item in (value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)
