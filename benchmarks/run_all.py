"""``make bench``: every measurement that the book shows, one after the other, each alone on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

BENCHMARKS = (
    ("offline_study.py", "main"),  # makes the logs that the others read
    ("cql.py", "speed"),
    ("cql.py", "returns"),
    ("cql.py", "returns", "--data", "cartpole/mixed-v0"),
    ("environments.py",),
    ("baselines.py", "solve"),
    ("baselines.py", "equal"),
    ("baselines.py", "dqn"),
    ("baselines.py", "sac"),
    ("baselines.py", "sac-solve"),
    ("baselines.py", "scores"),
    ("off_policy.py", "speed"),
    ("off_policy.py", "ranking"),
    ("off_policy.py", "pendulum"),
    ("serving.py",),
    ("serving_peers.py",),
    ("monitoring.py", "speed"),
    ("monitoring.py", "drift"),
    ("releases.py",),
    ("releases.py", "running"),
    ("continuous.py", "speed"),
    ("continuous.py", "study"),
    ("continuous.py", "caution"),
    ("continuous.py", "logs"),
    ("datasets.py",),
    ("grading.py",),
    ("tuning.py",),
    ("site.py",),
    ("offline_study.py", "ablation"),
    ("offline_study.py", "training"),
    ("offline_study.py", "logs"),
)


def main() -> int:
    """Run all; stop at the first that fails."""
    for script, *words in BENCHMARKS:
        print(f"--- {script} {' '.join(words)}", file=sys.stderr, flush=True)
        status = subprocess.run([sys.executable, HERE / script, *words], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
