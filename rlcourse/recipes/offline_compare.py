"""``rlcourse offline compare``: several algorithms, several seeds, one honest table."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from rlcourse.deployment.artifact import refuse_anything_else
from rlcourse.devices import resolve_device, torch_threads
from rlcourse.environments import check_known
from rlcourse.errors import ConfigError
from rlcourse.evaluation.comparison import AlgorithmSummary, Verdict, median_run, summarise, verdict
from rlcourse.evaluation.statistics import Array
from rlcourse.experience.minari_files import Dataset, load_dataset
from rlcourse.files import atomic_directory, write_json
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import NO_PREFIX, Common, plain, report, say, show_result, table, write_report
from rlcourse.recipes.offline_train import result_row, run_name, train_once
from rlcourse.recipes.parallel import RESULT, finish, result
from rlcourse.recipes.pictures import check_format, comparison_picture
from rlcourse.training.learners import OfflineAlgorithm, OfflineConfigs
from rlcourse.training.offline import OfflineTrainingConfig
from rlcourse.training.trackers import check_places, tracker_for

BASELINE = "bc"


@dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """Train several algorithms over several seeds and compare them with intervals.

    The winner is kept only if its whole interval lies above that of behavioural cloning; otherwise the clone is kept,
    and the command says so. Finished runs are stored under --output: an interrupted comparison goes on where it was.

    Example: rlcourse offline compare --dataset cartpole/mixed-v0 --algorithms bc cql iql --seeds 5
    """

    dataset: str
    """Name under the Minari root, or a path."""
    algorithms: tuple[OfflineAlgorithm, ...] = ("bc", "cql", "iql")
    """Which to compare; bc is the baseline and must be among them. td3-bc needs continuous actions."""
    seeds: int = 5
    """Runs of each algorithm. Five give a rough interval, three hardly any."""
    training: Annotated[OfflineTrainingConfig, NO_PREFIX] = field(default_factory=OfflineTrainingConfig)
    """How long, and with which discount."""
    settings: Annotated[OfflineConfigs, NO_PREFIX] = field(default_factory=OfflineConfigs)
    """Settings of the algorithms."""
    jobs: int = 2
    """Runs at a time, each on one thread. Use 1 on a GPU."""
    output: Path = Path("runs/compare")
    """Folder for finished runs and for the chosen policy (policy/)."""
    plot: Path | None = None
    """Draw learning curves and intervals to this file (.png, .svg or .pdf)."""
    tracker: str | None = None
    """Where metrics go while training, for example csv:runs/{run}.csv or mlflow; {run} becomes a run's name, as cql-0.
    With --jobs 1 also prometheus:PORT."""
    root: Path | None = None
    """Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets."""

    def __post_init__(self) -> None:
        if BASELINE not in self.algorithms or len(set(self.algorithms)) != len(self.algorithms):
            raise ConfigError(
                f"Cannot compare {' '.join(self.algorithms)}.", mend=f"Name each once, and {BASELINE} among them."
            )
        if self.seeds < 2 or self.jobs < 1:
            raise ConfigError(
                f"{self.seeds} seeds and {self.jobs} jobs.",
                mend="An interval needs 2 seeds or more, a run needs 1 job.",
            )
        check_places(self.tracker, side_by_side=None if self.jobs == 1 else "Add --jobs 1.")


@dataclass(frozen=True)
class _Task:
    """One run, small enough to send to another process."""

    dataset: str
    root: Path | None
    algorithm: str
    seed: int
    training: OfflineTrainingConfig
    settings: OfflineConfigs
    device: str
    folder: Path
    tracker: str | None

    @property
    def name(self) -> str:
        return f"{self.algorithm} {self.seed}"


def run(config: Compare) -> int:
    """Train what is missing, compare, keep one policy, report."""
    started = time.perf_counter()
    check_format(config.plot)
    refuse_anything_else(config.output / "policy")
    resolve_device(config.device)
    dataset = load_dataset(config.dataset, root=config.root)
    check_known(dataset.card.env_id)
    tasks = _tasks(config, dataset)
    for failure in finish(tasks, _execute, jobs=config.jobs):
        raise failure.error  # a comparison that leaves out a run is another comparison
    rows = [result(task) for task in tasks]
    last, best = _scores(rows, "last"), _scores(rows, "best")
    summaries = summarise(last, best, baseline=BASELINE, seeds=Seeds(config.seed))
    decision = verdict(summaries, baseline=BASELINE)
    middle = config.seed + median_run(last[decision.chosen])
    source = next(t.folder for t in tasks if t.algorithm == decision.chosen and t.seed == middle)
    with atomic_directory(config.output / "policy") as part:
        shutil.copytree(source / "policy", part, dirs_exist_ok=True)
    kept = f"kept: {decision.chosen}, the run in the middle (seed {middle}), in {config.output / 'policy'}"
    show_result("\n".join([_table(summaries), "", decision.reason, kept]), config.json)
    if config.plot is not None:
        comparison_picture(config.plot, rows, summaries, title=f"{config.dataset}, {config.seeds} seeds")
        say(f"picture written to {config.plot}")
    content = report(
        "offline compare",
        config,
        seconds=time.perf_counter() - started,
        results=rows,
        summary=[_summary_row(summary) for summary in summaries],
        verdict=_verdict_row(decision),
    )
    write_report(config.json, content)
    return 0


def _scores(rows: list[dict[str, Any]], kind: str) -> dict[str, Array]:
    names = dict.fromkeys(row["algorithm"] for row in rows)
    return {name: np.array([float(row[kind]) for row in rows if row["algorithm"] == name]) for name in names}


def _tasks(config: Compare, dataset: Dataset) -> list[_Task]:
    tasks = []
    training, device = config.training, config.device
    for seed in range(config.seed, config.seed + config.seeds):
        for algorithm in config.algorithms:
            # A finished run counts only for exactly these settings on exactly this data.
            chosen = plain(config.settings.of(algorithm, dataset.card.actions))
            settings = [dataset.checksum, algorithm, seed, plain(training), chosen, device]
            key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
            folder = config.output.absolute() / "runs" / f"{algorithm}-{seed}-{key}"
            task = _Task(
                config.dataset,
                config.root,
                algorithm,
                seed,
                training,
                config.settings,
                device,
                folder,
                config.tracker,
            )
            tasks.append(task)
    return tasks


def _execute(task: _Task) -> None:
    dataset = load_dataset(task.dataset, root=task.root)
    with torch_threads(1), closing(tracker_for(task.tracker, run_name(task.algorithm, task.seed))) as tracker:
        outcome, artifact = train_once(
            dataset,
            task.dataset,
            task.algorithm,
            task.seed,
            task.training,
            task.settings,
            device=resolve_device(task.device),
            tracker=tracker,
        )
    row = result_row(task.algorithm, task.dataset, task.seed, outcome, task.training)
    with atomic_directory(task.folder) as part:
        artifact.save(part / "policy")
        write_json(part / RESULT, row)


def _table(summaries: list[AlgorithmSummary]) -> str:
    header = ["algorithm", "last IQM [95% interval]", "best IQM [95% interval]", "P(run beats bc)", "runs"]
    rows = [
        [
            s.algorithm,
            str(s.last),
            str(s.best),
            "-" if s.improvement is None else f"{s.improvement:.2f}",
            str(s.n),
        ]
        for s in summaries
    ]
    return table(header, rows)


def _summary_row(summary: AlgorithmSummary) -> dict[str, Any]:
    return {
        "algorithm": summary.algorithm,
        "iqm": summary.last.estimate,
        "ci_low": summary.last.low,
        "ci_high": summary.last.high,
        "n": summary.n,
        "best_iqm": summary.best.estimate,
        "improvement_over_bc": plain(summary.improvement) if summary.improvement else None,
    }


def _verdict_row(decision: Verdict) -> dict[str, Any]:
    kept: dict[str, Any] = plain(decision)
    return kept
