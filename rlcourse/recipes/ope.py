"""``rlcourse ope``: what saved policies would earn, judged by a log that another policy wrote."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.devices import torch_threads
from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.evaluation.off_policy import (
    BLIND,
    COMPARABLE,
    ENDLESS,
    FROZEN,
    WEIGHING,
    Assessment,
    Bounds,
    Demands,
    EstimatorName,
    FQEConfig,
    Limits,
    OffPolicyVerdict,
    Propensities,
    Resampled,
    Trajectories,
    assess,
    estimate_propensities,
    judge,
    logger_value,
)
from rlcourse.evaluation.statistics import Interval
from rlcourse.experience.minari_files import Dataset, load_dataset
from rlcourse.files import atomic_path, write_json
from rlcourse.networks import EpsilonGreedyPolicy, UniformBoxPolicy, UniformPolicy
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import NO_PREFIX, Common, plain, report, say, show_result, table, write_report
from rlcourse.recipes.pictures import check_format
from rlcourse.vocabulary import ContinuousActions, DiscretePolicy, Policy

UNIFORM = "uniform"


@dataclass(frozen=True, kw_only=True)
class Ope(Common):
    """Estimate what policies would earn from a log alone, and say whether one may be promoted.

    Nothing is run in an environment. Every estimate comes with an interval from resampled episodes, and with what speaks
    against it. Exit status 0 whatever the verdict: an honest "inconclusive" is an answer.

    Example: rlcourse ope --dataset cartpole/mixed-v0 --policy runs/compare/policy uniform --epsilon 0.1
    """

    dataset: str
    """Name under the Minari root, or a path."""
    policy: tuple[str, ...]
    """Folders of saved policies; the word uniform stands for random actions."""
    epsilon: float = 0.0
    """Let each policy act at random this often, as it would be deployed. A policy that never errs gives nearly every logged
    episode the weight 0."""
    estimators: tuple[EstimatorName, ...] = ("wis", "wpdis", "fqe", "linear", "wdr")
    """Which estimators to show."""
    decide_by: EstimatorName = "wdr"
    """Which of them the verdict rests on."""
    propensities: Propensities = "logged"
    """Use the logged ones, or guess them by cloning the logger. A verdict that rests on guessed ones is inconclusive unless
    --allow-estimated."""
    gamma: float = 0.99
    """Discount."""
    episodes: int | None = None
    """Use only so many episodes, drawn evenly; all by default."""
    confidence: float = 0.95
    """Of the intervals."""
    resamples: int = 1_000
    """How often the episodes are drawn anew."""
    reward_range: tuple[float, float] | None = None
    """The least and the most that one step can pay, by the task and not by the log. With --largest-ratio it gives bounds that
    hold for any distribution."""
    largest_ratio: float | None = None
    """The largest ratio of the policies' probabilities in one step; 1 over the logger's smallest probability is enough."""
    longest_episode: int | None = None
    """Steps that no episode exceeds. By default the log's longest, if one was cut off there or all are equally long."""
    demands: Annotated[Demands, NO_PREFIX] = field(default_factory=Demands)
    """What evidence has to look like before it is acted on."""
    fqe: FQEConfig = field(default_factory=FQEConfig)
    """Settings of fitted Q evaluation."""
    verdict: Path | None = None
    """Write the verdict alone to this JSON file; the release gate reads it."""
    plot: Path | None = None
    """Draw estimates and intervals to this file (.png, .svg or .pdf)."""
    root: Path | None = None
    """Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets."""

    def __post_init__(self) -> None:
        if not self.policy or len(set(self.policy)) != len(self.policy):
            raise ConfigError("No policy was named, or one twice.", mend="Name each once after --policy.")
        if self.decide_by not in self.estimators:
            raise ConfigError(
                f"The verdict cannot rest on {self.decide_by}, which is not estimated.",
                mend=f"Name {self.decide_by} after --estimators, or another after --decide-by.",
            )
        if self.decide_by in BLIND:
            raise ConfigError(
                f"{self.decide_by} is a model and nothing else; no interval knows how wrong its form is.",
                mend="Decide by wdr, mdr or another one that weighs what was logged.",
            )
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"{self.episodes} episodes say nothing.", mend="Use 1 or more.")
        if self.reward_range is None and (self.largest_ratio is not None or self.longest_episode is not None):
            raise ConfigError("Bounds need the range of the rewards as well.", mend="Add --reward-range LOW HIGH.")
        if not 0.0 <= self.epsilon <= 1.0:
            raise ConfigError(f"epsilon is {self.epsilon}.", mend="Use a share from 0 to 1, for example 0.1.")
        self.limits()

    def limits(self) -> Limits | None:
        """What is known beforehand.

        Raises:
            ConfigError: numbers that cannot be.
        """
        if self.reward_range is None:
            return None
        return Limits(*self.reward_range, self.largest_ratio, self.longest_episode)


def run(config: Ope) -> int:
    """Load, estimate, judge, report."""
    started = time.perf_counter()
    check_format(config.plot)
    seeds = Seeds(config.seed)
    dataset = load_dataset(config.dataset, root=config.root)
    policies = {name: _policy(name, dataset, config.epsilon) for name in config.policy}
    episodes = dataset.episodes
    if config.episodes is not None and config.episodes < episodes.num_episodes:
        chosen = seeds.numpy("episodes").choice(episodes.num_episodes, config.episodes, replace=False)
        episodes = episodes.select(np.sort(chosen))
    with torch_threads(1):
        guessed = None
        if config.propensities == "estimated":
            say("guessing the logger's propensities by cloning it")
            guessed = estimate_propensities(episodes, actions=dataset.card.actions, seeds=seeds.child("clone"))
        found: dict[str, Assessment] = {}
        log: Trajectories | None = None
        for name, policy in policies.items():
            say(f"estimating {name}")
            log = Trajectories.from_episodes(
                episodes,
                policy,
                gamma=config.gamma,
                behaviour=guessed,
                generator=seeds.torch("target's actions"),
                weighs=bool(WEIGHING & set(config.estimators)),
            )
            found[name] = assess(
                log,
                config.estimators,
                seeds=seeds,
                fqe=config.fqe,
                confidence=config.confidence,
                resamples=config.resamples,
                limits=config.limits(),
                policy=policy,
            )
        assert log is not None  # __post_init__ refuses an empty list
        until_the_cut, endless = (
            logger_value(log, seeds=seeds, endless=one, confidence=config.confidence, resamples=config.resamples)
            for one in (False, bool(ENDLESS & set(config.estimators)))
        )
        logger = endless if config.decide_by in ENDLESS else until_the_cut
    answer = judge(
        {name: one.values[config.decide_by] for name, one in found.items() if config.decide_by in one.values},
        logger,
        {name: one.diagnostics for name, one in found.items()},
        config.demands,
        basis="episodes" if config.decide_by in WEIGHING else "steps",
        silent={
            name: str(one.silent[config.decide_by]) for name, one in found.items() if config.decide_by in one.silent
        },
    )
    show_result(readable(config, found, (until_the_cut, endless), answer), config.json)
    if config.plot is not None:
        picture(config.plot, found, logger, title=config.dataset)
        say(f"picture written to {config.plot}")
    if config.verdict is not None:
        write_json(config.verdict, answer.to_json())
        say(f"verdict written to {config.verdict}")
    rows = [
        {
            "policy": name,
            "dataset": config.dataset,
            "estimator": estimator,
            "estimate": value.estimate,
            "ci_low": value.interval.low,
            "ci_high": value.interval.high,
            "given_this_fit": estimator in FROZEN,
            "bounds": _bounds(one.bounds[estimator]),
        }
        for name, one in found.items()
        for estimator, value in one.values.items()
    ]
    content = report(
        "ope",
        config,
        seconds=time.perf_counter() - started,
        results=rows,
        logger=plain(logger.interval),
        diagnostics={name: plain(one.diagnostics) for name, one in found.items()},
        verdict=answer.to_json(),
    )
    write_report(config.json, content)
    return 0


def _bounds(found: Bounds) -> dict[str, Any]:
    both = {"hoeffding": found.hoeffding, "bernstein": found.bernstein}
    ends = {name: None if one is None else [one.low, one.high] for name, one in both.items()}
    return {**ends, "reason": found.reason or None}


def _policy(name: str, dataset: Dataset, epsilon: float) -> Policy:
    actions = dataset.card.actions
    if isinstance(actions, ContinuousActions):
        return _continuous_policy(name, dataset, actions, epsilon)
    if name == UNIFORM:
        return UniformPolicy(actions.count)
    artifact = PolicyArtifact.load(Path(name))
    about, width = artifact.description, dataset.episodes.observations.shape[-1]
    if (about.obs_size, about.num_actions) != (width, dataset.card.actions.count):
        raise DatasetInvalidError(
            f"{name} acts on {about.obs_size} numbers with {about.num_actions} actions; "
            f"the log has {width} and {dataset.card.actions.count}.",
            mend="Judge a policy by a log of its own task.",
        )
    policy = artifact.policy()
    if not isinstance(policy, DiscretePolicy):
        raise DatasetInvalidError(
            f"{name} makes continuous actions, and the log counts them.",
            mend="Judge a policy by a log of its own task.",
        )
    return EpsilonGreedyPolicy(policy, epsilon) if epsilon > 0.0 else policy


def _continuous_policy(name: str, dataset: Dataset, actions: ContinuousActions, epsilon: float) -> Policy:
    if epsilon > 0.0:
        raise ConfigError(
            "epsilon is for actions that can be listed, and this log's are continuous.",
            mend="Leave --epsilon out; a policy over continuous actions acts by its own spread.",
        )
    if name == UNIFORM:
        return UniformBoxPolicy(actions)
    artifact = PolicyArtifact.load(Path(name))
    policy, width = artifact.policy(), dataset.episodes.observations.shape[-1]
    if artifact.description.obs_size != width:
        raise DatasetInvalidError(
            f"{name} acts on {artifact.description.obs_size} numbers; the log has {width}.",
            mend="Judge a policy by a log of its own task.",
        )
    return policy


def readable(
    config: Ope, found: dict[str, Assessment], loggers: tuple[Resampled, Resampled], answer: OffPolicyVerdict
) -> str:
    """Tables, then the verdict and what speaks against it."""
    header = ["policy", "estimator", f"value [{config.confidence:.0%} interval]", ""]
    until_the_cut, endless = loggers
    rows = [["(the logger)", "its own returns", str(until_the_cut.interval), ""]]
    cut_off = _cut_off(found)
    if cut_off:
        rows.append(["(the logger)", "if it had gone on", str(endless.interval), "given this fit"])
    rows += [
        [name, estimator, str(value.interval), "given this fit" if estimator in FROZEN else ""]
        for name, one in found.items()
        for estimator, value in one.values.items()
    ]
    rows += [[name, estimator, "-", "no answer"] for name, one in found.items() for estimator in one.silent]
    about = [
        "policy",
        "episodes",
        "worth",
        "largest share",
        "weight 0",
        "mean weight",
        "mean ratio",
        "tail k",
        "never logged",
        "negative",
    ]
    warnings = [
        [
            name,
            str(one.diagnostics.episodes),
            f"{one.diagnostics.effective_sample_size:.1f}",
            f"{one.diagnostics.largest_share:.0%}",
            f"{one.diagnostics.zero_share:.0%}",
            f"{one.diagnostics.mean_weight:.2f}",
            "-" if one.diagnostics.mean_ratio is None else f"{one.diagnostics.mean_ratio:.2f}",
            "-" if one.diagnostics.tail_shape is None else f"{one.diagnostics.tail_shape:.2f}",
            "-" if one.diagnostics.unlogged_mass is None else f"{one.diagnostics.unlogged_mass:.0%}",
            "-" if one.diagnostics.negative_share is None else f"{one.diagnostics.negative_share:.0%}",
        ]
        for name, one in found.items()
    ]
    lines = [
        table(header, rows),
        *(["", FIT] if FROZEN & set(config.estimators) else []),
        *_unanswered(found),
        *(["", cut_off] if cut_off else []),
        "",
        *_bounds_table(config, found),
        "",
        table(about, warnings),
        "",
        f"{answer.decision}: {answer.reason}",
        *(
            f"  {one.candidate}: worse than the logger with probability {one.probability_worse:.3f}, "
            f"value at risk {one.value_at_risk:+.1f}" + "".join(f"\n    but {words}" for words in one.objections)
            for one in answer.evidence
        ),
    ]
    if len(answer.expected_regret) > 1:
        tried = [one.candidate for one in answer.evidence if not one.objections]
        lost = [
            [str(k), name, f"{regret:.2f}"]
            for k, (name, regret) in enumerate(zip(tried, answer.expected_regret, strict=True), 1)
        ]
        lines += ["", table(["trying the first", "up to and with", "loses on average"], lost)]
    if config.propensities == "estimated":
        lines += ["", "Propensities were guessed. No interval above knows of the error in them."]
    return "\n".join(lines)


FIT = "Given this fit: the network was fitted once. Another log would give another, and the interval knows nothing of that."


def _unanswered(found: dict[str, Assessment]) -> list[str]:
    why: dict[str, list[str]] = {}
    for name, one in found.items():
        for estimator, error in one.silent.items():
            why.setdefault(f"{name}: {error}", []).append(estimator)
    return [line for words, names in why.items() for line in ("", f"No answer from {', '.join(names)} for {words}")]


def _cut_off(found: dict[str, Assessment]) -> str:
    beyond = max(one.diagnostics.beyond for one in found.values())
    further = sorted({name for one in found.values() for name in one.values} & ENDLESS)
    if beyond <= COMPARABLE or not further:
        return ""
    return (
        f"Episodes were cut off, and {beyond:.0%} of the discounted time comes later. {', '.join(further)}: what would be "
        "earned if nothing cut it off. All others, the logger's own returns among them: what is earned until then."
    )


def _bounds_table(config: Ope, found: dict[str, Assessment]) -> list[str]:
    if config.reward_range is None:
        return ["No bounds that hold for any distribution: they need --reward-range and --largest-ratio."]
    rows = [
        [name, estimator, _ends(one.hoeffding), _ends(one.bernstein), one.reason]
        for name, about in found.items()
        for estimator, one in about.bounds.items()
    ]
    return [table(["policy", f"{config.confidence:.0%} bounds", "Hoeffding", "Bernstein", "but"], rows)]


def _ends(bound: Interval | None) -> str:
    return "-" if bound is None else f"[{bound.low:.2f}, {bound.high:.2f}]"


def picture(target: Path, found: dict[str, Assessment], logger: Resampled, *, title: str) -> None:
    """Every estimate with its interval, and the logger's as a band.

    Raises:
        StorageError: the file could not be written.
    """
    figure = Figure(figsize=(8, 1.2 + 0.28 * sum(len(one.values) for one in found.values())), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(logger.interval.low, logger.interval.high, color="0.6", alpha=0.35, label="the logger")
    row, ticks = 0, []
    for index, (policy, one) in enumerate(found.items()):
        for name, value in one.values.items():
            interval = value.interval
            sides = [[interval.estimate - interval.low], [interval.high - interval.estimate]]
            if np.isfinite(sides).all():
                axes.errorbar(interval.estimate, row, xerr=sides, fmt="o", color=f"C{index}", capsize=3)
            ticks.append(f"{Path(policy).name}, {name}")
            row += 1
    axes.set_yticks(range(row), ticks)
    axes.invert_yaxis()
    axes.set(xlabel="discounted return", title=title)
    axes.legend()
    with atomic_path(target) as part:
        figure.savefig(part, format=target.suffix[1:], dpi=150)
