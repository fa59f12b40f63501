"""A release that goes wrong, with nothing pretended: a service with two versions, its log followed, Prometheus and
Alertmanager, a webhook, and the controller that is to go back by itself.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.monitoring.scraping import Target, scrape
from rlcourse.networks import CategoricalPolicy, LogitsNetwork
from rlcourse.release.adapters.prometheus import EvidenceConfig, PrometheusEvidence, step
from rlcourse.release.adapters.returns import MonitorReturns
from rlcourse.release.adapters.service import ServiceRouter
from rlcourse.release.assignment import in_canary
from rlcourse.release.audit import read_audit
from rlcourse.release.controller import Controller
from rlcourse.release.gates import Demand, GateAnswer, GateConfig
from rlcourse.release.matching import Variation
from rlcourse.release.stages import Release, Stage
from tests.monitoring.test_stack import Inbox, asked, children, command, inbox, until
from tests.release.pieces import verdict

__all__ = ["inbox"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("one_at_a_time")]

STEPS, GOOD, BAD, FEWEST = 3, 0, 1, 5
"""A task of three steps, each of which earns 1 if the action is 0."""


def saved_policy(folder: Path, action: int, misled: int) -> Path:
    """One that takes the same action until the last sensor reads 1 instead of 0, and then another."""
    network = LogitsNetwork(torch.zeros(4), torch.ones(4), (4,), 3)
    first, *_, last, bias = network.parameters()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        first[0, 3] = 1.0
        last[misled, 0] = 60.0
        bias[action] = 20.0
    PolicyArtifact.from_policy(CategoricalPolicy(network), algorithm="ppo", env_id="CartPole-v1").save(folder)
    return folder


class Clients:
    """Some 15 sessions a second, one after the other; they name their session, and the service splits them."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sensor = 0.0
        self.answered: list[tuple[str, str]] = []  # session, version
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=10.0) as answer:
            data = answer.read()
        return json.loads(data) if data else {}

    def session(self, name: str) -> str:
        """One episode; the version that answered last."""
        version = ""
        for place in range(STEPS):
            obs = [*[0.1 * place] * 3, self.sensor]
            body = {"observation": obs, "session": name, "deadline_ms": 5_000}
            answer = self._post("/v1/policies/rl_policy/action", body)
            version = answer["version"]
            reward = {
                "request_id": answer["request_id"],
                "reward": float(answer["action"] == GOOD),
                "terminated": place == STEPS - 1,
                "session": name,
            }
            self._post("/v1/rewards", reward)
        return version

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.05):
            name, number = f"session-{number}", number + 1
            self.answered.append((name, self.session(name)))

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


class Crowd:
    """Eight clients who keep asking another policy of the same service, a few hundred times a second together."""

    def __init__(self, address: str) -> None:
        self.host, _, port = address.partition(":")
        self.port = int(port)
        self.statuses: list[int] = []  # 0: no answer
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(place,)) for place in range(8)]

    def _run(self, place: int) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10.0)
        body = json.dumps({"observation": [0.1 * place, 0.0, 0.0, 0.0], "deadline_ms": 5_000}).encode()
        headers = {"Content-Type": "application/json"}
        while not self._stop.wait(0.02):
            try:
                connection.request("POST", "/v1/policies/crowded/action", body, headers)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                self.statuses.append(0)
                break
            self.statuses.append(answer.status)
        connection.close()

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@dataclass
class Plant:
    """Everything that runs."""

    management: str
    clients: Clients
    crowd: Crowd
    prometheus: str
    sidecar: str
    stack: Any  # the process of rlcourse monitor up
    folder: Path

    def controller(self, gate: GateConfig | None = None) -> Controller:
        """Of a release that has just put ``v2`` before three sessions in ten, and asks for more requests than will come."""
        stage = Stage("canary", 0.3, Demand("service", requests=10**9))
        release = Release("r1", "v2", "v1", (stage,), gate or GateConfig(), Variation(1.0, 1.0))
        return Controller.start(
            self.folder / "r1", release, self.router, who="mia", why="a better score in the simulator"
        )

    @property
    def router(self) -> ServiceRouter:
        return ServiceRouter(self.management, "rl_policy")

    def evidence(self, **more: Any) -> PrometheusEvidence:
        return PrometheusEvidence(EvidenceConfig(url=self.prometheus, safety=False), "v2", **more)

    def returns(self) -> MonitorReturns:
        return MonitorReturns(self.sidecar, "rl_policy", "v1", "v2", promised=Variation(1.0, 1.0))

    def evaluations(self) -> int:
        (one,) = [
            sample
            for sample in scrape(Target(self.prometheus.removeprefix("http://")), 10.0)
            if sample.name == "prometheus_rule_group_iterations_total"
            and sample.labels["rule_group"].endswith("rlcourse-returns")
        ]
        return int(one.value)


@pytest.fixture
def plant(tmp_path: Path, inbox: Inbox, request: pytest.FixtureRequest) -> Iterator[Plant]:
    """With a bad ``v2``, or one that takes these actions: first, and once a sensor is broken. ``v1`` does not look at it."""
    good = saved_policy(tmp_path / "good", GOOD, GOOD)
    other = saved_policy(tmp_path / "other", *getattr(request, "param", (BAD, BAD)))
    free = ("--port", 0)
    with ExitStack() as stack:
        words: tuple[object, ...] = (
            f"rl_policy@v1={good}",
            f"rl_policy@v2={other}",
            f"crowded@v1={good}",
            "--state",
            tmp_path / "state",
            *free,
        )
        _, said = stack.enter_context(command("serve", "http", *words, "--management-port", 0, ready="ready after"))
        address, management = found(r" on http://(\S+) \(management on (http://[^)]+)\)", said)
        words = (
            tmp_path / "state" / "decisions",
            "--position",
            tmp_path / "follow.json",
            "--policy",
            "rl_policy",
            *free,
        )
        quick = ("--horizon-s", 1, "--success-return", STEPS, "--poll-s", 0.1)
        _, said = stack.enter_context(command("monitor", "follow", *words, *quick, ready="ready: "))
        (sidecar,) = found(r"ready: http://(\S+)/metrics", said)
        words = (address, f"decisions={sidecar}", "--directory", tmp_path / "m", *free, "--alertmanager-port", 0)
        limits = ("--limits.min-episodes", FEWEST, "--limits.hold-s", 0, "--limits.window-s", 10)
        quick = ("--scrape-interval-s", 1, "--group-wait-s", 0, "--group-interval-s", 1)
        told = ("--baseline", f"rl_policy={STEPS}", "--webhook", inbox.url)
        watching = command("monitor", "up", *words, *limits, *quick, *told, ready="ready: ")
        process, said = stack.enter_context(watching)
        (prometheus,) = found(r"ready: (http://\S+) ", said)
        clients, crowd = stack.enter_context(Clients(address)), stack.enter_context(Crowd(address))
        found_ = Plant(management, clients, crowd, prometheus, f"http://{sidecar}", process, tmp_path)
        # Before the release the incumbent earns what it always did.
        until(lambda: asked(prometheus, f'rl_episode_return_mean{{version="v1"}} == {STEPS}'), "the incumbent's return")
        yield found_
        assert set(crowd.statuses) == {200}  # a release that goes back is none of theirs


def found(pattern: str, said: str) -> tuple[str, ...]:
    match = re.search(pattern, said)
    assert match is not None, said
    return match.groups()


@pytest.mark.parametrize("plant", [(GOOD, BAD)], indirect=True)
def test_a_canary_that_turns_bad_is_alerted_on_and_taken_back(plant: Plant, inbox: Inbox) -> None:
    controller, evidence = plant.controller(), plant.evidence()
    answers: list[GateAnswer] = []
    holds = (
        f'max by (policy, version) (rl_episode_return_mean{{version="v2"}}) < {0.9 * STEPS} and '
        f'sum by (policy, version) (increase(rl_episode_return_count{{version="v2"}}[1h])) >= {FEWEST}'
    )
    inbox.note = plant.evaluations

    def canary() -> int:
        return sum(version == "v2" for _, version in list(plant.clients.answered))

    def going_well() -> bool:
        answers.append(step(controller, evidence, verdict()))
        return canary() >= 2 * FEWEST

    until(going_well, "a canary that has carried traffic for a while")
    assert not asked(plant.prometheus, holds)
    assert controller.state().status == "running"
    plant.clients.sensor = 1.0  # in the middle of it all; the incumbent goes on as before
    # The alert and the controller are watched apart: neither waits for the other.
    seen: list[int] = []

    def watch() -> None:
        until(lambda: asked(plant.prometheus, holds), "the condition")
        seen.append(plant.evaluations())

    watching = threading.Thread(target=watch)
    watching.start()

    def rolled_back() -> bool:
        answers.append(step(controller, evidence, verdict()))
        return controller.state().ended

    until(rolled_back, "the way back")
    watching.join()
    assert inbox.first("ReturnBelowBaseline") - seen[0] <= 3
    assert {(name, status) for name, status, _ in inbox.came} <= {
        ("ReturnBelowBaseline", "firing"),
        ("ReturnBelowBaseline", "resolved"),
    }
    assert controller.state().status == "rolled_back"
    assert [answer.answer for answer in answers[:-1]] == ["hold"] * (len(answers) - 1)
    assert answers[-1].reasons[0].code == "alert_ReturnBelowBaseline"
    last = read_audit(controller.folder / "audit.jsonl").entries[-1]
    assert (last.who, last.what) == ("prometheus", "roll back")
    assert "Version v2 of rl_policy earns less than the baseline would" in last.why
    assert len(plant.crowd.statuses) > 10 * len(plant.clients.answered)  # under load, then
    # Both versions had answered, and now the old one answers everybody.
    routing = controller.release.routing(0)
    for name, version in plant.clients.answered:
        assert version == "v1" or in_canary(name, routing.salt, routing.share)
    assert {version for _, version in plant.clients.answered} == {"v1", "v2"}
    assert {plant.clients.session(f"after-{number}") for number in range(50)} == {"v1"}
    assert plant.router.current() == controller.release.before
    # What Prometheus knew of the canary is what its clients saw.
    known = plant.evidence(returns=plant.returns()).evidence(controller.clock() - 600.0, controller.clock())
    assert known is not None
    answered = Counter(version for _, version in plant.clients.answered)
    assert 0 < known.counts["errors"].total <= STEPS * (answered["v2"] + 1)
    assert known.counts["errors"].bad == known.counts["fallbacks"].bad == 0
    # And the monitor of its log knows the returns of both, within a day.
    assert known.tally is not None
    episodes, total, _ = (part.sum(axis=0) for part in known.tally)
    assert FEWEST <= episodes[1] <= answered["v2"] + 1
    assert total[0] == STEPS * episodes[0]
    assert total[1] < 0.9 * STEPS * episodes[1]


def test_the_gate_sees_a_bad_canary_without_any_alert(plant: Plant) -> None:
    """On the returns of both arms alone, as the monitor of the log counts them."""
    controller, evidence = plant.controller(), plant.evidence(returns=plant.returns())
    began = controller.clock()

    def answered() -> GateAnswer | None:
        return ended(controller.tick(evidence.evidence(began, controller.clock()), verdict()), controller)

    answer = until(answered, "the way back")
    assert (answer.answer, [one.code for one in answer.reasons]) == ("roll_back", ["returns_worse"])
    assert answer.reasons[0].numbers["high"] < 0.0
    assert {plant.clients.session(f"after-{number}") for number in range(50)} == {"v1"}


@pytest.mark.parametrize("plant", [(GOOD, GOOD)], indirect=True)
def test_a_release_that_cannot_be_seen_is_held(plant: Plant) -> None:
    patient = GateConfig(stale_after_s=5.0, blind_s=20.0)
    controller, evidence = plant.controller(patient), plant.evidence()

    def collecting() -> bool:
        answer = step(controller, evidence, verdict())
        assert answer.answer == "hold"
        return answer.reasons[0].code == "collecting" and answer.reasons[0].numbers["requests"] > 0

    until(collecting, "the first requests of the canary")
    (prometheus,) = [pid for pid in children(plant.stack) if name_of(pid) == "prometheus"]
    os.kill(prometheus, signal.SIGKILL)
    answer = until(lambda: blind(step(controller, evidence, verdict())), "blindness")
    assert answer.answer == "hold"
    assert controller.state().status == "running"
    assert plant.router.current() == controller.release.routing(0)  # held, neither forward nor back
    last = read_audit(controller.folder / "audit.jsonl").entries[-1]
    assert (last.what, last.why) == ("hold", "Monitoring did not answer.")
    began = time.monotonic()
    answer = until(lambda: ended(step(controller, evidence, verdict()), controller), "the end of patience")
    assert answer.answer == "roll_back"
    assert time.monotonic() - began < 60.0
    assert {plant.clients.session(f"after-{number}") for number in range(50)} == {"v1"}


def blind(answer: GateAnswer) -> GateAnswer | None:
    return answer if answer.reasons[0].code == "monitoring_unreachable" else None


def ended(answer: GateAnswer, controller: Controller) -> GateAnswer | None:
    return answer if controller.state().ended else None


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
