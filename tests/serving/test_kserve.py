from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from rlcourse.errors import ConfigError
from rlcourse.recipes import serve_http
from rlcourse.recipes.command_line import main
from rlcourse.serving import http
from rlcourse.serving.kserve import KServeConfig, inference_service, manifest

GOOD: dict[str, Any] = {"storage_uri": "s3://policies/cartpole", "image": "example.org/rlcourse:0.1.0"}

# The part of serving.kserve.io/v1beta1 and of Kubernetes' Container that is used, written down from their references.
QUANTITIES = {"cpu": str, "memory": str}
PROBE = {"httpGet": {"path": str, "port": int}, "periodSeconds": int, "failureThreshold": int}
SCHEMA: dict[str, Any] = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": str, "namespace": str, "annotations": {None: str}},
    "spec": {
        "predictor": {
            "minReplicas": int,
            "maxReplicas": int,
            "scaleMetric": "concurrency",
            "scaleTarget": int,
            "canaryTrafficPercent?": int,
            "containers": [
                {
                    "name": "kserve-container",
                    "image": str,
                    "command": [str],
                    "args": [str],
                    "env": [{"name": str, "value": str}],
                    "ports": [{"containerPort": int, "protocol": "TCP"}],
                    "readinessProbe": PROBE,
                    "livenessProbe": PROBE,
                    "resources": {"requests": QUANTITIES, "limits": QUANTITIES},
                    "securityContext": {
                        "runAsNonRoot": bool,
                        "allowPrivilegeEscalation": bool,
                        "capabilities": {"drop": [str]},
                    },
                }
            ],
        }
    },
}


def fits(value: Any, schema: Any, where: str = "") -> None:
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        if None in schema:
            for name, item in value.items():
                fits(item, schema[None], f"{where}.{name}")
            return
        wanted = {name.rstrip("?") for name in schema}
        assert set(value) <= wanted, f"{where}: unknown {set(value) - wanted}"
        for name, part in schema.items():
            if name.endswith("?") and name[:-1] not in value:
                continue
            fits(value[name.rstrip("?")], part, f"{where}.{name}")
    elif isinstance(schema, list):
        assert isinstance(value, list) and value, where
        for item in value:
            fits(item, schema[0], f"{where}[]")
    elif isinstance(schema, type):
        assert type(value) is schema, f"{where} is {value!r}"
    else:
        assert value == schema, where


@pytest.mark.parametrize("canary", [None, 10])
def test_the_manifest_has_the_shape_that_kserve_reads(canary: int | None) -> None:
    config = KServeConfig(**GOOD, canary_percent=canary)
    read = yaml.safe_load(manifest(config))
    assert read == inference_service(config)
    fits(read, SCHEMA)
    predictor = read["spec"]["predictor"]
    assert predictor.get("canaryTrafficPercent") == canary
    (container,) = predictor["containers"]
    assert {"name": "STORAGE_URI", "value": GOOD["storage_uri"]} in container["env"]
    ports = {container["ports"][0]["containerPort"]} | {
        container[f"{p}Probe"]["httpGet"]["port"] for p in ("readiness", "liveness")
    }
    assert ports == {8080} and container["args"][-1] == "8080"


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
        {"min_replicas": 4},
        {"max_replicas": 0, "min_replicas": 0},
        {"concurrency": 0},
        {"cpu": "one"},
        {"memory": "512 MB"},
        {"canary_percent": 101},
    ],
    ids=str,
)
def test_what_a_cluster_would_refuse_is_refused_here(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        KServeConfig(**{**GOOD, **changes})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "manifest", "--storage-uri", GOOD["storage_uri"], "--image", GOOD["image"], "--name", "cartpole"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["metadata"]["name"] == "cartpole"
    assert main([*words, "--output", str(tmp_path / "service.yaml")]) == 0
    assert (tmp_path / "service.yaml").read_text() == shown
    assert main([*words, "--memory", "lots"]) == 2
    assert "512Mi" in capsys.readouterr().err
