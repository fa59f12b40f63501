from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.deployment.parity import compare, questions
from rlcourse.errors import ConfigError, MissingExtraError
from rlcourse.recipes.command_line import main
from rlcourse.serving.refusals import Refused
from tests.deployment.policies import artifact_of
from tests.serving.asking import arrays_of, requests_of

PROGRAM = """
import json, sys, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
from rlcourse.serving.ray_serve import running

def ask(request):
    body = request.encode() if isinstance(request, str) else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body), timeout=30) as answer:
            return [answer.status, json.load(answer)]
    except urllib.error.HTTPError as error:
        return [error.code, json.load(error)]

source, port, requests = sys.argv[1], int(sys.argv[2]), json.load(open(sys.argv[3]))
with running(source, port=port) as address:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, requests))
json.dump(answers, open(sys.argv[4], "w"))
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_ray_serve_answers_as_the_policy_does(tmp_path: Path) -> None:
    artifact = artifact_of("recurrent", version="5")
    artifact.save(tmp_path / "policy.zip")
    asked = questions(artifact, 200)
    good = requests_of(asked)
    row = good[0]["observation"]
    bad: list[Any] = ["no", {}, {"observation": [1.0]}]
    masked = {"observation": row, "mask": [False, True, False], "greedy": False}
    together = {
        "observation": [row] * 3,
        "mask": None,
        "deterministic": False,
        "deadline_ms": 60_000,
        "request_id": "r",
    }
    (tmp_path / "requests").write_text(json.dumps([*good, *bad, masked, together]))
    port = 30_000 + os.getpid() % 20_000
    words = [str(tmp_path / "policy.zip"), str(port), str(tmp_path / "requests"), str(tmp_path / "answers")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        timeout=420,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads((tmp_path / "answers").read_text())
    said = [answer for status, answer in answers[:200] if status == 200]
    assert len(said) == 200 and {answer["version"] for answer in said} == {"5"}
    # A request answered alone is added up in another order than one in a batch. With an observation a hundred thousand
    # times as far as the data that is seen in the fourth digit; the comparison allows each row what its numbers cost.
    assert compare("Ray Serve", artifact, lambda _: arrays_of(artifact, said), count=200).demand().ordinary < 1e-5
    assert [status for status, _ in answers[200:203]] == [400, 422, 422]
    assert answers[203][1]["action"] == 1
    status, batch = answers[204]
    assert (status, batch["request_id"], len(batch["action"]), len(batch["memory"])) == (200, "r", 3, 3)


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_the_command_serves_with_two_replicas_until_it_is_told_to_stop(tmp_path: Path) -> None:
    artifact_of("tanh", version="5").save(tmp_path / "policy")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "ray", str(tmp_path / "policy"), "--name", "room", "--port", str(port), "--replicas", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "rlcourse.recipes.command_line", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if "ready" in line:
                    break
            address = f"http://127.0.0.1:{port}/predictions/room"
            assert said and address in said[-1], said
            answers = [
                httpx.post(address, json={"observation": [[0.5 * n] * 4] * 2}, timeout=60).json() for n in range(20)
            ]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    assert [len(answer["action"]) for answer in answers] == [2] * 20
    assert {answer["version"] for answer in answers} == {"5"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--replicas", "0"], "0 replicas"),
        (["--port", "70000"], "70000"),
        (["--name", "a/b"], "a/b"),
    ],
)
def test_wrong_words_are_refused_before_ray_is_started(
    more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "ray", "nowhere", *more]) == 2
    assert says in capsys.readouterr().err


def test_a_policy_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "ray", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err


def policy(kind: str, tmp_path: Path) -> NumpyPolicy:
    artifact_of(kind, version="5").save(tmp_path / kind)
    return NumpyPolicy.load(tmp_path / kind)


ROW = "[1, 2, 3, 4]"


@pytest.mark.parametrize("kind", ["recurrent", "tanh"])
def test_a_replica_knows_the_words_of_the_http_service(kind: str, tmp_path: Path) -> None:
    from rlcourse.serving.ray_serve import read

    known = policy(kind, tmp_path)
    bare = read(known, b'{"observation": %b}' % ROW.encode())
    assert (bare.obs.shape, bare.greedy, bare.many) == ((1, 4), True, False)
    words = '"deterministic": false, "mask": null, "version": "5", "request_id": "r", "deadline_ms": 50'
    asked = read(known, f'{{"observation": [{ROW}, {ROW}], {words}}}'.encode())
    assert (asked.obs.shape, asked.greedy, asked.many, asked.request_id) == ((2, 4), False, True, "r")
    assert asked.mask is not None and asked.mask.all() and asked.deadline_s == 0.05
    assert (asked.memory is None) == (kind == "tanh")
    assert not read(known, f'{{"observation": {ROW}, "greedy": false}}'.encode()).greedy


def answered(source: Path, *bodies: object) -> list[dict[str, Any]]:
    """What one replica says to requests that come together; without Ray around it."""
    from rlcourse.serving.ray_serve import PolicyReplica, read

    replica = PolicyReplica(str(source))
    return replica.answers([read(replica.policy, json.dumps(body).encode()) for body in bodies])


@pytest.mark.parametrize("kind", ["recurrent", "tanh", "squashed-gaussian"])
def test_rows_that_are_answered_together_are_answered_as_if_alone(kind: str, tmp_path: Path) -> None:
    known = policy(kind, tmp_path)
    rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    whole = known.act(rows, greedy=True)
    bodies: list[dict[str, Any]] = [{"observation": rows[0].tolist()}, {"observation": rows[1:5].tolist()}]
    bodies += [{"observation": row.tolist(), "deterministic": n % 2 == 0} for n, row in enumerate(rows[5:])]
    said = answered(tmp_path / kind, *bodies)
    assert np.shape(said[1]["action"]) == np.shape(whole.actions[1:5])
    np.testing.assert_allclose(said[1]["action"], whole.actions[1:5], rtol=1e-5, atol=1e-6)
    for n, body in enumerate(bodies):
        if n != 1 and body.get("deterministic", True):
            np.testing.assert_allclose(said[n]["action"], whole.actions[0 if n == 0 else n + 3], rtol=1e-5, atol=1e-6)
    if whole.probabilities is not None:
        drawn = [said[n]["probabilities"] for n in range(2, 9)]
        np.testing.assert_allclose(drawn, whole.probabilities[5:], rtol=1e-5, atol=1e-6)
    if whole.memory is not None:
        np.testing.assert_allclose(said[1]["memory"], whole.memory[1:5], rtol=1e-5, atol=1e-6)
        again = {"observation": rows[:4].tolist(), "memory": said[1]["memory"]}
        (following,) = answered(tmp_path / kind, again)
        wanted = known.act(rows[:4], greedy=True, memory=whole.memory[1:5]).actions
        assert following["action"] == wanted.tolist()


def test_what_is_late_is_said_to_be(tmp_path: Path) -> None:
    from rlcourse.serving.ray_serve import PolicyReplica

    class Hanging(PolicyReplica):
        async def decide(self, asked: Any) -> Any:
            await asyncio.Event().wait()

    class Request:
        async def body(self) -> bytes:
            return b'{"observation": [0, 0, 0, 0], "deadline_ms": 1}'

    policy("tanh", tmp_path)
    replica: Any = Hanging(str(tmp_path / "tanh"))
    response = asyncio.run(replica(Request()))
    assert (response.status_code, json.loads(response.body)["error"]) == (504, "The deadline passed.")


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("recurrent", "no", 400),
        ("recurrent", '{"observation": [1, 2, 3, NaN]}', 400),
        ("recurrent", "{}", 422),
        ("recurrent", '{"observation": [1.0]}', 422),
        ("recurrent", '{"observation": [1, 2, 3, null]}', 422),
        ("recurrent", f'{{"observation": {ROW}, "mask": [false, false, false]}}', 422),
        ("recurrent", f'{{"observation": {ROW}, "x": 1}}', 422),
        ("recurrent", f'{{"observation": [1, 2, 3, {10**400}]}}', 422),
        ("recurrent", f'{{"observation": {ROW}, "memory": [1]}}', 422),
        ("recurrent", f'{{"observation": {ROW}, "session": "s"}}', 422),
        ("recurrent", f'{{"observation": {ROW}, "reset": true}}', 422),
        ("recurrent", f'{{"observation": {ROW}, "version": "6"}}', 404),
        ("recurrent", f'{{"observation": {ROW}, "greedy": true, "deterministic": false}}', 422),
        ("tanh", f'{{"observation": {ROW}, "memory": [1]}}', 422),
        ("squashed-gaussian", f'{{"observation": {ROW}, "mask": [true, true]}}', 422),
        ("tanh", f'{{"observation": [{",".join([ROW] * 4097)}]}}', 422),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_a_replica_cannot_answer_is_refused(kind: str, body: str, status: int, tmp_path: Path) -> None:
    from rlcourse.serving.ray_serve import read

    with pytest.raises(Refused) as caught:
        read(policy(kind, tmp_path), body.encode())
    assert caught.value.status == status


def test_nobody_to_answer_is_refused(tmp_path: Path) -> None:
    from rlcourse.serving.ray_serve import deployment

    artifact_of("tanh").save(tmp_path / "policy")
    with pytest.raises(ConfigError):
        deployment(tmp_path / "policy", replicas=0)


def test_a_replica_may_hold_more_than_one_whole_batch(tmp_path: Path) -> None:
    from rlcourse.serving.ray_serve import BATCH_SIZE, deployment

    artifact_of("tanh").save(tmp_path / "policy")
    bound = deployment(tmp_path / "policy")._bound_deployment
    assert bound.max_ongoing_requests >= 2 * BATCH_SIZE  # one is computed while the next gathers
    assert bound.logging_config["enable_access_log"] is False


def test_without_ray_the_mend_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rlcourse.serving.ray_serve", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"rlcourse\[serve,ray\]"):
        import rlcourse.serving.ray_serve  # noqa: F401
