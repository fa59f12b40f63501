from __future__ import annotations

import math

import numpy as np
import pytest

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.catalogue import signal_named
from rlcourse.monitoring.streams import EpisodeLedger, EpisodeRecord, PendingRewards, PolicyStream, Window, records


def test_a_window_keeps_the_last_rows_and_no_more() -> None:
    window = Window(3, 2)
    for number in range(5):
        window.push(number, -number)
    assert len(window) == 3
    assert window.seen == 5
    assert window.rows.tolist() == [[2.0, -2.0], [3.0, -3.0], [4.0, -4.0]]
    assert window.mean() == 3.0
    with pytest.raises(DatasetInvalidError):
        window.push(math.nan, 0.0)
    with pytest.raises(ShapeError):
        window.push(1.0)
    assert window.mean() == 3.0, "what was refused is not in it"
    with pytest.raises(DatasetInvalidError):
        _ = Window(2).rows
    with pytest.raises(ConfigError):
        Window(0)


def test_an_episode_is_counted_when_it_is_mature_and_not_before() -> None:
    ledger = EpisodeLedger(horizon_s=10.0)
    ledger.begin("early", 0.0)
    ledger.begin("long", 1.0)
    ledger.reward("early", 2.0, -1.0, terminated=True)
    ledger.reward("long", 5.0, 4.0)
    assert ledger.unfinished == 1
    assert ledger.matured(9.9) == [], "it has ended, but others of its age have not"
    assert ledger.matured(10.0) == [EpisodeRecord(-1.0, 1, "terminated", False, "early")]
    ledger.reward("long", 11.5, 100.0, truncated=True, succeeded=True)
    assert ledger.matured(11.5) == [EpisodeRecord(4.0, 1, "abandoned", False, "long")], (
        "what came after the horizon is not in it"
    )
    assert ledger.late == 1
    assert ledger.unfinished == 0


def test_the_mean_of_what_has_ended_is_biased_and_the_ledger_is_not() -> None:
    """Failures end after 1 to 5 steps with -10, successes after 100 with 1 a step; as many began in every second."""
    rng = np.random.default_rng(0)
    ledger, naive, counted, truths = EpisodeLedger(horizon_s=100.0), [], [], []
    events = []
    for began in range(400):
        good = bool(rng.random() < 0.5)
        truths.append(100.0 if good else -10.0)
        events.append((float(began), began, "begin", 0.0, False))
        if good:
            events += [(began + float(step), began, "reward", 1.0, step == 100) for step in range(1, 101)]
        else:
            events.append((began + float(rng.integers(1, 6)), began, "reward", -10.0, True))
    now = 180.0
    for time, name, what, reward, ended in sorted(events):
        if time > now:
            break
        if what == "begin":
            ledger.begin(str(name), time)
        else:
            ledger.reward(str(name), time, reward, terminated=ended)
            if ended:
                naive.append(truths[name])
        counted += [record.total for record in ledger.matured(time)]
    mature = truths[: int(now) - 100 + 1]
    assert counted == mature, "every episode that is old enough, whatever became of it"
    assert np.mean(naive) < np.mean(truths[: int(now)]) - 8.0


def test_the_ledgers_memory_is_bounded_and_says_when_it_was_too_small() -> None:
    ledger = EpisodeLedger(horizon_s=1e9, capacity=5)
    for number in range(12):
        ledger.begin(str(number), float(number))
        ledger.reward(str(number), float(number), 1.0)
    assert ledger.unfinished == 5
    assert ledger.crowded_out == 7
    assert [record.end for record in ledger.matured(12.0)] == ["abandoned"] * 5, "nor does what nobody fetches pile up"


def test_rewards_without_an_episode_are_counted_as_late() -> None:
    ledger = EpisodeLedger(horizon_s=10.0)
    ledger.reward("nobody", 0.0, 1.0)
    ledger.begin("one", 0.0)
    ledger.reward("one", 1.0, 1.0, terminated=True, succeeded=True)
    ledger.reward("one", 2.0, 1.0)
    assert ledger.late == 2
    assert ledger.matured(10.0) == [EpisodeRecord(1.0, 1, "terminated", True, "one")]
    ledger.begin("two", 0.0)
    with pytest.raises(ConfigError):
        ledger.begin("two", 0.0)
    with pytest.raises(DatasetInvalidError):
        ledger.reward("two", 1.0, math.nan)
    with pytest.raises(ConfigError):
        EpisodeLedger(horizon_s=0.0)


def test_a_reward_comes_late_or_not_at_all_and_both_are_counted() -> None:
    pending = PendingRewards(deadline_s=10.0, capacity=3)
    for number in range(4):
        pending.decided(str(number), float(number))
    assert (len(pending), pending.expired) == (3, 1), "the oldest had to go"
    assert pending.rewarded("2", 7.5) == 5.5
    assert pending.rewarded("2", 8.0) is None, "twice"
    assert pending.rewarded("0", 8.0) is None, "expired"
    assert pending.unknown == 2
    assert pending.expire(11.0) == 0
    assert pending.expire(11.5) == 1
    assert (len(pending), pending.expired) == (1, 2)
    with pytest.raises(ConfigError):
        PendingRewards(deadline_s=-1.0)


def test_gauges_by_their_names_and_nothing_that_is_not_known() -> None:
    stream = PolicyStream(episodes=10, steps=10)
    assert stream.gauges() == {}
    for number in range(10):
        stream.episode(EpisodeRecord(float(number), 1, "truncated", number >= 2))
        stream.step(euros=1.0, hours=1 / 6, violated=number == 0)
        stream.decision(math.log(2), explored=number < 3)
        stream.compared(9.0 + 0.1 * (number % 2), 10.0)
    found = stream.gauges()
    assert all(signal_named(name).kind == "gauge" for name in found)
    wanted = {
        "rl_episode_return_mean": 4.5,
        "rl_success_ratio": 0.8,
        "rl_success_ratio_low": 0.4902,
        "rl_cost_euros_per_hour": 6.0,
        "rl_safety_violation_ratio": 0.1,
        "rl_safety_violating_steps": 1,
        "rl_policy_entropy_nats": math.log(2),
        "rl_exploration_ratio": 0.3,
        "rl_roi_ratio": 0.095,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)


def test_an_abandoned_episode_is_no_success() -> None:
    stream = PolicyStream()
    stream.episode(EpisodeRecord(1.0, 1, "abandoned", True))
    assert stream.success_rate().estimate == 0.0


def test_a_baseline_that_costs_nothing_leaves_the_ratio_unknown() -> None:
    stream = PolicyStream()
    for sign in (-1.0, 1.0):
        stream.compared(1.0, sign)
    assert "rl_roi_ratio" not in stream.gauges()


def test_logged_episodes_become_records() -> None:
    log = Episodes(
        observations=np.zeros((5, 1), np.float32),
        actions=np.zeros(3, np.int64),
        rewards=np.array([1.0, 2.0, 5.0], np.float32),
        behaviour_probabilities=np.full(3, np.nan, np.float32),
        lengths=np.array([2, 1]),
        terminated=np.array([True, False]),
    )
    assert list(records(log, 4.0)) == [
        EpisodeRecord(3.0, 2, "terminated", False),
        EpisodeRecord(5.0, 1, "truncated", True),
    ]
