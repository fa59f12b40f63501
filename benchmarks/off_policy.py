"""Off-policy evaluation: how long it takes, and whether it puts policies in the right order.

    python benchmarks/off_policy.py speed      writes book/results/ope_speed.md
    python benchmarks/off_policy.py ranking    writes book/results/ope_ranking.md
    python benchmarks/off_policy.py pendulum   writes book/results/ope_ranking_pendulum.md

``speed`` times every estimator with 1,000 resamples of 1,000 episodes of 200 steps and ends with 1 if those that need no
network take more than 5 seconds together. ``ranking`` estimates ten CartPole policies from logs of a random and of a
middling policy and compares their order with that of their true values; ``pendulum`` does the same with continuous actions
and ten stages of a soft actor-critic.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import numpy as np
import torch
from results import markdown_table, write_result
from torch import Tensor

from rlcourse.devices import torch_threads
from rlcourse.environments import make
from rlcourse.errors import DatasetInvalidError
from rlcourse.evaluation.off_policy import (
    DESCRIPTIONS,
    ESTIMATOR_NAMES,
    WEIGHING,
    EstimatorName,
    FQEConfig,
    Trajectories,
    assess,
    diagnose,
    rank_correlation,
    regret_at_k,
)
from rlcourse.experience.minari_files import load_dataset
from rlcourse.experience.transitions import Transitions
from rlcourse.networks import EpsilonGreedyPolicy, SquashedGaussianPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.continuous_behaviour import author_settings, live
from rlcourse.training.learners import offline_learner
from rlcourse.vocabulary import DiscretePolicy, Policy

EPISODES, STEPS, RESAMPLES, LIMIT_S = 1_000, 200, 1_000, 5.0
NETWORKS: frozenset[EstimatorName] = frozenset({"fqe", "dr", "wdr", "mdr"})
GAMMA = 0.99
UPDATES = (0, 50, 100, 150, 200, 300, 400, 600, 1_000, 3_000)
EPSILON = 0.2


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("speed", "ranking", "pendulum"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with torch_threads(1):
        if arguments.part == "speed":
            return 0 if speed(arguments.rounds) <= LIMIT_S else 1
        if arguments.part == "ranking":
            ranking()
        else:
            pendulum()
    return 0


def speed(rounds: int) -> float:
    """Seconds for each estimator; returns those of all that need no network."""
    log = invented_log()
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in ESTIMATOR_NAMES:
            started = time.perf_counter()
            fqe = FQEConfig(updates=500)
            assess(log, [name], seeds=Seeds(0), resamples=RESAMPLES, fqe=fqe)
            found.setdefault(name, []).append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in found.items()}
    rows = [
        [name, DESCRIPTIONS[name], f"{medians[name]:.2f}", f"{min(found[name]):.2f} to {max(found[name]):.2f}"]
        for name in ESTIMATOR_NAMES
    ]
    whole = sum(seconds for name, seconds in medians.items() if name not in NETWORKS)
    body = (
        f"{EPISODES:,} episodes of {STEPS} steps, 4 numbers seen at each, {RESAMPLES:,} resamples, one thread; median of "
        f"{rounds} rounds. Those with a network spend nearly all of it on 2 times 500 gradient steps.\n\n"
        + markdown_table(["", "estimator", "seconds", "range"], rows)
        + f"\n\nAll that need no network, together: {whole:.2f} s."
    )
    write_result("ope_speed", body, command="python benchmarks/off_policy.py speed", data={"seconds": found})
    return whole


def invented_log() -> Trajectories:
    """Numbers of the right shape; what they mean does not matter for the clock."""
    generator = Seeds(0).torch("log")
    shape = (EPISODES, STEPS)
    obs = torch.randn(EPISODES, STEPS + 1, 4, generator=generator)
    both = torch.rand(EPISODES, STEPS + 1, 1, generator=generator, dtype=torch.float64) * 0.2 + 0.4
    all_target = torch.cat([both, 1.0 - both], -1)
    action = torch.randint(2, shape, generator=generator)
    return Trajectories(
        target=all_target[:, :-1].gather(-1, action.unsqueeze(-1)).squeeze(-1),
        behaviour=torch.full(shape, 0.5, dtype=torch.float64),
        reward=torch.rand(shape, generator=generator, dtype=torch.float64),
        mask=torch.ones(shape, dtype=torch.float64),
        gamma=GAMMA,
        obs=obs,
        action=action,
        terminated=torch.zeros(EPISODES, dtype=torch.bool),
        all_target=all_target,
    ).validate()


def ranking() -> None:
    """Ten policies between random and good, judged by two logs."""
    rows, data = [], {}
    for quality in ("random", "medium"):
        dataset = load_dataset(f"cartpole/{quality}-v0")
        chosen = np.arange(min(dataset.episodes.num_episodes, 1_000))
        episodes = dataset.episodes.select(chosen)
        policies = ten_policies()
        truths = [true_value(policy) for policy in policies]
        estimates: dict[str, list[float]] = {name: [] for name in ESTIMATOR_NAMES}
        worth = []
        for policy in policies:
            log = Trajectories.from_episodes(episodes, policy, gamma=GAMMA)
            found = assess(log, ESTIMATOR_NAMES, seeds=Seeds(0), resamples=200)
            worth.append(diagnose(log).effective_sample_size)
            for name in ESTIMATOR_NAMES:
                estimates[name].append(found.values[name].estimate)
        for name in ESTIMATOR_NAMES:
            rows.append(_ranked(quality, name, estimates[name], truths))
        data[quality] = {"estimates": estimates, "truths": truths, "effective_sample_size": worth}
    body = (
        f"Ten CartPole policies (a CQL learner on its way, each acting at random {EPSILON:.0%} of the time), judged by up to "
        f"1,000 episodes of a log, gamma {GAMMA}. Their true values, from 4,000 episodes each, lie between "
        f"{min(truths):.1f} and {max(truths):.1f}.\n\n" + markdown_table(RANKED, rows)
    )
    write_result("ope_ranking", body, command="python benchmarks/off_policy.py ranking", data=data)


SWING = 0.97
"""Discount on the pendulum: what is done now tells within some thirty steps."""
STAGES = 10


def pendulum() -> None:
    """Ten stages of one soft actor-critic, acting by their own spread, judged by logs that another one wrote."""
    stages = ten_stages()
    truths = [true_value(policy, 1_000, "Pendulum-v1", SWING) for policy in stages]
    rows, data = [], {}
    for quality in ("medium", "mixed"):
        episodes = load_dataset(f"pendulum/{quality}-v0").episodes
        estimates: dict[str, list[float]] = {name: [] for name in ESTIMATOR_NAMES}
        for policy in stages:
            drawing = Seeds(0).torch("target's actions")
            log = Trajectories.from_episodes(episodes, policy, gamma=SWING, generator=drawing)
            settings = FQEConfig(updates=1_500)
            try:
                found = assess(log, ESTIMATOR_NAMES, seeds=Seeds(0), resamples=200, fqe=settings).values
            except DatasetInvalidError:  # products of 200 ratios, all rounded to 0: nothing can be said by weighing
                others = [name for name in ESTIMATOR_NAMES if name not in WEIGHING]
                found = assess(log, others, seeds=Seeds(0), resamples=200, fqe=settings).values
            for name in ESTIMATOR_NAMES:
                estimates[name].append(found[name].estimate if name in found else math.nan)
            print(quality, {name: round(values[-1], 1) for name, values in estimates.items()}, flush=True)
        rows += [_ranked(quality, name, estimates[name], truths) for name in ESTIMATOR_NAMES]
        data[quality] = {"estimates": estimates, "truths": truths}
    body = (
        f"Ten stages of one soft actor-critic on Pendulum-v1, drawing actions from their own spread, judged by the 250 "
        f"episodes of a log that another one wrote (the logs of chapter 5), gamma {SWING}. Their true values, from 1,000 "
        f"episodes each, lie between {min(truths):.1f} and {max(truths):.1f}.\n\n" + markdown_table(RANKED, rows)
    )
    write_result("ope_ranking_pendulum", body, command="python benchmarks/off_policy.py pendulum", data=data)


RANKED = ["log", "estimator", "rank correlation", "root mean squared error", "regret at 1", "regret at 3"]


def _ranked(quality: str, name: str, estimates: list[float], truths: list[float]) -> list[str]:
    silent = sum(math.isnan(estimate) for estimate in estimates)
    if silent:
        return [quality, name, f"refused for {silent} of {len(estimates)}", "", "", ""]
    error = np.sqrt(np.mean((np.array(estimates) - truths) ** 2))
    return [
        quality,
        name,
        f"{rank_correlation(estimates, truths):.2f}",
        f"{error:.1f}",
        f"{regret_at_k(estimates, truths, 1):.1f}",
        f"{regret_at_k(estimates, truths, 3):.1f}",
    ]


def ten_stages() -> list[SquashedGaussianPolicy]:
    """Evenly spaced in what they earn, between a learner's worst look and its best."""
    life = live("Pendulum-v1", author_settings("Pendulum-v1"), Seeds(31), "cpu")
    looks = sorted(life.looks, key=lambda look: look.earned)
    wanted = np.linspace(looks[0].earned, looks[-1].earned, STAGES)
    chosen: list[int] = []
    for earned in wanted:
        left = [index for index in range(len(looks)) if index not in chosen]
        chosen.append(min(left, key=lambda index: abs(looks[index].earned - earned)))
    return [looks[index].policy for index in sorted(chosen)]


def ten_policies() -> list[DiscretePolicy]:
    """What one CQL learner was after so many updates on the mixed log."""
    dataset = load_dataset("cartpole/mixed-v0")
    log = Transitions.from_episodes(dataset.episodes, gamma=GAMMA, num_actions=2, n_step=3)
    kept: list[DiscretePolicy] = []
    for updates in UPDATES:
        seeds = Seeds(0)
        learner, drawing = offline_learner("cql", log.spec(), seeds), seeds.torch("batches")
        for _ in range(updates):
            learner.update(log.sample(256, drawing))
        assert isinstance(learner.policy, DiscretePolicy)
        kept.append(EpsilonGreedyPolicy(learner.policy, EPSILON))
    return kept


def true_value(policy: Policy, count: int = 4_000, env_id: str = "CartPole-v1", gamma: float = GAMMA) -> float:
    """The mean discounted return of ``count`` episodes in the environment itself."""
    env = make(env_id, count, seeds=Seeds(77))
    generator = Seeds(78).torch("actions")
    obs, running = env.reset(), torch.ones(count, dtype=torch.bool)
    total: Tensor = torch.zeros(count, dtype=torch.float64)
    for t in range(500):
        step = env.step(policy.act(obs, greedy=False, generator=generator))
        total += gamma**t * step.reward * running
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
    return float(total.mean())


if __name__ == "__main__":
    raise SystemExit(main())
