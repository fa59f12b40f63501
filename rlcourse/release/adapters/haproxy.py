"""HAProxy: the share as weights of its servers, set over the runtime socket, without a reload.

What the configuration has to say (:func:`configuration` writes it)::

    backend policy
        balance hdr(x-session)          # a session is answered by one server ...
        hash-type consistent            # ... and stays there when weights change, unless it must move
        server blue  127.0.0.1:9001 weight 256
        server green 127.0.0.1:9002 weight 0

With consistent hashing a server's weight is the number of its points on a ring. A canary that grows gets more points and
loses none, and the incumbent only loses points: so nobody who is in the canary is taken out of it. The salt of a routing
has no meaning here: HAProxy draws its own canary, the same for each release.

A shadow is refused: HAProxy mirrors requests only with an agent of its own (SPOE), so the copies are better sent by the
service or its client.

Weights that were set over the socket are lost when HAProxy restarts or reads its configuration anew: it begins with those that
are written there. While a release runs, every step of it looks, and pauses it (:mod:`rlcourse.release.straying`). After its
end nobody looks any more. So write the weights of the winner into the configuration then, or have HAProxy keep them:
``server-state-file`` and ``load-server-state-from-file global``, and ``show servers state`` into that file before each
restart.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from rlcourse.errors import ConfigError, ServerError
from rlcourse.release.routing import Routing

WEIGHTS = 256
"""HAProxy's largest weight; a share is rounded to a 256th, and to no less than one."""


class HAProxyRouter:
    """Applies routings to one backend.

    Args:
        path: of the runtime socket ("stats socket PATH level admin").
        backend: its name in the configuration.
        servers: which server runs a version.
        timeout_s: for each command.
    """

    def __init__(self, path: Path, backend: str, servers: Mapping[str, str], *, timeout_s: float = 2.0) -> None:
        self.path, self.backend, self.servers, self.timeout_s = path, backend, dict(servers), timeout_s

    def apply(self, routing: Routing) -> None:
        """Set all weights, those that grow first: at no moment is there nobody to answer.

        Raises:
            ConfigError: no server runs that version, or a shadow is asked for.
            ServerError: HAProxy does not answer, or refuses.
        """
        if routing.shadow is not None:
            raise ConfigError(
                f"HAProxy cannot mirror requests to {routing.shadow}.",
                mend="Leave the shadow out, or have the client send the copies: rlcourse.release.mirror.",
            )
        wanted = dict.fromkeys(self.servers.values(), 0) | self._weights(routing)
        for server, weight in sorted(wanted.items(), key=lambda pair: -pair[1]):
            said = self._command(f"set weight {self.backend}/{server} {weight}")
            if said:
                raise ServerError(f"HAProxy: {said}", mend="Check the names of backend and server.")
        found = {server: self.weight(server) for server in wanted}
        if found != wanted:
            raise ServerError(f"HAProxy has the weights {found}, not {wanted}.", mend="Does somebody else set them?")

    def check(self, incumbent: str, candidate: str) -> None:
        """Whether a release may begin.

        Raises:
            ServerError: HAProxy does not answer, or has no such server.
            ConfigError: no server runs one of the two, or somebody else answers than the incumbent alone.
        """
        self._weights(Routing(incumbent, candidate))
        found = {server: self.weight(server) for server in self.servers.values()}
        if self.current() != Routing(incumbent):
            raise ConfigError(
                f"HAProxy has the weights {found}: not {incumbent} alone answers.",
                mend="End the other release, or name the version that is live as the incumbent.",
            )

    def current(self) -> Routing | None:
        """What its weights say now; ``None`` if they are not those of one or two versions. It knows no salt.

        Raises:
            ServerError: no such server, or no answer.
        """
        return _routing({version: self.weight(server) for version, server in self.servers.items()})

    def nearest(self, routing: Routing) -> Routing:
        """What :meth:`current` says once a routing was applied.

        Raises:
            ConfigError: no server runs that version.
        """
        weights = self._weights(routing)
        found = _routing({version: weights.get(server, 0) for version, server in self.servers.items()})
        return routing if found is None else found

    def weight(self, server: str) -> int:
        """As HAProxy has it now.

        Raises:
            ServerError: no such server, or no answer.
        """
        said = self._command(f"get weight {self.backend}/{server}")
        try:
            return int(said.split()[0])
        except (ValueError, IndexError):
            raise ServerError(f"HAProxy: {said}", mend="Check the names of backend and server.") from None

    def _weights(self, routing: Routing) -> dict[str, int]:
        unknown = {routing.live, routing.trial} - {None} - set(self.servers)
        if unknown:
            raise ConfigError(f"No server runs {unknown}.", mend=f"There are {', '.join(sorted(self.servers))}.")
        if routing.trial is None or routing.share == 0.0:
            return {self.servers[routing.live]: WEIGHTS}
        trial = min(max(round(WEIGHTS * routing.share), 1), WEIGHTS - 1)
        return {self.servers[routing.live]: WEIGHTS - trial, self.servers[routing.trial]: trial}

    def _command(self, words: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self.timeout_s)
                connection.connect(str(self.path))
                connection.sendall(words.encode() + b"\n")
                said = b""
                while part := connection.recv(4096):
                    said += part
        except OSError as error:
            raise ServerError(
                f"HAProxy does not answer at {self.path}: {error}.",
                mend="Is it running, with 'stats socket ... level admin'?",
            ) from error
        return said.decode(errors="replace").strip()


def _routing(weights: Mapping[str, int]) -> Routing | None:
    """Weights by version as a routing: who has most is live, and nobody stands by."""
    answering = sorted((version for version in weights if weights[version] > 0), key=lambda version: -weights[version])
    if not 0 < len(answering) < 3:
        return None
    if len(answering) == 1:
        return Routing(answering[0])
    live, trial = answering
    return Routing(live, trial, weights[trial] / (weights[live] + weights[trial]))


def configuration(socket_path: Path, port: int, servers: Mapping[str, tuple[str, int]], live: str) -> str:
    """A small ``haproxy.cfg``: one frontend on this machine, one backend ``policy`` with a server for each name."""
    lines = [
        "global",
        f"    stats socket {socket_path} mode 600 level admin",
        "defaults",
        "    mode http",
        "    timeout connect 2s",
        "    timeout client 30s",
        "    timeout server 30s",
        "frontend in",
        f"    bind 127.0.0.1:{port}",
        "    default_backend policy",
        "backend policy",
        "    balance hdr(x-session)",
        "    hash-type consistent",
        *(
            f"    server {name} {host}:{number} weight {WEIGHTS if name == live else 0}"
            for name, (host, number) in servers.items()
        ),
    ]
    return "\n".join(lines) + "\n"
