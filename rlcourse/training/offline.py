"""The loop of every learner that learns from a log: draw a batch, update, evaluate now and then, keep a checkpoint."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.evaluation.returns import episode_returns
from rlcourse.experience.transitions import Transitions
from rlcourse.randomness import Seeds
from rlcourse.training.checkpoints import load_checkpoint, save_checkpoint
from rlcourse.training.metrics import logged
from rlcourse.vocabulary import ForesightedLearner, Learner, Metrics, NullTracker, Tracker

ANNEAL_EVERY = 50
"""Updates between two changes of the learning rate: often enough to be smooth, seldom enough to cost nothing."""


@dataclass(frozen=True)
class OfflineTrainingConfig:
    """How long to learn from a log and how often to look."""

    updates: int = 12_000
    """Gradient steps."""
    batch_size: int = 256
    """Transitions in one gradient step. Raise it for calmer steps, at the price of time."""
    gamma: float = 0.99
    """Discount. Closer to 1 looks further ahead and is learned more slowly."""
    n_step: int = 3
    """Steps of reality before the first estimate. Raise it to pass rewards back sooner; it then also inherits more of
    the log author's mistakes, because those steps are his."""
    reward_scale: float = 1.0
    """What rewards are multiplied by before a learner sees them; returns are always reported in the task's own units.
    A network begins near 0: where returns are in the hundreds or thousands, lower this until they are in the tens.
    Settings in units of return change meaning with it: CQL's alpha and gap and the temperature shrink by this factor,
    IQL's inverse temperature grows by it (0.1 here asks for ten times as much). TD3+BC's alpha stays."""
    normalise: bool = True
    """Show the networks observations with mean 0 and spread 1 over the log. Turn it off for inputs that are scaled
    already, or that the log hardly varies: divided by next to nothing, noise looks large. Whoever makes the learner
    obeys it (the recipes do)."""
    anneal: bool = True
    """Let the learning rate fall linearly to zero, so that the last policy is not whatever the last few batches made
    of it."""
    eval_every: int = 2_000
    """Gradient steps between evaluations. The last step is always evaluated."""
    eval_episodes: int = 100
    """Episodes in each evaluation."""

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "n_step", "eval_every", "eval_episodes"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} is {value}.", mend="Use 1 or more.")
        if not 0.0 < self.reward_scale < math.inf:  # below 0 the task would be turned round
            raise ConfigError(
                f"reward_scale is {self.reward_scale}.",
                mend="Use a number above 0, for example 0.1; 1 changes nothing.",
            )


@dataclass(frozen=True)
class Evaluation:
    """What the policy earned after so many updates."""

    update: int
    greedy_return: float
    stochastic_return: float


@dataclass
class OfflineRun:
    """What a training run leaves behind, the learner aside."""

    evaluations: list[Evaluation] = field(default_factory=list)
    seconds: float = 0.0
    """Time spent in updates; evaluations left out."""

    @property
    def last(self) -> float:
        """Greedy return after the last update: what a practitioner who cannot evaluate online would get."""
        return self.evaluations[-1].greedy_return

    @property
    def best(self) -> float:
        """Best greedy return on the way: what a practitioner who can evaluate online could have picked."""
        return max(evaluation.greedy_return for evaluation in self.evaluations)


def train_offline(
    learner: Learner,
    transitions: Transitions,
    env_id: str,
    config: OfflineTrainingConfig,
    *,
    seeds: Seeds,
    tracker: Tracker | None = None,
    checkpoint: Path | None = None,
    description: str = "",
) -> OfflineRun:
    """Train, and resume from ``checkpoint`` if a matching one is there.

    Args:
        learner: updated in place.
        transitions: all of them on the learner's device, with rewards as they were logged.
        env_id: where the policy is evaluated. Evaluation never feeds back into the training.
        config: lengths, and what rewards are multiplied by.
        seeds: batches and evaluations draw from its streams.
        tracker: gets ``eval/*`` and ``loss/*``.
        checkpoint: a file, written at every evaluation and removed when the run is complete. It is bound to the
            settings, the seed, the learner and the data it was started with.
        description: shown beside the progress bar; an empty one shows none.

    Raises:
        TrainingDivergedError: a metric stopped being finite.
        ConfigError: the checkpoint belongs to another run.
        ArtifactError: the checkpoint is damaged.
    """
    tracker = tracker or NullTracker()
    device = transitions.obs.device
    drawing = seeds.torch("batches", device)
    run, done = OfflineRun(), 0
    identity = {} if checkpoint is None else _identity(learner, transitions, env_id, config, seeds)
    if checkpoint is not None and checkpoint.exists():
        run, done = _resume(checkpoint, learner, drawing, identity)
    transitions = transitions.with_rewards_scaled(config.reward_scale)
    if isinstance(learner, ForesightedLearner):
        learner.read_ahead(transitions.next_obs)
    quiet = None if description else True  # None: a bar on a terminal, silence elsewhere
    bar = tqdm(total=config.updates, initial=done, desc=description, unit="update", disable=quiet)
    while done < config.updates:
        steps = min(config.eval_every - done % config.eval_every, config.updates - done)
        started = time.perf_counter()
        metrics: Metrics = {}
        for update in range(done, done + steps):
            if config.anneal and update % ANNEAL_EVERY == 0:
                learner.anneal(1.0 - update / config.updates)
            metrics = learner.update(transitions.sample(config.batch_size, drawing))
        losses = logged(metrics)  # waits for the device: time is honest
        run.seconds += time.perf_counter() - started
        done += steps
        bar.update(steps)
        _refuse_divergence(losses, done)
        evaluation = evaluate(learner, env_id, done, config.eval_episodes, seeds, device)
        run.evaluations.append(evaluation)
        bar.set_postfix_str(f"greedy return {evaluation.greedy_return:.0f}")
        tracker.log(
            {
                "eval/greedy_return": evaluation.greedy_return,
                "eval/stochastic_return": evaluation.stochastic_return,
                **losses,
            },
            step=done,
        )
        if checkpoint is not None and done < config.updates:
            save_checkpoint(checkpoint, _state(learner, drawing, run, done, identity))
    bar.close()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return run


def evaluate(
    learner: Learner, env_id: str, update: int, num_episodes: int, seeds: Seeds, device: torch.device
) -> Evaluation:
    """Mean greedy and sampled returns over ``num_episodes`` episodes each, on states no training run has seen.

    Every evaluation starts from the same first states, so that a curve moves because the policy did.
    """
    family = seeds.child("evaluation")
    greedy, sampled = (
        episode_returns(learner.policy, env_id, num_episodes=num_episodes, greedy=choice, seeds=family, device=device)
        for choice in (True, False)
    )
    return Evaluation(update, float(np.mean(greedy)), float(np.mean(sampled)))


def _refuse_divergence(losses: dict[str, float], update: int) -> None:
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise TrainingDivergedError(
            f"{', '.join(bad)} stopped being finite by update {update}.",
            mend="Lower the learning rate or the target rate, or reward_scale where returns are large.",
        )


def _state(
    learner: Learner, drawing: torch.Generator, run: OfflineRun, done: int, identity: dict[str, Any]
) -> dict[str, Any]:
    return {
        "learner": learner.state_dict(),
        "drawing": drawing.get_state(),
        "evaluations": [asdict(evaluation) for evaluation in run.evaluations],
        "seconds": run.seconds,
        "done": done,
        "identity": identity,
    }


def _identity(
    learner: Learner, transitions: Transitions, env_id: str, config: OfflineTrainingConfig, seeds: Seeds
) -> dict[str, Any]:
    """What a run must share with the one that wrote a checkpoint, or the two do not belong together."""
    digest = hashlib.sha256()
    for column in (transitions.obs, transitions.action, transitions.reward, transitions.discount, transitions.next_obs):
        digest.update(column.cpu().numpy().tobytes())
    return {
        "config": asdict(config),
        "learner": f"{type(learner).__name__} {getattr(learner, 'config', '')}",
        "env_id": env_id,
        "seed": seeds.seed,
        "data": digest.hexdigest(),
    }


def _resume(
    checkpoint: Path, learner: Learner, drawing: torch.Generator, identity: dict[str, Any]
) -> tuple[OfflineRun, int]:
    state = load_checkpoint(checkpoint)
    other = [name for name, value in identity.items() if state["identity"][name] != value]
    if other:
        raise ConfigError(
            f"The checkpoint {checkpoint} belongs to a run with another {' and another '.join(other)}.",
            mend="Use the words the run was started with, or remove the file to begin again.",
        )
    learner.load_state_dict(state["learner"])
    drawing.set_state(state["drawing"].cpu())
    return OfflineRun([Evaluation(**row) for row in state["evaluations"]], state["seconds"]), state["done"]
