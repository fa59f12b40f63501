"""The names under which training logs its numbers: what each means, in which unit, and which way is better.

A name is ``where/what``: ``eval/`` is measured by playing, ``loss/`` comes out of a learner's last update, ``explore/``
and ``time/`` come from the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from rlcourse.vocabulary import Metrics

SHARES = (10, 30, 50, 70, 90)
"""Percentiles that stand for a batch: each is the middle of a fifth of it."""


@dataclass(frozen=True)
class Metric:
    """What stands behind a name."""

    description: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    logged_by: tuple[str, ...]
    """Names of algorithms, or of loops (offline, off-policy, on-policy)."""


_WITH_Q = ("cql", "cql_continuous", "dqn", "sac", "td3_bc")

# Every name that the loops and learners of this package log; the reference shows it as its table.
METRICS: dict[str, Metric] = {
    "eval/greedy_return": Metric(
        "Mean undiscounted return of the policy that always takes its favourite action.",
        "reward",
        "higher",
        ("offline", "off-policy", "on-policy"),
    ),
    "eval/stochastic_return": Metric(
        "Mean undiscounted return of the policy that samples its actions.", "reward", "higher", ("offline",)
    ),
    "explore/epsilon": Metric(
        "Share of actions that are drawn at random instead of chosen.", "share", "neither", ("off-policy",)
    ),
    "time/train_seconds": Metric(
        "Time spent collecting and updating since the run began; evaluations left out.",
        "s",
        "lower",
        ("off-policy", "on-policy"),
    ),
    "loss/policy_loss": Metric(
        "What the policy's gradient step goes down: cross-entropy (bc), weighted cross-entropy (iql), the clipped "
        "surrogate (ppo), temperature times log-probability minus Q (sac, cql_continuous), squared distance to the log "
        "minus scaled Q (td3_bc). Near zero says nothing by itself.",
        "depends",
        "neither",
        ("bc", "cql_continuous", "iql", "ppo", "sac", "td3_bc"),
    ),
    "loss/entropy": Metric(
        "Mean entropy of the policy's action distribution: how undecided it still is. For continuous actions it may be "
        "negative.",
        "nat",
        "neither",
        ("ppo", "sac"),
    ),
    "loss/value_loss": Metric(
        "How far V is from its target: squared error (ppo), expectile loss (iql).",
        "reward squared",
        "lower",
        ("iql", "ppo"),
    ),
    "loss/q_loss": Metric(
        "Squared error of Q against its Bellman target.", "reward squared", "lower", ("iql", "sac", "td3_bc")
    ),
    "loss/td_loss": Metric(
        "Temporal-difference error of Q on the batch. Small is no proof of a good policy: the target moves with Q.",
        "depends",
        "lower",
        ("cql", "cql_continuous", "dqn"),
    ),
    "loss/conservative_penalty": Metric(
        "By how much the soft maximum of Q over all actions exceeds Q of the actions in the data.",
        "reward",
        "lower",
        ("cql", "cql_continuous"),
    ),
    "loss/q_mean": Metric(
        "Mean Q-value of the batch's actions (cql: of all actions). Far above any possible return it means overestimation.",
        "reward",
        "neither",
        _WITH_Q,
    ),
    **{
        f"loss/q_p{share}": Metric(
            f"{share} % of these Q-values lie below it.",
            "reward",
            "neither",
            _WITH_Q,
        )
        for share in SHARES
    },
    "loss/alpha": Metric(
        "Weight of the conservative penalty, where it finds itself.", "1", "neither", ("cql_continuous",)
    ),
    "loss/squared_distance": Metric(
        "Mean squared distance of the policy's actions from the log's, in half ranges.", "1", "neither", ("td3_bc",)
    ),
    "loss/advantage_mean": Metric("Mean advantage of the actions in the data.", "reward", "neither", ("iql",)),
    "loss/weight_mean": Metric(
        "Mean weight with which actions in the data are imitated. 1 is plain cloning.", "1", "neither", ("iql",)
    ),
    "loss/kl": Metric(
        "How far the policy moved from the one that collected the rollout. Much above 0.05 is a long step.",
        "nat",
        "neither",
        ("ppo",),
    ),
    "loss/clip_fraction": Metric(
        "Share of actions whose probability ratio lies outside the clip.", "share", "neither", ("ppo",)
    ),
    "loss/explained_variance": Metric(
        "Share of the variance of the value targets that V foretold. 1 is perfect, below 0 is worse than a constant.",
        "share",
        "higher",
        ("ppo",),
    ),
    "loss/gradient_norm": Metric("Length of the gradient before it was cut.", "1", "neither", ("ppo",)),
    "loss/temperature": Metric(
        "Worth of a nat of entropy in reward; it is learned.", "reward per nat", "neither", ("cql_continuous", "sac")
    ),
}


def logged(metrics: Metrics) -> dict[str, float]:
    """What a learner's update returned, as numbers under ``loss/``: of a sample its mean and :data:`SHARES`."""
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if value.ndim == 0:
            numbers[f"loss/{name}"] = float(value)
            continue
        entries = value.detach().flatten().double().cpu()
        numbers[f"loss/{name}_mean"] = float(entries.mean())
        parts = torch.quantile(entries, torch.tensor(SHARES, dtype=entries.dtype) / 100)
        numbers |= {f"loss/{name}_p{share}": float(part) for share, part in zip(SHARES, parts, strict=True)}
    return numbers


def metrics_table() -> str:
    """The dictionary of metrics as a Markdown table, in the order of the dictionary."""
    lines = ["| name | what it is | unit | better | logged by |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{name}` | {metric.description} | {metric.unit} | {metric.better} | {', '.join(metric.logged_by)} |"
        for name, metric in METRICS.items()
    ]
    return "\n".join(lines) + "\n"
