"""The state machine, killed at every step."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rlcourse.errors import ConfigError, DatasetCorruptError, ServerError, StorageError
from rlcourse.release.audit import read_audit
from rlcourse.release.controller import Controller
from rlcourse.release.gates import Demand, GateConfig, LiveEvidence
from rlcourse.release.matching import Variation
from rlcourse.release.routing import FileRouter, Router, Routing, Telling
from rlcourse.release.stages import Release, Stage
from rlcourse.release.state import read_state
from tests.release.pieces import evidence, verdict

STAGES = (
    Stage("shadow", 0.0, Demand("service", 0.0, 500)),
    Stage("canary", 0.05, Demand("no_harm", 50.0)),
    Stage("ab", 0.5, Demand("gain", 50.0), approval=True),
    Stage("bake", 0.95, Demand("no_harm", 0.0)),
)
RELEASE = Release("r7", "v2", "v1", STAGES, GateConfig(tuned_at=20.0), Variation(1.0, 1.0))
ONLY_V1, ONLY_V2 = Routing("v1"), Routing("v2")


class Crash(Exception):
    """The process dies here."""


class Countdown:
    """Dies at the ``number``-th step; with 0, never."""

    def __init__(self, number: int, die: Callable[[], None]) -> None:
        self.number, self.die, self.count = number, die, 0

    def __call__(self, name: str) -> None:
        self.count += 1
        if self.count == self.number:
            self.die()


def crash() -> None:
    raise Crash


class Clock:
    """Moves on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def good(clock: Clock) -> LiveEvidence:
    return evidence(1.0, at=clock.now)


def bad_in_ab(controller: Controller, clock: Clock) -> LiveEvidence:
    return evidence(-1.0 if controller.state().stage == 2 else 0.0, at=clock.now)


def drive(folder: Path, clock: Clock, step: Callable[[str], None], scenario: str, router: Router | None = None) -> None:
    """Begin the release or go on with it, until it has ended."""
    router = router or FileRouter(folder / "router.json")
    if (folder / "state.json").exists():
        controller = Controller(folder, router, clock=clock, step=step)
        controller.recover()
    else:
        controller = Controller.start(folder, RELEASE, router, who="mia", why="cheaper", clock=clock, step=step)
    for _ in range(20):
        state = controller.state()
        if state.ended:
            return
        if state.status == "awaiting":
            controller.approve("mia", "looks well")
        elif scenario == "kill" and state.stage == 1:
            controller.kill("tom", "smoke")
        else:
            found = bad_in_ab(controller, clock) if scenario == "harm" else good(clock)
            controller.tick(found, verdict())
    raise AssertionError("the release does not end")


def whats(folder: Path) -> list[tuple[str, str]]:
    return [(entry.who, entry.what) for entry in read_audit(folder / "audit.jsonl").entries]


EXPECTED = {
    "good": [
        ("mia", "start: begin shadow 0%"),
        ("controller", "promote: begin canary 5%"),
        ("controller", "promote: ask to begin ab"),
        ("mia", "approve: begin ab 50%"),
        ("controller", "promote: begin bake 95%"),
        ("controller", "promote: promoted"),
    ],
    "harm": [
        ("mia", "start: begin shadow 0%"),
        ("controller", "promote: begin canary 5%"),
        ("controller", "promote: ask to begin ab"),
        ("mia", "approve: begin ab 50%"),
        ("controller", "roll back"),
    ],
    "kill": [("mia", "start: begin shadow 0%"), ("controller", "promote: begin canary 5%"), ("tom", "kill")],
}
ENDS = {"good": ("promoted", ONLY_V2), "harm": ("rolled_back", ONLY_V1), "kill": ("killed", ONLY_V1)}


def check_crashed(folder: Path, router: Telling | None = None) -> None:
    """Whatever the moment: one opinion on what is live, and the world is there or it is written that it is not."""
    audit = read_audit(folder / "audit.jsonl")
    if not (folder / "state.json").exists():
        assert audit.entries == ()
        return
    state, world = read_state(folder), (router or FileRouter(folder / "router.json")).current()
    assert state.routing.live in ("v1", "v2")
    if state.applied:
        assert world == state.routing
    written = {entry.id for entry in audit.entries}
    pending = {str(entry["id"]) for entry in state.pending}
    assert len(written | pending) == state.events  # every event is in the log or still to be written, none is lost


def check_ended(folder: Path, scenario: str, router: Telling | None = None) -> None:
    state = read_state(folder)
    status, routing = ENDS[scenario]
    assert (state.status, state.routing, state.applied, state.pending) == (status, routing, True, ())
    assert (router or FileRouter(folder / "router.json")).current() == routing
    seen = whats(folder)
    if scenario == "kill":  # the switch may have been thrown before the process died; then the next one obeys it
        seen = [("tom", what) if what == "kill" else (who, what) for who, what in seen]
    assert seen == EXPECTED[scenario]


def steps_of(folder: Path, scenario: str) -> int:
    counting = Countdown(0, crash)
    drive(folder, Clock(), counting, scenario)
    check_ended(folder, scenario)
    return counting.count


@pytest.mark.parametrize("scenario", ["good", "harm", "kill"])
def test_killed_at_any_step_it_goes_on_and_comes_to_the_same_end(scenario: str, tmp_path: Path) -> None:
    steps = steps_of(tmp_path / "whole", scenario)
    assert steps > 20
    for number in range(1, steps + 1):
        folder, clock = tmp_path / str(number), Clock()
        with pytest.raises(Crash):
            drive(folder, clock, Countdown(number, crash), scenario)
        check_crashed(folder)
        drive(folder, clock, lambda name: None, scenario)
        check_ended(folder, scenario)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["good", "harm", "kill"])
def test_a_real_kill_at_any_step(scenario: str, tmp_path: Path) -> None:
    steps = steps_of(tmp_path / "whole", scenario)
    for number in range(1, steps + 1):
        folder = tmp_path / str(number)
        child = os.fork()
        if child == 0:
            try:
                drive(folder, Clock(), Countdown(number, lambda: os.kill(os.getpid(), signal.SIGKILL)), scenario)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        check_crashed(folder)
        later = Clock()
        later.now += 1_000.0
        drive(folder, later, lambda name: None, scenario)
        check_ended(folder, scenario)


class Unreliable(FileRouter):
    """Refuses while told to."""

    down = False

    def apply(self, routing: Routing) -> None:
        if self.down:
            raise ServerError("The router does not answer.", mend="Start it.")
        super().apply(routing)


def begun(folder: Path, stage: int = 1, clock: Clock | None = None) -> tuple[Controller, Unreliable, Clock]:
    clock, router = clock or Clock(), Unreliable(folder / "router.json")
    controller = Controller.start(folder, RELEASE, router, who="mia", why="cheaper", clock=clock)
    while controller.state().stage < stage:
        controller.override("advance", "mia", "quickly")
    return controller, router, clock


def test_a_router_that_is_down_is_told_again_and_harm_is_seen_meanwhile(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    controller.tick(evidence(0.0, at=clock.now), verdict())
    assert controller.state().status == "awaiting"
    router.down = True
    with pytest.raises(ServerError):
        controller.approve("mia", "go")
    state = controller.state()
    assert (state.stage, state.applied) == (2, False)
    assert router.current() == RELEASE.routing(1)
    with pytest.raises(ServerError):
        controller.tick(evidence(1.0, at=clock.now), verdict())
    assert controller.state().stage == 2  # it does not move on while it has not arrived
    with pytest.raises(ServerError):
        controller.tick(evidence(-1.0, at=clock.now), verdict())
    assert controller.state().status == "rolled_back"
    router.down = False
    controller.tick(None)
    assert (router.current(), controller.state().applied) == (ONLY_V1, True)
    assert whats(tmp_path)[-1] == ("controller", "roll back")


def test_going_back_does_not_need_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller, router, clock = begun(tmp_path)

    def full(*_: object) -> None:
        raise StorageError("The disk is full.", mend="Free some space.")

    monkeypatch.setattr("rlcourse.release.controller.write_json", full)
    with pytest.raises(StorageError):
        controller.tick(evidence(-1.0, at=clock.now), verdict())
    assert router.current() == ONLY_V1


def test_going_back_does_not_need_the_log_but_nothing_else_happens_without_it(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"cheaper", b"dearer!"))
    with pytest.raises(DatasetCorruptError):
        controller.tick(evidence(1.0, at=clock.now), verdict())
    assert router.current() == RELEASE.routing(1)
    with pytest.raises(DatasetCorruptError):
        controller.roll_back("mia", "who changed this?")
    assert router.current() == ONLY_V1


def test_lines_cut_off_the_log_are_missed(tmp_path: Path) -> None:
    controller, _, clock = begun(tmp_path)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(DatasetCorruptError, match="ends before"):
        controller.tick(evidence(1.0, at=clock.now), verdict())


def test_the_kill_switch_is_a_file_that_anybody_can_make(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    (tmp_path / "KILL").touch()
    with pytest.raises(ConfigError, match="kill switch"):
        controller.override("advance", "mia", "now")
    assert controller.tick(evidence(1.0, at=clock.now), verdict()).reasons[0].code == "kill_switch"
    assert (controller.state().status, router.current()) == ("killed", ONLY_V1)
    assert controller.tick(evidence(1.0, at=clock.now), verdict()).answer == "hold"
    with pytest.raises(ConfigError, match="kill switch"):
        other = tmp_path / "other"
        other.mkdir()
        (other / "KILL").touch()
        Controller.start(other, RELEASE, router, who="mia", why="again")


def test_people_pause_resume_and_roll_back(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    controller.override("pause", "mia", "lunch")
    assert controller.tick(evidence(1.0, at=clock.now), verdict()).answer == "promote"
    assert controller.state().stage == 1  # but it stays
    with pytest.raises(ConfigError, match="approval"):
        controller.approve("mia", "what?")
    controller.override("resume", "mia", "back")
    with pytest.raises(ConfigError, match="cannot resume"):
        controller.override("resume", "mia", "again")
    controller.tick(evidence(1.0, at=clock.now), verdict())
    assert controller.state().status == "awaiting"
    controller.roll_back("tom", "bad feeling")
    assert router.current() == ONLY_V1
    assert whats(tmp_path)[-1] == ("tom", "roll back")
    with pytest.raises(ConfigError, match="rolled_back"):
        controller.override("pause", "mia", "late")


def test_a_paused_release_still_goes_back_when_it_harms(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    controller.override("pause", "mia", "lunch")
    controller.tick(evidence(-1.0, at=clock.now), verdict())
    assert router.current() == ONLY_V1


def test_a_promoted_release_can_still_be_taken_back(tmp_path: Path) -> None:
    clock = Clock()
    drive(tmp_path, clock, lambda name: None, "good")
    router = FileRouter(tmp_path / "router.json")
    Controller(tmp_path, router, clock=clock).roll_back("mia", "a complaint")
    assert router.current() == ONLY_V1


def test_what_the_log_could_not_tell_is_asked_once(tmp_path: Path) -> None:
    controller, _, clock = begun(tmp_path)
    for _ in range(3):
        controller.tick(evidence(0.0, at=clock.now), verdict("inconclusive"))
    state = controller.state()
    assert (state.status, state.question) == ("awaiting", "doubt")
    assert whats(tmp_path).count(("controller", "ask")) == 1
    controller.approve("mia", "the simulator agrees")
    controller.tick(evidence(0.0, at=clock.now), verdict("inconclusive"))
    assert controller.state().question == "stage"


def test_all_planned_episodes_and_no_gain_is_a_question(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path, 2)
    at = {"at": clock.now}
    controller.tick(evidence(0.0, **at, candidates=80), verdict())  # 66.7 of information: enough, not 1.5 times as much
    assert controller.state().status == "running"
    controller.tick(evidence(0.0, **at, candidates=100), verdict())  # 80
    assert (controller.state().status, controller.state().question) == ("awaiting", "undecided")
    controller.approve("mia", "equal, and simpler")
    assert router.current() == RELEASE.routing(3)


def test_blindness_goes_back_by_itself(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    assert controller.tick(None, verdict()).answer == "hold"
    clock.now += 8_000.0
    controller.tick(None, verdict())
    assert (controller.state().status, router.current()) == ("rolled_back", ONLY_V1)


def test_a_bake_lasts_as_long_as_it_was_told_to(tmp_path: Path) -> None:
    slow = Release(
        "r8",
        "v2",
        "v1",
        (Stage("bake", 0.9, Demand("no_harm", 0.0), least_s=500.0),),
        RELEASE.gate,
        RELEASE.variation,
    )
    clock, router = Clock(), FileRouter(tmp_path / "router.json")
    controller = Controller.start(tmp_path, slow, router, who="mia", why="", clock=clock)
    controller.tick(evidence(1.0, at=clock.now), verdict())
    assert controller.state().status == "running"
    clock.now += 500.0
    controller.tick(evidence(1.0, at=clock.now), verdict())
    assert router.current() == ONLY_V2


def test_a_first_stage_that_needs_a_person_waits_with_the_incumbent(tmp_path: Path) -> None:
    first = Release("r9", "v2", "v1", (Stage("canary", 0.1, Demand(), approval=True),), RELEASE.gate, RELEASE.variation)
    clock, router = Clock(), FileRouter(tmp_path / "router.json")
    controller = Controller.start(tmp_path, first, router, who="mia", why="", clock=clock)
    clock.now += 1e6
    assert controller.tick(None).reasons[0].code == "not_running"
    assert (controller.state().status, router.current()) == ("awaiting", ONLY_V1)
    controller.approve("mia", "go")
    assert router.current() == first.routing(0)


def test_what_is_on_the_disk_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"release\.json"):
        Controller(tmp_path, FileRouter(tmp_path / "router.json"))
    controller, router, _ = begun(tmp_path)
    with pytest.raises(ConfigError, match="already"):
        Controller.start(tmp_path, RELEASE, router, who="mia", why="")
    content = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**content, "more": 1}))
    with pytest.raises(DatasetCorruptError):
        controller.state()
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DatasetCorruptError):
        controller.state()
