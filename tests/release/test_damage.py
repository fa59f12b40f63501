"""Harm goes back whatever is the matter with the folder of the release; nothing else happens there before it is mended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlcourse.errors import DatasetCorruptError, StorageError
from rlcourse.release.adapters.prometheus import step
from rlcourse.release.controller import Controller
from rlcourse.release.gates import GateConfig, LiveEvidence
from rlcourse.release.matching import Variation
from rlcourse.release.routing import FileRouter
from rlcourse.release.stages import Release
from tests.release.pieces import evidence, verdict
from tests.release.test_adapter_prometheus import (  # noqa: F401 - a fixture
    NOW,
    Clock,
    Played,
    alert,
    of,
    played,
    source,
)
from tests.release.test_controller import ONLY_V1, RELEASE, STAGES, begun

CANARY = RELEASE.routing(1)


def forge(folder: Path) -> None:
    path = folder / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"cheaper", b"dearer!"))


def cut(folder: Path) -> None:
    path = folder / "audit.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def spoil(folder: Path) -> None:
    (folder / "state.json").write_text("{")


DAMAGES = [forge, cut, spoil]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "router.json"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_harm_goes_back_from_a_damaged_folder_and_covers_nothing_up(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    controller, router, clock = begun(tmp_path)
    damage(tmp_path)
    before = contents(tmp_path)
    for harmless in (evidence(1.0, at=clock.now), None):
        with pytest.raises(DatasetCorruptError) as refused:
            controller.tick(harmless, verdict())
        assert (router.current(), "all the same" in str(refused.value)) == (CANARY, False)
    with pytest.raises(DatasetCorruptError, match=r"v1 answers everybody all the same\. It is surely worse"):
        controller.tick(evidence(-1.0, at=clock.now), verdict())
    assert router.current() == ONLY_V1
    assert contents(tmp_path) == before


def test_what_nobody_sees_goes_back_from_a_damaged_folder_too(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    forge(tmp_path)
    clock.now += 8_000.0
    with pytest.raises(DatasetCorruptError, match="all the same"):
        controller.tick(None, verdict())
    assert router.current() == ONLY_V1


def test_a_release_that_has_ended_is_left_alone(tmp_path: Path) -> None:
    controller, router, clock = begun(tmp_path)
    controller.roll_back("mia", "a complaint")
    router.apply(CANARY)  # the next release
    forge(tmp_path)
    with pytest.raises(DatasetCorruptError):
        controller.tick(evidence(-1.0, at=clock.now), verdict())
    assert router.current() == CANARY


def stuck(folder: Path) -> tuple[Controller, FileRouter, Clock]:
    """Killed between the state and the audit line of its canary."""

    class Killed(BaseException):
        pass

    def die(name: str) -> None:
        if name == "before audit":
            raise Killed

    clock, router = Clock(), FileRouter(folder / "router.json")
    release = Release("r7", "v2", "v1", STAGES[1:2], GateConfig(tuned_at=20.0), Variation(1.0, 1.0))
    with pytest.raises(Killed):
        Controller.start(folder, release, router, who="mia", why="cheaper", clock=clock, step=die)
    router.apply(CANARY)
    return Controller(folder, router, clock=clock), router, clock


@pytest.mark.parametrize("error", [StorageError, DatasetCorruptError])
def test_harm_goes_back_although_a_line_cannot_be_finished(
    error: type[StorageError] | type[DatasetCorruptError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, router, clock = stuck(tmp_path)

    def refuse(*_: object) -> str:
        raise error("The log cannot be written.", mend="Free some space.")

    monkeypatch.setattr("rlcourse.release.controller.append_audit", refuse)
    with pytest.raises(error):
        controller.tick(evidence(0.0, at=clock.now), verdict())
    assert router.current() == CANARY
    with pytest.raises(error, match="all the same"):
        controller.tick(evidence(-1.0, at=clock.now), verdict())
    assert router.current() == ONLY_V1
    monkeypatch.undo()
    assert controller.tick(evidence(-1.0, at=clock.now), verdict()).answer == "roll_back"
    assert (controller.state().status, controller.state().applied) == ("rolled_back", True)


def watched(folder: Path) -> tuple[Controller, FileRouter, Clock]:
    clock, router = Clock(), FileRouter(folder / "router.json")
    release = Release("r7", "v2", "v1", STAGES[1:2], GateConfig(tuned_at=20.0), Variation(1.0, 1.0))
    controller = Controller.start(folder / "r7", release, router, who="mia", why="cheaper", clock=clock)
    clock.now = 9_500.0
    controller.override("pause", "mia", "lunch")
    controller.override("resume", "mia", "back")
    clock.now = NOW
    return controller, router, clock


def calm(played: Played) -> None:  # noqa: F811
    """100 requests, none of them bad, by a counter that is as old as the release or younger."""
    for query in ("rl_request_seconds_count", 'rl_request_seconds_bucket{,le="0.1"', "rl_decisions_total"):
        played.series[of(query)] = [(9_000.0, 0.0), (NOW, 100.0)]
    for bad in ('rl_decisions_total{,fallback=~"error|timeout|breaker_open"', 'rl_decisions_total{,fallback!="none"'):
        played.series[of(bad)] = [(9_000.0, 0.0), (NOW, 0.0)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_step_sees_harm_and_alarms_from_a_damaged_folder(
    damage: Callable[[Path], None],
    played: Played,  # noqa: F811
    tmp_path: Path,
) -> None:
    calm(played)
    controller, router, _ = watched(tmp_path)
    damage(controller.folder)
    with pytest.raises(DatasetCorruptError):
        step(controller, source(played), verdict())
    assert router.current() == CANARY
    played.series[of('rl_decisions_total{,fallback!="none"')] = [(9_000.0, 0.0), (NOW, 60.0)]
    with pytest.raises(DatasetCorruptError, match="60 of 100 requests were bad"):
        step(controller, source(played), verdict())
    assert router.current() == ONLY_V1
    router.apply(CANARY)
    calm(played)
    played.alerts = [alert()]
    with pytest.raises(DatasetCorruptError, match="all the same"):
        step(controller, source(played), verdict())
    assert router.current() == ONLY_V1


def test_a_file_that_cannot_be_read_is_no_excuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller, router, clock = begun(tmp_path)
    whole = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "audit.jsonl":
            raise OSError(5, "Input/output error")
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    found: LiveEvidence = evidence(-1.0, at=clock.now)
    with pytest.raises(StorageError, match="all the same"):
        controller.tick(found, verdict())
    assert router.current() == ONLY_V1
