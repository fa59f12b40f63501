"""Locks that a Linux process puts on itself and cannot take off again, without any privilege.

========== ============================================================ ===========================================
lock       stops                                                        mechanism
========== ============================================================ ===========================================
limits     using up CPU time, memory, disk                              ``setrlimit``
system     starting processes, opening sockets, signalling, tracing     seccomp filter
files      reading or writing outside what the interpreter needs        Landlock
========== ============================================================ ===========================================

The worker turns these on after torch has been imported and before a line of the submission runs. A lock that the kernel
does not offer is left out of what :func:`confine` returns, and the report says so.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22


@dataclass(frozen=True)
class Limits:
    """How much one worker process may use."""

    cpu_s: int = 60
    """CPU time of the whole worker, seconds."""
    memory_mib: int = 1024
    """Address space on top of what torch itself takes, MiB."""
    file_mib: int = 16
    """Size of any one file written, MiB."""


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def confine(limits: Limits, readable: Sequence[str], writable: Sequence[str]) -> list[str]:
    """Turn on every lock there is; returns the names of those that hold."""
    held = []
    if limit(limits):
        held.append("limits")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        _drop_capabilities(libc)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            if _landlock(libc, readable, writable):
                held.append("files")
            if _seccomp(libc):
                held.append("system")
    return held


def limit(limits: Limits) -> bool:
    """Bound the CPU time, memory and file sizes of this process; False where the system knows no such bounds."""
    try:
        import resource
    except ImportError:  # not a Unix
        return False
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_mib << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        size = pages * os.sysconf("SC_PAGE_SIZE") + (limits.memory_mib << 20)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    return True


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    # Root could otherwise lift its own limits. Failing means there was nothing to drop.
    header = struct.pack("Ii", 0x20080522, 0)
    libc.capset(header, struct.pack("6I", *[0] * 6))


# --- seccomp: system calls by machine -------------------------------------------------------------------------------

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FORBIDDEN = {  # fork vfork execve execveat socket ptrace vm_readv vm_writev kill tkill pidfd_* sigqueue setns unshare ...
    "x86_64": (57, 58, 59, 322, 41, 101, 310, 311, 62, 200, 424, 434, 438, 129, 297, 308, 272, 165, 425, 321, 323, 298),
    "aarch64": (221, 281, 198, 117, 270, 271, 129, 130, 424, 434, 438, 138, 240, 268, 97, 40, 425, 280, 282, 241),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_TGKILL = {"x86_64": 234, "aarch64": 131}
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_CLONE3 = 435
_CLONE_THREAD = 0x10000
_EPERM, _ENOSYS = 1, 38
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _GREATER_OR_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT_0 = 0, 4, 16  # offsets in struct seccomp_data


def _seccomp(libc: ctypes.CDLL) -> bool:
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        return False
    program = _filter(machine, os.getpid())
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer)))
    mode_filter = 2
    return bool(libc.prctl(_PR_SET_SECCOMP, mode_filter, ctypes.byref(header), 0, 0) == 0)


def _filter(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """The program of the filter: (operation, jump if true, jump if false, constant)."""
    program = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        # x86_64 has a second set of numbers above 2**30 for the same calls
        (_GREATER_OR_EQUAL, 0, 1, 0x40000000),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),  # its flags lie behind a pointer; libc falls back to clone
        (_EQUAL, 0, 4, _CLONE[machine]),
        (_LOAD, 0, 0, _ARGUMENT_0),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
        *_only_self(_TGKILL[machine], (pid,)),
        *_only_self(_PRLIMIT[machine], (0, pid)),
    ]
    for number in _FORBIDDEN[machine]:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _only_self(number: int, pids: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Allow a call whose first argument is one of ``pids``, refuse it otherwise."""
    tests = [(_EQUAL, len(pids) - i, 0, pid) for i, pid in enumerate(pids)]
    body = [(_LOAD, 0, 0, _ARGUMENT_0), *tests, (_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]


# --- Landlock -------------------------------------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ = (1 << 0) | (1 << 2) | (1 << 3)  # execute, read a file, list a folder
_ACCESS = (1 << 13) - 1  # everything of the first version


def _landlock(libc: ctypes.CDLL, readable: Sequence[str], writable: Sequence[str]) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    attributes = struct.pack("Q", _ACCESS)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    for path in readable:
        _allow(libc, ruleset, path, _READ)
    for path in writable:
        _allow(libc, ruleset, path, _ACCESS)
    held = bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    os.close(ruleset)
    return held


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this machine, so there is nothing to open up
        return
    if not os.path.isdir(path):
        access &= (1 << 0) | (1 << 1) | (1 << 2)  # a file cannot be listed
    under_path = 1
    libc.syscall(_ADD_RULE, ruleset, under_path, struct.pack("=Qi", access, handle), 0)
    os.close(handle)
