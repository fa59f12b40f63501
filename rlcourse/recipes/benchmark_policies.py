"""The policies of a benchmark's trials, as what ``rlcourse serve``, ``export`` and ``ope`` read.

::

    runs/benchmark/CartPole-v1-ppo-0-1a2b3c4d5e6f/
    ├── result.json     what it earned
    └── policy/         kept with every trial ──▶ a copy in --output-policies: CartPole-v1-ppo-0/
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from rlcourse.deployment.artifact import PolicyArtifact, refuse_anything_else
from rlcourse.deployment.limits import observation_limits
from rlcourse.environments.observation_range import observation_range
from rlcourse.errors import ConfigError
from rlcourse.files import atomic_directory
from rlcourse.recipes.common import plain, versions
from rlcourse.recipes.provenance import code
from rlcourse.training.online import BASELINES, ONLINE_ALGORITHMS
from rlcourse.training.runs import TrainingRun
from rlcourse.vocabulary import Policy

POLICY = "policy"


class SavedTrial(Protocol):
    """What is asked of a trial here."""

    @property
    def env(self) -> str:
        """A Gymnasium name."""
        ...

    @property
    def algorithm(self) -> str:
        """One of ``rlcourse.training.online.ONLINE_ALGORITHMS``."""
        ...

    @property
    def seed(self) -> int:
        """From which everything random in it followed."""
        ...

    @property
    def num_steps(self) -> int | None:
        """Environment steps, in place of the settings'."""
        ...

    @property
    def settings(self) -> Any:
        """:class:`rlcourse.training.online.OnlineSettings`."""
        ...

    @property
    def name(self) -> str:
        """As in ``CartPole-v1-ppo-0``."""
        ...

    @property
    def folder(self) -> Path:
        """Where the finished trial lies."""
        ...


def can_be_saved(algorithm: str) -> bool:
    """Whether an artifact can hold what this algorithm makes: a network of this package's."""
    return algorithm in ONLINE_ALGORITHMS and algorithm not in BASELINES


def artifact_of(trial: SavedTrial, policy: Policy, outcome: TrainingRun) -> PolicyArtifact:
    """The policy at the end of a trial, with where it comes from, what it earned and between which bounds it was at home.

    Of a task without bounds nothing is known here: there is no log to take them from.
    """
    loop = trial.settings.loop
    end = outcome.evaluations[-1]
    return PolicyArtifact.from_policy(
        policy,
        algorithm=trial.algorithm,
        env_id=trial.env,
        provenance={
            "environment": trial.env,
            "seed": trial.seed,
            "num_steps": trial.num_steps or loop.num_steps,
            "config": plain(trial.settings),
            "versions": versions(),
            "code": code(),
        },
        evaluation=plain(
            {
                "episodes": loop.eval_episodes,
                "greedy_return": end.greedy_return,
                "best_greedy_return": outcome.best,
                "step": end.step,
            }
        ),
        **observation_limits(observation_range(trial.env)),
    )


def refuse_others(folder: Path, trials: Iterable[SavedTrial]) -> None:
    """As ``refuse_anything_else`` of an artifact's folder, for every trial's place in ``folder``.

    Raises:
        ArtifactError: something that is no policy is at one of them.
        ConfigError: a trial was finished by a version of this package that kept no policies.
    """
    for trial in trials:
        if can_be_saved(trial.algorithm):
            refuse_anything_else(folder / trial.name)
            if trial.folder.exists() and not (trial.folder / POLICY).exists():
                raise ConfigError(
                    f"{trial.folder} holds what {trial.name} earned, and not its policy.",
                    mend="Remove that folder, or name another --folder: the trial is then run again.",
                )


def hand_out(folder: Path, trials: Iterable[SavedTrial]) -> int:
    """Copy the policies of finished trials into ``folder``, each whole or not at all; returns how many.

    Raises:
        StorageError: the disk is full or not writable.
    """
    written = 0
    for trial in trials:
        if can_be_saved(trial.algorithm):
            with atomic_directory(folder / trial.name) as part:
                shutil.copytree(trial.folder / POLICY, part, dirs_exist_ok=True)
            written += 1
    return written
