"""PPO with thousands of environments on a GPU: is the device the bottleneck, and does the host ever wait for it?

    python benchmarks/gpu_ppo.py                  on a machine with a CUDA device; writes book/results/gpu_ppo.md
    python benchmarks/gpu_ppo.py --device cpu     the same loop on a CPU, for comparison; prints and writes nothing

For 256 to 65,536 environments: steps a second, and the share of the time in which the device was busy, with each
operation asked for by the host and with collection and update recorded once as CUDA graphs. The collection loop runs under
CUDA's own watch for hidden waiting (torch.cuda.set_sync_debug_mode), which raises where the host waits. Last, how long it
takes from the first step to a mean of 475 over 100 greedy episodes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from results import markdown_table, write_result

from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.devices import resolve_device
from rlcourse.environments import make
from rlcourse.experience.captured import rollout_collector
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.randomness import Seeds
from rlcourse.training.captured import quickest
from rlcourse.training.on_policy import OnPolicyConfig, train_on_policy
from rlcourse.training.runs import task_spec
from rlcourse.vocabulary import OnPolicyLearner

ROLLOUT_STEPS = 32
EPOCHS, MINIBATCHES = 4, 4
COLLECTORS: dict[str, Callable[..., RolloutCollector]] = {
    "asked for one by one": RolloutCollector,
    "recorded": rollout_collector,
}


def main() -> int:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1_024, 4_096, 16_384, 65_536])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--compiled", action="store_true", help="compile the gradient steps, too")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    rows = []
    for size in arguments.sizes:
        for name in COLLECTORS if device.type == "cuda" else list(COLLECTORS)[:1]:
            rows.append([f"{size:,}", name, *measure(size, name, device, arguments.rounds, arguments.compiled)])
            print(rows[-1], flush=True)
    body = markdown_table(
        ["environments", "operations", "steps/s, collecting", "device busy", "steps/s, with updates", "device busy"],
        rows,
    )
    solved = [[f"{seed}", *solve(device, seed)] for seed in range(3)] if device.type == "cuda" else []
    if device.type != "cuda":
        print(body)
        return 0
    body += (
        "\n\nUntil the mean of 100 greedy episodes first reached 475, with 4,096 environments, evaluations not counted:\n\n"
        + markdown_table(["seed", "seconds", "steps"], solved)
    )
    print(body)
    compiled = " --compiled" if arguments.compiled else ""
    steps = "compiled" if arguments.compiled else "plain"
    write_result(
        "gpu_ppo",
        f"PPO on CartPole-v1 on one {torch.cuda.get_device_name(device)}: rollouts of {ROLLOUT_STEPS} steps, {EPOCHS} epochs "
        f"of {MINIBATCHES} minibatches, networks of 64 and 64 units, {steps} gradient steps. No host synchronisation happened "
        f"while collecting: CUDA's own watch would have stopped the run.\n\n{body}",
        command=f"python benchmarks/gpu_ppo.py{compiled}",
        data={"rows": rows, "solved": solved},
    )
    return 0


def config_for(num_envs: int, *, compiled: bool = False) -> PPOConfig:
    """Minibatches are a fixed share of the rollout."""
    size = num_envs * ROLLOUT_STEPS // MINIBATCHES
    return PPOConfig(epochs=EPOCHS, batch_size=size, activation="relu", compiled=compiled)


def measure(num_envs: int, collector_name: str, device: torch.device, rounds: int, compiled: bool) -> list[str]:
    """Steps a second and the device's busy share: of collection alone, and with updates."""
    seeds = Seeds(0)
    env = make("CartPole-v1", num_envs, seeds=seeds, device=device)
    with seeds.initialising("networks"):
        config = config_for(num_envs, compiled=compiled)
        learner: OnPolicyLearner = PPO(task_spec(env), config, generator=seeds.torch("minibatches", device))
    if collector_name == "recorded":
        learner = quickest(learner, device)
    collector = COLLECTORS[collector_name](env, gamma=0.98, generator=seeds.torch("exploration", device))

    def collect() -> None:
        collector.collect(learner.policy, ROLLOUT_STEPS)

    def learn() -> None:
        learner.update(collector.collect(learner.policy, ROLLOUT_STEPS))

    for _ in range(3):
        learn()
    steps = rounds * num_envs * ROLLOUT_STEPS
    with no_waiting(device):
        collecting = timed(collect, rounds, device)
    learning = timed(learn, rounds, device)
    shares = [f"{100 * busy_share(run):.0f} %" if device.type == "cuda" else "" for run in (collect, learn)]
    return [f"{steps / collecting:,.0f}", shares[0], f"{steps / learning:,.0f}", shares[1]]


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Inside, waiting for the device is an error; for the last result one waits outside of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def timed(run: Callable[[], None], rounds: int, device: torch.device) -> float:
    """Seconds for ``rounds`` of it, until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # an explicit wait is allowed under the watch: it looks for hidden ones
    started = time.perf_counter()
    for _ in range(rounds):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def busy_share(run: Callable[[], None]) -> float:
    """The share of wall time in which kernels ran, from the first to the last of them, over five rounds."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
    events: list[Any] = profile.events()
    spans = sorted((e.time_range.start, e.time_range.end) for e in events if e.device_type.name == "CUDA")
    first = end = float(spans[0][0])
    busy = 0.0
    for begin, finish in spans:
        busy += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    return busy / (end - first)


def solve(device: torch.device, seed: int) -> list[str]:
    """Seconds and steps until CartPole is balanced."""
    seeds, num_envs = Seeds(seed), 4_096
    env = make("CartPole-v1", num_envs, seeds=seeds, device=device)
    with seeds.initialising("networks"):
        learner = PPO(task_spec(env), config_for(num_envs), generator=seeds.torch("minibatches", device))
    rollout = num_envs * ROLLOUT_STEPS
    settings = OnPolicyConfig(
        num_steps=60 * rollout, num_envs=num_envs, rollout_steps=ROLLOUT_STEPS, eval_every=rollout, anneal=False
    )
    run = train_on_policy(learner, env, settings, seeds=seeds, stop=lambda step, earned: earned >= 475.0)
    last = run.evaluations[-1]
    reached = last.greedy_return >= 475.0
    return [f"{last.train_seconds:.2f}", f"{last.step:,}"] if reached else ["not reached", f"{last.step:,}"]


if __name__ == "__main__":
    raise SystemExit(main())
