from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.networks import CategoricalPolicy, GreedyQPolicy, LogitsNetwork, QNetwork
from rlcourse.networks.recurrent import RecurrentActorCritic, RecurrentCategoricalPolicy
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import Policy
from tests.deployment.policies import CONTINUOUS, policy_of

MEAN, STD = torch.tensor([1.0, 0.0, -1.0, 0.5]), torch.tensor([1.0, 2.0, 0.5, 3.0])


def make(kind: str, seed: int = 0) -> Policy:
    if kind in CONTINUOUS:
        return policy_of(kind, seed)
    with Seeds(seed).initialising("network"):
        if kind == "logits":
            return CategoricalPolicy(LogitsNetwork(MEAN, STD, (16, 8), 3))
        if kind == "q":
            return GreedyQPolicy(QNetwork(MEAN, STD, (16, 8), 3))
        network = RecurrentActorCritic(MEAN, STD, 8, 3)
        with torch.no_grad():  # its first actor has no opinion, and would hide what it remembers
            torch.nn.init.normal_(network.actor[0].weight, std=3.0)  # type: ignore[arg-type]
        return RecurrentCategoricalPolicy(network)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., tuple[Path, Policy]]:
    """Save a policy of a kind; returns its folder and the policy."""

    def saved(kind: str = "logits", seed: int = 0) -> tuple[Path, Policy]:
        policy = make(kind, seed)
        folder = tmp_path / f"{kind}{seed}"
        PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="CartPole-v1").save(folder)
        return folder, policy

    return saved


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    management: str
    stopped: list[str] = field(default_factory=list)

    def peak_mb(self) -> float:
        """The most memory it has had at any moment."""
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    def act(self, body: object, name: str = "rl_policy", **more: object) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/policies/{name}/action", json=body, timeout=10, **more)  # type: ignore[arg-type]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start real servers on free ports; all that still run are stopped at the end."""
    running: list[Server] = []

    def start(*words: str | Path, files: int | None = None) -> Server:
        command = [sys.executable, "-m", "rlcourse.recipes.command_line", "serve", "http", *map(str, words)]
        process = subprocess.Popen(
            [*command, "--port", "0", "--management-port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if files is not None:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
        assert process.stderr is not None
        said = []
        began = time.monotonic()
        while time.monotonic() - began < 60:
            said.append(process.stderr.readline())
            if "ready after" in said[-1] or not said[-1]:
                break
        found = re.search(r"on (http://\S+) \(management on (http://[^)]+)\)", "".join(said))
        assert found is not None, said
        running.append(Server(process, found[1], found[2]))
        return running[-1]

    yield start
    for server in running:
        if server.process.poll() is None:
            server.kill()
        if server.process.stderr is not None:
            server.process.stderr.close()
