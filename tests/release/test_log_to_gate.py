"""The commands of chapter 18 on the decision log of 200 simulated server rooms: the gate gets adjusted returns."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from rlcourse.environments.server_room import STEPS_A_DAY, ServerRoom, thermostat
from rlcourse.monitoring.exporter import Exporter, Registry
from rlcourse.randomness import Seeds
from rlcourse.recipes.command_line import main
from rlcourse.release.adapters.returns import MonitorReturns, ask, usual_returns
from rlcourse.release.matching import Tally, Variation, matched
from rlcourse.release.routing import FileRouter, Routing, version_for
from rlcourse.release.simulate import price_aware, run_days
from rlcourse.serving import wire
from rlcourse.serving.following import LogFollower
from rlcourse.serving.sidecar import Sidecar
from rlcourse.serving.tracking import WatchConfig
from rlcourse.serving.watching import LogWatch
from rlcourse.vocabulary import Policy
from tests.release.pieces import verdict
from tests.release.test_adapter_prometheus import Played, healthy, played  # noqa: F401 - a fixture

BOOK = Path(__file__).parents[2] / "book" / "ch18_release.md"
ROOMS, HOUR, DAY_S = 200, 6, 86_400.0
CONDITIONS = (2, 3, 4)
"""Outdoor temperature, load, price: see rlcourse.environments.server_room.room."""
LOG_DAYS = 4


class Plant:
    """Rooms whose decisions are logged once an hour, each day a session of its own; and the monitor that follows them."""

    def __init__(self, folder: Path, *, conditions: tuple[int, ...] = CONDITIONS) -> None:
        # Days before today are the incumbent's log, today and later ones the release's.
        self.began_s = (time.time() // DAY_S - LOG_DAYS - 1) * DAY_S  # an episode is counted on the day after
        self.folder, self.days, self.seeds = folder, 0, Seeds(11)
        self.true: list[tuple[int, int, float]] = []  # day, arm, return
        folder.mkdir(parents=True)
        self._lines: list[bytes] = []
        config = WatchConfig(horizon_s=DAY_S, reward_deadline_s=DAY_S, max_decisions=10**6, conditions=conditions)
        self.now = self.began_s
        watch = LogWatch(Exporter(Registry()), config)
        self.sidecar = Sidecar(LogFollower(folder), watch, None, say=print, clock=lambda: self.now)

    def day(self, arms: Callable[[str], str], policies: Mapping[str, Policy]) -> dict[str, Any]:
        """One day of every room under the version that its session is drawn for; what the monitor then shows."""
        names = [f"room-{room}-day-{self.days}" for room in range(ROOMS)]
        versions = [arms(name) for name in names]
        env = ServerRoom(ROOMS, generator=self.seeds.child(f"day{self.days}").torch("weather"), start_hour=0.0)
        generator, obs, earned = self.seeds.torch("actions"), env.reset(), torch.zeros(ROOMS)
        theirs = torch.tensor([version == "v2" for version in versions])
        total, began = torch.zeros(ROOMS, dtype=torch.float64), self.began_s + DAY_S * self.days
        for place in range(STEPS_A_DAY):
            if place % HOUR == 0:
                ids, at = [f"{name}-{place}" for name in names], began + DAY_S * place / STEPS_A_DAY
                self._decisions(ids, names, versions, obs.tolist(), at)
            action = policies["v1"].act(obs, greedy=True, generator=generator)
            action = torch.where(theirs, policies["v2"].act(obs, greedy=True, generator=generator), action)
            step = env.step(action)
            obs, earned = step.obs, earned + step.reward
            if place % HOUR == HOUR - 1:
                total += earned.double()
                self._rewards(ids, earned.tolist(), at + 600.0, place == STEPS_A_DAY - 1)
                earned = torch.zeros(ROOMS)
        with (self.folder / f"{1:020}-00000.jsonl").open("ab") as file:
            file.write(b"\n".join([*self._lines, b""]))
        self._lines.clear()
        self.true += [(self.days, int(arm), float(one)) for arm, one in zip(theirs, total, strict=True)]
        self.days += 1
        self.now = began + 1.9999 * DAY_S  # later than now, where this was today's
        self.sidecar.round()
        found: dict[str, Any] = json.loads(self.sidecar.document())
        return found

    def _decisions(
        self, ids: list[str], names: list[str], versions: list[str], seen: list[list[float]], at: float
    ) -> None:
        for name, session, version, row in zip(ids, names, versions, seen, strict=True):
            raw = msgspec.Raw(msgspec.json.encode(row))
            line = wire.DecisionLine(name, at, "rl_policy", version, raw, 0, 1.0, 1.0, session=session)
            self._lines.append(wire.encode(line))

    def _rewards(self, ids: list[str], rewards: list[float], at: float, last: bool) -> None:
        for name, reward in zip(ids, rewards, strict=True):
            self._lines.append(wire.encode(wire.RewardLine(name, at, reward, truncated=last)))


INCUMBENT = thermostat(first_stage_c=24.5)


def cheaper(relative: float) -> Policy:
    def earns(policy: Policy) -> float:
        return float(run_days(policy, 1_000, Seeds(5)).returns.mean())

    return price_aware(relative, strong=False, incumbent=INCUMBENT, earns=earns)


def everybody(name: str) -> str:
    return "v1"


@pytest.fixture
def plant(tmp_path: Path, played: Played) -> Plant:  # noqa: F811
    world = Plant(tmp_path / "log")
    for _ in range(LOG_DAYS):
        played.returns = world.day(everybody, {"v1": INCUMBENT, "v2": INCUMBENT})
    healthy(played)
    played.newest = time.time() + 600.0
    return world


def commands(**instead: str) -> dict[str, list[str]]:
    """Those of the book's block, by their second word, with other addresses in place of the book's; no service is there."""
    (block,) = [part for part in BOOK.read_text().split("```bash\n")[1:] if part.startswith("rlcourse release start")]
    lines = [line for line in block.split("```")[0].splitlines() if line]
    found = {}
    for line in lines:
        words = shlex.split(line)[1:]
        found[words[1]] = [instead.get(word, word) for word in words]
    found["start"] += ["--router.kind", "file"]
    return found


@pytest.mark.slow
def test_the_commands_of_the_book(
    plant: Plant,
    played: Played,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verdict.json").write_text(json.dumps(verdict().to_json()))
    for address in ("9090", "9108"):
        assert f"http://127.0.0.1:{address}" in BOOK.read_text()
    book = commands(**{"http://127.0.0.1:9108": played.url, "http://127.0.0.1:9090": played.url})
    assert list(book) == ["start", "step", "approve", "rollback", "audit"]
    folder = Path(book["start"][2])

    assert main(book["start"]) == 0
    told = capsys.readouterr().err
    settings, release = (
        json.loads((folder / "settings.json").read_text()),
        json.loads((folder / "release.json").read_text()),
    )
    # What is usual, and its spread, are the log's own.
    returns = np.array([one for _, _, one in plant.true])
    day = np.array([one for one, _, _ in plant.true])
    within = returns - np.array([returns[day == d].mean() for d in range(LOG_DAYS)])[day]
    raw = float(np.sqrt((within**2).sum() / (len(day) - LOG_DAYS)))
    assert settings["variates"]["mean"] == pytest.approx(returns.mean(), rel=1e-5)
    assert settings["variates"]["raw_sd"] == pytest.approx(raw, rel=1e-4)
    assert settings["variates"]["episodes"] == ROOMS * LOG_DAYS
    assert release["variation"]["incumbent"] == settings["variates"]["sd"] < 0.3 * raw
    assert "the conditions explain" in told
    router = FileRouter(folder / "routing.json")
    assert router.current() == Routing("v1", "v2", 0.02, "r7")

    better, gain = {"v1": INCUMBENT, "v2": cheaper(-0.06)}, []
    for _ in range(8):
        routing = router.current()
        assert routing is not None
        played.returns = plant.day(partial(version_for, routing), better)
        assert main([*book["step"], "--json", "-"]) == 0
        found = json.loads(capsys.readouterr().out)
        gain.append(found["gate"]["reasons"][0].get("numbers", {}))
        if found["state"]["status"] == "awaiting":
            break
    assert found["state"]["status"] == "awaiting"
    assert main(book["approve"]) == 0
    assert router.current() == Routing("v1", "v2", 0.5, "r7")
    # What the gate was told is the adjusted difference, with the information that its spread is worth.
    late = [(d - LOG_DAYS, arm, one) for d, arm, one in plant.true if d >= LOG_DAYS]
    unadjusted = matched(Tally.of(*zip(*late, strict=True)), Variation(raw, raw))
    assert gain[-1]["episodes"] == float(unadjusted.episodes) == sum(arm for _, arm, _ in late)
    assert gain[-1]["information"] > 10.0 * float(unadjusted.information)
    assert gain[-1]["low"] <= 0.06 * 45.0 <= gain[-1]["high"]
    assert main(book["rollback"]) == 0
    assert router.current() == Routing("v1")
    capsys.readouterr()
    assert main(book["audit"]) == 0
    log = capsys.readouterr().out
    assert all(words in log for words in ("costs less", "the simulator agrees", "a complaint"))


@pytest.mark.slow
def test_the_book_s_gate_on_a_log_without_conditions(
    tmp_path: Path,
    played: Played,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A spread that somebody named is held against the log; with --monitor it is the raw one, and stages are longer."""
    monkeypatch.chdir(tmp_path)
    Path("verdict.json").write_text(json.dumps(verdict().to_json()))
    world, same = Plant(tmp_path / "log", conditions=()), {"v1": INCUMBENT, "v2": INCUMBENT}
    for _ in range(LOG_DAYS):
        played.returns = world.day(everybody, same)
    healthy(played)
    played.newest = time.time() + 600.0
    book = commands(**{"http://127.0.0.1:9108": played.url, "http://127.0.0.1:9090": played.url})
    named = [word for word in book["start"] if word not in ("--monitor", played.url)]
    named[2] = "runs/named"
    assert main([*named, "--usual", "-45", "--sd", "1.3"]) == 0
    assert main(book["start"]) == 0
    assert "keeps no --conditions" in capsys.readouterr().err
    release = json.loads(Path(book["start"][2], "release.json").read_text())
    assert release["variation"]["incumbent"] > 5.0
    played.returns = world.day(lambda name: "v2" if name.endswith(("7-day-4", "3-day-4")) else "v1", same)
    step = [*book["step"], "--json", "-"]
    assert main(step) == 0
    (reason,) = json.loads(capsys.readouterr().out)["gate"]["reasons"]
    assert reason["code"] == "collecting", reason
    step[2] = "runs/named"
    assert main(step) == 0
    (reason,) = json.loads(capsys.readouterr().out)["gate"]["reasons"]
    assert reason["code"] == "spread_larger"
    assert "--monitor" in reason["text"]


@pytest.mark.slow
def test_the_estimate_from_a_log_is_unbiased(plant: Plant, played: Played) -> None:  # noqa: F811
    """Half of the rooms under a better policy: the adjusted difference is that of the same rooms, known from both arms."""
    candidate = cheaper(-0.05)
    variates = usual_returns(played.url, "rl_policy", "v1", time.time())
    policies = {"v1": INCUMBENT, "v2": candidate}
    for _ in range(2):
        played.returns = plant.day(lambda name: version_for(Routing("v1", "v2", 0.5, "r"), name), policies)
    promised = Variation(variates.sd, variates.sd)
    asked = MonitorReturns(played.url, "rl_policy", "v1", "v2", promised=promised, variates=variates)
    found = asked(time.time(), time.time())
    assert found is not None
    assert (found.variation, found.objection) == (None, None)
    contrast = matched(found.tally, promised)
    # The same days under each policy alone: the pairs cancel the weather.
    pairs = [run_days(policy, 20_000, Seeds(6)).returns for policy in (candidate, INCUMBENT)]
    truth = float((pairs[0] - pairs[1]).mean())
    assert abs(float(contrast.estimate) - truth) < 4.0 / np.sqrt(float(contrast.information))
    assert float(contrast.information) > 40.0  # of 200 room-days each at 1.4 or so


@pytest.mark.slow
def test_what_is_usual_leaves_today_out(plant: Plant, played: Played) -> None:  # noqa: F811
    whole = usual_returns(played.url, "rl_policy", "v1", time.time())
    assert whole.episodes == ROOMS * LOG_DAYS
    played.returns = plant.day(everybody, {"v1": INCUMBENT, "v2": INCUMBENT})
    assert usual_returns(played.url, "rl_policy", "v1", time.time()) == whole
    assert ask(played.url, "rl_policy", ["v1"]).tally.episodes.sum() == ROOMS * (LOG_DAYS + 1)
    assert usual_returns(played.url, "rl_policy", "v1", time.time() + DAY_S).episodes == ROOMS * (LOG_DAYS + 1)
