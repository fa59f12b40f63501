"""``rlcourse release``: a whole release from the command line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError
from rlcourse.randomness import Seeds
from rlcourse.recipes.command_line import main
from rlcourse.recipes.release import RouterConfig, Start
from rlcourse.release.routing import FileRouter, Routing
from tests.release.pieces import verdict
from tests.release.test_adapter_prometheus import Played, alert, played  # noqa: F401 - a fixture

FILE = ["--router.kind", "file"]
TOLD = [
    "--candidate",
    "v2",
    "--incumbent",
    "v1",
    "--fleet",
    "200",
    "--usual",
    "-45",
    "--sd",
    "1.3",
    "--sessions",
    "day",
]
START = [*TOLD, *FILE]
ROOMS = [*TOLD[:-1], "room", *FILE, "--sd-rooms", "0.3"]
PERSON = ["--who", "mia", "--why", "cheaper"]


class Shell:
    """Runs commands on one release and reads their reports."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, command: str, *words: str, status: int = 0) -> dict[str, Any]:
        assert main(["release", command, str(self.folder), *words, "--json", "-"]) == status
        found: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        assert found["command"] == f"release {command}"
        return found

    def step(self, gain: float, candidates: int = 60, *, status: int = 0, **more: Any) -> dict[str, Any]:
        path = self.folder / "evidence.json"
        path.write_text(json.dumps(evidence_file(gain, candidates, **more)))
        return self("step", "--evidence", str(path), status=status)

    @property
    def routing(self) -> Routing | None:
        return FileRouter(self.folder / "routing.json").current()


def evidence_file(gain: float, candidates: int, **more: Any) -> dict[str, Any]:
    noise = np.linspace(-2.0, 2.0, candidates)
    returns = [*np.linspace(-2.0, 2.0, 140), *(noise + gain)]
    return {
        "measured_at_s": time.time(),
        "episodes": {
            "day": [0] * len(returns),
            "candidate": [False] * 140 + [True] * candidates,
            "returns": returns,
        },
        "counts": {name: {"bad": 0, "total": 1_000} for name in ("latency", "errors", "fallbacks")},
        "violations": 0,
        **more,
    }


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "r7", capsys)


@pytest.fixture
def log(tmp_path: Path) -> list[str]:
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(verdict("promote", "runs/policy").to_json()))
    return ["--verdict", str(path), "--judged-as", "runs/policy"]


def test_from_the_start_to_the_bake(shell: Shell, log: list[str]) -> None:
    begun = shell("start", *START, *PERSON, *log)
    assert begun["state"]["routing"] == {"live": "v1", "trial": "v2", "share": 0.02, "salt": "r7", "shadow": None}
    assert shell.step(0.0, 3)["gate"]["reasons"][0]["code"] == "collecting"
    assert shell.step(0.0)["gate"]["answer"] == "promote"
    assert shell.routing == Routing("v1", "v2", 0.1, "r7")
    shell.step(3.0)
    assert shell("status")["state"]["status"] == "awaiting"
    shell("approve", "--who", "tom", "--why", "fine")
    assert shell.routing == Routing("v1", "v2", 0.5, "r7")
    shell("override", "--what", "pause", *PERSON)
    assert shell.step(3.0)["state"]["status"] == "paused"
    shell("override", "--what", "resume", *PERSON)
    shell.step(3.0)
    assert shell.routing == Routing("v1", "v2", 0.95, "r7")
    entries = shell("audit")["results"]
    assert [(one["who"], one["what"]) for one in entries][-1] == ("controller", "promote: begin bake 95%")
    assert entries[0]["why"] == "cheaper"


def test_harm_goes_back_and_says_so_with_its_exit_status(shell: Shell, log: list[str]) -> None:
    shell("start", *START, *PERSON, *log)
    found = shell.step(-3.0, status=1)
    assert found["gate"]["reasons"][0]["code"] == "returns_worse"
    assert shell.routing == Routing("v1")


def test_rollback_and_kill(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell("start", *START, *PERSON)
    shell("rollback", "--who", "tom", "--why", "a complaint")
    assert shell.routing == Routing("v1")
    assert shell("kill", "--who", "tom", "--why", "smoke")["state"]["status"] == "killed"
    assert main(["release", "status", str(shell.folder)]) == 0
    assert "The kill switch is on." in capsys.readouterr().out


def test_without_evidence_it_holds_and_without_a_verdict_it_asks(shell: Shell) -> None:
    shell("start", *START, *PERSON)
    assert shell("step")["gate"]["reasons"][0]["code"] == "monitoring_unreachable"
    shell.step(0.0)
    assert shell("status")["state"]["question"] == "doubt"


def test_blue_green(shell: Shell, log: list[str]) -> None:
    shell("start", "--strategy", "blue-green", "--least-hours", "0", *TOLD[:4], *FILE, *PERSON, *log)
    assert shell.routing == Routing("v1", shadow="v2")
    assert main(["release", "status", str(shell.folder)]) == 0
    assert "live: v1, v2 as a shadow" in shell.capsys.readouterr().out
    shell.step(0.0)
    shell("approve", "--why", "now")
    assert shell.routing == Routing("v2", "v1", 0.0, "r7")
    shell.step(0.0)
    assert shell("status")["state"]["status"] == "promoted"


def test_a_log_that_was_changed_fails(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell("start", *START, *PERSON)
    path = shell.folder / "audit.jsonl"
    path.write_text(path.read_text().replace("mia", "tom"))
    assert main(["release", "audit", str(shell.folder)]) == 1
    assert "not what was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["start", "r", *START, "--why", "x", "--alpha", "2"], 2, "alpha"),
        (["start", "r", *START, "--why", "x", "--shares", "0.5", "0.1"], 2, "shares"),
        (["start", "r", *TOLD, "--why", "x", "--router.kind", "haproxy"], 2, "servers"),
        (["start", "r", *TOLD, "--why", "x", "--router.management", "http://127.0.0.1:9"], 1, "rlcourse serve http"),
        (["start", "r", *START, "--why", "x", "--verdict", "nowhere"], 1, "nowhere"),
        (["start", "r", *START], 2, "--why"),
        (["status", "nowhere"], 2, "nowhere holds no release"),
        (["rollback", "nowhere", "--why", "x"], 2, "find . -name release.json"),
        (["audit", "nowhere"], 2, "nowhere holds no release"),
        (["start", "r", *START, "--why", "x", "--margin", "3"], 2, "--margin 3 is no share"),
        (["start", "r", *START, "--why", "x", "--margin", "1"], 2, "0.03 for 3 %"),
        (["start", "r", *START, "--why", "x", "--harm", "10"], 2, "--harm 10"),
        (["start", "r", *START, "--why", "x", "--harm", "0"], 2, "above 0 and below 1"),
        (["start", "r", *START, "--why", "x", "--gain", "5"], 2, "--gain 5"),
        (["start", "r", *START, "--why", "x", "--gain", "-0.05"], 2, "--gain -0.05"),
        (["start", "r", *START, "--why", "x", "--approve-from", "50"], 2, "--approve-from 50"),
        (["start", "r", *START[:-4], *FILE, "--why", "x"], 2, "--sessions day"),
        (["start", "r", *ROOMS[:-2], "--why", "x"], 2, "--sd-rooms"),
        (["start", "r", *ROOMS, "--why", "x", "--sd-rooms", "4"], 2, "Use a share of"),
        (
            ["start", "r", *START[:6], "--sessions", "room", "--why", "x", "--monitor", "http://127.0.0.1:9"],
            2,
            "tell no rooms apart",
        ),
        (["override", "r", "--what", "explode", "--why", "x"], 2, "explode"),
        (["simulate", "--log-days", "3"], 2, "small"),
    ],
)
def test_wrong_words(
    words: list[str],
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["release", *words]) == status
    out, err = capsys.readouterr()
    assert says in out + err
    assert "Traceback" not in err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("wrong", [{"counts": {"errors": {"bad": 2, "total": 1}}}, {"episodes": {"day": [0]}}])
def test_evidence_that_is_none(wrong: dict[str, Any], shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell("start", *START, *PERSON)
    path = shell.folder / "evidence.json"
    path.write_text(json.dumps(evidence_file(0.0, 60, **wrong)))
    assert main(["release", "step", str(shell.folder), "--evidence", str(path)]) == 1
    assert "no evidence" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_simulation(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [
        "--releases",
        "20",
        "--fleet",
        "100",
        "--pool-days",
        "1000",
        "--log-days",
        "1000",
        "--calibration-days",
        "300",
    ]
    assert main(["release", "simulate", *sizes, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert len(rows) == 30
    assert {row["candidate"] for row in rows} >= {"5 % better", "10 % worse, too cold"}


def test_prometheus_is_asked_and_an_alert_about_the_candidate_goes_back(shell: Shell, played: Played) -> None:  # noqa: F811
    shell("start", *START, *PERSON)
    there = ["--prometheus", played.url, "--monitor", played.url]
    played.newest = None  # it answers, and has not seen the service
    assert shell("step", *there)["gate"]["reasons"][0]["code"] == "monitoring_unreachable"
    played.alerts = [alert(version="v1")]
    assert shell("step", *there)["gate"]["answer"] == "hold"
    played.alerts = [alert()]
    assert shell("step", *there, status=1)["gate"]["reasons"][0]["code"] == "alert_ReturnBelowBaseline"
    assert shell.routing == Routing("v1")


def test_the_policy_is_named_once(shell: Shell, played: Played, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    shell("start", *START, *PERSON, "--policy", "cooling")
    assert json.loads((shell.folder / "settings.json").read_text())["policy"] == "cooling"
    there = ["--prometheus", played.url, "--monitor", played.url]
    played.alerts = [alert()]
    assert shell("step", *there)["gate"]["answer"] == "hold"  # of another policy
    assert main(["release", "step", str(shell.folder), *there, "--policy", "rl_policy"]) == 2
    assert "This release is of cooling" in capsys.readouterr().err
    played.alerts = [alert(policy="cooling")]
    assert shell("step", *there, "--policy", "cooling", status=1)["gate"]["answer"] == "roll_back"


def test_the_policy_is_the_one_that_the_service_is_told_about() -> None:
    def told(**more: Any) -> Start:
        return Start(folder=Path("r"), candidate="v2", incumbent="v1", why="", sessions="day", **more)

    assert told(router=RouterConfig(policy="cooling")).policy_name == "cooling"
    assert told(router=RouterConfig("haproxy", policy="backend")).policy_name == "rl_policy"
    with pytest.raises(ConfigError, match="told about rl_policy"):
        told(policy="cooling")


def test_a_file_of_evidence_that_is_not_there_is_named_and_its_absence_is_not_endlessly_borne(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("start", *START, *PERSON, "--blind-hours", "1")
    mistyped = ["release", "step", str(shell.folder), "--evidence", "evidnce.json"]
    slept = looked(monkeypatch)
    for words in (mistyped, [*mistyped, "--every", "60"]):
        assert main(words) == 2
        assert "There is no evidnce.json." in capsys.readouterr().err
    assert slept == []
    assert shell.routing == Routing("v1", "v2", 0.02, "r7")
    state = shell.folder / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "since_s": time.time() - 3_700.0}))
    assert main(mistyped) == 1  # a timer that asks like this for an hour
    assert shell.routing == Routing("v1")


def test_a_file_of_evidence_that_goes_away_while_it_is_read_every_minute(
    shell: Shell, log: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("start", *START, *PERSON, *log)
    path = shell.folder / "evidence.json"
    path.write_text(json.dumps(evidence_file(0.0, 3)))
    looked(monkeypatch, path.unlink, lambda: path.write_text(json.dumps(evidence_file(-3.0, 60))))
    assert main(["release", "step", str(shell.folder), "--evidence", str(path), "--every", "60"]) == 1
    said = capsys.readouterr().err
    assert said.index("Not enough is known") < said.index(f"{path} cannot be read") < said.index("surely worse")


def test_the_planned_days_and_episodes_are_shown(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release", "start", str(shell.folder), *START, *PERSON]) == 0
    begun = capsys.readouterr().out
    assert main(["release", "status", str(shell.folder)]) == 0
    assert capsys.readouterr().out == begun
    header, _, *rows = [line.split("  ") for line in begun.splitlines() if line][2:]
    titles = [word.strip() for word in header if word]
    found = [dict(zip(titles, [word.strip() for word in row if word], strict=False)) for row in rows]
    assert [(one["stage"], one["planned days"], one["episodes"]) for one in found] == [
        ("canary", "3", "12"),
        ("canary", "1", "20"),
        ("ab", "1", "100"),
        ("bake", "7", "1,330"),
    ]


def test_rooms_that_come_every_day_have_to_be_told_apart(shell: Shell, log: list[str]) -> None:
    """Their own past is taken out, and where nobody names them the release is held."""
    rng = Seeds(4).numpy("rooms")
    dear = rng.normal(0.0, 4.0, 200)  # what distinguishes the rooms for good
    shell("start", *ROOMS, *PERSON, *log)

    def days(count: int) -> dict[str, Any]:
        return {
            "day": np.repeat(np.arange(count), 200).tolist(),
            "candidate": [room < 4 for _ in range(count) for room in range(200)],
            "returns": [float(dear[room] + rng.normal()) for _ in range(count) for room in range(200)],
            "session": [f"room-{room}" for _ in range(count) for room in range(200)],
        }

    dear[:4] = [-9.0, 1.0, -6.0, -2.0]  # chance has drawn dear rooms
    before, release = days(25), days(4)
    nameless = {key: value for key, value in release.items() if key != "session"}
    assert shell.step(0.0, episodes=nameless)["gate"]["reasons"][0]["code"] == "rooms_unknown"
    past = {key: before[key] for key in ("session", "returns")}
    known = shell.step(0.0, episodes=release, before=past)["gate"]
    assert (known["answer"], known["reasons"][0]["code"]) == ("promote", "no_harm")
    assert abs(known["reasons"][0]["numbers"]["gain"]) < 1.5


def test_four_new_rooms_are_too_few(shell: Shell, log: list[str]) -> None:
    """The plan took them for alike. They are not, and no number of days would tell."""
    rng = Seeds(5).numpy("rooms")
    shell("start", *ROOMS, *PERSON, *log)
    dear, places = rng.normal(0.0, 4.0, 200), [(day, room) for day in range(10) for room in range(200)]
    told = {
        "day": [day for day, _ in places],
        "candidate": [room < 4 for _, room in places],
        "returns": [float(dear[room] + rng.normal()) for _, room in places],
        "session": [f"room-{room}" for _, room in places],
    }
    (reason,) = shell.step(0.0, episodes=told)["gate"]["reasons"]
    assert reason["code"] == "too_few_rooms"
    assert reason["numbers"]["rooms"] == 4
    assert reason["numbers"]["attainable"] < reason["numbers"]["demanded"]


def test_no_prometheus_at_all_holds(shell: Shell) -> None:
    shell("start", *START, *PERSON)
    assert shell("step", "--prometheus", "http://127.0.0.1:9")["gate"]["answer"] == "hold"


def test_sources_that_make_no_sense(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell("start", *START, *PERSON)
    for words in (["--monitor", "http://127.0.0.1:9"], ["--prometheus", "http://127.0.0.1:9", "--evidence", "x.json"]):
        assert main(["release", "step", str(shell.folder), *words]) == 2
        assert "--prometheus" in capsys.readouterr().err


def looked(monkeypatch: pytest.MonkeyPatch, *then: Any) -> list[float]:
    """What happens while ``--every`` sleeps, one after the other; returns for how long it slept."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        then[len(slept) - 1]()

    monkeypatch.setattr("time.sleep", sleep)
    return slept


def test_every_few_minutes_until_the_release_has_ended(
    shell: Shell, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("start", *START, *PERSON, *log)
    path = shell.folder / "evidence.json"

    def see(gain: float, candidates: int) -> None:
        path.write_text(json.dumps(evidence_file(gain, candidates)))

    def spoil() -> None:
        path.write_text("{")

    def harm() -> None:
        assert shell.routing == Routing("v1", "v2", 0.1, "r7")
        see(-3.0, 60)

    see(0.0, 3)
    slept = looked(monkeypatch, lambda: see(0.0, 60), spoil, harm)
    found = shell("step", "--evidence", str(path), "--every", "60", status=1)
    assert (slept, found["gate"]["answer"], shell.routing) == ([60.0] * 3, "roll_back", Routing("v1"))
    assert shell("step", "--every", "60", status=1)["gate"]["reasons"][0]["code"] == "not_running"  # ended before


def test_what_goes_wrong_in_one_look_is_said_and_tried_again(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("start", *START, *PERSON)
    audit = shell.folder / "audit.jsonl"
    whole = audit.read_bytes()
    audit.write_bytes(whole.replace(b"mia", b"tom"))
    looked(monkeypatch, lambda: audit.write_bytes(whole) and None, lambda: (shell.folder / "KILL").touch())
    assert main(["release", "step", str(shell.folder), "--every", "60"]) == 1
    said = capsys.readouterr().err
    assert said.index("not what was written") < said.index("Monitoring did not answer") < said.index("kill switch")
    assert shell.routing == Routing("v1")


def test_ctrl_c_ends_the_looking_and_not_the_release(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("start", *START, *PERSON)

    def interrupt() -> None:
        raise KeyboardInterrupt

    looked(monkeypatch, interrupt)
    assert main(["release", "step", str(shell.folder), "--every", "60"]) == 130
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.undo()
    assert shell("status")["state"]["status"] == "running"
    assert shell("step", "--every", "60", "--days", "1e-9")["gate"]["answer"] == "hold"  # and not for ever
    assert main(["release", "step", str(shell.folder), "--every", "0"]) == 2


def test_a_file_that_stays_broken_is_not_seen_and_goes_back(shell: Shell) -> None:
    shell("start", *START, *PERSON, "--blind-hours", "1")
    path, state = shell.folder / "evidence.json", shell.folder / "state.json"
    path.write_text("{")
    for ago, routing in ((3_500.0, Routing("v1", "v2", 0.02, "r7")), (3_700.0, Routing("v1"))):
        state.write_text(json.dumps({**json.loads(state.read_text()), "since_s": time.time() - ago}))
        assert main(["release", "step", str(shell.folder), "--evidence", str(path)]) == 1
        assert shell.routing == routing
