"""Real servers, asked over real sockets."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from rlcourse.randomness import Seeds
from rlcourse.serving.client import ClientConfig, PolicyClient
from rlcourse.serving.decision_log import read_lines
from rlcourse.serving.decisions import read_episodes
from rlcourse.serving.refusals import Refused
from rlcourse.serving.wire import DecisionLine
from tests.deployment.policies import CONTINUOUS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("one_at_a_time")]
OBS = torch.randn(60, 4, generator=Seeds(0).torch("obs"))
PATIENT = ClientConfig(deadline_s=10.0)


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=15)


def test_answers_are_those_of_the_policy_and_become_episodes(
    save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    folder, policy = save()
    server = serve(folder, "--state", tmp_path / "state")
    wanted, chances = policy.act(OBS, greedy=True), policy.probabilities(OBS)
    with PolicyClient(server.url, config=PATIENT) as client:
        assert client.act_batch(OBS.tolist()).action == wanted.tolist()
        for step, row in enumerate(OBS.tolist()):
            answer = client.act(row, session="s", deterministic=False)
            assert answer.fallback is None
            assert answer.probability == pytest.approx(float(chances[step, answer.action]), abs=1e-5)
            last = step == len(OBS) - 1
            client.reward(answer.request_id, float(step), terminated=last)
    torchserve = httpx.post(f"{server.url}/predictions/rl_policy", json={"observation": OBS[0].tolist()}).json()
    assert torchserve["action"] == int(wanted[0])
    assert server.terminate() == 0
    joined = read_episodes(tmp_path / "state" / "decisions")
    assert joined.episodes.lengths.tolist() == [60]
    assert joined.episodes.observations[:-1] == pytest.approx(OBS.numpy(), abs=0)
    assert joined.episodes.rewards.tolist() == [float(n) for n in range(60)]


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_continuous_answers_are_those_of_the_policy_and_become_episodes(
    kind: str, save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    folder, policy = save(kind)
    server = serve(folder, "--state", tmp_path / "state", "--fallback", "0.5,1")
    rows = torch.cat([OBS, torch.zeros(1, 4), torch.full((1, 4), 1e6)])
    taken = []
    with PolicyClient(server.url, config=PATIENT) as client:
        together = client.act_batch(rows.tolist())
        np.testing.assert_allclose(together.action, policy.act(rows, greedy=True).numpy(), rtol=1e-5, atol=1e-5)
        assert together.probability == [None] * len(rows)
        for step, row in enumerate(OBS.tolist()):
            answer = client.act(row, session="s", deterministic=False)
            assert (answer.fallback, answer.confidence) == (None, None)
            assert (answer.probability is None) == (kind == "deterministic")
            taken.append(answer.action)
            client.reward(answer.request_id, float(step), terminated=step == len(OBS) - 1)
        unusable = client.act([None, 0.0, 0.0, 0.0])
        assert (unusable.action, unusable.probability, unusable.fallback) == ([0.5, 1.0], None, "non_finite")
        with pytest.raises(Refused, match="masked"):
            client.act(OBS[0].tolist(), mask=[True, True])
    assert server.terminate() == 0
    joined = read_episodes(tmp_path / "state" / "decisions", as_taken=True)
    assert joined.episodes.lengths.tolist() == [60]
    np.testing.assert_array_equal(joined.episodes.actions, np.array(taken, np.float32))
    drawn = read_episodes(tmp_path / "state" / "decisions").episodes
    if kind == "deterministic":
        assert np.isnan(drawn.behaviour_probabilities).all()
    else:
        named = policy.log_density(OBS, torch.from_numpy(drawn.actions)).exp().numpy()
        assert drawn.behaviour_probabilities == pytest.approx(named, rel=0.02)


def test_a_recurrent_session_goes_on_after_a_restart(
    save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    folder, policy = save("recurrent")
    memory = policy.first_memory(1)
    for part in (OBS[:20], OBS[20:40]):
        server = serve(folder, "--state", tmp_path / "state")
        with PolicyClient(server.url, config=PATIENT) as client:
            for row in part:
                _, memory = policy.act_remembering(row[None], memory, greedy=True)
                chances = policy.network.actor(memory).softmax(-1)[0].detach()
                answer = client.act(row.tolist(), session="a")
                assert answer.confidence == pytest.approx(float(chances[answer.action]), abs=1e-4)
        assert server.terminate() == 0


def asked_by_schemathesis(url: str, mode: GenerationMode, tell: Callable[[Any, httpx.Response], None]) -> None:
    """Forty requests of every operation there is, inside its schema or outside of it."""
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]
        # Of a policy that nobody knows no body would be looked at.
        known = {"name": "rl_policy"} if operation.body and "{name}" in operation.path and mode.is_negative else None

        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode, path_parameters=known))
        def ask(case: Any) -> None:
            tell(case, case.call())

        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong about a request without parameters and body
            ask()


def test_schemathesis_finds_no_server_error(
    save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve(save()[0], f"box={save('squashed-gaussian')[0]}", "--state", tmp_path / "state")
    tried: set[tuple[str, int]] = set()

    def tell(case: Any, response: httpx.Response) -> None:
        tried.add((case.operation.path, response.status_code))
        assert response.status_code < 500, response.text

    for url in (server.url, server.management):
        asked_by_schemathesis(url, GenerationMode.POSITIVE, tell)
    assert ("/v1/rewards", 202) in tried
    assert ("/v1/policies/{name}/default", 404) in tried or ("/v1/policies/{name}/default", 422) in tried
    assert server.act({"observation": [0.0] * 4}).status_code == 200


def test_schemathesis_finds_nothing_outside_the_schema_that_is_taken(
    save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve(save()[0], f"box={save('squashed-gaussian')[0]}", "--state", tmp_path / "state")
    tried: dict[tuple[str, str], set[int]] = {}

    def tell(case: Any, response: httpx.Response) -> None:
        tried.setdefault((case.method.upper(), case.operation.path), set()).add(response.status_code)
        assert 400 <= response.status_code < 500, (case.method, case.path, case.body, response.text)

    for url in (server.url, server.management):
        asked_by_schemathesis(url, GenerationMode.NEGATIVE, tell)
    # What has a body is told what is wrong with it.
    for operation in (
        ("POST", "/v1/policies/{name}/action"),
        ("POST", "/predictions/{name}"),
        ("POST", "/v1/rewards"),
        ("POST", "/v1/policies/{name}/versions"),
        ("PUT", "/v1/policies/{name}/default"),
        ("PUT", "/v1/policies/{name}/trial"),
        ("PUT", "/v1/policies/{name}/shadow"),
        ("PUT", "/v1/policies/{name}/routing"),
    ):
        # 404 where the policy's name is what was made up.
        assert tried[operation] & {400, 422} and tried[operation] <= {400, 404, 422}, operation
    assert server.act({"observation": [0.0] * 4}).status_code == 200
    assert len(list(read_lines(tmp_path / "state" / "decisions"))) == 1, "nothing of it was decided or rewarded"


def test_hostile_requests_get_their_status_and_the_service_lives(
    save: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    server = serve(save("recurrent")[0], "--read-timeout-s", "1", "--max-sessions", "500")
    path = f"{server.url}/v1/policies/rl_policy/action"
    before = server.peak_mb()
    for content, status in (
        (b"{", 400),
        (b'{"observation": [1]}', 422),
        (b'{"observation": [NaN, 0, 0, 0]}', 400),
        (b"[" * 500_000, 422),
    ):
        assert httpx.post(path, content=content).status_code == status
    assert httpx.post(f"{server.url}/v1/policies/other/action", json={"observation": [0] * 4}).status_code == 404
    assert httpx.post(path, json={"observation": [None, 0, 0, 0]}).json()["fallback"] == "non_finite"
    assert httpx.get(path).status_code == 405
    # 100 MB, all of it sent before the answer is read
    assert httpx.post(path, content=b" " * 100_000_000, timeout=30).status_code == 413
    # the same without saying so beforehand
    assert httpx.post(path, content=(b" " * 100_000 for _ in range(100)), timeout=30).status_code == 413
    with httpx.Client() as client:
        for n in range(10_000):
            response = client.post(path, json={"observation": [0.0] * 4, "session": f"unknown-{n}"})
            assert response.status_code == 200
    assert re.search(r"rl_sessions\{.*\} 500\.0", httpx.get(f"{server.url}/metrics").text)
    assert server.peak_mb() - before < 60, "memory grew"
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert server.terminate() == 0


def until(connection: socket.socket, end: bytes) -> bytes:
    said = b""
    while not said.endswith(end):
        part = connection.recv(10_000)
        assert part, said
        said += part
    return said


def test_slow_and_idle_connections_keep_nobody_out(save: Callable[..., Any], serve: Callable[..., Any]) -> None:
    server = serve(save()[0], "--read-timeout-s", "3", files=128)
    head = b"POST /v1/policies/rl_policy/action HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n"
    body = {"observation": [0.0] * 4}
    with contextlib.ExitStack() as held:
        sockets = []
        for n in range(400):
            sockets.append(held.enter_context(connected(server.url)))
            if n % 2:  # a request that never ends; of the others none begins
                with contextlib.suppress(ConnectionError):
                    sockets[-1].sendall(head)
            if n % 20 == 19:
                # Somebody who asks meanwhile gets in, whatever holds the other connections.
                assert server.act(body).status_code == 200
                assert httpx.get(f"{server.management}/v1/policies").status_code == 200
        said = sockets[0].recv(1000)
        assert said == b"" or said.startswith(b"HTTP/1.1 408"), "the one that was waited for longest made room"
        # One byte after another does not keep a connection, either.
        slow = sockets[-1]
        slow.settimeout(0.2)
        said = b""
        for _ in range(100):
            try:
                slow.sendall(b" ")
                said = slow.recv(1000)
                break
            except TimeoutError:
                continue
        assert said.startswith(b"HTTP/1.1 408")
    assert server.act(body).status_code == 200
    assert server.terminate() == 0


def test_connections_that_are_idle_between_requests_make_room_first_come_first_gone(
    save: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    server = serve(save()[0], "--max-connections", "3")
    body = b'{"observation": [0, 0, 0, 0]}'
    ask = b"POST /predictions/rl_policy HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    other = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with contextlib.ExitStack() as held:
        kept = []
        for n in range(5):
            kept.append(held.enter_context(connected(server.url)))
            kept[-1].sendall(other if n % 2 else ask)
            until(kept[-1], b"}")
        assert [one.recv(10) for one in kept[:2]] == [b"", b""]
        for one in kept[2:]:
            one.sendall(ask)
            assert b'"action"' in until(one, b"}")


def test_requests_that_overtake_each_other_are_answered_in_their_order(
    save: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    server = serve(save()[0])

    def request(n: int, version: bytes = b"1.1", more: bytes = b"") -> bytes:
        body = b'{"observation": [0, 0, 0, 0], "request_id": "n%d"}' % n
        head = b"POST /predictions/rl_policy HTTP/%b\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n" % (
            version,
            more,
            len(body),
        )
        return head + body

    other = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    chunked = b"POST /predictions/rl_policy HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b'{"observation": [0, 0, 0, 0], "request_id": "n4"}'
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    everything = request(0) + request(1) + other + request(2) + other + request(3) + chunked
    everything += request(5, more=b"expect: 100-continue\r\n") + request(6, more=b"connection: close\r\n")
    for step in (len(everything), 7):  # all at once, and in morsels
        with connected(server.url) as asking:
            for at in range(0, len(everything), step):
                asking.sendall(everything[at : at + step])
            said = b""
            while part := asking.recv(65536):
                said += part
        seen = re.findall(rb'"request_id":"(n\d)"|"status":"(alive)"', said)
        assert [a or b for a, b in seen] == [b"n0", b"n1", b"alive", b"n2", b"alive", b"n3", b"n4", b"n5", b"n6"]
        assert said.count(b"HTTP/1.1 200 OK") == 9
    with connected(server.url) as old:
        old.sendall(request(7, b"1.0"))
        said = b""
        while part := old.recv(65536):
            said += part
        assert b'"n7"' in said
    with connected(server.url) as nonsense:
        nonsense.sendall(b"\x00\x01 nothing\r\n\r\n")
        assert nonsense.recv(1000).startswith(b"HTTP/1.1 400")
    assert server.terminate() == 0


def test_api_keys(save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    server = serve(save()[0], "--api-keys", keys)
    body = {"observation": [0.0] * 4}
    for headers, status in (
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer firs"}, 401),
        ({"authorization": "Bearer second"}, 200),
        ({"x-api-key": "first"}, 200),
    ):
        assert server.act(body, headers=headers).status_code == status
        assert httpx.get(f"{server.url}/v1/policies", headers=headers).status_code == status
    assert httpx.get(f"{server.url}/readyz").status_code == 200


class Load:
    """Threads that ask without pause until told to stop."""

    def __init__(self, url: str, threads: int = 3) -> None:
        self.answers: list[tuple[float, float, httpx.Response | Exception]] = []
        self.stop = threading.Event()
        self.url = url
        self.threads = [threading.Thread(target=self.run) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self) -> None:
        with httpx.Client() as client:
            while not self.stop.is_set():
                began = time.monotonic()
                try:
                    found: httpx.Response | Exception = client.post(
                        f"{self.url}/v1/policies/rl_policy/action", json={"observation": [0.5] * 4}
                    )
                except httpx.TransportError as error:
                    found = error
                    self.stop.set()
                self.answers.append((began, time.monotonic(), found))

    def done(self) -> list[tuple[float, float, httpx.Response | Exception]]:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        return self.answers


def test_switching_and_rolling_back_under_load_drops_nothing(
    save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    folders = [save("logits", seed)[0] for seed in (0, 1)]
    wanted = {f"v{seed}": int(save("logits", seed)[1].act(torch.full((1, 4), 0.5), greedy=True)) for seed in (0, 1)}
    server = serve(f"rl_policy@v0={folders[0]}", "--state", tmp_path / "state")
    manage = f"{server.management}/v1/policies/rl_policy"
    load = Load(server.url)
    time.sleep(0.3)
    switches: list[tuple[float, float, str]] = [(0.0, time.monotonic(), "v0")]
    for turn in range(20):
        began = time.monotonic()
        if turn == 0:
            said = httpx.post(
                f"{manage}/versions", json={"path": str(folders[1]), "version": "v1", "default": True}, timeout=20
            )
        elif turn % 2:
            said = httpx.post(f"{manage}/rollback")
        else:
            said = httpx.put(f"{manage}/default", json={"version": "v1"})
        assert said.is_success, said.text
        switches.append((began, time.monotonic(), said.json()["default"]))
        time.sleep(0.05)
    answers = load.done()
    assert len(answers) > 100
    seen = set()
    for began, ended, answer in answers:
        assert isinstance(answer, httpx.Response), answer
        assert answer.status_code == 200
        body = answer.json()
        assert body["action"] == wanted[body["version"]]
        assert body["fallback"] is None
        # Right: a version that was the default at some moment between the question and its answer.
        allowed = {
            version
            for (start, _, version), (_, end, _) in zip(switches, [*switches[1:], (0.0, float("inf"), "")], strict=True)
            if start <= ended and end >= began
        }
        assert body["version"] in allowed
        seen.add(body["version"])
    assert seen == {"v0", "v1"}
    # The choice outlives the process.
    httpx.put(f"{manage}/default", json={"version": "v1"})
    server.kill()
    again = serve(f"rl_policy@v0={folders[0]}", "--state", tmp_path / "state")
    assert again.act({"observation": [0.5] * 4}).json()["version"] == "v1"


class Conversation(Load):
    """A load of sessions that tell what came of every answer."""

    def __init__(self, url: str, threads: int = 3) -> None:
        self.rewarded: list[str] = []
        super().__init__(url, threads)

    def run(self) -> None:
        session = f"s{time.monotonic_ns()}-{threading.get_ident()}"
        with httpx.Client(timeout=20) as client:
            while not self.stop.is_set():
                began = time.monotonic()
                # A dozen requests in each session, so that both versions are asked.
                body = {"observation": [0.5] * 4, "session": f"{session}-{len(self.answers) // 12}"}
                try:
                    answer = client.post(f"{self.url}/v1/policies/rl_policy/action", json=body)
                    self.answers.append((began, time.monotonic(), answer))
                    name = answer.json()["request_id"]
                    if client.post(f"{self.url}/v1/rewards", json={"request_id": name, "reward": 1.0}).is_success:
                        self.rewarded.append(name)
                except httpx.TransportError:
                    self.stop.set()


def test_a_kill_loses_no_answered_decision_and_no_accepted_reward_of_either_version(
    save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    words = [*(f"rl_policy@v{seed}={save('logits', seed)[0]}" for seed in (1, 2)), "--state", state]
    words += ["--log.flush-interval-s", "1000"]  # what is written by then, no thread has written
    answered: dict[str, str] = {}
    rewarded: list[str] = []

    def under_load(server: Any, end: Callable[[], object]) -> None:
        load, until = Conversation(server.url), time.monotonic() + 60
        while len(load.answers) < 60 and time.monotonic() < until:
            time.sleep(0.01)
        end()
        assert len(load.answers) >= 60, "after every restart it answers"
        for _, _, answer in load.done():
            assert isinstance(answer, httpx.Response) and answer.status_code == 200
            answered[answer.json()["request_id"]] = answer.json()["version"]
        rewarded.extend(load.rewarded)

    for restart in range(3):
        server = serve(*words)
        if not restart:
            trial = {"version": "v2", "share": 0.5}
            assert httpx.put(f"{server.management}/v1/policies/rl_policy/trial", json=trial).is_success
        under_load(server, server.kill)
    last = serve(*words)
    under_load(last, lambda: None)
    assert last.terminate() == 0
    lines = list(read_lines(state / "decisions"))
    decided = [line for line in lines if isinstance(line, DecisionLine)]
    told = {line.request_id for line in lines if not isinstance(line, DecisionLine)}
    assert len(decided) == len({line.request_id for line in decided})
    logged = {line.request_id: line.version for line in decided}
    assert set(logged.values()) == {"v1", "v2"}
    assert {name: logged.get(name) for name in answered} == answered, "not one is missing"
    assert not set(rewarded) - told
    # What is there besides was decided and on its way when the process was killed: one request of each thread.
    assert len(set(logged) - set(answered)) <= 3 * 3


def test_sigterm_answers_what_has_begun(save: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(save()[0], "--state", tmp_path / "state", "--drain-s", "1")
    body = json.dumps({"observation": [0.5] * 4}).encode()
    with connected(server.url) as half:
        head = f"POST /v1/policies/rl_policy/action HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        half.sendall(head.encode() + body[:10])
        time.sleep(0.1)
        server.process.terminate()
        time.sleep(0.3)
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        late = server.act({"observation": [0.5] * 4})
        assert late.status_code == 200
        assert late.headers["connection"] == "close"
        time.sleep(1.0)  # past the drain: no new connection is taken, this one is waited for
        half.sendall(body[10:])
        said = half.recv(10_000)
        assert said.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in said
    assert server.process.wait(20) == 0
    assert len(list(read_lines(tmp_path / "state" / "decisions"))) == 2
