"""Studies of PPO on CartPole-v1 with few steps, and what fresh seeds say of what they found.

python benchmarks/tuning.py [--jobs J]     writes book/results/tuning.md and tuning_repeated.md

The first is one study, its ten best trials and the defaults, all on fresh seeds. The second repeats the study with other
seeds, and with the same number of runs spent on three times as many trials of one seed each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import markdown_table, write_result

from rlcourse.evaluation.statistics import bootstrap_interval
from rlcourse.randomness import Seeds
from rlcourse.training.experiments import OnlineExperiment
from rlcourse.training.studies import Reassessment, StudyRecord, TuningConfig
from rlcourse.training.tuning import reassess, tune

EXPERIMENT = OnlineExperiment("ppo", "CartPole-v1", num_steps=2_048)
TRIALS, SEEDS_PER_TRIAL, TOP, FRESH_SEEDS, REPEATS = 40, 3, 10, 20, 5
COMMAND = "python benchmarks/tuning.py"


def main() -> int:
    """Tune, run again, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder:
        one_study(folder, jobs)
        repeated(folder, jobs)
    return 0


def one_study(folder: str, jobs: int) -> None:
    """The best trial, the ten best, the settings that mattered."""
    started = time.perf_counter()
    study, again = studied(folder, TuningConfig(TRIALS, SEEDS_PER_TRIAL), jobs)
    top = sorted(study.complete, key=lambda trial: -trial.score)[:TOP]
    fresh = on_fresh_seeds([trial.values for trial in top], jobs)
    seconds = time.perf_counter() - started
    by_name = {summary.algorithm: summary.last for summary in again.summaries}
    rows: list[list[object]] = [
        ["the best trial, as the study scored it", f"{study.best.score:.1f}", SEEDS_PER_TRIAL],
        ["the same, pulled towards the other trials", _number(study.shrunken_best()), SEEDS_PER_TRIAL],
        ["the best trial, on fresh seeds", str(by_name["tuned"]), FRESH_SEEDS],
        ["the defaults, on fresh seeds", str(by_name["default"]), FRESH_SEEDS],
    ]
    intervals = [bootstrap_interval(found, rng=Seeds(0).numpy("bootstrap")) for found in fresh]
    ranked = [
        [rank, trial.number, f"{trial.score:.1f}", str(interval)]
        for rank, (trial, interval) in enumerate(zip(top, intervals, strict=True), 1)
    ]
    change = np.array([interval.estimate - trial.score for trial, interval in zip(top, intervals, strict=True)])
    pruned = len(study.trials) - len(study.complete)
    body = "\n\n".join(
        [
            markdown_table(["", "greedy return, IQM [95 % interval]", "seeds"], rows),
            f"*{again.verdict.reason[0].upper()}{again.verdict.reason[1:]}*",
            markdown_table(["rank", "trial", "score in the study", f"IQM on {FRESH_SEEDS} fresh seeds"], ranked),
            f"Of these {len(top)} trials {int((change < 0).sum())} earn less on fresh seeds than the study said; "
            f"the mean difference is {change.mean():+.1f}.",
            markdown_table(["setting", "importance", "best trial", "default"], settings(study)),
            f"PPO on CartPole-v1 with {EXPERIMENT.num_steps:,} steps a run: {TRIALS} trials of {SEEDS_PER_TRIAL} seeds, "
            f"{pruned} of them pruned; {seconds:.0f} s in all, on {jobs} processes.",
        ]
    )
    data: Mapping[str, Any] = {
        "trials": study.trials,
        "importances": study.importances,
        "runs": again.runs,
        "summaries": again.summaries,
        "top_fresh": [{"trial": trial.number, "returns": found} for trial, found in zip(top, fresh, strict=True)],
        "seconds": seconds,
    }
    write_result("tuning", body, command=COMMAND, data=data)


def repeated(folder: str, jobs: int) -> None:
    """The same number of runs spent in two ways, several times over."""
    rows: list[list[object]] = []
    found: list[dict[str, Any]] = []
    for seeds_per_trial in (1, SEEDS_PER_TRIAL):
        trials = TRIALS * SEEDS_PER_TRIAL // seeds_per_trial
        for seed in range(1, REPEATS + 1):
            study, again = studied(folder, TuningConfig(trials, seeds_per_trial, seed=seed), jobs)
            default, tuned = (summary.last for summary in again.summaries)
            found.append(
                {
                    "trials": trials,
                    "seeds_per_trial": seeds_per_trial,
                    "seed": seed,
                    "score": study.best.score,
                    "shrunken": study.shrunken_best(),
                    "tuned": tuned,
                    "default": default,
                    "better": again.verdict.better_than_baseline,
                }
            )
            way = f"{trials} trials of {seeds_per_trial}"
            kept = "tuned" if again.verdict.better_than_baseline else "defaults"
            rows.append(
                [way, seed, f"{study.best.score:.1f}", str(tuned), f"{again.overestimate:+.1f}", str(default), kept]
            )
        part = [one for one in found if one["seeds_per_trial"] == seeds_per_trial]
        means = [np.mean([one["score"] for one in part]), np.mean([one["tuned"].estimate for one in part])]
        above = f"**{means[0] - means[1]:+.1f}**"
        rows.append(
            [f"**{trials} trials of {seeds_per_trial}**", "mean", f"{means[0]:.1f}", f"{means[1]:.1f}", above, "", ""]
        )
    header = [
        "study",
        "seed",
        "best score",
        "the same settings, fresh seeds",
        "too high by",
        "defaults, fresh seeds",
        "kept",
    ]
    body = "\n\n".join(
        [
            markdown_table(header, rows),
            f"Ten studies of {TRIALS * SEEDS_PER_TRIAL} runs each (less what was pruned), and {FRESH_SEEDS} fresh seeds for "
            "each winner and for the defaults. Studies with the same number share their seeds.",
        ]
    )
    write_result("tuning_repeated", body, command=COMMAND, data={"studies": found})


def studied(folder: str, config: TuningConfig, jobs: int) -> tuple[StudyRecord, Reassessment]:
    """A study and what fresh seeds say of its winner."""
    storage, name = str(Path(folder) / "tuning.journal"), f"{config.n_trials} {config.seed}"
    study = tune(EXPERIMENT, config, storage=storage, study=name, n_jobs=jobs)
    return study, reassess(EXPERIMENT, config, storage=storage, study=name, n_fresh=FRESH_SEEDS, n_jobs=jobs)


def settings(study: StudyRecord) -> list[list[object]]:
    """Most important first."""
    defaults, best = EXPERIMENT.defaults, study.best.values
    return [
        [f"`{name}`", f"{share:.2f}", f"{best[name]:.4g}", f"{defaults[name]:.4g}"]
        for name, share in study.importances.items()
    ]


def on_fresh_seeds(settings: list[dict[str, Any]], jobs: int) -> list[list[float]]:
    """Last returns of each of the settings."""
    tasks = [(values, index) for values in settings for index in range(FRESH_SEEDS)]
    with multiprocessing.get_context("spawn").Pool(jobs, torch.set_num_threads, (1,)) as pool:
        found = pool.starmap(last_return, tasks, chunksize=1)
    return [found[i : i + FRESH_SEEDS] for i in range(0, len(found), FRESH_SEEDS)]


def last_return(values: Mapping[str, Any], index: int) -> float:
    """Of one run, on a seed that the study and its reassessment have not seen."""
    return EXPERIMENT.run(values, Seeds(0).child("fresh top", index), lambda look, earned: False).last


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
