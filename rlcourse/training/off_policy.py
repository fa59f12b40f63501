"""The loop of every learner that collects its own data and learns from a replay buffer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlcourse.environments import BatchedEnvironment
from rlcourse.errors import ConfigError
from rlcourse.experience.collection import EpisodeRecorder, accountable
from rlcourse.experience.replay import ReplayBuffer
from rlcourse.networks import EpsilonGreedyPolicy, UniformBoxPolicy, sample_actions
from rlcourse.randomness import Seeds
from rlcourse.training.on_policy import finite
from rlcourse.training.runs import Evaluation, Stop, TrainingRun, greedy_return
from rlcourse.vocabulary import (
    Batch,
    BurstLearner,
    ContinuousActions,
    DiscreteLearner,
    Learner,
    Metrics,
    NullTracker,
    Tracker,
)


@dataclass(frozen=True)
class OffPolicyConfig:
    """How experience is collected and how often it is learned from."""

    num_steps: int = 100_000
    """Environment steps in all, over all copies."""
    num_envs: int = 32
    """N, copies stepped together. More makes each step cheaper and the newest data rarer in the memory."""
    exploration_steps: int = 10_000
    """Over how many steps epsilon falls from 1 to ``final_epsilon``. Raise it where the first good policy is rare.
    For discrete actions; a policy over continuous ones explores by its own spread."""
    final_epsilon: float = 0.05
    """Share of random actions that remains."""
    warm_up_steps: int = 1_000
    """Steps before the first update. Continuous actions are drawn evenly until then."""
    steps_per_update: int = 8
    """Environment steps for each gradient step. Lower learns more from each step and takes longer."""
    batch_size: int = 128
    """Transitions in one gradient step."""
    gamma: float = 0.99
    """Discount."""
    n_step: int = 3
    """Steps of reality before the first estimate."""
    buffer_size: int = 0
    """Transitions remembered; 0 remembers all. Smaller forgets sooner what a worse policy did."""
    eval_every: int = 5_000
    """Steps between greedy evaluations. The last step is always evaluated."""
    eval_episodes: int = 100
    """Episodes in each evaluation."""
    anneal: bool = False
    """Let the learning rate fall linearly to zero over ``num_steps``."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_envs", "exploration_steps", "steps_per_update", "batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}.", mend="Use 1 or more.")


def train_off_policy(
    learner: Learner,
    env: BatchedEnvironment,
    config: OffPolicyConfig,
    *,
    seeds: Seeds,
    recorder: EpisodeRecorder | None = None,
    tracker: Tracker | None = None,
    stop: Stop = lambda step, greedy_return: False,
) -> TrainingRun:
    """Collect, store, update; evaluate now and then; keep everything in ``recorder`` if one is given.

    Args:
        learner: updated in place; one for discrete actions explores by epsilon, others by their own spread.
        env: on the learner's device.
        config: lengths.
        seeds: exploration, batches and evaluations draw from its streams.
        recorder: gets every step with its propensity; of continuous actions that is their density.
        tracker: gets ``eval/*``, ``explore/*``, ``time/*`` and ``loss/*`` at every evaluation.
        stop: ends the run early.

    Raises:
        TrainingDivergedError: a metric stopped being finite.
        EnvironmentFailedError: the environment raised, or returned what is no number.
        ConfigError: something is to be recorded, and the policy cannot say how likely what it does is.
    """
    tracker = tracker or NullTracker()
    device, run = env.device, TrainingRun()
    buffer = ReplayBuffer(
        config.buffer_size or config.num_steps + env.num_envs,
        env.obs_size,
        num_envs=env.num_envs,
        gamma=config.gamma,
        n_step=config.n_step,
        action_size=env.actions.size if isinstance(env.actions, ContinuousActions) else 0,
        device=device,
    )
    explorer = _Explorer(learner, env, config, seeds.torch("exploration", device), recorded=recorder is not None)
    drawing = seeds.torch("batches", device)
    update = learner.update_in_turn if isinstance(learner, BurstLearner) else _one_by_one(learner)
    obs = env.reset()
    metrics: Metrics = {}
    updates_due, steps, next_eval, wall, cpu = 0.0, 0, config.eval_every, 0.0, 0.0
    started, cpu_started = time.perf_counter(), time.process_time()
    while steps < config.num_steps:
        action, propensity = explorer.act(obs, steps)
        step = env.step(action)
        buffer.add(obs, action, step)
        if recorder is not None and propensity is not None:
            recorder.record(obs, action, propensity, step)
        obs = step.obs
        steps += env.num_envs
        if steps >= config.warm_up_steps:
            updates_due += env.num_envs / config.steps_per_update
            if config.anneal:
                learner.anneal(max(0.0, 1.0 - steps / config.num_steps))
            due = int(updates_due)
            if due:
                metrics = update(buffer.sample_several(due, config.batch_size, drawing))
                updates_due -= due
        if steps < next_eval and steps < config.num_steps:
            continue
        losses = finite(metrics, steps)  # waits for the device: the clock below is honest
        wall += time.perf_counter() - started
        cpu += time.process_time() - cpu_started
        next_eval += config.eval_every
        earned = greedy_return(learner.policy, env.env_id, config.eval_episodes, seeds, device)
        run.evaluations.append(Evaluation(steps, earned, wall, cpu))
        tracker.log(
            {
                "eval/greedy_return": earned,
                "time/train_seconds": wall,
                "explore/epsilon": explorer.epsilon,
                **losses,
            },
            step=steps,
        )
        if stop(steps, earned):
            break
        started, cpu_started = time.perf_counter(), time.process_time()
    return run


def _one_by_one(learner: Learner) -> Callable[[list[Batch]], Metrics]:
    def update(batches: list[Batch]) -> Metrics:
        return [learner.update(batch) for batch in batches][-1]

    return update


Acting = Callable[[Tensor], tuple[Tensor, Tensor]]


class _Explorer:
    """Acts with an epsilon that falls, or evenly at first and then by the policy's own spread."""

    def __init__(
        self,
        learner: Learner,
        env: BatchedEnvironment,
        config: OffPolicyConfig,
        generator: torch.Generator,
        *,
        recorded: bool,
    ) -> None:
        self.config = config
        self.recorded = recorded
        self.policy = learner.policy
        self.generator = generator
        self.epsilon = 1.0
        self.greedy: EpsilonGreedyPolicy | None = None
        self.even: UniformBoxPolicy | None = None
        self.accounts: tuple[Acting, Acting] | None = None
        if isinstance(env.actions, ContinuousActions):
            self.even = UniformBoxPolicy(env.actions)
            if recorded:
                early, later = (accountable(one, env.actions, generator) for one in (self.even, self.policy))
                self.accounts = early, later
        elif isinstance(learner, DiscreteLearner):
            self.greedy = EpsilonGreedyPolicy(learner.policy, 1.0)

    def act(self, obs: Tensor, steps: int) -> tuple[Tensor, Tensor | None]:
        """Actions, and how likely they were where somebody keeps account."""
        if self.greedy is None:
            early = self.even is not None and steps < self.config.warm_up_steps
            self.epsilon = float(early)
            if self.accounts is not None:
                return self.accounts[0 if early else 1](obs)
            policy = self.even if early and self.even is not None else self.policy
            return policy.act(obs, greedy=False, generator=self.generator), None
        progress = min(1.0, steps / self.config.exploration_steps)
        self.greedy.epsilon = self.epsilon = 1.0 + progress * (self.config.final_epsilon - 1.0)
        probabilities = self.greedy.probabilities(obs)
        action = sample_actions(probabilities, self.generator)
        if not self.recorded:
            return action, None
        return action, probabilities.gather(-1, action.unsqueeze(-1)).squeeze(-1)
