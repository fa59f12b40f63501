"""Studies: what is counted, what is kept, and what becomes of them when their processes die."""

from __future__ import annotations

import fcntl
import importlib
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import optuna
import pytest

from rlcourse.errors import (
    ConfigError,
    EnvironmentFailedError,
    MissingExtraError,
    StorageError,
    TrainingDivergedError,
)
from rlcourse.randomness import Seeds
from rlcourse.training.experiments import NoisyHill, OnlineExperiment
from rlcourse.training.live_workers import locked
from rlcourse.training.runs import Stop, TrainingRun
from rlcourse.training.studies import StudyRecord, TrialRecord, TuningConfig
from rlcourse.training.tuning import read_study, reassess, tune

HILL = NoisyHill()
CONFIG = TuningConfig(n_trials=14)


def addresses(folder: Path) -> dict[str, str]:
    return {"journal": str(folder / "a.journal"), "sqlite": f"sqlite:///{folder / 'a.db'}"}


def content(study: StudyRecord) -> list[tuple[str, str, float]]:
    return [(json.dumps(trial.values, sort_keys=True), trial.state, trial.score) for trial in study.trials]


@dataclass(frozen=True)
class Interrupted(NoisyHill):
    """The hill, until somebody presses Ctrl-C at the so-and-so-manieth look."""

    at: int = 0

    def run(self, values: Mapping[str, Any], seeds: Seeds, stop: Stop) -> TrainingRun:
        def counting(look: int, earned: float) -> bool:
            LOOKED.append(look)
            if len(LOOKED) == self.at:
                raise KeyboardInterrupt
            return stop(look, earned)

        return super().run(values, seeds, counting)


LOOKED: list[int] = []


@pytest.mark.parametrize(("kind", "n_trials", "at"), [("journal", 14, (40, 95)), ("sqlite", 4, (22,))])
def test_an_interrupted_study_ends_as_if_nothing_had_happened(
    kind: str, n_trials: int, at: tuple[int, ...], tmp_path: Path
) -> None:
    storage, config = addresses(tmp_path)[kind], TuningConfig(n_trials)
    whole = tune(HILL, config, storage=addresses(tmp_path)["journal"], study="whole")
    LOOKED.clear()
    for look in at:
        with pytest.raises(KeyboardInterrupt):
            tune(Interrupted(at=look), config, storage=storage, study="cut")
    cut = tune(HILL, config, storage=storage, study="cut")
    assert content(cut) == content(whole)
    assert len({trial.number for trial in cut.trials}) == len(cut.trials) == n_trials
    again = tune(HILL, config, storage=storage, study="cut")
    assert again == cut, "a finished study is not gone on with"
    assert read_study(storage, "cut") == cut


def test_more_trials_go_on_from_those_there_are(tmp_path: Path) -> None:
    storage = addresses(tmp_path)["journal"]
    first = tune(HILL, TuningConfig(n_trials=5), storage=storage)
    assert len(first.trials) == 5
    assert first.trials[0].values == HILL.defaults, "the defaults come first"
    assert content(tune(HILL, TuningConfig(n_trials=9), storage=storage))[:5] == content(first)
    assert len(tune(HILL, TuningConfig(n_trials=3), storage=storage).trials) == 9


SCRIPT = """
import sys
from rlcourse.training.experiments import NoisyHill
from rlcourse.training.studies import TuningConfig
from rlcourse.training.tuning import tune
if __name__ == "__main__":
    tune(NoisyHill(pause_s=0.1), TuningConfig(n_trials=12), storage=sys.argv[1], n_jobs=2)
"""

KINDS = ["journal", "sqlite"]


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_killed_in_mid_trial_leave_trials_that_are_run_again_and_counted_once(
    kind: str, tmp_path: Path
) -> None:
    storage = addresses(tmp_path)[kind]
    script = tmp_path / "go.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, script, storage])
    running = wait_for(lambda: states(storage).get("RUNNING", []), count=2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # The workers end with their parent, however it ended: their locks become free.
    workers = list(tmp_path.glob("a.*.worker-*"))
    assert len(workers) == 2
    wait_for(lambda: [path for path in workers if is_free(path)], count=2)
    interrupted = states(storage)["RUNNING"]
    assert set(running) and len(interrupted) <= 2
    study = tune(HILL, TuningConfig(n_trials=12), storage=storage)
    after = states(storage)
    assert len(study.trials) == 12 and "RUNNING" not in after and "WAITING" not in after
    assert after["FAIL"] == interrupted
    trials = {trial.number: trial for trial in load(storage).trials}
    retries = {trial.user_attrs["again"]: trial for trial in trials.values() if "again" in trial.user_attrs}
    assert sorted(retries) == interrupted
    for number, retry in retries.items():
        assert retry.params == trials[number].params
        assert retry.state.is_finished()
    assert not list(tmp_path.glob("*.worker-*"))


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_never_exceed_the_total(kind: str, tmp_path: Path) -> None:
    storage, seen = addresses(tmp_path)[kind], list[int]()
    study = tune(HILL, TuningConfig(n_trials=11), storage=storage, n_jobs=2, progress=seen.append)
    assert len(study.trials) == 11
    assert len({trial.number for trial in study.trials}) == 11
    assert states(storage).keys() <= {"COMPLETE", "PRUNED"}
    assert seen == sorted(seen) and seen[-1] == 11


def load(storage: str) -> optuna.Study:
    if storage.startswith("sqlite:"):
        return optuna.load_study(study_name="study", storage=optuna.storages.RDBStorage(storage))
    backend = optuna.storages.journal.JournalFileBackend(storage)
    return optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend))


def states(storage: str) -> dict[str, list[int]]:
    """The numbers of the trials in each state; nothing while there is no study yet."""
    file = Path(storage.removeprefix("sqlite:///"))
    found: dict[str, list[int]] = {}
    with locked(file):  # a database that is being made is no database
        if not file.exists() or not file.stat().st_size:
            return {}
        try:
            for trial in load(storage).trials:
                found.setdefault(trial.state.name, []).append(trial.number)
        except KeyError:
            return {}
    return found


def is_free(path: Path) -> bool:
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def wait_for(look: Any, *, count: int, limit_s: float = 60.0) -> list[Any]:
    until = time.monotonic() + limit_s
    while len(found := look()) < count:
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
    return list(found)


def test_pruned_trials_keep_their_values_and_are_not_the_best(tmp_path: Path) -> None:
    study = tune(NoisyHill(noise=1.0), TuningConfig(n_trials=30), storage=str(tmp_path / "a"))
    pruned = [trial for trial in study.trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert trial.score == trial.reports[-1][1] == pytest.approx(sum(trial.returns) / 3)
        assert len(trial.reports) < HILL.looks
    assert study.best.state == "complete"
    everything = tune(NoisyHill(noise=1.0), TuningConfig(n_trials=9, prune=False), storage=str(tmp_path / "b"))
    assert len(everything.complete) == 9


def test_what_is_reported_is_the_mean_over_the_seeds(tmp_path: Path) -> None:
    (trial,) = tune(HILL, TuningConfig(n_trials=1), storage=str(tmp_path / "a")).trials
    assert len(set(trial.returns)) == 3
    assert trial.score == pytest.approx(sum(trial.returns) / 3)
    assert [value for _, value in trial.reports] == pytest.approx([trial.score * look / 5 for look in range(1, 6)])


@dataclass(frozen=True)
class Diverging(NoisyHill):
    def run(self, values: Mapping[str, Any], seeds: Seeds, stop: Stop) -> TrainingRun:
        if values["size"] == 256:
            raise TrainingDivergedError("Loss is NaN.", mend="Lower the learning rate.")
        return super().run(values, seeds, stop)


def test_settings_that_diverge_count_as_tried_and_bad(tmp_path: Path) -> None:
    study = tune(Diverging(), CONFIG, storage=str(tmp_path / "a"))
    assert len(study.trials) == CONFIG.n_trials
    diverged = [trial for trial in study.trials if trial.values["size"] == 256]
    assert diverged and all(trial.score == -math.inf and trial.state == "pruned" for trial in diverged)


PUMP = """
import gymnasium as gym
import numpy as np

BROKEN = False


class Pump(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, how):
        self.how = how

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if BROKEN and self.how == "raises":
            raise ZeroDivisionError("the pump has no pressure")
        return np.zeros(1, np.float32), np.nan if BROKEN else 1.0, True, False, {}


for how in ("raises", "nan"):
    gym.register(f"Pump-{how}-v0", Pump, kwargs={"how": how}, disable_env_checker=True)
"""


@pytest.fixture
def pump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "pump_of_the_tests.py").write_text(PUMP)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("pump_of_the_tests")
    del sys.modules["pump_of_the_tests"]
    for how in ("raises", "nan"):
        del gym.registry[f"Pump-{how}-v0"]


@pytest.mark.parametrize(
    ("how", "says"), [("raises", "raised ZeroDivisionError: the pump has no pressure"), ("nan", "returned NaN")]
)
def test_an_environment_that_breaks_ends_the_study_and_its_finished_trials_are_kept(
    how: str, says: str, pump: Any, tmp_path: Path
) -> None:
    experiment = OnlineExperiment("ppo", f"Pump-{how}-v0", 64, eval_episodes=2)
    config, storage = TuningConfig(n_trials=3, seeds_per_trial=1), str(tmp_path / "a")

    def breaks(finished: int) -> None:
        pump.BROKEN = True

    with pytest.raises(EnvironmentFailedError, match=says):
        tune(experiment, config, storage=storage, progress=breaks)
    kept = read_study(storage)
    assert len(kept.complete) == len(kept.trials) == 1 and kept.best.score == 1.0
    pump.BROKEN = False
    study = tune(experiment, config, storage=storage)
    assert len(study.trials) == 3 and study.trials[0] == kept.trials[0]


@dataclass(frozen=True)
class Breaking(NoisyHill):
    """Breaks at all settings but the default ones."""

    def run(self, values: Mapping[str, Any], seeds: Seeds, stop: Stop) -> TrainingRun:
        if values != self.defaults:
            raise EnvironmentFailedError("Hill-v0 raised OSError.", mend="Mend the environment.")
        return super().run(values, seeds, stop)


@pytest.mark.parametrize("kind", KINDS)
def test_an_environment_that_breaks_in_another_process_is_told_here(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # the processes look for this module there
    storage = addresses(tmp_path)[kind]
    assert len(tune(Breaking(), TuningConfig(n_trials=1), storage=storage).trials) == 1
    with pytest.raises(EnvironmentFailedError, match="Hill-v0 raised OSError"):
        tune(Breaking(), CONFIG, storage=storage, n_jobs=2)
    assert len(read_study(storage).complete) == 1
    assert len(tune(HILL, CONFIG, storage=storage).trials) == CONFIG.n_trials, "what broke is run again"


def test_importance_goes_to_what_matters(tmp_path: Path) -> None:
    study = tune(NoisyHill(noise=1.0), TuningConfig(n_trials=40, prune=False), storage=str(tmp_path / "a"))
    assert study.importances["learning_rate"] > 0.6
    assert sum(study.importances.values()) == pytest.approx(1.0)
    assert study.best.score > 90


def test_history_is_the_running_best_of_the_complete() -> None:
    def trial(number: int, score: float, state: Any = "complete") -> TrialRecord:
        return TrialRecord(number, state, score, {}, (), (), 0.0)

    study = StudyRecord((trial(0, 99.0, "pruned"), trial(1, 3.0), trial(2, 1.0), trial(3, 5.0), trial(4, 5.0)))
    assert math.isnan(study.history()[0])
    assert study.history()[1:] == [3.0, 3.0, 5.0, 5.0]
    assert study.best.number == 3
    with pytest.raises(ConfigError, match="No trial"):
        _ = StudyRecord(()).best


@dataclass(frozen=True)
class Flat(NoisyHill):
    """All settings are worth the same: whatever wins has been lucky."""

    def truth(self, values: Mapping[str, Any]) -> float:
        return self.height


def test_the_best_of_equals_is_overestimated_and_fresh_seeds_tell(tmp_path: Path) -> None:
    config = TuningConfig(n_trials=30, prune=False)
    tune(Flat(), config, storage=str(tmp_path / "a"))
    found = reassess(Flat(), config, storage=str(tmp_path / "a"), n_fresh=40)
    # The largest of 30 means of 3 seeds: about 2 standard errors of 10 / sqrt(3) above the truth.
    assert found.tuned_score > 107
    assert found.overestimate > 5
    assert found.summaries[1].last.low < 100 < found.summaries[1].last.high
    assert not found.verdict.better_than_baseline
    shrunken = read_study(str(tmp_path / "a")).shrunken_best()
    assert shrunken is not None and abs(shrunken - 100) < abs(found.tuned_score - 100)


def test_fresh_runs_are_kept_and_only_missing_ones_are_run(tmp_path: Path) -> None:
    storage = str(tmp_path / "a")
    tune(HILL, CONFIG, storage=storage)
    LOOKED.clear()
    with pytest.raises(KeyboardInterrupt):
        reassess(Interrupted(at=33), CONFIG, storage=storage, n_fresh=5)
    cut = reassess(HILL, CONFIG, storage=storage, n_fresh=5)
    tune(HILL, CONFIG, storage=str(tmp_path / "b"))
    whole = reassess(HILL, CONFIG, storage=str(tmp_path / "b"), n_fresh=5)
    assert [[run["last"] for run in runs] for runs in cut.runs.values()] == [
        [run["last"] for run in runs] for runs in whole.runs.values()
    ]
    LOOKED.clear()
    assert reassess(Interrupted(at=1), CONFIG, storage=storage, n_fresh=5).runs == cut.runs
    with pytest.raises(ConfigError, match="1 fresh"):
        reassess(HILL, CONFIG, storage=storage, n_fresh=1)


@pytest.mark.parametrize(
    ("experiment", "config", "says"),
    [
        (NoisyHill(noise=3.0), CONFIG, "noise 10.0 instead of 3.0"),
        (HILL, TuningConfig(n_trials=14, seeds_per_trial=2), "seeds_per_trial 3 instead of 2"),
        (HILL, TuningConfig(n_trials=14, seed=1), "seed 0 instead of 1"),
    ],
)
def test_another_study_in_the_same_place_is_refused(
    experiment: NoisyHill, config: TuningConfig, says: str, tmp_path: Path
) -> None:
    storage = str(tmp_path / "a")
    before = tune(HILL, TuningConfig(n_trials=2), storage=storage)
    with pytest.raises(ConfigError, match=says) as caught:
        tune(experiment, config, storage=storage)
    assert "another study or storage" in caught.value.mend
    assert read_study(storage) == before
    assert len(tune(experiment, config, storage=storage, study="other").trials) == config.n_trials


def test_a_study_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "a"))
    theirs = optuna.create_study(study_name="study", storage=optuna.storages.JournalStorage(backend))
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ConfigError, match="made with"):
        tune(HILL, CONFIG, storage=str(tmp_path / "a"))


def test_files_that_are_no_storage_are_refused_and_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    for text in ("years of work", "years of work\n", '{"years": 3}\n'):
        thesis.write_text(text)
        for storage in (str(thesis), f"sqlite:///{thesis}"):
            with pytest.raises(StorageError, match="Optuna"):
                tune(HILL, CONFIG, storage=storage)
        assert thesis.read_text() == text
    with pytest.raises(ConfigError, match="no local file"):
        tune(HILL, CONFIG, storage="postgresql://somewhere/db")
    with pytest.raises(StorageError, match="no file"):
        read_study(str(tmp_path / "nowhere"))
    with pytest.raises(StorageError):
        tune(HILL, CONFIG, storage=str(tmp_path))
    tune(HILL, TuningConfig(n_trials=1), storage=str(tmp_path / "a"))
    with pytest.raises(ConfigError, match="It holds: study"):
        read_study(str(tmp_path / "a"), "stdy")


def test_half_a_line_at_the_end_of_a_journal_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "a"
    before = tune(HILL, TuningConfig(n_trials=3), storage=str(file))
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[-1][:20])
    assert read_study(str(file)) == before
    assert len(tune(HILL, TuningConfig(n_trials=5), storage=str(file)).trials) == 5


def test_without_optuna_the_mend_is_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "rlcourse.training.tuning")
    with pytest.raises(MissingExtraError) as caught:
        import rlcourse.training.tuning  # noqa: F401
    assert caught.value.mend == "pip install 'rlcourse[tune]'"


@pytest.mark.parametrize(("n_trials", "seeds"), [(0, 3), (5, 0)])
def test_nothing_to_do_is_refused(n_trials: int, seeds: int) -> None:
    with pytest.raises(ConfigError):
        TuningConfig(n_trials, seeds)


def test_optuna_s_verbosity_is_put_back(tmp_path: Path) -> None:
    before = optuna.logging.get_verbosity()
    tune(HILL, TuningConfig(n_trials=1), storage=str(tmp_path / "a"))
    assert optuna.logging.get_verbosity() == before
