"""The way of one release: its stages in order, what each demands, and who answers during each.

===============  =========  ========================================================================================
kind             share      passes when
===============  =========  ========================================================================================
``shadow``       0          the candidate has answered enough mirrored requests and broken no promise of the service
``apprentice``   0          people, or the log, have agreed with it often enough that it may act alone
                            (:mod:`rlcourse.release.apprentice`); it is asked as a shadow is, and proposes
``canary``       grows      enough information has come in and no harm showed; or a gain is proven early
``ab``           a half     a gain is proven, or for certain no more than the margin is lost; if all planned episodes tell
                            neither, a person decides
``bake``         nearly 1   enough time has passed and no harm showed against the few that are held back
``blue_green``   all        enough requests were answered and no promise of the service was broken, the incumbent standing
                            by, loaded and warm; then it may go
===============  =========  ========================================================================================

A fixed-horizon A/B test is none of these: the gate looks every day, so its stages are always valid.
:func:`~rlcourse.release.power.fixed_information` plans the other one, and ``rlcourse release ab`` reads it, once, with
:func:`fixed_horizon`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scipy.stats import norm

from rlcourse.errors import ConfigError
from rlcourse.release.gates import Demand, GateConfig, Objective
from rlcourse.release.matching import Contrast, Variation
from rlcourse.release.planning import ReleasePlan, arm_size
from rlcourse.release.routing import Routing

StageKind = Literal["shadow", "apprentice", "canary", "ab", "bake", "blue_green"]
DAY_S = 86_400.0


@dataclass(frozen=True)
class Stage:
    """One stage."""

    kind: StageKind
    share: float
    """Of the sessions that the candidate answers."""
    demand: Demand
    least_s: float = 0.0
    """It lasts so long at least, whatever is known."""
    approval: bool = False
    """A person has to agree before it begins."""
    days: int = 0
    """Planned, for people; 0: it was not. A stage ends when its demand is met, not by the calendar."""
    episodes: int = 0
    """Of the candidate, at the planned length."""

    def __post_init__(self) -> None:
        fitting = {"shadow": self.share == 0.0, "apprentice": self.share == 0.0, "blue_green": self.share == 1.0}
        if not fitting.get(self.kind, 0.0 < self.share < 1.0):
            raise ConfigError(
                f"A stage {self.kind} with a share of {self.share}.",
                mend="A shadow and an apprentice have 0, blue-green has 1, all others something between.",
            )
        if (self.kind == "apprentice") != (self.demand.prove == "autonomy"):
            raise ConfigError(
                f"A stage {self.kind} that has to show {self.demand.prove}.",
                mend="Autonomy is what an apprentice earns, and nobody else.",
            )
        if self.kind in ("shadow", "blue_green") and self.demand.prove != "service":
            raise ConfigError(
                f"A stage {self.kind} cannot compare returns: one of the arms acts nowhere.",
                mend="Demand a healthy service.",
            )
        if not self.least_s >= 0.0:
            raise ConfigError(f"A stage of {self.least_s} s at least.", mend="Use 0 or more.")

    @property
    def acts(self) -> bool:
        """Whether what the candidate decides is carried out."""
        return self.kind not in ("shadow", "apprentice")


@dataclass(frozen=True)
class Release:
    """Everything about a release that is settled before it begins."""

    name: str
    """Also the salt that draws its canary."""
    candidate: str
    incumbent: str
    stages: tuple[Stage, ...]
    gate: GateConfig
    variation: Variation
    patience: float = 1.5
    """An ``ab`` stage is put before a person at so many times its planned information."""

    def __post_init__(self) -> None:
        shares = [stage.share for stage in self.stages]
        if not self.stages or shares != sorted(shares):
            raise ConfigError(f"Stages with shares {shares}.", mend="Use one or more, and let the share grow.")
        if not self.name or self.candidate == self.incumbent or self.patience < 1.0:
            raise ConfigError(
                "A release has a name, a candidate other than the incumbent, and a patience of 1 or more.",
                mend="Give the candidate a version of its own.",
            )

    def routing(self, index: int) -> Routing:
        """Who answers whom during a stage."""
        stage = self.stages[index]
        if stage.share == 1.0:
            return Routing(self.candidate, self.incumbent, 0.0, self.name)
        if not stage.acts:
            return Routing(self.incumbent, shadow=self.candidate)
        return Routing(self.incumbent, self.candidate, stage.share, self.name)

    @property
    def before(self) -> Routing:
        """The incumbent alone: where every release can go back to at once."""
        return Routing(self.incumbent)

    @property
    def after(self) -> Routing:
        """The candidate alone."""
        return Routing(self.candidate)

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which :func:`release_from_json` makes it again."""
        return asdict(self)


def staged(
    name: str,
    candidate: str,
    incumbent: str,
    plan: ReleasePlan,
    *,
    shadow_requests: int = 0,
    apprentice: bool = False,
    approve_from: float = 0.5,
) -> Release:
    """A release along a plan: a shadow and an apprenticeship if asked for, the planned canaries, the A/B test, the bake.

    Args:
        name: of the release.
        candidate: its version.
        incumbent: the version that is live.
        plan: from the power calculation.
        shadow_requests: to be mirrored first; 0 leaves the shadow out.
        apprentice: whether autonomy has to be earned before the first canary.
        approve_from: stages with this share or more need a person's agreement to begin; above 1, none does.
    """
    stages = [Stage("shadow", 0.0, Demand("service", 0.0, shadow_requests))] if shadow_requests else []
    if apprentice:
        stages.append(Stage("apprentice", 0.0, Demand("autonomy", 0.0)))
    for planned in plan.stages:
        kind: StageKind = "ab" if planned.demand.prove == "gain" else "canary"
        asks = planned.share >= approve_from
        stages.append(Stage(kind, planned.share, planned.demand, 0.0, asks, planned.days, planned.episodes))
    baked = plan.bake_days * arm_size(plan.fleet, plan.bake_share)
    stages.append(
        Stage(
            "bake",
            plan.bake_share,
            Demand("no_harm", 0.0),
            plan.bake_days * DAY_S,
            days=plan.bake_days,
            episodes=baked,
        )
    )
    return Release(name, candidate, incumbent, tuple(stages), plan.gate, plan.variation)


def blue_green(
    name: str, candidate: str, incumbent: str, *, requests: int, least_s: float, shadow: bool = True
) -> Release:
    """A release that switches everybody at once and keeps the incumbent warm: for what needs no comparison of returns."""
    demand = Demand("service", 0.0, requests)
    stages = (Stage("shadow", 0.0, demand),) if shadow else ()
    last = Stage("blue_green", 1.0, demand, least_s, approval=True)
    return Release(name, candidate, incumbent, (*stages, last), GateConfig(), Variation(1.0, 1.0))


def fixed_horizon(
    contrast: Contrast, planned: float, *, alpha: float = 0.05
) -> Literal["gain", "harm", "neither"] | None:
    """An A/B test that is read once: ``None`` before the planned information is there, however things look by then."""
    if float(contrast.information) < planned:
        return None
    z = float(contrast.estimate) * math.sqrt(float(contrast.information))
    critical = float(norm.ppf(1.0 - alpha / 2.0))
    return "gain" if z > critical else "harm" if z < -critical else "neither"


def release_from_json(content: Mapping[str, Any]) -> Release:
    """The opposite of :meth:`Release.to_json`.

    Raises:
        ConfigError: something is missing, of another type, or out of range.
    """
    try:
        gate = dict(content["gate"])
        gate["objectives"] = tuple(Objective(**one) for one in gate["objectives"])
        stages = tuple(Stage(**{**stage, "demand": Demand(**stage["demand"])}) for stage in content["stages"])
        rest = {key: content[key] for key in ("name", "candidate", "incumbent", "patience")}
        return Release(stages=stages, gate=GateConfig(**gate), variation=Variation(**content["variation"]), **rest)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"That is no release: {error}.", mend="Write it with rlcourse release start.") from error
