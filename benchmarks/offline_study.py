"""What matters when BC, CQL and IQL learn CartPole from logs: the study in chapter 5.

    python benchmarks/offline_study.py main        four data sets, five seeds, one set of defaults
    python benchmarks/offline_study.py ablation    the same with one setting of a method changed at a time
    python benchmarks/offline_study.py training    the same for how long is trained, and on what
    python benchmarks/offline_study.py logs        the same defaults on logs made with other seeds

Each writes a table to book/results/. The data sets are made on first use, under the Minari root; finished runs are
kept under runs/study, so an interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results import COMPARED, compared_rows, markdown_table, write_result

from rlcourse.experience.names import list_datasets
from rlcourse.recipes.command_line import main as rlcourse

RUNS = Path("runs") / "study"
TRANSITIONS = 100_000


@dataclass(frozen=True)
class Variant:
    """One changed setting."""

    name: str
    algorithms: tuple[str, ...]
    options: tuple[str, ...] = field(default_factory=tuple)


ABLATIONS = (
    Variant("defaults", ("cql", "iql")),
    Variant("n-step 1 (default 3)", ("cql", "iql"), ("--n-step", "1")),
    Variant("n-step 5", ("cql", "iql"), ("--n-step", "5")),
    Variant("gamma 0.98 (default 0.99)", ("cql", "iql"), ("--gamma", "0.98")),
    Variant("learning rate not annealed", ("cql", "iql"), ("--no-anneal",)),
    Variant(
        "target rate 0.05 (default 0.01)",
        ("cql", "iql"),
        ("--cql.target-rate", "0.05", "--iql.target-rate", "0.05"),
    ),
    Variant("alpha 0 (default 0.3)", ("cql",), ("--cql.alpha", "0")),
    Variant("alpha 3", ("cql",), ("--cql.alpha", "3")),
    Variant("tau 0.5 (default 0.8)", ("iql",), ("--iql.tau", "0.5")),
    Variant("tau 0.95", ("iql",), ("--iql.tau", "0.95")),
    Variant("inverse temperature 1 (default 10)", ("iql",), ("--iql.inverse-temperature", "1")),
)

TRAINING = (
    Variant("defaults", ("cql", "iql")),
    Variant("4,000 updates (default 12,000)", ("cql", "iql"), ("--updates", "4000")),
    Variant("30,000 updates", ("cql", "iql"), ("--updates", "30000")),
    Variant("observations not normalised", ("cql", "iql"), ("--no-normalise",)),
)


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("main", "ablation", "training", "logs"))
    parser.add_argument("--seeds", type=int)
    arguments = parser.parse_args()
    command = f"python benchmarks/offline_study.py {arguments.part}"
    if arguments.part == "main":
        study(arguments.seeds or 5, command)
    elif arguments.part == "ablation":
        ablation(ABLATIONS, "offline_ablation", arguments.seeds or 3, command)
    elif arguments.part == "training":
        ablation(TRAINING, "offline_training", arguments.seeds or 3, command)
    else:
        logs(arguments.seeds or 3, command)
    return 0


def study(seeds: int, command: str) -> None:
    """Four data sets with the defaults."""
    reports = {quality: compare(dataset(quality, 0), seeds) for quality in ("replay", "mixed", "medium", "expert")}
    body = (
        f"Greedy returns on CartPole-v1 (500 is the most there is), {TRANSITIONS:,} transitions a log, "
        f"{seeds} seeds, one set of defaults for all logs.\n\n" + markdown_table(COMPARED, compared_rows(reports))
    )
    write_result("offline_study", body, command=command, data={"reports": reports})


def ablation(variants: Sequence[Variant], result: str, seeds: int, command: str) -> None:
    """One setting changed at a time."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    qualities = ("replay", "mixed")
    for quality in qualities:
        for variant in variants:
            report = compare(dataset(quality, 0), seeds, ("bc", *variant.algorithms), *variant.options)
            for row in report["summary"]:
                found.setdefault(f"{row['algorithm']}/{variant.name}", {})[quality] = row
    rows = []
    for algorithm in ("cql", "iql"):
        for variant in variants:
            if algorithm in variant.algorithms:
                cells = [found[f"{algorithm}/{variant.name}"][quality] for quality in qualities]
                rows.append([algorithm.upper(), variant.name, *(_cell(cell) for cell in cells)])
    body = (
        f"Last greedy return: IQM (95 % interval) of {seeds} seeds, with one setting changed at a time. Three seeds "
        "make a rough interval: it cannot leave their range.\n\n"
        + markdown_table(["method", "changed", *qualities], rows)
    )
    write_result(result, body, command=command, data={"summaries": found})


def _cell(row: dict[str, Any]) -> str:
    return f"{row['iqm']:.0f} ({row['ci_low']:.0f} to {row['ci_high']:.0f})"


def logs(seeds: int, command: str) -> None:
    """The same defaults on logs of other seeds: does the conclusion hang on one log?"""
    rows, reports = [], {}
    for quality in ("replay", "mixed"):
        for seed in range(5):
            reports[f"{quality}-{seed}"] = report = compare(dataset(quality, seed), seeds)
            rows.append([quality, str(seed), *(_cell(row) for row in report["summary"])])
    # What is it about mixed logs? The same middling author alone, as many rows of him as the mixed log holds.
    reports["medium-half"] = report = compare(dataset("medium", 0, TRANSITIONS // 2), seeds)
    rows.append([f"medium, {TRANSITIONS // 2:,} rows", "0", *(_cell(row) for row in report["summary"])])
    body = (
        f"Last greedy return: IQM (95 % interval) of {seeds} training seeds, on logs collected with different seeds.\n\n"
        + markdown_table(["log", "its seed", "BC", "CQL", "IQL"], rows)
    )
    write_result("offline_logs", body, command=command, data={"reports": reports})


def dataset(quality: str, seed: int, transitions: int = TRANSITIONS) -> str:
    """The name of a log; made if it is not there."""
    size = "" if transitions == TRANSITIONS else f"-{transitions}"
    name = f"cartpole/{quality}{size}-v0" if seed == 0 else f"cartpole/{quality}{size}-seed{seed}-v0"
    if name not in list_datasets():
        made = {"--quality": quality, "--seed": str(seed), "--name": name, "--transitions": str(transitions)}
        _run("offline", "generate", *(word for pair in made.items() for word in pair))
    return name


def compare(name: str, seeds: int, algorithms: tuple[str, ...] = ("bc", "cql", "iql"), *options: str) -> dict[str, Any]:
    """The report of one ``rlcourse offline compare``."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "report.json"
        words = ["--dataset", name, "--seeds", str(seeds), "--algorithms", *algorithms, "--output", str(RUNS / name)]
        _run("offline", "compare", *words, *options, "--json", str(target))
        report: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        return report


def _run(*words: str) -> None:
    status = rlcourse(words)
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    raise SystemExit(main())
