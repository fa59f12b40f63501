"""``rlcourse tune``: search for better settings, then ask fresh seeds whether they are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from rlcourse.devices import resolve_device
from rlcourse.errors import ConfigError
from rlcourse.recipes.common import Common, plain, report, say, show_result, table, write_report
from rlcourse.recipes.parallel import check_jobs
from rlcourse.recipes.pictures import check_format, tuning_picture
from rlcourse.training.trackers import check_places

if TYPE_CHECKING:  # the module needs an optional package, and --help should not
    from rlcourse.training.experiments import OnlineExperiment
    from rlcourse.training.studies import Reassessment, StudyRecord


@dataclass(frozen=True, kw_only=True)
class Tune(Common):
    """Search for settings with Optuna, each trial judged by several seeds; then run the best again on fresh seeds.

    The study lives in one file. A run that was killed goes on where it was: say the same again. Settings are called
    better than the defaults only if their whole interval on fresh seeds lies above that of the defaults.

    Example: rlcourse tune --env CartPole-v1 --algorithm ppo --n-trials 50 --n-jobs 2
    """

    env: str = "CartPole-v1"
    """Gymnasium name of the task."""
    algorithm: Literal["ppo", "dqn", "sac"] = "ppo"
    """Whose settings."""
    n_trials: int = 50
    """Finished trials in the study, pruned ones included; those that are there already count."""
    n_jobs: int = 1
    """Trials at a time, each in a process of its own with one thread; no more than there are cores."""
    seeds_per_trial: int = 3
    """Runs of each trial. More make the scores steadier."""
    num_steps: int | None = None
    """Environment steps of each run; by default the algorithm's own number for the task."""
    prune: bool = True
    """Stop trials that lie below the median of the others at the same point."""
    storage: str = "runs/tune.journal"
    """File of the study, or sqlite:///FILE for a database."""
    study: str | None = None
    """Name of the study in the file; by default made of algorithm and task."""
    fresh_seeds: int = 10
    """Seeds on which the best trial and the defaults are run again; 0 leaves that out."""
    plot: Path | None = None
    """Draw history and importances to this file (.png, .svg or .pdf)."""
    tracker: str | None = None
    """Where the metrics of each run go, for example csv:runs/{run}.csv or mlflow, which keeps the settings beside them;
    {run} becomes a run's name. A trial's runs go on in step, so a port cannot serve them."""

    def __post_init__(self) -> None:
        if self.fresh_seeds == 1 or self.fresh_seeds < 0:
            raise ConfigError(f"{self.fresh_seeds} fresh seeds.", mend="Use 2 or more for an interval, or 0 for none.")
        check_places(self.tracker, side_by_side="Use prometheus:runs/{run}.prom.")


def run(config: Tune) -> int:
    """Tune, reassess, report."""
    started = time.perf_counter()
    check_jobs(config.n_jobs)
    check_format(config.plot)
    from rlcourse.training.experiments import OnlineExperiment
    from rlcourse.training.studies import TuningConfig
    from rlcourse.training.tuning import reassess, tune

    device = str(resolve_device(config.device))
    experiment = OnlineExperiment(config.algorithm, config.env, config.num_steps, device, tracker=config.tracker)
    how = TuningConfig(config.n_trials, config.seeds_per_trial, config.prune, config.seed)
    where = {"storage": config.storage, "study": config.study or f"{config.algorithm} on {config.env}"}
    with tqdm(total=config.n_trials, desc="trials", unit="trial", disable=None) as bar:
        study = tune(experiment, how, **where, n_jobs=config.n_jobs, progress=lambda done: _show(bar, done))
    again = None
    if config.fresh_seeds:
        with tqdm(total=2 * config.fresh_seeds, desc="fresh seeds", unit="run", disable=None) as bar:
            again = reassess(
                experiment,
                how,
                **where,
                n_fresh=config.fresh_seeds,
                n_jobs=config.n_jobs,
                progress=lambda done: _show(bar, done),
            )
    show_result(summary_text(experiment, study, again), config.json)
    if config.plot is not None:
        tuning_picture(
            config.plot,
            [(trial.number, trial.score, trial.state == "pruned") for trial in study.trials],
            study.history(),
            study.importances,
            again.summaries if again else [],
            title=f"{config.algorithm} on {config.env}",
        )
        say(f"picture written to {config.plot}")
    write_report(config.json, _content(config, study, again, time.perf_counter() - started))
    return 0


def summary_text(experiment: OnlineExperiment, study: StudyRecord, again: Reassessment | None) -> str:
    """What was tried, what came out best, and what fresh seeds say of it."""
    best, pruned = study.best, len(study.trials) - len(study.complete)
    settings = [
        [name, f"{best.values[name]:.4g}", f"{experiment.defaults[name]:.4g}", f"{study.importances[name]:.2f}"]
        if study.importances
        else [name, f"{best.values[name]:.4g}", f"{experiment.defaults[name]:.4g}", "-"]
        for name in (study.importances or best.values)
    ]
    lines = [
        f"{len(study.trials)} trials, {pruned} of them pruned; the best is trial {best.number} with a score of "
        f"{best.score:.1f}",
        "",
        table(["setting", "best", "default", "importance"], settings),
    ]
    if (shrunken := study.shrunken_best()) is not None:
        lines += ["", f"pulled towards the other trials by what their seeds disagree: {shrunken:.1f}"]
    if again is not None:
        rows = [[s.algorithm, str(s.last), str(s.n)] for s in again.summaries]
        lines += [
            "",
            table(["on fresh seeds", "last IQM [95% interval]", "runs"], rows),
            "",
            f"the study's score of the best trial was {abs(again.overestimate):.1f} too "
            f"{'high' if again.overestimate > 0 else 'low'}",
            again.verdict.reason,
        ]
    return "\n".join(lines)


def _show(bar: tqdm[Any], done: int) -> None:
    bar.n = done
    bar.refresh()


def _content(config: Tune, study: StudyRecord, again: Reassessment | None, seconds: float) -> dict[str, Any]:
    runs = again.runs if again else {}
    rows = [
        {"algorithm": f"{config.algorithm} {name}", "env": config.env, "seed": index, **run}
        for name, found in runs.items()
        for index, run in enumerate(found)
    ]
    summary = [
        {
            "algorithm": f"{config.algorithm} {s.algorithm}",
            "iqm": s.last.estimate,
            "ci_low": s.last.low,
            "ci_high": s.last.high,
            "n": s.n,
        }
        for s in (again.summaries if again else [])
    ]
    content = report(
        "tune",
        config,
        seconds=seconds,
        results=rows,
        summary=summary,
        trials=[plain(trial) for trial in study.trials],
        best=plain(study.best),
        shrunken_best=study.shrunken_best(),
        importances=study.importances,
        overestimate=again.overestimate if again else None,
        verdict=plain(again.verdict) if again else None,
    )
    content["versions"]["optuna"] = metadata.version("optuna")
    return content
