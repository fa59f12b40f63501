"""A router that does something else than it was told: put right, or left alone until a person has looked."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcourse.errors import ServerError
from rlcourse.release.controller import Controller
from rlcourse.release.routing import FileRouter, Routing
from rlcourse.release.straying import PAUSE, PUT_RIGHT, strayed
from tests.release.pieces import evidence, verdict
from tests.release.test_controller import ONLY_V1, RELEASE, begun, whats

CANARY, SHADOW, BAKE = RELEASE.routing(1), RELEASE.routing(0), RELEASE.routing(3)
SWITCHED = Routing("v2", "v1", 0.0, "r7")


@pytest.mark.parametrize(
    ("wanted", "said", "code"),
    [
        (CANARY, CANARY, None),
        (CANARY, ONLY_V1, PAUSE),  # a restart without a memory, or somebody ended the trial
        (CANARY, None, PAUSE),
        (CANARY, Routing("v1", "v2", 0.01, "r7"), PAUSE),
        (CANARY, Routing("v1", "v3", 0.5, "r7"), PAUSE),
        (CANARY, Routing("v0", "v2", 0.5, "r7"), PAUSE),  # somebody went further back
        (CANARY, Routing("v1", "v2", 0.5, "r7"), PUT_RIGHT),
        (CANARY, Routing("v1", "v2", 0.05, "r6"), PUT_RIGHT),  # other sessions, and as many
        (CANARY, Routing("v2"), PUT_RIGHT),
        (SHADOW, ONLY_V1, PUT_RIGHT),
        (SHADOW, Routing("v0"), PAUSE),
        (SHADOW, Routing("v2"), PUT_RIGHT),
        (BAKE, Routing("v2"), PUT_RIGHT),
        (SWITCHED, ONLY_V1, PAUSE),
        (SWITCHED, Routing("v2"), PUT_RIGHT),
    ],
)
def test_only_what_brings_nobody_to_the_candidate_is_put_right(
    wanted: Routing, said: Routing | None, code: str | None, tmp_path: Path
) -> None:
    router = FileRouter(tmp_path / "router.json")
    if said is not None:
        router.apply(said)
    found = strayed(router, wanted, "v2")
    assert (found and found.code) == code


def test_a_release_that_is_forgotten_pauses_until_a_person_resumes(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    router.apply(ONLY_V1)
    for _ in range(3):
        answer = controller.tick(evidence(1.0, at=clock.now), verdict())  # which would promote
        assert (answer.answer, [reason.code for reason in answer.reasons]) == ("hold", [PAUSE])
        assert (controller.state().status, controller.state().stage, router.current()) == ("paused", 1, ONLY_V1)
    said = [entry for entry in whats(tmp_path) if entry[0] == "controller"]
    assert said == [("controller", "pause")]
    controller.override("resume", "mia", "it restarted without its folder")
    assert (controller.state().status, router.current()) == ("running", CANARY)
    controller.tick(evidence(1.0, at=clock.now), verdict())
    assert controller.state().status == "awaiting"  # the A/B test begins with a person's consent


def test_harm_goes_back_from_a_router_that_forgot(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    router.apply(Routing("v0"))
    controller.tick(evidence(0.0, at=clock.now), verdict())
    assert controller.tick(evidence(-1.0, at=clock.now), verdict()).answer == "roll_back"
    assert (controller.state().status, router.current()) == ("rolled_back", ONLY_V1)
    router.apply(SWITCHED)  # whoever comes after a release that has ended is not overruled
    controller.tick(evidence(0.0, at=clock.now), verdict())
    assert router.current() == SWITCHED


def test_too_large_a_share_is_put_right_at_once_and_on_record(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    for number in (1, 2):
        router.apply(Routing("v1", "v2", 0.5, "r7"))
        answer = controller.tick(evidence(0.0, at=clock.now), verdict())
        assert (answer.answer, answer.reasons[0].code) == ("hold", PUT_RIGHT)
        assert "v2 for 50.0%" in answer.reasons[0].text
        assert (controller.state().status, router.current()) == ("running", CANARY)
        assert whats(tmp_path).count(("controller", "put right")) == number


def test_a_router_that_does_not_say_what_it_does_holds_up_all_but_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, router, clock = begun(tmp_path)
    router.path.write_text("{")
    with pytest.raises(ServerError, match="no routing"):
        controller.tick(evidence(1.0, at=clock.now), verdict())
    assert (controller.state().status, controller.state().stage) == ("running", 1)
    assert controller.tick(evidence(-1.0, at=clock.now), verdict()).answer == "roll_back"
    assert router.current() == ONLY_V1


class Mute:
    """Does what it is told, and cannot be asked."""

    def __init__(self) -> None:
        self.told: list[Routing] = []

    def apply(self, routing: Routing) -> None:
        self.told.append(routing)


def test_a_router_that_cannot_be_asked_is_believed(tmp_path: Path) -> None:
    controller, _, clock = begun(tmp_path)
    router = Mute()
    Controller(tmp_path, router, clock=clock).tick(evidence(0.0, at=clock.now), verdict())
    assert (router.told, controller.state().status) == ([], "awaiting")
