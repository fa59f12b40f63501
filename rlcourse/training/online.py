"""From the names of an algorithm and an environment to a finished training run: settings, learner, loop."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch

from rlcourse.algorithms.dqn import DQN, DQNConfig
from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.algorithms.sac import SAC, SACConfig
from rlcourse.devices import wide_products
from rlcourse.environments import BatchedEnvironment, check_known, make
from rlcourse.errors import ConfigError, UnknownAlgorithmError
from rlcourse.evaluation.returns import episode_returns
from rlcourse.networks import UniformBoxPolicy, UniformPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.off_policy import OffPolicyConfig, train_off_policy
from rlcourse.training.on_policy import OnPolicyConfig, train_on_policy
from rlcourse.training.runs import Evaluation, Stop, TrainingRun, task_spec
from rlcourse.training.scripted import scripted_policy
from rlcourse.vocabulary import ContinuousActions, Policy, TaskSpec, Tracker

OnlineAlgorithm = Literal["ppo", "recurrent-ppo", "dqn", "sac", "random", "scripted"]
ONLINE_ALGORITHMS: tuple[OnlineAlgorithm, ...] = get_args(OnlineAlgorithm)
BASELINES = ("random", "scripted")
"""Algorithms that learn nothing: one evaluation is their whole run."""

LearnerConfig = PPOConfig | DQNConfig | SACConfig
LoopConfig = OnPolicyConfig | OffPolicyConfig


@dataclass(frozen=True)
class OnlineSettings:
    """How one algorithm is run on one environment."""

    learner: LearnerConfig
    loop: LoopConfig
    scaled: bool = True
    """Scale observations where the environment says how large they usually are."""

    def __post_init__(self) -> None:
        if isinstance(self.learner, PPOConfig) != isinstance(self.loop, OnPolicyConfig):
            raise ConfigError(
                f"{type(self.learner).__name__} does not go with {type(self.loop).__name__}.",
                mend="PPO learns on policy, DQN and SAC off policy.",
            )


_DEFAULTS: dict[str, OnlineSettings] = {
    "ppo": OnlineSettings(PPOConfig(), OnPolicyConfig()),
    "recurrent-ppo": OnlineSettings(PPOConfig(memory=64, epochs=10), OnPolicyConfig()),
    "dqn": OnlineSettings(DQNConfig(), OffPolicyConfig()),
    "sac": OnlineSettings(
        SACConfig(hidden=(64, 64), learning_rate=2e-3, target_rate=0.01),
        OffPolicyConfig(
            num_steps=20_000,
            num_envs=8,
            steps_per_update=2,
            batch_size=256,
            n_step=1,
            eval_every=2_000,
            anneal=True,
        ),
    ),
}

# Found by search on seeds 100 and up; the measurements in the book use others.
_PRESETS: dict[tuple[str, str], OnlineSettings] = {
    ("ppo", "CartPole-v1"): OnlineSettings(
        PPOConfig(
            hidden=(128,),
            activation="relu",
            epochs=6,
            batch_size=1024,
            clip=0.1,
            lambda_=0.95,
            maximum_gradient=1.0,
        ),
        OnPolicyConfig(num_steps=51_200, num_envs=16, rollout_steps=64),
    ),
    ("dqn", "CartPole-v1"): OnlineSettings(
        DQNConfig(hidden=(128, 128), dueling=True),
        OffPolicyConfig(
            num_steps=60_000,
            num_envs=16,
            exploration_steps=8_000,
            final_epsilon=0.04,
            steps_per_update=2,
            n_step=5,
            anneal=True,
        ),
    ),
    ("dqn", "Acrobot-v1"): OnlineSettings(
        DQNConfig(hidden=(128, 128), dueling=True),
        OffPolicyConfig(
            num_steps=100_000,
            num_envs=16,
            exploration_steps=10_000,
            final_epsilon=0.04,
            steps_per_update=4,
            n_step=5,
            anneal=True,
        ),
    ),
    # A swing takes longer than CartPole's 32 steps of a rollout, and little of what comes after it matters.
    ("ppo", "Pendulum-v1"): OnlineSettings(
        PPOConfig(learning_rate=1e-3, epochs=10, batch_size=256, lambda_=0.95),
        OnPolicyConfig(num_steps=200_000, num_envs=16, rollout_steps=128, gamma=0.9, eval_every=51_200),
    ),
    ("ppo", "rlcourse/ServerRoom-v0"): OnlineSettings(
        PPOConfig(learning_rate=2e-3, epochs=6, batch_size=768, lambda_=0.9, entropy_weight=0.002),
        OnPolicyConfig(num_steps=400_000, num_envs=64, rollout_steps=36, gamma=0.98, eval_every=51_200),
    ),
}


def online_settings(algorithm: str, env_id: str) -> OnlineSettings:
    """The settings found for this pair, or the algorithm's defaults.

    Raises:
        UnknownAlgorithmError: no learner of that name.
        UnknownEnvironmentError: Gymnasium does not know the environment.
    """
    check_known(env_id)
    if algorithm not in _DEFAULTS:
        near = difflib.get_close_matches(algorithm, ONLINE_ALGORITHMS, n=1)
        meant = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(ONLINE_ALGORITHMS)}."
        raise UnknownAlgorithmError(f"There is no online learner called {algorithm!r}.", mend=meant)
    return _PRESETS.get((algorithm, env_id), _DEFAULTS[algorithm])


def train_online(
    algorithm: str,
    env_id: str,
    *,
    seeds: Seeds,
    device: torch.device | str = "cpu",
    settings: OnlineSettings | None = None,
    num_steps: int | None = None,
    tracker: Tracker | None = None,
    stop: Stop = lambda step, greedy_return: False,
) -> tuple[TrainingRun, Policy]:
    """Train, evaluating on the way; the two baselines are evaluated alone.

    Args:
        algorithm: one of :data:`ONLINE_ALGORITHMS`.
        env_id: a Gymnasium name.
        seeds: everything random follows from it.
        device: where networks and tensor environments live.
        settings: by default :func:`online_settings`.
        num_steps: environment steps, in place of the settings'.
        tracker: where metrics go.
        stop: ends the run early.

    Raises:
        UnknownAlgorithmError: no algorithm of that name.
        UnknownEnvironmentError: Gymnasium does not know the environment.
        ConfigError: the algorithm cannot handle the environment's actions.
        TrainingDivergedError: a metric stopped being finite.
        EnvironmentFailedError: the environment raised, or returned what is no number.
    """
    if algorithm in BASELINES:
        return _baseline(algorithm, env_id, seeds, device)
    settings = settings or online_settings(algorithm, env_id)
    loop = settings.loop if num_steps is None else replace(settings.loop, num_steps=num_steps)
    env = make(env_id, loop.num_envs, seeds=seeds, device=device)
    spec = task_spec(env) if settings.scaled else TaskSpec.unscaled(env.obs_size, env.actions, env.device)
    with wide_products(max(settings.learner.hidden)):
        if isinstance(loop, OnPolicyConfig):
            assert isinstance(settings.learner, PPOConfig)
            shuffling = seeds.torch("minibatches", device)
            with seeds.initialising("networks"):
                ppo = PPO(spec, settings.learner, generator=shuffling)
            return train_on_policy(ppo, env, loop, seeds=seeds, tracker=tracker, stop=stop), ppo.policy
        learner: DQN | SAC
        with seeds.initialising("networks"):
            if isinstance(settings.learner, SACConfig):
                learner = SAC(spec, settings.learner, generator=seeds.torch("policy", device))
            else:
                assert isinstance(settings.learner, DQNConfig)
                learner = DQN(spec, settings.learner)
        return train_off_policy(learner, env, loop, seeds=seeds, tracker=tracker, stop=stop), learner.policy


def _baseline(algorithm: str, env_id: str, seeds: Seeds, device: torch.device | str) -> tuple[TrainingRun, Policy]:
    env = make(env_id, 1, seeds=seeds, device=device)
    policy = _BASELINE_POLICIES[algorithm](env)
    started, cpu_started = time.perf_counter(), time.process_time()
    # Chance has to be sampled: the greedy choice of a policy without preferences is one action for ever.
    returns = episode_returns(
        policy, env_id, num_episodes=100, greedy=algorithm != "random", seeds=seeds.child("evaluation"), device=device
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    return TrainingRun([Evaluation(0, float(np.mean(returns)), seconds, cpu)]), policy


def _random(env: BatchedEnvironment) -> Policy:
    return (
        UniformBoxPolicy(env.actions) if isinstance(env.actions, ContinuousActions) else UniformPolicy(env.num_actions)
    )


_BASELINE_POLICIES: dict[str, Callable[[BatchedEnvironment], Policy]] = {"random": _random, "scripted": scripted_policy}
