from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError
from rlcourse.release.gates import Counts, Demand, GateConfig, LiveEvidence, decide
from rlcourse.release.matching import Contrast, Variation
from rlcourse.release.planning import Goal, plan_release
from rlcourse.release.power import fixed_information
from rlcourse.release.routing import FileRouter, Routing
from rlcourse.release.stages import Release, Stage, blue_green, fixed_horizon, release_from_json, staged

PLAN = plan_release(200, (Goal(0.02, 4.0), Goal(0.5, 2.0, "gain", 0.9)), Variation(1.3, 2.6))


def contrast(estimate: float, information: float) -> Contrast:
    return Contrast(np.array(estimate), np.array(information), np.array(100.0))


def test_a_plan_becomes_stages_and_a_file_and_a_release_again() -> None:
    release = staged("r7", "v2", "v1", PLAN, shadow_requests=1_000)
    assert [(stage.kind, stage.share, stage.approval) for stage in release.stages] == [
        ("shadow", 0.0, False),
        ("canary", 0.02, False),
        ("ab", 0.5, True),
        ("bake", 0.95, False),
    ]
    assert release.stages[-1].least_s == 7 * 86_400
    assert release_from_json(json.loads(json.dumps(release.to_json()))) == release
    assert len(staged("r7", "v2", "v1", PLAN, approve_from=2.0).stages) == 3
    with pytest.raises(ConfigError, match="no release"):
        release_from_json({"name": "r7"})


def test_an_apprentice_proposes_and_does_not_act() -> None:
    release = staged("r7", "v2", "v1", PLAN, shadow_requests=100, apprentice=True)
    assert [(stage.kind, stage.acts) for stage in release.stages[:3]] == [
        ("shadow", False),
        ("apprentice", False),
        ("canary", True),
    ]
    assert release.routing(1) == Routing("v1", shadow="v2")
    assert release_from_json(json.loads(json.dumps(release.to_json()))) == release
    for kind, prove in (("apprentice", "service"), ("shadow", "autonomy"), ("canary", "autonomy")):
        with pytest.raises(ConfigError):
            Stage(kind, 0.0 if kind != "canary" else 0.1, Demand(prove))  # type: ignore[arg-type]


def test_one_version_is_live_at_every_stage() -> None:
    release = staged("r7", "v2", "v1", PLAN, shadow_requests=1_000)
    shares = [release.routing(index).share for index in range(4)]
    assert shares == [0.0, 0.02, 0.5, 0.95]
    assert {release.routing(index).live for index in range(4)} == {"v1"}
    assert (release.before, release.after) == (Routing("v1"), Routing("v2"))


def test_blue_green_switches_all_and_keeps_the_way_back() -> None:
    release = blue_green("r7", "v2", "v1", requests=500, least_s=3_600.0)
    assert release.routing(0) == Routing("v1", shadow="v2")
    assert release.routing(1) == Routing("v2", "v1", 0.0, "r7")
    assert release.stages[1].approval
    assert len(blue_green("r7", "v2", "v1", requests=500, least_s=0.0, shadow=False).stages) == 1


def test_a_healthy_service_is_all_that_a_shadow_can_show() -> None:
    def ask(requests: int) -> Any:
        counts = {one.name: Counts(0, requests) for one in GateConfig().objectives}
        return decide(
            LiveEvidence(0.0, None, counts, 0),
            now_s=1.0,
            since_s=0.0,
            demand=Demand("service", 0.0, 500),
            variation=Variation(1.0, 1.0),
            config=GateConfig(),
            approved=True,
        )

    assert (ask(499).answer, ask(499).reasons[0].code) == ("hold", "collecting")
    assert (ask(500).answer, ask(500).reasons[0].code) == ("promote", "service_healthy")


def test_a_fixed_horizon_is_looked_at_once() -> None:
    planned = fixed_information(0.5, power=0.8)  # 31.4
    assert fixed_horizon(contrast(5.0, planned - 1.0), planned) is None
    assert fixed_horizon(contrast(0.36, planned), planned) == "gain"  # z = 0.36 * 5.60 = 2.02
    assert fixed_horizon(contrast(0.34, planned), planned) == "neither"  # 1.91
    assert fixed_horizon(contrast(-0.36, planned), planned) == "harm"


@pytest.mark.parametrize(
    "stage",
    [
        ("shadow", 0.1, Demand("service")),
        ("canary", 0.0, Demand()),
        ("blue_green", 0.9, Demand("service")),
        ("blue_green", 1.0, Demand("gain")),
        ("ab", 1.0, Demand("gain")),
    ],
)
def test_stages_that_make_no_sense(stage: tuple[Any, float, Demand]) -> None:
    with pytest.raises(ConfigError):
        Stage(*stage)


def test_releases_and_routings_that_make_no_sense(tmp_path: Any) -> None:
    canary = Stage("canary", 0.1, Demand())
    for stages, candidate in (((), "v2"), ((canary,), "v1"), ((canary, Stage("canary", 0.05, Demand())), "v2")):
        with pytest.raises(ConfigError):
            Release("r7", candidate, "v1", stages, GateConfig(), Variation(1.0, 1.0))
    for wrong in (("v1", "v1", 0.1), ("v1", None, 0.1), ("v1", "v2", 1.0)):
        with pytest.raises(ConfigError):
            Routing(*wrong)
    with pytest.raises(ConfigError):
        Demand(information=float("inf"))
    router = FileRouter(tmp_path / "router.json")
    assert router.current() is None
    router.apply(Routing("v1", "v2", 0.1, "r7"))
    assert router.current() == Routing("v1", "v2", 0.1, "r7")
