"""Manifests: the same routing for Gateway API, the same release for Argo Rollouts. Rendered, never sent anywhere.

Every manifest is a plain dict; ``json.dumps`` of it is what ``kubectl apply -f -`` reads, JSON being YAML.

A share is drawn by whoever routes, and neither draws it as our own service does. A gateway draws each request by itself, so a
session changes sides, and belongs to neither arm. Argo without a gateway does not draw at all: it has so many pods of each
version, and 2 % of 4 pods is one pod, which answers a quarter of the requests. So a Rollout gets its traffic routing here, or
is refused where pods cannot make its shares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlcourse.errors import ConfigError
from rlcourse.release.routing import Routing
from rlcourse.release.stages import Release

PARTS = 1_000
"""Weights are whole numbers; their sum is this."""


def http_route(
    name: str, routing: Routing, services: Mapping[str, str], *, gateway: str, port: int = 8080
) -> dict[str, Any]:
    """A ``gateway.networking.k8s.io/v1`` HTTPRoute: weights for a canary, a mirror for a shadow.

    Weights draw each request by itself. To keep sessions together, as comparing returns and a policy with a memory need, let
    our own service split them (:mod:`rlcourse.release.adapters.service`), or give the gateway a session policy of its own.

    Args:
        name: of the route.
        routing: who answers whom.
        services: which Kubernetes service runs a version.
        gateway: that the route hangs on.
        port: of the services.

    Raises:
        ConfigError: no service runs that version.
    """

    def backend(version: str, **more: Any) -> dict[str, Any]:
        if version not in services:
            raise ConfigError(f"No service runs {version}.", mend=f"There are {', '.join(sorted(services))}.")
        return {"name": services[version], "port": port, **more}

    trial = round(PARTS * routing.share)
    refs = [backend(routing.live, weight=PARTS - trial)]
    if routing.trial is not None and routing.share > 0.0:
        refs.append(backend(routing.trial, weight=trial))
    mirrored = None if routing.shadow is None else backend(routing.shadow)
    return _route(name, gateway, refs, mirrored)


def _route(
    name: str, gateway: str, refs: list[dict[str, Any]], mirrored: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    rule: dict[str, Any] = {"matches": [{"path": {"type": "PathPrefix", "value": "/v1/policies"}}], "backendRefs": refs}
    if mirrored is not None:
        rule["filters"] = [{"type": "RequestMirror", "requestMirror": {"backendRef": mirrored}}]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "rlcourse"}},
        "spec": {"parentRefs": [{"name": gateway}], "rules": [rule]},
    }


def rollout(
    release: Release,
    *,
    image: str,
    replicas: int = 4,
    port: int = 8080,
    route: str | None = None,
    namespace: str = "default",
) -> dict[str, Any]:
    """An ``argoproj.io/v1alpha1`` Rollout with the shares of a release as its steps, in whole percent and 1 at least.

    Every step waits without a time limit (``pause: {}``): the gate ends it, with ``kubectl argo rollouts promote NAME``, or
    goes back with ``abort``. Argo's own analysis compares one number with a limit, and the gate is there to do better. A
    shadow is left out, as the Rollout itself cannot mirror.

    Args:
        release: whose stages become steps.
        image: that runs the candidate.
        replicas: as many pods.
        port: that the container listens on.
        route: HTTPRoute whose weights make the shares, by Argo's plugin for Gateway API; without one pods make them.
        namespace: of the route.

    Raises:
        ConfigError: so many pods cannot make a share, and there is no route.
    """
    name, labels = release.name, _labels(release)
    if _blue_green(release):
        strategy: dict[str, Any] = {
            "blueGreen": {
                "activeService": f"{name}-active",
                "previewService": f"{name}-preview",
                "autoPromotionEnabled": False,
                "scaleDownDelaySeconds": max(30, math.ceil(release.stages[-1].least_s)),
            }
        }
    else:
        shares = [stage.share for stage in release.stages if stage.share > 0.0]
        rarer = min(min(share, 1.0 - share) for share in shares)
        if route is None and rarer * replicas < 1.0:
            raise ConfigError(
                f"{rarer:.1%} of {replicas} pods is less than one pod: by pods alone it would become {1 / replicas:.0%}.",
                mend=f"Name a gateway, which makes shares of any size, or use {math.ceil(1 / rarer)} replicas or more.",
            )
        steps: list[dict[str, Any]] = []
        for share in shares:
            steps += [{"setWeight": max(round(100 * share), 1)}, {"pause": {}}]
        canary: dict[str, Any] = {"stableService": f"{name}-stable", "canaryService": f"{name}-canary"}
        if route is not None:
            canary["trafficRouting"] = {
                "plugins": {"argoproj-labs/gatewayAPI": {"httpRoute": route, "namespace": namespace}}
            }
        strategy = {"canary": {**canary, "steps": steps}}
    container = {
        "name": "policy",
        "image": image,
        "ports": [{"containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": port}},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": port}},
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": name, "labels": labels, "annotations": {"rlcourse/candidate": release.candidate}},
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            "strategy": strategy,
        },
    }


def rollout_list(
    release: Release, *, image: str, namespace: str, gateway: str | None = None, replicas: int = 4, port: int = 8080
) -> dict[str, Any]:
    """All that a release needs from Argo: its Rollout, the two services that this names, and the route that makes the shares.

    Args:
        release: whose stages become steps.
        image: that runs the candidate.
        namespace: of all of them.
        gateway: that the route hangs on; without one there is no route, and pods make the shares.
        replicas: as many pods.
        port: of pods and services.

    Raises:
        ConfigError: so many pods cannot make a share, and there is no gateway.
    """
    name = release.name
    first, second = ("active", "preview") if _blue_green(release) else ("stable", "canary")
    route = None if gateway is None else name
    items = [rollout(release, image=image, replicas=replicas, port=port, route=route, namespace=namespace)]
    items += [_service(f"{name}-{one}", release, port) for one in (first, second)]
    if gateway is not None:
        refs = [{"name": f"{name}-{first}", "port": port, "weight": 100}]
        if not _blue_green(release):  # Argo moves its weight from 0
            refs.append({"name": f"{name}-{second}", "port": port, "weight": 0})
        items.append(_route(name, gateway, refs))
    for one in items:
        one["metadata"]["namespace"] = namespace
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _service(name: str, release: Release, port: int) -> dict[str, Any]:
    # Argo adds to each selector which pods are meant.
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": _labels(release)},
        "spec": {"selector": _labels(release), "ports": [{"name": "http", "port": port, "targetPort": port}]},
    }


def _labels(release: Release) -> dict[str, str]:
    return {"app.kubernetes.io/name": release.name}


def _blue_green(release: Release) -> bool:
    return any(stage.kind == "blue_green" for stage in release.stages)
