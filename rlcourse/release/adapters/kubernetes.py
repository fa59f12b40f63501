"""Manifests: the same routing for Gateway API, the same release for Argo Rollouts. Rendered, never sent anywhere.

Every manifest is a plain dict; ``json.dumps`` of it is what ``kubectl apply -f -`` reads, JSON being YAML.
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

    Weights draw each request by itself. A policy with a memory needs its sessions kept together: have the client name the
    version, as :mod:`rlcourse.release.adapters.service` does, or give the gateway a session policy of its own.

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
    rule: dict[str, Any] = {"matches": [{"path": {"type": "PathPrefix", "value": "/v1/policies"}}], "backendRefs": refs}
    if routing.trial is not None and routing.share > 0.0:
        refs.append(backend(routing.trial, weight=trial))
    if routing.shadow is not None:
        rule["filters"] = [{"type": "RequestMirror", "requestMirror": {"backendRef": backend(routing.shadow)}}]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "rlcourse"}},
        "spec": {"parentRefs": [{"name": gateway}], "rules": [rule]},
    }


def rollout(release: Release, *, image: str, replicas: int = 4, port: int = 8080) -> dict[str, Any]:
    """An ``argoproj.io/v1alpha1`` Rollout with the shares of a release as its steps.

    Every step waits without a time limit (``pause: {}``): the gate ends it, with ``kubectl argo rollouts promote NAME``, or
    goes back with ``abort``. Argo's own analysis compares one number with a limit, and the gate is there to do better. A
    shadow is left out, as the Rollout itself cannot mirror.

    Args:
        release: whose stages become steps.
        image: that runs the candidate.
        replicas: as many pods.
        port: that the container listens on.
    """
    name = release.name
    labels = {"app.kubernetes.io/name": name}
    if any(stage.kind == "blue_green" for stage in release.stages):
        strategy: dict[str, Any] = {
            "blueGreen": {
                "activeService": f"{name}-active",
                "previewService": f"{name}-preview",
                "autoPromotionEnabled": False,
                "scaleDownDelaySeconds": max(30, math.ceil(release.stages[-1].least_s)),
            }
        }
    else:
        steps: list[dict[str, Any]] = []
        for stage in release.stages:
            if stage.share > 0.0:
                steps += [{"setWeight": max(round(100 * stage.share), 1)}, {"pause": {}}]
        strategy = {"canary": {"stableService": f"{name}-stable", "canaryService": f"{name}-canary", "steps": steps}}
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
