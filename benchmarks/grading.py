"""How long does a class take? Grades made-up submissions and prints the seconds.

    python benchmarks/grading.py --submissions 100 --jobs 2

The class is mixed on purpose: right and wrong answers, stubs, and one submission in twenty that loops for ever, forks,
crashes while loading or is no Python at all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from results import markdown_table, write_result

from rlcourse.course.grading.grader import Plan, grade_folder
from rlcourse.course.grading.report import handed_in, write_reports
from rlcourse.files import write_json
from rlcourse.randomness import Seeds

ANSWERS = {
    "bellman_target(reward, discount, next_value)": (
        "(reward + discount * next_value).detach()",
        "reward + discount * next_value",
        "(reward + next_value).detach()",
    ),
    "double_q_value(online_q, target_q)": (
        "target_q.gather(-1, online_q.argmax(-1, keepdim=True)).squeeze(-1)",
        "target_q.amax(-1)",
        "target_q.gather(-1, online_q.argmax(-1, keepdim=True))",
    ),
    "conservative_penalty(q, action)": (
        "q.logsumexp(-1) - q.gather(-1, action.unsqueeze(-1)).squeeze(-1)",
        "q.amax(-1) - q.gather(-1, action.unsqueeze(-1)).squeeze(-1)",
        "(q.logsumexp(-1) - q.gather(-1, action.unsqueeze(-1)).squeeze(-1)).mean()",
    ),
    "expectile_loss(error, tau)": (
        "torch.where(error < 0, 1 - tau, tau) * error.square()",
        "torch.where(error < 0, tau, 1 - tau) * error.square()",
        "1 / 0",
    ),
    "advantage_weights(advantage, inverse_temperature, maximum=100.0)": (
        "torch.exp(inverse_temperature * advantage.detach()).clamp(max=maximum)",
        "torch.exp(advantage.detach() / inverse_temperature).clamp(max=maximum)",
        "torch.exp(inverse_temperature * advantage).clamp(max=maximum)",
    ),
}
LIMIT_S = 600.0 / 100  # for one submission: a hundred in ten minutes, two at a time
HOSTILE = (
    "import torch\ndef bellman_target(*a):\n    while True:\n        pass\n",
    "import os\nwhile True:\n    os.fork()\n",
    "raise RuntimeError('not today')\n",
    "def bellman_target(:\n",
)


def submission(rng: np.random.Generator) -> str:
    """The text of one made-up submission."""
    if rng.random() < 0.05:
        return str(rng.choice(HOSTILE))
    parts = ["import torch\n"]
    for signature, bodies in ANSWERS.items():
        kind = rng.choice(["right", "wrong", "stub"], p=[0.6, 0.3, 0.1])
        body = (
            "raise NotImplementedError"
            if kind == "stub"
            else f"return {bodies[0 if kind == 'right' else rng.integers(1, 3)]}"
        )
        parts.append(f"def {signature}:\n    {body}\n")
    return "\n\n".join(parts)


def main() -> int:
    """Make a class, grade it, write the table; exit status 1 if the limit is broken."""
    parser = argparse.ArgumentParser(description="Grade a made-up class and print how long it takes.")
    parser.add_argument("--submissions", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--isolation", choices=["auto", "bubblewrap", "process"], default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rng = Seeds(options.seed).numpy("class")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "class"
        folder.mkdir()
        for i in range(options.submissions):
            (folder / f"student_{i:03}.py").write_text(submission(rng))
        started = time.monotonic()
        plan = Plan(folder, Path(name) / "out", seed=options.seed, jobs=options.jobs, isolation=options.isolation)
        result = grade_folder(plan)
        exercises = handed_in(result)
        write_reports(result, exercises, time.monotonic() - started)
        seconds = time.monotonic() - started
    shown = {exercise.name for exercise in exercises}
    statuses = Counter(v.status for graded in result.graded for v in graded.verdicts if v.exercise in shown)
    figures = {
        "submissions": options.submissions,
        "jobs": options.jobs,
        "isolation": result.isolation,
        "seconds": round(seconds, 1),
        "seconds_per_submission": round(seconds / options.submissions, 2),
        "verdicts": dict(statuses),
    }
    body = markdown_table(
        ["submissions", "workers at a time", "isolation", "seconds", "seconds a submission"],
        [[figures[name] for name in ("submissions", "jobs", "isolation", "seconds", "seconds_per_submission")]],
    )
    command = f"python benchmarks/grading.py --submissions {options.submissions} --jobs {options.jobs}"
    write_result("grading", body, command=command, data=figures)
    if options.json:
        write_json(options.json, figures)
    return 0 if seconds / options.submissions < LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
