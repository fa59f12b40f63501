"""``rlcourse release shadow``, ``apprentice``, ``ab`` and ``manifest``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import DatasetInvalidError
from rlcourse.recipes import release_hearing
from rlcourse.recipes.command_line import main
from rlcourse.release.apprentice import ApprenticeConfig, Line, replay
from rlcourse.release.audit import AuditEntry, append_audit, read_audit
from rlcourse.release.proposals import Heard
from rlcourse.release.routing import FileRouter, Routing
from rlcourse.serving import wire
from tests.monitoring.logs import Written
from tests.recipes.test_release import PERSON, START

MONITOR = (*START[:4], "--sessions", "day")
SHADOW = ("--candidate", "v2", "--policy", "p", "--requests", "4")


def asked(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> dict[str, Any]:
    assert main(["release", *map(str, words), "--json", "-"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def shadowed(folder: Path, agreeing: int, of: int) -> None:
    """Requests at probability 0.5, of which the shadow answers so many alike, for sure; these earn 3, the others 1."""
    log = Written(folder)
    for place in range(of):
        alike = place < agreeing
        name = log.decide(None, float(place), action=0)
        line = wire.ShadowLine(name, place + 0.1, "p", "v2", 0 if alike else 1, 1.0 if alike else 0.0, 2.0)
        log.add(wire.encode(line) + b"\n")
        log.reward(name, place + 0.5, 3.0 if alike else 1.0)


def test_a_shadow_from_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shadowed(tmp_path, 3, 4)
    found = asked(capsys, "shadow", tmp_path, *SHADOW)
    assert found["shadow"]["agreement"] == 0.75
    assert (found["shadow"]["logged_reward"], found["shadow"]["counterfactual_reward"]) == (2.5, 3.0)
    assert found["shadow"]["worth"] == pytest.approx(3.0)
    assert found["judged"]["answer"] == "promote"
    picky = asked(capsys, "shadow", tmp_path, *SHADOW, "--agreement", 0.8, status=1)
    assert picky["judged"]["reasons"][0]["code"] == "shadow_disagrees"
    assert asked(capsys, "shadow", tmp_path, *SHADOW[:-1], 5)["judged"]["answer"] == "hold"
    assert main(["release", "shadow", str(tmp_path), *SHADOW]) == 0
    shown = capsys.readouterr().out
    assert "75.0%" in shown
    assert "0->1" in shown


def test_an_apprentice_earns_and_loses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, quick = tmp_path / "a1", ("--good", 0.1, "--too-many", 0.5, "--alpha", 0.2)
    # (0.9/0.5)^n >= 5 after three answers: 5.8.
    for number in range(3):
        found = asked(capsys, "apprentice", folder, "--what", "approved", "--who", "mia", *quick)
        assert found["level"] == ("approve" if number == 2 else "imitate")
    # The demands of the first call hold, whatever later ones say.
    for _ in range(3):
        found = asked(capsys, "apprentice", folder, "--what", "approved")
    assert found["level"] == "veto"
    found = asked(capsys, "apprentice", folder, "--what", "violated", "--why", "31 C")
    assert (found["level"], found["accepted"]) == ("approve", 0)
    assert asked(capsys, "apprentice", folder)["results"][-1]["why"] == "31 C"
    assert main(["release", "apprentice", str(folder)]) == 0
    assert "approve: 0 accepted and 0 refused at this level, 7 answers in all" in capsys.readouterr().out


def test_a_queue_that_people_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    folder, quick = tmp_path / "a1", ("--good", 0.1, "--too-many", 0.5, "--alpha", 0.2, "--safe-action", 4)
    for _ in range(3):
        asked(capsys, "apprentice", folder, "--what", "approved", *quick)
    found = asked(capsys, "apprentice", folder, "--propose", "a", 1, "--who", "policy")
    assert found["waiting"] == [{"id": "a", "action": 1, "deadline_s": 1_060.0}]
    now[0] = 1_010.0
    asked(capsys, "apprentice", folder, "--propose", "b", 2)
    assert main(["release", "apprentice", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("50 s", "60 s", "the safe action is done"))
    found = asked(capsys, "apprentice", folder, "--answer", "b", "approve", "--who", "mia")
    assert found["settled"] == [{"id": "b", "action": 2, "how": "approved"}]
    assert main(["release", "apprentice", str(folder), "--answer", "b", "approve"]) == 2
    assert "answered before" in capsys.readouterr().err
    now[0] = 1_060.0
    found = asked(capsys, "apprentice", folder)  # nobody answered, and nobody approved
    assert (found["settled"], found["waiting"]) == ([{"id": "a", "action": 4, "how": "expired"}], [])
    assert (found["accepted"], found["refused"]) == (1, 0)
    asked(capsys, "apprentice", folder, "--propose", "c", 3)
    found = asked(capsys, "apprentice", folder, "--answer", "c", "veto", "--instead", 0, "--why", "too cold")
    assert found["settled"] == [{"id": "c", "action": 0, "how": "overridden"}]
    assert found["results"][-1] == {
        "at_s": 1_060.0,
        "what": "overridden",
        "who": found["results"][-1]["who"],
        "why": "too cold",
        "proposal": "c",
        "action": 0,
    }


def heard(folder: Path, own: list[int], *, began: float, number: int = 0) -> None:
    """The service did 0 each time; the shadow would have done its own."""
    log = Written(folder, number=number, count=100 * number)
    for place, action in enumerate(own):
        name = log.decide("room-7", began + place, action=0, policy="rl_policy")
        line = wire.ShadowLine(name, began + place + 0.1, "rl_policy", "v2", action, 0.5, 2.0)
        log.add(wire.encode(line) + b"\n")


def test_a_release_in_which_the_candidate_earns_its_autonomy_before_it_may_act(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, log, began = tmp_path / "r7", tmp_path / "decisions", time.time()
    queue = folder / "apprentice"
    quick = (
        "--apprentice",
        "--apprenticeship.good",
        0.1,
        "--apprenticeship.too-many",
        0.5,
        "--apprenticeship.alpha",
        0.2,
    )
    asked(capsys, "start", folder, *START, *PERSON, *quick)
    assert (FileRouter(folder / "routing.json").current()) == Routing("v1", shadow="v2")  # it proposes and does not act

    def step() -> dict[str, Any]:
        evidence = tmp_path / "evidence.json"
        counts = {name: {"bad": 0, "total": 100} for name in ("latency", "errors", "fallbacks")}
        evidence.write_text(json.dumps({"measured_at_s": time.time(), "counts": counts}))
        return asked(capsys, "step", folder, "--evidence", evidence, "--log", log)

    heard(log, [0, 0, 1, 0], began=began - 1_000.0)  # from before the release: not this apprenticeship
    heard(log, [0, 1, 0], began=began + 1.0, number=1)
    step()
    asked(capsys, "approve", folder, "--why", "the simulator agrees")
    assert step()["gate"]["reasons"][0]["code"] == "earning_autonomy"
    stands = asked(capsys, "apprentice", queue)
    assert (stands["level"], stands["accepted"], stands["refused"]) == ("imitate", 2, 1)  # each request counts once
    heard(log, [0, 0, 0, 0, 3, 2, 1], began=began + 10.0, number=2)
    step()
    stands = asked(capsys, "apprentice", queue)
    assert stands["level"] == "approve"
    assert [one["action"] for one in stands["waiting"]] == [3, 2, 1]
    for one in stands["waiting"]:
        asked(capsys, "apprentice", queue, "--answer", one["id"], "approve", "--who", "mia")
    heard(log, [1, 1, 1, 1], began=began + 20.0, number=3)
    found = step()
    assert found["gate"]["reasons"][0]["numbers"]["waiting"] == 4.0
    assert (found["gate"]["answer"], asked(capsys, "apprentice", queue)["level"]) == ("hold", "veto")
    first, *others = asked(capsys, "apprentice", queue)["waiting"]
    asked(capsys, "apprentice", queue, "--answer", first["id"], "veto", "--why", "the door was open")
    for one in others:
        asked(capsys, "apprentice", queue, "--answer", one["id"], "approve", "--who", "mia")
    for number in range(4, 6):
        heard(log, [2, 2], began=began + 10.0 * number, number=number)
        step()
        for one in asked(capsys, "apprentice", queue)["waiting"]:
            asked(capsys, "apprentice", queue, "--answer", one["id"], "approve", "--who", "mia")
    assert asked(capsys, "apprentice", queue)["level"] == "autonomous"
    found = step()
    assert found["gate"]["reasons"][0]["code"] == "autonomy_earned"
    assert FileRouter(folder / "routing.json").current() == Routing("v1", "v2", 0.02, "r7")
    said = [entry.why for entry in read_audit(folder / "audit.jsonl").entries]
    assert any("The apprentice is to imitate: 2 accepted and 1 refused" in why for why in said)


def test_what_a_person_did_instead_is_what_an_apprentice_imitates(tmp_path: Path) -> None:
    log = Written(tmp_path)
    name = log.decide("room-7", 5.0, action=0)
    log.add(wire.encode(wire.ShadowLine(name, 5.1, "p", "v2", 3, 0.5, 2.0)) + b"\n")
    log.add(wire.encode(wire.ShadowLine("lost", 5.1, "p", "v2", 3, 0.5, 2.0)) + b"\n")
    failed = log.decide("room-7", 6.0, action=0)
    log.add(wire.encode(wire.ShadowLine(failed, 6.1, "p", "v2", None, None, 2.0)) + b"\n")
    many = log.decide("room-7", 7.0, action=[1, 2], propensity=[0.5, 0.5])
    log.add(wire.encode(wire.ShadowLine(many, 7.1, "p", "v2", [1, 4], [0.5, 0.5], 2.0)) + b"\n")
    log.reward(name, 5.5, 1.0, executed=wire.Executed(3, "operator"))
    found = release_hearing.heard(tmp_path, "v2", policy="p", since_s=0.0)
    assert found == [Heard(name, 3, 3), Heard(f"{many}-0", 1, 1), Heard(f"{many}-1", 4, 2)]
    assert release_hearing.heard(tmp_path, "v2", policy="p", since_s=10.0) == []
    smooth = log.decide("room-7", 8.0, action=[0.5])
    log.add(wire.encode(wire.ShadowLine(smooth, 8.1, "p", "v2", [0.4], None, 2.0)) + b"\n")
    with pytest.raises(DatasetInvalidError, match="continuous"):
        release_hearing.heard(tmp_path, "v2", policy="p", since_s=0.0)


def test_an_apprentice_that_has_not_begun_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r7"
    asked(capsys, "start", folder, *START, *PERSON, "--apprentice")
    for path in (folder / "apprentice").iterdir():
        path.unlink()
    evidence = tmp_path / "evidence.json"
    counts = {name: {"bad": 0, "total": 100} for name in ("latency", "errors", "fallbacks")}
    evidence.write_text(json.dumps({"measured_at_s": time.time(), "counts": counts}))
    asked(capsys, "step", folder, "--evidence", evidence)
    asked(capsys, "approve", folder, "--why", "x")
    (reason,) = asked(capsys, "step", folder, "--evidence", evidence)["gate"]["reasons"]
    assert reason["code"] == "apprentice_unknown"


def test_silence_teaches_only_where_it_is_consent() -> None:
    quick = ApprenticeConfig(good=0.1, too_many=0.5, alpha=0.2)
    assert [one.level for one in replay(quick, [Line("expired")] * 5)] == ["imitate"] * 5
    said = ["approved"] * 3 + ["expired"] * 3 + ["approved"] * 3 + ["expired"] * 3 + ["vetoed"]
    learnt = replay(quick, map(Line, said))
    assert [learnt[place].level for place in (2, 5, 8, 11)] == ["approve", "approve", "veto", "autonomous"]
    assert learnt[-1].refused == 1


def episodes(folder: Path, gain: float) -> Path:
    """Ten days of 20 and 20 episodes, deviation 1."""
    day = np.repeat(np.arange(10), 40)
    arm, noise = np.tile([False, True], 200), np.random.default_rng(0).normal(0.0, 1.0, 400)
    told = {"day": day.tolist(), "candidate": arm.tolist(), "returns": (noise + gain * arm).tolist()}
    path = folder / "evidence.json"
    path.write_text(json.dumps({"measured_at_s": 0.0, "episodes": told}))
    return path


def test_one_log_read_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "ab", episodes(tmp_path, 1.0), "--effect", 0.5, "--sd", 1.0)
    # (1.96 + 1.28)^2 / 0.5^2 = 42.0 of information, at about 10 a day: the fifth day.
    assert found["planned"] == pytest.approx(42.03, abs=0.01)
    days = found["results"]
    assert [one["fixed"] for one in days[:3]] == ["not yet"] * 3
    assert {one["fixed"] for one in days[5:]} == {"gain"}  # its first word is its last
    first = next(one["day"] for one in days if one["always_valid"] == "gain")
    assert first < next(one["day"] for one in days if one["fixed"] == "gain")  # twice the effect that was planned for
    assert all(one["low"] <= one["estimate"] <= one["high"] for one in days)
    nothing = asked(capsys, "ab", episodes(tmp_path, 0.0), "--effect", 0.5)["results"]
    assert {one["always_valid"] for one in nothing} == {"not yet"}
    assert nothing[-1]["fixed"] == "neither"
    assert main(["release", "ab", str(tmp_path / "evidence.json"), "--effect", "0.5"]) == 0
    assert "interval that always holds" in capsys.readouterr().out


def test_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r7"
    assert main(["release", "start", str(folder), *START, *PERSON, "--router.kind", "file"]) == 0
    capsys.readouterr()
    services = ("--gateway", "edge", "--services", "v1=policy-v1", "v2=policy-v2")
    route = asked(capsys, "manifest", folder, "--kind", "gateway", *services)["manifest"]
    assert [one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]] == [980, 20]
    output = tmp_path / "rollout.json"
    argo = ("--kind", "argo", "--image", "i", "--gateway", "edge", "--namespace", "plant")
    asked(capsys, "manifest", folder, *argo, "--output", output)
    steps = json.loads(output.read_text())["items"][0]["spec"]["strategy"]["canary"]["steps"]
    assert [one["setWeight"] for one in steps[::2]] == [2, 10, 50, 95]
    assert main(["release", "manifest", str(folder), *argo]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [one["kind"] for one in made["items"]] == ["Rollout", "Service", "Service", "HTTPRoute"]
    assert main(["release", "manifest", str(folder), *argo[:4]]) == 2  # 2 % of 4 pods
    assert "Name a gateway" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["shadow", "nowhere", "--candidate", "v2"], 1, "nowhere"),
        (["shadow", "nowhere"], 2, "--candidate"),
        (["shadow", "nowhere", "--candidate", "v2", "--agreement", "2"], 2, "agreement"),
        (["apprentice", "a"], 2, "--what"),
        (["apprentice", "a", "--what", "vetoed"], 2, "--why"),
        (["apprentice", "a", "--answer", "x", "veto"], 2, "--why"),
        (["apprentice", "a", "--answer", "x", "praise"], 2, "praise"),
        (["apprentice", "a", "--answer", "x", "approve", "--instead", "1"], 2, "--instead"),
        (["apprentice", "a", "--propose", "x", "1"], 2, "no apprentice"),
        (["apprentice", "a", "--propose", "x", "1", "--what", "approved"], 2, "one of --what"),
        (["apprentice", "a", "--what", "approved", "--good", "0.5"], 2, "too_many"),
        (["apprentice", "a", "--what", "praised"], 2, "praised"),
        (["ab", "--effect", "1"], 2, "--monitor"),
        (["ab", "--effect", "1", "--monitor", "http://127.0.0.1:9"], 2, "--candidate"),
        (
            ["ab", "--effect", "1", "--monitor", "http://127.0.0.1:9", "--candidate", "a", "--incumbent", "b"],
            1,
            "/returns",
        ),
        (["start", "r", *START, "--why", "x", "--apprentice", "--strategy", "blue-green"], 2, "--apprentice"),
        (["ab", "nowhere.json", "--effect", "1"], 1, "nowhere"),
        (["ab", "nowhere.json"], 2, "--effect"),
        (["manifest", "nowhere", "--kind", "argo", "--image", "i"], 2, "nowhere"),
        (["manifest", "nowhere", "--kind", "argo"], 2, "--image"),
        (["manifest", "nowhere", "--kind", "gateway", "--gateway", "g"], 2, "--services"),
        (["manifest", "nowhere", "--kind", "gateway", "--gateway", "g", "--services", "v1"], 2, "VERSION=SERVICE"),
        (["start", "r", *START, "--monitor", "http://127.0.0.1:9", "--why", "x"], 2, "--monitor"),
        (["start", "r", *MONITOR, "--monitor", "http://127.0.0.1:9", "--why", "x"], 1, "/returns"),
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
    assert not any(tmp_path.iterdir())


def test_files_that_were_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a1"
    asked(capsys, "apprentice", folder, "--what", "approved")
    path = folder / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"good": 0.02', b'"good": 0.05'))
    assert main(["release", "apprentice", str(folder)]) == 1
    assert "line 1 is not what was written" in capsys.readouterr().err
    path.write_bytes(whole.splitlines(keepends=True)[0])
    assert main(["release", "apprentice", str(folder)]) == 1
    assert "ends before" in capsys.readouterr().err
    path.unlink()
    (folder / "head.json").unlink()
    append_audit(path, AuditEntry("1", 0.0, "", "begun", "", {"best": 1}))
    assert main(["release", "apprentice", str(folder)]) == 1
    assert "no log of an apprentice" in capsys.readouterr().err
    empty = tmp_path / "e.json"
    empty.write_text('{"measured_at_s": 0.0}')
    assert main(["release", "ab", str(empty), "--effect", "1"]) == 1
    assert "no episodes" in capsys.readouterr().err
