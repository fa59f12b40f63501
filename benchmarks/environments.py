"""Steps per second of every tensor program, by batch size, beside Gymnasium's own vector environment.

python benchmarks/environments.py [--seconds S]     writes book/results/environments.md
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

import gymnasium as gym
import torch
from results import markdown_table, write_result
from torch import Tensor

from rlcourse.devices import torch_threads
from rlcourse.environments import NATIVE, BatchedEnvironment, MaskedEnvironment, make
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ContinuousActions

BATCHES, GYMNASIUM_BATCHES = (1, 8, 64, 1024, 16384), (8, 64)
REPEATS, PROCESSES = 5, 2
DRAWN = 16
"""So many batches of random actions are drawn beforehand and used in turn."""
LIMITED, LIMIT_STEPS_PER_S = "rlcourse/ServerRoom-v0", 1_000_000


def main() -> int:
    """Measure, write the table; exit status 1 if the server room is slower than its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each repeat")
    seconds = parser.parse_args().seconds
    with torch_threads(1):
        found = {env_id: measure(env_id, seconds) for env_id in sorted(NATIVE)}
    header = [
        "task",
        *(f"N = {n:,}" for n in BATCHES),
        f"{PROCESSES} processes, best N",
        *(f"Gymnasium, N = {n}" for n in GYMNASIUM_BATCHES),
    ]
    rows = [
        [
            env_id,
            *(_thousands(one["native"][n]) for n in BATCHES),
            _thousands([sum(one["processes"])]),
            *(_thousands(one["gymnasium"].get(n)) for n in GYMNASIUM_BATCHES),
        ]
        for env_id, one in found.items()
    ]
    body = markdown_table(header, rows) + (
        "\n\nThousands of environment steps per second on one thread, random actions, "
        f"the median of {REPEATS} repeats of {seconds:g} s. Gymnasium's is its `SyncVectorEnv`."
    )
    write_result("environments", body, command=_COMMAND, data={"steps_per_s": found, "seconds": seconds})
    return 0 if LIMITED not in found or sum(found[LIMITED]["processes"]) >= LIMIT_STEPS_PER_S else 1


_COMMAND = "python benchmarks/environments.py"


def measure(env_id: str, seconds: float) -> dict[str, Any]:
    """Steps per second of every repeat: by batch size here, in each process at the best one, by size in Gymnasium."""
    native = {n: native_speed(env_id, n, seconds) for n in BATCHES}
    best = max(BATCHES, key=lambda n: statistics.median(native[n]))
    theirs = {n: gymnasium_speed(env_id, n, seconds) for n in GYMNASIUM_BATCHES if env_id in gym.registry}
    return {"native": native, "best_batch": best, "processes": side_by_side(env_id, best, seconds), "gymnasium": theirs}


def native_speed(env_id: str, num_envs: int, seconds: float) -> list[float]:
    """Of a tensor program; where actions are masked, the mask and a choice within it are timed too."""
    env = make(env_id, num_envs, seeds=Seeds(0))
    chosen = random_actions(env)
    env.reset()
    if isinstance(env, MaskedEnvironment):
        mask, noise = env.action_mask, torch.rand(num_envs, env.num_actions) + 1.0
        return speed(lambda _: env.step((mask() * noise).argmax(-1)), num_envs, seconds)
    return speed(lambda count: env.step(chosen[count % DRAWN]), num_envs, seconds)


def gymnasium_speed(env_id: str, num_envs: int, seconds: float) -> list[float]:
    """Of Gymnasium's own copies, stepped one after the other."""
    env = gym.make_vec(env_id, num_envs, vectorization_mode="sync")
    chosen = random_actions(make(env_id, num_envs, seeds=Seeds(0))).numpy()
    env.reset(seed=0)
    found = speed(lambda count: env.step(chosen[count % DRAWN]), num_envs, seconds)
    env.close()
    return found


def random_actions(env: BatchedEnvironment) -> Tensor:
    """``(DRAWN, N)`` or ``(DRAWN, N, K)``."""
    generator = Seeds(0).torch("actions")
    if isinstance(env.actions, ContinuousActions):
        size = (DRAWN, env.num_envs, env.actions.size)
        return (2 * torch.rand(size, generator=generator) - 1) * env.actions.half_range + env.actions.centre
    return torch.randint(env.num_actions, (DRAWN, env.num_envs), generator=generator)


def speed(step: Callable[[int], object], num_envs: int, seconds: float) -> list[float]:
    """Steps per second of each repeat, after a tenth of one to warm up."""
    _timed(step, seconds / 10)
    return [num_envs * _timed(step, seconds) for _ in range(REPEATS)]


def _timed(step: Callable[[int], object], seconds: float) -> float:
    count, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        step(count)
        count += 1
    return count / spent


def side_by_side(env_id: str, num_envs: int, seconds: float) -> list[float]:
    """The median steps per second of each of several processes that run at the same time."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES, _prepare, (context.Barrier(PROCESSES),)) as pool:
        return pool.starmap(_beside, [(env_id, num_envs, seconds)] * PROCESSES, chunksize=1)


def _prepare(barrier: Barrier) -> None:
    global _together
    _together = barrier
    torch.set_num_threads(1)


_together: Barrier


def _beside(env_id: str, num_envs: int, seconds: float) -> float:
    _together.wait()
    return statistics.median(native_speed(env_id, num_envs, seconds))


def _thousands(steps_per_s: list[float] | None) -> str:
    return "–" if steps_per_s is None else f"{statistics.median(steps_per_s) / 1e3:,.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
