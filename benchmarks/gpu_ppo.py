"""PPO with thousands of environments on a GPU: is the device the bottleneck, and does the host ever wait for it?

    python benchmarks/gpu_ppo.py                  on a machine with a CUDA device; writes book/results/gpu_ppo.md
    python benchmarks/gpu_ppo.py --device cpu     the same loop on a CPU, for comparison; prints and writes nothing

For 256 to 16,384 environments: steps a second, and the share of the time in which the device was busy. The collection
loop runs under CUDA's own watch for hidden waiting (torch.cuda.set_sync_debug_mode), which raises where the host waits.
"""

from __future__ import annotations

import argparse
import time

import torch
from results import markdown_table, write_result

from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.devices import resolve_device
from rlcourse.environments import make
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.randomness import Seeds
from rlcourse.training.runs import task_spec

ROLLOUT_STEPS = 32


def main() -> int:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1_024, 4_096, 16_384])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    rows = []
    for size in arguments.sizes:
        collected, learned, busy = measure(size, device, arguments.rounds)
        rows.append(
            [f"{size:,}", f"{collected:,.0f}", f"{learned:,.0f}", "" if busy is None else f"{100 * busy:.0f} %"]
        )
    body = markdown_table(
        ["environments", "steps/s, collecting", "steps/s, collecting and learning", "device busy while collecting"],
        rows,
    )
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        write_result(
            "gpu_ppo", f"On one {name}.\n\n{body}", command="python benchmarks/gpu_ppo.py", data={"rows": rows}
        )
    else:
        print(body)
    return 0


def measure(num_envs: int, device: torch.device, rounds: int) -> tuple[float, float, float | None]:
    """Steps a second of collection alone and with updates, and the device's busy share of the first."""
    seeds = Seeds(0)
    env = make("CartPole-v1", num_envs, seeds=seeds, device=device)
    config = PPOConfig(epochs=4, batch_size=num_envs * ROLLOUT_STEPS // 4, activation="relu")
    with seeds.initialising("networks"):
        learner = PPO(task_spec(env), config, generator=seeds.torch("minibatches", device))
    collector = RolloutCollector(env, gamma=0.98, generator=seeds.torch("exploration", device))
    for _ in range(3):
        learner.update(collector.collect(learner.policy, ROLLOUT_STEPS))
    steps = rounds * num_envs * ROLLOUT_STEPS
    cuda = device.type == "cuda"
    busy = None
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("error")  # from here on, waiting for the device is an error
    started = time.perf_counter()
    for _ in range(rounds):
        collector.collect(learner.policy, ROLLOUT_STEPS)
    queued = time.perf_counter() - started
    if cuda:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize(device)
    collecting = time.perf_counter() - started
    if cuda:
        busy = device_share(collector, learner)
        print(f"{num_envs}: queued in {queued:.2f} s, done in {collecting:.2f} s")
    started = time.perf_counter()
    for _ in range(rounds):
        learner.update(collector.collect(learner.policy, ROLLOUT_STEPS))
    if cuda:
        torch.cuda.synchronize(device)
    return steps / collecting, steps / (time.perf_counter() - started), busy


def device_share(collector: RolloutCollector, learner: PPO) -> float:
    """The share of one rollout's wall time in which kernels ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        started = time.perf_counter()
        collector.collect(learner.policy, ROLLOUT_STEPS)
        torch.cuda.synchronize()
        wall = time.perf_counter() - started
    return float(sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / wall)


if __name__ == "__main__":
    raise SystemExit(main())
