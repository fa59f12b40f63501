"""The loop of every learner that learns from what its own policy just did."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from rlcourse.environments import BatchedEnvironment
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.experience.captured import rollout_collector
from rlcourse.randomness import Seeds
from rlcourse.training.captured import quickest
from rlcourse.training.metrics import logged
from rlcourse.training.runs import Evaluation, Stop, TrainingRun, greedy_return
from rlcourse.vocabulary import Metrics, NullTracker, OnPolicyLearner, Tracker


@dataclass(frozen=True)
class OnPolicyConfig:
    """How experience is collected and how often the policy is looked at."""

    num_steps: int = 100_000
    """Environment steps in all, over all copies."""
    num_envs: int = 8
    """N, copies stepped together. More makes each step cheaper and each rollout staler for its length."""
    rollout_steps: int = 32
    """T, steps of each copy between two updates."""
    gamma: float = 0.98
    """Discount. Closer to 1 looks further ahead and is learned more slowly."""
    anneal: bool = True
    """Let the learning rate (and PPO's clip) fall linearly to zero over ``num_steps``."""
    eval_every: int = 5_120
    """Steps between greedy evaluations. The last step is always evaluated."""
    eval_episodes: int = 100
    """Episodes in each evaluation."""
    compiled: bool = False
    """Compile collection on a CPU, where the task is a tensor program and the policy has no memory. Worth a quarter of a
    minute at the start where a run takes minutes; the rollouts are the same."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_envs", "rollout_steps", "eval_every", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}.", mend="Use 1 or more.")


def train_on_policy(
    learner: OnPolicyLearner,
    env: BatchedEnvironment,
    config: OnPolicyConfig,
    *,
    seeds: Seeds,
    tracker: Tracker | None = None,
    stop: Stop = lambda step, greedy_return: False,
) -> TrainingRun:
    """Collect a rollout, update, evaluate now and then.

    Args:
        learner: updated in place.
        env: ``config.num_envs`` copies, on the learner's device.
        config: lengths.
        seeds: actions and evaluations draw from its streams.
        tracker: gets ``eval/*``, ``time/*`` and ``loss/*`` at every evaluation.
        stop: ends the run early.

    Raises:
        TrainingDivergedError: a metric stopped being finite.
        EnvironmentFailedError: the environment raised, or returned what is no number.
    """
    tracker = tracker or NullTracker()
    run = TrainingRun()
    learner = quickest(learner, env.device)
    collector = rollout_collector(
        env, gamma=config.gamma, generator=seeds.torch("exploration", env.device), compiled=config.compiled
    )
    steps, next_eval, wall, cpu = 0, config.eval_every, 0.0, 0.0
    started, cpu_started = time.perf_counter(), time.process_time()
    while steps < config.num_steps:
        if config.anneal:
            learner.anneal(1.0 - steps / config.num_steps)
        rollout = collector.collect(learner.policy, config.rollout_steps)
        metrics = learner.update(rollout)
        steps += rollout.num_steps
        if steps < next_eval and steps < config.num_steps:
            continue
        losses = finite(metrics, steps)  # waits for the device: the clock below is honest
        wall += time.perf_counter() - started
        cpu += time.process_time() - cpu_started
        next_eval += config.eval_every
        earned = greedy_return(learner.policy, env.env_id, config.eval_episodes, seeds, env.device)
        run.evaluations.append(Evaluation(steps, earned, wall, cpu))
        tracker.log({"eval/greedy_return": earned, "time/train_seconds": wall, **losses}, step=steps)
        if stop(steps, earned):
            break
        started, cpu_started = time.perf_counter(), time.process_time()
    return run


def finite(metrics: Metrics, step: int) -> dict[str, float]:
    """Metrics as numbers under ``loss/``.

    Raises:
        TrainingDivergedError: one of them is not finite.
    """
    losses = logged(metrics)
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise TrainingDivergedError(
            f"{', '.join(bad)} stopped being finite by step {step}.",
            mend="Lower the learning rate, and look at the scale of rewards and observations.",
        )
    return losses
