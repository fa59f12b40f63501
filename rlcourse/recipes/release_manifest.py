"""``rlcourse release manifest``: a release as what Kubernetes is told, for Gateway API or for Argo Rollouts."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rlcourse.errors import ConfigError
from rlcourse.files import write_text
from rlcourse.recipes.common import Common, report, say, write_report
from rlcourse.release.adapters.kubernetes import http_route, rollout_list
from rlcourse.release.state import read_release, read_state


@dataclass(frozen=True, kw_only=True)
class Manifest(Common):
    """Write the manifest of a release: the routing as it is now, or all its steps. JSON is YAML: pipe it into kubectl.

    Example: rlcourse release manifest runs/r7 --kind gateway --gateway edge --services v1=policy-v1 v2=policy-v2

    Example: rlcourse release manifest runs/r7 --kind argo --image example.org/rlcourse:0.1.0 --gateway edge
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Of the release."""
    kind: Literal["gateway", "argo"]
    """An HTTPRoute with the weights of this moment; or a Rollout with every stage as a step, its two services, and an HTTPRoute
    whose weights Argo sets."""
    gateway: str | None = None
    """Name of the Gateway that the route hangs on. argo without it: pods make the shares, and one that is less than a pod is
    refused."""
    namespace: str = "default"
    """argo: of all of it."""
    services: tuple[str, ...] = ()
    """gateway: which Kubernetes service runs a version, as VERSION=SERVICE."""
    image: str | None = None
    """argo: that runs the candidate."""
    replicas: int = 4
    """argo: pods."""
    port: int = 8080
    """On which the policy answers."""
    output: Path | None = None
    """File for it; without it, standard output."""

    def __post_init__(self) -> None:
        needed = {"gateway": self.gateway and self.services, "argo": self.image}
        if not needed[self.kind]:
            options = {"gateway": "--gateway and --services v1=SERVICE v2=SERVICE", "argo": "--image"}
            raise ConfigError(f"Too little is known for {self.kind}.", mend=f"Name {options[self.kind]}.")
        if self.replicas < 1 or not 0 < self.port < 65_536:
            raise ConfigError(f"{self.replicas} pods on port {self.port}.", mend="Use 1 or more, and a port.")
        if any(not all(one.partition("=")) for one in self.services):
            raise ConfigError(f"{' '.join(self.services)} names no services.", mend="Use VERSION=SERVICE.")


def run(config: Manifest) -> int:
    """Render it."""
    started = time.perf_counter()
    release = read_release(config.folder)
    if config.kind == "argo":
        made = rollout_list(
            release,
            image=str(config.image),
            namespace=config.namespace,
            gateway=config.gateway,
            replicas=config.replicas,
            port=config.port,
        )
    else:
        services = {version: service for version, _, service in (one.partition("=") for one in config.services)}
        routing = read_state(config.folder).routing
        made = http_route(release.name, routing, services, gateway=str(config.gateway), port=config.port)
    text = json.dumps(made, indent=2) + "\n"
    if config.output is None:
        (sys.stderr if config.json == "-" else sys.stdout).write(text)
    else:
        write_text(config.output, text)
        say(f"manifest written to {config.output}")
    content = report("release manifest", config, seconds=time.perf_counter() - started, manifest=made)
    write_report(config.json, content)
    return 0
