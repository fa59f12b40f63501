"""The parts together, without sockets: metrics, the web application under ASGI, and what a restart finds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rlcourse.errors import ArtifactError, ConfigError
from rlcourse.serving.assembly import Assembly, AssemblyConfig
from rlcourse.serving.decision_log import DecisionLogConfig
from rlcourse.serving.hot import HttpConfig
from rlcourse.serving.http import management
from rlcourse.serving.policies import Artifact, Booleans, Decided, Floats, read_artifact
from rlcourse.serving.server import ServerConfig
from rlcourse.serving.service import ServiceConfig
from rlcourse.serving.shelf import ShelfConfig


def assembled(state: Path | None = None, shelf: ShelfConfig | None = None, **http: int) -> Assembly:
    parts = AssemblyConfig(
        ServerConfig(), HttpConfig(**http), ServiceConfig(), shelf or ShelfConfig(), DecisionLogConfig()
    )
    return Assembly(parts, state=state)


def asked(app: Any, *requests: tuple[str, str, object]) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return [await client.request(method, path, json=body) for method, path, body in requests]

    return asyncio.run(run())


ACT = "/v1/policies/rl_policy/action"


def test_what_happened_is_in_the_metrics(save: Callable[..., Any]) -> None:
    assembly = assembled()
    assembly.load("rl_policy", save()[0], version="v1")
    *_, metrics = asked(
        assembly.application,
        ("POST", ACT, {"observation": [0, 0, 0, 0]}),
        ("POST", "/predictions/rl_policy", {"observation": [[0, 0, 0, 0], [None, 0, 0, 0]]}),
        ("POST", ACT, {"observation": [0]}),
        ("POST", "/v1/rewards", [{"request_id": "a", "reward": 1.0}, {"request_id": "b", "reward": 1.0}]),
        ("GET", "/metrics", None),
    )
    lines = set(metrics.text.splitlines())
    assert {
        'rl_decisions_total{fallback="none",policy="rl_policy",version="v1"} 2.0',
        'rl_decisions_total{fallback="non_finite",policy="rl_policy",version="v1"} 1.0',
        'rl_request_seconds_count{policy="rl_policy",version="v1"} 2.0',
        'rl_default_version{policy="rl_policy",version="v1"} 1.0',
        'rl_breaker_state{policy="rl_policy",version="v1"} 0.0',
        'rl_refused_total{status="422"} 1.0',
        "rl_rewards_total 2.0",
        "rl_requests_in_flight 0.0",
    } <= lines


def test_one_way_answers_what_the_other_does(save: Callable[..., Any]) -> None:
    assembly = assembled()
    assembly.load("rl_policy", save()[0])
    bodies: list[Any] = [{"observation": [0.1] * 4}, {"observation": [1]}, {}, {"observation": [[0.2] * 4] * 3}, []]
    responses = asked(assembly.application, *(("POST", ACT, body) for body in bodies))
    for body, response in zip(bodies, responses, strict=True):
        answered = assembly.application.answer("rl_policy", json.dumps(body).encode(), [])
        assert answered is not None
        status, _, answer = answered
        assert status == response.status_code
        quick, usual = json.loads(answer), response.json()
        assert {**quick, "request_id": 0} == {**usual, "request_id": 0}


def test_an_unready_service_says_why() -> None:
    assembly = assembled()
    ready, alive, unknown = asked(
        assembly.application, ("GET", "/readyz", None), ("GET", "/healthz", None), ("POST", ACT, {"observation": [0]})
    )
    assert (ready.status_code, ready.json()["status"]) == (503, "no policy is loaded")
    assert alive.status_code == 200
    assert unknown.status_code == 404


def test_a_restart_finds_versions_default_and_the_way_back(save: Callable[..., Any], tmp_path: Path) -> None:
    folders = [save("logits", seed)[0] for seed in range(3)]
    first = assembled(tmp_path / "state")
    first.load("rl_policy", folders[0], version="v0")
    first.restore()
    app = management(first.service, read=read_artifact, changed=first.note_shelf)
    versions = "/v1/policies/rl_policy/versions"
    loaded, switched, gone, again, bad, odd = asked(
        app,
        ("POST", versions, {"path": str(folders[1]), "version": "v1", "default": True}),
        ("POST", versions, {"path": str(folders[2]), "version": "v2"}),
        ("DELETE", f"{versions}/v2", None),
        ("POST", versions, {"path": str(folders[1]), "version": "v1"}),
        ("POST", versions, {"path": str(tmp_path / "nothing")}),
        ("POST", versions, {"path": "no\0path"}),
    )
    assert [one.status_code for one in (loaded, switched, gone, again, bad, odd)] == [201, 201, 200, 409, 422, 422]
    first.close()
    second = assembled(tmp_path / "state")
    second.load("rl_policy", folders[0], version="v0")
    second.restore()
    entry = second.shelf.entries["rl_policy"]
    assert entry.default.version == "v1"
    assert sorted(entry.versions) == ["v0", "v1"]
    assert second.shelf.rollback("rl_policy") == "v0"
    second.close()
    (tmp_path / "state" / "shelf.json").write_text("{")
    third = assembled(tmp_path / "state")
    with pytest.raises(ArtifactError, match="which versions were live"):
        third.restore()
    third.close()


@pytest.mark.parametrize("interval_s", [0.001, 1000.0])
def test_a_kill_loses_the_memories_since_the_last_saving(
    save: Callable[..., Any], tmp_path: Path, interval_s: float
) -> None:
    folder, _ = save("recurrent")
    first = assembled(tmp_path / "state", ShelfConfig(session_save_interval_s=interval_s))
    first.load("rl_policy", folder)
    body = {"observation": [1.0, -1.0, 2.0, 0.5], "session": "s"}
    asked(first.application, *[("POST", ACT, body)] * 5)
    (loaded,) = first.shelf.entries["rl_policy"].versions.values()
    assert loaded.sessions is not None
    remembered = loaded.sessions.get("s")
    time.sleep(0.01)
    first._now_and_then()  # the server does so every second
    if first._saving is not None:
        first._saving.join()
    asked(first.application, *[("POST", ACT, body)] * 5)
    second = assembled(tmp_path / "state")  # the first one has not ended: it was killed
    second.load("rl_policy", folder)
    second.restore()
    (again,) = second.shelf.entries["rl_policy"].versions.values()
    assert again.sessions is not None
    found = again.sessions.get("s")
    if interval_s > 1.0:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_array_equal(found, remembered)
    first.close()
    second.close()


def test_memories_of_other_weights_are_forgotten_and_said(
    save: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"observation": [1.0, -1.0, 2.0, 0.5], "session": "s"}
    known = []
    for seed in (0, 0, 1):
        assembly = assembled(tmp_path / "state")
        assembly.load("rl_policy", save("recurrent", seed)[0], version="1")
        assembly.restore()
        sessions = assembly.shelf.find("rl_policy", "1").sessions
        assert sessions is not None
        known.append(len(sessions))
        asked(assembly.application, ("POST", ACT, body))
        assembly.close()
    assert known == [0, 1, 0]
    (said,) = caplog.messages
    assert "1 memories that other weights made" in said and "rl_policy 1" in said


def test_it_is_said_which_version_answers_and_why(save: Callable[..., Any], tmp_path: Path) -> None:
    folders = [save("logits", seed)[0] for seed in range(2)]

    def said(*versions: int) -> str:
        assembly = assembled(tmp_path / "state")
        for version in versions:
            assembly.load("room", folders[version], version=f"v{version}")
        assembly.restore()
        assembly.close()
        (line,) = assembly.defaults()
        return line

    assert said(0) == "room: version v0 answers by default, the only one"
    again = said(1)
    assert again.startswith("room: version v0 answers by default, as ") and "shelf.json" in again
    assert "not v1, which was named first" in again
    (tmp_path / "state" / "shelf.json").unlink()
    assert said(1, 0) == "room: version v1 answers by default, the first that was named"


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        ShelfConfig(session_save_interval_s=0.0)


class Slow:
    """Takes 20 ms, so it is not asked on the event loop."""

    obs_size, num_actions, memory_size = 1, 2, 0

    def first_memory(self, batch_size: int) -> Floats:
        return np.zeros((batch_size, 0), np.float32)

    def decide(
        self, obs: Floats, *, greedy: bool, mask: Booleans | None, memory: Floats | None, rng: np.random.Generator
    ) -> Decided:
        time.sleep(0.02)
        return Decided((obs[:, 0] > 0).astype(np.int64), np.full((len(obs), 2), 0.5, np.float32), None)


def test_too_many_at_once_are_told_when_to_come_again() -> None:
    assembly = assembled(max_in_flight=4)
    loaded = assembly.shelf.warm("rl_policy", Artifact(Slow(), "v", None, None))
    assembly.shelf.add(loaded)
    assert not loaded.inline_rows
    assert assembly.application.slow == {"rl_policy"}

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(assembly.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            body = {"observation": [1.0], "deadline_ms": 20_000}
            return list(await asyncio.gather(*(client.post(ACT, json=body) for _ in range(9))))

    responses = asyncio.run(run())
    assembly.application.close()
    assert sorted(response.status_code for response in responses) == [200] * 4 + [429] * 5
    for response in responses:
        if response.status_code == 429:
            assert response.headers["retry-after"] == "1"
        else:
            assert response.json()["action"] == 1
