"""What watching costs a request, how often a healthy plant raises an alarm, and which faults are found.

    python benchmarks/monitoring.py speed
    python benchmarks/monitoring.py drift

``speed`` asks two services in one process in turn, one of them watched; the ratio is taken block by block, so that a slow
moment of the machine falls on both. ``drift`` runs server rooms under the thermostat.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from results import markdown_table, write_result

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.environments.server_room import OBSERVATION, STEPS_A_DAY, Fault, ServerRoom, thermostat
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.drift import (
    CHECKS,
    DriftConfig,
    DriftMonitor,
    FalseAlarmBudget,
    Units,
    ks_per_feature,
)
from rlcourse.monitoring.exporter import Exporter, Registry, exposition
from rlcourse.monitoring.streams import PolicyStream
from rlcourse.monitoring.watched import WatchedPolicy
from rlcourse.networks import CategoricalPolicy, LogitsNetwork
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import say
from rlcourse.serving import wire
from rlcourse.serving.assembly import Forgetful
from rlcourse.serving.metrics import Counting
from rlcourse.serving.policies import read_artifact
from rlcourse.serving.service import PolicyService, ServiceConfig
from rlcourse.serving.shelf import Shelf, ShelfConfig

COMMAND = "python benchmarks/monitoring.py"
TARGET = 0.03
BODY = b'{"observation":[0.01,-0.02,0.03,0.04],"deterministic":false}'
WINDOWS_A_DAY, WINDOW, REFERENCE = 4, 32, 64
SIZE_IN = {
    "growing_load": "kW",
    "weak_chiller": "of the cooling",
    "sensor_drift": "K",
    "new_tariff": "h",
    "heat_wave": "K",
}
FAULTS = (
    *(Fault("growing_load", size) for size in (1.0, 2.0, 4.0)),
    *(Fault("weak_chiller", size) for size in (0.05, 0.1, 0.3)),
    *(Fault("sensor_drift", size) for size in (0.25, 0.5, 2.0)),
    *(Fault("new_tariff", size) for size in (1.0, 3.0, 12.0)),
    *(Fault("heat_wave", size) for size in (1.0, 2.0, 5.0)),
)


def service(folder: Path, *, watched: bool) -> tuple[PolicyService, Registry]:
    shelf = Shelf(ShelfConfig(), clock=time.perf_counter, wall=time.time)
    shelf.add(shelf.warm("rl_policy", read_artifact(folder)))
    counting, registry = Counting(shelf), Registry()
    registry.register(counting)
    if watched:
        exporter, loaded = Exporter(registry), shelf.find("rl_policy", None)
        policy = WatchedPolicy(loaded.policy, stream=PolicyStream())
        exporter.actions(loaded.name, loaded.version, policy.actions)
        loaded.policy = policy
    made = PolicyService(
        shelf,
        ServiceConfig(),
        rng=Seeds(0).numpy("serving"),
        clock=time.perf_counter,
        wall=time.time,
        recorder=Forgetful(),
        watcher=counting,
        prefix="bench-",
    )
    return made, registry


def block(asked: PolicyService, requests: int) -> float:
    """Microseconds of processor time a request, from the bytes of its body to those of its answer."""
    began = time.thread_time()  # what other processes take does not count
    for _ in range(requests):
        wire.encode(asked.act("rl_policy", wire.read_action(BODY)))
    return (time.thread_time() - began) / requests * 1e6


def speed(rounds: int, requests: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        with Seeds(0).initialising("network"):
            policy = CategoricalPolicy(LogitsNetwork(torch.zeros(4), torch.ones(4), (64, 64), 2))
        folder = Path(name) / "policy"
        PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="CartPole-v1").save(folder)
        (plain, _), (watched, registry) = service(folder, watched=False), service(folder, watched=True)
    block(plain, requests), block(watched, requests)
    ratios, base, ours = [], [], []
    for _ in range(rounds):
        # plain, watched, watched, plain: a drift of the machine's speed cancels
        a, b, c, d = (block(asked, requests) for asked in (plain, watched, watched, plain))
        ratios.append((b + c) / (a + d))
        base.append((a + d) / 2)
        ours.append((b + c) / 2)
    began = time.perf_counter()
    size = len(exposition(registry))
    scrape_ms = (time.perf_counter() - began) * 1e3
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)) - 1.0
    held = bool(middle < TARGET)
    body = "\n".join(
        [
            f"One request in process, from the bytes of its body to those of its answer, network 4-64-64-2, {rounds} "
            f"rounds of 4 blocks of {requests:,} requests, the two services in turn. Both count requests and latencies; the "
            "watched one counts actions too, and takes entropy and exploration of every 64th decision.",
            "",
            markdown_table(
                ["", "microseconds of processor time a request, median"],
                [["service", f"{median(base):.2f}"], ["watched", f"{median(ours):.2f}"]],
            ),
            "",
            markdown_table(
                ["", "target", "measured", "held"],
                [
                    [
                        "watching adds",
                        f"under {TARGET:.0%}",
                        f"{middle:.1%} (middle half of the rounds {low:.1%} to {high:.1%})",
                        "yes" if held else "**no**",
                    ]
                ],
            ),
            "",
            f"A scrape of everything takes {scrape_ms:.1f} ms and is {size:,} bytes long.",
        ]
    )
    data = {"ratios": ratios, "plain_us": base, "watched_us": ours, "scrape_ms": scrape_ms, "held": held}
    write_result("monitoring_speed", body, command=f"{COMMAND} speed", data=data)
    return 0 if held else 1


def days(count: int, seeds: Seeds, fault: Fault | None = None) -> Episodes:
    """Whole days of rooms under the thermostat."""
    room = ServerRoom(count, generator=seeds.torch("environment"))
    if fault is not None:
        room.inject(fault)
    policy, obs = thermostat(), room.reset()
    seen, actions, rewards = [obs], [], []
    while room.finished is None:
        actions.append(policy.act(obs, greedy=True))
        step = room.step(actions[-1])
        seen.append(step.next_obs)
        rewards.append(step.reward)
        obs = step.obs
    states, taken, paid = (torch.stack(part, dim=1).flatten(0, 1).numpy() for part in (seen, actions, rewards))
    lengths = np.full(count, STEPS_A_DAY, np.int64)
    unknown = np.full(len(taken), np.nan, np.float32)
    return Episodes(states, taken, paid, unknown, lengths, np.zeros(count, np.bool_))


def measured(monitor: DriftMonitor, count: int, seeds: Seeds, fault: Fault | None = None) -> Units:
    """In portions: a thousand days of Q-features are gigabytes."""
    parts = [monitor.ruler.measure(days(200, seeds.child("part", n), fault)) for n in range(-(-count // 200))]
    return Units.concatenate(parts).select(np.arange(count))


def drift(plant_days: int, windows: int) -> int:
    seeds = Seeds(0)
    budget = FalseAlarmBudget(0.05, WINDOWS_A_DAY)
    config = DriftConfig(window_episodes=WINDOW, stride_episodes=WINDOW, budget=budget)
    monitor = DriftMonitor.fit(days(2 * REFERENCE, seeds.child("fit")), 5, config, seeds=seeds, names=OBSERVATION)
    rng = seeds.numpy("draws")
    # Every monitored day has a reference of its own, which its windows share; rooms are drawn from a pool of well ones.
    need = REFERENCE + WINDOWS_A_DAY * WINDOW
    pool = measured(monitor, 20 * need, seeds.child("pool"))
    alarmed_days, p_values, naive = 0, [], 0
    for day in range(plant_days):
        drawn = rng.permutation(len(pool))[:need]
        daily = DriftMonitor(monitor.ruler, pool.select(drawn[:REFERENCE]), config, rng=rng)
        reports = [daily.compare(pool.select(part)) for part in np.split(drawn[REFERENCE:], WINDOWS_A_DAY)]
        alarmed_days += any(report.alarm for report in reports)
        p_values.append([one.p_value for one in reports[0].findings])
        if day % 50 == 49:
            say(f"{day + 1} days: {alarmed_days} with an alarm")
    names = [(one.check, one.feature) for one in reports[0].findings]
    consecutive = days(2 * windows, seeds.child("naive")).observations.reshape(2 * windows, STEPS_A_DAY + 1, -1)[
        :, :, :4
    ]
    for one, other in zip(consecutive[:windows], consecutive[windows:], strict=True):
        naive += min(found.p_value for found in ks_per_feature(one, other)) * 4 <= 0.05
    held = alarmed_days / plant_days <= 0.05 + 3 * (0.05 * 0.95 / plant_days) ** 0.5
    table = np.array(p_values)
    moving = [place for place in range(len(names)) if np.unique(table[:, place]).size > 10]
    at_level = {names[place]: float((table[:, place] <= 0.05).mean()) for place in moving}
    by_fault = []
    for place, fault in enumerate(FAULTS):
        units = measured(monitor, windows * WINDOW, seeds.child("fault", place), fault)
        found = [monitor.compare(units.select(part)) for part in np.split(np.arange(len(units)), windows)]
        raised = {check: sum(report.by_check()[check] for report in found) / windows for check in CHECKS}
        by_fault.append((fault, sum(report.alarm for report in found) / windows, raised))
        say(f"{fault.kind} {fault.magnitude}: {by_fault[-1][1:]}")
    body = "\n".join(
        [
            f"{plant_days} simulated days of healthy server rooms, {WINDOWS_A_DAY} windows of {WINDOW} room-days each, a "
            f"reference of {REFERENCE} drawn anew every day; Holm over all tests of a window.",
            "",
            markdown_table(
                ["rate of false alarms", "stated", "measured"],
                [
                    ["a day with any alarm", "5 % at most", f"{alarmed_days / plant_days:.1%} of {plant_days} days"],
                    *(
                        [f"{check}, {feature}: p of 0.05 or less", "5 %", f"{rate:.1%}"]
                        for (check, feature), rate in at_level.items()
                    ),
                    [
                        "Kolmogorov-Smirnov on the states of one day in a row against another's, Bonferroni over 4 features",
                        "5 % at most",
                        f"**{naive / windows:.0%}**: the rows are not independent",
                    ],
                ],
            ),
            "",
            f"The share of {windows} windows that raised an alarm while a fault was on, and by which check:",
            "",
            markdown_table(
                ["fault", "size", "any", *CHECKS],
                [
                    [
                        fault.kind,
                        f"{fault.magnitude:g} {SIZE_IN[fault.kind]}",
                        f"**{any_check:.0%}**",
                        *(f"{raised[check]:.0%}" for check in CHECKS),
                    ]
                    for fault, any_check, raised in by_fault
                ],
            ),
        ]
    )
    data = {
        "days": plant_days,
        "days_with_an_alarm": alarmed_days,
        "rates": {f"{check} {feature}": rate for (check, feature), rate in at_level.items()},
        "naive": naive / windows,
        "faults": [
            {"kind": fault.kind, "magnitude": fault.magnitude, "any": share, **raised}
            for fault, share, raised in by_fault
        ],
        "held": held,
    }
    write_result("monitoring_drift", body, command=f"{COMMAND} drift", data=data)
    return 0 if held else 1


def main() -> int:
    """Measure, write the table; exit status 1 if what is promised does not hold."""
    parser = argparse.ArgumentParser(description="What watching costs, and what it finds.")
    parser.add_argument("what", choices=("speed", "drift"))
    parser.add_argument("--rounds", type=int, default=400, help="of speed")
    parser.add_argument("--requests", type=int, default=250, help="in a block")
    parser.add_argument("--days", type=int, default=300, help="healthy ones")
    parser.add_argument("--windows", type=int, default=20, help="under each fault")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "speed":
        return speed(options.rounds, options.requests)
    return drift(options.days, options.windows)


if __name__ == "__main__":
    raise SystemExit(main())
