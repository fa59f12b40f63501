"""``rlcourse offline train``: one algorithm, one seed, one data set."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from rlcourse.deployment.artifact import PolicyArtifact, refuse_anything_else
from rlcourse.deployment.limits import observation_limits
from rlcourse.devices import resolve_device, torch_threads, wide_products
from rlcourse.environments import check_known
from rlcourse.environments.observation_range import observation_range
from rlcourse.experience.minari_files import Dataset, load_dataset
from rlcourse.experience.transitions import Transitions
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import NO_PREFIX, Common, plain, report, say, show_result, versions, write_report
from rlcourse.recipes.provenance import code
from rlcourse.training.learners import OfflineAlgorithm, OfflineConfigs, offline_learner
from rlcourse.training.offline import OfflineRun, OfflineTrainingConfig, train_offline
from rlcourse.training.trackers import tracker_for
from rlcourse.vocabulary import TaskSpec, Tracker


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Train one algorithm on a data set.

    Example: rlcourse offline train --dataset cartpole/mixed-v0 --algorithm cql --output runs/cql
    """

    dataset: str
    """Name under the Minari root, or a path."""
    algorithm: OfflineAlgorithm = "iql"
    """bc, cql or iql; td3-bc too where actions are continuous."""
    training: Annotated[OfflineTrainingConfig, NO_PREFIX] = field(default_factory=OfflineTrainingConfig)
    """How long, and with which discount."""
    settings: Annotated[OfflineConfigs, NO_PREFIX] = field(default_factory=OfflineConfigs)
    """Settings of the algorithms; only the chosen one's are read."""
    output: Path | None = None
    """Folder for the policy. A run that was interrupted goes on from its checkpoint there."""
    tracker: str | None = None
    """Where metrics go while training, for example csv:runs/cql.csv, tensorboard:runs/cql, mlflow or prometheus:PORT."""
    root: Path | None = None
    """Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets."""


def run(config: Train) -> int:
    """Train, save, report."""
    started = time.perf_counter()
    training = config.training
    if config.output is not None:
        refuse_anything_else(config.output)  # before the work, not after it
    device = resolve_device(config.device)
    dataset = load_dataset(config.dataset, root=config.root)
    check_known(dataset.card.env_id)
    with torch_threads(1), closing(tracker_for(config.tracker, run_name(config.algorithm, config.seed))) as tracker:
        outcome, artifact = train_once(
            dataset,
            config.dataset,
            config.algorithm,
            config.seed,
            training,
            config.settings,
            device=device,
            checkpoint=None if config.output is None else config.output.parent / f".{config.output.name}.checkpoint",
            description=config.algorithm,
            tracker=tracker,
        )
    if config.output is not None:
        artifact.save(config.output)
        say(f"policy written to {config.output}")
    row = result_row(config.algorithm, config.dataset, config.seed, outcome, training)
    text = (
        f"{config.algorithm} on {config.dataset}, seed {config.seed}: greedy return {outcome.last:.1f} at the end, "
        f"{outcome.best:.1f} at best, {outcome.evaluations[-1].stochastic_return:.1f} when sampling; "
        f"{training.updates} updates in {outcome.seconds:.1f} s"
    )
    show_result(text, config.json)
    write_report(config.json, report("offline train", config, seconds=time.perf_counter() - started, results=[row]))
    return 0


def train_once(
    dataset: Dataset,
    name: str,
    algorithm: str,
    seed: int,
    training: OfflineTrainingConfig,
    configs: OfflineConfigs,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    description: str = "",
    tracker: Tracker | None = None,
) -> tuple[OfflineRun, PolicyArtifact]:
    """One run, from a loaded data set to a policy that can be saved."""
    seeds = Seeds(seed)
    card = dataset.card
    transitions = Transitions.from_episodes(
        dataset.episodes, gamma=training.gamma, actions=card.actions, n_step=training.n_step, device=device
    )
    spec = transitions.spec()
    if not training.normalise:
        spec = TaskSpec.unscaled(spec.obs_mean.shape[0], transitions.actions, device)
    learner = offline_learner(algorithm, spec, seeds, configs)
    settings = configs.of(algorithm, transitions.actions)
    with wide_products(max(settings.hidden)):
        outcome = train_offline(
            learner,
            transitions,
            card.env_id,
            training,
            seeds=seeds,
            tracker=tracker,
            checkpoint=checkpoint,
            description=description,
        )
    artifact = PolicyArtifact.from_policy(
        learner.policy,
        algorithm=algorithm,
        env_id=card.env_id,
        provenance={
            "dataset": name,
            "dataset_checksum": dataset.checksum,
            "dataset_seed": card.seed,
            "seed": seed,
            "training": plain(training),
            "config": plain(settings),
            "versions": versions(),
            "code": code(),
        },
        evaluation={"episodes": training.eval_episodes, **plain(outcome.evaluations[-1])},
        **observation_limits(observation_range(card.env_id), dataset.episodes.observations),
    )
    return outcome, artifact


def run_name(algorithm: str, seed: int) -> str:
    """What a run is called where metrics go, as in ``cql-0``."""
    return f"{algorithm}-{seed}"


def result_row(
    algorithm: str, dataset: str, seed: int, outcome: OfflineRun, training: OfflineTrainingConfig
) -> dict[str, Any]:
    """One entry of ``results`` in a report."""
    return {
        "algorithm": algorithm,
        "dataset": dataset,
        "seed": seed,
        "last": outcome.last,
        "best": outcome.best,
        "last_stochastic": outcome.evaluations[-1].stochastic_return,
        "updates": training.updates,
        "seconds": round(outcome.seconds, 3),
        "curve": [[evaluation.update, evaluation.greedy_return] for evaluation in outcome.evaluations],
    }
