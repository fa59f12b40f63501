"""Every series that a rule or a panel reads, and every one in the catalogue, has a writer: here they all write.

A service answers and is told what came of it, a follower reads its log, two short training runs are tracked. What the three
expose is scraped by the embedded stack, which runs every rule. No series is excused: even ``up`` is written, by the scrape.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rlcourse.algorithms.dqn import DQN
from rlcourse.algorithms.ppo import PPO
from rlcourse.environments import make as make_env
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.catalogue import CATALOGUE, WRITERS, Signal, Source
from rlcourse.monitoring.dashboards import dashboard_file, expressions
from rlcourse.monitoring.drift import DriftConfig, DriftMonitor
from rlcourse.monitoring.exporter import Exporter, Registry, exposition
from rlcourse.monitoring.limits import Baseline, Limits
from rlcourse.monitoring.promql import Selector, parse, selectors
from rlcourse.monitoring.scraping import Scraped, Target
from rlcourse.monitoring.watch import Watch
from rlcourse.randomness import Seeds
from rlcourse.release.routing import Routing
from rlcourse.serving.assembly import Assembly
from rlcourse.serving.decisions import read_episodes
from rlcourse.serving.following import LogFollower
from rlcourse.serving.sidecar import Sidecar
from rlcourse.serving.tracking import WatchConfig
from rlcourse.serving.watching import LogWatch
from rlcourse.training.off_policy import OffPolicyConfig, train_off_policy
from rlcourse.training.on_policy import OnPolicyConfig, train_on_policy
from rlcourse.training.trackers import make_tracker
from rlcourse.vocabulary import TaskSpec
from tests.serving.conftest import make as make_policy
from tests.serving.conftest import save
from tests.serving.test_assembly import ACT, asked, assembled

__all__ = ["make_policy", "save"]  # fixtures and what they need

STEPS, DAYS = 4, 24
GROUPS = rule_groups(Limits(), (Baseline("rl_policy", -50.0),))
RULES = [(rule.name, rule.expr) for group in GROUPS for rule in group.rules]
PANELS = [query.replace("$policy", ".*") for query in expressions(json.loads(dashboard_file()))]
Asking = tuple[str, str, object]


def day(name: str, readings: list[float | None]) -> Iterator[Asking]:
    """One episode, every decision of it told to cost something, one of them overridden."""
    for step in range(STEPS):
        request_id = f"{name}-{step}"
        body = {"observation": readings, "session": name, "request_id": request_id, "deterministic": step == 0}
        yield "POST", ACT, {**body, "deadline_ms": 10_000}
        told = {"cost": {"energy": 0.4, "penalty": 0.1 * step}, "violations": {"inlet": int(step == 3)}}
        done = {"executed": {"action": 2, "reason": "drill"}} if step == 2 else {}
        reward = {"request_id": request_id, "reward": 1.0, "terminated": step == STEPS - 1, "session": name}
        yield "POST", "/v1/rewards", {**reward, **told, **done}


def days(name: str, *, sound: bool = True) -> Iterator[Asking]:
    for number in range(DAYS):
        readings: list[float | None] = [0.1 * number, math.sin(number), math.cos(number), 0.2 * (number % 5)]
        yield from day(f"{name}{number}", readings if sound else [*readings[:3], None])


def odd() -> Iterator[Asking]:
    """What is refused, what nobody rewards, and more reasons than are shown."""
    yield "POST", ACT, {"observation": ["no number"]}
    yield "POST", ACT, {"observation": [0.0] * 4, "request_id": "unrewarded"}
    yield "POST", ACT.replace("rl_policy", "remembers"), {"observation": [0.0] * 4, "session": "s"}
    for number in range(70):
        yield "POST", ACT, {"observation": [0.0] * 4, "request_id": f"odd-{number}", "deadline_ms": 10_000}
        executed = {"action": 2, "reason": f"reason-{number}"}
        yield "POST", "/v1/rewards", {"request_id": f"odd-{number}", "reward": 0.0, "executed": executed}


class World:
    """The three writers, at work."""

    def __init__(self, folder: Path, saved: Callable[..., Any]) -> None:
        self.folder, self.later_s = folder, 0.0
        self.assembly: Assembly = assembled(folder / "state")
        self.assembly.service.wall = self.wall
        for version in range(2):
            self.assembly.load("rl_policy", saved("logits", version)[0], version=f"v{version}")
        self.assembly.load("remembers", saved("recurrent")[0], version="v0")
        self.assembly.shelf.route("rl_policy", Routing("v0", shadow="v1"))
        self.registry = Registry()
        self.training = "".join(trained(folder / f"{algorithm}.prom", algorithm) for algorithm in ("ppo", "dqn"))
        self.ask(*days("before"))
        self.sidecar = self.follower()

    def ask(self, *requests: Asking) -> None:
        answers = asked(self.assembly.application, *requests)
        assert {answer.status_code for answer in answers} <= {200, 202, 422}
        log = self.assembly.log
        assert log is not None
        while log.waiting or log.written == 0:
            time.sleep(0.01)

    def follower(self) -> Sidecar:
        log = self.folder / "state" / "decisions"
        reference = read_episodes(log, "rl_policy").episodes
        config = DriftConfig(window_episodes=DAYS, stride_episodes=DAYS)
        watch = LogWatch(
            Exporter(self.registry),
            WatchConfig(horizon_s=600.0, reward_deadline_s=600.0, success_return=float(STEPS), step_s=600.0),
            drift=DriftMonitor.fit(reference, 3, config, seeds=Seeds(0)),
            baselines={"rl_policy": 4.0},
        )
        # An hour later everything is mature, and what was not rewarded never will be.
        return Sidecar(LogFollower(log), watch, None, say=pytest.fail, clock=lambda: self.wall() + 3600.0)

    def wall(self) -> float:
        """What the clock of the service says."""
        return time.time() + self.later_s

    def texts(self) -> dict[Source, str]:
        """What a scrape of each finds now."""
        (metrics,) = asked(self.assembly.application, ("GET", "/metrics", None))
        self.sidecar.round()
        return {"service": metrics.text, "monitor": exposition(self.registry).decode(), "training": self.training}


def trained(path: Path, algorithm: str) -> str:
    """A run of a few steps, through the tracker that the command line would make."""
    seeds, env = Seeds(0), make_env("CartPole-v1", 4, seeds=Seeds(0))
    spec = TaskSpec.unscaled(env.obs_size, env.actions)
    with closing(make_tracker(f"prometheus:{path}", run=algorithm, threshold=475.0)) as tracker:
        if algorithm == "ppo":
            lengths = OnPolicyConfig(num_steps=64, num_envs=4, rollout_steps=16, eval_every=64, eval_episodes=2)
            train_on_policy(PPO(spec), env, lengths, seeds=seeds, tracker=tracker)
        else:
            loop = OffPolicyConfig(num_steps=80, warm_up_steps=20, batch_size=8, eval_every=40, eval_episodes=2)
            train_off_policy(DQN(spec), env, loop, seeds=seeds, tracker=tracker)
    return path.read_text()


def samples(text: str) -> list[Scraped]:
    families = text_string_to_metric_families(text)
    found = [Scraped(one.name, one.labels, float(one.value)) for family in families for one in family.samples]
    return [one for one in found if not one.name.endswith("_created")]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Source, str], dict[Source, str]]:
    """What the three expose in the middle of it all, and at the end."""
    folder = tmp_path_factory.mktemp("writers")

    def saved(kind: str, seed: int = 0) -> tuple[Path, Any]:
        from rlcourse.deployment.artifact import PolicyArtifact

        policy, place = make_policy(kind, seed), folder / f"{kind}{seed}"
        PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="CartPole-v1").save(place)
        return place, policy

    world = World(folder, saved)
    world.ask(*odd())
    first = world.texts()
    for hours, asking in ((0, days("after")), (6, days("unusable", sound=False)), (12, odd())):
        world.later_s = 3600.0 * hours  # the drift checks look four times a day
        world.ask(*asking)
        world.texts()
    world.assembly.service.shadows.close()
    last = world.texts()
    world.assembly.close()
    return first, last


@pytest.fixture(scope="module")
def watch(exposed: tuple[dict[Source, str], dict[Source, str]]) -> Watch:
    """The embedded stack, after three scrapes of each."""
    now: list[dict[Source, str]] = []
    targets = {Target(f"127.0.0.1:{9000 + place}", source): source for place, source in enumerate(WRITERS)}
    read = {selector.name for query in PANELS for selector in selectors(parse(query))}
    watch = Watch(
        tuple(targets),
        GROUPS,
        tell=lambda alert: None,
        fetch=lambda target: samples(now[-1][targets[target]]),
        also=read,
        max_series=10_000,
    )
    for place, texts in enumerate((exposed[0], exposed[1], exposed[1])):
        now.append(texts)
        watch.tick(1_000.0 + 15.0 * place)
    return watch


def unwritten(watch: Watch, query: str) -> list[str]:
    """Series of a query of which there is no sample, whatever their labels."""
    known = watch.evaluator.samples
    read = {selector.name for selector in selectors(parse(query))}
    return sorted(name for name in read if not known.latest(Selector(name), 1_030.0))


@pytest.mark.parametrize(("name", "query"), RULES, ids=[name for name, _ in RULES])
def test_every_series_of_a_rule_is_written(watch: Watch, name: str, query: str) -> None:
    assert unwritten(watch, query) == [], name


@pytest.mark.parametrize("query", PANELS)
def test_every_series_of_a_panel_is_written(watch: Watch, query: str) -> None:
    assert unwritten(watch, query) == []


def test_what_is_chosen_by_label_has_that_label(watch: Watch) -> None:
    """A rule that asks for a label that no series has is as silent as one that asks for no series."""
    read = [selector for query in [*PANELS, *(expr for _, expr in RULES)] for selector in selectors(parse(query))]
    assert read
    for selector in read:
        wanted = {matcher.label for matcher in selector.matchers}
        found = watch.evaluator.samples.latest(Selector(selector.name), 1_030.0)
        assert any(wanted <= set(dict(labels)) for labels in found), selector


@pytest.mark.parametrize("signal", CATALOGUE, ids=[signal.name for signal in CATALOGUE])
def test_every_signal_is_written_by_its_writer(
    signal: Signal, exposed: tuple[dict[Source, str], dict[Source, str]]
) -> None:
    found = samples(exposed[1][signal.source])
    for name in signal.series:
        labels = [set(one.labels) - {"le"} for one in found if one.name == name]
        assert labels, f"{name} is not written by {signal.written_by}"
        assert all(one == set(signal.labels) for one in labels)
    if signal.buckets is not None:
        bounds = {float(one.labels["le"]) for one in found if one.name == f"{signal.name}_bucket"}
        assert bounds == {*signal.buckets, float("inf")}
    (kind,) = {
        line.split()[3] for line in exposed[1][signal.source].splitlines() if line.startswith(f"# TYPE {signal.name} ")
    }
    assert kind == signal.kind


def test_nobody_writes_what_is_not_in_the_catalogue(exposed: tuple[dict[Source, str], dict[Source, str]]) -> None:
    for source, text in exposed[1].items():
        names = {one.name for one in samples(text) if one.name.startswith("rl_")}
        known = {name for signal in CATALOGUE if signal.source == source for name in signal.series}
        assert names <= known, source
        counts: dict[tuple[str, str], set[str]] = {}
        for one in samples(text):
            for label, value in one.labels.items():
                counts.setdefault((one.name, label), set()).add(value)
        assert max(map(len, counts.values())) <= 65, "64 values, and other"


def test_the_numbers_are_those_of_the_world(exposed: tuple[dict[Source, str], dict[Source, str]]) -> None:
    """A sample is not enough: it has to be of what happened."""
    found = {(one.name, frozenset(one.labels.items())): one.value for one in samples(exposed[1]["monitor"])}

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset({"policy": "rl_policy", "version": "v0", **labels}.items())]

    played = 3 * DAYS
    assert value("rl_safety_violations_total", constraint="inlet") == played
    assert value("rl_cost_euros_total", cost="energy") == pytest.approx(0.4 * STEPS * played)
    assert value("rl_cost_euros_total", cost="penalty") == pytest.approx(0.6 * played)
    assert value("rl_cost_euros_per_hour") == pytest.approx(6.0 * (0.4 * STEPS + 0.6) / STEPS)
    # A day of four times ten minutes would cost the baseline 4 * 4 / 6 euros.
    assert value("rl_roi_ratio") == pytest.approx(1.0 - 2.2 / (16.0 / 6.0))
    assert value("rl_safety_violation_ratio") == pytest.approx(1.0 / STEPS)
    assert 0.0 < value("rl_exploration_ratio") < 1.0
    assert 0.0 < value("rl_human_overrides_total", reason="drill") <= played
    assert value("rl_rewards_expired_total") == 2.0
