"""Lines of JSON to and from a process that may hang, lie or die."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from typing import Any, Protocol

MAX_REPLY_BYTES = 4 << 20
_CHUNK = 1 << 16


class ChannelError(Exception):
    """The conversation is over. The subclass says why."""


class TimedOutError(ChannelError):
    """Nothing came in time."""


class GarbageError(ChannelError):
    """What came is not a line of JSON, or far too long."""


class DiedError(ChannelError):
    """The process ended. Its exit status is the argument."""


class Process(Protocol):
    """What a channel needs of a process; ``subprocess.Popen`` has it."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal; ``subprocess.TimeoutExpired`` if it has none in time."""
        ...


class Channel:
    """One process and the two pipes to it, which the channel owns. Not for sharing between threads."""

    def __init__(self, process: Process, requests: int, replies: int) -> None:
        self.process = process
        self._requests = requests
        self._replies = replies
        self._received = b""
        os.set_blocking(self._requests, False)
        os.set_blocking(self._replies, False)

    def send(self, message: dict[str, Any], timeout_s: float) -> None:
        """Write one line.

        Raises:
            TimedOutError: the process does not read.
            DiedError: it is not there any more.
        """
        data = json.dumps(message).encode() + b"\n"
        deadline = time.monotonic() + timeout_s
        while data:
            _, ready, _ = select.select([], [self._requests], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimedOutError
            try:
                data = data[os.write(self._requests, data[:_CHUNK]) :]
            except BrokenPipeError:
                raise self._died() from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Read one line.

        Raises:
            TimedOutError: none came in time.
            GarbageError: it is no JSON object, or longer than ``MAX_REPLY_BYTES``.
            DiedError: the process ended first.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if len(self._received) > MAX_REPLY_BYTES:
                raise GarbageError("a reply without end")
            ready, _, _ = select.select([self._replies], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimedOutError
            chunk = os.read(self._replies, _CHUNK)
            if not chunk:
                raise self._died()
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise GarbageError("a reply that is not JSON") from None
        if type(message) is not dict:
            raise GarbageError("a reply that is not an object")
        return message

    def _died(self) -> DiedError:
        try:
            return DiedError(self.process.wait(timeout=5))
        except subprocess.TimeoutExpired:  # it closed the pipe and lives on
            return DiedError(0)

    def close(self) -> None:
        """Kill whatever is left and free the pipes."""
        self.process.kill()
        self.process.wait()
        os.close(self._requests)
        os.close(self._replies)
