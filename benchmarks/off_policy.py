"""Off-policy evaluation: how long it takes, and whether it puts policies in the right order.

    python benchmarks/off_policy.py speed      writes book/results/ope_speed.md
    python benchmarks/off_policy.py ranking    writes book/results/ope_ranking.md
    python benchmarks/off_policy.py pendulum   writes book/results/ope_ranking_pendulum.md

``speed`` times every estimator with 1,000 resamples of 1,000 episodes of 200 steps and ends with 1 if those that need no
network take more than 5 seconds together. ``ranking`` estimates ten CartPole policies from logs of a random and of a
middling policy and compares their order with that of their true values; ``pendulum`` does the same with continuous actions,
over several logs of each quality: for ten candidates, half of which were learned from the log itself, and for ten stages of
a soft actor-critic.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import markdown_table, write_result
from torch import Tensor

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.devices import torch_threads
from rlcourse.environments import make
from rlcourse.evaluation.off_policy import (
    DESCRIPTIONS,
    ESTIMATOR_NAMES,
    EstimatorName,
    FQEConfig,
    Trajectories,
    assess,
    diagnose,
    fit_dynamics,
    rank_correlation,
    regret_at_k,
    simulated_values,
)
from rlcourse.experience.collection import first_transitions
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import load_dataset
from rlcourse.experience.transitions import Transitions
from rlcourse.networks import EpsilonGreedyPolicy, SquashedGaussianPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.behaviour import generate
from rlcourse.training.continuous_behaviour import author_settings, live
from rlcourse.training.learners import OfflineAlgorithm, offline_learner
from rlcourse.vocabulary import DiscretePolicy, Policy

EPISODES, STEPS, RESAMPLES, LIMIT_S = 1_000, 200, 1_000, 5.0
COUNTING = tuple(name for name in ESTIMATOR_NAMES if name != "task")
"""Those for actions that are counted; a model of the task is there for continuous ones."""
NETWORKS: frozenset[EstimatorName] = frozenset({"fqe", "dr", "wdr", "mdr"})
GAMMA = 0.99
UPDATES = (0, 50, 100, 150, 200, 300, 400, 600, 1_000, 3_000)
EPSILON = 0.2


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("speed", "ranking", "pendulum"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--logs", type=int, default=LOGS, help="of each quality, for pendulum")
    parser.add_argument(
        "--redraws", type=int, default=REDRAWS, help="of each log's episodes, for pendulum's task model"
    )
    arguments = parser.parse_args()
    with torch_threads(1):
        if arguments.part == "speed":
            return 0 if speed(arguments.rounds) <= LIMIT_S else 1
        if arguments.part == "ranking":
            ranking()
        else:
            pendulum(arguments.logs, arguments.redraws)
    return 0


def speed(rounds: int) -> float:
    """Seconds for each estimator; returns those of all that need no network."""
    log = invented_log()
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in COUNTING:
            started = time.perf_counter()
            assess(log, [name], seeds=Seeds(0), resamples=RESAMPLES)
            found.setdefault(name, []).append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in found.items()}
    rows = [
        [name, DESCRIPTIONS[name], f"{medians[name]:.2f}", f"{min(found[name]):.2f} to {max(found[name]):.2f}"]
        for name in COUNTING
    ]
    whole = sum(seconds for name, seconds in medians.items() if name not in NETWORKS)
    body = (
        f"{EPISODES:,} episodes of {STEPS} steps, 4 numbers seen at each, {RESAMPLES:,} resamples, one thread; median of "
        f"{rounds} rounds. Those with a network spend nearly all of it on 2 times {FQEConfig().updates:,} gradient steps, the "
        "number by default.\n\n"
        + markdown_table(["", "estimator", "seconds", "range"], rows)
        + f"\n\nAll that need no network, together: {whole:.2f} s."
    )
    command = f"python benchmarks/off_policy.py speed --rounds {rounds}"
    write_result("ope_speed", body, command=command, data={"seconds": found})
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
        estimates: dict[str, list[float]] = {name: [] for name in COUNTING}
        worth = []
        for policy in policies:
            log = Trajectories.from_episodes(episodes, policy, gamma=GAMMA)
            found = assess(log, COUNTING, seeds=Seeds(0), resamples=200)
            worth.append(diagnose(log).effective_sample_size)
            for name in COUNTING:
                estimates[name].append(found.values[name].estimate)
        for name in COUNTING:
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
SEEN = 1_000
"""Updates of fitted Q evaluation there. Times the target rate of 0.1 that is a hundred steps ahead, three times what counts."""
SWUNG: tuple[EstimatorName, ...] = ("wis", "fqe", "linear", "mis", "mdr")
"""One that multiplies ratios, to see it refuse, and those that do not."""
TASK: EstimatorName = "task"
"""A model of the task itself, fitted once and then lived in by every policy. The pendulum's laws are smooth and without luck,
and what one step does is told by any step, whoever took it: such a model should order policies where a log is thin."""
LOGS, STAGES, REDRAWS = 3, 10, 2
LEARNED: dict[str, tuple[OfflineAlgorithm, tuple[int, ...]]] = {
    "BC": ("bc", (1_000,)),
    "IQL": ("iql", (2_000,)),
    "TD3+BC": ("td3-bc", (1_000, 3_000)),
    "CQL": ("cql", (1_500,)),
}
"""What learns from each log, and after how many updates it becomes a candidate: five of them, beside every second stage."""


def pendulum(logs: int, redraws: int) -> None:
    """Policies learned from the log and stages of a soft actor-critic, judged by logs that other ones wrote."""
    stages = {f"SAC {number + 1}": policy for number, policy in enumerate(ten_stages())}
    worth = {name: swinging(policy) for name, policy in stages.items()}
    data: dict[str, list[dict[str, Any]]] = {"medium": [], "mixed": []}
    learned: dict[str, Policy] = {}
    for seed in range(logs):
        for quality, episodes in pendulum_logs(seed).items():
            learned = learned_from(episodes, Seeds(seed))
            truths = worth | {name: swinging(policy) for name, policy in learned.items()}
            everybody = saved_and_loaded(learned | stages)
            estimates = {name: judged(episodes, policy, Seeds(seed)) for name, policy in everybody.items()}
            for name, value in lived_in(episodes, everybody, Seeds(seed)).items():
                estimates[name][TASK] = value
            redrawn = []
            for number in range(redraws):
                family = Seeds(seed).child("redraw", number)
                drawn = family.numpy("episodes").integers(episodes.num_episodes, size=episodes.num_episodes)
                redrawn.append(lived_in(episodes.select(drawn), everybody, family))
            data[quality].append({"seed": seed, "truths": truths, "estimates": estimates, "redrawn": redrawn})
            print(quality, seed, {name: round(found["fqe"], 1) for name, found in estimates.items()}, flush=True)
            print("   true", {name: round(value, 1) for name, value in truths.items()}, flush=True)
    candidates = [*learned, *list(stages)[1::2]]
    learned_worth = [one["truths"][name] for found in data.values() for one in found for name in candidates[:5]]
    body = (
        f"Policies on Pendulum-v1, drawing actions from their own spread where they have one, judged by logs of 50,000 "
        f"steps. Logs of each quality: {logs}, every one by another author; the first is that of chapter 5. Gamma {SWING}. "
        f"*rank correlation* is the mean over logs; in brackets the lowest and the highest of the "
        f"logs and, for the model of the task (*{TASK}*), of {redraws} redraws of each log's episodes with a fresh fit "
        f"to each. The other numbers are means. True values are from 1,000 episodes each.\n\n"
        f"**Ten candidates.** Five learned from the log itself ({', '.join(candidates[:5])} updates), worth between "
        f"{min(learned_worth):.1f} and {max(learned_worth):.1f}, and every second of the ten stages below.\n\n"
        + markdown_table(RANKED, _pendulum_rows(data, candidates))
        + f"\n\n**Ten stages of one soft actor-critic** that wrote none of the logs, worth between {min(worth.values()):.1f} "
        f"and {max(worth.values()):.1f}.\n\n" + markdown_table(RANKED, _pendulum_rows(data, list(stages)))
    )
    write_result(
        "ope_ranking_pendulum",
        body,
        command=f"python benchmarks/off_policy.py pendulum --logs {logs} --redraws {redraws}",
        data=data,
    )


def _pendulum_rows(data: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str]) -> list[list[str]]:
    rows = []
    for quality, logs in data.items():
        for estimator in (*SWUNG, TASK):
            pairs = [
                (
                    np.array([log["estimates"][name].get(estimator, math.nan) for name in names]),
                    np.array([log["truths"][name] for name in names]),
                )
                for log in logs
            ]
            silent = sum(int(np.isnan(estimates).sum()) for estimates, _ in pairs)
            if silent:
                rows.append([quality, estimator, f"refused for {silent} of {len(names) * len(pairs)}", "", "", ""])
                continue
            order = [rank_correlation(*pair) for pair in pairs]
            wider = order + [
                rank_correlation([redrawn[name] for name in names], [log["truths"][name] for name in names])
                for log in logs
                if estimator == TASK
                for redrawn in log["redrawn"]
            ]
            errors = [math.sqrt(np.square(estimates - truths).mean()) for estimates, truths in pairs]
            lost = [[regret_at_k(*pair, k) for pair in pairs] for k in (1, 3)]
            rows.append(
                [
                    quality,
                    estimator,
                    f"{statistics.fmean(order):.2f}"
                    + (f" [{min(wider):.2f}, {max(wider):.2f}]" if len(wider) > 1 else ""),
                    *(f"{statistics.fmean(numbers):.1f}" for numbers in (errors, *lost)),
                ]
            )
    return rows


def saved_and_loaded(policies: Mapping[str, Policy]) -> dict[str, Policy]:
    """What comes back from a file is what gets judged, as with ``rlcourse ope``."""
    loaded = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, policy) in enumerate(policies.items()):
            path = Path(folder) / str(number)
            PolicyArtifact.from_policy(policy, algorithm="one of several", env_id="Pendulum-v1").save(path)
            loaded[name] = PolicyArtifact.load(path).policy()
    return loaded


def pendulum_logs(seed: int) -> dict[str, Episodes]:
    """A medium and a mixed log by one author; those of seed 0 are the stored ones of chapter 5."""
    if seed == 0:
        return {quality: load_dataset(f"pendulum/{quality}-v0").episodes for quality in ("medium", "mixed")}
    medium = generate("Pendulum-v1", "medium", STORED, seeds=Seeds(seed)).episodes
    by_chance = generate("Pendulum-v1", "random", STORED // 2, seeds=Seeds(seed)).episodes
    return {"medium": medium, "mixed": Episodes.concatenate([by_chance, first_transitions(medium, STORED // 2)])}


STORED = 50_000
"""Steps in each of chapter 5's logs of the pendulum."""


def learned_from(episodes: Episodes, seeds: Seeds) -> dict[str, Policy]:
    """What the offline learners made of a log, at its settings by default."""
    actions = make("Pendulum-v1", 1, seeds=seeds).actions
    log = Transitions.from_episodes(episodes, gamma=SWING, actions=actions)
    kept: dict[str, Policy] = {}
    for name, (algorithm, stops) in LEARNED.items():
        learner, drawing = offline_learner(algorithm, log.spec(), seeds.child(name)), seeds.torch(f"batches of {name}")
        for update in range(1, max(stops) + 1):
            learner.update(log.sample(256, drawing))
            if update in stops:
                kept[f"{name} after {update:,}"] = copy.deepcopy(learner.policy)
    return kept


def judged(episodes: Episodes, policy: Policy, seeds: Seeds) -> dict[str, float]:
    """Each estimator's answer; those that refuse are left out."""
    log = Trajectories.from_episodes(episodes, policy, gamma=SWING, generator=seeds.torch("target's actions"))
    names = [name for name in SWUNG if log.weighable or name in ("fqe", "linear")]
    found = assess(log, names, seeds=seeds, resamples=50, fqe=FQEConfig(updates=SEEN)).values
    return {name: value.estimate for name, value in found.items()}


def lived_in(episodes: Episodes, policies: Mapping[str, Policy], seeds: Seeds) -> dict[str, float]:
    """What each policy earns in one model of the task, fitted to a log."""
    log = Trajectories.from_episodes(episodes, next(iter(policies.values())), gamma=SWING)
    dynamics = fit_dynamics(log, seeds=seeds)
    return {
        name: float(simulated_values(dynamics, policy, log, seeds=seeds).mean()) for name, policy in policies.items()
    }


def swinging(policy: Policy) -> float:
    """What a policy is worth on the pendulum."""
    return true_value(policy, 1_000, "Pendulum-v1", SWING)


RANKED = ["log", "estimator", "rank correlation", "root mean squared error", "regret at 1", "regret at 3"]


def _ranked(quality: str, name: str, estimates: list[float], truths: list[float]) -> list[str]:
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
        if not bool(running.any()):
            break
        obs = step.obs
    return float(total.mean())


if __name__ == "__main__":
    raise SystemExit(main())
