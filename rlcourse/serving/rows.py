"""A line of the decision log that answers a whole batch, taken apart: one line for each observation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlcourse.serving import wire


def rows_of(line: wire.DecisionLine, *, observations: bool) -> Iterator[wire.DecisionLine]:
    """One line for each row, under a request id of its own: the row's number behind a line break, which no id holds.

    Args:
        line: a decision on one observation or on many.
        observations: whether they are wanted too; without them the lines of a batch hold ``null``, for far less work.
    """
    if not _is_batch(bytes(line.observation)):
        yield _row(line, 0, line.observation, line.action)
        return
    actions: list[Any] = line.action if isinstance(line.action, list) else [line.action]
    values: list[Any] = wire.read_observations(bytes(line.observation))[0] if observations else []
    for row, action in enumerate(actions):
        yield _row(line, row, wire.Raw(wire.encode(values[row])) if row < len(values) else wire.NULL, action)


def renamed(line: wire.RewardLine, request_id: str) -> wire.RewardLine:
    """The reward of one row, as if it had been a decision by itself."""
    return wire.RewardLine(
        request_id,
        line.time,
        line.reward,
        line.terminated,
        line.truncated,
        line.next_observation,
        executed=line.executed,
        cost=line.cost,
        violations=line.violations,
    )


def _row(line: wire.DecisionLine, row: int, observation: wire.Raw, action: Any) -> wire.DecisionLine:
    return wire.DecisionLine(
        f"{line.request_id}\n{row}",
        line.time,
        line.policy,
        line.version,
        observation,
        action,
        _at(line.propensity, row),
        line.latency_ms,
        line.greedy,
        wire.NULL,
        _at(line.fallback, row),
        line.session,
        line.started and row == 0,
        explored=_at(line.explored, row),
    )


def _at(value: Any, row: int) -> Any:
    """What was the same for the whole batch stands there once."""
    if not isinstance(value, list):
        return value
    return value[row] if row < len(value) else None


def _is_batch(raw: bytes) -> bool:
    return raw[1:2] == b"[" or (raw[1:2].isspace() and raw[1:].lstrip()[:1] == b"[")
