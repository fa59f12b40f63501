"""What the trials of a benchmark add up to: intervals, profiles, curves, and how long it took to solve the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from rlcourse.evaluation.comparison import AlgorithmSummary, summarise
from rlcourse.evaluation.curves import Curve, mean_curve
from rlcourse.evaluation.solved import TimeToSolve, normalised, solved_return, time_to_solve
from rlcourse.evaluation.statistics import Array, Profile, performance_profile
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import plain, table
from rlcourse.training.online import train_online

ALL = "all"
"""The name under which scores of all environments, normalised, stand."""
PROFILE_POINTS = 51

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One environment, or all of them with normalised scores."""

    env: str
    baseline: str
    summaries: list[AlgorithmSummary]
    profiles: dict[str, Profile]  # by algorithm, of the last returns


@dataclass(frozen=True)
class Environment(Part):
    """What is known of one environment alone."""

    solved: float | None
    random: float | None  # what random actions earn; asked only where scores are normalised
    times: list[TimeToSolve]  # empty where nobody has said what counts as solved
    by_steps: dict[str, Curve]
    by_cpu_seconds: dict[str, Curve]
    speeds: dict[str, tuple[float, float | None, float]]  # steps, steps/s and CPU seconds, medians


@dataclass(frozen=True)
class Findings:
    """Everything that a benchmark says."""

    environments: list[Environment]
    all: Part | None
    notes: list[str]

    @property
    def parts(self) -> list[Part]:
        """Every environment, then all together."""
        return [*self.environments, *([] if self.all is None else [self.all])]

    def summary_rows(self) -> list[dict[str, Any]]:
        """The ``summary`` of a report; with several environments, one line for each algorithm in each and in all."""
        return [_summary_row(part, summary) for part in self.parts for summary in part.summaries]

    def more(self) -> dict[str, Any]:
        """The keys of the report beyond those that every command has."""
        kept: dict[str, Any] = plain(
            {
                "time_to_solve": [{"env": e.env, **plain(one)} for e in self.environments for one in e.times],
                "profiles": [
                    {"env": part.env, "algorithm": name, **plain(profile)}
                    for part in self.parts
                    for name, profile in part.profiles.items()
                ],
                "curves": [
                    {"env": e.env, "algorithm": name, "by": by, **plain(curve)}
                    for e in self.environments
                    for by, curves in (("steps", e.by_steps), ("cpu_seconds", e.by_cpu_seconds))
                    for name, curve in curves.items()
                ],
                "normalisation": [
                    {"env": e.env, "random": e.random, "solved": e.solved} for e in self.environments if self.all
                ],
                "notes": self.notes,
            }
        )
        return kept


def describe(rows: Sequence[Row], *, envs: Sequence[str], baseline: str, seeds: Seeds) -> Findings:
    """Compare the algorithms in each environment and, where scores can be normalised, in all.

    Args:
        rows: of finished trials.
        envs: in the order of the report.
        baseline: compared with where it has runs, the first algorithm elsewhere.
        seeds: bootstraps, and what random actions earn where no trial says it.
    """
    by_env = {env: [row for row in rows if row["env"] == env] for env in envs}
    by_env = {env: found for env, found in by_env.items() if found}
    many = len(envs) > 1
    environments = [_environment(env, found, baseline, seeds, many) for env, found in by_env.items()]
    notes = [
        "Returns are means of greedy episodes; those of random are sampled. Seconds are those of collection and updates, "
        "and trials that run side by side slow each other down."
    ]
    together, note = _all(by_env, environments, len(envs), baseline, seeds) if many else (None, "")
    return Findings(environments, together, [*notes, note] if note else notes)


def _environment(env: str, rows: Sequence[Row], baseline: str, seeds: Seeds, many: bool) -> Environment:
    runs = _by_algorithm(rows)
    last, best = _scores(runs, "last"), _scores(runs, "best")
    solved = solved_return(env)
    part = _part(env, last, best, baseline, seeds)
    return Environment(
        **vars(part),
        solved=solved,
        random=_random_return(env, runs, seeds) if many and solved is not None else None,
        times=[] if solved is None else [time_to_solve(name, _evaluations(r), solved) for name, r in runs.items()],
        by_steps=_curves(runs, "curve", seeds),
        by_cpu_seconds=_curves(runs, "cpu_curve", seeds),
        speeds={name: _speed(found) for name, found in runs.items()},
    )


def _part(env: str, last: dict[str, Array], best: dict[str, Array], baseline: str, seeds: Seeds) -> Part:
    baseline = baseline if baseline in last else next(iter(last))
    summaries = summarise(last, best, baseline=baseline, seeds=seeds)
    low, high = min(scores.min() for scores in last.values()), max(scores.max() for scores in last.values())
    levels = np.linspace(low - (high - low) / PROFILE_POINTS, high, PROFILE_POINTS)  # from where all are above
    profiles = {
        name: performance_profile(scores, levels, rng=seeds.numpy("bootstrap")) for name, scores in last.items()
    }
    return Part(env, baseline, summaries, profiles)


def _all(
    by_env: Mapping[str, Sequence[Row]], environments: Sequence[Environment], wanted: int, baseline: str, seeds: Seeds
) -> tuple[Part | None, str]:
    unknown = [e.env for e in environments if e.solved is None or e.random is None or e.solved <= e.random]
    if unknown or len(environments) < wanted:
        why = f"for {', '.join(unknown)} nobody has said what counts as solved" if unknown else "one has no runs"
        return None, f"The environments are not averaged: {why}."
    scored = {kind: _matrices(by_env, environments, kind) for kind in ("last", "best")}
    complete = scored["last"].keys()
    if not complete:
        return None, "The environments are not averaged: no algorithm has the same trials in all of them."
    scales = "; ".join(f"{e.env} {e.random:.1f} and {e.solved:.1f}" for e in environments)
    note = f"Over all environments, 0 is what random actions earn and 1 is solved: {scales}."
    left = sorted({row["algorithm"] for rows in by_env.values() for row in rows} - set(complete))
    if left:
        note += f" Left out, for want of trials in some: {', '.join(left)}."
    return _part(ALL, scored["last"], scored["best"], baseline, seeds), note


def _matrices(by_env: Mapping[str, Sequence[Row]], environments: Sequence[Environment], kind: str) -> dict[str, Array]:
    """Normalised scores ``(R, M)`` of every algorithm that has the same seeds in every environment."""
    found: dict[str, Array] = {}
    runs = {env: _by_algorithm(rows) for env, rows in by_env.items()}
    names = list(dict.fromkeys(row["algorithm"] for rows in by_env.values() for row in rows))
    for name in names:
        seeds = [[row["seed"] for row in runs[e.env].get(name, ())] for e in environments]
        if seeds[0] and all(one == seeds[0] for one in seeds):
            columns = []
            for e in environments:
                assert e.random is not None and e.solved is not None
                scores = [row[kind] for row in runs[e.env][name]]
                columns.append(normalised(scores, random=e.random, solved=e.solved))
            found[name] = np.stack(columns, axis=-1)
    return found


def _by_algorithm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    names = dict.fromkeys(row["algorithm"] for row in rows)
    return {name: [row for row in rows if row["algorithm"] == name] for name in names}


def _scores(runs: Mapping[str, Sequence[Row]], kind: str) -> dict[str, Array]:
    return {name: np.array([float(row[kind]) for row in found]) for name, found in runs.items()}


def _curves(runs: Mapping[str, Sequence[Row]], kind: str, seeds: Seeds) -> dict[str, Curve]:
    return {
        name: mean_curve([row[kind] for row in found], rng=seeds.numpy("bootstrap")) for name, found in runs.items()
    }


def _evaluations(runs: Sequence[Row]) -> list[list[dict[str, float]]]:
    return [
        [
            {"step": step, "greedy_return": earned, "cpu_seconds": cpu}
            for (step, earned), (cpu, _) in zip(row["curve"], row["cpu_curve"], strict=True)
        ]
        for row in runs
    ]


def _speed(runs: Sequence[Row]) -> tuple[float, float | None, float]:
    rates = [row["steps_per_s"] for row in runs if row["steps_per_s"] is not None]
    return (
        median(row["steps"] for row in runs),
        median(rates) if rates else None,
        median(row["cpu_seconds"] for row in runs),
    )


def _random_return(env: str, runs: Mapping[str, Sequence[Row]], seeds: Seeds) -> float:
    if "random" in runs:
        return float(np.mean([row["last"] for row in runs["random"]]))
    return train_online("random", env, seeds=seeds.child("random"))[0].last


def _summary_row(part: Part, summary: AlgorithmSummary) -> dict[str, Any]:
    return {
        "env": part.env,
        "algorithm": summary.algorithm,
        "iqm": summary.last.estimate,
        "ci_low": summary.last.low,
        "ci_high": summary.last.high,
        "n": summary.n,
        "best_iqm": summary.best.estimate,
        "best_ci_low": summary.best.low,
        "best_ci_high": summary.best.high,
        "baseline": part.baseline,
        "improvement": None if summary.improvement is None else plain(summary.improvement),
    }


def readable(found: Findings) -> str:
    """The tables that a person reads."""
    blocks = []
    for part in found.environments:
        blocks.append(f"{part.env}\n{_table(part)}")
        if part.times:
            blocks.append(_times_table(part))
    if found.all is not None:
        blocks.append(f"all environments, normalised\n{_table(found.all)}")
    return "\n\n".join([*blocks, *found.notes])


def _table(part: Part) -> str:
    alone = isinstance(part, Environment)
    digits = ".1f" if alone else ".2f"
    header = ["algorithm", "last IQM [95% interval]", "best IQM [95% interval]", f"P(run beats {part.baseline})"]
    header += ["steps", "steps/s", "CPU s", "runs"] if alone else ["runs"]
    rows = []
    for s in part.summaries:
        beats = "-" if s.improvement is None else f"{s.improvement.estimate:.2f}"
        row = [s.algorithm, format(s.last, digits), format(s.best, digits), beats]
        if isinstance(part, Environment):
            steps, rate, cpu = part.speeds[s.algorithm]
            row += [f"{steps:,.0f}", "-" if rate is None else f"{rate:,.0f}", f"{cpu:.1f}"]
        rows.append([*row, str(s.n)])
    return table(header, rows)


def _times_table(part: Environment) -> str:
    rows = [
        [
            one.algorithm,
            f"{one.reached} of {one.runs}",
            "-" if one.median_steps is None else f"{one.median_steps:,.0f}",
            "-" if one.median_cpu_seconds is None else f"{one.median_cpu_seconds:.1f}",
        ]
        for one in part.times
    ]
    return table([f"until {part.solved:g}", "runs that got there", "median steps", "median CPU s"], rows)
