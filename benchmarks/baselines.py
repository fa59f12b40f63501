"""PPO, DQN and SAC of this package against stable-baselines3's, and what they earn: the tables in chapter 2.

    python benchmarks/baselines.py solve     seconds to the first mean greedy return of 475 on CartPole-v1: each side's own
                                             settings, ours and rl-baselines3-zoo's
    python benchmarks/baselines.py equal     PPO's steps per second at equal settings, with 8 and with 64 environments
    python benchmarks/baselines.py dqn       DQN's at equal settings, and what both earn
    python benchmarks/baselines.py sac       SAC's on Pendulum-v1 at equal settings
    python benchmarks/baselines.py sac-solve seconds to SAC's first mean greedy return of -170 there: each side's own settings
    python benchmarks/baselines.py scores    greedy returns of everything on four tasks, random and scripted rules beside
    python benchmarks/baselines.py room      what the server room costs under each, and how often its limit is left

Both sides run in turn in one process, one thread each, so that a noisy machine is noisy for both. Seconds are those of
collection and updates together; evaluations are left out on both sides. ``solve`` ends with 1 if the median of the ratios
within a seed is below 4, or if one of our runs does not arrive. ``--smoke`` runs a little of everything and writes nothing
to the book.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import results
from results import markdown_table, write_result

from rlcourse.algorithms.dqn import DQNConfig
from rlcourse.algorithms.ppo import PPOConfig
from rlcourse.algorithms.sac import SACConfig
from rlcourse.devices import torch_threads, wide_products
from rlcourse.environments.server_room import STEPS_A_DAY
from rlcourse.evaluation.server_room import operate
from rlcourse.evaluation.solved import SOLVED
from rlcourse.evaluation.statistics import bootstrap_interval, interquartile_mean
from rlcourse.randomness import Seeds
from rlcourse.recipes.command_line import main as rlcourse
from rlcourse.training.off_policy import OffPolicyConfig
from rlcourse.training.on_policy import OnPolicyConfig
from rlcourse.training.online import OnlineSettings, online_settings, train_online
from rlcourse.training.runs import Stop, TrainingRun
from rlcourse.training.sb3 import Sb3Settings, sb3_settings, train_sb3

Train = Callable[[Seeds, Stop], TrainingRun]
OURS, THEIRS = "this package", "stable-baselines3"
COMPILED = "this package, compiled"
CARTPOLE, PENDULUM, ROOM = "CartPole-v1", "Pendulum-v1", "rlcourse/ServerRoom-v0"
EVAL_EVERY = 5_120
RATIO_LIMIT = 4.0
SEEDS = {"dqn": 20}
"""Runs where five say too little: a DQN without its improvements earns 100 with one seed and 500 with the next."""
SCORES: dict[str, tuple[str, ...]] = {
    CARTPOLE: ("random", "scripted", "dqn", "ppo"),
    "Acrobot-v1": ("random", "scripted", "dqn", "ppo"),
    PENDULUM: ("random", "scripted", "ppo", "sac"),
    ROOM: ("random", "scripted", "dqn", "ppo"),
}


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("solve", "equal", "dqn", "sac", "sac-solve", "scores", "room"))
    parser.add_argument("--seeds", type=int, help="by default 5, of dqn 20")
    parser.add_argument("--rounds", type=int, default=7, help="of each measurement of speed")
    parser.add_argument("--smoke", action="store_true", help="see that it runs; the numbers mean nothing")
    arguments = parser.parse_args()
    command = f"python benchmarks/baselines.py {arguments.part}"
    seeds, rounds = (2, 2) if arguments.smoke else (arguments.seeds or SEEDS.get(arguments.part, 5), arguments.rounds)
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        if arguments.smoke:
            results.RESULTS = Path(folder)
        if arguments.part == "solve":
            return 0 if solve(seeds, command, smoke=arguments.smoke) >= RATIO_LIMIT or arguments.smoke else 1
        if arguments.part == "equal":
            equal(rounds, command, smoke=arguments.smoke)
        elif arguments.part == "dqn":
            dqn(seeds, rounds, command, smoke=arguments.smoke)
        elif arguments.part == "sac":
            sac(rounds, command, smoke=arguments.smoke)
        elif arguments.part == "sac-solve":
            sac_solve(seeds, command, smoke=arguments.smoke)
        elif arguments.part == "room":
            room(seeds, command, smoke=arguments.smoke)
        else:
            scores(seeds, command, smoke=arguments.smoke)
    return 0


# To a return


def solve(seeds: int, command: str, *, smoke: bool) -> float:
    """Both sides' PPO to 475 with their own settings; returns the median of theirs / ours (0 if ours does not arrive)."""
    ours, theirs = online_settings("ppo", CARTPOLE), sb3_settings("sb3-ppo", CARTPOLE)
    ours = replace(ours, loop=replace(ours.loop, eval_every=EVAL_EVERY))
    theirs = replace(theirs, eval_every=EVAL_EVERY)
    sides = {OURS: our_training("ppo", CARTPOLE, ours), THEIRS: their_training("sb3-ppo", CARTPOLE, theirs)}
    data = race(sides, 10.0 if smoke else SOLVED[CARTPOLE], seeds)
    body = (
        f"Until the mean of {theirs.eval_episodes} greedy episodes of {CARTPOLE} first reached {data['wanted']:g}, looked at "
        f"every {EVAL_EVERY:,} steps. Each side with its own settings: ours, and those of rl-baselines3-zoo. One thread "
        "each, run in turn; evaluations are not counted.\n\n" + race_table(data)
    )
    write_result("baselines_solve", body, command=command, data=data)
    return float(data["ratio"] or 0.0)


def race(sides: Mapping[str, Train], wanted: float, seeds: int) -> dict[str, Any]:
    """The first evaluation of each seed of each side with at least the wanted return."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for seed in range(seeds):
        for side, train in sides.items():
            run = train(Seeds(seed), lambda step, earned: earned >= wanted)
            first, end = run.first_reaching(wanted), run.evaluations[-1]
            found[side].append(
                {
                    "seed": seed,
                    "reached": first is not None,
                    "steps": end.step,
                    "seconds": end.train_seconds,
                    "cpu_seconds": end.cpu_seconds,
                    "return": end.greedy_return,
                }
            )
    pairs = list(zip(found[OURS], found[THEIRS], strict=True))
    # Where they do not arrive, theirs took at least what is counted; where ours do not, there is no ratio.
    whole = all(ours["reached"] for ours, _ in pairs)
    ratio = statistics.median(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs) if whole else None
    return {"wanted": wanted, "runs": found, "ratio": ratio}


def race_table(data: Mapping[str, Any]) -> str:
    """Medians, and every seed."""
    rows = []
    for side, runs in data["runs"].items():
        shown = [f"{run['seconds']:.2f}" if run["reached"] else f"not in {run['seconds']:.2f}" for run in runs]
        middle = {name: statistics.median(run[name] for run in runs) for name in ("seconds", "cpu_seconds", "steps")}
        rate = statistics.median(run["steps"] / run["seconds"] for run in runs)
        arrived = sum(run["reached"] for run in runs)
        cells = [
            f"**{middle['seconds']:.2f}**",
            f"{middle['cpu_seconds']:.2f}",
            f"{middle['steps']:,.0f}",
            f"{rate:,.0f}",
        ]
        rows.append([side, *cells, f"{arrived} of {len(runs)}", ", ".join(shown)])
    header = ["", "seconds, median", "CPU seconds", "steps", "steps/s", "arrived", "seconds, each seed"]
    table = markdown_table(header, rows)
    if data["ratio"] is None:
        return f"{table}\n\nNot all of our runs arrived."
    return f"{table}\n\nMedian over the seeds of the ratio of seconds, {THEIRS} to {OURS}: {data['ratio']:.1f}."


# Speed at equal settings


def equal(rounds: int, command: str, *, smoke: bool) -> None:
    """PPO's steps per second: 32 steps of each copy, batches of 256, 20 epochs."""
    found: dict[str, dict[str, list[float]]] = {}
    for num_envs, rollouts in ((8, 40), (64, 8)):
        ours, theirs = equal_ppo(num_envs, 32 * num_envs * (4 if smoke else rollouts))
        sides = {
            OURS: our_training("ppo", CARTPOLE, ours),
            COMPILED: our_training("ppo", CARTPOLE, compiled(ours)),
            THEIRS: their_training("sb3-ppo", CARTPOLE, theirs),
        }
        found[f"{num_envs} environments"] = speeds(sides, rounds)
    body = (
        f"PPO on {CARTPOLE}: environment steps per second, collection and updates together, at equal settings: rollouts of 32 "
        "steps, batches of 256, 20 epochs, networks of 64 and 64 tanh units, one thread. "
        f"Median of {rounds} rounds in which all ran in turn; the first quarter of each run, in which compiling happens, is "
        "left out on all sides.\n\n" + speed_table(found)
    )
    write_result("baselines_equal", body, command=command, data={"steps_per_s": found})


def equal_ppo(num_envs: int, num_steps: int) -> tuple[OnlineSettings, Sb3Settings]:
    """The same PPO twice; neither schedule falls."""
    learner = PPOConfig(hidden=(64, 64), activation="tanh", learning_rate=1e-3, epochs=20, batch_size=256, clip=0.2)
    loop = OnPolicyConfig(
        num_steps=num_steps,
        num_envs=num_envs,
        rollout_steps=32,
        anneal=False,
        eval_every=num_steps // 4,
        eval_episodes=1,
    )
    arguments = {
        "n_steps": 32,
        "batch_size": 256,
        "n_epochs": 20,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
        "gamma": loop.gamma,
        "gae_lambda": learner.lambda_,
    }
    return OnlineSettings(learner, loop, scaled=False), Sb3Settings(
        num_steps=num_steps, num_envs=num_envs, eval_every=num_steps // 4, eval_episodes=1, arguments=arguments
    )


def dqn(seeds: int, rounds: int, command: str, *, smoke: bool) -> None:
    """DQN without its improvements, as stable-baselines3 has it: speed, and what both earn."""
    timed = equal_dqn(4_800 if smoke else 16_000)
    found = {"16 environments": speeds(dqn_sides(timed), rounds)}
    steps, sides = 4_800 if smoke else 60_000, list(dqn_sides(timed))
    keys = [(side, steps, seed) for seed in range(seeds) for side in sides]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:  # nothing is timed any more
        found_returns = list(pool.map(dqn_earns, *zip(*keys, strict=True)))
    earned = {side: [each for key, each in zip(keys, found_returns, strict=True) if key[0] == side] for side in sides}
    rng = Seeds(0).numpy("bootstrap")
    rows = [
        [
            side,
            *(f"{bootstrap_interval(np.array([run[kind] for run in each]), rng=rng):.0f}" for kind in ("last", "best")),
            f"{sum(run['last'] >= SOLVED[CARTPOLE] for run in each)} of {seeds}",
        ]
        for side, each in earned.items()
    ]
    body = (
        f"DQN on {CARTPOLE} at equal settings: 16 environments, a gradient step on 128 transitions for every 4 steps, networks "
        "of 64 and 64 units, the target copied every 60 updates, no double estimate, one step of reality, one thread. Steps "
        f"per second, collection and updates together, without the first quarter of each run; median of {rounds} rounds in "
        "which all ran in turn.\n\n"
        + speed_table(found)
        + f"\n\nWhat they earn after {steps:,} steps (100 greedy episodes, seeds 0 to {seeds - 1}):\n\n"
        + markdown_table(
            ["", "last: IQM [95 % interval]", "best: IQM [95 % interval]", f"last at {SOLVED[CARTPOLE]:g} or more"],
            rows,
        )
    )
    write_result("baselines_dqn", body, command=command, data={"steps_per_s": found, "returns": earned})


def dqn_earns(side: str, steps: int, seed: int) -> dict[str, float]:
    """The returns of one training run, in a process of its own."""
    with torch_threads(1):
        run = dqn_sides(equal_dqn(steps))[side](Seeds(seed), never)
    return {"last": run.last, "best": run.best}


def equal_dqn(num_steps: int) -> tuple[OnlineSettings, Sb3Settings]:
    """The same plain DQN twice."""
    learner = DQNConfig(hidden=(64, 64), double=False, target_rate=1.0, target_every=60, maximum_gradient=10.0)
    every = num_steps // 4
    loop = OffPolicyConfig(num_steps=num_steps, num_envs=16, steps_per_update=4, n_step=1, eval_every=every)
    arguments = {
        "learning_rate": learner.learning_rate,
        "batch_size": loop.batch_size,
        "buffer_size": 100_000,
        "learning_starts": loop.warm_up_steps,
        "gamma": loop.gamma,
        "train_freq": 1,  # of all 16 together
        "gradient_steps": 4,
        "target_update_interval": 4 * learner.target_every,  # counted in steps
        "exploration_fraction": min(1.0, loop.exploration_steps / num_steps),
        "exploration_final_eps": loop.final_epsilon,
        "max_grad_norm": learner.maximum_gradient,
    }
    theirs = Sb3Settings(num_steps=num_steps, num_envs=16, eval_every=every, arguments=arguments)
    return OnlineSettings(learner, loop, scaled=False), theirs


def dqn_sides(both: tuple[OnlineSettings, Sb3Settings]) -> dict[str, Train]:
    """Both DQNs on CartPole, ours also compiled."""
    return {
        OURS: our_training("dqn", CARTPOLE, both[0]),
        COMPILED: our_training("dqn", CARTPOLE, compiled(both[0])),
        THEIRS: their_training("sb3-dqn", CARTPOLE, both[1]),
    }


def sac(rounds: int, command: str, *, smoke: bool) -> None:
    """SAC on Pendulum: speed at equal settings."""
    ours, theirs = equal_sac(1_600 if smoke else 2_400)
    sides = {
        OURS: our_training("sac", PENDULUM, ours),
        COMPILED: our_training("sac", PENDULUM, compiled(ours)),
        THEIRS: their_training("sb3-sac", PENDULUM, theirs),
    }
    found = {"1 environment": speeds({**sides, f"{THEIRS}, oneDNN allowed too": wide(sides[THEIRS])}, rounds)}
    body = (
        f"SAC on {PENDULUM} at equal settings: one environment, an update on 256 transitions at every step, networks of 256 "
        "and 256 units, one thread. Steps per second, collection and updates together; oneDNN is the library "
        f"that `wide_products` lets torch use. Median of {rounds} rounds in which all ran in turn.\n\n"
        + speed_table(found)
    )
    write_result("baselines_sac", body, command=command, data={"steps_per_s": found})


def sac_solve(seeds: int, command: str, *, smoke: bool) -> None:
    """Both SACs to -170, each with its own settings."""
    own, zoo = online_settings("sac", PENDULUM), sb3_settings("sb3-sac", PENDULUM)
    if smoke:
        own, zoo = replace(own, loop=replace(own.loop, num_steps=1_050)), replace(zoo, num_steps=150)
    racing = {OURS: our_training("sac", PENDULUM, own), THEIRS: their_training("sb3-sac", PENDULUM, zoo)}
    data = race(racing, -2_000.0 if smoke else SOLVED[PENDULUM], seeds)
    body = (
        f"Until the mean of 100 greedy episodes of {PENDULUM} first reached {data['wanted']:g}, each side with its own "
        f"settings, looked at every {own.loop.eval_every:,} (ours) and {zoo.eval_every:,} steps:\n\n" + race_table(data)
    )
    write_result("baselines_sac_solve", body, command=command, data=data)


def equal_sac(num_steps: int) -> tuple[OnlineSettings, Sb3Settings]:
    """The same SAC twice."""
    learner = SACConfig(hidden=(256, 256), learning_rate=1e-3)
    loop = OffPolicyConfig(
        num_steps=num_steps,
        num_envs=1,
        warm_up_steps=256,
        steps_per_update=1,
        batch_size=256,
        n_step=1,
        eval_every=num_steps // 4,
        eval_episodes=1,
    )
    arguments = {
        "learning_rate": learner.learning_rate,
        "batch_size": loop.batch_size,
        "learning_starts": loop.warm_up_steps,
        "gamma": loop.gamma,
        "tau": learner.target_rate,
        "train_freq": 1,
        "gradient_steps": 1,
        "policy_kwargs": {"net_arch": [256, 256]},
    }
    return OnlineSettings(learner, loop, scaled=False), Sb3Settings(
        num_steps=num_steps, eval_every=num_steps // 4, eval_episodes=1, arguments=arguments
    )


def speeds(sides: Mapping[str, Train], rounds: int) -> dict[str, list[float]]:
    """Steps per second of each side in each round, from the first evaluation to the last."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, train in sides.items():
            run = train(Seeds(number), never)
            first, end = run.evaluations[0], run.evaluations[-1]
            found[side].append((end.step - first.step) / (end.train_seconds - first.train_seconds))
    return found


def compiled(settings: OnlineSettings) -> OnlineSettings:
    """The same with its gradient steps compiled, and on policy its collection too."""
    loop = settings.loop
    loop = replace(loop, compiled=True) if isinstance(loop, OnPolicyConfig) else loop
    return replace(settings, learner=replace(settings.learner, compiled=True), loop=loop)


def speed_table(found: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Medians, ranges, and the median of the ratios within a round."""
    rows = []
    for what, rates in found.items():
        mine = [side for side in (OURS, COMPILED) if side in rates]
        for side, each in rates.items():
            ratios = [
                ""
                if side in mine
                else f"**{statistics.median(a / b for a, b in zip(rates[us], each, strict=True)):.2f}**"
                for us in mine
            ]
            ratios += [""] * (2 - len(ratios))
            rows.append(
                [what, side, f"{statistics.median(each):,.0f}", f"{min(each):,.0f} to {max(each):,.0f}", *ratios]
            )
    header = ["", "", "steps/s", "range", "ours divided by it", "ours, compiled, divided by it"]
    return markdown_table(header, rows)


def our_training(algorithm: str, env_id: str, settings: OnlineSettings) -> Train:
    """One of ours as something to run."""
    return lambda seeds, stop: train_online(algorithm, env_id, seeds=seeds, settings=settings, stop=stop)[0]


def their_training(algorithm: str, env_id: str, settings: Sb3Settings) -> Train:
    """One of theirs as something to run."""
    return lambda seeds, stop: train_sb3(algorithm, env_id, seeds=seeds, settings=settings, stop=stop)[0]


def wide(train: Train) -> Train:
    """The same with the library that this package lets torch use for wide layers."""

    def training(seeds: Seeds, stop: Stop) -> TrainingRun:
        with wide_products(256):
            return train(seeds, stop)

    return training


def never(step: int, greedy_return: float) -> bool:
    """To the end."""
    return False


# What everything earns


def scores(seeds: int, command: str, *, smoke: bool) -> None:
    """One ``rlcourse benchmark`` for each task."""
    reports = {env: suite(env, names, seeds, smoke) for env, names in SCORES.items()}
    rows = [
        [
            env,
            row["algorithm"],
            f"**{row['iqm']:.1f}** [{row['ci_low']:.1f}, {row['ci_high']:.1f}]",
            f"{row['best_iqm']:.1f}",
            "" if row["improvement"] is None else f"{row['improvement']['estimate']:.2f}",
            f"{max(one['steps'] for one in report['results'] if one['algorithm'] == row['algorithm']):,}",
        ]
        for env, report in reports.items()
        for row in report["summary"]
    ]
    header = ["task", "method", "last: IQM [95 % interval]", "best: IQM", "P(a run beats a random one)", "steps"]
    body = (
        f"Mean returns of 100 greedy episodes (random: sampled ones), {seeds} seeds. Scripted rules are what a person would "
        "write down without learning anything.\n\n" + markdown_table(header, rows)
    )
    write_result("baselines_scores", body, command=command, data={"reports": reports})


def room(seeds: int, command: str, *, smoke: bool) -> None:
    """The same days under every policy: money, heat and violations, run by run."""
    days = 100
    found: dict[str, list[dict[str, float]]] = {}
    for name in SCORES[ROOM]:
        steps = 3_000 if smoke and name in ("dqn", "ppo") else None
        for seed in range(seeds):
            each = Seeds(seed)
            _, policy = train_online(name, ROOM, seeds=each, num_steps=steps)
            done = operate(policy, num_episodes=days, seeds=each.child("judging"), greedy=name != "random")
            found.setdefault(name, []).append(
                {
                    "cost": done.mean_cost,
                    "energy_cost": float(done.energy_cost.mean()),
                    "degree_minutes": float(done.degree_minutes.mean()),
                    "violations": done.total_violations,
                }
            )
    rows = [
        [
            name,
            f"**{float(interquartile_mean(np.array([run['cost'] for run in runs]))):.1f}**",
            ", ".join(f"{run['cost']:.1f}" for run in runs),
            *(f"{statistics.mean(run[what] for run in runs):.1f}" for what in ("energy_cost", "degree_minutes")),
            ", ".join(f"{run['violations']}" for run in runs),
        ]
        for name, runs in found.items()
    ]
    header = [
        "",
        "EUR a day: IQM",
        "EUR a day, each run",
        "energy, EUR a day",
        "degree-minutes a day",
        "violations, each run",
    ]
    body = (
        f"The server room, {days} days for each of {seeds} runs, the same weather and load for all policies of a run. A "
        f"violation is a step that ends above the safety limit; {days} days are {days * STEPS_A_DAY:,} steps. Greedy, but for "
        "random actions; learners with the settings that `rlcourse benchmark` gives them.\n\n"
        + markdown_table(header, rows)
    )
    write_result("baselines_room", body, command=command, data={"runs": found})


def suite(env: str, algorithms: tuple[str, ...], seeds: int, smoke: bool) -> dict[str, Any]:
    """The report of one ``rlcourse benchmark``."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "report.json"
        words = ["--env", env, "--algorithms", *algorithms, "--trials", str(seeds), "--device", "cpu"]
        few = ["--num-steps", "1100"] if smoke else []
        # A folder of its own: trials that are kept know their settings, and not the code that ran them.
        status = rlcourse(["benchmark", *words, *few, "--folder", folder, "--json", str(target)])
        if status:
            raise SystemExit(status)
        report: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        return report


if __name__ == "__main__":
    raise SystemExit(main())
