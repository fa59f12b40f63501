"""Runs in processes of their own: what fails, what is killed, and who is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlcourse.errors import ConfigError
from rlcourse.recipes.parallel import check_jobs, cores

# The tasks' words say what happens; this file is a program, so that another process can find its functions.
PROGRAM = """
    import os, sys, time
    from dataclasses import dataclass
    from pathlib import Path

    from rlcourse.errors import StorageError
    from rlcourse.files import atomic_directory, write_json
    from rlcourse.recipes.parallel import RESULT, finish, is_finished, result

    @dataclass(frozen=True)
    class Task:
        name: str
        folder: Path

    def work(task):
        with (task.folder.parent / "log").open("a") as log:
            log.write(f"{task.name} {os.getpid()}\\n")
        if task.name == "fails":
            raise StorageError("No room.", mend="Make some.")
        if task.name == "errs":
            raise ZeroDivisionError("a mistake of ours")
        if task.name == "dies":
            os._exit(9)
        time.sleep(60 if task.name.startswith("slow") else 0)
        with atomic_directory(task.folder) as part:
            write_json(part / RESULT, {"name": task.name})

    if __name__ == "__main__":
        tasks = [Task(name, Path(name).absolute()) for name in sys.argv[2:]]
        failures = finish(tasks, work, jobs=int(sys.argv[1]))
        print([(failure.task.name, str(failure.error)) for failure in failures])
        print([result(task)["name"] for task in tasks if is_finished(task)])
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def called(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, program, *words], cwd=program.parent, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_one_failure_does_not_lose_the_others(program: Path, jobs: str) -> None:
    done = called(program, jobs, "a", "fails", "b", "c")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[('fails', 'No room. Make some.')]", "['a', 'b', 'c']"]
    assert "run fails failed: No room. Make some." in done.stderr
    assert sorted(path.name for path in program.parent.iterdir() if path.is_dir() and path.name[0] not in "._") == list(
        "abc"
    )
    again = called(program, jobs, "a", "fails", "b", "c", "d")
    assert "3 of 5 runs are already there" in again.stderr
    assert (program.parent / "log").read_text().count("a ") == 1, "what is there is not done again"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_mistake_of_ours_is_raised_after_the_others_had_their_chance(program: Path, jobs: str) -> None:
    done = called(program, jobs, "errs", "a", "b")
    assert done.returncode == 1 and "ZeroDivisionError: a mistake of ours" in done.stderr.splitlines()[-1]
    assert (program.parent / "a").exists() and (program.parent / "b").exists()


def test_a_worker_that_is_killed_is_named(program: Path) -> None:
    done = called(program, "2", "a", "dies", "b")
    assert done.returncode == 1 and "WorkerLostError" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_command(program: Path, blow: signal.Signals, hear_ctrl_c: Callable[[], None]) -> None:
    command = [sys.executable, str(program), "2", "a", "slow", "slower"]
    process = subprocess.Popen(
        command, cwd=program.parent, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c
    )
    log = program.parent / "log"
    wait_for(lambda: log.exists() and log.read_text().count("slow") == 2)
    # Ctrl-C on a terminal reaches the whole group; SIGKILL the one it is sent to.
    os.killpg(process.pid, blow) if blow == signal.SIGINT else process.kill()
    _, said = process.communicate(timeout=20)
    assert process.returncode != 0
    assert said.count("Traceback") <= 1 and "_process_worker" not in said, "the workers are silent"
    workers = {int(line.split()[1]) for line in log.read_text().splitlines()}
    wait_for(lambda: not any(alive(worker) for worker in workers))
    assert {path.name for path in program.parent.iterdir() if path.is_dir() and path.name[0] not in "._"} == {"a"}


def wait_for(holds: object, timeout_s: float = 30.0) -> None:
    assert callable(holds)
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_more_jobs_than_cores_are_refused() -> None:
    check_jobs(1)
    check_jobs(cores())
    for jobs in (0, cores() + 1):
        with pytest.raises(ConfigError, match=f"{jobs} jobs on {cores()} cores"):
            check_jobs(jobs)
