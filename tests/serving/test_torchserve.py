from __future__ import annotations

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.exports import export
from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.deployment.onnx_file import OnnxPolicy
from rlcourse.deployment.parity import Answerer, Arrays, compare, numpy_answerer, questions, reference
from rlcourse.deployment.portable import outputs_of
from rlcourse.errors import ArtifactError, ConfigError, MissingExtraError, ServerError
from rlcourse.recipes.command_line import main
from rlcourse.serving.torchserve import (
    Management,
    Model,
    TorchServe,
    TorchServeConfig,
    archive,
    find_java,
    metrics,
    predict,
    properties,
    read_archive,
)
from rlcourse.serving.torchserve_handler import PolicyHandler
from rlcourse.serving.torchserve_ports import demand_free
from rlcourse.serving.torchserve_state import forget_old, in_order, remembered, snapshots
from tests.deployment.policies import KINDS, artifact_of
from tests.serving.asking import arrays_of, requests_of


class Context:
    """What TorchServe hands to a handler."""

    def __init__(self, folder: Path) -> None:
        self.system_properties = {"model_dir": str(folder)}
        self.manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
        self.status: dict[int, int] = {}
        self.kinds: dict[int, str] = {}

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        self.status[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.kinds[idx] = value


def unpacked(tmp_path: Path, artifact: PolicyArtifact) -> Path:
    file = archive(artifact, tmp_path / "store" / "one.mar", name="rl_policy", version="1")
    with zipfile.ZipFile(file) as packed:
        packed.extractall(tmp_path / "worker")
    return tmp_path / "worker"


def handler_of(tmp_path: Path, artifact: PolicyArtifact) -> tuple[PolicyHandler, Context]:
    context = Context(unpacked(tmp_path, artifact))
    handler = PolicyHandler()
    handler.initialize(context)
    return handler, context


@pytest.mark.parametrize("kind", KINDS)
def test_the_handler_answers_as_the_policy_does(kind: str, tmp_path: Path) -> None:
    artifact = artifact_of(kind)
    handler, context = handler_of(tmp_path, artifact)

    def answer(asked: Arrays) -> Arrays:
        data = [{"body": request} for request in requests_of(asked)]
        said = arrays_of(artifact, [json.loads(text) for text in handler.handle(data, context)])
        # Means and spreads are not told; what they lead to is.
        hidden = {name: reference(artifact, asked).answers[name] for name in outputs_of(artifact.description)}
        return {**hidden, **said}

    assert compare("TorchServe's handler", artifact, answer, count=2000).holds
    assert not context.status and set(context.kinds.values()) == {"application/json"}


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (b"not json", "Expecting value"),
        ([1, 2], "JSON object"),
        ({}, "observation"),
        ({"observation": [1, 2, 3]}, "4 numbers"),
        ({"observation": [1, 2, 3, "4"]}, "4 numbers"),
        ({"observation": [1, 2, 3, True]}, "4 numbers"),
        ({"observation": 3}, "4 numbers"),
        ({"observation": []}, "4 numbers"),
        ({"observation": [[1, 2, 3, 4], [1]]}, "4 numbers"),
        (b'{"observation": [1, 2, 3, NaN]}', "no finite number"),
        ({"observation": [1, 2, 3, 1e39]}, "number"),
        ({"observation": [1, 2, 3, 10**400]}, "too large"),
        ({"observation": [1, 2, 3, 4], "mask": [False, False, False]}, "at least one"),
        ({"observation": [1, 2, 3, 4], "mask": [1, 1, 1]}, "3 booleans"),
        ({"observation": [1, 2, 3, 4], "memory": [0.0]}, "'memory' means nothing"),
        ({"observation": [1, 2, 3, 4], "greedy": 1}, "true or false"),
        ({"observation": [1, 2, 3, 4], "deterministic": [1]}, "true or false"),
        ({"observation": [1, 2, 3, 4], "deterministic": True, "greedy": False}, "which means the same"),
    ],
    ids=str,
)
def test_a_senseless_request_is_refused_and_its_neighbours_are_answered(
    request_: Any, says: str, tmp_path: Path
) -> None:
    handler, context = handler_of(tmp_path, artifact_of("tanh"))
    fine = {"body": {"observation": [1.0, 0.0, -1.0, 0.5]}}
    answers = [json.loads(text) for text in handler.handle([fine, {"body": request_}, fine], context)]
    assert context.status == {1: 400}
    assert says in answers[1]["error"]
    assert answers[0] == answers[2] and answers[0]["action"] in (0, 1, 2)


def test_many_rows_in_one_request_and_sampling(tmp_path: Path) -> None:
    artifact = artifact_of("tanh")
    handler, context = handler_of(tmp_path, artifact)
    rows = [[1.0, 0.0, -1.0, 0.5]] * 20_000
    torch.manual_seed(0)
    asked = {"observation": rows, "mask": [[True, True, False]] * 20_000}
    data = [{"body": json.dumps({**asked, word: False})} for word in ("greedy", "deterministic")]
    for text in handler.handle(data, context):
        answer = json.loads(text)
        assert len(answer["action"]) == len(answer["probabilities"]) == 20_000 and answer["version"] == "1"
        assert np.mean(np.array(answer["action"]) == 1) == pytest.approx(answer["probabilities"][0][1], abs=0.018)
        assert 2 not in answer["action"]


@pytest.mark.parametrize("kind", ["free-gaussian", "squashed-gaussian", "deterministic"])
def test_continuous_actions_are_sampled_as_numpy_samples_them(kind: str, tmp_path: Path) -> None:
    artifact = artifact_of(kind)
    handler, context = handler_of(tmp_path, artifact)
    obs = np.tile(np.array([1.0, 0.0, -1.0, 0.5], np.float32), (20_000, 1))
    torch.manual_seed(0)
    (text,) = handler.handle([{"body": {"observation": obs.tolist(), "greedy": False}}], context)
    artifact.save(tmp_path / "policy.zip")
    ours = NumpyPolicy.load(tmp_path / "policy.zip").act(obs, greedy=False, generator=np.random.default_rng(0)).actions
    about = artifact.description
    if about.low:
        ours = ours.clip(np.array(about.low), np.array(about.high))
    theirs = np.array(json.loads(text)["action"])
    if about.low:
        assert (theirs >= about.low).all() and (theirs <= about.high).all()
    np.testing.assert_allclose(theirs.mean(0), ours.mean(0), atol=0.08)
    np.testing.assert_allclose(theirs.std(0), ours.std(0), atol=0.08)


def test_a_worker_refuses_another_policy(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, artifact_of("tanh"))
    export(artifact_of("tanh", seed=1), "torchscript", folder / "policy.pt", count=64)
    with pytest.raises(ValueError, match="was archived"):
        PolicyHandler().initialize(Context(folder))


def test_the_handler_needs_nothing_of_this_package(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, artifact_of("tanh"))
    program = "import sys, torchserve_handler; print([name for name in sys.modules if name.startswith('rlcourse')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0)


def test_a_server_is_started_without_torch() -> None:
    program = "import sys, rlcourse.recipes.serve_torchserve; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("False", 0)


def test_what_an_archive_says_of_itself(tmp_path: Path) -> None:
    file = archive(artifact_of("tanh"), tmp_path / "any.mar", name="cart-pole", version="2026.1")
    assert read_archive(file) == Model("cart-pole", "2026.1")
    assert [path.name for path in tmp_path.iterdir()] == ["any.mar"]
    (tmp_path / "any.mar").write_bytes(b"no")
    for path in (file, tmp_path / "none.mar"):
        with pytest.raises(ArtifactError, match="no archive"):
            read_archive(path)
    with pytest.raises(ConfigError, match="no name"):
        archive(artifact_of("tanh"), tmp_path / "any.mar", name="../up", version="1")


def test_the_settings_listen_on_this_machine_alone(tmp_path: Path) -> None:
    files = [
        archive(artifact_of("tanh"), tmp_path / f"{version}.mar", name="rl_policy", version=version)
        for version in ("1", "2")
    ]
    lines = dict(
        line.split("=", 1) for line in properties(TorchServeConfig(port=9000), files, tmp_path).splitlines() if line
    )
    addresses = {name: value for name, value in lines.items() if "address" in name}
    assert addresses == {
        "inference_address": "http://127.0.0.1:9000",
        "management_address": "http://127.0.0.1:9001",
        "metrics_address": "http://127.0.0.1:9002",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
    }
    models = json.loads(lines["models"])["rl_policy"]
    assert [models[version]["defaultVersion"] for version in ("1", "2")] == [True, False]
    assert (models["1"]["batchSize"], models["1"]["maxBatchDelay"]) == (16, 1)
    assert lines["disable_system_metrics"] == "true"


def test_what_cannot_be_served_is_refused_before_it_starts(tmp_path: Path) -> None:
    file = archive(artifact_of("tanh"), tmp_path / "a.mar", name="rl_policy", version="1")
    for archives in ([], [file, file]):
        with pytest.raises(ConfigError):
            TorchServe(archives)
    bounds: list[dict[str, Any]] = [{"port": 0}, {"port": 65532}, {"workers": 0}, {"max_batch_delay_ms": 0}]
    for wrong in bounds:
        with pytest.raises(ConfigError):
            TorchServeConfig(**wrong)
    with pytest.raises(ServerError, match="Nobody answers"):
        Management(_free_port()).versions("rl_policy")


SNAPSHOT = r"""#Saving snapshot
#Fri Nov 27 10:00:00 UTC 2026
management_address=http\://127.0.0.1\:9001
model_snapshot={\n  "name"\: "NAME",\n  "models"\: {\n    "room"\: {\n      "1"\: {\n        "defaultVersion"\: false,\n \
       "marName"\: "room-1.mar"\n      },\n      "2"\: {\n        "defaultVersion"\: true\n      }\n    }\n  }\n}
version=0.12.0
""".replace("\\\n", "")
"""As TorchServe 0.12 writes it, but for what is left out."""


def test_the_newest_snapshot_that_is_whole_is_believed(tmp_path: Path) -> None:
    assert remembered(tmp_path) == {}
    config = tmp_path / "config"
    config.mkdir()
    (config / "20261127100000000-startup.cfg").write_text(SNAPSHOT.replace("true", "false").replace("false", "true", 1))
    assert remembered(tmp_path) == {"room": {"1": True, "2": False}}
    (config / "20261127100000001-snapshot.cfg").write_text(SNAPSHOT)
    assert remembered(tmp_path) == {"room": {"1": False, "2": True}}
    for number, cut in enumerate((0, 100, 200)):  # killed while it was writing
        (config / f"2026112710000001{number}-shutdown.cfg").write_text(SNAPSHOT[:cut])
    assert remembered(tmp_path) == {"room": {"1": False, "2": True}}
    forget_old(tmp_path, keep=2)
    assert [file.name for file in snapshots(tmp_path)] == [f"2026112710000001{n}-shutdown.cfg" for n in (1, 2)]
    with pytest.raises(ArtifactError, match="Move that folder away"):
        remembered(tmp_path)


def test_the_remembered_default_comes_first_or_is_missed_aloud(tmp_path: Path) -> None:
    one, two, three = (Model("room", version) for version in "123")
    assert Model("room-1", "2").file != Model("room", "1-2").file
    before = {"room": {"1": False, "2": True}}
    assert in_order([one, three], {}, tmp_path) == [one, three]
    assert in_order([one, two], before, tmp_path) == [two, one]
    (tmp_path / two.file).touch()
    assert in_order([three], before, tmp_path) == [two, three]  # version 1 was no default, and is gone
    (tmp_path / one.file).touch()
    assert in_order([three], before, tmp_path) == [two, three, one]
    (tmp_path / two.file).unlink()
    with pytest.raises(ArtifactError, match=r"room@2\.mar is gone.*Name its archive"):
        in_order([one], before, tmp_path)


def test_without_java_the_mend_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MissingExtraError, match="openjdk-17-jre-headless"):
        find_java()
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(MissingExtraError, match="needs Java 17"):
        find_java()


def test_without_its_packages_the_mend_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"torch-model-archiver is not.*rlcourse\[torchserve\]"):
        archive(artifact_of("tanh"), tmp_path / "a.mar", name="rl_policy", version="1")


@pytest.mark.parametrize("offset", range(5))
@pytest.mark.parametrize("listens", [True, False])
def test_each_of_the_five_ports_that_is_taken_is_named_at_once(
    offset: int, listens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starts(*_: object) -> None:
        raise AssertionError("It was started all the same.")

    monkeypatch.setattr("rlcourse.serving.torchserve.find_java", lambda: tmp_path / "bin" / "java")
    monkeypatch.setattr(TorchServe, "_start", starts)
    file = archive(artifact_of("tanh"), tmp_path / "a.mar", name="rl_policy", version="1")
    port = _free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + offset))
        if listens:  # otherwise it is as the port of a connection that goes out, which answers nobody
            other.listen()
        with pytest.raises(ServerError) as refused:
            TorchServe([file], TorchServeConfig(port=port)).__enter__()
    said = (
        f"the ports {port} to {port + 4} of 127.0.0.1, and port {port + offset} cannot be had: Address already in use."
    )
    assert refused.value.problem.endswith(said)
    assert "--port" in refused.value.mend
    demand_free(port)


def test_connections_that_have_ended_and_linger_take_no_port(tmp_path: Path) -> None:
    port = _free_port()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()  # who closes first is the one whose port lingers
            assert client.recv(1) == b""
    with socket.socket() as probe, pytest.raises(OSError, match="in use"):
        probe.bind(("127.0.0.1", port))
    demand_free(port)


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (
            "Caused by: io.netty: bind(..) failed: Address already in use",
            "taken while it started: Address already in use",
        ),
        ("java.lang.OutOfMemoryError", "ended with status 0: java.lang.OutOfMemoryError"),
    ],
)
def test_why_a_server_ended_is_said_in_one_line(log: str, says: str, tmp_path: Path) -> None:
    file, port = archive(artifact_of("tanh"), tmp_path / "a.mar", name="rl_policy", version="1"), _free_port()
    server = TorchServe([file], TorchServeConfig(port=port))
    (tmp_path / "log").write_text(log)
    server._folder, server._process = tmp_path, subprocess.Popen([sys.executable, "-c", ""])
    server._process.wait(60)
    with pytest.raises(ServerError) as refused:
        server._wait()
    assert says in refused.value.problem
    assert "\n" not in str(refused.value)
    assert (f"{port} to {port + 4}" in refused.value.problem) == ("in use" in log)


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_torchserve_answers_as_http_onnx_numpy_and_the_policy_do(tmp_path: Path, serve: Callable[..., Any]) -> None:
    artifact, other = artifact_of("tanh"), artifact_of("tanh", seed=1)
    first = archive(artifact, tmp_path / "1.mar", name="rl_policy", version="1")
    second = archive(other, tmp_path / "2.mar", name="rl_policy", version="2")
    export(artifact, "onnx", tmp_path / "policy.onnx")
    export(artifact, "numpy", tmp_path / "policy.zip")
    artifact.save(tmp_path / "policy")
    ours = serve(tmp_path / "policy", "--deadline-s", "30")
    asked = questions(artifact, 400, seed=5)
    port = _free_port()

    def told(asked: Arrays, answers: list[dict[str, Any]]) -> Arrays:
        """Our service tells the probability of its action alone; the others' are put beside it."""
        action = np.array([answer["action"] for answer in answers])
        probabilities = reference(artifact, asked).answers["probabilities"].copy()
        probabilities[np.arange(len(action)), action] = [answer["confidence"] for answer in answers]
        assert {answer["fallback"] for answer in answers} == {None}
        return {"action": action, "probabilities": probabilities}

    def over_http(asked: Arrays) -> Arrays:
        with httpx.Client(timeout=60) as client:
            found = [client.post(f"{ours.url}/predictions/rl_policy", json=body) for body in requests_of(asked)]
        return told(asked, [answer.raise_for_status().json() for answer in found])

    def over_http_at_once(asked: Arrays) -> Arrays:
        whole = {name: value.tolist() for name, value in asked.items()}
        said = httpx.post(f"{ours.url}/predictions/rl_policy", json=whole, timeout=60).raise_for_status().json()
        columns = [said["action"], said["confidence"]]
        rows = [{"action": a, "confidence": c, "fallback": said["fallback"]} for a, c in zip(*columns, strict=True)]
        return told(asked, rows)

    with TorchServe([first], TorchServeConfig(port=port)) as server:
        folder = server._folder
        assert folder is not None

        def single(request: dict[str, Any], version: str | None = None) -> dict[str, Any]:
            status, answer = predict(port, "rl_policy", request, version)
            assert status == 200, answer
            return dict(answer)

        def one_by_one(asked: Arrays) -> Arrays:  # many at once, so that the server makes batches of them
            with ThreadPoolExecutor(16) as pool:
                return arrays_of(artifact, list(pool.map(single, requests_of(asked))))

        def all_at_once(asked: Arrays) -> Arrays:
            answer = single({name: value.tolist() for name, value in asked.items()})
            return {
                "action": np.array(answer["action"]),
                "probabilities": np.array(answer["probabilities"], np.float32),
            }

        forms: dict[str, Answerer] = {
            "TorchServe": one_by_one,
            "TorchServe in one request": all_at_once,
            "HTTP": over_http,
            "HTTP in one request": over_http_at_once,
            "onnx": OnnxPolicy(tmp_path / "policy.onnx"),
            "numpy": numpy_answerer(NumpyPolicy.load(tmp_path / "policy.zip")),
        }
        for form, answerer in forms.items():
            assert compare(form, artifact, answerer, count=400, seed=5).holds
        for questioned in (asked, edges()):
            truth = reference(artifact, questioned).answers
            assert np.isfinite(truth["probabilities"]).all()
            for form, answerer in forms.items():
                said = answerer(questioned)
                np.testing.assert_array_equal(said["action"], truth["action"], form)
                np.testing.assert_allclose(said["probabilities"], truth["probabilities"], atol=1e-5, err_msg=form)
        for unusable in ([1.0, None, 0.0, 0.0], [1e39, 0.0, 0.0, 0.0]):
            # What is no observation the one refuses and the other answers with its fallback: a deliberate difference.
            assert predict(port, "rl_policy", {"observation": unusable})[0] == 400
            answer = httpx.post(f"{ours.url}/predictions/rl_policy", json={"observation": unusable})
            assert (answer.status_code, answer.json()["fallback"]) == (200, "non_finite")

        status, answer = predict(port, "rl_policy", {"observation": [1]})
        assert status == 400 and "4 numbers" in answer["error"]

        request = {"observation": [1.0, 0.0, -1.0, 0.5]}
        one, two = (
            reference(a, {"observation": np.array([[1, 0, -1, 0.5]], np.float32), "mask": np.ones((1, 3), np.bool_)})
            for a in (artifact, other)
        )
        server.management.register(server.store(second))
        assert set(server.management.versions("rl_policy")) == {"1", "2"}
        assert server.management.default("rl_policy") == single(request)["version"] == "1"
        assert main(["serve", "versions", "--port", str(port + 1), "--default", "2"]) == 0
        assert server.management.default("rl_policy") == single(request)["version"] == "2"
        for version, expected in ((None, two), ("1", one), ("2", two)):
            said = single(request, version)["probabilities"]
            np.testing.assert_allclose(said, expected.answers["probabilities"][0], atol=1e-6)
        with pytest.raises(ServerError, match="version 9 does not exist"):
            server.management.set_default("rl_policy", "9")
        server.management.unregister("rl_policy", "1")
        assert set(server.management.versions("rl_policy")) == {"2"}

        scraped = metrics(port + 2)
        assert 'ts_inference_requests_total{model_name="rl_policy",model_version="default"' in scraped
        with pytest.raises(ServerError, match=f"{port} to {port + 4}"):
            TorchServe([first], TorchServeConfig(port=port)).__enter__()  # the ports are taken
    assert not folder.exists()
    for offset in range(5):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port + offset)) != 0


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_the_chosen_default_outlives_a_stop_and_a_kill_where_there_is_a_state_folder(tmp_path: Path) -> None:
    first, second = (
        archive(artifact_of("tanh", seed=seed), tmp_path / f"{seed}.mar", name="rl_policy", version=str(seed))
        for seed in (1, 2)
    )
    port, state = _free_port(), tmp_path / "state"

    def answering(server: TorchServe) -> tuple[str, str, set[str]]:
        status, answer = predict(port, "rl_policy", {"observation": [1.0, 0.0, -1.0, 0.5]})
        assert status == 200
        versions = set(server.management.versions("rl_policy"))
        return answer["version"], server.management.default("rl_policy"), versions

    with TorchServe([first], TorchServeConfig(port=port, state=state)) as server:
        server.management.register(server.store(second))
        assert answering(server) == ("1", "1", {"1", "2"})
        server.management.set_default("rl_policy", "2")
    other = TorchServeConfig(port=port, state=state, batch_size=4)
    with TorchServe([first], other) as server:  # stopped, started as before but for one setting
        assert answering(server) == ("2", "2", {"1", "2"})
        assert {entry["batchSize"] for entry in server.management.versions("rl_policy").values()} == {4}
        server.management.set_default("rl_policy", "1")
        server.management.set_default("rl_policy", "2")
        assert server._process is not None
        os.killpg(server._process.pid, signal.SIGKILL)
    with TorchServe([first, second], other) as server:
        assert answering(server) == ("2", "2", {"1", "2"})


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    artifact_of("recurrent").save(tmp_path / "policy")
    file, port = tmp_path / "rl_policy.mar", _free_port()
    assert main(["serve", "archive", str(tmp_path / "policy"), "--output", str(file)]) == 0
    words = ["-m", "rlcourse.recipes.command_line", "serve", "torchserve", str(file), "--port", str(port)]
    with subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            assert process.stderr is not None
            assert "ready" in process.stderr.readline()
            request: dict[str, Any] = {"observation": [1.0, 0.0, -1.0, 0.5]}
            status, answer = predict(port, "rl_policy", request)
            assert status == 200 and len(answer["memory"]) == 12
            again = predict(port, "rl_policy", {**request, "memory": answer["memory"]})[1]
            assert again["memory"] != answer["memory"]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "stopped" in process.stderr.read()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _listens(port):
        time.sleep(0.1)
    assert not _listens(port)


def edges() -> Arrays:
    """Observations at the ends of what float32 can hold, under every mask that allows something."""
    rows = [
        [0.0] * 4,
        [-0.0] * 4,
        [1e-45] * 4,  # the smallest that is not 0
        [-1e-45, 1e-45, 0.0, -0.0],
        [1e30] * 4,
        [-1e30] * 4,
        [1e30, -1e30, 1e-30, -1e-30],
        [16777217.0, -16777217.0, 0.1, -0.1],  # no float32 holds these
    ]
    masks = [[bool(number & 1), bool(number & 2), bool(number & 4)] for number in range(1, 8)]
    pairs = [(row, mask) for row in rows for mask in masks]
    return {
        "observation": np.array([row for row, _ in pairs], np.float32),
        "mask": np.array([mask for _, mask in pairs], np.bool_),
    }


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    """The first of five ports in a row that nobody uses in any way; never the same five again.

    A port that answers nobody may still be taken: by a connection that goes out, or one that has just ended.
    """
    for port in _BLOCKS:
        with ExitStack() as held:
            try:
                for offset in range(5):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port
    raise AssertionError("no free ports")


def _blocks() -> Iterator[int]:
    starts = list(range(10_000, 32_760, 5))  # from 32768 on the system gives ports to connections that go out
    random.SystemRandom().shuffle(starts)  # another process of the same run must not begin with the same ones
    yield from starts


_BLOCKS = _blocks()
