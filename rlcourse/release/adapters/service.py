"""Our own service: it splits its sessions itself, and is told how in one request over its management API.

::

    client ── POST /v1/policies/NAME/action {"session": "room-17", ...} ──▶ service ──▶ live or trial, as the hash has it
                                                                              ▲   └── copy ──▶ shadow
    controller ── PUT /v1/policies/NAME/routing {"live", "trial", "share", "salt", "shadow"} ┘

A client names its session and nothing else. A request that names a version gets that one; one without a session gets the
live one, which is the safe side.

The service writes the routing into its state folder before it says yes, so that a restart goes on with it. One that was
started without such a folder forgets it. Every step of a release asks, and notices (:mod:`rlcourse.release.straying`).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from rlcourse.errors import ConfigError, ServerError
from rlcourse.release.routing import Routing


class ServiceRouter:
    """Applies routings to one policy of one service.

    Args:
        management: address of the management API, as ``http://127.0.0.1:8081``.
        policy: its name there.
        timeout_s: for each request.
    """

    def __init__(self, management: str, policy: str, *, timeout_s: float = 5.0) -> None:
        self.address, self.policy = f"{management.rstrip('/')}/v1/policies", policy
        self.timeout_s = timeout_s

    def apply(self, routing: Routing) -> None:
        """All of it in one request: at no moment does half of it hold.

        Raises:
            ServerError: the service does not answer, or one of the versions is not loaded; then nothing has changed.
        """
        self._ask("PUT", f"/{quote(self.policy, safe='')}/routing", routing.to_json())

    def current(self) -> Routing:
        """What the service does now.

        Raises:
            ServerError: it does not answer, or has no such policy.
        """
        listed = self._listed()
        trial = listed["trial"] or {"version": None, "share": 0.0, "salt": ""}
        return Routing(listed["default"], trial["version"], trial["share"], trial["salt"], listed["shadow"])

    def live(self) -> str:
        """The version that the service itself calls its default."""
        return str(self._listed()["default"])

    def check(self, incumbent: str, candidate: str, *, shares: bool = True) -> None:
        """Whether a release may begin.

        Args:
            incumbent: version that is live.
            candidate: version that wants to be.
            shares: whether the candidate will answer some sessions in the incumbent's place, and not all at once.

        Raises:
            ServerError: the service does not answer, or has no such policy.
            ConfigError: a version is not loaded, another one is live, something is on trial or a shadow already, or the service
                would refuse a share later.
        """
        listed = self._listed()
        versions = {str(one["version"]): one for one in listed["versions"]}
        missing = {incumbent, candidate} - set(versions)
        if missing:
            raise ConfigError(
                f"Not loaded: {', '.join(sorted(missing))} of {self.policy}.",
                mend=f"Load it: POST {self.address}/{self.policy}/versions.",
            )
        if listed["default"] != incumbent:
            raise ConfigError(
                f"{listed['default']} of {self.policy} is live, not {incumbent}.",
                mend="Name the version that is live as the incumbent.",
            )
        busy = [f"{listed['trial']['version']} is on trial"] if listed["trial"] else []
        busy += [f"{listed['shadow']} is a shadow"] if listed["shadow"] else []
        if busy:
            raise ConfigError(
                f"{' and '.join(busy)} of {self.policy} already: one release at a time.",
                mend="End that release, or what is left of it: rlcourse release rollback.",
            )
        differs = _differs(versions[incumbent], versions[candidate])
        if shares and differs:
            raise ConfigError(
                f"{candidate} of {self.policy} {differs} {incumbent}: sessions cannot go from one to the other.",
                mend="Tell the clients, then switch all at once: --strategy blue-green.",
            )

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
                f"{method} {request.full_url}: {error}",
                mend="Start the service (rlcourse serve http), or name the address that it calls its management.",
            ) from error


def _differs(live: dict[str, Any], trial: dict[str, Any]) -> str:
    # As the service itself compares them when it is told a share.
    for part in ("obs_size", "num_actions", "action_low", "action_high"):
        if live[part] != trial[part]:
            return f"has another {part.replace('_', ' ').replace('obs', 'observation')} than"
    return "remembers sessions, unlike" if trial["memory_size"] and not live["memory_size"] else ""
