"""How long each stage has to be, from the power calculation and before the release begins.

The first stage is small and has to find a large harm; the later ones may look for smaller differences, because by then the
large ones are ruled out. Each takes whole days, as the price of electricity and the weather have the period of a day. And
none ends before the gate says anything at all (:attr:`~rlcourse.release.gates.GateConfig.fewest_episodes`): where little
varies, that and not the power decides how long the first stage is.

Where the same rooms come every day, days alone do not help for ever: what the candidate's few rooms differ by from the others
stays. A stage that could not reach its demand that way is refused, with the share that could.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlcourse.errors import ConfigError
from rlcourse.release.gates import Demand, GateConfig, Prove
from rlcourse.release.matching import Variation
from rlcourse.release.power import always_valid_information, information_of
from rlcourse.release.rooms import design_information
from rlcourse.release.sequential import tuned_mixture

MOST_STAGE_DAYS = 60
"""Where the same rooms come every day: what they do not tell by then they would hardly tell later."""


@dataclass(frozen=True)
class Goal:
    """What one stage has to find, and with how much of the traffic."""

    share: float
    """Of the fleet that the candidate runs."""
    effect: float
    """Difference of mean returns that has to be found, in their unit."""
    prove: Prove = "no_harm"
    power: float = 0.95
    """Chance of finding it."""

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ConfigError(
                f"A stage with a share of {self.share}.", mend="Leave somebody to compare with: use a share below 1."
            )


@dataclass(frozen=True)
class PlannedStage:
    """One stage with its length."""

    share: float
    demand: Demand
    days: int
    """Planned; a stage ends when its demand is met, not by the calendar."""
    episodes: int
    """Of the candidate, at the planned length."""


@dataclass(frozen=True)
class ReleasePlan:
    """All stages with two arms; then the candidate keeps all but a small hold-back for some days."""

    fleet: int
    stages: tuple[PlannedStage, ...]
    bake_share: float
    bake_days: int
    gate: GateConfig
    variation: Variation

    @property
    def candidate_days(self) -> int:
        """Episodes that the candidate runs if nothing stops it: the traffic of a full release."""
        return sum(stage.episodes for stage in self.stages) + self.bake_days * arm_size(self.fleet, self.bake_share)


def arm_size(fleet: int, share: float) -> int:
    """Rooms in the canary: the nearest whole number, but one of each arm at least."""
    return min(max(round(fleet * share), 1), fleet - 1)


def plan_release(
    fleet: int,
    goals: tuple[Goal, ...],
    variation: Variation,
    *,
    alpha: float = 0.05,
    margin: float = 0.0,
    fewest_episodes: int = GateConfig.fewest_episodes,
    bake_share: float = 0.95,
    bake_days: int = 7,
) -> ReleasePlan:
    """Lengths of all stages.

    The interval is tuned to the information of the first stage, where finding harm early matters most. What was learnt in
    one stage counts in the next, information and episodes alike.

    Worked number: 4 of 200 rooms, of which two days would hold enough information: 8 episodes, where the gate asks for 10. So
    three days, 12 episodes.

    Args:
        fleet: rooms, each of which makes one episode a day.
        goals: one for each stage.
        variation: expected of the adjusted returns of both arms.
        alpha: of the whole release.
        margin: see :class:`~rlcourse.release.gates.GateConfig`.
        fewest_episodes: of the candidate, before the gate judges; see there.
        bake_share: what the candidate gets once it is promoted; the rest is held back to compare with.
        bake_days: for so many days, with the incumbent ready to take over.

    Raises:
        ConfigError: no goals, fewer than two rooms, shares that fall, or too few rooms where the same ones come every day.
    """
    shares = [goal.share for goal in goals]
    if fleet < 2 or not goals or shares != sorted(shares):
        raise ConfigError(f"{fleet} rooms in stages of {shares}.", mend="Use two rooms or more, and shares that grow.")
    tuned_at = always_valid_information(goals[0].effect, alpha=alpha, power=goals[0].power)
    gate = GateConfig(alpha=alpha, tuned_at=tuned_at, margin=margin, fewest_episodes=fewest_episodes)
    rho, stages, known, seen, sizes = tuned_mixture(tuned_at, alpha), [], 0.0, 0, list[int]()
    for goal in goals:
        needed = always_valid_information(goal.effect, alpha=alpha, power=goal.power, rho=rho)
        candidates = arm_size(fleet, goal.share)
        fewest = max(math.ceil((fewest_episodes - seen) / candidates), 1)
        if variation.rooms:
            days = max(_days_of_rooms(sizes, candidates, fleet, variation, needed), fewest)
        else:
            daily = information_of(
                candidates,
                fleet - candidates,
                sd_candidate=variation.candidate,
                sd_incumbent=variation.incumbent,
            )
            days = max(math.ceil((needed - known) / daily - 1e-9), fewest)
            known += days * daily
        seen, sizes = seen + days * candidates, [*sizes, *[candidates] * days]
        stages.append(PlannedStage(goal.share, Demand(goal.prove, needed), days, days * candidates))
    return ReleasePlan(fleet, tuple(stages), bake_share, bake_days, gate, variation)


def least_share(
    fleet: int, information: float, variation: Variation, *, most_days: int = MOST_STAGE_DAYS
) -> float | None:
    """The smallest share with which rooms that come every day hold so much information in so many days; ``None``: half of
    them do not.
    """
    low, high = 0, fleet // 2
    if design_information([high] * most_days, fleet, variation) < information:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = design_information([middle] * most_days, fleet, variation) >= information
        low, high = (low, middle) if enough else (middle, high)
    return high / fleet


def _days_of_rooms(before: list[int], candidates: int, fleet: int, variation: Variation, needed: float) -> int:
    def known(days: int) -> float:
        return design_information([*before, *[candidates] * days], fleet, variation)

    found = next((days for days in range(1, MOST_STAGE_DAYS + 1) if known(days) >= needed - 1e-9), None)
    if found is not None:
        return found
    share = least_share(fleet, needed, variation)
    mend = (
        "Let the monitor know what each room earned before, or draw the rooms anew each day."
        if share is None
        else f"Use a share of {share:.3g}, or take out what each room earned before, or draw the rooms anew each day."
    )
    raise ConfigError(
        f"Rooms differ by {variation.rooms:.3g} for good: {candidates} of {fleet}, looked at for however long, do not tell "
        f"{needed:.3g} of information.",
        mend=mend,
    )
