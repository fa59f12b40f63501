"""``rlcourse``: finds the command, derives its options from its config, runs it, turns errors into exit statuses.

Exit status: 0 done; 1 the work failed or a check did not hold; 2 the words were wrong; 130 interrupted.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata

import tyro

from rlcourse.errors import ConfigError, RLCourseError

# Each command's module is imported only when it is asked for: torch takes two seconds, and --help should not.
COMMANDS: dict[tuple[str, ...], tuple[str, str]] = {
    ("offline", "generate"): ("rlcourse.recipes.offline_generate:Generate", "make a data set by acting"),
    ("offline", "import"): ("rlcourse.recipes.offline_import:Import", "take in a log that somebody else wrote"),
    ("offline", "describe"): ("rlcourse.recipes.offline_describe:Describe", "show what a data set holds"),
    ("offline", "train"): ("rlcourse.recipes.offline_train:Train", "train BC, CQL, IQL or TD3+BC on a data set"),
    ("offline", "compare"): ("rlcourse.recipes.offline_compare:Compare", "train several and compare with intervals"),
    ("ope",): ("rlcourse.recipes.ope:Ope", "judge policies by a log that another wrote"),
    ("benchmark",): ("rlcourse.recipes.benchmark:Benchmark", "compare algorithms on environments, over many trials"),
    ("tune",): ("rlcourse.recipes.tune:Tune", "search for better settings, and check them on fresh seeds"),
    ("serve", "http"): ("rlcourse.recipes.serve_http:Serve", "answer over HTTP what a policy would do"),
    ("export",): ("rlcourse.recipes.export:Export", "write a policy in the forms that other programs run"),
    ("serve", "archive"): ("rlcourse.recipes.serve_archive:Archive", "pack a policy for TorchServe"),
    ("serve", "torchserve"): ("rlcourse.recipes.serve_torchserve:Serve", "answer with TorchServe"),
    ("serve", "ray"): ("rlcourse.recipes.serve_ray:Serve", "answer with replicas under Ray Serve"),
    ("serve", "manifest"): ("rlcourse.recipes.serve_manifest:Manifest", "write what KServe starts a service from"),
    ("serve", "versions"): ("rlcourse.recipes.serve_versions:Versions", "list and switch versions in TorchServe"),
    ("serve", "dataset"): ("rlcourse.recipes.serve_dataset:Dataset", "make a data set of what a service decided"),
    ("monitor", "render"): ("rlcourse.recipes.monitor:Render", "write alert rules, routing and dashboards as files"),
    ("monitor", "grade"): ("rlcourse.recipes.monitor_grade:Grade", "grade the alert that you wrote in chapter 17"),
    ("monitor", "up"): ("rlcourse.recipes.monitor:Up", "watch a running service and tell of alerts"),
    ("monitor", "follow"): ("rlcourse.recipes.monitor_follow:Follow", "show what logged decisions led to"),
    ("release", "start"): ("rlcourse.recipes.release:Start", "begin to replace a version by another, little by little"),
    ("release", "step"): ("rlcourse.recipes.release:Step", "ask the gate once and do what it says"),
    ("release", "status"): ("rlcourse.recipes.release:Status", "show where a release is"),
    ("release", "approve"): ("rlcourse.recipes.release:Approve", "answer yes to what a release asks"),
    ("release", "override"): ("rlcourse.recipes.release:Overrule", "pause, resume or go on against the gate"),
    ("release", "rollback"): ("rlcourse.recipes.release:Rollback", "go back at once"),
    ("release", "kill"): ("rlcourse.recipes.release:Kill", "go back at once and let nothing move"),
    ("release", "audit"): ("rlcourse.recipes.release:Audit", "show who did what, when and why"),
    ("release", "shadow"): ("rlcourse.recipes.release_shadow:Shadow", "show what a shadow would have done"),
    ("release", "apprentice"): (
        "rlcourse.recipes.release_apprentice:Tell",
        "show the autonomy that a policy has earned",
    ),
    ("release", "ab"): ("rlcourse.recipes.release_ab:Ab", "compare two versions: read once, and looked at daily"),
    ("release", "manifest"): ("rlcourse.recipes.release_manifest:Manifest", "write what Kubernetes is told"),
    ("release", "simulate"): ("rlcourse.recipes.release_simulate:Simulate", "learn how often gates are wrong"),
    ("check",): ("rlcourse.recipes.check:Check", "check your answers to exercises"),
    ("grade",): ("rlcourse.recipes.grade:Grade", "grade a folder of submissions"),
    ("doctor",): ("rlcourse.recipes.doctor:Doctor", "see whether this machine is ready"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except SystemExit as stop:  # tyro ends the process after --help (0) and after wrong words (2)
        return stop.code if isinstance(stop.code, int) else 2
    except ConfigError as error:
        return _complain(error, 2)
    except RLCourseError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; say nothing more, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview(()))
        return 0 if words else 2
    if words[0] == "--version":
        print(f"rlcourse {metadata.version('rlcourse')}")
        return 0
    name = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in COMMANDS), None)
    if name is None:
        return _unknown(words)
    module_name, class_name = COMMANDS[name][0].split(":")
    module = importlib.import_module(module_name)
    config = tyro.cli(getattr(module, class_name), prog=" ".join(["rlcourse", *name]), args=words[len(name) :])
    status: int = module.run(config)
    return status


def _unknown(words: list[str]) -> int:
    group = [name for name in COMMANDS if name[0] == words[0] and len(name) > 1]
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(_overview((words[0],)))
        return 0 if len(words) > 1 else 2
    wrong = " ".join(words[: 2 if group else 1])
    known = [" ".join(name) for name in COMMANDS]
    near = difflib.get_close_matches(wrong, known, n=2, cutoff=0.5)
    meant = f" Did you mean {' or '.join(f'rlcourse {name}' for name in near)}?" if near else ""
    print(f"rlcourse: there is no command {wrong!r}.{meant}\nSee rlcourse --help.", file=sys.stderr)
    return 2


def _overview(group: tuple[str, ...]) -> str:
    shown = {name: text for name, (_, text) in COMMANDS.items() if name[: len(group)] == group}
    width = max(len(" ".join(name)) for name in shown)
    lines = [f"usage: rlcourse {' '.join([*group, ''])}COMMAND [OPTIONS]", ""]
    lines += [f"  rlcourse {' '.join(name):<{width}}  {text}" for name, text in shown.items()]
    lines += ["", "Every command has --help, --seed, --device and --json FILE.", "First time here? rlcourse doctor"]
    return "\n".join(lines)


def _complain(error: RLCourseError, status: int) -> int:
    print(f"rlcourse: {error.problem}\n{error.mend}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
