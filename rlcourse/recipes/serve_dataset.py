"""``rlcourse serve dataset``: what a service decided, and what came of it, becomes a data set like any other."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from rlcourse.errors import ConfigError
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.minari_files import refuse_existing, save_dataset
from rlcourse.recipes.common import Common, report, show_result, write_report
from rlcourse.serving.decisions import Joined, read_episodes


@dataclass(frozen=True, kw_only=True)
class Dataset(Common):
    """Join a service's decision log with its rewards and keep it as a Minari data set, propensities included.

    Nothing here is random and nothing runs on an accelerator; --seed and --device change nothing.

    Example: rlcourse serve dataset runs/served/decisions --name room/served-v0 --env rlcourse/ServerRoom-v0 --num-actions 5
    """

    log: tyro.conf.Positional[Path]
    """Folder of the decision log."""
    name: str
    """Name under the Minari root, or a path."""
    env: str
    """Gymnasium name of the task, or a word for it."""
    policy: str | None = None
    """Only the decisions that this policy was asked for. Needed where the log holds several."""
    version: str | None = None
    """Only the decisions of this version. Needed where the versions' observations are not of one length."""
    num_actions: int | None = None
    """How many actions there are. By default as many as the decisions and their masks show. Not for continuous actions."""
    as_taken: bool = False
    """Continuous actions as the environment got them. Where a bound cut one off, nobody knows its density then."""
    quality: str = "unknown"
    """A word for how good whoever acted was."""
    root: Path | None = None
    """Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets."""
    overwrite: bool = False
    """Replace a data set of that name. The old one stays until the new one is complete."""


def run(config: Dataset) -> int:
    """Join, save, report what could not be used."""
    started = time.perf_counter()
    if not config.overwrite:
        refuse_existing(config.name, root=config.root)  # before the work, not after it
    joined = read_episodes(
        config.log,
        config.policy,
        version=config.version,
        as_taken=config.as_taken,
        num_actions=config.num_actions,
    )
    episodes = joined.episodes
    versions = Counter(joined.versions)
    left_out = {
        "without_reward": joined.without_reward,
        "unusable": joined.unusable,
        "overridden_by_no_action": joined.no_action,
        "given_up": joined.given_up,
        "orphans": joined.orphans,
        "conflicts": joined.conflicts,
        "misfits": joined.misfits,
    }
    card = DatasetCard(
        env_id=config.env,
        **_actions(joined, config.num_actions),
        quality=config.quality,
        behaviour="a policy service: "
        + ", ".join(f"version {name} {count}x" for name, count in versions.most_common()),
        details={
            "decisions": joined.decisions,
            "steps_by_version": dict(versions),
            "steps_by_fallback": dict(Counter(reason for reason in joined.fallbacks if reason is not None)),
            "actions_cut_off_by_a_bound": joined.cut_off,
            "steps_by_override": dict(Counter(reason for reason in joined.overrides if reason is not None)),
            **left_out,
        },
    )
    folder = save_dataset(config.name, episodes, card, root=config.root, overwrite=config.overwrite)
    seconds = time.perf_counter() - started
    known = float((~np.isnan(episodes.behaviour_probabilities)).mean())
    lines = [
        f"{config.name}: {episodes.num_transitions} of {joined.decisions} decisions in {episodes.num_episodes} episodes, "
        f"mean return {episodes.returns().mean():.1f}, propensities of {known:.0%} of the steps, {seconds:.1f} s",
        f"left out: {joined.without_reward} without a reward, {joined.unusable} with readings missing, "
        f"{joined.no_action} overridden by no action{_unnamed(joined, config)}, {joined.given_up} at the end of episodes "
        f"that were cut off; {joined.orphans} rewards belong to no decision",
        *_unclear(joined),
        f"written to {folder}",
    ]
    show_result("\n".join(lines), config.json)
    row: dict[str, Any] = {
        "dataset": config.name,
        "env": config.env,
        "decisions": joined.decisions,
        "steps": episodes.num_transitions,
        "episodes": episodes.num_episodes,
        "mean_return": float(episodes.returns().mean()),
        "propensities": known,
        **left_out,
        "path": str(folder),
    }
    write_report(config.json, report("serve dataset", config, seconds=seconds, results=[row]))
    return 0


def _unclear(joined: Joined) -> list[str]:
    """What clients should mend, where there is any of it."""
    said = {
        "decisions left out: their request id is also another's, and the reward named no session": joined.conflicts,
        "next observations passed over: of another length, or beyond 32 bits": joined.misfits,
    }
    return [f"{count} {words}" for words, count in said.items() if count]


def _unnamed(joined: Joined, config: Dataset) -> str:
    guessed = joined.no_action and not joined.episodes.continuous and config.num_actions is None
    return " that was ever chosen (--num-actions says how many there are)" if guessed else ""


def _actions(joined: Joined, num_actions: int | None) -> dict[str, Any]:
    """What the card says could be done; for continuous actions the box that just holds what was logged."""
    actions = joined.episodes.actions
    if actions.ndim == 1:
        return {"num_actions": joined.num_actions}
    if num_actions is not None:
        raise ConfigError("The log's actions are numbers within bounds.", mend="Leave --num-actions out.")
    low, high = actions.min(0), actions.max(0)
    # A box has to have some width.
    high = np.where(high > low, high, np.nextafter(low, np.inf, dtype=np.float32))
    return {"action_low": tuple(low.tolist()), "action_high": tuple(high.tolist())}
