from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError
from rlcourse.release.gates import Counts, Demand, GateAnswer, GateConfig, Objective, decide, read
from rlcourse.release.matching import Contrast, Variation
from tests.release.pieces import evidence, tally, verdict

CONFIG = GateConfig(tuned_at=20.0)
EVEN = Variation(1.0, 1.0)


def ask(found: Any, now: float, **more: Any) -> GateAnswer:
    given: dict[str, Any] = {
        "now_s": now,
        "since_s": now - 600.0,
        "demand": Demand("no_harm", 50.0),
        "variation": EVEN,
        "config": CONFIG,
        "verdict": verdict(),
        "candidate": "v2",
        **more,
    }
    return decide(found, **given)


def codes(answer: GateAnswer) -> list[str]:
    return [reason.code for reason in answer.reasons]


def test_each_answer_has_its_reason(now: float) -> None:
    assert (ask(evidence(at=now), now).answer, codes(ask(evidence(at=now), now))) == ("promote", ["no_harm"])
    few = ask(evidence(at=now, candidates=12), now)
    assert (few.answer, codes(few)) == ("hold", ["collecting"])
    worse = ask(evidence(-1.0, at=now), now)
    assert (worse.answer, codes(worse)) == ("roll_back", ["returns_worse"])
    proof = Demand("gain", 50.0)
    better = ask(evidence(1.0, at=now), now, demand=proof)
    assert (better.answer, codes(better)) == ("promote", ["gain_proven"])
    neither = ask(evidence(0.05, at=now), now, demand=proof)
    assert (neither.answer, codes(neither)) == ("hold", ["undecided"])


def test_the_numbers_behind_a_reason_are_the_interval_worked_by_hand(now: float) -> None:
    # 400 and 100 episodes of deviation 1: information 1/(1/400 + 1/100) = 80.
    numbers = ask(evidence(0.3, at=now), now).reasons[0].numbers
    rho = 20.0 * 0.12178
    radius = math.sqrt((80 + rho) * math.log((80 + rho) / (rho * 0.0025))) / 80
    assert numbers["information"] == pytest.approx(80.0, rel=1e-6)
    assert numbers["low"] == pytest.approx(0.3 - radius, abs=1e-4)
    assert numbers["high"] == pytest.approx(0.3 + radius, abs=1e-4)


def test_without_fresh_evidence_nothing_moves_and_at_last_it_goes_back(now: float) -> None:
    silent = ask(None, now)
    assert (silent.answer, codes(silent)) == ("hold", ["monitoring_unreachable"])
    stale = ask(evidence(1.0, at=now - 901.0), now)
    assert (stale.answer, codes(stale)) == ("hold", ["evidence_stale"])
    for lost in (ask(None, now, since_s=now - 7_201.0), ask(evidence(at=now - 7_201.0), now, since_s=now - 1e6)):
        assert (lost.answer, lost.reasons[0].code) == ("roll_back", "blind_too_long")
    # Evidence from before this stage began does not start the clock.
    assert ask(evidence(at=now - 1e6), now, since_s=now - 10.0).answer == "hold"


@pytest.mark.parametrize("missing", [{"tally": None}, {"violations": None}, {"counts": {}}])
def test_a_part_that_nobody_knows_holds(missing: dict[str, Any], now: float) -> None:
    answer = ask(evidence(at=now, **missing), now)
    assert answer.answer == "hold"
    assert set(codes(answer)) == {"evidence_missing"}


def test_a_shadow_is_not_asked_for_violations(now: float) -> None:
    service, seen = Demand("service", requests=500), evidence(at=now, tally=None, violations=None)
    assert ask(seen, now, demand=service, acts=False).answer == "promote"
    assert ask(seen, now, demand=service).answer == "hold"
    bad = evidence(at=now, tally=None, violations=1)
    assert ask(bad, now, demand=service, acts=False).answer == "roll_back"


def test_returns_that_are_no_numbers_hold(now: float) -> None:
    broken = tally(0.0)
    broken.total[0, 1] = math.nan
    assert codes(ask(evidence(at=now, tally=broken), now)) == ["evidence_broken"]


def test_harm_is_seen_whatever_else_is_missing(now: float) -> None:
    assert ask(evidence(at=now - 5_000.0, violations=1, counts={}), now).answer == "roll_back"
    slow = ask(evidence(at=now, counts={"latency": Counts(60, 1_000)}, tally=None), now)
    assert (slow.answer, codes(slow)) == ("roll_back", ["objective_latency"])
    both = ask(evidence(-1.0, at=now, violations=3), now)
    assert codes(both) == ["safety_violation", "returns_worse"]
    # 13 slow of 1,000 where 10 are allowed is what chance does.
    assert "objective_latency" not in codes(ask(evidence(at=now, counts={"latency": Counts(13, 1_000)}), now))


def test_the_logs_opinion(now: float) -> None:
    good = evidence(at=now)
    assert codes(ask(good, now, verdict=verdict("reject"))) == ["off_policy_reject"]
    assert ask(good, now, verdict=verdict("reject"), approved=True).answer == "roll_back"
    for doubtful, code in (
        (verdict("inconclusive"), "off_policy_inconclusive"),
        (None, "off_policy_missing"),
        (verdict("promote", "v3"), "off_policy_other_candidate"),
    ):
        held = ask(good, now, verdict=doubtful)
        assert (held.answer, codes(held)) == ("hold", [code])
        assert ask(good, now, verdict=doubtful, approved=True).answer == "promote"


def test_a_margin_lets_an_equal_one_pass(now: float) -> None:
    proof = Demand("gain", 50.0)
    assert ask(evidence(at=now), now, demand=proof).answer == "hold"
    assert ask(evidence(at=now), now, demand=proof, config=GateConfig(tuned_at=20.0, margin=0.5)).answer == "promote"


def test_the_answer_is_json(now: float) -> None:
    found = ask(evidence(at=now, candidates=5), now).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["reasons"][0]["numbers"]["episodes"] == 5
    assert "high" not in found["reasons"][0]["numbers"]  # infinite: too few episodes


def test_many_releases_are_read_as_each_would_be() -> None:
    contrast = Contrast(np.array([-1.0, 0.0, 1.0, 1.0]), np.full(4, 80.0), np.array([100.0, 100.0, 100.0, 9.0]))
    found = read(contrast, 50.0, CONFIG)
    assert found.harm.tolist() == [True, False, False, False]
    assert found.gain.tolist() == [False, False, True, False]
    assert found.enough.tolist() == [True, True, True, False]


def test_settings_that_mean_nothing() -> None:
    for wrong in ({"alpha": 0.0}, {"tuned_at": 0.0}, {"stale_after_s": 1e5}, {"fewest_episodes": 1}, {"margin": -1.0}):
        with pytest.raises(ConfigError):
            GateConfig(**wrong)
    with pytest.raises(ConfigError, match="allowed"):
        Objective("latency", 0.1, 0.05)
