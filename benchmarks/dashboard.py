"""One run of a hall of server rooms behind the service, and what the generated dashboard shows of it.

    python benchmarks/dashboard.py
    python benchmarks/dashboard.py --draw    the picture alone, from the last run

Five days of 16 rooms. Everything that watches is real: the service answers each decision and writes its log, the follower
reads it, both are scraped, and the rules of ``rlcourse monitor render`` are evaluated. Only the plant's time is shorter than
the clock's: a step of ten minutes passes as soon as all of it has been counted. ::

    rooms ──readings──▶ service ──▶ decision log ──▶ follower
      ▲                   │ /metrics                   │ /metrics
      └──── actions ──────┘        └── watch: rules, samples ──▶ panels of dashboard.json ──▶ pictures

After two and a half days half of the cooling is gone. On the second day the sensors of one room are silent for three
hours. Where sensors are silent or a room has become too warm, an operator orders full cooling, whatever the policy has
chosen.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import RESULTS, markdown_table, write_result

from rlcourse.course.boards import board
from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.devices import torch_threads
from rlcourse.environments.server_room import (
    NUM_LEVELS,
    OBSERVATION,
    SAFETY_LIMIT_C,
    STEPS_A_DAY,
    Fault,
    ServerRoom,
    thermostat,
)
from rlcourse.evaluation.server_room import operate
from rlcourse.experience.collection import collect
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.transitions import Transitions
from rlcourse.files import write_text
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.dashboards import dashboard_file
from rlcourse.monitoring.drift import DriftConfig, DriftMonitor
from rlcourse.monitoring.embedded import ActiveAlert, State
from rlcourse.monitoring.exporter import Exporter, Registry
from rlcourse.monitoring.limits import Baseline, Limits
from rlcourse.monitoring.panels import Line, Shown, names_read, shown
from rlcourse.monitoring.promql import duration
from rlcourse.monitoring.scraping import Scraped, Target
from rlcourse.monitoring.watch import Watch
from rlcourse.networks import CategoricalPolicy, EpsilonGreedyPolicy
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import say
from rlcourse.serving.asking import InProcessClient
from rlcourse.serving.assembly import Assembly, AssemblyConfig
from rlcourse.serving.decision_log import DecisionLogConfig
from rlcourse.serving.following import LogFollower
from rlcourse.serving.http import HttpConfig
from rlcourse.serving.server import ServerConfig
from rlcourse.serving.service import ServiceConfig
from rlcourse.serving.shelf import ShelfConfig
from rlcourse.serving.sidecar import Sidecar
from rlcourse.serving.tracking import WatchConfig
from rlcourse.serving.watching import LogWatch
from rlcourse.training.learners import offline_learner

COMMAND = "python benchmarks/dashboard.py"
PICTURES = Path(__file__).parents[1] / "book" / "pictures"
FAULT = Fault("weak_chiller", 0.5)
STEP_S, HOUR_S, DAY_S = 600.0, 3600.0, 86_400.0
START_S = 1_800_000_000.0  # a moment that could be one; nothing hangs on it
AISLES, ROOMS = 4, 4
SCRAPED_EVERY = 2  # steps
LIMITS = Limits(window_s=HOUR_S, hold_s=1800.0, min_episodes=AISLES * ROOMS)  # one of each room, in the window of a day
PAID = {"energy": "energy_cost", "penalty": "penalty"}  # fields of a room's ledger
SERVICE, FOLLOWER = Target("127.0.0.1:8080"), Target("127.0.0.1:9108", "decisions")


@dataclass(frozen=True)
class Story:
    """What happens, in days of the plant."""

    days: float = 5.0
    fault_at: float = 2.5
    silent_at: float = 1.5
    silent_for: float = 0.125


def cloned(seeds: Seeds) -> CategoricalPolicy:
    """A clone of the thermostat, from 64 days of its log."""
    rooms = ServerRoom(64, generator=seeds.torch("environment"))
    log = collect(rooms, EpsilonGreedyPolicy(thermostat(), 0.2), 64 * STEPS_A_DAY, generator=seeds.torch("exploration"))
    data = Transitions.from_episodes(log, gamma=0.97, num_actions=NUM_LEVELS)
    learner, batches = offline_learner("bc", data.spec(), seeds), seeds.torch("batches")
    for _ in range(300):
        learner.update(data.sample(256, generator=batches))
    assert isinstance(learner.policy, CategoricalPolicy)
    return learner.policy


class Aisle:
    """Some rooms whose days begin together; each day of a room is a session."""

    def __init__(self, number: int, seeds: Seeds) -> None:
        self.number, self.day, self.begins = number, 0, number * STEPS_A_DAY // AISLES
        self.room = ServerRoom(ROOMS, generator=seeds.torch(f"aisle {number}"))
        self.obs = self.room.reset()

    def step(self, client: InProcessClient, *, silent: bool) -> None:
        """Ask for each room, let ten minutes pass, tell what came of it. ``silent``: the first room's sensors are."""
        first, before = self.room.elapsed == 0, self.room.ledger
        readings: list[list[float | None]] = self.obs.tolist()
        if silent:
            readings[0] = [None] * len(readings[0])
        names = [f"aisle{self.number}-room{room}-day{self.day}" for room in range(ROOMS)]
        answers = [
            client.act(seen, session=name, reset=first, deterministic=False)
            for seen, name in zip(readings, names, strict=True)
        ]
        full = NUM_LEVELS - 1  # what the operator does
        why = ["too_warm" if warm else None for warm in (self.room.inlet > SAFETY_LIMIT_C).tolist()]
        if silent:
            why[0] = "sensors_silent"
        done = [full if reason else answer.action for reason, answer in zip(why, answers, strict=True)]
        step = self.room.step(torch.tensor(done))
        over = self.room.elapsed == 0
        after = self.room.finished if over and self.room.finished is not None else self.room.ledger
        for n, (answer, action) in enumerate(zip(answers, done, strict=True)):
            told: dict[str, Any] = {
                "cost": {
                    part: float((getattr(after, field) - getattr(before, field))[n]) for part, field in PAID.items()
                },
                "violations": {"inlet": int((after.violations - before.violations)[n])},
            }
            if why[n]:
                told["executed"] = {"action": action, "reason": why[n]}
            if over:
                told |= {"truncated": True, "next_observation": step.next_obs[n].tolist()}
            client.reward(answer.request_id, float(step.reward[n]), session=names[n], **told)
        self.obs = step.obs
        self.day += over


class Hall:
    """The rooms, the service, the follower, and the watch over both."""

    def __init__(self, folder: Path, policy: CategoricalPolicy, seeds: Seeds, story: Story) -> None:
        self.story, self.now_s = story, START_S
        self.first: dict[str, float] = {}
        PolicyArtifact.from_policy(policy, algorithm="bc", env_id=ServerRoom.env_id).save(folder / "policy")
        log = DecisionLogConfig(flush_interval_s=0.001)
        self.assembly = Assembly(
            AssemblyConfig(ServerConfig(), HttpConfig(), ServiceConfig(), ShelfConfig(), log), state=folder, replay=True
        )
        self.assembly.load("rl_policy", folder / "policy", version="v1")
        self.assembly.service.wall = lambda: self.now_s
        self.client = InProcessClient(self.assembly.service)
        self.registry = Registry()
        euros = operate(thermostat(), num_episodes=200, seeds=seeds.child("thermostat")).cost
        counts = WatchConfig(
            horizon_s=DAY_S,
            reward_deadline_s=HOUR_S,
            success_return=-1.1 * float(euros.mean()),
            window_episodes=AISLES * ROOMS,
            window_decisions=AISLES * ROOMS * 6,  # of the last hour
            step_s=STEP_S,
        )
        good = operate_episodes(policy, seeds.child("reference"))
        drift = DriftConfig(window_episodes=AISLES * ROOMS, stride_episodes=ROOMS)
        monitor = DriftMonitor.fit(good, NUM_LEVELS, drift, seeds=seeds.child("drift"), names=OBSERVATION)
        watch = LogWatch(
            Exporter(self.registry), counts, drift=monitor, baselines={"rl_policy": float(euros.mean()) / 24.0}
        )
        follower = LogFollower(folder / "decisions")
        self.sidecar = Sidecar(follower, watch, None, say=say, clock=lambda: self.now_s)
        self.dashboard: dict[str, Any] = json.loads(dashboard_file(LIMITS))
        self.watch = Watch(
            [SERVICE, FOLLOWER],
            rule_groups(LIMITS, (Baseline("rl_policy", -float(euros.mean())),)),
            tell=self.told,
            fetch=self.scrape,
            also=names_read(self.dashboard),
            retention_s=story.days * DAY_S,
        )
        self.aisles = [Aisle(number, seeds) for number in range(AISLES)]

    def scrape(self, target: Target) -> list[Scraped]:
        """What a target shows at this moment."""
        registry = self.assembly.registry if target is SERVICE else self.registry
        return [
            Scraped(one.name, one.labels, float(one.value)) for family in registry.collect() for one in family.samples
        ]

    def told(self, alert: ActiveAlert) -> None:
        """Remember when an alert was heard first."""
        if alert.state is State.FIRING:
            about = alert.labels.get("check") or alert.labels.get("slo")
            self.first.setdefault(f"{alert.name} ({about})" if about else alert.name, self.hours)

    @property
    def hours(self) -> float:
        """Since the fault."""
        return (self.now_s - START_S - self.story.fault_at * DAY_S) / HOUR_S

    def run(self) -> None:
        """All days of the story."""
        story = self.story
        for t in range(round(story.days * STEPS_A_DAY)):
            day = t / STEPS_A_DAY
            self.now_s = START_S + t * STEP_S
            for aisle in self.aisles:
                if t == round(story.fault_at * STEPS_A_DAY):
                    aisle.room.inject(FAULT)
                silent = aisle.number == 0 and story.silent_at <= day < story.silent_at + story.silent_for
                if t >= aisle.begins:
                    aisle.step(self.client, silent=silent)
            while self.assembly.log is not None and self.assembly.log.waiting:
                time.sleep(2e-4)
            self.sidecar.round()
            if t % SCRAPED_EVERY == 0:
                self.watch.tick(self.now_s)
        self.assembly.close()

    def panels(self) -> tuple[Shown, ...]:
        """The dashboard, by the hour."""
        times = np.arange(START_S, self.now_s + 1.0, HOUR_S).tolist()
        return shown(self.dashboard, self.watch.evaluator.samples, times)


def operate_episodes(policy: CategoricalPolicy, seeds: Seeds) -> Episodes:
    """Good days, for the drift monitor to compare with."""
    rooms = ServerRoom(96, generator=seeds.torch("environment"))
    return collect(rooms, policy, 96 * STEPS_A_DAY, generator=seeds.torch("actions"))


def main() -> int:
    """Run, write the numbers and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="draw the last run again, without another")
    if not parser.parse_args().draw:
        record(Story())
    panels = expanded(json.loads((RESULTS / "dashboard.json").read_text(encoding="utf-8")))
    write_text(PICTURES / "ch17_dashboard.html", board(panels, moment_s=0.0))
    say(f"no data: {', '.join(panel.title for panel in panels if not panel.lines) or 'nowhere'}")
    return 0


def record(story: Story) -> None:
    """Run, and write what the panels show and when each alert was heard first."""
    seeds = Seeds(0)
    with torch_threads(1), tempfile.TemporaryDirectory() as name:
        hall = Hall(Path(name), cloned(seeds), seeds, story)
        hall.run()
        panels = hall.panels()
    heard = sorted(hall.first.items(), key=lambda one: one[1])
    table = markdown_table(
        ["alert", "heard first, hours after the chiller broke"], [[name, f"{hours:+.1f}"] for name, hours in heard]
    )
    body = (
        f"The rules ran with a window of {duration(LIMITS.window_s)} and a hold of {duration(LIMITS.hold_s)}, because "
        f"a step takes ten minutes; a return counts once {LIMITS.min_episodes} episodes have ended within "
        f"{duration(LIMITS.episodes_window_s)}. All other limits are the default.\n\n{table}"
    )
    fault_s = START_S + story.fault_at * DAY_S
    write_result("dashboard", body, command=COMMAND, data={"panels": [compact(one, fault_s) for one in panels]})


def compact(panel: Shown, moment_s: float) -> dict[str, Any]:
    """A panel for the file: hours from the moment on, numbers to four digits, ``None`` for NaN."""
    lines = [
        {
            "legend": line.legend,
            "hours": [round((at_s - moment_s) / HOUR_S, 3) for at_s in line.times_s],
            "values": [None if math.isnan(value) else float(f"{value:.4g}") for value in line.values],
        }
        for line in panel.lines
    ]
    return {**{field.name: getattr(panel, field.name) for field in fields(panel)}, "lines": lines}


def expanded(data: dict[str, Any]) -> list[Shown]:
    """The panels of such a file, with the moment at time 0."""
    found = []
    for panel in data["panels"]:
        lines = tuple(
            Line(
                line["legend"],
                tuple(HOUR_S * hours for hours in line["hours"]),
                tuple(math.nan if value is None else value for value in line["values"]),
            )
            for line in panel["lines"]
        )
        found.append(
            Shown(**{**panel, "limits": tuple(panel["limits"]), "queries": tuple(panel["queries"]), "lines": lines})
        )
    return found


if __name__ == "__main__":
    raise SystemExit(main())
