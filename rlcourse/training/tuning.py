"""Searching for better settings with Optuna, and finding out how much of what was found is luck.

A study lives in one file, a journal or an SQLite database, and any number of processes work on it::

    file       ── claim ── report ── report ── tell ──      one trial: k seeds in step, judged by their mean
    process 0     7          │          │        7 done, 9 claimed ...
    process 1     8 ───── report ─────────✗                 killed: 8 is run again under its own parameters

Whoever wants a trial takes the file's lock, counts what is finished or running, and asks for one only if the number is
below the total: so it is never exceeded. A running trial holds a lock of its own, which the kernel drops when its process
dies, in whatever way; no heartbeat has to be waited for. The sampler is seeded by the number of trials that count, so a
study of one process that was killed and went on holds the same trials as one that was not.

Only this module imports Optuna.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from rlcourse.errors import ConfigError, MissingExtraError, StorageError, TrainingDivergedError
from rlcourse.evaluation.comparison import summarise, verdict
from rlcourse.evaluation.statistics import interquartile_mean
from rlcourse.files import storage_errors
from rlcourse.randomness import Seeds
from rlcourse.training.experiments import Experiment
from rlcourse.training.live_workers import LiveWorker, locked
from rlcourse.training.lockstep import in_step
from rlcourse.training.processes import in_processes
from rlcourse.training.search_spaces import Choice, Range, Space, Whole
from rlcourse.training.studies import ENOUGH_FOR_IMPORTANCE, Reassessment, StudyRecord, TrialRecord, TuningConfig

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState
except ImportError as error:
    raise MissingExtraError(
        f"Tuning needs a package that is not installed: {error}.", mend="pip install 'rlcourse[tune]'"
    ) from error

FORMAT = 1
SQLITE = "sqlite:///"
SQLITE_WAIT_S = 60
"""How long a process waits for another that is writing to the database."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
STARTUP_TRIALS = 8
"""Complete trials before anything is pruned."""


# --- studies -----------------------------------------------------------------------------------------------------


def tune(
    experiment: Experiment,
    config: TuningConfig,
    *,
    storage: str,
    study: str = "study",
    n_jobs: int = 1,
    progress: Callable[[int], None] = lambda finished: None,
) -> StudyRecord:
    """Run trials until ``config.n_trials`` of the study are finished; those that are there already count.

    Trial 0 has the default settings, so that the study cannot end below them by its own measure.

    Args:
        experiment: what is tuned.
        config: how.
        storage: a file for a journal, or ``sqlite:///FILE``.
        study: several may share a file.
        n_jobs: processes; 1 works in this one.
        progress: gets the number of finished trials now and then.

    Raises:
        ConfigError: the study of that name was made with other settings.
        StorageError: the file cannot be written, or is no storage.
        WorkerLostError: a process was killed. Call again to go on.
    """
    plan = _Plan(experiment, config, storage, study)
    with _opened(plan) as opened:
        _prepare(opened, plan)
        if n_jobs == 1:
            _work(plan, progress)
        else:
            shares = [(plan,)] * min(n_jobs, config.n_trials)
            in_processes(_work, shares, lambda: progress(_finished(opened)))
        progress(_finished(opened))
        return _record(opened)


def read_study(storage: str, study: str = "study") -> StudyRecord:
    """The finished trials of a study.

    Raises:
        ConfigError: no study of that name.
        StorageError: no file of that name, or it is no storage.
    """
    if not _file_of(storage).exists():
        raise StorageError(f"There is no file {_file_of(storage)}.", mend="Name a file that rlcourse tune has written.")
    with _quiet(), _refusals(_file_of(storage)):
        backend = _storage(storage)
        names = optuna.get_all_study_names(backend)
        if study not in names:
            raise ConfigError(
                f"{storage} holds no study {study!r}.", mend=f"It holds: {', '.join(names) or 'none at all'}."
            )
        return _record(optuna.load_study(study_name=study, storage=backend))


def reassess(
    experiment: Experiment,
    config: TuningConfig,
    *,
    storage: str,
    study: str = "study",
    n_fresh: int = 10,
    n_jobs: int = 1,
    progress: Callable[[int], None] = lambda finished: None,
) -> Reassessment:
    """Run the best trial and the default settings on ``n_fresh`` seeds that no trial has seen, without pruning.

    Finished runs are kept in the study: an interrupted reassessment goes on where it was.

    Raises:
        ConfigError: fewer than 2 fresh seeds, or no complete trial.
    """
    if n_fresh < 2:
        raise ConfigError(f"{n_fresh} fresh seeds.", mend="An interval needs 2 or more.")
    plan = _Plan(experiment, config, storage, study)
    with _opened(plan) as opened:
        _prepare(opened, plan)
        best = _record(opened).best
        settings = {"default": dict(experiment.defaults), "tuned": best.values}
        # The same settings under two names are run once: the key is made from the values.
        wanted = {_fresh_key(values, i): (values, i) for values in settings.values() for i in range(n_fresh)}
        missing = [(key, *wanted[key]) for key in wanted if key not in opened.user_attrs]

        def done() -> None:
            progress(sum(key in opened.user_attrs for key in wanted))

        if n_jobs == 1:
            _run_fresh(plan, missing, lambda _: done())
        elif missing:
            shares = [(plan, missing[k::n_jobs]) for k in range(min(n_jobs, len(missing)))]
            in_processes(_run_fresh, shares, done)
        done()
        kept = opened.user_attrs
        runs = {name: [dict(kept[_fresh_key(values, i)]) for i in range(n_fresh)] for name, values in settings.items()}
    last, most = (
        {name: np.array([run[kind] for run in found]) for name, found in runs.items()} for kind in ("last", "best")
    )
    summaries = summarise(last, most, baseline="default", seeds=Seeds(config.seed))
    return Reassessment(best.score, summaries, verdict(summaries, baseline="default"), runs)


# --- one trial ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What a process needs to know."""

    experiment: Experiment
    config: TuningConfig
    storage: str
    study: str


def _work(plan: _Plan, progress: Callable[[int], None] = lambda finished: None) -> None:
    """Claim trials and run them until there is nothing left to claim."""
    with _opened(plan) as study, LiveWorker(_file_of(plan.storage)) as worker:
        while (trial := _claimed(study, plan, worker)) is not None:
            _run_trial(study, trial, plan)
            progress(_finished(study))


def _claimed(study: optuna.Study, plan: _Plan, worker: LiveWorker) -> optuna.Trial | None:
    with locked(_file_of(plan.storage)):
        _requeue_dead(study, worker)
        counted = len(study.get_trials(deepcopy=False, states=COUNTED))
        if counted >= plan.config.n_trials:
            return None
        # Under the lock the number is this trial's alone, and it is the same whether or not others died before.
        seed = Seeds(plan.config.seed).integer("sampler", counted) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = study.ask(_distributions(plan.experiment.space))
        trial.set_user_attr("worker", worker.token)
        return trial


def _requeue_dead(study: optuna.Study, worker: LiveWorker) -> None:
    """Trials whose process is gone fail, and their parameters go to the head of the queue."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get("again") for trial in trials}
    for trial in trials:
        if trial.state != TrialState.RUNNING or worker.is_alive(trial.user_attrs.get("worker")):
            continue
        # Queue first, fail second: whoever dies in between leaves a mark, and the next one does not queue it twice.
        if trial.number not in again:
            known = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            study.enqueue_trial(known, user_attrs={"again": trial.number})
        study.tell(trial.number, state=TrialState.FAIL)


def _run_trial(study: optuna.Study, trial: optuna.Trial, plan: _Plan) -> None:
    """All seeds in step: what is reported is their common score at each look, so one unlucky seed prunes nothing."""
    experiment, started = plan.experiment, time.perf_counter()

    seen: set[int] = set()

    def judge(look: int, returns: list[float]) -> bool:
        if look not in seen:  # long rollouts can end in one look twice; Optuna keeps the first
            trial.report(_score(returns), look)
            seen.add(look)
        # After the last look there is nothing left to save.
        return plan.config.prune and look < experiment.looks and trial.should_prune()

    # Every trial gets the same seeds: they differ by their settings and by luck, never by who got the easier seeds.
    families = [Seeds(plan.config.seed).child("tuning", i) for i in range(plan.config.seeds_per_trial)]
    values = dict(trial.params)
    try:
        together = in_step([lambda stop, s=s: experiment.run(values, s, stop) for s in families], judge)  # type: ignore[misc]
    except TrainingDivergedError as error:
        trial.set_user_attr("diverged", str(error))
        study.tell(trial, state=TrialState.PRUNED)
        return
    trial.set_user_attr("returns", together.last)
    trial.set_user_attr("seconds", time.perf_counter() - started)
    if together.stopped:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, _score(together.last))


def _run_fresh(
    plan: _Plan, runs: Sequence[tuple[str, Mapping[str, Any], int]], progress: Callable[[int], None] = lambda done: None
) -> None:
    """Runs at full length, each kept in the study under its key."""
    with _opened(plan) as study:
        for key, values, index in runs:
            started = time.perf_counter()
            run = plan.experiment.run(values, Seeds(plan.config.seed).child("fresh", index), lambda step, earned: False)
            seconds = time.perf_counter() - started
            kept = {"last": run.last, "best": run.best, "steps": run.steps, "seconds": seconds}
            study.set_user_attr(key, kept)
            progress(index)


def _fresh_key(values: Mapping[str, Any], index: int) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return f"fresh {digest[:12]} {index}"


def _score(returns: Sequence[float]) -> float:
    return float(interquartile_mean(np.asarray(returns, dtype=np.float64)))


# --- the file ----------------------------------------------------------------------------------------------------


@contextmanager
def _opened(plan: _Plan) -> Iterator[optuna.Study]:
    file = _file_of(plan.storage)
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=STARTUP_TRIALS, n_warmup_steps=max(1, plan.experiment.looks // 5)
    )
    if not plan.storage.startswith(SQLITE):
        with _refusals(file):
            _mend_journal(file)  # beside somebody else's file no lock is laid
    with _quiet():
        with locked(file), _refusals(file):  # two processes must not create one study twice
            study = optuna.create_study(
                storage=_storage(plan.storage),
                study_name=plan.study,
                direction="maximize",
                pruner=pruner,
                load_if_exists=True,
            )
        yield study


def _prepare(study: optuna.Study, plan: _Plan) -> None:
    """Write down what the study is, or see that it is the same one; queue the defaults as its first trial."""
    config, experiment = plan.config, plan.experiment
    wanted: dict[str, Any] = {
        "format": FORMAT,
        **experiment.description(),
        "seeds_per_trial": config.seeds_per_trial,
        "prune": config.prune,
        "seed": config.seed,
        "space": {name: str(bounds) for name, bounds in experiment.space.items()},
    }
    with locked(_file_of(plan.storage)):
        found = study.user_attrs.get("experiment")
        if found is None and not study.trials:
            if all(
                name in experiment.defaults and experiment.defaults[name] in bounds
                for name, bounds in experiment.space.items()
            ):
                study.enqueue_trial(dict(experiment.defaults), skip_if_exists=True)
            study.set_user_attr("experiment", wanted)
            return
    found = found or {}
    differing = [
        f"{name} {found.get(name)} instead of {wanted.get(name)}"
        for name in {**wanted, **found}
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise ConfigError(
            f"The study {plan.study!r} in {plan.storage} was made with {'; '.join(differing)}.",
            mend="Use the settings that it was made with, or another study or storage.",
        )


def _storage(address: str) -> optuna.storages.BaseStorage:
    file = _file_of(address)
    if address.startswith(SQLITE):
        return optuna.storages.RDBStorage(address, engine_kwargs={"connect_args": {"timeout": SQLITE_WAIT_S}})
    _mend_journal(file)
    return optuna.storages.JournalStorage(JournalFileBackend(str(file), lock_obj=cast(Any, _KernelLock(file))))


@contextmanager
def _refusals(file: Path) -> Iterator[None]:
    """What Optuna raises at a file it cannot use, as our own."""
    try:
        yield
    except ValueError as error:  # a line that is no record
        raise StorageError(f"{file} is no journal of Optuna, or a damaged one.", mend="Name another file.") from error
    except OSError as error:
        problem = f"Could not open {file}: {error.strerror}."
        raise StorageError(problem, mend="Name a file that you may write to.") from error
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy"):  # Optuna's to import, not ours
            raise
        problem = f"{file} is no database of Optuna: {str(error).splitlines()[0]}."
        raise StorageError(problem, mend="Name another file.") from error


def _file_of(address: str) -> Path:
    if "://" in address and not address.startswith(SQLITE):
        raise ConfigError(f"{address} is on no local file.", mend=f"Use FILE for a journal, or {SQLITE}FILE.")
    return Path(address.removeprefix(SQLITE)).absolute()


def _mend_journal(file: Path) -> None:
    """Cut off half a line at the end: its writer was killed, and what comes after would be unreadable."""
    if not file.exists():
        return
    with file.open("r+b") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        content = journal.read()
        if content and not content.startswith(b'{"op_code"'):
            raise ValueError("not a journal")
        if not content.endswith(b"\n"):
            journal.truncate(content.rfind(b"\n") + 1)


class _KernelLock:
    """Optuna's own locks are files that outlive a killed process by half a minute; this one dies with it.

    It has the two methods that the backend calls; the base class of Optuna's is not public.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._held = self._file.open("ab")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


# --- from and to Optuna --------------------------------------------------------------------------------------------


def _distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    made: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, bounds in space.items():
        match bounds:
            case Range(low, high, log):
                made[name] = optuna.distributions.FloatDistribution(low, high, log=log)
            case Whole(low, high, log):
                made[name] = optuna.distributions.IntDistribution(low, high, log=log)
            case Choice(values):
                made[name] = optuna.distributions.CategoricalDistribution(values)
    return made


def _finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _record(study: optuna.Study) -> StudyRecord:
    trials = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        trials.append(
            TrialRecord(
                number=trial.number,
                state="complete" if trial.state == TrialState.COMPLETE else "pruned",
                score=-math.inf if trial.value is None or "diverged" in trial.user_attrs else float(trial.value),
                values=dict(trial.params),
                returns=tuple(trial.user_attrs.get("returns", ())),
                reports=tuple(sorted(trial.intermediate_values.items())),
                seconds=float(trial.user_attrs.get("seconds", math.nan)),
            )
        )
    return StudyRecord(tuple(trials), _importances(study))


def _importances(study: optuna.Study) -> dict[str, float]:
    complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if complete < ENOUGH_FOR_IMPORTANCE:
        return {}
    # Optuna advises five trials or more among the best.
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, 5 / complete)))
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's remarks on every trial stay out of the way; its settings are put back."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
