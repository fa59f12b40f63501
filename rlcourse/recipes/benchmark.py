"""``rlcourse benchmark``: algorithms x environments x trials, and what can be said of them with intervals."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcourse.devices import resolve_device, torch_threads
from rlcourse.environments import check_known, make
from rlcourse.errors import ConfigError, UnknownAlgorithmError, UnknownEnvironmentError
from rlcourse.evaluation.solved import solved_return
from rlcourse.files import atomic_directory, write_json
from rlcourse.randomness import Seeds
from rlcourse.recipes.benchmark_policies import POLICY, artifact_of, can_be_saved, hand_out, refuse_others
from rlcourse.recipes.benchmark_report import describe, readable
from rlcourse.recipes.common import Common, hardware, plain, report, say, show_result, versions, write_report
from rlcourse.recipes.parallel import RESULT, Failure, check_jobs, cores, finish, is_finished, result
from rlcourse.recipes.pictures import benchmark_picture, check_format
from rlcourse.training.online import BASELINES, ONLINE_ALGORITHMS, online_settings, train_online
from rlcourse.training.runs import TrainingRun
from rlcourse.training.scripted import scripted_policy
from rlcourse.training.trackers import check_places, tracker_for
from rlcourse.vocabulary import ContinuousActions, Policy, Tracker

SB3 = "sb3-"
ALGORITHMS = (*ONLINE_ALGORITHMS, "sb3-ppo", "sb3-dqn", "sb3-sac")


@dataclass(frozen=True, kw_only=True)
class Benchmark(Common):
    """Compare algorithms on environments, over many trials.

    Trials run side by side, each on one thread. Finished ones are stored under --folder: a benchmark that was interrupted
    goes on where it was, and one with more trials or algorithms does only what is new.

    Example: rlcourse benchmark --env CartPole-v1 --algorithms dqn ppo random --trials 5 --output results.json
    """

    env: tuple[str, ...] = ("CartPole-v1",)
    """Gymnasium names, or module:name to import the module that registers it."""
    algorithms: tuple[str, ...] = ("dqn", "ppo", "random")
    """Of ppo, recurrent-ppo (with a memory), dqn, sac, random, scripted, sb3-ppo, sb3-dqn and sb3-sac
    (stable-baselines3's)."""
    trials: int = 5
    """Runs of each algorithm on each environment, with the seeds from --seed on. Five give a rough interval."""
    num_steps: int | None = None
    """Environment steps of each run, instead of what is set for each algorithm and environment."""
    baseline: str | None = None
    """The algorithm that the others are compared with; by default random, or else the first."""
    jobs: int | None = None
    """Trials at a time; by default as many as there are cores, and 1 on a GPU."""
    folder: Path = Path("runs/benchmark")
    """Where finished trials are kept."""
    output_policies: Path | None = None
    """Write each trial's policy to this folder, as ENV-ALGORITHM-SEED, ready for rlcourse serve http. Policies of random,
    scripted and stable-baselines3 are none that can be saved."""
    output: Path | None = None
    """Write the report, as --json does, to this file."""
    plot: Path | None = None
    """Draw learning curves, profile and intervals to this file (.png, .svg or .pdf)."""
    tracker: str | None = None
    """Where metrics go while training, for example csv:runs/{run}.csv, mlflow or prometheus:runs/{run}.prom; {run} becomes
    a trial's name. With --jobs 1 also prometheus:PORT."""

    def __post_init__(self) -> None:
        for what, names in (("environments", self.env), ("algorithms", self.algorithms)):
            if not names or len(set(names)) != len(names):
                raise ConfigError(f"The {what} are {' '.join(names) or 'none'}.", mend="Name each once.")
        for name in ("trials", "num_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}.", mend="Use 1 or more.")
        if self.jobs is not None:
            check_jobs(self.jobs)
        if self.baseline is not None and self.baseline not in self.algorithms:
            raise ConfigError(f"The baseline {self.baseline!r} does not run.", mend="Name it among the --algorithms.")
        if self.output_policies is not None and not any(map(can_be_saved, self.algorithms)):
            raise ConfigError(
                f"No policy of {' '.join(self.algorithms)} can be saved.",
                mend="Leave --output-policies out, or name ppo, recurrent-ppo, dqn or sac among the --algorithms.",
            )
        check_places(self.tracker, side_by_side=None if self.jobs == 1 else "Add --jobs 1.")


@dataclass(frozen=True)
class Trial:
    """One run of one algorithm in one environment, small enough to send to another process."""

    env: str
    module: str  # imported first, because it registers the environment; empty for none
    algorithm: str
    seed: int
    num_steps: int | None
    settings: Any  # OnlineSettings or Sb3Settings; None for what learns nothing
    device: str
    tracker: str | None
    folder: Path

    @property
    def name(self) -> str:
        """As in ``CartPole-v1-ppo-0``."""
        return f"{self.env.replace('/', '-')}-{self.algorithm}-{self.seed}"


def run(config: Benchmark) -> int:
    """Run what is missing, compare, report; 1 if a trial failed."""
    started = time.perf_counter()
    check_format(config.plot)
    device = resolve_device(config.device)
    jobs = config.jobs or (1 if device.type == "cuda" else cores())
    trials = _trials(config, str(device))
    if config.output_policies is not None:
        refuse_others(config.output_policies, trials)  # before the work, not after it
    failures = finish(trials, execute, jobs=jobs, unit="trial")
    finished = [trial for trial in trials if is_finished(trial)]
    rows = [_row(result(trial)) for trial in finished]
    envs = list(dict.fromkeys(trial.env for trial in trials))
    baseline = config.baseline or ("random" if "random" in config.algorithms else config.algorithms[0])
    found = describe(rows, envs=envs, baseline=baseline, seeds=Seeds(config.seed))
    show_result(readable(found), config.json)
    if config.plot is not None and rows:
        benchmark_picture(config.plot, found)
        say(f"picture written to {config.plot}")
    if config.output_policies is not None:
        written = hand_out(config.output_policies, finished)
        say(f"{written} policies written to {config.output_policies}")
    content = report(
        "benchmark",
        config,
        seconds=time.perf_counter() - started,
        results=rows,
        summary=found.summary_rows(),
        packages=_packages(config.algorithms),
        **found.more(),
        settings=_settings(trials),
        failures=[_failure_row(failure) for failure in failures],
        jobs=jobs,
    )
    for target in {config.json, None if config.output is None else str(config.output)}:
        write_report(target, content)
    if failures:
        say(f"{len(failures)} of {len(trials)} trials failed; the others are kept in {config.folder}")
    return 1 if failures else 0


def execute(trial: Trial) -> None:
    """Train, and leave the folder of a finished trial."""
    if trial.module:
        importlib.import_module(trial.module)
    with (
        torch_threads(1),
        closing(tracker_of(trial)) as to,
    ):
        seeds, steps = Seeds(trial.seed), trial.num_steps
        policy: Policy | None = None
        if trial.algorithm.startswith(SB3):
            from rlcourse.training import sb3  # its library takes seconds to load, and need not be there

            outcome, _ = sb3.train_sb3(
                trial.algorithm,
                trial.env,
                seeds=seeds,
                device=trial.device,
                settings=trial.settings,
                num_steps=steps,
                tracker=to,
            )
        else:
            outcome, policy = train_online(
                trial.algorithm,
                trial.env,
                seeds=seeds,
                device=trial.device,
                settings=trial.settings,
                num_steps=steps,
                tracker=to,
            )
    with atomic_directory(trial.folder) as part:
        if policy is not None and can_be_saved(trial.algorithm):
            artifact_of(trial, policy, outcome).save(part / POLICY)
        write_json(part / RESULT, plain({**result_row(trial, outcome), **_circumstances(trial)}))


def tracker_of(trial: Trial) -> Tracker:
    """Where a trial's metrics go."""
    return tracker_for(trial.tracker, trial.name, threshold=solved_return(trial.env))


def result_row(trial: Trial, outcome: TrainingRun) -> dict[str, Any]:
    """One entry of ``results`` in a report; seconds are those of collection and updates."""
    end = outcome.evaluations[-1]
    return {
        "env": trial.env,
        "algorithm": trial.algorithm,
        "seed": trial.seed,
        "last": outcome.last,
        "best": outcome.best,
        "steps": outcome.steps,
        "seconds": round(end.train_seconds, 3),
        "cpu_seconds": round(end.cpu_seconds, 3),
        "steps_per_s": round(end.step / end.train_seconds, 1) if end.step and end.train_seconds > 0 else None,
        "curve": [[e.step, e.greedy_return] for e in outcome.evaluations],
        "cpu_curve": [[round(e.cpu_seconds, 4), e.greedy_return] for e in outcome.evaluations],
    }


def _circumstances(trial: Trial) -> dict[str, Any]:
    made = versions(*_packages((trial.algorithm,)))
    return {"settings": plain(trial.settings), "versions": made, "hardware": hardware()}


def _row(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in ("settings", "versions", "hardware")}


def _packages(algorithms: tuple[str, ...]) -> tuple[str, ...]:
    return ("stable-baselines3",) if any(name.startswith(SB3) for name in algorithms) else ()


def _trials(config: Benchmark, device: str) -> list[Trial]:
    """All trials, those of one seed together, so that an early look sees a bit of everything."""
    trials = []
    named = [registered(env) for env in config.env]
    settings = {(env, name): settings_for(name, env) for _, env in named for name in config.algorithms}
    made = {name: versions(*_packages((name,))) for name in config.algorithms}
    for seed in range(config.seed, config.seed + config.trials):
        for module, env in named:
            for name in config.algorithms:
                # A finished trial counts only for exactly these settings and these versions.
                what = [env, name, seed, config.num_steps, plain(settings[env, name]), device, made[name]]
                key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
                folder = config.folder.absolute() / f"{env.replace('/', '-')}-{name}-{seed}-{key}"
                trials.append(
                    Trial(
                        env,
                        module,
                        name,
                        seed,
                        config.num_steps,
                        settings[env, name],
                        device,
                        config.tracker,
                        folder,
                    )
                )
    return trials


def registered(env: str) -> tuple[str, str]:
    """The module and the name in ``module:name`` (or no module), once the module is imported and the name is known.

    Raises:
        UnknownEnvironmentError: no such module, or nobody knows the name.
    """
    module, _, name = env.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UnknownEnvironmentError(
                f"There is no module {error.name!r}.",
                mend="Name one that Python can import; for one in this folder, set PYTHONPATH=. first.",
            ) from error
    check_known(name)
    return module, name


def settings_for(algorithm: str, env_id: str) -> Any:
    """How an algorithm is run in an environment; ``None`` for one that learns nothing.

    Raises:
        UnknownAlgorithmError: none of :data:`ALGORITHMS`.
        ConfigError: the algorithm cannot choose among the environment's kind of actions.
        MissingExtraError: stable-baselines3 is not installed.
    """
    if algorithm not in ALGORITHMS:
        near = difflib.get_close_matches(algorithm, ALGORITHMS, n=1)
        meant = f"Did you mean {near[0]}?" if near else f"Use some of {', '.join(ALGORITHMS)}."
        raise UnknownAlgorithmError(f"There is no algorithm called {algorithm!r}.", mend=meant)
    if algorithm.startswith(SB3):
        from rlcourse.training import sb3

        sb3.check_actions(algorithm, env_id)
        return sb3.sb3_settings(algorithm, env_id)
    env = make(env_id, 1, seeds=Seeds(0))
    continuous = isinstance(env.actions, ContinuousActions)
    if (algorithm in ("dqn", "recurrent-ppo") and continuous) or (algorithm == "sac" and not continuous):
        kind, other = ("continuous", "sac") if continuous else ("discrete", "dqn")
        raise ConfigError(
            f"{algorithm} cannot act in {env_id}: its actions are {kind}.", mend=f"Use ppo or {other} there."
        )
    if algorithm == "scripted":
        scripted_policy(env)
    return None if algorithm in BASELINES else online_settings(algorithm, env_id)


def _settings(trials: list[Trial]) -> dict[str, dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = {}
    for trial in trials:
        kept.setdefault(trial.env, {})[trial.algorithm] = plain(trial.settings)
    return kept


def _failure_row(failure: Failure[Trial]) -> dict[str, Any]:
    trial, error = failure.task, failure.error
    return {
        "env": trial.env,
        "algorithm": trial.algorithm,
        "seed": trial.seed,
        "error": type(error).__name__,
        "problem": error.problem,
        "mend": error.mend,
    }
