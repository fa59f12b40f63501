from __future__ import annotations

import importlib
import math
import pkgutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import rlcourse.algorithms
from rlcourse.algorithms.dqn import DQN
from rlcourse.environments import make
from rlcourse.experience.collection import collect
from rlcourse.experience.transitions import Transitions
from rlcourse.networks import UniformPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.learners import FOR_COUNTED_ACTIONS, offline_learner
from rlcourse.training.metrics import METRICS, logged, metrics_table
from rlcourse.training.off_policy import OffPolicyConfig, train_off_policy
from rlcourse.training.offline import OfflineTrainingConfig, train_offline
from rlcourse.vocabulary import Batch, ContinuousActions, DiscreteActions, ListTracker, Rollout, TaskSpec

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tools")]

import write_metrics_table  # noqa: E402

SEEDS = Seeds(5)
ALGORITHMS = sorted(module.name for module in pkgutil.iter_modules(rlcourse.algorithms.__path__))
CONTINUOUS = ("cql_continuous", "sac", "td3_bc")
CLASSES = {"cql_continuous": "ContinuousCQL", "td3_bc": "TD3BC"}  # the others are their file in capitals
ON_POLICY = ("ppo",)


def promised(*loggers: str) -> set[str]:
    return {name for name, metric in METRICS.items() if set(loggers) & set(metric.logged_by)}


def names(tracker: ListTracker) -> set[str]:
    return {name for _, row in tracker.rows for name in row}


def experience(algorithm: str, spec: TaskSpec) -> Batch | Rollout:
    """Numbers of the right shapes, for one update."""
    discount = torch.full((6, 2), 0.9)
    obs, next_obs = torch.randn(2, 6, 2, 3)
    action = torch.rand(6, 2, 1) if isinstance(spec.actions, ContinuousActions) else torch.randint(2, (6, 2))
    if algorithm in ON_POLICY:
        ones, log_probability = torch.ones(6, 2), torch.full((6, 2), -0.7)
        return Rollout(
            obs, action, log_probability, ones, discount, ones, next_obs, torch.zeros(6, 2, dtype=torch.bool)
        )
    flat = [part.flatten(0, 1) for part in (obs, action, torch.ones(6, 2), discount, next_obs)]
    return Batch(*flat).validate()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_a_learner_returns_is_in_the_dictionary(algorithm: str) -> None:
    bounds = torch.ones(1)
    actions = ContinuousActions(-bounds, bounds) if algorithm in CONTINUOUS else DiscreteActions(2)
    spec = TaskSpec.unscaled(3, actions)
    kind = CLASSES.get(algorithm, algorithm.upper())
    learner: Any = getattr(importlib.import_module(f"rlcourse.algorithms.{algorithm}"), kind)(spec)
    batch = experience(algorithm, spec)
    found = {name for _ in range(2) for name in logged(learner.update(batch))}  # two: td3_bc's policy waits for one
    assert found == promised(algorithm)


@pytest.mark.parametrize("algorithm", FOR_COUNTED_ACTIONS)
def test_what_offline_training_logs_is_in_the_dictionary(algorithm: str) -> None:
    env = make("CartPole-v1", 4, seeds=SEEDS)
    episodes = collect(env, UniformPolicy(2), 100, generator=SEEDS.torch("acting"))
    transitions = Transitions.from_episodes(episodes, gamma=0.99, num_actions=2)
    config = OfflineTrainingConfig(updates=3, batch_size=8, eval_every=3, eval_episodes=2)
    tracker = ListTracker()
    learner = offline_learner(algorithm, transitions.spec(), SEEDS)
    train_offline(learner, transitions, "CartPole-v1", config, seeds=SEEDS, tracker=tracker)
    assert names(tracker) == promised("offline", algorithm)


def test_what_the_off_policy_loop_logs_is_in_the_dictionary() -> None:
    env = make("CartPole-v1", 4, seeds=SEEDS)
    tracker = ListTracker()
    config = OffPolicyConfig(num_steps=80, warm_up_steps=20, batch_size=8, eval_every=40, eval_episodes=2)
    learner = DQN(TaskSpec.unscaled(env.obs_size, env.num_actions))
    train_off_policy(learner, env, config, seeds=SEEDS, tracker=tracker)
    assert {"eval/greedy_return"} <= names(tracker) <= promised("off-policy", "dqn")


def test_what_the_on_policy_loop_logs_is_in_the_dictionary() -> None:
    on_policy = pytest.importorskip("rlcourse.training.on_policy")
    ppo = pytest.importorskip("rlcourse.algorithms.ppo")
    env = make("CartPole-v1", 4, seeds=SEEDS)
    tracker = ListTracker()
    config = on_policy.OnPolicyConfig(num_steps=64, num_envs=4, rollout_steps=16, eval_every=64, eval_episodes=2)
    learner = ppo.PPO(TaskSpec.unscaled(env.obs_size, env.num_actions))
    on_policy.train_on_policy(learner, env, config, seeds=SEEDS, tracker=tracker)
    assert names(tracker) == promised("on-policy", "ppo")


def test_of_a_sample_the_mean_and_the_middles_of_its_fifths_are_logged() -> None:
    q = torch.arange(10.0, 111.0).reshape(1, 101)[:, torch.randperm(101)]
    found = logged({"q": q, "td_loss": torch.tensor(0.5)})
    middles = {"loss/q_p10": 20.0, "loss/q_p30": 40.0, "loss/q_p50": 60.0, "loss/q_p70": 80.0, "loss/q_p90": 100.0}
    assert found == pytest.approx({"loss/q_mean": 60.0, "loss/td_loss": 0.5} | middles)
    q[0, 3] = torch.inf
    assert not math.isfinite(logged({"q": q})["loss/q_mean"]), "one value that ran away is not hidden by the others"


def test_the_table_in_the_book_is_the_dictionary() -> None:
    text = write_metrics_table.TARGET.read_text(encoding="utf-8")
    assert text == metrics_table(), "python tools/write_metrics_table.py"
    assert len(text.splitlines()) == 2 + len(METRICS)
    assert "|" not in "".join(metric.description + metric.unit for metric in METRICS.values())


def test_every_name_says_where_it_was_measured() -> None:
    assert {name.split("/")[0] for name in METRICS} == {"eval", "explore", "time", "loss"}
    assert all(name.count("/") == 1 and metric.logged_by for name, metric in METRICS.items())
