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

A shadow gets nothing: HAProxy mirrors requests only with an agent of its own (SPOE), so the copies are better sent by the
service or its client.
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
            ConfigError: no server runs that version.
            ServerError: HAProxy does not answer, or refuses.
        """
        unknown = {routing.live, routing.trial} - {None} - set(self.servers)
        if unknown:
            raise ConfigError(f"No server runs {unknown}.", mend=f"There are {', '.join(sorted(self.servers))}.")
        wanted = dict.fromkeys(self.servers.values(), 0) | self._weights(routing)
        for server, weight in sorted(wanted.items(), key=lambda pair: -pair[1]):
            said = self._command(f"set weight {self.backend}/{server} {weight}")
            if said:
                raise ServerError(f"HAProxy: {said}", mend="Check the names of backend and server.")
        found = {server: self.weight(server) for server in wanted}
        if found != wanted:
            raise ServerError(f"HAProxy has the weights {found}, not {wanted}.", mend="Does somebody else set them?")

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
