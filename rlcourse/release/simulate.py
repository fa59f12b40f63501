"""Thousands of releases on the server room, to know how often a gate is wrong before it is trusted with one.

Two steps. First, each policy runs a large pool of days (episodes) in the batched environment; all policies meet the same
days, so that the true difference between them is known almost exactly. Then every simulated release draws its days from the
pools with replacement: on each day, each room of the fleet meets a day of its own, and what it earns is what the arm that
it belongs to earned on that day.

Rooms may differ for good (:class:`Differing`): each costs a little more or less than the others on every one of its days, and
stays in its arm. That is where a gate that counts room-days as if each were a new room is wrong too often.

What this leaves out: rooms in one building share their weather, here each has its own. The comparison is made within days
(:mod:`rlcourse.release.matching`), so shared weather would make it more precise, not less. And a day begins in a state that
the environment draws, not in the one that the arm's last day left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq
from torch import Tensor

from rlcourse.environments.server_room import NUM_LEVELS, ServerRoom, thermostat
from rlcourse.errors import ConfigError
from rlcourse.networks import ScriptedPolicy
from rlcourse.randomness import Seeds
from rlcourse.release.gates import Booleans, read
from rlcourse.release.matching import Array, Contrast, ControlVariates, Tally, matched
from rlcourse.release.planning import ReleasePlan, arm_size
from rlcourse.release.rooms import matched_rooms, usual_of_rooms
from rlcourse.vocabulary import Policy

UNDECIDED, PROMOTED, ROLLED_BACK = 0, 1, 2
Codes = npt.NDArray[np.int64]
Earns = Callable[[Policy], float]
MOST_DAYS = 120
PATIENCE = 1.5
"""A stage that has to prove a gain is given up at so many times the planned information."""


class Pool(NamedTuple):
    """Days of one policy."""

    returns: Array  # (P,) EUR, minus what the day cost
    conditions: Array  # (P, K) what the policy could not change


def run_days(policy: Policy, count: int, seeds: Seeds) -> Pool:
    """Run ``count`` days; the same seeds bring the same weather, load, first hours and first temperatures to any policy.

    The conditions: outdoor temperature and IT load averaged over the day, plainly and weighed by the price of the hour, the
    first inlet temperature, the hour at which the day began (four harmonics, also times that temperature), and products.
    """
    if count < 1:
        raise ConfigError(f"{count} days.", mend="Use 1 or more.")
    env = ServerRoom(count, generator=seeds.torch("environment"))
    generator = seeds.torch("actions")
    obs = env.reset()
    first, sums = obs, torch.zeros(4, count)
    while env.finished is None:
        outdoor, load, price = obs[:, 2], obs[:, 3], obs[:, 4]
        sums += torch.stack([outdoor, load, outdoor * price, load * price])
        obs = env.step(policy.act(obs, greedy=True, generator=generator)).obs
    return Pool(-env.finished.cost.double().numpy(), _conditions(first, sums / env.max_episode_steps))


def _conditions(first: Tensor, means: Tensor) -> Array:
    angle = torch.atan2(first[:, 5], first[:, 6]).double()
    usual = torch.tensor([[20.0], [30.0], [5.0], [7.5], [23.0]], dtype=torch.float64)
    scale = torch.tensor([[3.0], [1.0], [1.0], [0.6], [1.7]], dtype=torch.float64)
    x = (torch.cat([means.double(), first[None, :, 0].double()]) - usual) / scale
    waves = torch.stack([f(k * angle) for k in range(1, 5) for f in (torch.sin, torch.cos)])
    products = torch.stack([x[i] * x[j] for i in range(5) for j in range(i, 5)])
    columns = torch.cat([torch.ones_like(x[:1]), x, waves, x[4] * waves, products])
    found: Array = columns.T.contiguous().numpy()
    return found


def dearer(relative: float, *, warm: bool, incumbent: Policy, earns: Earns) -> ScriptedPolicy:
    """A thermostat that costs ``1 + relative`` times what the incumbent does, set too cold or (``warm``) too warm."""
    between = (25.4, 27.5) if warm else (18.0, 25.4)
    return calibrated(lambda c: thermostat(first_stage_c=c), relative, between, incumbent, earns)


def price_aware(relative: float, *, strong: bool, incumbent: Policy, earns: Earns) -> ScriptedPolicy:
    """Another kind of rule at ``1 + relative`` times the cost: it cools ahead while electricity is cheap.

    A little of that saves money; (``strong``) too much of it lets the room grow too warm while electricity is dear.
    """

    def rule(shift: float) -> ScriptedPolicy:
        def stages(obs: Tensor) -> Tensor:
            threshold = 25.0 + shift * (obs[:, 4] - 0.24) / 0.12
            return (((obs[:, 0] - threshold) / 0.4).floor() + 1.0).clamp(0, NUM_LEVELS - 1).to(torch.int64)

        return ScriptedPolicy(stages, NUM_LEVELS)

    between = (0.4, 1.5) if strong else (0.0, 0.4)
    return calibrated(rule, relative, between, incumbent, earns)


def calibrated(
    rule: Callable[[float], ScriptedPolicy],
    relative: float,
    between: tuple[float, float],
    incumbent: Policy,
    earns: Earns,
) -> ScriptedPolicy:
    """The member of a family whose mean cost is ``1 + relative`` times the incumbent's.

    Args:
        rule: a member for each setting.
        relative: what it is to cost more.
        between: settings of which one costs less than wanted and the other more.
        incumbent: to compare with.
        earns: the mean return of a policy, always on the same days.
    """
    wanted = (1.0 + relative) * earns(incumbent)
    return rule(float(brentq(lambda setting: earns(rule(setting)) - wanted, *between, xtol=1e-3)))


class Day(NamedTuple):
    """What a rule may look at in the evening; ``R`` releases."""

    tally: Tally  # (R, D, 2) adjusted returns of all days so far
    raw: Tally  # (R, D, 2) as they were earned
    stage: Codes  # (R,) 0 to K - 1; K while it bakes
    since: Codes  # (R,) days in this stage
    rooms: Tally | None = (
        None  # (R, D, 2, F) adjusted returns by room, where the plan knows that the same ones come daily
    )

    def contrast(self, plan: ReleasePlan) -> Contrast:
        """The two arms compared, as the plan says that rooms come."""
        return matched(self.tally, plan.variation) if self.rooms is None else matched_rooms(self.rooms, plan.variation)


class Evening(NamedTuple):
    """What a rule says; ``(R,)`` each."""

    roll_back: Booleans
    promote: Booleans  # on to the next stage
    give_up: Booleans  # all planned episodes are spent and tell nothing


class Rule(Protocol):
    """A gate, for many releases at once."""

    def __call__(self, day: Day, plan: ReleasePlan) -> Evening:
        """Judge the day."""
        ...


def sequential_rule(day: Day, plan: ReleasePlan) -> Evening:
    """The gate of :mod:`rlcourse.release.gates`."""
    contrast = day.contrast(plan)
    demanded, _ = _demands(day, plan)
    reading = read(contrast, demanded, plan.gate)
    return _evening(day, plan, contrast, reading.harm, reading.gain, reading.enough)


def peeking_rule(day: Day, plan: ReleasePlan) -> Evening:
    """An ordinary test at 5 %, looked at every evening as if each were the only one: the mistake.

    In all else it is the gate: as silent before the fewest episodes, and as patient.
    """
    contrast = day.contrast(plan)
    demanded, _ = _demands(day, plan)
    told = contrast.episodes >= plan.gate.fewest_episodes
    z = np.where(told, contrast.estimate * np.sqrt(contrast.information), 0.0)
    return _evening(day, plan, contrast, z < -1.96, z > 1.96, told & (contrast.information >= demanded))


def _evening(
    day: Day, plan: ReleasePlan, contrast: Contrast, harm: Booleans, gain: Booleans, enough: Booleans
) -> Evening:
    demanded, gains = _demands(day, plan)
    baking = day.stage == len(plan.stages)
    passed = gain | (enough & ~gains)
    spent = contrast.information >= PATIENCE * demanded
    if plan.variation.rooms is not None:  # the same rooms may have nothing left to tell
        planned = np.array([*(stage.days for stage in plan.stages), plan.bake_days])
        spent |= day.since >= PATIENCE * planned[day.stage]
    return Evening(harm, np.where(baking, day.since >= plan.bake_days, passed), gains & ~baking & spent & ~passed)


@dataclass(frozen=True)
class ThresholdRule:
    """The kind of check that Argo Rollouts and Flagger are usually given: one number against a fixed limit.

    Every evening the candidate's mean cost of that day is one measurement. It fails if it is above ``1 + tolerance`` times
    what the incumbent cost on average before the release. More than ``failure_limit`` failures, and the release goes back;
    a stage that has lasted as long as planned is passed, and what passes the last one is promoted.
    """

    usual_return: float
    """Of the incumbent's old log, EUR a day."""
    tolerance: float = 0.05
    failure_limit: int = 0

    def __call__(self, day: Day, plan: ReleasePlan) -> Evening:
        """Judge the day."""
        count, total = day.raw.episodes[..., 1], day.raw.total[..., 1]
        mean = total / np.maximum(count, 1.0)
        failed = ((mean < (1.0 + self.tolerance) * self.usual_return) & (count > 0.0)).sum(axis=-1)
        lengths = np.array([*(stage.days for stage in plan.stages), plan.bake_days])
        passed = day.since >= lengths[day.stage]
        return Evening(failed > self.failure_limit, passed, np.zeros_like(passed))


def _demands(day: Day, plan: ReleasePlan) -> tuple[Array, Booleans]:
    information = np.array([*(stage.demand.information for stage in plan.stages), 0.0])
    gains = np.array([*(stage.demand.prove == "gain" for stage in plan.stages), False])
    return information[day.stage], gains[day.stage]


class Releases(NamedTuple):
    """How ``R`` simulated releases went."""

    outcome: Codes  # (R,)
    candidate_days: Array  # (R,) room-days that the candidate ran
    days: Codes  # (R,) until it was decided


class Fleet(Protocol):
    """Where a simulated day comes from."""

    def day(self, alive: Codes, sizes: Codes) -> tuple[Array, Array, Booleans]:
        """One day of the releases ``alive``, of which the candidate runs ``(A,)`` ``sizes`` rooms each.

        Returns:
            ``(A, F)`` adjusted returns, ``(A, F)`` returns as they were earned, ``(A, F)`` bool: the candidate's room.
        """
        ...


@dataclass(frozen=True)
class Differing:
    """Rooms that differ for good."""

    sd: float
    """Of the factor by which a room's days are dearer or cheaper than others; 0.05 for 5 %."""
    past_days: int = 0
    """Of each room under the incumbent, before the release: what it earned beyond the others is taken out. 0: it is new."""
    drawn_daily: bool = False
    """A session is a room *and* a day: other rooms are the canary every day. Otherwise they stay."""

    def __post_init__(self) -> None:
        if self.sd < 0.0 or self.past_days < 0:
            raise ConfigError(f"Rooms that differ by {self.sd}.", mend="Use numbers of 0 or more.")


ALIKE = Differing(0.0)


class _Drawn:
    """Days drawn from pools with replacement."""

    def __init__(
        self,
        pools: tuple[Pool, Pool],
        plan: ReleasePlan,
        variates: ControlVariates | None,
        rng: np.random.Generator,
        releases: int,
        differing: Differing,
    ) -> None:
        self._raw = np.stack([pool.returns for pool in pools])
        self._adjusted = self._raw
        if variates is not None:
            self._adjusted = np.stack([variates.adjust(pool.returns, pool.conditions) for pool in pools])
        self._fleet, self._rng, self._daily = plan.fleet, rng, differing.drawn_daily
        shape = (releases, plan.fleet)
        self._factor = self._usual = None
        if differing.sd > 0.0:
            self._factor = rng.normal(0.0, differing.sd, shape)
        if differing.past_days:
            earned = np.zeros(shape)
            for _ in range(differing.past_days):
                earned += self._earned(
                    np.zeros(1, np.int64), rng.integers(self._raw.shape[1], size=shape), self._factor
                )[0]
            past = np.full(shape, float(differing.past_days))
            self._usual = usual_of_rooms(past, earned / past, plan.variation.incumbent).beyond

    def day(self, alive: Codes, sizes: Codes) -> tuple[Array, Array, Booleans]:
        drawn = self._rng.integers(self._raw.shape[1], size=(len(alive), self._fleet))
        # Whatever distinguishes a room was drawn by chance, so the canary may be the first ones.
        arm = np.arange(self._fleet) < sizes[:, None]
        factor = None if self._factor is None else self._factor[alive]
        if factor is not None and self._daily:
            factor = self._rng.permuted(factor, axis=1)
        adjusted, raw = self._earned(arm.astype(np.int64), drawn, factor)
        return adjusted if self._usual is None else adjusted - self._usual[alive], raw, arm

    def _earned(self, which: Codes, drawn: Codes, factor: Array | None) -> tuple[Array, Array]:
        adjusted, raw = self._adjusted[which, drawn], self._raw[which, drawn]
        return (adjusted, raw) if factor is None else (adjusted + factor * raw, raw * (1.0 + factor))


def simulate(
    rule: Rule,
    plan: ReleasePlan,
    incumbent: Pool,
    candidate: Pool,
    *,
    variates: ControlVariates | None,
    releases: int,
    rng: np.random.Generator,
    differing: Differing = ALIKE,
) -> Releases:
    """Run many releases side by side, a day at a time, until each is decided.

    Args:
        rule: judges every evening.
        plan: shares and demands of the stages.
        incumbent: its days.
        candidate: its days, met with the same weather.
        variates: what the incumbent's old log explains; ``None`` compares returns as they are.
        releases: ``R``.
        rng: which days each room meets.
        differing: by what the rooms differ, and what is known of it.
    """
    fleet: Fleet = _Drawn((incumbent, candidate), plan, variates, rng, releases, differing)
    return Walk(rule, plan, releases).run(fleet)


class Walk:
    """Many releases on their way through the stages of one plan."""

    def __init__(self, rule: Rule, plan: ReleasePlan, releases: int, *, most_days: int = MOST_DAYS) -> None:
        self._rule, self._plan, self._most_days = rule, plan, most_days
        shares = (*(stage.share for stage in plan.stages), plan.bake_share)
        self._sizes = np.array([arm_size(plan.fleet, share) for share in shares])
        self._outcome, self._stage, self._since, self._length = (np.zeros(releases, np.int64) for _ in range(4))
        self._spent = np.zeros(releases)
        self._alive = np.arange(releases)  # those not decided yet
        self._history: list[tuple[Tally, Tally]] = []  # of the living, a day each: adjusted and raw
        self._by_room: list[Tally] = []  # the same, where the rooms are told apart

    def run(self, fleet: Fleet) -> Releases:
        """Until all are decided, or the days are over."""
        for _ in range(self._most_days):
            if not len(self._alive):
                break
            self._day(fleet)
        return Releases(self._outcome, self._spent, self._length)

    def _day(self, fleet: Fleet) -> None:
        alive, last = self._alive, len(self._plan.stages)
        sizes = self._sizes[self._stage[alive]]
        adjusted, raw, arm = fleet.day(alive, sizes)
        self._history.append((_tallied(adjusted, arm), _tallied(raw, arm)))
        if self._plan.variation.rooms is not None:
            self._by_room.append(_roomwise(adjusted, arm))
        self._spent[alive] += sizes
        self._since[alive] += 1
        self._length[alive] += 1
        known, earned = (_joined([day[kind] for day in self._history]) for kind in (0, 1))
        rooms = _joined(self._by_room) if self._by_room else None
        evening = self._rule(Day(known, earned, self._stage[alive], self._since[alive], rooms), self._plan)
        moved = evening.promote & ~evening.roll_back & ~evening.give_up
        finished = moved & (self._stage[alive] == last)
        self._outcome[alive[evening.roll_back]] = ROLLED_BACK
        self._outcome[alive[finished]] = PROMOTED
        self._stage[alive[moved & ~finished]] += 1
        self._since[alive[moved]] = 0
        keep = ~(evening.roll_back | evening.give_up | finished)
        self._alive = alive[keep]
        if not keep.all():
            self._history = [(_kept(one, keep), _kept(two, keep)) for one, two in self._history]
            self._by_room = [_kept(one, keep) for one in self._by_room]


def _tallied(x: Array, arm: Booleans) -> Tally:
    # (A, F) returns and (A, F) bool to (A, 2) sums, the incumbent first.
    parts = []
    for values in (np.ones_like(x), x, x * x):
        ours = np.where(arm, values, 0.0).sum(axis=-1)
        parts.append(np.stack([values.sum(axis=-1) - ours, ours], axis=-1))
    return Tally(parts[0], parts[1], parts[2])


def _roomwise(x: Array, arm: Booleans) -> Tally:
    # (A, F) returns and sides to (A, 2, F).
    episodes = np.stack([~arm, arm], axis=1).astype(np.float64)
    total = episodes * x[:, None]
    return Tally(episodes, total, total * x[:, None])


def _joined(days: list[Tally]) -> Tally:
    return Tally(*(np.stack(parts, axis=1) for parts in zip(*days, strict=True)))


def _kept(tally: Tally, keep: Booleans) -> Tally:
    return Tally(*(part[keep] for part in tally))
