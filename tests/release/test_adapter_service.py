"""The router of our own service against the service: real sockets, the server in a thread."""

from __future__ import annotations

import socket
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.errors import ConfigError, ServerError
from rlcourse.networks import CategoricalPolicy, LogitsNetwork
from rlcourse.randomness import Seeds
from rlcourse.release.adapters.service import ServiceRouter
from rlcourse.release.controller import Controller
from rlcourse.release.gates import Demand, GateConfig
from rlcourse.release.matching import Variation
from rlcourse.release.routing import Routing, version_for
from rlcourse.release.stages import Release, Stage
from rlcourse.serving.assembly import Assembly, AssemblyConfig
from rlcourse.serving.client import InProcessClient
from rlcourse.serving.decision_log import DecisionLogConfig
from rlcourse.serving.hot import HttpConfig
from rlcourse.serving.http import management
from rlcourse.serving.policies import read_artifact
from rlcourse.serving.server import ServerConfig
from rlcourse.serving.service import ServiceConfig
from rlcourse.serving.shelf import ShelfConfig
from tests.release.pieces import evidence, verdict
from tests.release.test_controller import (
    Clock,
    Countdown,
    Crash,
    check_crashed,
    check_ended,
    crash,
    drive,
    steps_of,
)

SESSIONS = [f"room-{n}" for n in range(400)]


@pytest.fixture
def assembly(tmp_path: Path) -> Assembly:
    parts = AssemblyConfig(ServerConfig(), HttpConfig(), ServiceConfig(), ShelfConfig(), DecisionLogConfig())
    found = Assembly(parts, state=None)
    for number, version in enumerate(("v1", "v2")):
        with Seeds(number).initialising("network"):
            policy = CategoricalPolicy(LogitsNetwork(torch.zeros(4), torch.ones(4), (8,), 3))
        PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="CartPole-v1").save(tmp_path / version)
        found.load("rl_policy", tmp_path / version, version=version)
    return found


@pytest.fixture
def address(assembly: Assembly) -> Iterator[str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = management(assembly.service, read=read_artifact)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    began = time.monotonic()
    while not server.started and time.monotonic() - began < 20.0:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20.0)
    assert not thread.is_alive()


def answered(assembly: Assembly) -> dict[str, str | None]:
    """Which version answers each session; the client names its session and nothing else."""
    client = InProcessClient(assembly.service)
    return {name: client.act([0.0] * 4, session=name).version for name in SESSIONS}


def test_the_service_splits_as_the_routing_says(assembly: Assembly, address: str) -> None:
    router = ServiceRouter(address, "rl_policy")
    before: set[str] = set()
    for share in (0.0, 0.1, 0.1, 0.5):
        routing = Routing("v1", "v2", share, "r7")
        router.apply(routing)
        assert router.current() == routing
        found = answered(assembly)
        assert found == {name: version_for(routing, name) for name in SESSIONS}
        canary = {name for name, version in found.items() if version == "v2"}
        assert before <= canary
        assert abs(len(canary) - share * 400) <= 5 * np.sqrt(400 * share * (1 - share))
        before = canary
    client = InProcessClient(assembly.service)
    assert client.act([0.0] * 4).version == "v1"  # without a session nobody can be kept on one side
    assert client.act([0.0] * 4, session=min(before), version="v1").version == "v1"  # who names one gets it
    router.apply(Routing("v2"))
    assert (router.live(), set(answered(assembly).values())) == ("v2", {"v2"})


def test_what_cannot_be_applied_says_so_and_changes_nothing(assembly: Assembly, address: str) -> None:
    router, wanted = ServiceRouter(address, "rl_policy"), Routing("v1", "v2", 0.1, "r7")
    router.apply(wanted)
    for wrong in (Routing("v1", "v3", 0.1), Routing("v3", "v1", 0.1), Routing("v2", "v1", 0.5, shadow="v3")):
        with pytest.raises(ServerError, match=r"404.*v3 of rl_policy is not loaded"):
            router.apply(wrong)
        assert router.current() == wanted
    other = ServiceRouter(address, "other")
    for ask in (lambda: other.apply(Routing("v1")), other.live):
        with pytest.raises(ServerError, match=r"no policy '?\\?'?other"):
            ask()
    gone = ServiceRouter("http://127.0.0.1:9", "rl_policy", timeout_s=1.0)
    with pytest.raises(ServerError, match="rlcourse serve http"):
        gone.apply(wanted)


def test_a_release_begins_with_what_is_loaded_and_live(address: str) -> None:
    router = ServiceRouter(address, "rl_policy")
    router.check("v1", "v2")
    with pytest.raises(ConfigError, match="Not loaded: v3"):
        router.check("v1", "v3")
    with pytest.raises(ConfigError, match="v1 of rl_policy is live, not v2"):
        router.check("v2", "v1")
    for left, said in (
        (Routing("v1", "v2", 0.1, "r6"), "v2 is on trial"),
        (Routing("v1", shadow="v2"), "v2 is a shadow"),
    ):
        router.apply(left)
        with pytest.raises(ConfigError, match=f"{said} of rl_policy already: one release at a time"):
            router.check("v1", "v2")
    router.apply(Routing("v1", "v2", 0.0, "r6"))
    with pytest.raises(ConfigError, match="on trial"):
        router.check("v1", "v2")


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"num_actions": 4}, "another num actions"),
        ({"obs_size": 3}, "another observation size"),
        ({"memory_size": 8}, "remembers sessions"),
    ],
)
def test_a_release_does_not_begin_that_the_service_would_refuse_later(
    part: dict[str, int], says: str, assembly: Assembly, address: str
) -> None:
    version: Any = assembly.shelf.entries["rl_policy"].versions["v2"]
    about = {name: getattr(version.policy, name) for name in ("obs_size", "num_actions", "memory_size")}
    version.policy = types.SimpleNamespace(**{**about, **part})
    router = ServiceRouter(address, "rl_policy")
    with pytest.raises(ServerError, match="409"):
        router.apply(Routing("v1", "v2", 0.1))
    with pytest.raises(ConfigError, match=f"{says}.*blue-green"):
        router.check("v1", "v2")
    router.check("v1", "v2", shares=False)


def test_a_release_through_the_service_and_back(assembly: Assembly, address: str, tmp_path: Path) -> None:
    now = 1_000.0
    stages = (
        Stage("shadow", 0.0, Demand("service", requests=100)),
        Stage("canary", 0.05, Demand("no_harm", 50.0)),
        Stage("bake", 0.95, Demand("no_harm", 0.0)),
    )
    release = Release("r7", "v2", "v1", stages, GateConfig(tuned_at=20.0), Variation(1.0, 1.0))
    router = ServiceRouter(address, "rl_policy")
    controller = Controller.start(tmp_path / "r7", release, router, who="mia", why="", clock=lambda: now)
    assert router.current() == Routing("v1", shadow="v2")
    assert set(answered(assembly).values()) == {"v1"}
    controller.tick(evidence(0.0, at=now), verdict())
    assert router.current() == Routing("v1", "v2", 0.05, "r7")
    controller.tick(evidence(0.0, at=now), verdict())
    assert sum(version == "v2" for version in answered(assembly).values()) > 350
    controller.tick(evidence(0.0, at=now), verdict())
    assert (router.live(), set(answered(assembly).values())) == ("v2", {"v2"})
    controller.roll_back("mia", "a complaint")
    assert (router.live(), set(answered(assembly).values())) == ("v1", {"v1"})


@pytest.mark.parametrize("scenario", [pytest.param("good", marks=pytest.mark.slow), "harm", "kill"])
def test_killed_at_any_step_it_leads_the_service_to_the_same_end(scenario: str, address: str, tmp_path: Path) -> None:
    router, steps = ServiceRouter(address, "rl_policy"), steps_of(tmp_path / "whole", scenario)
    for number in range(1, steps + 1):
        router.apply(Routing("v1"))
        folder, clock = tmp_path / str(number), Clock()
        with pytest.raises(Crash):
            drive(folder, clock, Countdown(number, crash), scenario, router)
        check_crashed(folder, router)
        drive(folder, clock, lambda name: None, scenario, router)
        check_ended(folder, scenario, router)
