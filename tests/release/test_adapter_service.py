"""The router of our own service against the service: real sockets, the server in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.errors import ServerError
from rlcourse.networks import CategoricalPolicy, LogitsNetwork
from rlcourse.randomness import Seeds
from rlcourse.release.adapters.service import ServiceRouter
from rlcourse.release.controller import Controller
from rlcourse.release.gates import Demand, GateConfig
from rlcourse.release.matching import Variation
from rlcourse.release.routing import FileRouter, Routing, version_for
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


def answered(assembly: Assembly, split: Path) -> dict[str, str | None]:
    """Which version answers each session, asked as a gateway would."""
    routing = FileRouter(split).current()
    assert routing is not None
    client = InProcessClient(assembly.service)
    return {name: client.act([0.0] * 4, version=version_for(routing, name)).version for name in SESSIONS}


def test_default_and_split_follow_the_routing(assembly: Assembly, address: str, tmp_path: Path) -> None:
    router = ServiceRouter(address, "rl_policy", tmp_path / "split.json")
    router.apply(Routing("v1", "v2", 0.1, "r7"))
    router.apply(Routing("v1", "v2", 0.1, "r7"))
    few = {name for name, version in answered(assembly, tmp_path / "split.json").items() if version == "v2"}
    assert abs(len(few) - 40) < 5 * np.sqrt(36)
    router.apply(Routing("v1", "v2", 0.5, "r7"))
    many = {name for name, version in answered(assembly, tmp_path / "split.json").items() if version == "v2"}
    assert few < many
    assert router.live() == "v1"
    assert InProcessClient(assembly.service).act([0.0] * 4).version == "v1"  # who does not know of the split
    router.apply(Routing("v2"))
    assert router.live() == "v2"
    assert set(answered(assembly, tmp_path / "split.json").values()) == {"v2"}


def test_what_cannot_be_applied_says_so(address: str, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    router = ServiceRouter(address, "rl_policy", split)
    with pytest.raises(ServerError, match="Not loaded: v3"):
        router.apply(Routing("v1", "v3", 0.1))
    assert not split.exists()
    with pytest.raises(ServerError, match="no policy 'other'"):
        ServiceRouter(address, "other", split).apply(Routing("v1"))
    router.apply(Routing("v1", "v2", 0.1))
    gone = ServiceRouter("http://127.0.0.1:9", "rl_policy", split, timeout_s=1.0)
    with pytest.raises(ServerError):
        gone.apply(Routing("v1", "v2", 0.5))
    assert FileRouter(split).current() == Routing("v1", "v2", 0.1)
    with pytest.raises(ServerError):  # nobody answers, and the canary is out of it all the same
        gone.apply(Routing("v1"))
    assert FileRouter(split).current() == Routing("v1")


def test_a_release_through_the_service_and_back(assembly: Assembly, address: str, tmp_path: Path) -> None:
    now, split = 1_000.0, tmp_path / "split.json"
    stages = (Stage("canary", 0.05, Demand("no_harm", 50.0)), Stage("bake", 0.95, Demand("no_harm", 0.0)))
    release = Release("r7", "v2", "v1", stages, GateConfig(tuned_at=20.0), Variation(1.0, 1.0))
    router = ServiceRouter(address, "rl_policy", split)
    controller = Controller.start(tmp_path / "r7", release, router, who="mia", why="", clock=lambda: now)
    controller.tick(evidence(0.0, at=now), verdict())
    assert sum(version == "v2" for version in answered(assembly, split).values()) > 350
    controller.tick(evidence(0.0, at=now), verdict())
    assert (router.live(), set(answered(assembly, split).values())) == ("v2", {"v2"})
    controller.roll_back("mia", "a complaint")
    assert (router.live(), set(answered(assembly, split).values())) == ("v1", {"v1"})
