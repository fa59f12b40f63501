from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import tyro
import yaml

from rlcourse.errors import ConfigError
from rlcourse.recipes import serve_http
from rlcourse.recipes.command_line import main
from rlcourse.serving import http
from rlcourse.serving.kserve import KServeConfig, inference_service, manifest

GOOD: dict[str, Any] = {"storage_uri": "s3://policies/cartpole", "image": "example.org/rlcourse:0.1.0"}

SCHEMA = json.loads((Path(__file__).parent / "data" / "inference_service_v1beta1.json").read_text())
VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)


def test_the_schema_is_one_and_knows_what_is_wrong() -> None:
    jsonschema_rs.meta.validate(SCHEMA)
    wrong = inference_service(KServeConfig(**GOOD))
    wrong["spec"]["predictor"]["minReplica"] = 1
    wrong["spec"]["predictor"]["containers"][0]["ports"][0] = {"containerPort": "8080", "protocol": "TCP"}
    said = [error.message for error in VALIDATOR.iter_errors(wrong)]
    assert len(said) == 2 and any("minReplica" in one for one in said)


@pytest.mark.parametrize("canary", [None, 10])
@pytest.mark.parametrize("claim", [None, "decisions"])
def test_the_manifest_has_the_shape_that_kserve_reads(canary: int | None, claim: str | None) -> None:
    config = KServeConfig(**GOOD, canary_percent=canary, state_claim=claim)
    read = yaml.safe_load(manifest(config))
    assert read == inference_service(config)
    VALIDATOR.validate(read)
    assert (read["apiVersion"], read["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert read["spec"]["predictor"]["scaleMetric"] == "concurrency"
    predictor = read["spec"]["predictor"]
    assert predictor.get("canaryTrafficPercent") == canary
    (container,) = predictor["containers"]
    assert {"name": "STORAGE_URI", "value": GOOD["storage_uri"]} in container["env"]
    ports = {container["ports"][0]["containerPort"]} | {
        container[f"{p}Probe"]["httpGet"]["port"] for p in ("readiness", "liveness")
    }
    assert ports == {8080} and container["args"][3] == "8080"


def test_the_decision_log_is_on_a_volume() -> None:
    for claim in (None, "decisions"):
        predictor = inference_service(KServeConfig(**GOOD, state_claim=claim))["spec"]["predictor"]
        (container,), (volume,) = predictor["containers"], predictor["volumes"]
        (mount,) = container["volumeMounts"]
        assert mount["name"] == volume["name"]
        state = container["args"][container["args"].index("--state") + 1]
        assert state.startswith(mount["mountPath"])
        if claim is None:
            assert volume["emptyDir"] == {}
        else:
            assert volume["persistentVolumeClaim"] == {"claimName": "decisions"}
            # Several pods share the volume, and not a folder.
            assert state == f"{mount['mountPath']}/$(POD_NAME)"
            assert "POD_NAME" in {one["name"] for one in container["env"]}


@pytest.mark.parametrize("canary", [None, 10])
def test_every_value_of_the_manifest_stands_where_it_is_used(canary: int | None) -> None:
    # Asked of the parser: an asterisk may also stand inside of a name.
    events = list(yaml.parse(manifest(KServeConfig(**GOOD, canary_percent=canary))))
    assert not [event for event in events if isinstance(event, yaml.AliasEvent)]
    assert not [event for event in events if getattr(event, "anchor", None)]


def test_the_container_runs_what_there_is() -> None:
    (container,) = inference_service(KServeConfig(**GOOD))["spec"]["predictor"]["containers"]
    words = container["command"][3:] + container["args"]
    assert container["command"][:3] == ["rlcourse", "serve", "http"]
    config = tyro.cli(serve_http.Serve, args=words)
    assert (config.artifact, config.server.host, config.server.port) == (("/mnt/models",), "0.0.0.0", 8080)
    assert config.state == Path("/mnt/state")
    source = inspect.getsource(http)
    for probe in ("readinessProbe", "livenessProbe"):
        assert re.search(rf'"{container[probe]["httpGet"]["path"]}"', source)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Policy"},
        {"name": "a" * 60},
        {"namespace": ""},
        {"storage_uri": "/home/me/policy"},
        {"image": "example.org/rlcourse"},
        {"image": "example.org/rlcourse:latest"},
        {"image": "example.org:5000/rlcourse"},
        {"image": "example.org/rlcourse@sha256:" + "0" * 63},
        {"image": "example.org/rlcourse@sha256:" + "g" * 64},
        {"image": "example.org/rlcourse@md5:" + "0" * 32},
        {"image": "example.org/rlcourse:0.1.0@sha256:12"},
        {"image": "example.org/rlcourse:0.1.0 "},
        {"min_replicas": 4},
        {"max_replicas": 0, "min_replicas": 0},
        {"concurrency": 0},
        {"cpu": "one"},
        {"cpu": "0"},
        {"cpu": "0.0"},
        {"cpu": "0m"},
        {"memory": "512 MB"},
        {"memory": "0"},
        {"memory": "0Mi"},
        {"state_claim": "Decisions"},
        {"canary_percent": 101},
    ],
    ids=str,
)
def test_what_a_cluster_would_refuse_is_refused_here(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        KServeConfig(**{**GOOD, **changes})


@pytest.mark.parametrize(
    "image",
    [
        "rlcourse:1",
        "example.org:5000/team/rlcourse:0.1.0",
        "example.org/rlcourse@sha256:" + "0a" * 32,
        "example.org/rlcourse:latest@sha256:" + "0a" * 32,  # the digest says which
    ],
)
def test_an_image_that_cannot_change_is_taken(image: str) -> None:
    KServeConfig(**{**GOOD, "image": image})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "manifest", "--storage-uri", GOOD["storage_uri"], "--image", GOOD["image"], "--name", "cartpole"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["metadata"]["name"] == "cartpole"
    assert main([*words, "--output", str(tmp_path / "service.yaml")]) == 0
    assert (tmp_path / "service.yaml").read_text() == shown
    assert main([*words, "--memory", "lots"]) == 2
    assert "512Mi" in capsys.readouterr().err
