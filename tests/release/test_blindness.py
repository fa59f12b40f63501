"""A release of which a part cannot be seen is held, and taken back once that has lasted too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlcourse.release.adapters.prometheus import step
from rlcourse.release.controller import Controller
from rlcourse.release.gates import Counts, Demand, GateAnswer, GateConfig, LiveReturns, Reason
from rlcourse.release.matching import Variation
from rlcourse.release.routing import FileRouter
from rlcourse.release.stages import Release, Stage
from tests.release.pieces import evidence, tally, verdict
from tests.release.test_adapter_prometheus import Clock, Played, healthy, played, source  # noqa: F401 - a fixture
from tests.release.test_controller import ONLY_V1, begun
from tests.release.test_gates import ask, codes

PARTS: list[dict[str, Any]] = [
    {"tally": None},
    {"violations": None},
    {"counts": {}},
    {"counts": {"errors": Counts(0, 9)}},
]


def watch(folder: Path, world: Played, clock: Clock, returns: LiveReturns | None) -> GateAnswer:
    """As a timer does it: each step is a process of its own, and monitoring's samples are fresh."""
    world.newest = clock.now
    controller = Controller(folder / "r7", FileRouter(folder / "router.json"), clock=clock)
    return step(controller, source(world, returns=lambda since_s, now_s: returns), verdict())


def test_returns_that_nobody_sees_take_a_canary_back(played: Played, tmp_path: Path) -> None:  # noqa: F811
    healthy(played)
    clock, router = Clock(), FileRouter(tmp_path / "router.json")
    stages = (Stage("canary", 0.1, Demand("no_harm", 1e6)),)
    release = Release("r7", "v2", "v1", stages, GateConfig(tuned_at=20.0), Variation(1.0, 1.0))
    Controller.start(tmp_path / "r7", release, router, who="mia", why="", clock=clock)
    known = LiveReturns(tally(0.0))
    for _ in range(20):  # they are seen for 12,000 s
        clock.now += 600.0
        assert codes(watch(tmp_path, played, clock, known)) == ["collecting"]
    last = clock.now
    while clock.now <= last + 6_600.0:
        clock.now += 600.0
        assert codes(watch(tmp_path, played, clock, None)) == ["evidence_missing"]
    assert router.current() == release.routing(0)
    assert codes(watch(tmp_path, played, clock, known)) == ["collecting"]  # seen once more, the clock begins anew
    clock.now += 7_200.0
    assert watch(tmp_path, played, clock, None).answer == "hold"
    clock.now += 1.0
    answer = watch(tmp_path, played, clock, None)
    assert (answer.answer, codes(answer)) == ("roll_back", ["blind_too_long", "evidence_missing"])
    assert answer.reasons[0].numbers["age_s"] == 7_201.0
    assert router.current() == ONLY_V1


@pytest.mark.parametrize("missing", PARTS)
def test_each_part_has_to_be_seen(missing: dict[str, Any], tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    controller.tick(evidence(at=clock.now, candidates=12), verdict())
    while controller.state().status == "running":
        assert clock.now < 9_000.0
        clock.now += 600.0
        controller.tick(evidence(at=clock.now, candidates=12, **missing), verdict())
    assert (controller.state().status, router.current()) == ("rolled_back", ONLY_V1)
    assert clock.now > 8_200.0


def test_each_stage_begins_with_nothing_seen(now: float) -> None:
    lost = evidence(at=now, tally=None)
    assert ask(lost, now, since_s=now - 7_201.0, seen_s=now - 7_201.0).answer == "roll_back"
    assert ask(lost, now, since_s=now - 7_201.0, seen_s=now - 7_199.0).answer == "hold"
    assert ask(lost, now, since_s=now - 7_199.0, seen_s=now - 1e6).answer == "hold"


def test_returns_that_are_objected_to_are_seen(now: float) -> None:
    objection = Reason("spread", "They vary more than was planned for.")
    held = ask(evidence(at=now, objection=objection), now, since_s=now - 1e6)
    assert (held.answer, codes(held)) == ("hold", ["spread"])


def test_a_measurement_from_the_future_does_not_lend_time(tmp_path: Path) -> None:
    controller, _, clock = begun(tmp_path)
    controller.tick(evidence(at=clock.now + 1e6, candidates=12), verdict())
    clock.now += 8_000.0
    controller.tick(None, verdict())
    assert controller.state().status == "rolled_back"
