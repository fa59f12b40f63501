"""The manifest that KServe, on Kubernetes, makes a policy service from.

KServe copies the policy from where it is stored, starts the container, sends it traffic once it says that it is ready,
and adds and removes replicas.

A canary, which is a new revision that gets a share of the traffic first, is more than that: Knative does the sharing.
So ``canary_percent`` has an effect only where KServe runs in its Knative mode (called serverless mode before). In the
standard mode (called raw deployment before) there is one Deployment, a new revision takes over all of the traffic, and
nothing says that the share was ignored. Replicas counted by ``concurrency``, and none while nobody asks, need Knative
as well. Which mode a cluster has is decided where KServe is installed.

The decision log is on a volume. Without ``state_claim`` it is the pod's own: a container that dies begins again with it, and
with the pod it is gone, so something has to carry the log away meanwhile. With one, each pod writes into a folder of its name
on the volume that is claimed, and what a pod has written stays. Knative has to allow it first, by its flags for
pods, whose names all begin with *kubernetes.podspec-* and go on with *persistent-volume-claim*, *persistent-volume-write* and
*fieldref*.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rlcourse.errors import ConfigError, MissingExtraError

MOUNTED = "/mnt/models"
"""Where KServe puts what it copied."""
STATE = "/mnt/state"
"""Where the volume is that the decision log is written to."""
PORT = 8080
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,51}[a-z0-9])?")
_CPU = re.compile(r"(?=.*[1-9])(\d+m|\d+(\.\d{1,3})?)")
_MEMORY = re.compile(r"(?=.*[1-9])\d+(Ki|Mi|Gi|Ti|k|M|G|T)?")
_PART = r"[a-z0-9]+([._-]+[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"([\w.-]+(:\d+)?/)?{_PART}(/{_PART})*(:(?P<tag>\w[\w.-]{{0,127}}))?(@(?P<digest>sha256:[0-9a-f]{{64}}))?"
)
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_SCHEMES = ("gs", "s3", "hdfs", "webhdfs", "pvc", "http", "https", "oci", "hf")


@dataclass(frozen=True, kw_only=True)
class KServeConfig:
    """One service."""

    storage_uri: str
    """Where the artifact's folder is: s3://, gs://, pvc://, https:// and the like."""
    image: str
    """The container image, with rlcourse[serve] in it; with a tag or digest that never moves."""
    name: str = "rl-policy"
    """Of the service, and with it of its address."""
    namespace: str = "default"
    """Where in the cluster."""
    min_replicas: int = 1
    """0 lets it sleep, in Knative mode; whoever asks first then waits for a start."""
    max_replicas: int = 3
    """The most that load may call up."""
    concurrency: int = 32
    """Requests at a time that call for another replica when there are more; Knative mode counts them."""
    cpu: str = "1"
    """Of each replica."""
    memory: str = "512Mi"
    """Of each replica."""
    canary_percent: int | None = None
    """Share of the traffic for this revision beside the last one, in Knative mode; nothing gives it all at once."""
    state_claim: str | None = None
    """PersistentVolumeClaim for the decision logs, which all pods may write to; without it a log goes with its pod."""

    def __post_init__(self) -> None:
        wrong = [
            (
                not _NAME.fullmatch(self.name),
                f"The name is {self.name!r}.",
                "Use lower-case letters, digits and dashes.",
            ),
            (not _NAME.fullmatch(self.namespace), f"The namespace is {self.namespace!r}.", "Use lower-case letters."),
            (
                urlsplit(self.storage_uri).scheme not in _SCHEMES,
                f"KServe does not fetch {self.storage_uri!r}.",
                f"Use one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}.",
            ),
            (
                not _fixed(self.image),
                f"The image {self.image!r} does not say which version.",
                "Name a tag other than latest, or @sha256: and 64 digits: what runs must not change by itself.",
            ),
            (
                self.state_claim is not None and not _CLAIM.fullmatch(self.state_claim),
                f"The claim is {self.state_claim!r}.",
                "Use lower-case letters, digits and dashes, as in its own manifest.",
            ),
            (
                not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1,
                f"{self.min_replicas} to {self.max_replicas} replicas is no range.",
                "Use 0 or more, and at most max_replicas.",
            ),
            (self.concurrency < 1, f"The concurrency is {self.concurrency}.", "Use 1 or more."),
            (not _CPU.fullmatch(self.cpu), f"The CPU share is {self.cpu!r}.", "Write 1, 0.5 or 500m."),
            (not _MEMORY.fullmatch(self.memory), f"The memory is {self.memory!r}.", "Write 512Mi or 2Gi."),
            (
                self.canary_percent is not None and not 0 <= self.canary_percent <= 100,
                f"The canary's share is {self.canary_percent} percent.",
                "Use 0 to 100.",
            ),
        ]
        for is_wrong, problem, mend in wrong:
            if is_wrong:
                raise ConfigError(problem, mend=mend)


def _fixed(image: str) -> bool:
    found = _IMAGE.fullmatch(image)
    return found is not None and (found["digest"] is not None or found["tag"] not in (None, "latest"))


def inference_service(config: KServeConfig) -> dict[str, Any]:
    """The ``InferenceService`` object, ``serving.kserve.io/v1beta1``."""
    resources = {"cpu": config.cpu, "memory": config.memory}
    volume: dict[str, Any] = {"emptyDir": {}}
    state, named = STATE, []
    if config.state_claim is not None:
        volume = {"persistentVolumeClaim": {"claimName": config.state_claim}}
        # Several pods write to one volume: each into a folder of its own.
        state = f"{STATE}/$(POD_NAME)"
        named = [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    container = {
        "name": "kserve-container",
        "image": config.image,
        "command": ["rlcourse", "serve", "http", MOUNTED],
        # The address inside the pod; what is outside comes in through KServe alone.
        "args": ["--host", "0.0.0.0", "--port", str(PORT), "--state", state],
        "env": [
            {"name": "STORAGE_URI", "value": config.storage_uri},
            {"name": "OMP_NUM_THREADS", "value": "1"},
            *named,
        ],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": PORT}, "periodSeconds": 2, "failureThreshold": 3},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 10, "failureThreshold": 3},
        "volumeMounts": [{"name": "state", "mountPath": STATE}],
        # Two dictionaries: YAML would write the second use of one as a reference to the first.
        "resources": {"requests": {**resources}, "limits": {**resources}},
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    predictor: dict[str, Any] = {
        "minReplicas": config.min_replicas,
        "maxReplicas": config.max_replicas,
        "scaleMetric": "concurrency",
        "scaleTarget": config.concurrency,
        "containers": [container],
        "volumes": [{"name": "state", **volume}],
    }
    if config.canary_percent is not None:
        predictor["canaryTrafficPercent"] = config.canary_percent
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": config.name,
            "namespace": config.namespace,
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/path": "/metrics",
                "prometheus.io/port": str(PORT),
            },
        },
        "spec": {"predictor": predictor},
    }


def manifest(config: KServeConfig) -> str:
    """The same as YAML, for ``kubectl apply -f -``.

    Raises:
        MissingExtraError: pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("pyyaml is not installed.", mend="pip install 'rlcourse[serve]'") from error
    text: str = yaml.safe_dump(inference_service(config), sort_keys=False)
    return text
