"""The walls around a worker: which there are on this machine, and how to start a process behind them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import rlcourse
from rlcourse.course.channel import Channel
from rlcourse.errors import ConfigError

Isolation = Literal["auto", "bubblewrap", "process"]

_PACKAGE = Path(rlcourse.__file__).resolve().parent
_OPEN_FILES = ("__init__.py", "errors.py", "vocabulary.py")
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/alternatives",
    "/etc/localtime",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


@cache
def bubblewrap_works() -> bool:
    """Whether ``bwrap`` is installed and may make namespaces here."""
    if shutil.which("bwrap") is None:
        return False
    probe = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    return subprocess.run(probe, capture_output=True, timeout=20, check=False).returncode == 0


def choose(isolation: Isolation) -> Literal["bubblewrap", "process"]:
    """The strongest isolation there is, or the one asked for.

    Raises:
        ConfigError: bubblewrap was asked for and does not work here.
    """
    if isolation == "bubblewrap" and not bubblewrap_works():
        raise ConfigError("bubblewrap does not work here.", mend="Install it (apt install bubblewrap), or use auto.")
    if isolation == "auto":
        return "bubblewrap" if bubblewrap_works() else "process"
    return isolation


class CancelledError(Exception):
    """The run was interrupted; no more workers are started."""


class _Group(subprocess.Popen[bytes]):
    """A process that is killed together with everything it started, also before bubblewrap has tied them together."""

    def kill(self) -> None:
        if self.returncode is None:  # not yet waited for, so its number cannot mean anybody else
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


@dataclass
class Sandbox:
    """Everything that the workers of one run have in common. Threads may share it."""

    isolation: Literal["bubblewrap", "process"]
    facade: Path
    """A copy of the few files of the package that an answer may read."""
    hidden: tuple[Path, ...]
    """Where the answers are; named, so that an attempt to read them gets a clear verdict."""
    _running: set[Channel] = field(default_factory=set, init=False)
    _cancelled: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def cancel(self) -> None:
        """End all workers now and start no more."""
        with self._lock:
            self._cancelled = True
            for channel in self._running:
                channel.process.kill()

    def _admit(self, channel: Channel) -> None:
        with self._lock:
            self._running.add(channel)
            if self._cancelled:
                channel.process.kill()

    @contextmanager
    def start(self) -> Iterator[tuple[Channel, Path]]:
        """A worker and its own empty folder; both are gone afterwards."""
        if self._cancelled:
            raise CancelledError
        folder = Path(tempfile.mkdtemp(prefix="rlcourse-answer-"))
        received, replies = os.pipe()
        stdin, requests = os.pipe()
        try:
            process = _Group(
                self._command(folder, replies),
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(replies,),
                cwd=folder,
                env=_environment(folder),
                start_new_session=True,  # Ctrl-C is for the grader; it ends its workers itself
            )
        except BaseException:
            os.close(received)
            os.close(requests)
            raise
        finally:
            os.close(replies)
            os.close(stdin)
        channel = Channel(process, requests, received)
        self._admit(channel)
        try:
            yield channel, folder
            if self._cancelled:  # it was killed from outside: no verdict may come of that
                raise CancelledError
        finally:
            with self._lock:
                self._running.discard(channel)
            channel.close()
            shutil.rmtree(folder, ignore_errors=True)

    def setup(self, folder: Path) -> dict[str, Any]:
        """What the worker must be told to lock itself in."""
        return {
            "facade": str(self.facade),
            "readable": self._readable,
            "writable": [str(folder), "/dev/null"],
            "hidden": [str(path) for path in self.hidden],
        }

    @cached_property
    def _readable(self) -> list[str]:
        """What the interpreter and its packages need, without the package's own answers."""
        roots = [*_SYSTEM, *_DEVICES, str(self.facade)]
        for prefix in _prefixes():
            roots += (
                _around(prefix, _PACKAGE) if _PACKAGE.is_relative_to(prefix / "lib") else _interpreter_parts(prefix)
            )
        return roots

    def _command(self, folder: Path, replies: int) -> list[str]:
        worker = self.facade / "rlcourse/course/inside/worker.py"
        # -I: no environment, no user packages, nothing from the current folder; -B: no bytecode files.
        command = [sys.executable, "-I", "-B", str(worker), str(replies)]
        return command if self.isolation == "process" else [*self._bubblewrap(folder), *command]

    def _bubblewrap(self, folder: Path) -> list[str]:
        walls = ["bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
        # First, because an environment may lie under /tmp, and what is mounted later lies on top.
        walls += ["--proc", "/proc", "--dev", "/dev", "--size", str(64 << 20), "--tmpfs", "/tmp"]
        for path in _SYSTEM:
            walls += ["--ro-bind-try", path, path]
        for prefix in _prefixes():
            for part in _interpreter_parts(prefix):
                walls += ["--ro-bind-try", part, part]
            if _PACKAGE.is_relative_to(prefix / "lib"):
                walls += ["--tmpfs", str(_PACKAGE)]
        walls += ["--ro-bind", str(self.facade), str(self.facade), "--size", str(64 << 20), "--tmpfs", str(folder)]
        return [*walls, "--remount-ro", "/", "--chdir", str(folder), "--"]


@contextmanager
def sandbox(isolation: Isolation, hidden: tuple[Path, ...] = ()) -> Iterator[Sandbox]:
    """Prepare the walls for a run.

    Args:
        isolation: ``auto`` takes bubblewrap where it works.
        hidden: more folders that an answer must not read, such as the other submissions.
    """
    with tempfile.TemporaryDirectory(prefix="rlcourse-facade-") as name:
        facade = Path(name)
        _build_facade(facade / "rlcourse")
        yield Sandbox(choose(isolation), facade, (_PACKAGE, *_repository_folders(), *hidden))


def _build_facade(target: Path) -> None:
    course = target / "course"
    course.mkdir(parents=True)
    for name in _OPEN_FILES:
        shutil.copy(_PACKAGE / name, target / name)
    shutil.copytree(_PACKAGE / "course/inside", course / "inside", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_PACKAGE / "course/inside/facade.py", course / "__init__.py")


def _repository_folders() -> tuple[Path, ...]:
    root = _PACKAGE.parent
    return tuple(root / name for name in ("solutions", "tests") if (root / name).is_dir())


def _prefixes() -> list[Path]:
    return [Path(prefix) for prefix in dict.fromkeys((sys.prefix, sys.base_prefix)) if prefix != "/usr"]


def _interpreter_parts(prefix: Path) -> list[str]:
    """The parts of an environment's folder that belong to the interpreter; the rest may be anybody's."""
    return [str(prefix / name) for name in ("bin", "lib", "lib64", "pyvenv.cfg", "include", "share")]


def _around(folder: Path, hole: Path) -> list[str]:
    """Paths that together hold everything in ``folder`` except ``hole``, which lies somewhere in it."""
    if folder == hole:
        return []
    found = []
    for child in sorted(folder.iterdir()):
        found += _around(child, hole) if hole.is_relative_to(child) else [str(child)]
    return found


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        # One thread each: the workers share the cores.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
