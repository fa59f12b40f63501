"""The five ports of a TorchServe, which lie in a row, and what is said where one of them is taken."""

from __future__ import annotations

import socket

from rlcourse.errors import ServerError

HOST = "127.0.0.1"
COUNT = 5
"""Predictions, management, metrics, and two for gRPC."""
_TAKEN = "Address already in use"


def demand_free(port: int) -> None:
    """Whether TorchServe could listen on all of its ports now; it takes seconds to find that out itself.

    Args:
        port: the first of them.

    Raises:
        ServerError: it could not.
    """
    for one in range(port, port + COUNT):
        with socket.socket() as probe:
            # As Netty does: connections that have ended and only linger are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, one))
            except OSError as error:
                raise _taken(port, f"port {one} cannot be had: {error.strerror or error}") from error


def demand_free_in(log: str, port: int) -> None:
    """Whether somebody took a port in the moment between :func:`demand_free` and the start, as TorchServe's log tells.

    Raises:
        ServerError: so it says.
    """
    if _TAKEN in log:
        raise _taken(port, f"one of them was taken while it started: {_TAKEN}")


def _taken(port: int, why: str) -> ServerError:
    return ServerError(
        f"TorchServe needs the ports {port} to {port + COUNT - 1} of {HOST}, and {why}.",
        mend="Name the first of five free ports with --port, best below 32768: those above also serve connections that go "
        "out. ss -tanp shows who uses one.",
    )
