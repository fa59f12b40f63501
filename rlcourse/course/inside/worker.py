"""The process that runs one submission. Started by the grader as a script, in a sandbox; see ``session.py``.

It speaks JSON, one object a line: requests on standard input, replies on a descriptor named on the command line.
What it says before the submission's code runs (``read``, ``ready``) can be believed. Everything after that may be
forged, and the grader treats it so: a reply holds nothing but plain values, which are compared with values that never
enter this process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

Send = Callable[[dict[str, Any]], None]


def main() -> None:
    """Read, load, answer, until the requests end."""
    reply_handle = int(sys.argv[1])
    # A submission that calls input() must not eat the requests.
    requests = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    setup = json.loads(requests.readline())
    sys.path.insert(0, setup["facade"])

    from rlcourse.course.inside import confinement

    confinement.die_with_parent()
    send = sender(reply_handle)

    def lock() -> list[str]:
        limits = confinement.Limits(**setup["limits"])
        held = confinement.confine(limits, setup["readable"], setup["writable"])
        _watch(send, setup["writable"], setup["hidden"])
        return held

    converse(setup, requests, send, lock)


def sender(handle: int) -> Send:
    """A function that writes one message to a descriptor."""

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(handle, data) :]

    return send


def converse(
    setup: dict[str, Any],
    requests: Iterable[bytes],
    send: Send,
    lock: Callable[[], list[str]],
    load: Callable[[Any], Any] | None = None,
) -> None:
    """The worker's side of the conversation.

    Args:
        setup: the first request.
        requests: the others, one a line.
        send: writes a reply.
        lock: called when torch is there and before the submission runs; returns the names of the locks that hold.
        load: turns files into functions; by default runs them.
    """
    from rlcourse.course.inside import loading

    lines = iter(requests)
    files = [loading.File(file["name"], tuple(file["cells"])) for file in setup["files"]]
    reading = loading.read(files)
    states = {name: definition.state for name, definition in reading.definitions.items()}
    send({"read": states, "syntax_errors": reading.syntax_errors, "answer_imports": reading.answer_imports})
    if next(lines, None) is None:
        return

    import torch

    from rlcourse.course.inside.calling import call, describe_error

    torch.set_num_threads(1)
    before = _tools()
    send({"ready": lock()})
    loaded = (load or loading.load)(files)
    tampered = sorted(name for name, tool in _tools().items() if tool is not before[name])
    failures = [{"place": f.place, **describe_error(f.error)} for f in loaded.failures]
    send({"loaded": failures, "tampered": tampered})

    for line in lines:
        request = json.loads(line)
        definition = reading.definitions.get(request["exercise"])
        function = loaded.function(request["exercise"], definition.file if definition else None)
        if function is None:
            send({"outcomes": None})
            continue
        calls = request["calls"]
        send({"outcomes": [call(function, given, request["gradient_of"], request["observe"]) for given in calls]})


def _tools() -> dict[str, Any]:
    """What a submission might replace in the hope of being believed. It changes nothing; the report mentions it."""
    import unittest

    import torch

    return {
        "torch.allclose": torch.allclose,
        "torch.equal": torch.equal,
        "torch.isclose": torch.isclose,
        "torch.testing.assert_close": torch.testing.assert_close,
        "torch.Tensor.__eq__": torch.Tensor.__eq__,
        "unittest.TestCase.assertEqual": unittest.TestCase.assertEqual,
        "unittest.TestCase.assertTrue": unittest.TestCase.assertTrue,
        "json.dumps": json.dumps,
        "os.write": os.write,
    }


class RefusedError(PermissionError):
    """Something that a graded answer may not do."""


class RefusedImportError(ImportError):
    """A part of the package that a graded answer may not use."""


_PROCESS_EVENTS = frozenset(
    {"os.fork", "os.forkpty", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"}
)
_FILE_EVENTS = frozenset(
    {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.symlink", "os.link", "shutil.rmtree"}
)


def _watch(send: Send, writable: list[str], hidden: list[str]) -> None:
    """Name what the locks refuse, so that the verdict is clear. The locks hold without this."""
    from rlcourse.course.inside.loading import is_closed

    write_flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    roots = tuple(os.path.realpath(path) for path in writable)
    secrets = tuple(os.path.realpath(path) for path in hidden)

    def inside(path: str, folders: tuple[str, ...]) -> bool:
        return any(path == folder or path.startswith(folder + os.sep) for folder in folders)

    def refuse(kind: str, what: str) -> None:
        send({"refused": kind, "what": what[:200]})
        if kind == "imports_answer":
            raise RefusedImportError(f"{what} is not there when answers are graded")
        raise RefusedError(1, f"not allowed in a graded answer: {what[:200]}")

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event == "import":
            if is_closed(str(details[0])):
                refuse("imports_answer", str(details[0]))
        elif event in _PROCESS_EVENTS:
            refuse("process_refused", event)
        elif event.startswith("socket.") and event not in ("socket.gethostname", "socket.sethostname"):
            unix = event == "socket.__new__" and details[1] == 1
            if not unix:
                refuse("network_refused", event)
        elif event == "open" and isinstance(details[0], str | bytes):
            path = os.path.realpath(os.fsdecode(details[0]))
            writes = bool(details[2] & write_flags)
            if inside(path, secrets) or (writes and not inside(path, roots)):
                refuse("file_refused", f"open {path}")
        elif event in _FILE_EVENTS and not inside(os.path.realpath(os.fsdecode(details[0])), roots):
            refuse("file_refused", f"{event} {details[0]}")

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
