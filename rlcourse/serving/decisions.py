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

Request ids may come from clients, and two clients may use the same. So a decision is known by its policy, its session and its
id. A reward that names no session, of an id that several have, could be of any of them: none gets it, and all are counted.
The same id in the same session again is the client asking once more, if it asks about the same observation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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
    decisions: int  # rows of the log, of the policy and the version asked for
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
    conflicts: int = 0  # decisions whose reward could be another's of the same id; an episode is cut off there too
    misfits: int = 0  # next observations of another length, or too large; as if none had been sent


class _Place(NamedTuple):
    """What makes a decision one and not another."""

    policy: str
    session: str | None
    request_id: str
    row: int
    again: int  # how often the same words have been used for another observation

    @property
    def stream(self) -> str:
        """Of one episode after the other. No session's name holds a line break."""
        return self.session or f"\n{self.request_id}/{self.row}/{self.again}"


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
    chosen: bool = True  # by the version that is asked for
    started: bool = False  # an episode begins here
    conflicting: bool = False  # its reward may be another's
    cost: float | None = None
    violations: int | None = None


@dataclass
class _Tally:
    without_reward: int = 0
    unusable: int = 0
    no_action: int = 0
    given_up: int = 0
    conflicts: int = 0
    parts: list[tuple[list[_Step], list[float], bool]] = field(default_factory=list)

    def leave_out(self, step: _Step) -> None:
        """Count it under the first reason that there is."""
        if not step.usable:
            self.unusable += 1
        elif step.conflicting:
            self.conflicts += 1
        elif not step.acted:
            self.no_action += 1
        else:
            self.without_reward += 1


def read_episodes(
    folder: Path,
    policy: str | None = None,
    *,
    version: str | None = None,
    as_taken: bool = False,
    num_actions: int | None = None,
) -> Joined:
    """Join a log's decisions with their rewards.

    Args:
        folder: of the log.
        policy: only decisions of this name.
        version: only decisions of this version; an episode is cut off where another one decided.
        as_taken: continuous actions as the environment got them, within their bounds, instead of as they were drawn; those
            that a bound cut off then have the propensity NaN.
        num_actions: how many actions there are, where they are counted. By default as many as the decisions and their
            masks show, policy by policy; an override by an action that they never show is then left out.

    Raises:
        DatasetNotFoundError, DatasetCorruptError: see :func:`~rlcourse.serving.decision_log.read_lines`.
        DatasetInvalidError: no step can be used.
    """
    return join(read_lines(folder), policy, version=version, as_taken=as_taken, num_actions=num_actions)


def join(
    lines: Iterable[wire.DecisionLine | wire.RewardLine],
    policy: str | None = None,
    *,
    version: str | None = None,
    as_taken: bool = False,
    num_actions: int | None = None,
) -> Joined:
    """See :func:`read_episodes`."""
    found = _Decisions(as_taken)
    rewards: list[wire.RewardLine] = []
    for line in lines:
        if isinstance(line, wire.RewardLine):
            rewards.append(line)
        elif policy is None or line.policy == policy:
            found.take(line, chosen=version is None or line.version == version)
        else:
            found.elsewhere.setdefault(line.request_id, set()).add(line.session)
    orphans = misfits = 0
    for reward in rewards:
        owners = found.owners(reward)
        orphans += not owners
        for place in owners:
            found.steps[place].conflicting |= len(owners) > 1 or found.shared(reward)
    for place, last in {place: reward for reward in rewards for place in found.owners(reward)}.items():
        misfits += _reward(found.steps[place], last, num_actions or found.shown.actions.get(place.policy, 0))
    tally = _Tally()
    for (_, stream), places in found.streams.items():
        _cut(stream.startswith("\n"), [found.steps[place] for place in places], tally)
    decisions = sum(step.chosen for step in found.steps.values())
    if not tally.parts:
        raise DatasetInvalidError(
            f"None of the log's {decisions} decisions can be used.",
            mend="Send rewards to /v1/rewards under the request ids of the answers.",
        )
    used = [step for part, _, _ in tally.parts for step in part]
    rows = [obs for part, last, _ in tally.parts for obs in (*(step.obs for step in part), last)]
    sizes = {f"{step.policy} {step.version}": len(step.obs) for step in used}
    if len(set(sizes.values())) > 1:
        lengths = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DatasetInvalidError(
            f"The log holds observations of several lengths: {lengths}.", mend="Name one policy, and one version of it."
        )
    kinds = {len(step.action) if isinstance(step.action, list) else 0 for step in used}
    if len(kinds) > 1:
        raise DatasetInvalidError(
            "The log holds actions of several kinds.", mend="Name one policy, and one version of it."
        )
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
        decisions,
        tally.without_reward,
        tally.unusable,
        tally.given_up,
        orphans,
        sum(step.cut_off for step in used),
        tuple(step.override for step in used),
        tuple(step.cost for step in used),
        tuple(step.violations for step in used),
        tally.no_action,
        num_actions or max(found.shown.actions.values(), default=0),
        tally.conflicts,
        misfits,
    )


class _Decisions:
    """The decisions of a log, each by what makes it one."""

    def __init__(self, as_taken: bool) -> None:
        self._as_taken = as_taken
        self.steps: dict[_Place, _Step] = {}
        self.streams: dict[tuple[str, str], list[_Place]] = {}
        self.shown = _Shown()
        self.elsewhere: dict[str, set[str | None]] = {}  # sessions of other policies' decisions, by request id
        self._named: dict[tuple[str, int], list[_Place]] = {}

    def take(self, line: wire.DecisionLine, *, chosen: bool) -> None:
        """One line, which answers one observation or many."""
        if chosen:
            self.shown.look(line)
        for row, step in enumerate(_steps(line, self._as_taken)):
            step.chosen = chosen
            named = self._named.setdefault((line.request_id, row), [])
            before = [place for place in named if place[:2] == (line.policy, line.session)]
            if before and self.steps[before[-1]].obs == step.obs:
                # A client that asked again under the same id acted on the answer it got last.
                place, step.started = before[-1], line.started or self.steps[before[-1]].started
            else:
                place, step.started = _Place(line.policy, line.session, line.request_id, row, len(before)), line.started
                named.append(place)
                self.streams.setdefault((line.policy, place.stream), []).append(place)
            self.steps[place] = step

    def owners(self, reward: wire.RewardLine) -> list[_Place]:
        """Whose it may be: of the decisions of its id and row those of its session, if it names one that is among them."""
        named = self._named.get((reward.request_id, reward.row), [])
        return [place for place in named if place.session == reward.session] if self._tells(reward, named) else named

    def shared(self, reward: wire.RewardLine) -> bool:
        """Whether it may be of another policy's decision."""
        sessions = self.elsewhere.get(reward.request_id, set())
        return bool(sessions) and (reward.session is None or reward.session in sessions)

    @staticmethod
    def _tells(reward: wire.RewardLine, named: list[_Place]) -> bool:
        return reward.session is not None and any(place.session == reward.session for place in named)


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


def _reward(step: _Step, reward: wire.RewardLine, num_actions: int) -> bool:
    """Tell a decision what it led to; says whether the next observation is one that cannot have followed."""
    step.reward, step.rewarded = reward.reward, True
    step.terminated, step.truncated = reward.terminated, reward.truncated
    step.next_obs = reward.next_observation
    step.cost, times = whole(reward.cost), whole(reward.violations)
    step.violations = None if times is None else int(times)
    if reward.executed is not None and overridden(step.taken, reward.executed):
        _replace(step, reward.executed, num_actions)
    if step.next_obs is None or (len(step.next_obs) == len(step.obs) and _usable(step.next_obs)):
        return False
    step.next_obs = None
    return True


def _usable(values: list[Any]) -> bool:
    return all(value is not None and abs(value) <= wire.LARGEST for value in values)


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
        action, cut_off = taken, drawn is not None and drawn != taken
        if cut_off:
            action, propensity = (taken, None) if as_taken else (drawn, propensity)
        if isinstance(action, float):
            raise DatasetInvalidError(
                f"Decision {line.request_id} has the action {action}, which is neither a number of an action nor a list.",
                mend="Find out what wrote the log; the service does not.",
            )
        made.append(
            _Step(
                line.policy, row, action, propensity, line.version, fallback, cut_off, usable=_usable(row), taken=taken
            )
        )
    return made


def _cut(bandit: bool, stream: list[_Step], tally: _Tally) -> None:
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

    for step in stream:
        if step.started:
            end(part[-1].next_obs if part else None, False)
        if not (step.chosen and step.usable and not step.conflicting and step.acted and step.rewarded):
            # What is there of it still says what followed the step before.
            follows = step.usable and bool(part) and len(step.obs) == len(part[-1].obs)
            end(step.obs if follows else None, False)
            if step.chosen:
                tally.leave_out(step)
            continue
        part.append(step)
        if step.terminated or step.truncated:
            end(step.next_obs, step.terminated)
    end(part[-1].next_obs if part else None, False)
