"""Manifests, held to the schemas of Gateway API v1 and Argo Rollouts v1alpha1 (tests/release/schemas)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from rlcourse.errors import ConfigError
from rlcourse.release.adapters.kubernetes import http_route, rollout, rollout_list
from rlcourse.release.gates import Demand, GateConfig
from rlcourse.release.matching import Variation
from rlcourse.release.routing import Routing
from rlcourse.release.stages import Release, Stage, blue_green

SERVICES = {"v1": "policy-v1", "v2": "policy-v2"}


SCHEMAS = {
    kind: json.loads((Path(__file__).parent / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    for kind, name in (("Rollout", "rollout.v1alpha1"), ("HTTPRoute", "httproute.v1"))
}


def valid(manifest: dict[str, Any]) -> bool:
    """Whether a cluster would take it, unknown fields refused."""
    validator = jsonschema_rs.Draft202012Validator(SCHEMAS[manifest["kind"]])
    return validator.is_valid(manifest)


def rule(routing: Routing) -> dict[str, Any]:
    route = http_route("policy", routing, SERVICES, gateway="public")
    assert (route["apiVersion"], route["kind"]) == ("gateway.networking.k8s.io/v1", "HTTPRoute")
    assert route["spec"]["parentRefs"] == [{"name": "public"}]
    assert json.loads(json.dumps(route)) == route
    assert valid(route)
    (found,) = route["spec"]["rules"]
    assert found["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1/policies"}}]
    assert set(found) <= {"matches", "backendRefs", "filters"}
    one: dict[str, Any] = found
    return one


def test_a_canary_is_two_weights_a_shadow_a_mirror_and_the_way_back_one_backend() -> None:
    assert rule(Routing("v1", "v2", 0.05))["backendRefs"] == [
        {"name": "policy-v1", "port": 8080, "weight": 950},
        {"name": "policy-v2", "port": 8080, "weight": 50},
    ]
    shadow = rule(Routing("v1", shadow="v2"))
    assert [one["name"] for one in shadow["backendRefs"]] == ["policy-v1"]
    assert shadow["filters"] == [
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "policy-v2", "port": 8080}}}
    ]
    for back in (rule(Routing("v1")), rule(Routing("v1", "v2", 0.0))):  # who only stands by is not asked
        assert back["backendRefs"] == [{"name": "policy-v1", "port": 8080, "weight": 1000}]
        assert "filters" not in back
    with pytest.raises(ConfigError, match="v3"):
        http_route("policy", Routing("v3"), SERVICES, gateway="public")


def test_a_rollout_has_the_shares_as_steps_and_waits_at_each_for_the_gate() -> None:
    stages = (
        Stage("shadow", 0.0, Demand("service")),
        Stage("canary", 0.004, Demand()),
        Stage("ab", 0.5, Demand("gain")),
        Stage("bake", 0.95, Demand()),
    )
    release = Release("r7", "v2", "v1", stages, GateConfig(), Variation(1.0, 1.0))
    found = rollout(release, image="registry.example/policy:v2", route="edge-route")
    assert (found["apiVersion"], found["kind"]) == ("argoproj.io/v1alpha1", "Rollout")
    assert valid(found)
    canary = found["spec"]["strategy"]["canary"]
    there = {"httpRoute": "edge-route", "namespace": "default"}
    assert canary["trafficRouting"] == {"plugins": {"argoproj-labs/gatewayAPI": there}}
    assert canary["steps"] == [
        {"setWeight": 1},
        {"pause": {}},
        {"setWeight": 50},
        {"pause": {}},
        {"setWeight": 95},
        {"pause": {}},
    ]
    assert found["spec"]["selector"]["matchLabels"] == found["spec"]["template"]["metadata"]["labels"]
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/policy:v2"
    assert {"readinessProbe", "livenessProbe"} < set(container)


def canaries(*shares: float) -> Release:
    stages = tuple(Stage("canary", share, Demand()) for share in shares)
    return Release("r7", "v2", "v1", stages, GateConfig(), Variation(1.0, 1.0))


@pytest.mark.parametrize(
    ("shares", "replicas", "fits"),
    [
        ((0.02, 0.5), 4, False),
        ((0.02,), 50, True),
        ((0.25, 0.5), 4, True),
        ((0.25, 0.95), 4, False),
        ((0.5,), 1, False),
    ],
)
def test_pods_alone_make_no_share_below_one_pod(shares: tuple[float, ...], replicas: int, fits: bool) -> None:
    if fits:
        found = rollout(canaries(*shares), image="x", replicas=replicas)
        assert "trafficRouting" not in found["spec"]["strategy"]["canary"]
        return
    with pytest.raises(ConfigError, match=f"{1 / replicas:.0%}"):
        rollout(canaries(*shares), image="x", replicas=replicas)
    assert rollout(canaries(*shares), image="x", replicas=replicas, route="r7")


def test_all_that_argo_needs_names_itself() -> None:
    made = rollout_list(canaries(0.02, 0.5), image="x", namespace="plant", gateway="edge", port=9_000)
    found = {(one["kind"], one["metadata"]["name"]): one for one in made["items"]}
    assert (made["kind"], set(found)) == (
        "List",
        {("Rollout", "r7"), ("Service", "r7-stable"), ("Service", "r7-canary"), ("HTTPRoute", "r7")},
    )
    assert {one["metadata"]["namespace"] for one in made["items"]} == {"plant"}
    assert all(valid(one) for one in made["items"] if one["kind"] in SCHEMAS)
    spec, route = found["Rollout", "r7"]["spec"], found["HTTPRoute", "r7"]["spec"]
    canary = spec["strategy"]["canary"]
    assert canary["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"] == {"httpRoute": "r7", "namespace": "plant"}
    assert [(one["name"], one["weight"]) for one in route["rules"][0]["backendRefs"]] == [
        (canary["stableService"], 100),
        (canary["canaryService"], 0),
    ]
    for name in (canary["stableService"], canary["canaryService"]):
        service = found["Service", name]["spec"]
        assert service["selector"] == spec["selector"]["matchLabels"]
        assert service["ports"] == [{"name": "http", "port": 9_000, "targetPort": 9_000}]
    assert json.loads(json.dumps(made)) == made


def test_all_that_argo_needs_for_blue_green() -> None:
    release = blue_green("r7", "v2", "v1", requests=500, least_s=3_600.0)
    made = rollout_list(release, image="x", namespace="plant", gateway="edge")
    names = [(one["kind"], one["metadata"]["name"]) for one in made["items"]]
    assert names == [("Rollout", "r7"), ("Service", "r7-active"), ("Service", "r7-preview"), ("HTTPRoute", "r7")]
    assert all(valid(one) for one in made["items"] if one["kind"] in SCHEMAS)
    (backend,) = made["items"][-1]["spec"]["rules"][0]["backendRefs"]
    assert backend["name"] == "r7-active"
    without = rollout_list(release, image="x", namespace="plant")["items"]
    assert [one["kind"] for one in without] == ["Rollout", "Service", "Service"]


def test_blue_green_promotes_nothing_by_itself_and_keeps_the_old_one_as_long_as_planned() -> None:
    found = rollout(blue_green("r7", "v2", "v1", requests=500, least_s=3_600.0), image="x")
    strategy = found["spec"]["strategy"]
    assert set(strategy) == {"blueGreen"}
    assert strategy["blueGreen"]["autoPromotionEnabled"] is False
    assert strategy["blueGreen"]["scaleDownDelaySeconds"] == 3_600


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "strategy", "canary", "steps", 0), {"setWeigth": 5}),
        (("spec", "strategy", "canary", "steps", 0), {"setWeight": 0.5}),
        (("spec", "strategy", "canary", "steps", 0), {"setWeight": 5, "pause": {}}),
        (("spec", "strategy", "canary", "trafficRouting"), {"gatewayAPI": {}}),
        (("spec", "strategy", "blueGreen"), {"activeService": "x"}),
        (("spec", "template", "spec", "containers"), []),
        (("spec", "replicas"), "4"),
        (("apiVersion",), "argoproj.io/v1"),
    ],
)
def test_the_schema_of_a_rollout_refuses_what_a_cluster_refuses(place: tuple[str | int, ...], value: Any) -> None:
    assert not valid(altered(rollout(canaries(0.02, 0.5), image="x", route="r7"), place, value))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "rules", 0, "backendRefs", 0, "weight"), 0.95),
        (("spec", "rules", 0, "backendRefs", 0, "weight"), 2_000_000),
        (("spec", "rules", 0, "backendRefs", 0), {"name": "policy-v1"}),
        (("spec", "rules", 0, "filters"), [{"type": "RequestMirror"}]),
        (
            ("spec", "rules", 0, "filters"),
            [{"type": "Mirror", "requestMirror": {"backendRef": {"name": "x", "port": 1}}}],
        ),
        (("spec", "rules", 0, "matches", 0, "path", "type"), "Prefix"),
        (("spec", "gateway"), "edge"),
        (("metadata", "name"), "Edge Route"),
    ],
)
def test_the_schema_of_a_route_refuses_what_a_cluster_refuses(place: tuple[str | int, ...], value: Any) -> None:
    route = http_route("policy", Routing("v1", "v2", 0.05), SERVICES, gateway="edge")
    assert not valid(altered(route, place, value))


def altered(manifest: dict[str, Any], place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    found = copy.deepcopy(manifest)
    assert valid(found)
    inner: Any = found
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return found
