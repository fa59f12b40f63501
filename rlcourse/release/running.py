"""A check on the simulation that draws days from pools: the same releases on rooms that go on from day to day.

Here nothing is drawn with replacement. Every room of every release is stepped through its days; water that one version has
cooled at night is there for the next; a room that changes its version begins with what the other left. A day runs from
midnight to midnight. The control variates may then use weather and load alone, of the day and of the day before: the state in
which a day begins is the work of the arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlcourse.environments.server_room import STEPS_A_DAY, ServerRoom, thermostat
from rlcourse.errors import ConfigError
from rlcourse.randomness import Seeds
from rlcourse.release.gates import Booleans
from rlcourse.release.matching import Array, ControlVariates, Variation
from rlcourse.release.planning import ReleasePlan, plan_release
from rlcourse.release.simulate import Codes, Fleet, Pool, Releases, Rule, Walk, sequential_rule
from rlcourse.release.study import INCUMBENT_C, StudyRow, candidates_for, goals_of, row_of
from rlcourse.vocabulary import Policy

WARM_UP = 2
"""Days under the incumbent before the first that counts."""
MOST_DAYS = 40


class RunningRooms:
    """Rooms that are stepped a day at a time, each by the version that it belongs to."""

    def __init__(self, count: int, incumbent: Policy, candidate: Policy, seeds: Seeds) -> None:
        if count < 1:
            raise ConfigError(f"{count} rooms.", mend="Use 1 or more.")
        self._policies, self._generator = (incumbent, candidate), seeds.torch("actions")
        self._env = ServerRoom(
            count,
            generator=seeds.torch("environment"),
            max_episode_steps=STEPS_A_DAY * (WARM_UP + MOST_DAYS + 1),  # so that no room is ever reset
            start_hour=0.0,
        )
        self._obs = self._env.reset()
        self._weather = torch.zeros(4, count)
        nobody = torch.zeros(count, dtype=torch.bool)
        for _ in range(WARM_UP):
            self.day(nobody)

    def day(self, arm: Tensor) -> Pool:
        """One day, the candidate running the rooms where ``(N,)`` ``arm`` is true."""
        before, yesterday = self._env.ledger.cost, self._weather
        sums = torch.zeros_like(yesterday)
        incumbent, candidate = self._policies
        anybody = bool(arm.any())
        for _ in range(STEPS_A_DAY):
            obs = self._obs
            outdoor, load, price = obs[:, 2], obs[:, 3], obs[:, 4]
            sums += torch.stack([outdoor, load, outdoor * price, load * price])
            action = incumbent.act(obs, greedy=True, generator=self._generator)
            if anybody:
                action = torch.where(arm, candidate.act(obs, greedy=True, generator=self._generator), action)
            self._obs = self._env.step(action).obs
        self._weather = sums / STEPS_A_DAY
        cost = (self._env.ledger.cost - before).double().numpy()
        return Pool(-cost, _conditions(self._weather, yesterday))


def _conditions(today: Tensor, yesterday: Tensor) -> Array:
    usual = torch.tensor([[20.0], [30.0], [5.0], [7.5]], dtype=torch.float64)
    scale = torch.tensor([[3.0], [1.0], [1.0], [0.6]], dtype=torch.float64)
    x = torch.cat([(part.double() - usual) / scale for part in (today, yesterday)])
    products = torch.stack([x[i] * x[j] for i in range(4) for j in range(i, 4)])
    found: Array = torch.cat([torch.ones_like(x[:1]), x, products]).T.contiguous().numpy()
    return found


def log_of(policy: Policy, rooms: int, days: int, seeds: Seeds) -> Pool:
    """Days of one policy alone, ``rooms * days`` of them, one after the other in each room."""
    if not 1 <= days <= MOST_DAYS:
        raise ConfigError(f"{days} days.", mend=f"Use 1 to {MOST_DAYS}.")
    running, nobody = RunningRooms(rooms, policy, policy, seeds), torch.zeros(rooms, dtype=torch.bool)
    parts = [running.day(nobody) for _ in range(days)]
    return Pool(np.concatenate([part.returns for part in parts]), np.concatenate([part.conditions for part in parts]))


class _RunningFleet:
    """Releases side by side; those that are decided are stepped on unseen, as the rooms share one batch."""

    def __init__(self, rooms: RunningRooms, releases: int, fleet: int, variates: ControlVariates | None) -> None:
        self._rooms, self._shape, self._variates = rooms, (releases, fleet), variates

    def day(self, alive: Codes, sizes: Codes) -> tuple[Array, Array, Booleans]:
        releases, fleet = self._shape
        arm = np.zeros(self._shape, dtype=bool)
        arm[alive] = np.arange(fleet) < sizes[:, None]
        done = self._rooms.day(torch.from_numpy(arm.reshape(-1)))
        adjusted = done.returns if self._variates is None else self._variates.adjust(done.returns, done.conditions)
        return adjusted.reshape(releases, fleet)[alive], done.returns.reshape(releases, fleet)[alive], arm[alive]


@dataclass(frozen=True)
class RunningStudy:
    """What the check found."""

    rows: tuple[StudyRow, ...]
    plan: ReleasePlan
    variates: ControlVariates
    log_mean: float
    """EUR a day, of the incumbent."""
    differences: dict[str, float]
    """EUR a day that each candidate truly earns more."""


def check_running(releases: int, fleet: int, seeds: Seeds, *, rooms: int = 1_000, days: int = 5) -> RunningStudy:
    """The always valid gate on the five candidates of :mod:`rlcourse.release.study`, calibrated anew on rooms that go on.

    Args:
        releases: of each candidate.
        fleet: rooms in each.
        seeds: everything random.
        rooms: behind the incumbent's log and each calibration.
        days: of each of those rooms.
    """
    incumbent = thermostat(first_stage_c=INCUMBENT_C)
    tuning = seeds.child("calibration")

    def earned(policy: Policy) -> Array:
        return log_of(policy, rooms, days, tuning).returns

    log = log_of(incumbent, rooms, days, seeds.child("log"))
    variates = ControlVariates.fit(log.conditions, log.returns)
    mean = float(log.returns.mean())
    plan = plan_release(fleet, goals_of(-mean), Variation(variates.sd, 2.0 * variates.sd))
    rows, differences, usual = [], {}, earned(incumbent)
    for name, policy in candidates_for(incumbent, lambda policy: float(earned(policy).mean())).items():
        differences[name] = float((earned(policy) - usual).mean())
        found = simulate_running(
            sequential_rule,
            plan,
            incumbent,
            policy,
            variates=variates,
            releases=releases,
            seeds=seeds.child("releases"),
        )
        rows.append(row_of("always valid", name, found, plan, differences[name]))
    return RunningStudy(tuple(rows), plan, variates, mean, differences)


def simulate_running(
    rule: Rule,
    plan: ReleasePlan,
    incumbent: Policy,
    candidate: Policy,
    *,
    variates: ControlVariates | None,
    releases: int,
    seeds: Seeds,
) -> Releases:
    """As :func:`rlcourse.release.simulate.simulate`, on rooms that go on; a release that has not ended after 40 days counts as
    undecided.
    """
    rooms = RunningRooms(releases * plan.fleet, incumbent, candidate, seeds)
    fleet: Fleet = _RunningFleet(rooms, releases, plan.fleet, variates)
    return Walk(rule, plan, releases, most_days=MOST_DAYS).run(fleet)
