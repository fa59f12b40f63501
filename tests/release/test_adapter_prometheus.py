"""Evidence from a Prometheus that the test plays, and what the controller makes of it."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError, DatasetInvalidError, ServerError
from rlcourse.release.adapters.prometheus import EvidenceConfig, PrometheusEvidence, growth, step
from rlcourse.release.adapters.returns import MonitorReturns, usual_returns
from rlcourse.release.adjusting import Variates
from rlcourse.release.audit import read_audit
from rlcourse.release.controller import Controller
from rlcourse.release.gates import Counts, Demand, GateConfig, LiveReturns
from rlcourse.release.matching import Tally, Variation
from rlcourse.release.routing import FileRouter, Routing
from rlcourse.release.stages import Release, Stage, blue_green
from tests.release.pieces import tally, verdict

NOW = 10_000.0


@dataclass
class Played:
    """Answers of a Prometheus and of a monitor."""

    url: str = ""
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by the query, for v2
    alerts: list[dict[str, Any]] = field(default_factory=list)
    newest: float | None = NOW
    returns: Any = None
    broken: bool = False
    asked: dict[str, float] = field(default_factory=dict)  # by the query, from when on

    def answer(self, path: str, words: dict[str, str]) -> Any:
        if self.broken:
            return {"status": "error"}
        if path == "/returns":
            return self.returns
        if path.endswith("/alerts"):
            return {"data": {"alerts": self.alerts}}
        if path.endswith("/query"):
            values = [] if self.newest is None else [{"values": [[self.newest - 1.0, "1"], [self.newest, "1"]]}]
            return {"data": {"result": values}}
        self.asked[words["query"]] = float(words["start"])
        samples = self.series.get(words["query"])
        return {"data": {"result": [] if samples is None else [{"values": [[at, str(v)] for at, v in samples]}]}}


@pytest.fixture
def played() -> Iterator[Played]:
    world = Played()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            body = json.dumps(world.answer(path, dict(urllib.parse.parse_qsl(query)))).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    world.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield world
    server.shutdown()
    thread.join()
    server.server_close()


def of(more: str) -> str:
    name, _, labels = more.partition("{")
    return f'{name}{{policy="rl_policy",version="v2"{labels}}}'


def healthy(played: Played) -> None:
    """100 requests since 9,000; 2 of them slow, 3 by the fallback, 1 of these the policy's fault."""
    for query, value in {
        "rl_request_seconds_count": 100.0,
        'rl_request_seconds_bucket{,le="0.1"': 98.0,
        "rl_decisions_total": 100.0,
        'rl_decisions_total{,fallback=~"error|timeout|breaker_open"': 1.0,
        'rl_decisions_total{,fallback!="none"': 3.0,
        "rl_safety_violations_total": 0.0,
    }.items():
        played.series[of(query)] = [(9_000.0, 5.0), (9_500.0, 5.0 + value / 2), (NOW, 5.0 + value)]


def alert(**labels: str) -> dict[str, Any]:
    given = {"alertname": "ReturnBelowBaseline", "policy": "rl_policy", "version": "v2", "severity": "page", **labels}
    return {"state": "firing", "labels": given, "annotations": {"summary": "It earns less."}}


def source(played: Played, **more: Any) -> PrometheusEvidence:
    return PrometheusEvidence(EvidenceConfig(url=played.url, timeout_s=2.0), "v2", **more)


def controller(folder: Path, now: float = NOW) -> Controller:
    stage = Stage("canary", 0.1, Demand("no_harm", 50.0))
    release = Release("r7", "v2", "v1", (stage,), GateConfig(tuned_at=20.0), Variation(1.0, 1.0))
    router = FileRouter(folder / "routing.json")
    return Controller.start(folder / "r7", release, router, who="mia", why="", clock=lambda: now)


@pytest.mark.parametrize(
    ("samples", "grown"),
    [
        ([(0.0, 5.0), (1.0, 9.0), (2.0, 2.0), (3.0, 3.0)], 7.0),  # a restart between 9 and 2
        ([(5.0, 5.0), (6.0, 9.0), (7.0, 2.0), (8.0, 3.0)], 12.0),  # was not there before 5
        ([(0.0, 5.0)], 0.0),
        ([(5.0, 5.0)], 5.0),
        ([], 0.0),
    ],
)
def test_growth_of_a_counter(samples: list[tuple[float, float]], grown: float) -> None:
    assert growth(samples, first_by_s=1.0) == grown


def test_counts_are_those_that_were_seen(played: Played) -> None:
    healthy(played)
    found = source(played).evidence(9_000.0, NOW)
    assert found is not None
    assert found.counts == {"latency": Counts(2, 100), "errors": Counts(1, 100), "fallbacks": Counts(3, 100)}
    assert (found.measured_at_s, found.violations, found.tally) == (NOW, 0, None)


def copied(played: Played, bad: int = 0) -> None:
    """1,000 copies since 9,000, some of them slow and answered by the fallback."""
    for query, value in {
        "rl_shadow_seconds_count": 1_000,
        'rl_shadow_seconds_bucket{,le="0.1"': 1_000 - bad,
        "rl_shadow_decisions_total": 1_000,
        'rl_shadow_decisions_total{,fallback=~"error|timeout|breaker_open"': bad,
        'rl_shadow_decisions_total{,fallback!="none"': bad,
    }.items():
        played.series[of(query)] = [(9_000.0, 5.0), (NOW, 5.0 + value)]


@dataclass
class Clock:
    now: float = 9_000.0

    def __call__(self) -> float:
        return self.now


def test_copies_do_not_count_as_the_requests_of_a_live_stage(played: Played, tmp_path: Path) -> None:
    copied(played)
    clock, release = Clock(), blue_green("r7", "v2", "v1", requests=1_000, least_s=0.0)
    router = FileRouter(tmp_path / "routing.json")
    leading = Controller.start(tmp_path / "r7", release, router, who="mia", why="", clock=clock)
    clock.now = 9_990.0
    answer = step(leading, source(played), verdict())  # nobody writes violations: a shadow earns no rewards
    assert (answer.answer, leading.state().question) == ("promote", "stage")
    assert played.asked[of("rl_shadow_seconds_count")] == 9_000.0
    clock.now = 9_995.0
    leading.approve("mia", "")
    clock.now = NOW
    assert step(leading, source(played), verdict()).reasons[0].code == "evidence_missing"
    healthy(played)
    answer = step(leading, source(played), verdict())
    assert (answer.answer, answer.reasons[0].numbers["requests"]) == ("hold", 100)
    assert played.asked[of("rl_request_seconds_count")] == 9_995.0
    assert leading.state().status == "running"


def test_clean_copies_do_not_dilute_the_fallbacks_of_a_canary(played: Played, tmp_path: Path) -> None:
    copied(played)
    stages = (
        Stage("shadow", 0.0, Demand("service", requests=500)),
        Stage("canary", 0.1, Demand("no_harm", 50.0)),
        Stage("bake", 0.9, Demand("no_harm", 60.0)),
    )
    release = Release("r7", "v2", "v1", stages, GateConfig(tuned_at=20.0), Variation(1.0, 1.0))
    clock, router = Clock(), FileRouter(tmp_path / "routing.json")
    leading = Controller.start(tmp_path / "r7", release, router, who="mia", why="", clock=clock)
    clock.now = 9_500.0
    assert step(leading, source(played), verdict()).answer == "promote"
    clock.now = 9_600.0
    leading.override("advance", "mia", "")
    clock.now = NOW
    healthy(played)
    played.series[of('rl_decisions_total{,fallback!="none"')] = [(9_500.0, 0.0), (NOW, 20.0)]  # of 100
    answer = step(leading, source(played), verdict())
    assert [one.code for one in answer.reasons] == ["objective_fallbacks"]
    # From the first live stage on; violations from the release's beginning.
    assert played.asked[of("rl_request_seconds_count")] == 9_500.0
    assert played.asked[of("rl_safety_violations_total")] == 9_000.0


def test_violations_that_are_known_are_told_without_safety(played: Played) -> None:
    healthy(played)
    played.series[of("rl_safety_violations_total")] = [(9_000.0, 5.0), (NOW, 8.0)]
    free = PrometheusEvidence(EvidenceConfig(url=played.url, safety=False), "v2").evidence(9_000.0, NOW)
    assert free is not None
    assert free.violations == 3


def usual(played: Played, conditions_of: tuple[int, ...]) -> Variates:
    """Ten days of 40 episodes each, of which the monitor knows the conditions of so many."""
    rng = np.random.default_rng(1)
    policies, moments = {}, {}
    for day, known in enumerate(conditions_of):
        met = rng.normal(size=40)
        z = np.stack([2.0 * met + rng.normal(size=40), met], axis=1)
        policies[day] = {"v1": [40, float(z[:, 0].sum()), float((z[:, 0] ** 2).sum())]}
        if known:
            second = z[:known].T @ z[:known]
            sums = [known, *z[:known].sum(axis=0).tolist(), *second[np.triu_indices(2)].tolist()]
            moments[day] = {"v1": sums}
    played.returns = {
        "counted_until_s": NOW,
        "day_s": 100.0,
        "policies": {"rl_policy": policies},
        "conditions": {"columns": [0], "over": "episode"},
        "moments": {"rl_policy": moments},
    }
    return usual_returns(played.url, "rl_policy", "v1", NOW)


def test_days_without_conditions_are_left_out_of_what_is_usual(played: Played) -> None:
    found = usual(played, (0, 0, 0, 20, 40, 40, 40, 40, 39, 40))
    assert (found.days, found.episodes) == (6, 239)
    assert found.coefficients == pytest.approx([2.0], abs=0.3)


def test_too_few_days_with_conditions(played: Played) -> None:
    with pytest.raises(DatasetInvalidError, match="on 0 of 10 days"):
        usual(played, (0,) * 9 + (20,))


def test_what_nobody_writes_is_unknown_and_not_zero(played: Played) -> None:
    found = source(played).evidence(9_000.0, NOW)
    assert found is not None
    assert (found.counts, found.violations) == ({}, None)
    free = PrometheusEvidence(EvidenceConfig(url=played.url, safety=False), "v2").evidence(9_000.0, NOW)
    assert free is not None
    assert (free.violations, free.safety_watched) == (
        None,
        False,
    )  # nobody counts, and that is said and not read as none


@pytest.mark.parametrize("safety", [True, False])
def test_safety_that_nobody_watches_holds_or_is_said_in_the_answer_and_in_the_log(
    played: Played, tmp_path: Path, safety: bool
) -> None:
    healthy(played)
    del played.series[of("rl_safety_violations_total")]
    leading = controller(tmp_path)
    config = EvidenceConfig(url=played.url, safety=safety)
    returns = LiveReturns(tally(0.0, candidates=300))
    answer = step(leading, PrometheusEvidence(config, "v2", returns=lambda since, now: returns), verdict())
    said = " ".join(entry.why for entry in read_audit(leading.folder / "audit.jsonl").entries)
    if safety:
        assert (answer.answer, answer.reasons[0].text) == ("hold", "Nothing is known of violations.")
        assert "Safety is not watched" not in said
    else:
        assert (answer.answer, [one.code for one in answer.reasons]) == ("promote", ["no_harm", "safety_not_watched"])
        assert "Safety is not watched" in said


def test_old_samples_are_old_evidence(played: Played) -> None:
    healthy(played)
    played.newest = NOW - 1_000.0
    found = source(played).evidence(9_000.0, NOW)
    assert found is not None
    assert found.measured_at_s == NOW - 1_000.0
    played.newest = None
    assert source(played).evidence(9_000.0, NOW) is None


def test_nobody_answers(played: Played) -> None:
    played.broken = True
    assert source(played).evidence(9_000.0, NOW) is None
    with pytest.raises(ServerError, match="api/v1/alerts"):
        source(played).alarms()
    gone = PrometheusEvidence(EvidenceConfig(url="http://127.0.0.1:9", timeout_s=1.0), "v2")
    assert gone.evidence(9_000.0, NOW) is None
    with pytest.raises(ConfigError):
        EvidenceConfig(timeout_s=0.0)


def test_only_alerts_that_page_and_name_the_candidate_accuse_it(played: Played) -> None:
    played.alerts = [
        alert(),
        alert(version="v1"),
        alert(policy="other"),
        alert(severity="ticket"),
        {**alert(), "state": "pending"},
        {"state": "firing", "labels": {"alertname": "TargetDown", "severity": "page"}},
    ]
    assert [(one.name, one.summary) for one in source(played).alarms()] == [("ReturnBelowBaseline", "It earns less.")]


def test_an_alert_ends_the_release(played: Played, tmp_path: Path) -> None:
    healthy(played)
    release = controller(tmp_path)
    played.alerts = [alert(version="v1")]
    assert step(release, source(played), verdict()).answer == "hold"
    played.alerts = [alert()]
    answer = step(release, source(played), verdict())
    assert (answer.answer, answer.reasons[0].code) == ("roll_back", "alert_ReturnBelowBaseline")
    assert release.state().status == "rolled_back"
    assert FileRouter(tmp_path / "routing.json").current() == Routing("v1")
    last = read_audit(release.folder / "audit.jsonl").entries[-1]
    assert (last.who, last.why) == ("prometheus", "ReturnBelowBaseline fires: It earns less.")
    assert step(release, source(played), verdict()).reasons[0].code == "not_running"  # the alert still fires


def test_the_kill_switch_comes_before_alerts(played: Played, tmp_path: Path) -> None:
    healthy(played)
    release = controller(tmp_path)
    played.alerts = [alert()]
    (release.folder / "KILL").touch()
    assert step(release, source(played), verdict()).reasons[0].code == "kill_switch"
    assert release.state().status == "killed"


def test_a_start_that_was_killed_is_finished(played: Played, tmp_path: Path) -> None:
    """Between the state and the first line of the audit log."""
    healthy(played)

    class Killed(BaseException):
        pass

    def die(name: str) -> None:
        if name == "before audit":
            raise Killed

    stage = Stage("canary", 0.1, Demand("service", requests=1_000))
    release = Release("r7", "v2", "v1", (stage,), GateConfig(), Variation(1.0, 1.0))
    router = FileRouter(tmp_path / "routing.json")
    with pytest.raises(Killed):
        Controller.start(tmp_path / "r7", release, router, who="mia", why="", clock=lambda: NOW, step=die)
    again = Controller(tmp_path / "r7", router, clock=lambda: NOW)
    assert step(again, source(played), verdict()).reasons[0].code == "collecting"
    assert router.current() == Routing("v1", "v2", 0.1, "r7")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"broken": True}, "monitoring_unreachable"),
        ({"newest": NOW - 1_000.0}, "evidence_stale"),
        ({"newest": None}, "monitoring_unreachable"),
        ({"series": {}}, "evidence_missing"),
    ],
)
def test_what_cannot_be_seen_is_held(played: Played, tmp_path: Path, change: dict[str, Any], code: str) -> None:
    healthy(played)
    for name, value in change.items():
        setattr(played, name, value)
    release = controller(tmp_path)
    answer = step(release, source(played, returns=lambda since, now: LiveReturns(tally(0.0))), verdict())
    assert (answer.answer, answer.reasons[0].code) == ("hold", code)
    assert release.state().status == "running"


def test_a_missed_objective_goes_back_without_an_alert(played: Played, tmp_path: Path) -> None:
    healthy(played)
    played.series[of('rl_decisions_total{,fallback!="none"')] = [(9_000.0, 0.0), (NOW, 60.0)]
    answer = step(controller(tmp_path), source(played), verdict())
    # The release began at this very moment, and the series is older: all of it is in the window that the test plays.
    assert answer.answer == "roll_back"
    assert answer.reasons[0].code == "objective_fallbacks"


def test_returns_come_by_day(played: Played, tmp_path: Path) -> None:
    healthy(played)
    days = {"0": {"v1": [9, 9, 9]}, "1": {"v1": [4, 8.0, 20.0], "v2": [2, 6.0, 20.0]}, "2": {"v3": [1, 1, 1]}}
    played.returns = {"counted_until_s": NOW, "day_s": 5_000.0, "policies": {"rl_policy": days}}
    returns = MonitorReturns(played.url, "rl_policy", "v1", "v2", promised=Variation(1.0, 1.0))
    found = returns(9_000.0, NOW)
    assert found is not None
    wanted = Tally(
        np.array([[4.0, 2.0], [0.0, 0.0]]), np.array([[8.0, 6.0], [0.0, 0.0]]), np.array([[20.0] * 2, [0.0] * 2])
    )
    for part, other in zip(found.tally, wanted, strict=True):
        np.testing.assert_array_equal(part, other)
    known = source(played, returns=returns).evidence(9_000.0, NOW)
    assert known is not None
    assert known.tally is not None


@pytest.mark.parametrize(
    "said", [None, {}, {"counted_until_s": NOW - 901.0, "day_s": 1.0, "policies": {}}, "no object"]
)
def test_returns_that_are_old_or_none_are_not_known(played: Played, said: Any) -> None:
    played.returns = said
    for url in (played.url, "http://127.0.0.1:9"):
        asked = MonitorReturns(url, "rl_policy", "v1", "v2", promised=Variation(1.0, 1.0), timeout_s=1.0)
        assert asked(9_000.0, NOW) is None
