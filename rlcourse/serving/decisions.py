"""A decision log as episodes, ready for off-policy evaluation and for offline learning.

Decisions and rewards are joined by request id and row. The steps of one session make an episode, in their order; a
decision without a session is an episode of one step, as a bandit's::

    decision  s1 ────▶ decision  s1 ────▶ decision  s1
    reward 1.0         reward 0.5         reward 2.0, terminated          one episode of three steps

What follows an episode's last step is the ``next_observation`` of its reward. Where none was sent: an episode that
terminated repeats its last observation, which nothing looks at (its discount is 0); one that was cut off gives its last
step's observation up for it, and the step with it.

Continuous actions come with densities, NaN where the log has none (see :mod:`rlcourse.serving.continuous`). Where a bound
cut an action off, the density is that of the action as it was drawn. So that is what the episodes hold, outside the
bounds though it is: a policy in question can be asked how likely it was to draw the same. To save such episodes as a data
set, name bounds in its card that hold them all. What the environment got is there for the asking (``as_taken``), without
a density.

Where a person or a safety layer put another action in the policy's place (``executed`` in the reward), the reward is of that
other action. So that is what the episodes hold, with the propensity NaN: nobody knows how likely it was to be taken. What
is no action of the policy's (the plant was switched off by hand) is left out and counted. A service refuses it; older logs
may hold it, and say of how many actions there are only what the decisions and their masks show.

Of several rewards for one decision the last counts, the whole of it: it corrects what was sent before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlcourse.errors import DatasetInvalidError
from rlcourse.experience.episodes import Episodes
from rlcourse.serving import wire
from rlcourse.serving.decision_log import read_lines
from rlcourse.serving.outcomes import overridden, whole


@dataclass(frozen=True)
class Joined:
    """Episodes, and what could not become a part of them."""

    episodes: Episodes
    versions: tuple[str, ...]  # of each step
    fallbacks: tuple[str | None, ...]  # of each step
    decisions: int  # rows of the log, of the policy asked for
    without_reward: int  # decisions whose reward never came; an episode is cut off before the first of them
    unusable: int  # decisions on observations with missing readings; likewise
    given_up: int  # last steps given up as next observations
    orphans: int  # rewards without a decision
    cut_off: int  # steps whose continuous action a bound cut off
    overrides: tuple[str | None, ...] = ()  # of each step: why another action than the answer's was carried out
    costs: tuple[float | None, ...] = ()  # of each step, in euros; None: nobody said
    violations: tuple[int | None, ...] = ()  # of each step: how often it was outside a safety limit
    no_action: int = 0  # decisions overridden by what is no action of the policy's; an episode is cut off there too
    num_actions: int = 0  # as named, or as the decisions and their masks show; 0: continuous


@dataclass
class _Step:
    policy: str
    obs: list[float]
    action: int | list[float]
    propensity: float | None
    version: str
    fallback: str | None
    cut_off: bool = False
    reward: float = 0.0
    rewarded: bool = False
    usable: bool = True
    terminated: bool = False
    truncated: bool = False
    next_obs: list[float] | None = None
    taken: int | list[float] | None = None  # as answered: what ``action`` is unless it is shown as it was drawn
    override: str | None = None
    acted: bool = True  # what was done is an action of the policy's
    cost: float | None = None
    violations: int | None = None


@dataclass
class _Tally:
    without_reward: int = 0
    unusable: int = 0
    no_action: int = 0
    given_up: int = 0
    parts: list[tuple[list[_Step], list[float], bool]] = field(default_factory=list)


def read_episodes(
    folder: Path, policy: str | None = None, *, as_taken: bool = False, num_actions: int | None = None
) -> Joined:
    """Join a log's decisions with their rewards.

    Args:
        folder: of the log.
        policy: only decisions of this name.
        as_taken: continuous actions as the environment got them, within their bounds, instead of as they were drawn; those
            that a bound cut off then have the propensity NaN.
        num_actions: how many actions there are, where they are counted. By default as many as the decisions and their
            masks show, policy by policy; an override by an action that they never show is then left out.

    Raises:
        DatasetNotFoundError, DatasetCorruptError: see :func:`~rlcourse.serving.decision_log.read_lines`.
        DatasetInvalidError: no step can be used.
    """
    return join(read_lines(folder), policy, as_taken=as_taken, num_actions=num_actions)


def join(
    lines: Iterable[wire.DecisionLine | wire.RewardLine],
    policy: str | None = None,
    *,
    as_taken: bool = False,
    num_actions: int | None = None,
) -> Joined:
    """See :func:`read_episodes`."""
    steps: dict[tuple[str, int], _Step] = {}
    streams: dict[tuple[str, str], list[tuple[str, int]]] = {}
    starts: set[tuple[str, int]] = set()
    rewards: list[wire.RewardLine] = []
    shown = _Shown()
    for line in lines:
        if isinstance(line, wire.RewardLine):
            rewards.append(line)
        elif policy is None or line.policy == policy:
            shown.look(line)
            # A client that asked again under the same id acted on the answer it got last.
            for row, step in enumerate(_steps(line, as_taken)):
                key = (line.request_id, row)
                if key not in steps:
                    stream = line.session or f"\n{line.request_id}/{row}"  # no session's name holds a line break
                    streams.setdefault((line.policy, stream), []).append(key)
                steps[key] = step
                if line.started:
                    starts.add(key)
    last = {(reward.request_id, reward.row): reward for reward in rewards}
    for key, reward in last.items():
        found = steps.get(key)
        if found is None:
            continue
        found.reward, found.rewarded = reward.reward, True
        found.terminated, found.truncated = reward.terminated, reward.truncated
        found.next_obs = reward.next_observation
        found.cost, times = whole(reward.cost), whole(reward.violations)
        found.violations = None if times is None else int(times)
        if reward.executed is not None and overridden(found.taken, reward.executed):
            _replace(found, reward.executed, num_actions or shown.actions.get(found.policy, 0))
    orphans = sum((reward.request_id, reward.row) not in steps for reward in rewards)
    tally = _Tally()
    for (_, stream), keys in streams.items():
        _cut(stream.startswith("\n"), [(steps[key], key in starts) for key in keys], tally)
    if not tally.parts:
        raise DatasetInvalidError(
            f"None of the log's {len(steps)} decisions can be used.",
            mend="Send rewards to /v1/rewards under the request ids of the answers.",
        )
    used = [step for part, _, _ in tally.parts for step in part]
    rows = [obs for part, last, _ in tally.parts for obs in (*(step.obs for step in part), last)]
    if len({len(row) for row in rows}) > 1:
        raise DatasetInvalidError(
            "The log holds observations of several lengths.",
            mend="Name one policy, and send next observations like the others.",
        )
    kinds = {len(step.action) if isinstance(step.action, list) else 0 for step in used}
    if len(kinds) > 1:
        raise DatasetInvalidError("The log holds actions of several kinds.", mend="Name one policy.")
    episodes = Episodes(
        np.array(rows, np.float32),
        np.array([step.action for step in used], np.int64 if kinds == {0} else np.float32),
        np.array([step.reward for step in used], np.float32),
        np.array([step.propensity for step in used], np.float32),  # None becomes NaN
        np.array([len(part) for part, _, _ in tally.parts], np.int64),
        np.array([terminated for _, _, terminated in tally.parts], np.bool_),
    ).validate()
    return Joined(
        episodes,
        tuple(step.version for step in used),
        tuple(step.fallback for step in used),
        len(steps),
        tally.without_reward,
        tally.unusable,
        tally.given_up,
        orphans,
        sum(step.cut_off for step in used),
        tuple(step.override for step in used),
        tuple(step.cost for step in used),
        tuple(step.violations for step in used),
        tally.no_action,
        num_actions or max(shown.actions.values(), default=0),
    )


class _Shown:
    """How many actions each policy has, as far as its decisions and their masks show."""

    def __init__(self) -> None:
        self.actions: dict[str, int] = {}
        self._masked: set[tuple[str, str]] = set()

    def look(self, line: wire.DecisionLine) -> None:
        rows = line.action if isinstance(line.action, list) else [line.action]
        count = 1 + max((action for action in rows if isinstance(action, int)), default=-1)
        version = (line.policy, line.version)
        if version not in self._masked and bytes(line.mask) != b"null":  # all masks of a version are as wide
            self._masked.add(version)
            count = max(count, wire.mask_size(bytes(line.mask)))
        self.actions[line.policy] = max(count, self.actions.get(line.policy, 0))


def _replace(step: _Step, executed: wire.Executed, num_actions: int) -> None:
    """Put the action that was carried out in the place of the policy's."""
    step.override, step.propensity, step.cut_off = executed.reason, None, False
    own, other = step.action, executed.action
    if isinstance(own, list):
        step.acted = isinstance(other, list) and len(own) == len(other)
    else:
        step.acted = isinstance(other, int) and other < num_actions
    if step.acted:
        step.action = other


def _steps(line: wire.DecisionLine, as_taken: bool) -> list[_Step]:
    values, many = wire.read_observations(bytes(line.observation))
    rows: list[Any] = list(values) if many else [values]
    columns: list[Any] = [line.action, line.propensity, line.fallback, line.sampled]
    if many:  # what was the same for the whole batch stands there once
        columns = [column if isinstance(column, list) else [column] * len(rows) for column in columns]
    else:
        columns = [[column] for column in columns]
    if any(len(column) != len(rows) for column in columns):
        raise DatasetInvalidError(
            f"Decision {line.request_id} has {len(rows)} observations and {len(columns[0])} actions.",
            mend="Find out what wrote the log; the service does not.",
        )
    made = []
    for row, taken, propensity, fallback, drawn in zip(rows, *columns, strict=True):
        usable = all(value is not None and abs(value) <= wire.LARGEST for value in row)
        action, cut_off = taken, drawn is not None and drawn != taken
        if cut_off:
            action, propensity = (taken, None) if as_taken else (drawn, propensity)
        if isinstance(action, float):
            raise DatasetInvalidError(
                f"Decision {line.request_id} has the action {action}, which is neither a number of an action nor a list.",
                mend="Find out what wrote the log; the service does not.",
            )
        made.append(
            _Step(line.policy, row, action, propensity, line.version, fallback, cut_off, usable=usable, taken=taken)
        )
    return made


def _cut(bandit: bool, stream: list[tuple[_Step, bool]], tally: _Tally) -> None:
    part: list[_Step] = []

    def end(last: list[float] | None, terminated: bool) -> None:
        if part and last is None:
            if terminated or bandit:
                last = part[-1].obs
            else:
                last = part.pop().obs
                tally.given_up += 1
        if part and last is not None:
            tally.parts.append((part.copy(), last, terminated or (bandit and not part[-1].truncated)))
        part.clear()

    for step, starts in stream:
        if starts:
            end(part[-1].next_obs if part else None, False)
        if not (step.usable and step.acted and step.rewarded):
            # What is there of it still says what followed the step before.
            end(step.obs if step.usable and part else None, False)
            tally.unusable += not step.usable
            tally.no_action += step.usable and not step.acted
            tally.without_reward += step.usable and step.acted
            continue
        part.append(step)
        if step.terminated or step.truncated:
            end(step.next_obs, step.terminated)
    end(part[-1].next_obs if part else None, False)
