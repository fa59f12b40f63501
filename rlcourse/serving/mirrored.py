"""What a decision log holds of a shadow, joined with what was done and what was earned: ready for the shadow's report.

::

    decision  r1  action 2, propensity 0.5      ┐
    shadow    r1  action 2, probability 0.8     ├─▶ Mirrored(2, 0.5, 2, 0.8, reward=1.0) ─▶ shadow_report
    reward    r1  1.0                           ┘
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlcourse.errors import DatasetInvalidError
from rlcourse.release.shadow import Mirrored, ShadowReport, shadow_report
from rlcourse.serving import wire
from rlcourse.serving.decision_log import read_all_lines
from rlcourse.serving.outcomes import overridden

Lines = Iterable[wire.DecisionLine | wire.RewardLine | wire.ShadowLine]
Rewards = dict[tuple[str, int], wire.RewardLine]
"""By request and row."""


def report_of(folder: Path, version: str, *, policy: str = "rl_policy", promised_ms: float = 50.0) -> ShadowReport:
    """How a shadow has done so far.

    Args:
        folder: of the decision log.
        version: of the shadow.
        policy: its name.
        promised_ms: a slower answer is late.

    Raises:
        DatasetNotFoundError, DatasetCorruptError: see :func:`~rlcourse.serving.decision_log.read_lines`.
        DatasetInvalidError: actions are continuous.
    """
    return shadow_report(mirrored(read_all_lines(folder), version, policy=policy), promised_ms=promised_ms)


def mirrored(lines: Lines, version: str, *, policy: str = "rl_policy") -> list[Mirrored]:
    """Each observation that a shadow was asked about, in the order of its answers.

    Rewards that have not come are NaN. So are those of another action that was carried out in the answer's place. A
    client that asked again under the same id acted on the answer it got last.

    Raises:
        DatasetInvalidError: actions are continuous: of those nobody has written down how likely the shadow's were.
    """
    pairs, rewards = asked(lines, version, policy=policy)
    return [one for done, would in pairs for one in _rows(done, would, rewards)]


def asked(
    lines: Lines, version: str, *, policy: str
) -> tuple[list[tuple[wire.DecisionLine, wire.ShadowLine]], Rewards]:
    """What was decided beside what the shadow would have done, in the order of the shadow's answers; and all rewards.

    Where a kill lost the decision, its shadow's answer is left out.
    """
    done: dict[str, wire.DecisionLine] = {}
    would: dict[str, wire.ShadowLine] = {}
    rewards: Rewards = {}
    for line in lines:
        if isinstance(line, wire.RewardLine):
            rewards[line.request_id, line.row] = line
        elif line.policy != policy:
            continue
        elif isinstance(line, wire.DecisionLine):
            done[line.request_id] = line
        elif line.version == version:
            would[line.request_id] = line
    return [(done[name], line) for name, line in would.items() if name in done], rewards


def _rows(done: wire.DecisionLine, would: wire.ShadowLine, rewards: Rewards) -> list[Mirrored]:
    many = isinstance(would.probability, list) or (would.action is None and isinstance(done.action, list))
    actions: Any = done.action if many else [done.action]
    if not all(isinstance(action, int) for action in actions):
        raise DatasetInvalidError(
            f"Decision {done.request_id} has continuous actions.", mend="Compare the two versions' returns instead."
        )
    rows = len(actions)

    def column(value: Any) -> list[Any]:
        return value if isinstance(value, list) else [value] * rows

    found = zip(actions, column(done.propensity), column(would.action), column(would.probability), strict=True)
    return [
        Mirrored(
            action,
            propensity,
            own,
            0.0 if chance is None else chance,
            reward=_earned(action, rewards.get((done.request_id, row))),
            shadow_ms=would.latency_ms,
        )
        for row, (action, propensity, own, chance) in enumerate(found)
    ]


def _earned(action: int, line: wire.RewardLine | None) -> float:
    return math.nan if line is None or overridden(action, line.executed) else line.reward
