"""Our own service: one default version, set over the management API, and a file that says who is in the canary.

The service answers a request that names a version with that version, and any other with its default. So the default is the
live version, and a client that serves many sessions (a building's gateway, say) names the trial version for those in the
canary::

    client ── version_for(routing, session) ──▶ POST /v1/policies/NAME/action {"version": "v2", ...}
                      ▲
                 routing.json ◀── apply ──▶ PUT /v1/policies/NAME/default {"version": "v1"}

Whoever does not read the file is answered by the live version, which is the safe side.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rlcourse.errors import ServerError
from rlcourse.release.routing import FileRouter, Routing


class ServiceRouter:
    """Applies routings to one policy of one service.

    Args:
        management: address of the management API, as ``http://127.0.0.1:8081``.
        policy: its name there.
        split: the file that clients read.
        timeout_s: for each request.
    """

    def __init__(self, management: str, policy: str, split: Path, *, timeout_s: float = 5.0) -> None:
        self.address = f"{management.rstrip('/')}/v1/policies"
        self.policy, self.split, self.timeout_s = policy, FileRouter(split), timeout_s

    def apply(self, routing: Routing) -> None:
        """Set the default, then the split; where the default is there already it is left alone.

        A trial that only has to be withdrawn is withdrawn first: that takes nobody's answer.

        Raises:
            ServerError: the service does not answer, or one of the versions is not loaded.
            StorageError: the split could not be written.
        """
        before = self.split.current()
        if routing.trial is None and before is not None and before.live == routing.live:
            self.split.apply(routing)
        listed = self._listed()
        loaded = {str(one["version"]) for one in listed["versions"]}
        missing = {routing.live, routing.trial} - {None} - loaded
        if missing:
            raise ServerError(
                f"Not loaded: {', '.join(sorted(map(str, missing)))} of {self.policy}.",
                mend=f"Load it: POST {self.address}/{self.policy}/versions.",
            )
        if listed["default"] != routing.live:
            self._ask("PUT", f"/{quote(self.policy, safe='')}/default", {"version": routing.live})
        self.split.apply(routing)

    def live(self) -> str:
        """The version that the service itself calls its default."""
        return str(self._listed()["default"])

    def _listed(self) -> dict[str, Any]:
        for one in self._ask("GET", "")["policies"]:
            if one["name"] == self.policy:
                found: dict[str, Any] = one
                return found
        raise ServerError(f"The service has no policy {self.policy!r}.", mend="Name one that it has.")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        # Without the proxies of the environment: the management API is on this machine or close to it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self.timeout_s) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(2_000).decode(errors="replace")
            raise ServerError(f"{method} {request.full_url}: {error.code} {said}", mend="See what it says.") from error
        except (OSError, ValueError) as error:
            raise ServerError(
                f"{method} {request.full_url}: {error}", mend="Is the service running, and its management port open?"
            ) from error
