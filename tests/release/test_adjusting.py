"""Returns adjusted by what the log says: unbiased, as narrow as promised, and taken back where they may not be used."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.randomness import Seeds
from rlcourse.release.adjusting import Variates, fit, judged, spread
from rlcourse.release.conditions import Conditions, Moments, RunningSums, sums_from
from rlcourse.release.gates import Demand, GateConfig, LiveEvidence, LiveReturns, decide
from rlcourse.release.matching import ControlVariates, Tally, Variation, matched
from tests.release.pieces import evidence, verdict

TWO = Conditions((0, 2))  # the columns and their product: three numbers
SLOPES = np.array([3.0, -2.0, 0.5])
SD = 1.0


class Log:
    """Days whose returns follow from two conditions, a day's own level, and chance of deviation 1."""

    def __init__(self, seed: int) -> None:
        self.rng = Seeds(seed).numpy("log")

    def days(
        self, count: int, share: float, gain: float = 0.0, *, episodes: int = 60, leak: float = 0.0
    ) -> tuple[np.ndarray, ...]:
        """``gain``: what the candidate truly earns more; ``leak``: by how much it moves the first column."""
        day = np.repeat(np.arange(count), episodes)
        arm = (self.rng.random(len(day)) < share).astype(int)
        level = self.rng.normal(0.0, 5.0, count)[day]
        a, b = self.rng.normal(2.0, 1.0, (2, len(day)))
        a = a + leak * arm
        x = np.column_stack([a, b, a * b])
        return day, arm, -40.0 + level + x @ SLOPES + gain * arm + self.rng.normal(0.0, SD, len(day)), x


def fitted(log: Log, days: int = 10) -> Variates:
    moments = Moments.of(*log.days(days, 0.0))
    return fit(moments.episodes[:, 0], moments.first[:, 0], moments.second[:, 0], TWO)


def returns_of(days: tuple[np.ndarray, ...], variates: Variates | None, promised: Variation) -> LiveReturns:
    return judged(Tally.of(*days[:3]), Moments.of(*days), TWO, variates=variates, promised=promised)


def test_conditions_are_columns_and_products() -> None:
    assert Conditions((0, 2)).of([3.0, 9.0, 5.0]) == [3.0, 5.0, 15.0]
    assert Conditions((2, 4, 3)).width == len(Conditions((0, 1, 2)).of([1.0, 2.0, 3.0]) or [])
    for missing in ([3.0, 9.0, None], [3.0, 9.0], [float("inf"), 0.0, 1.0]):
        assert Conditions((0, 2)).of(missing) is None
    for wrong in ((), (0, 0), (-1,), tuple(range(9))):
        with pytest.raises(ConfigError, match="columns"):
            Conditions(wrong)
    with pytest.raises(ConfigError):
        Conditions((0,), "last")  # type: ignore[arg-type]


def test_sums_worked_by_hand() -> None:
    sums = RunningSums(2)
    sums.add([1.0, 2.0])
    sums.add([3.0, 4.0])
    assert sums.numbers == [2.0, 4.0, 6.0, 10.0, 14.0, 20.0]  # 1 + 9, 2 + 12, 4 + 16
    count, first, second = sums_from(sums.numbers, 2)
    assert (count, first.tolist(), second.tolist()) == (2.0, [4.0, 6.0], [[10.0, 14.0], [14.0, 20.0]])
    made = Moments.of([0, 0], [0, 0], [1.0, 3.0], [[2.0], [4.0]])
    assert made.second[0, 0].tolist() == second.tolist()
    found = made.combined(np.array([1.0, -0.5]), 1.0)
    assert [float(part[0, 0]) for part in found] == [2.0, 3.0, 5.0]
    with pytest.raises(ValueError, match="sums"):
        sums_from(sums.numbers, 3)
    with pytest.raises(ShapeError):
        Moments.of([0, 0], [0, 0], [1.0, 3.0], [[2.0]])


def test_the_fit_is_least_squares_within_days() -> None:
    """The oracle: ordinary least squares with a column for every day."""
    day, arm, returns, x = Log(0).days(6, 0.0)
    moments = Moments.of(day, arm, returns, x)
    found = fit(moments.episodes[:, 0], moments.first[:, 0], moments.second[:, 0], TWO)
    oracle = ControlVariates.fit(np.column_stack([x, np.eye(6)[day]]), returns)
    assert found.coefficients == pytest.approx(oracle.coefficients[:3], rel=1e-6)
    assert found.sd == pytest.approx(oracle.sd, rel=1e-6)
    assert found.mean == pytest.approx(returns.mean())
    by_day = returns - np.array([returns[day == d].mean() for d in range(6)])[day]
    assert found.raw_sd == pytest.approx(np.sqrt((by_day**2).sum() / (len(day) - 6)))
    assert (found.episodes, found.days) == (360, 6)
    assert Variates.from_json(asdict(found)) == found


def test_the_difference_is_unbiased_and_the_spread_as_promised() -> None:
    """Over many logs: the adjusted estimate has the true mean and the variance that its information promises."""
    log, gain, runs = Log(1), 0.7, 400
    errors, information = [], []
    for _ in range(runs):
        variates = fitted(log)
        promised = Variation(variates.sd, variates.sd)
        found = returns_of(log.days(4, 0.2, gain), variates, promised)
        assert found.objection is None
        contrast = matched(found.tally, promised)
        errors.append(float(contrast.estimate) - gain)
        information.append(float(contrast.information))
    scale = float(np.sqrt(np.mean(information)))
    assert abs(np.mean(errors)) < 4.0 / (scale * np.sqrt(runs))
    assert np.std(errors) * scale == pytest.approx(1.0, abs=0.12)
    # 240 episodes, a fifth of them the candidate's: 1/(1/48 + 1/192) = 38.4 at a deviation of 1.
    assert np.mean(information) == pytest.approx(38.4, rel=0.08)
    raw = matched(Tally.of(*log.days(4, 0.2)[:3]), Variation(variates.raw_sd, variates.raw_sd))
    assert float(raw.information) < 0.15 * scale**2


def test_the_adjustment_is_the_difference_of_what_was_predicted() -> None:
    """The identity that the guard against leakage rests on, with equal weights of the days."""
    log = Log(2)
    variates, days = fitted(log), log.days(1, 0.5, 1.0)
    _, arm, returns, x = days
    found = returns_of(days, variates, Variation(1.0, 1.0)).tally
    mean = found.total / found.episodes
    predicted = x @ np.array(variates.coefficients)
    shift = predicted[arm == 1].mean() - predicted[arm == 0].mean()
    raw = returns[arm == 1].mean() - returns[arm == 0].mean()
    assert mean[0, 1] - mean[0, 0] == pytest.approx(raw - shift)
    assert mean[0, 0] == pytest.approx((returns - predicted - variates.intercept)[arm == 0].mean())


def test_conditions_that_the_candidate_moves_are_not_taken_out() -> None:
    """It costs 3 a day more by raising the first column by 1: adjusted, all of the harm would be gone."""
    log = Log(3)
    variates = fitted(log)
    days = log.days(6, 0.5, 0.0, episodes=120, leak=-1.0)
    found = returns_of(days, variates, Variation(variates.sd, variates.sd))
    assert found.objection is not None
    assert found.objection.code == "conditions_differ"
    assert found.variation is not None
    assert found.variation.incumbent == max(variates.raw_sd, spread(found.tally) or 0.0)
    assert float(matched(found.tally, found.variation).estimate) == pytest.approx(-4.0, abs=1.0)  # -3 and half of b
    blind = Moments.of(*days).combined(np.array([1.0, *-np.array(variates.coefficients)]), -variates.intercept)
    assert float(matched(blind, Variation(1.0, 1.0)).estimate) == pytest.approx(0.0, abs=0.4)


def test_conditions_that_nobody_moves_are_hardly_ever_accused() -> None:
    log = Log(4)
    variates = fitted(log, days=40)
    promised = Variation(variates.sd, variates.sd)
    accused = [returns_of(log.days(3, 0.2), variates, promised).objection is not None for _ in range(500)]
    assert sum(accused) <= 3  # one in a thousand at most; 500 trials of that are 4 or more in one case of 10,000


def test_what_was_not_kept_is_judged_as_it_was_earned() -> None:
    log = Log(5)
    variates, days = fitted(log), log.days(3, 0.3)
    promised, tally = Variation(variates.sd, 2.0 * variates.sd), Tally.of(*days[:3])
    kept: dict[str, Any] = {"variates": variates, "promised": promised}
    for found in (
        judged(tally, None, None, **kept),
        judged(tally, Moments.of(*days), Conditions((0, 1)), **kept),
        judged(tally, Moments.of(*(part[: len(part) // 2] for part in days)), TWO, **kept),
    ):
        assert found.objection is not None
        assert found.objection.code == "conditions_missing"
        assert found.tally is tally
        assert found.variation is not None
        assert found.variation.incumbent >= variates.raw_sd > 3.0 * promised.incumbent
        assert found.variation.candidate == 2.0 * found.variation.incumbent
    assert "--conditions 0 2" in judged(tally, None, None, **kept).objection.text  # type: ignore[union-attr]


def test_a_spread_that_somebody_named_is_held_against_the_log() -> None:
    log = Log(6)
    days = log.days(3, 0.3)
    seen = spread(Tally.of(*days[:3]))
    assert seen is not None
    found = returns_of(days, None, Variation(SD, 2.0 * SD))
    assert found.objection is not None
    assert found.objection.code == "spread_larger"
    assert f"--sd {seen:.3g}" in found.objection.text
    assert found.variation == Variation(seen, 2.0 * seen)
    for honest in (seen, 0.9 * seen, 2.0 * seen):
        assert returns_of(days, None, Variation(honest, honest))[1:] == (None, None, None)
    few = tuple(part[:15] for part in days)
    assert returns_of(few, None, Variation(SD, SD)).objection is None  # 14 degrees of freedom at most say nothing


def test_the_gate_holds_such_returns_and_harm_still_goes_back() -> None:
    log = Log(7)
    given: dict[str, Any] = {"config": GateConfig(), "verdict": verdict(), "candidate": "v2"}
    fresh = evidence(0.0)

    def answer(gain: float) -> tuple[str, str]:
        returns = returns_of(log.days(8, 0.5, gain), None, Variation(SD, SD))
        seen = replace(fresh, tally=returns.tally, variation=returns.variation, objection=returns.objection)
        found = decide(
            seen, now_s=0.0, since_s=0.0, demand=Demand("no_harm", 0.1), variation=Variation(SD, SD), **given
        )
        return found.answer, found.reasons[0].code

    assert answer(0.0) == ("hold", "spread_larger")
    assert answer(5.0) == ("hold", "spread_larger")
    assert answer(-5.0) == ("roll_back", "returns_worse")


def test_the_spread_that_counts_is_the_measured_one() -> None:
    """Judged by the planned deviation, chance alone would look like harm."""
    returns = [*np.linspace(-10.0, 10.0, 100), *(np.linspace(-10.0, 10.0, 12) - 5.0)]
    tally = Tally.of([0] * 112, [0] * 100 + [1] * 12, returns)
    variation = Variation(0.1, 0.1, worth=1e6)
    found = judged(tally, None, None, variates=None, promised=variation)
    given: dict[str, Any] = {"now_s": 0.0, "since_s": 0.0, "demand": Demand(), "verdict": verdict(), "candidate": "v2"}
    config = GateConfig(tuned_at=1.0)
    naive = LiveEvidence(0.0, tally, evidence().counts, 0)
    assert decide(naive, variation=variation, config=config, **given).answer == "roll_back"
    measured = replace(naive, variation=found.variation, objection=found.objection)
    assert decide(measured, variation=variation, config=config, **given).answer == "hold"


def test_a_log_that_says_too_little() -> None:
    log = Log(8)
    day, arm, returns, x = log.days(2, 0.0, episodes=15)
    moments = Moments.of(day, arm, returns, x)
    with pytest.raises(DatasetInvalidError, match="30 episodes"):
        fit(moments.episodes[:, 0], moments.first[:, 0], moments.second[:, 0], TWO)
    tally = Tally.of(day, arm, np.ones_like(returns))
    with pytest.raises(DatasetInvalidError, match="never vary"):
        fit(tally.episodes[:, 0], tally.total[:, :1], tally.squares[:, :1, None], None)
    plain = Tally.of(day, arm, returns)
    found = fit(plain.episodes[:, 0], plain.total[:, :1], plain.squares[:, :1, None], None)
    assert (found.sd, found.coefficients, found.conditions) == (found.raw_sd, (), None)
    assert found.raw_sd == pytest.approx(spread(plain))
    for wrong in ({}, {**asdict(found), "columns": [1]}, {**asdict(found), "sd": "x"}):
        with pytest.raises(ConfigError, match="Begin the release again"):
            Variates.from_json(wrong)


def test_a_condition_that_does_not_vary_is_worth_nothing() -> None:
    day, arm, returns, x = Log(9).days(6, 0.0)
    x[:, 1] = 12.5  # the hour at which every episode begins
    x[:, 2] = x[:, 0] * x[:, 1]
    moments = Moments.of(day, arm, returns, x)
    found = fit(moments.episodes[:, 0], moments.first[:, 0], moments.second[:, 0], TWO)
    assert found.coefficients[1] == 0.0
    assert found.coefficients[0] + 12.5 * found.coefficients[2] == pytest.approx(4.0, abs=0.5)  # 3 + 0.5 * E b
    assert found.sd < 0.8 * found.raw_sd
