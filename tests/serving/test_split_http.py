"""Real servers that split their sessions while they are asked, killed, and told by controllers that are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from rlcourse.release.adapters.service import ServiceRouter
from rlcourse.release.assignment import in_canary
from rlcourse.release.controller import Controller
from rlcourse.release.routing import Routing
from rlcourse.release.state import read_state
from rlcourse.serving import wire
from rlcourse.serving.decision_log import read_all_lines, read_lines
from rlcourse.serving.mirrored import mirrored, report_of
from tests.release.pieces import evidence, verdict
from tests.release.test_controller import ENDS, RELEASE, Clock, Countdown, drive

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("one_at_a_time")]
SESSIONS = [f"room-{n}" for n in range(150)]
SHARES = (0.1, 0.3, 0.6, 0.9)


def two(save: Callable[..., Any]) -> list[str]:
    return [f"rl_policy@v{seed}={save('logits', seed)[0]}" for seed in (1, 2)]


class Fleet:
    """Threads with a third of the sessions each, which are asked one after the other without pause."""

    def __init__(self, url: str, threads: int = 3) -> None:
        self.answers: list[tuple[float, float, str, httpx.Response | Exception]] = []  # from, to, session, answer
        self._stop, self._url = threading.Event(), url
        self._threads = [threading.Thread(target=self._run, args=(SESSIONS[n::threads],)) for n in range(threads)]

    def __enter__(self) -> Fleet:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, sessions: list[str]) -> None:
        with httpx.Client(timeout=20.0) as client:
            number = 0
            while not self._stop.is_set():
                name, began = sessions[number % len(sessions)], time.monotonic()
                number += 1
                body = {"observation": [0.5] * 4, "session": name, "deadline_ms": 20_000}
                try:
                    found: Any = client.post(f"{self._url}/v1/policies/rl_policy/action", json=body)
                except httpx.TransportError as error:
                    found = error
                self.answers.append((began, time.monotonic(), name, found))

    def await_more(self, count: int) -> None:
        """Until so many more have been answered."""
        wanted, began = len(self.answers) + count, time.monotonic()
        while len(self.answers) < wanted:
            assert time.monotonic() - began < 60.0
            time.sleep(0.01)


def test_a_share_that_grows_under_load_fails_nobody_and_takes_nobody_out(
    save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve(*two(save), "--state", tmp_path / "state")
    router = ServiceRouter(server.management, "rl_policy", timeout_s=20.0)
    told: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)]  # from, to, share
    with Fleet(server.url) as fleet:
        for share in SHARES:
            fleet.await_more(200)
            began = time.monotonic()
            router.apply(Routing("v1", "v2", share, "r7"))
            told.append((began, time.monotonic(), share))
        fleet.await_more(200)
    seen: Counter[str] = Counter()
    before: dict[str, str] = {}
    for began, ended, name, answer in fleet.answers:
        assert isinstance(answer, httpx.Response), answer
        body = answer.json()
        assert (answer.status_code, body["fallback"]) == (200, None)
        # Right: a share that held at some moment between the question and its answer.
        possible = [
            share
            for (start, _, share), (_, end, _) in zip(told, [*told[1:], (0.0, float("inf"), 0.0)], strict=True)
            if start <= ended and end >= began
        ]
        assert body["version"] in {"v2" if in_canary(name, "r7", share) else "v1" for share in possible}
        assert (before.get(name, "v1"), body["version"]) != ("v2", "v1"), "a session went back"
        before[name] = body["version"]
        seen[body["version"]] += 1
    assert seen["v1"] > 200
    assert seen["v2"] > 200
    # A kill and a restart: the same sessions as before.
    server.kill()
    again = serve(*two(save), "--state", tmp_path / "state")
    for name in SESSIONS:
        version = again.act({"observation": [0.5] * 4, "session": name}).json()["version"]
        assert version == ("v2" if in_canary(name, "r7", SHARES[-1]) else "v1")
    # The log tells the same of each decision.
    lines = list(read_lines(tmp_path / "state" / "decisions"))
    logged = Counter(line.version for line in lines if isinstance(line, wire.DecisionLine))
    assert logged["v2"] - seen["v2"] <= sum(in_canary(name, "r7", SHARES[-1]) for name in SESSIONS)


def test_a_shadow_under_load_is_in_the_log_and_in_no_answer(
    save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve(*two(save), "--state", tmp_path / "state")
    router = ServiceRouter(server.management, "rl_policy", timeout_s=20.0)
    with Fleet(server.url) as fleet:
        fleet.await_more(50)
        router.apply(Routing("v1", shadow="v2"))
        began = time.monotonic()
        fleet.await_more(300)
        ended = time.monotonic()
        router.apply(Routing("v1"))
        fleet.await_more(50)
    answers = [(began_, ended_, one) for began_, ended_, _, one in fleet.answers if isinstance(one, httpx.Response)]
    assert len(answers) == len(fleet.answers)
    assert {answer.json()["version"] for *_, answer in answers} == {"v1"}
    assert server.terminate() == 0
    folder = tmp_path / "state" / "decisions"
    copied = {line.request_id for line in read_all_lines(folder) if isinstance(line, wire.ShadowLine)}
    inside = {answer.json()["request_id"] for a, b, answer in answers if began <= a and b <= ended}
    assert inside <= copied <= {answer.json()["request_id"] for *_, answer in answers}
    assert len(inside) > 250
    report = report_of(folder, "v2")
    assert (report.requests, report.failed) == (len(copied), 0)
    same = [int(save("logits", seed)[1].act(torch.full((1, 4), 0.5), greedy=True)) for seed in (1, 2)]
    assert report.agreement == float(same[0] == same[1])
    assert {one.shadow_action for one in mirrored(read_all_lines(folder), "v2")} == {same[1]}


def test_a_service_without_a_state_folder_says_so_and_the_release_notices_that_it_forgot(
    save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    def router_of(server: Any) -> ServiceRouter:
        return ServiceRouter(server.management, "rl_policy", timeout_s=20.0)

    server, clock = serve(*two(save)), Clock()
    controller = Controller.start(tmp_path, RELEASE, router_of(server), who="mia", why="", clock=clock)
    controller.override("advance", "mia", "quickly")
    server.kill()
    assert server.process.stderr.read().count("--state FOLDER") == 1
    server = serve(*two(save))
    router = router_of(server)
    assert router.current() == Routing("v1")
    controller = Controller(tmp_path, router, clock=clock)
    answer = controller.tick(evidence(1.0, at=clock.now), verdict())
    assert (answer.answer, answer.reasons[0].code) == ("hold", "router_forgot")
    assert (controller.state().status, router.current()) == ("paused", Routing("v1"))
    controller.override("resume", "mia", "it has a folder now")
    assert router.current() == RELEASE.routing(1)


@pytest.mark.parametrize("scenario", ["good", "harm", "kill"])
def test_a_controller_that_is_killed_around_the_effect_leaves_one_routing_in_the_service(
    scenario: str, save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    """SIGKILL before and after each request to the service; and once the service is killed as well."""
    server = serve(*two(save), "--state", tmp_path / "state")
    names: list[str] = []
    router = ServiceRouter(server.management, "rl_policy", timeout_s=20.0)
    drive(tmp_path / "whole", Clock(), names.append, scenario, router)
    around = [number for number, name in enumerate(names, 1) if name.endswith("router")]
    assert len(around) >= 6
    for number in around:
        router.apply(Routing("v1"))
        folder = tmp_path / str(number)
        child = os.fork()
        if child == 0:
            try:
                die = Countdown(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
                drive(folder, Clock(), die, scenario, router)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        state = read_state(folder)
        assert not state.applied
        told, world = names[number - 1] == "after router", router.current()
        assert (world == state.routing) >= told
        if number == around[-1]:  # the service dies as well, and comes back with what it was told last
            server.kill()
            server = serve(*two(save), "--state", tmp_path / "state")
            router = ServiceRouter(server.management, "rl_policy", timeout_s=20.0)
            assert router.current() == world
        later = Clock()
        later.now += 1_000.0
        drive(folder, later, lambda name: None, scenario, router)
        after = read_state(folder)
        assert (after.status, after.routing, after.applied) == (*ENDS[scenario], True)
        assert router.current() == ENDS[scenario][1]
