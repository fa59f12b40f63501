"""The loop of every learner that collects its own data and learns from a replay buffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlcourse.environments import BatchedEnvironment
from rlcourse.evaluation.returns import episode_returns
from rlcourse.experience.collection import EpisodeRecorder
from rlcourse.experience.replay import ReplayBuffer
from rlcourse.networks import EpsilonGreedyPolicy, sample_actions
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import Learner, NullTracker, Tracker


@dataclass(frozen=True)
class OffPolicyConfig:
    """How experience is collected and how often it is learned from."""

    num_steps: int = 100_000
    """Environment steps in all, over all copies."""
    exploration_steps: int = 10_000
    """Over how many steps epsilon falls from 1 to ``final_epsilon``. Raise it where the first good policy is rare."""
    final_epsilon: float = 0.05
    """Share of random actions that remains."""
    warm_up_steps: int = 1_000
    """Steps before the first update."""
    steps_per_update: int = 8
    """Environment steps for each gradient step. Lower learns more from each step and takes longer."""
    batch_size: int = 128
    """Transitions in one gradient step."""
    gamma: float = 0.99
    """Discount."""
    n_step: int = 3
    """Steps of reality before the first estimate."""
    eval_every: int = 5_000
    """Steps between greedy evaluations."""
    eval_episodes: int = 100
    """Episodes in each evaluation."""


Stop = Callable[[int, float], bool]
"""Given the step and the greedy return just measured: stop here?"""


def train_off_policy(
    learner: Learner,
    env: BatchedEnvironment,
    config: OffPolicyConfig,
    *,
    seeds: Seeds,
    recorder: EpisodeRecorder | None = None,
    tracker: Tracker | None = None,
    stop: Stop = lambda step, greedy_return: False,
) -> None:
    """Collect, store, update; evaluate now and then; keep everything in ``recorder`` if one is given."""
    tracker = tracker or NullTracker()
    device = env.device
    buffer = ReplayBuffer(
        config.num_steps,
        env.obs_size,
        num_envs=env.num_envs,
        gamma=config.gamma,
        n_step=config.n_step,
        device=device,
    )
    exploring, drawing = seeds.torch("exploration", device), seeds.torch("batches", device)
    obs = env.reset()
    updates_due = 0.0
    step_count, next_eval = 0, config.eval_every
    while step_count < config.num_steps:
        progress = min(1.0, step_count / config.exploration_steps)
        epsilon = 1.0 + progress * (config.final_epsilon - 1.0)
        probabilities = EpsilonGreedyPolicy(learner.policy, epsilon).probabilities(obs)
        action = sample_actions(probabilities, exploring)
        step = env.step(action)
        buffer.add(obs, action, step)
        if recorder is not None:
            recorder.record(obs, action, probabilities.gather(-1, action.unsqueeze(-1)).squeeze(-1), step)
        obs = step.obs
        step_count += env.num_envs
        if step_count >= config.warm_up_steps:
            updates_due += env.num_envs / config.steps_per_update
            while updates_due >= 1.0:
                learner.update(buffer.sample(config.batch_size, drawing))
                updates_due -= 1.0
        if step_count >= next_eval:
            next_eval += config.eval_every
            # The same first states at every evaluation: two points of a curve differ by the policy alone.
            returns = episode_returns(
                learner.policy,
                env.env_id,
                num_episodes=config.eval_episodes,
                greedy=True,
                seeds=seeds.child("evaluation"),
                device=device,
            )
            greedy_return = float(np.mean(returns))
            tracker.log({"eval/greedy_return": greedy_return, "explore/epsilon": epsilon}, step=step_count)
            if stop(step_count, greedy_return):
                return
