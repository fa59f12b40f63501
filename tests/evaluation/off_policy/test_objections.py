"""What must not be acted on although the number looks fine, and what is lost by trying only a few."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlcourse.errors import ConfigError, DatasetCorruptError, ShapeError
from rlcourse.evaluation.off_policy import (
    MODEL_FREE,
    Basis,
    Demands,
    FQEConfig,
    OffPolicyVerdict,
    RatioStatistic,
    Resampled,
    Trajectories,
    assess,
    diagnose,
    expected_regrets,
    judge,
    logger_value,
    regret_at_k,
    resample,
    weighted_importance_sampling,
)
from rlcourse.randomness import Seeds
from rlcourse.release.evidence import verdict_from_json
from tests.evaluation.off_policy.problems import bandit, played, problem, rng


def certain(count: int) -> Trajectories:
    """A logger that never varies. The target agrees with it in 9 cases of 10 where much is paid and in 3 where little is."""
    source = rng()
    much = source.integers(2, size=count)
    reward = much + 0.1 * source.normal(size=count)
    return Trajectories.from_arrays(target=np.where(much == 1, 0.9, 0.3), behaviour=np.ones(count), reward=reward)


def one_arm_short(count: int) -> Trajectories:
    """The log holds two arms, pulled evenly and worth 0 and 1; the target pulls a third one in 3 cases of 10."""
    source = rng()
    arm = source.integers(2, size=count)
    target = np.where(arm == 1, 0.65, 0.05)
    return Trajectories.from_arrays(
        target=target, behaviour=np.full(count, 0.5), reward=arm + 0.1 * source.normal(size=count)
    )


def cut_short(paid: float, *, gamma: float = 0.99, gone_on: bool = True) -> Trajectories:
    """100 episodes of 50 steps that pay about ``paid`` each, all cut off, judged by the logger's own policy."""
    source = rng()
    shape, obs = (100, 50), torch.from_numpy(source.normal(size=(100, 51, 2))).float()
    even = torch.full((100, 51, 2), 0.5, dtype=torch.float64)
    return Trajectories(
        target=even[:, :-1, 0],
        behaviour=even[:, :-1, 0],
        reward=torch.from_numpy(paid + 0.1 * source.normal(size=shape)),
        mask=torch.ones(shape, dtype=torch.float64),
        gamma=gamma,
        obs=obs,
        action=torch.from_numpy(source.integers(2, size=shape)),
        terminated=torch.full((100,), not gone_on),
        all_target=even,
    ).validate()


def verdict(log: Trajectories, demands: Demands | None = None, *, basis: Basis = "episodes") -> OffPolicyVerdict:
    found = resample(weighted_importance_sampling(log), rng=rng())
    logger = resample(RatioStatistic.mean(log.returns()), rng=rng())
    about = replace(diagnose(log), negative_share=0.0 if basis == "steps" else None)
    return judge({"new": found}, logger, {"new": about}, demands, basis=basis)


# Episodes that were cut off


@pytest.mark.parametrize("paid", [1.0, -1.0])
def test_the_logger_is_neither_better_nor_worse_than_itself_where_its_episodes_were_cut_off(paid: float) -> None:
    """Fifty steps of a hundred that gamma sees: a model says 100 where the log says 39."""
    log = cut_short(paid)
    settings = FQEConfig(updates=600, hidden=(32,))
    found = assess(log, ("dr", "wdr", "linear", "mdr"), seeds=Seeds(0), fqe=settings)
    logger = logger_value(log, seeds=Seeds(0))
    for name in ("dr", "wdr"):
        assert found.values[name].estimate == pytest.approx(logger.estimate, rel=0.03)
        answer = judge({"same": found.values[name]}, logger, {"same": found.diagnostics})
        assert answer.decision == "inconclusive" and answer.evidence[0].objections == ()
    assert abs(found.values["linear"].estimate) > 1.5 * abs(logger.estimate)
    answer = judge({"same": found.values["mdr"]}, logger, {"same": found.diagnostics}, basis="steps")
    assert answer.decision == "inconclusive" and "61% of the discounted time comes later" in answer.reason
    endless = logger_value(log, seeds=Seeds(0), endless=True)
    assert endless.estimate == pytest.approx(paid / 0.01, rel=0.03)
    answer = judge({"same": found.values["mdr"]}, endless, {"same": found.diagnostics}, basis="steps")
    (objection,) = answer.evidence[0].objections
    assert answer.decision == "inconclusive" and "models alone speak" in objection


def test_an_estimate_that_goes_on_is_fine_where_nothing_was_cut_off_or_little_is_left() -> None:
    assert diagnose(cut_short(1.0)).beyond == pytest.approx(0.99**50)
    assert diagnose(cut_short(1.0, gone_on=False)).beyond == 0.0
    for log in (cut_short(1.0, gamma=0.9), cut_short(1.0, gone_on=False)):
        assert verdict(log, basis="steps").evidence[0].objections == ()


# Several candidates, and some about which the log is silent


def test_the_risk_of_promoting_a_worse_one_is_shared_among_candidates() -> None:
    """Ten candidates that are the logger in disguise. Of 200 logs at most 10 + 4 standard errors (13) promote any of them; at
    the whole risk for each it would be some 50."""
    promoted = {1: 0, 10: 0}
    for seed in range(200):
        source = rng(seed)
        arm = source.integers(4, size=100)
        reward = source.normal(size=100)
        logger = resample(RatioStatistic.mean(torch.from_numpy(reward)), rng=rng(seed), resamples=300)
        found, about = {}, {}
        for number in range(10):
            preferred = source.permutation(4)[arm] < 2
            log = Trajectories.from_arrays(
                target=np.where(preferred, 0.45, 0.05), behaviour=np.full(100, 0.25), reward=reward
            )
            found[str(number)] = resample(weighted_importance_sampling(log), rng=rng(seed), resamples=300)
            about[str(number)] = diagnose(log)
        for count in promoted:
            some = list(found)[:count]
            answer = judge({one: found[one] for one in some}, logger, {one: about[one] for one in some})
            promoted[count] += answer.decision == "promote"
    assert promoted[10] <= 23 and 1 <= promoted[1] <= 23


def test_the_share_of_each_is_said() -> None:
    log = bandit(400)
    found, logger = (
        resample(statistic, rng=rng())
        for statistic in (weighted_importance_sampling(log), RatioStatistic.mean(log.returns()))
    )
    answer = judge({"a": found, "b": found}, logger, {"a": diagnose(log), "b": diagnose(log)})
    assert answer.decision == "promote" and "each of 2 candidates has 0.025" in answer.reason


def test_a_candidate_without_an_estimate_is_listed_with_the_reason_and_does_not_stop_the_others() -> None:
    log = bandit(400)
    found, logger = (
        resample(statistic, rng=rng())
        for statistic in (weighted_importance_sampling(log), RatioStatistic.mean(log.returns()))
    )
    about = {name: diagnose(log) for name in ("good", "mute")}
    answer = judge({"good": found}, logger, about, silent={"mute": "it has no density."})
    assert answer.candidate == "good" and [one.candidate for one in answer.evidence] == ["good", "mute"]
    assert answer.evidence[1].objections == ("it has no density.",) and answer.evidence[1].probability_worse == 0.5
    json.dumps(answer.to_json(), allow_nan=False)
    alone = judge({}, logger, {"mute": diagnose(log)}, silent={"mute": "it has no density."})
    assert alone.decision == "inconclusive" and "it has no density." in alone.reason


@pytest.mark.parametrize("estimator", ["is", "pdis", "wis"])
def test_equal_returns_decide_nothing_whatever_the_weights(estimator: str) -> None:
    """All episodes pay 1; weights that vary would make importance sampling look better or worse."""
    decisions = set()
    for seed in range(60):
        source = rng(seed)
        arm = source.integers(2, size=60)
        log = Trajectories.from_arrays(
            target=np.where(arm == 1, 0.8, 0.2), behaviour=np.full(60, 0.5), reward=np.ones(60)
        )
        logger = resample(RatioStatistic.mean(log.returns()), rng=rng(seed), resamples=200)
        found = resample(MODEL_FREE[estimator](log), rng=rng(seed), resamples=200)
        answer = judge({"new": found}, logger, {"new": diagnose(log)})
        decisions.add(answer.decision)
        assert "the log does not vary" in " ".join(answer.evidence[0].objections)
    assert decisions == {"inconclusive"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("largest_share", float("nan")),
        ("largest_share", 30.0),
        ("most_negative", -0.1),
        ("most_beyond", 2.0),
        ("most_unlogged", 5.0),
        ("fewest_episodes", -3),
        ("fewest_effective", float("nan")),
        ("heaviest_tail", -1.0),
    ],
)
def test_demands_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Demands(**{name: value})  # type: ignore[arg-type]  # one of several fields


# The mean of the weights


@pytest.mark.parametrize("log", [certain(400), one_arm_short(400)], ids=["a certain logger", "an arm is missing"])
@pytest.mark.parametrize("basis", ["episodes", "steps"])
def test_what_the_log_cannot_hold_is_not_promoted(log: Trajectories, basis: Basis) -> None:
    """Weights that are small and alike, and not one of the older objections: they would have promoted it."""
    about = diagnose(log)
    assert about.unlogged_mass is None and about.mean_weight + 3 * about.mean_weight_error < 0.9
    assert about.effective_sample_size > 200 and about.largest_share < 0.01 and (about.tail_shape or 0.0) < 0.7
    answer = verdict(log, basis=basis)
    assert answer.decision == "inconclusive" and answer.evidence[0].probability_worse < 0.01
    (objection,) = answer.evidence[0].objections
    assert "the log cannot hold" in objection and objection in answer.reason
    assert verdict(log, Demands(farthest_mean=0.99), basis=basis).decision == "promote"


def test_propensities_that_are_half_of_what_they_were_are_noticed() -> None:
    log = bandit(400)
    answer = verdict(replace(log, behaviour=0.5 * log.behaviour))
    assert answer.decision == "inconclusive" and "propensities are wrong" in answer.evidence[0].objections[0]


def test_right_propensities_are_not_doubted() -> None:
    """Three standard errors and a tenth: 5 or more of 24 rows of either arm will do, and fewer come up in 2 logs of 1,000."""
    doubted = [verdict(bandit(24, seed=seed)).evidence[0].objections for seed in range(300)]
    assert sum("mean" in words for objections in doubted for words in objections) <= 3


def test_the_mean_ratio_tells_how_much_is_missing_and_how_well_that_is_known() -> None:
    log = played(problem(), 4_000, 6, 1.0, Seeds(0).torch("episodes"))
    about = diagnose(log)
    assert about.mean_ratio == pytest.approx(1.0, abs=4 * (about.mean_ratio_error or 0.0))
    short = diagnose(replace(log, target=0.8 * log.target))
    assert short.mean_ratio == pytest.approx(0.8 * (about.mean_ratio or 0.0))
    parts = [diagnose(played(problem(), 24, 6, 1.0, Seeds(seed).torch("episodes"))) for seed in range(200)]
    said = np.mean([one.mean_ratio_error or 0.0 for one in parts])
    assert said == pytest.approx(float(np.std([one.mean_ratio or 0.0 for one in parts])), rel=0.2)


def test_a_single_episode_says_nothing_about_its_mean_weight() -> None:
    assert not any("mean" in words for words in verdict(bandit(1)).evidence[0].objections)


def test_weights_too_large_to_be_squared_are_an_objection_all_the_same() -> None:
    log = Trajectories.from_arrays(
        target=np.full((50, 2), 1e100), behaviour=np.ones((50, 2)), reward=rng().normal(size=(50, 2))
    )
    about = diagnose(log)
    assert about.effective_sample_size == pytest.approx(50) and about.mean_weight_error == pytest.approx(0.0)
    assert "propensities are wrong" in verdict(log).evidence[0].objections[0]


@pytest.mark.parametrize("farthest", [-0.1, np.nan])
def test_a_mean_weight_that_may_be_anywhere_is_no_demand(farthest: float) -> None:
    with pytest.raises(ConfigError, match="farthest_mean"):
        Demands(farthest_mean=farthest)


# Propensities that were guessed


def test_guessed_propensities_decide_only_if_somebody_says_so() -> None:
    log = replace(bandit(400), propensities="estimated")
    answer = verdict(log)
    assert answer.decision == "inconclusive" and "guessed propensities" in answer.reason
    assert answer.evidence[0].propensities == "estimated"
    allowed = verdict(log, Demands(allow_estimated=True))
    assert allowed.decision == "promote" and "does not cover the error" in allowed.reason
    assert "guessed" not in verdict(bandit(400)).reason


def test_step_weights_do_not_ask_for_propensities() -> None:
    assert verdict(replace(bandit(400), propensities="estimated"), basis="steps").decision == "promote"


def test_the_gate_reads_what_the_weights_rest_on() -> None:
    answer = verdict(replace(bandit(400), propensities="estimated"), Demands(allow_estimated=True))
    content = json.loads(json.dumps(answer.to_json()))
    assert content["evidence"][0]["propensities"] == "estimated"
    read = verdict_from_json(content, judged_as="new", candidate="v2")
    assert read.evidence == answer.evidence and read.demands == answer.demands
    assert read.expected_regret == answer.expected_regret and read.candidate == "v2"
    for wrong in ("invented", None):
        content["evidence"][0]["propensities"] = wrong
        with pytest.raises(DatasetCorruptError, match="neither logged nor estimated"):
            verdict_from_json(content, judged_as="new", candidate="v2")
    del content["evidence"][0]["propensities"]
    with pytest.raises(DatasetCorruptError, match="no verdict"):
        verdict_from_json(content, judged_as="new", candidate="v2")


# Regret at k


def test_expected_regret_by_hand_and_by_loops() -> None:
    assert expected_regrets([[3.0, 1.0], [2.0, 2.0]]) == (0.5, 0.0)
    values = rng().normal(size=(5, 300))
    found = expected_regrets(values)
    for k in range(1, 6):
        loop = [regret_at_k([5, 4, 3, 2, 1], values[:, draw], k) for draw in range(300)]
        assert found[k - 1] == pytest.approx(float(np.mean(loop)))
    assert found[-1] == 0.0 and list(found) == sorted(found, reverse=True)


@pytest.mark.parametrize("values", [[1.0, 2.0], [[1.0, np.nan]], np.zeros((0, 3))])
def test_regret_needs_a_number_for_each_policy_and_resample(values: object) -> None:
    with pytest.raises(ShapeError, match="shape"):
        expected_regrets(values)  # type: ignore[arg-type]


def test_the_verdict_says_what_trying_only_the_first_would_cost() -> None:
    """Three arms worth 0, 1 and 1: the log cannot tell which of two candidates is the better one, but the third is worse."""
    source = rng(3)
    arm = source.integers(3, size=300)
    reward = np.minimum(arm, 1) + source.normal(size=300)
    wanted = {"left": [0.1, 0.7, 0.2], "right": [0.1, 0.2, 0.7], "timid": [0.3, 0.4, 0.3]}
    found, about = {}, {}
    for name, share in wanted.items():
        log = Trajectories.from_arrays(target=np.array(share)[arm], behaviour=np.full(300, 1 / 3), reward=reward)
        found[name], about[name] = resample(weighted_importance_sampling(log), rng=rng()), diagnose(log)
    logger = resample(RatioStatistic.mean(torch.from_numpy(reward)), rng=rng())
    answer = judge(found, logger, about)
    order = [one.candidate for one in answer.evidence]
    by_hand = np.stack([found[name].values for name in order])
    lost = [float((by_hand.max(0) - by_hand[:k].max(0)).mean()) for k in (1, 2, 3)]
    assert answer.expected_regret == pytest.approx(lost) and lost[0] > 0.001 > lost[1] >= lost[2] == 0.0
    assert answer.to_json()["expected_regret"] == pytest.approx(lost)
    # What has an objection is not believed, so that nothing is lost by leaving it out.
    doubted = judge(found, logger, {**about, "left": replace(about["left"], largest_share=0.9)})
    assert len(doubted.expected_regret) == 2
    assert judge({"left": found["left"]}, logger, about).expected_regret == (0.0,)
    nothing = {"left": Resampled(1.0, np.full(1_000, np.nan), found["left"].interval)}
    assert judge(nothing, logger, about).expected_regret == ()
