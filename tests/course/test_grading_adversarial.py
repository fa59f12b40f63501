"""Submissions that do not want to be graded. Each gets its own verdict and stops nobody else's grading.

All of them lie in one folder that is graded once; the tests read the result. A second, smaller folder is graded
without bubblewrap, where the locks of the worker itself are all there is.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

import rlcourse
from rlcourse.course.grading.grader import ClassResult, Plan, grade_folder
from rlcourse.course.grading.sandbox import bubblewrap_works
from rlcourse.course.inside.confinement import Limits
from rlcourse.course.session import TimeLimits
from rlcourse.course.verdicts import Verdict

linux = pytest.mark.skipif(sys.platform != "linux", reason="the locks are those of Linux")
pytestmark = [linux, pytest.mark.slow, pytest.mark.xdist_group("one_at_a_time")]

TARGET = "def bellman_target(reward, discount, next_value):\n    return (reward + discount * next_value).detach()\n"
DOUBLE = (
    "def double_q_value(online_q, target_q):\n"
    "    return target_q.gather(-1, online_q.argmax(-1, keepdim=True)).squeeze(-1)\n"
)
PENALTY = (
    "def conservative_penalty(q, action):\n"
    "    return torch.logsumexp(q, -1) - q.gather(-1, action.unsqueeze(-1)).squeeze(-1)\n"
)
SECRET = Path(rlcourse.__file__).parent / "course/cases_ch04.py"

REFUSALS = f"""
import torch

def bellman_target(reward, discount, next_value):
    import os
    os.fork()

def double_q_value(online_q, target_q):
    import urllib.request
    return urllib.request.urlopen("http://127.0.0.1:1/").read()

def squared_td_error(q, action, target):
    return eval(open({str(SECRET)!r}).read())

def conservative_penalty(q, action):
    from rlcourse.objectives.values import conservative_penalty
    return conservative_penalty(q, action)

def polyak_update_(target, online, rate):
    try:
        import subprocess
        subprocess.run(["true"])
    except OSError:
        pass
    with torch.no_grad():
        for old, new in zip(target.parameters(), online.parameters()):
            old.lerp_(new, rate)

class AlwaysEqual:
    def __eq__(self, other):
        return True
    def __getattr__(self, name):
        return self

def hunt_double_q_value(online_q, target_q):
    return AlwaysEqual()

def hunt_conservative_penalty(q, action):
    return [0] * 10**9
"""

# Calls the C library directly, past every check of Python's own. Answers rightly only if nothing works.
WALLS = f"""
import ctypes
import torch

libc = ctypes.CDLL(None, use_errno=True)

def bellman_target(reward, discount, next_value):
    assert libc.fork() < 0, "fork"
    assert libc.vfork() < 0, "vfork"
    assert libc.socket(2, 1, 0) < 0, "internet socket"
    assert libc.socket(1, 1, 0) < 0, "unix socket"
    assert libc.open({str(SECRET).encode()!r}, 0) < 0, "the answers"
    assert libc.open(b"/etc/passwd", 0) < 0, "files of the machine"
    assert libc.open(b"/tmp/rlcourse-was-here", 0o101, 0o644) < 0, "writing elsewhere"
    assert libc.kill(libc.getppid(), 9) < 0, "kill"
    assert libc.tgkill(libc.getppid(), libc.getppid(), 9) < 0, "tgkill"
    assert libc.ptrace(16, libc.getppid(), 0, 0) < 0, "ptrace"
    assert libc.execve(b"/bin/true", None, None) < 0, "execve"
    assert libc.unshare(0x10000000) < 0, "unshare"
    return (reward + discount * next_value).detach()

def double_q_value(online_q, target_q):
    import resource
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
        try:
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (ValueError, PermissionError):
            continue
        raise AssertionError(f"limit {{kind}} was lifted")
    open("allowed", "w").write("its own folder")
    return target_q.gather(-1, online_q.argmax(-1, keepdim=True)).squeeze(-1)

def squared_td_error(q, action, target):
    with open("too-large", "wb") as file:
        for _ in range(100):
            file.write(bytes(1 << 20))
"""

DEATHS = """
import ctypes, os, sys

def bellman_target(reward, discount, next_value):
    os._exit(0)

def double_q_value(online_q, target_q):
    ctypes.string_at(0)

def squared_td_error(q, action, target):
    while True:
        pass

def conservative_penalty(q, action):
    for handle in range(3, 100):
        try:
            os.write(handle, b'passed, full marks\\n')
        except OSError:
            pass

def polyak_update_(target, online, rate):
    sys.exit(0)
"""

FORGERY = """
import json, os

def bellman_target(reward, discount, next_value):
    count = 12
    value = {"kind": "tensor", "dtype": "float32", "shape": [1], "data": [10.0]}
    outcome = {"value": value, "gradients": {"next_value": {"kind": "none"}}, "changed": []}
    message = json.dumps({"outcomes": [outcome] * count, "verdict": "passed"}).encode() + b"\\n"
    for handle in range(3, 100):
        try:
            os.write(handle, message)
        except OSError:
            pass
    return (reward + discount * next_value).detach()

def double_q_value(online_q, target_q):
    return online_q.amax(-1)
"""

PATCHES = """
import unittest
import torch
torch.allclose = torch.equal = lambda *a, **k: True
torch.testing.assert_close = lambda *a, **k: None
torch.Tensor.__eq__ = lambda self, other: True
unittest.TestCase.assertEqual = lambda *a: None

def bellman_target(reward, discount, next_value):
    return reward

def conservative_penalty(q, action):
    return torch.logsumexp(q, -1) - q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
"""


def notebook(*cells: str) -> str:
    code = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": []} for cell in cells]
    return json.dumps({"cells": code, "nbformat": 4})


SUBMISSIONS: dict[str, str | bytes] = {
    "aaron_honest.py": "import torch\n" + PENALTY + TARGET + DOUBLE,
    "bad_bytes.py": b"# caf\xe9\n",
    "bad_notebook.ipynb": '{"cells": [{"cell_type": "code", "sou',
    "crash.py": "import torch\nraise RuntimeError('not today')\n" + TARGET,
    "crash_late.py": TARGET + "bellman_target(1)\n" + DOUBLE,
    "deaths.py": DEATHS,
    "exits.py": "import os\nos._exit(0)\n",
    "forger.py": FORGERY,
    "forks.py": "import os\nwhile True:\n    os.fork()\n",
    "hog.py": "hoard = []\nwhile True:\n    hoard.append(bytearray(1 << 26))\n",
    "imports.py": "from rlcourse.objectives.values import *\n" + TARGET,
    "loops.py": "while True:\n    pass\n" + TARGET,
    "notebook.ipynb": notebook(
        "%pip install torch", DOUBLE, "1 / 0", "from rlcourse.course import check", TARGET, "check(1)"
    ),
    "patches.py": PATCHES,
    "quits.py": "import sys\n" + TARGET + "sys.exit()\n",
    "refusals.py": REFUSALS,
    "syntax.py": "def bellman_target(reward:\n",
    "walls.py": WALLS,
    "zoe_honest.py": "import torch\n" + DOUBLE + "def helper(): pass\n" + TARGET,
}


def grade(folder: Path, isolation: str, names: list[str]) -> ClassResult:
    (folder / "in").mkdir()
    for name in names:
        content = SUBMISSIONS[name]
        (folder / "in" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "in/empty").mkdir()
    plan = Plan(
        folder / "in",
        folder / "out",
        exercises=("ch04_cql",),
        seed=11,
        isolation=isolation,  # type: ignore[arg-type]
        limits=Limits(memory_mib=512),
        time_limits=TimeLimits(load_s=4.0, exercise_s=3.0),
    )
    # Other tests grade at the same time: a temporary folder of its own shows what this class leaves behind.
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        result = grade_folder(plan)
    assert list((folder / "temporary").iterdir()) == []
    return result


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> ClassResult:
    """Everything, behind the best walls that this machine has."""
    return grade(tmp_path_factory.mktemp("strong"), "auto", list(SUBMISSIONS))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> ClassResult:
    """The fallback, without bubblewrap."""
    names = ["aaron_honest.py", "deaths.py", "forks.py", "hog.py", "refusals.py", "walls.py", "zoe_honest.py"]
    return grade(tmp_path_factory.mktemp("bare"), "process", names)


def of(result: ClassResult, student: str) -> dict[str, Verdict]:
    return {v.exercise: v for graded in result.graded if graded.student == student for v in graded.verdicts}


def statuses(result: ClassResult, student: str) -> dict[str, str]:
    return {name: verdict.status for name, verdict in of(result, student).items()}


def test_the_best_walls_of_this_machine_were_used(strong: ClassResult) -> None:
    assert strong.isolation == ("bubblewrap" if bubblewrap_works() else "process")
    locks = [graded.locks for graded in strong.graded if graded.locks is not None]
    assert locks and all(set(held) >= {"limits", "system"} for held in locks)


def test_the_honest_get_their_marks(strong: ClassResult) -> None:
    aaron = statuses(strong, "aaron_honest")
    assert [name for name, status in aaron.items() if status == "passed"] == [
        "bellman_target",
        "double_q_value",
        "conservative_penalty",
    ]
    assert aaron["polyak_update_"] == "missing"
    assert statuses(strong, "zoe_honest")["bellman_target"] == "passed"
    assert len(strong.graded) == len(SUBMISSIONS) + 1
    assert all(len(graded.verdicts) == 7 for graded in strong.graded)


def test_a_notebook_is_matched_by_name_and_goes_on_after_a_failing_cell(strong: ClassResult) -> None:
    verdicts = of(strong, "notebook")
    assert verdicts["bellman_target"].passed
    assert verdicts["double_q_value"].passed
    assert "cell 3 stopped with ZeroDivisionError" in verdicts["bellman_target"].notes[0]


@pytest.mark.parametrize(
    ("student", "status", "says"),
    [
        ("bad_bytes", "unreadable", "not UTF-8"),
        ("bad_notebook", "unreadable", "damaged notebook"),
        ("crash", "crashed_loading", "crash.py, line 2 stopped with RuntimeError: not today"),
        ("empty", "missing", "no .py file and no notebook"),
        ("exits", "process_died", "exit status 0 while the file was loading"),
        ("forks", "process_refused", "os.fork"),
        ("hog", "memory_limit", "MemoryError"),
        ("imports", "imports_answer", "rlcourse.objectives"),
        ("loops", "time_limit", "4 seconds while the file was loading"),
        ("syntax", "unreadable", "syntax.py, line 1"),
    ],
)
def test_what_goes_wrong_before_any_answer(strong: ClassResult, student: str, status: str, says: str) -> None:
    verdicts = of(strong, student)
    assert {verdict.status for verdict in verdicts.values()} == {status}
    assert says in verdicts["bellman_target"].message


@pytest.mark.parametrize("student", ["crash_late", "quits"])
def test_an_answer_defined_before_the_crash_counts(strong: ClassResult, student: str) -> None:
    verdicts = of(strong, student)
    assert verdicts["bellman_target"].passed
    assert verdicts["bellman_target"].notes
    assert verdicts["double_q_value"].status == "crashed_loading"


def check_refusals(result: ClassResult) -> None:
    assert statuses(result, "refusals") == {
        "bellman_target": "process_refused",
        "double_q_value": "network_refused",
        "squared_td_error": "file_refused",
        "conservative_penalty": "imports_answer",
        "polyak_update_": "passed",
        "hunt_double_q_value": "wrong_type",
        "hunt_conservative_penalty": "memory_limit",
    }
    verdicts = of(result, "refusals")
    assert "subprocess.Popen" in verdicts["polyak_update_"].notes[0]
    case = verdicts["hunt_double_q_value"].case
    assert case is not None and case.got.endswith("AlwaysEqual")


def test_each_thing_refused_has_its_own_verdict(strong: ClassResult) -> None:
    check_refusals(strong)


def test_each_thing_refused_has_its_own_verdict_without_bubblewrap(bare: ClassResult) -> None:
    check_refusals(bare)


def check_walls(result: ClassResult) -> None:
    verdicts = of(result, "walls")
    assert verdicts["bellman_target"].passed, verdicts["bellman_target"]
    assert verdicts["double_q_value"].passed, verdicts["double_q_value"]
    assert verdicts["squared_td_error"].status == "failed"
    case = verdicts["squared_td_error"].case
    assert case is not None
    assert "File too large" in case.got


def test_the_walls_hold_against_the_c_library(strong: ClassResult) -> None:
    check_walls(strong)


def test_the_walls_hold_against_the_c_library_without_bubblewrap(bare: ClassResult) -> None:
    held = next(graded.locks for graded in bare.graded if graded.student == "walls")
    assert held is not None
    if "files" not in held:
        pytest.skip("this kernel has no Landlock; the report says so")
    check_walls(bare)


def check_deaths(result: ClassResult) -> None:
    verdicts = of(result, "deaths")
    assert statuses(result, "deaths") == {
        "bellman_target": "process_died",
        "double_q_value": "process_died",
        "squared_td_error": "time_limit",
        "conservative_penalty": "bad_reply",
        "polyak_update_": "process_died",
        "hunt_double_q_value": "process_died",
        "hunt_conservative_penalty": "process_died",
    }
    assert "SIGSEGV" in verdicts["double_q_value"].message
    assert "Not run" in verdicts["hunt_double_q_value"].message


def test_an_answer_that_kills_its_worker_costs_only_itself(strong: ClassResult) -> None:
    check_deaths(strong)


def test_an_answer_that_kills_its_worker_costs_only_itself_without_bubblewrap(bare: ClassResult) -> None:
    check_deaths(bare)


def test_a_forged_reply_earns_nothing(strong: ClassResult) -> None:
    assert not of(strong, "forger")["bellman_target"].passed
    assert not of(strong, "forger")["double_q_value"].passed


def test_patched_comparisons_change_nothing_and_are_named(strong: ClassResult) -> None:
    verdicts = of(strong, "patches")
    assert verdicts["bellman_target"].status == "tampered"
    for name in (
        "torch.allclose",
        "torch.testing.assert_close",
        "torch.Tensor.__eq__",
        "unittest.TestCase.assertEqual",
    ):
        assert name in verdicts["bellman_target"].message
    assert verdicts["conservative_penalty"].passed
    assert "was replaced" in verdicts["conservative_penalty"].notes[0]


def test_without_bubblewrap_nobody_stops_anybody_either(bare: ClassResult) -> None:
    assert bare.isolation == "process"
    assert statuses(bare, "aaron_honest")["bellman_target"] == "passed"
    assert statuses(bare, "zoe_honest")["bellman_target"] == "passed"
    assert set(statuses(bare, "forks").values()) == {"process_refused"}
    assert set(statuses(bare, "hog").values()) == {"memory_limit"}


def test_nothing_is_left_behind(strong: ClassResult, bare: ClassResult) -> None:
    # The graders' own folders are looked at in grade(), as soon as it is done.
    assert not Path("/tmp/rlcourse-was-here").exists()
    assert shutil.which("true"), "the machine's own programs are as they were"
