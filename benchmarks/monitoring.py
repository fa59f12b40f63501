"""What watching costs a request, how often a healthy plant raises an alarm, and which faults are found.

    python benchmarks/monitoring.py speed
    python benchmarks/monitoring.py drift

``speed`` asks three services in one process in turn: one that counts nothing, one as ``rlcourse serve http`` starts it, one
whose policy is watched besides. Ratios are taken block by block, so that a slow moment of the machine falls on all.
``drift`` runs server rooms under the thermostat.
"""

from __future__ import annotations

import argparse
import http.client
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from load import artifact, serving
from results import markdown_table, write_result
from scipy import optimize, stats
from serving import ours

from rlcourse.environments.server_room import OBSERVATION, STEPS_A_DAY, Fault, ServerRoom, thermostat
from rlcourse.evaluation.statistics import wilson_interval
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
from rlcourse.monitoring.signals import Array
from rlcourse.monitoring.streams import PolicyStream
from rlcourse.monitoring.watched import WatchedPolicy
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import say
from rlcourse.serving import wire
from rlcourse.serving.assembly import Forgetful
from rlcourse.serving.metrics import Counting
from rlcourse.serving.policies import read_artifact
from rlcourse.serving.service import NullWatcher, PolicyService, ServiceConfig
from rlcourse.serving.shelf import Shelf, ShelfConfig

COMMAND = "python benchmarks/monitoring.py"
TARGET = 0.03
SILENT, COUNTED, WATCHED = KINDS = ("nothing counted", "counted", "counted and watched")
BODY = b'{"observation":[0.01,-0.02,0.03,0.04],"deterministic":false}'
WINDOWS_A_DAY, WINDOW, REFERENCE = 4, 32, 64
BUDGET = FalseAlarmBudget(0.05, WINDOWS_A_DAY)
KEPT = {64: 150, 256: 100}
"""How many references of each size are kept for good."""
POOL_DAYS = 6_000
WORST = (64, 256, 1024)
"""Sizes of references for which independent tests are reckoned."""
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


def service(folder: Path, kind: str) -> tuple[PolicyService, Registry]:
    """One that counts nothing, one as ``rlcourse serve http`` starts it, or one whose policy is watched besides."""
    shelf = Shelf(ShelfConfig(), clock=time.perf_counter, wall=time.time)
    shelf.add(shelf.warm("rl_policy", read_artifact(folder)))
    counting, registry = Counting(shelf), Registry()
    registry.register(counting)
    if kind == WATCHED:
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
        watcher=NullWatcher() if kind == SILENT else counting,
        prefix="bench-",
    )
    return made, registry


def block(asked: PolicyService, requests: int) -> float:
    """Microseconds of processor time a request, from the bytes of its body to those of its answer."""
    began = time.thread_time()  # what other processes take does not count
    for _ in range(requests):
        wire.encode(asked.act("rl_policy", wire.read_action(BODY)))
    return (time.thread_time() - began) / requests * 1e6


def over_http(folder: Path, policy: Path, requests: int) -> float:
    """Microseconds of processor time that the server's process takes for a request over HTTP, everything switched on."""
    with serving(ours(policy, folder)) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10.0)

        def ask(count: int) -> None:
            for _ in range(count):
                connection.request("POST", "/predictions/rl_policy", BODY, {"content-type": "application/json"})
                if connection.getresponse().read()[:1] != b"{":
                    raise RuntimeError("The service did not answer.")

        ask(requests // 10)
        began = processor_seconds(running.pid)
        ask(requests)
        return (processor_seconds(running.pid) - began) / requests * 1e6


def processor_seconds(pid: int) -> float:
    """What a process has taken so far; counted in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def speed(rounds: int, requests: int) -> int:
    seeds = Seeds(0)
    with tempfile.TemporaryDirectory() as name:
        folder = artifact(Path(name) / "policy")
        made = {kind: service(folder, kind) for kind in KINDS}
        over = median(over_http(Path(name), folder, 20_000) for _ in range(3))
    for each, _ in made.values():
        block(each, requests)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        # There and back: a drift of the machine's speed cancels.
        once = {kind: block(made[kind][0], requests) for kind in KINDS}
        for kind in reversed(KINDS):
            found[kind].append((once[kind] + block(made[kind][0], requests)) / 2)
    began = time.perf_counter()
    size = len(exposition(made[WATCHED][1]))
    scrape_ms = (time.perf_counter() - began) * 1e3
    base = np.array(found[SILENT])
    rows, added = [[SILENT, f"{median(base):.2f}", "", ""]], {}
    for kind in KINDS[1:]:
        ratios = np.array(found[kind]) / base - 1.0
        drawn = seeds.numpy(kind).choice(ratios, (2_000, rounds))
        low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
        more = float(np.median(np.array(found[kind]) - base))
        added[kind] = {"ratio": float(np.median(ratios)), "low": low, "high": high, "of_http": more / over}
        share = f"{np.median(ratios):.1%} [{low:.1%}, {high:.1%}]"
        rows.append([kind, f"{median(found[kind]):.2f}", share, f"{more / over:.1%}"])
    held = added[COUNTED]["of_http"] < TARGET
    body = "\n".join(
        [
            f"Processor time of a request, network 4-64-64-2. In process: from the bytes of its body to those of its answer, "
            f"{rounds} rounds of two blocks of {requests:,} requests each, in turn; the median of the ratios within a round, "
            f"with a 95 % bootstrap interval. Over HTTP: what the process of `rlcourse serve http` takes for a request, "
            f"**{over:.0f} microseconds**, everything switched on, one connection. *{COUNTED}* is what that command does: "
            f"requests, latencies, versions. *{WATCHED}* also counts actions, and takes entropy and exploration of every 64th "
            "decision.",
            "",
            markdown_table(
                ["", "microseconds in process", "more than without", "more, of a request over HTTP"],
                rows,
            ),
            "",
            f"The target: counting adds under {TARGET:.0%} to a request over HTTP: {'held' if held else '**not held**'}.",
            "",
            f"A scrape of everything takes {scrape_ms:.1f} ms and is {size:,} bytes long. Every 15 seconds that is "
            f"{scrape_ms / 15e3:.3%} of one core.",
        ]
    )
    data = {"microseconds": found, "http_us": over, "added": added, "scrape_ms": scrape_ms, "held": held}
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


def share_of(count: int, trials: int) -> str:
    """With the interval that the number of trials leaves open."""
    return f"{wilson_interval(count, trials):.1%}"


def alarms_by_reference(monitor: DriftMonitor, pool: Units, size: int, windows: int, seeds: Seeds) -> list[int]:
    """How many of so many windows of well rooms raise an alarm, for each of some references that stay."""
    rng, found = seeds.numpy("windows"), []
    for number in range(KEPT[size]):
        drawn = rng.permutation(len(pool))
        kept = DriftMonitor(monitor.ruler, pool.select(drawn[:size]), monitor.config, rng=rng)
        looks = (pool.select(rng.choice(drawn[size:], WINDOW, replace=False)) for _ in range(windows))
        found.append(sum(kept.compare(look).alarm for look in looks))
        if number % 25 == 24:
            say(f"reference of {size}, {number + 1} of them: {sum(found)} alarms in {len(found) * windows} windows")
    return found


class Spread(NamedTuple):
    """How references differ."""

    mean: float
    """Share of days with an alarm."""
    above: float
    """Share of the references with more such days than the budget allows."""
    worst: float
    """Share of days that one reference in a hundred exceeds."""

    @classmethod
    def of(cls, daily: Array) -> Spread:
        """From the rates of many references."""
        return cls(float(daily.mean()), float((daily > BUDGET.per_day).mean()), float(np.quantile(daily, 0.99)))


def fitted(alarms: Sequence[int], windows: int) -> Spread:
    """How references differ whose alarms in so many windows were counted.

    Counts vary by chance as well as with the reference. Beta-binomial: each reference has a rate of its own for its windows,
    and the rates have a beta distribution, whose two parameters make these counts likeliest.
    """

    def unlikely(at: Array) -> float:
        return -float(stats.betabinom.logpmf(alarms, windows, *np.exp(at)).sum())

    a, b = np.exp(optimize.minimize(unlikely, (0.0, 4.0), method="Nelder-Mead", bounds=((-6.0, 9.0),) * 2).x)
    rates = stats.beta.ppf((np.arange(100_000) + 0.5) / 100_000, a, b)
    return Spread.of(1.0 - (1.0 - rates) ** WINDOWS_A_DAY)


def fitted_cells(alarms: Sequence[int], windows: int, rng: np.random.Generator) -> list[str]:
    """What was fitted, each with the interval that the number of references leaves open."""
    drawn = [fitted(rng.choice(np.array(alarms), len(alarms)).tolist(), windows) for _ in range(200)]
    low, high = np.quantile(np.array(drawn), (0.025, 0.975), axis=0)
    return [
        f"{value:.{digits}%} [{least:.{digits}%}, {most:.{digits}%}]"
        for value, least, most, digits in zip(fitted(alarms, windows), low, high, (1, 0, 1), strict=True)
    ]


def independent(size: int, tests: int, rng: np.random.Generator) -> Spread:
    """The worst case: so many independent tests of normal means, each with a reference mean that is off by chance."""
    between, within = size**-0.5, WINDOW**-0.5
    limit = stats.norm.isf(BUDGET.per_window / tests / 2.0) * np.hypot(between, within)
    off = between * rng.standard_normal((100_000, tests))
    quiet = stats.norm.cdf(limit - off, scale=within) - stats.norm.cdf(-limit - off, scale=within)
    return Spread.of(1.0 - quiet.prod(axis=1) ** WINDOWS_A_DAY)


def drift(plant_days: int, windows: int, looks: int) -> int:
    seeds = Seeds(0)
    config = DriftConfig(window_episodes=WINDOW, stride_episodes=WINDOW, budget=BUDGET)
    monitor = DriftMonitor.fit(days(2 * REFERENCE, seeds.child("fit")), 5, config, seeds=seeds, names=OBSERVATION)
    rng = seeds.numpy("draws")
    # Every monitored day has a reference of its own, which its windows share; rooms are drawn from a pool of well ones.
    need = REFERENCE + WINDOWS_A_DAY * WINDOW
    pool = measured(monitor, POOL_DAYS, seeds.child("pool"))
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
    counted = {size: alarms_by_reference(monitor, pool, size, looks, seeds.child("reference", size)) for size in KEPT}
    kept = [[f"server rooms, {size} days", *fitted_cells(alarms, looks, rng)] for size, alarms in counted.items()]
    for size in WORST:
        mean, above, worst = independent(size, len(names), rng)
        what = f"reckoned: {len(names)} independent tests, {size} days"
        kept.append([what, f"{mean:.1%}", f"{above:.0%}", f"{worst:.1%}"])
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
            f"reference of {REFERENCE} drawn anew every day; Holm over all tests of a window. In brackets the 95 % interval "
            "of Wilson.",
            "",
            markdown_table(
                ["rate of false alarms", "stated", "measured"],
                [
                    ["a day with any alarm", "5 % at most", share_of(alarmed_days, plant_days)],
                    *(
                        [
                            f"{check}, {feature}: p of 0.05 or less",
                            "5 %",
                            share_of(round(rate * plant_days), plant_days),
                        ]
                        for (check, feature), rate in at_level.items()
                    ),
                    [
                        "Kolmogorov-Smirnov on the states of one day in a row against another's, Bonferroni over 4 features",
                        "5 % at most",
                        f"{share_of(naive, windows)}: the rows are not independent",
                    ],
                ],
            ),
            "",
            "In service one reference stays for good, and one that is off by chance raises more alarms every day. So "
            f"{' and '.join(f'{KEPT[size]} references of {size} room-days' for size in KEPT)} were kept for {looks} windows "
            "each. What chance adds to such counts is taken out (a beta-binomial fit; in brackets 95 % of the bootstrap). "
            "Below them the worst case is reckoned: tests that all see something else.",
            "",
            markdown_table(
                ["references that stay", "days with an alarm, mean", "above 5 % of the days", "one in 100 exceeds"],
                kept,
            ),
            "",
            f"The share of {windows} windows that raised an alarm while a fault was on, with its interval, and by which check:",
            "",
            markdown_table(
                ["fault", "size", "any", *CHECKS],
                [
                    [
                        fault.kind,
                        f"{fault.magnitude:g} {SIZE_IN[fault.kind]}",
                        share_of(round(any_check * windows), windows),
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
        "kept_references": {
            str(size): {"windows": looks, "alarms": alarms, **fitted(alarms, looks)._asdict()}
            for size, alarms in counted.items()
        },
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
    parser.add_argument("--looks", type=int, default=100, help="with each reference that is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "speed":
        return speed(options.rounds, options.requests)
    return drift(options.days, options.windows, options.looks)


if __name__ == "__main__":
    raise SystemExit(main())
