"""What a reward says besides the reward, from the request to the episodes; and which actions explored."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import DatasetInvalidError
from rlcourse.serving import wire
from rlcourse.serving.continuous import ActionBounds, Drawn
from rlcourse.serving.decisions import join
from rlcourse.serving.exploring import explored
from rlcourse.serving.outcomes import by_name, counters, overridden, possible, whole
from rlcourse.serving.refusals import Refused
from rlcourse.serving.rows import renamed, rows_of
from tests.serving.test_assembly import ACT, asked, assembled


def request(more: str) -> wire.RewardRequest:
    return wire.read_reward(f'{{"request_id": "a", "reward": 1.0, {more}}}'.encode())


@pytest.mark.parametrize(
    "more",
    [
        '"cost": -0.01',
        '"cost": 1000000001',
        '"cost": {"two words": 1}',
        '"cost": {"": 1}',
        '"cost": {' + ",".join(f'"c{n}": 1' for n in range(17)) + "}",
        '"violations": -1',
        '"violations": 0.5',
        '"violations": {"inlet": 2147483648}',
        '"violations": true',
        '"executed": {"action": -1}',
        '"executed": {"action": []}',
        '"executed": {"action": 1e99}',
        '"executed": {"reason": "drill"}',
        '"executed": {"action": 1, "reason": "line\\nbreak"}',
        '"executed": {"action": 1, "who": "mia"}',
        '"executed": 2',
        '"next_observation": [1e300]',
        '"next_observation": [null]',
    ],
)
def test_what_is_out_of_bounds_is_refused(more: str) -> None:
    with pytest.raises(Refused) as caught:
        request(more)
    assert caught.value.status == 422


def test_amounts_by_name_and_together() -> None:
    assert by_name(request('"cost": {"energy": 0.4, "penalty": 0.05}').cost) == {"energy": 0.4, "penalty": 0.05}
    assert whole(request('"cost": {"energy": 0.4, "penalty": 0.05}').cost) == 0.45
    assert by_name(request('"violations": 2').violations) == {"all": 2.0}
    assert (whole(request('"violations": 0').violations), whole(request('"row": 0').violations)) == (0.0, None)


@pytest.mark.parametrize(
    ("decided", "done", "differs"),
    [
        (2, 2, False),
        (2, 0, True),
        (2, [2.0], True),
        ([0.5, 1.0], [0.5, 1.0 + 1e-8], False),
        ([0.5, 1.0], [0.5, 1.001], True),
        ([0.5], [0.5, 0.5], True),
        ([0.0], [1e-9], False),
    ],
)
def test_an_override_is_another_action(decided: Any, done: Any, differs: bool) -> None:
    assert overridden(decided, wire.Executed(done)) is differs
    assert not overridden(decided, None)


def test_an_amount_of_nothing_shows_its_series() -> None:
    line = wire.RewardLine("a", 1.0, 1.0, executed=wire.Executed(2, "drill"), cost=0.0, violations={"inlet": 1})
    assert list(counters(2, line)) == [
        ("rl_human_overrides_total", 0.0, {"reason": "drill"}),
        ("rl_safety_violations_total", 1.0, {"constraint": "inlet"}),
        ("rl_cost_euros_total", 0.0, {"cost": "all"}),
    ]
    assert list(counters(2, wire.RewardLine("a", 1.0, 1.0))) == []


def test_the_log_keeps_what_was_said(tmp_path: Any) -> None:
    line = wire.RewardLine("a", 1.0, 1.0, row=3, executed=wire.Executed([0.5]), cost={"energy": 1.0}, violations=0)
    again = wire.read_line(wire.encode(line))
    assert isinstance(again, wire.RewardLine)
    assert again == line
    bare = renamed(again, "b")
    assert (bare.request_id, bare.row, bare.executed, bare.cost, bare.violations) == (
        "b",
        0,
        again.executed,
        {"energy": 1.0},
        0,
    )


def decision(name: str, action: Any, **more: Any) -> wire.DecisionLine:
    return wire.DecisionLine(name, 0.0, "p", "v1", wire.Raw(b"[0.0,1.0]"), action, 0.5, 1.0, session="s", **more)


def test_a_reward_is_of_the_action_that_was_carried_out() -> None:
    lines: list[wire.DecisionLine | wire.RewardLine] = [
        decision("a", 1),
        decision("b", 1),
        decision("c", 1),
        wire.RewardLine("a", 1.0, 1.0, executed=wire.Executed(0, "drill"), cost={"energy": 0.4, "fine": 0.1}),
        wire.RewardLine("b", 1.0, 2.0, executed=wire.Executed(1, "drill"), violations={"inlet": 1, "outlet": 1}),
        wire.RewardLine("c", 1.0, 3.0, terminated=True),
    ]
    joined = join(lines)
    assert joined.episodes.actions.tolist() == [0, 1, 1]
    assert joined.episodes.rewards.tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(joined.episodes.behaviour_probabilities, np.array([np.nan, 0.5, 0.5], np.float32))
    assert joined.overrides == ("drill", None, None)
    assert joined.costs == (0.5, None, None)
    assert joined.violations == (None, 2, None)


def test_what_is_no_action_of_the_policy_is_not_learned_from() -> None:
    lines: list[wire.DecisionLine | wire.RewardLine] = [
        decision("a", 1),
        wire.RewardLine("a", 1.0, 1.0, executed=wire.Executed([0.0], "plug-pulled"), terminated=True),
    ]
    with pytest.raises(DatasetInvalidError, match="None of the log's 1 decisions"):
        join(lines)
    more = join([decision("0", 0), wire.RewardLine("0", 0.5, 1.0), *lines])
    assert (more.no_action, more.unusable, more.episodes.actions.tolist()) == (1, 0, [0])
    continuous: list[wire.DecisionLine | wire.RewardLine] = [
        decision("a", [0.5]),
        wire.RewardLine("a", 1.0, 1.0, executed=wire.Executed([-0.5]), terminated=True),
    ]
    assert join(continuous).episodes.actions.tolist() == [[-0.5]]


def test_a_code_that_is_no_action_does_not_become_one() -> None:
    """99 stands for "switched off by hand" in somebody's plant. Nobody ever chose action 2, but a mask says it is one."""

    def lines(**more: Any) -> list[wire.DecisionLine | wire.RewardLine]:
        decisions = [decision(name, n % 2, **more) for n, name in enumerate("abcd")]
        done = {"b": wire.Executed(99, "off"), "c": wire.Executed(2, "drill")}
        return [*decisions, *(wire.RewardLine(name, 1.0, 1.0, executed=done.get(name)) for name in "abcd")]

    found = join(lines())
    assert (found.no_action, found.num_actions, found.overrides) == (2, 2, (None,))
    for joined in (join(lines(), num_actions=3), join(lines(mask=wire.Raw(b"[true,true,false]")))):
        assert (joined.no_action, joined.unusable, joined.num_actions) == (1, 0, 3)
        # The decision with 99 cuts the episode; the last one gives its observation up for what followed.
        assert joined.episodes.actions.tolist() == [0, 2]
        assert joined.episodes.lengths.tolist() == [1, 1]


def test_a_masks_width_is_read_from_a_batch_too() -> None:
    assert (wire.mask_size(b"[true,false]"), wire.mask_size(b"[[true,false,true],[true,true,true]]")) == (2, 3)


def test_a_corrected_reward_counts_as_a_whole() -> None:
    first = wire.RewardLine("a", 1.0, 1.0, terminated=True, executed=wire.Executed(0, "drill"), cost=2.0, violations=1)
    second = wire.RewardLine("a", 2.0, 5.0, terminated=True)
    (corrected, again) = (join([decision("a", 1), *lines]) for lines in ([first, second], [second, first]))
    assert (corrected.episodes.actions.tolist(), corrected.episodes.rewards.tolist()) == ([1], [5.0])
    assert corrected.episodes.behaviour_probabilities.tolist() == [0.5]
    assert (corrected.overrides, corrected.costs, corrected.violations) == ((None,), (None,), (None,))
    assert (again.episodes.actions.tolist(), again.overrides, again.costs) == ([0], ("drill",), (2.0,))
    assert again.orphans == corrected.orphans == 0


@pytest.mark.parametrize(
    ("done", "holds"),
    [(4, True), (5, False), ([0.0, 0.0], False)],
)
def test_what_a_policy_with_counted_actions_can_do(done: Any, holds: bool) -> None:
    assert possible(done, 5, None) is holds


@pytest.mark.parametrize(
    ("done", "holds"),
    [
        ([2.0, 30.0], True),
        ([2.0000001, 30.00001], True),
        ([2.1, 0.0], False),
        ([0.0, -2.1], False),
        ([0.0], False),
        (0, False),
    ],
)
def test_what_a_policy_with_continuous_actions_can_do(done: Any, holds: bool) -> None:
    assert possible(done, 2, ActionBounds([-2.0, -2.0], [2.0, 30.0])) is holds


def test_the_service_refuses_what_is_no_action(save: Callable[..., Any], tmp_path: Any) -> None:
    assembly = assembled(tmp_path / "state")

    def told(*actions: Any) -> list[dict[str, Any]]:
        return [{"request_id": "one", "reward": 1.0, "executed": {"action": action}} for action in actions]

    (unknown,) = asked(assembly.application, ("POST", "/v1/rewards", told(99)))
    assert unknown.status_code == 202, "no policy is loaded whose actions could be known"
    folder, _ = save()
    assembly.load("rl_policy", folder, version="v1")
    count = assembly.shelf.find("rl_policy", "v1").policy.num_actions
    answers = asked(
        assembly.application,
        ("POST", "/v1/rewards", told(count - 1)),
        ("POST", "/v1/rewards", told(count)),
        ("POST", "/v1/rewards", told([0.5])),
        ("POST", "/v1/rewards", told(0, count)),
    )
    assert [one.status_code for one in answers] == [202, 422, 422, 422]
    assert f"{count} is no action" in answers[1].json()["error"] and "send no reward" in answers[1].json()["mend"]
    assembly.close()
    (path,) = (tmp_path / "state" / "decisions").glob("*.jsonl")
    lines = [wire.read_line(line) for line in path.read_bytes().splitlines()]
    assert [line.executed for line in lines if isinstance(line, wire.RewardLine)] == [
        wire.Executed(99),
        wire.Executed(count - 1),
    ], "of a list all are taken, or none"


def test_the_service_refuses_what_none_of_its_policies_could_have_seen(save: Callable[..., Any]) -> None:
    assembly = assembled()

    def told(size: int) -> tuple[str, str, dict[str, Any]]:
        return "POST", "/v1/rewards", {"request_id": "one", "reward": 1.0, "next_observation": [0.5] * size}

    (unknown,) = asked(assembly.application, told(3))
    assert unknown.status_code == 202, "no policy is loaded whose observations could be known"
    assembly.load("rl_policy", save()[0])
    fits, short, huge = asked(assembly.application, told(4), told(3), told(5))
    assert [one.status_code for one in (fits, short, huge)] == [202, 422, 422]
    assert "4 of them" in short.json()["mend"]


def test_explored_against_a_naive_look() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 50).astype(np.float32)
    actions = rng.integers(4, size=50)
    decided = SimpleNamespace(actions=actions, probabilities=probabilities)
    naive = [any(p > row[a] for p in row) for row, a in zip(probabilities.tolist(), actions.tolist(), strict=True)]
    assert explored(decided, many=True, greedy=False) == naive
    assert 0 < sum(naive) < 50
    for row in range(50):
        one = SimpleNamespace(actions=actions[row : row + 1], probabilities=probabilities[row : row + 1])
        assert explored(one, many=False, greedy=False) is naive[row]
    assert explored(decided, many=True, greedy=True) is None
    assert explored(None, many=True, greedy=False) is None
    assert explored(Drawn(np.zeros((1, 2), np.float32), None), many=False, greedy=False) is None
    even = SimpleNamespace(actions=np.array([1]), probabilities=np.full((1, 4), 0.25, np.float32))
    assert explored(even, many=False, greedy=False) is False


def test_the_service_writes_both_down(save: Callable[..., Any], tmp_path: Any) -> None:
    assembly = assembled(tmp_path / "state")
    folder, _ = save()
    assembly.load("rl_policy", folder, version="v1")
    drawn, batch = {"observation": [0.1] * 4, "deterministic": False}, [[0.1 * n] * 4 for n in range(30)]
    named = {"request_id": "one", "executed": {"action": 2, "reason": "drill"}, "cost": 1, "violations": {"inlet": 0}}
    answers = asked(
        assembly.application,
        *(("POST", ACT, drawn) for _ in range(30)),
        ("POST", ACT, {**drawn, "observation": batch}),
        ("POST", ACT, {**drawn, "observation": [[None] * 4, [0.0] * 4]}),
        ("POST", ACT, {"observation": [0.1] * 4, "request_id": "one"}),
        ("POST", "/v1/rewards", {"reward": 1.0, **named}),
        ("POST", "/v1/rewards", [{"reward": 1.0, "request_id": "two", "cost": -1}]),
    )
    assert [one.status_code for one in answers[-2:]] == [202, 422]
    assembly.close()
    (path,) = (tmp_path / "state" / "decisions").glob("*.jsonl")
    lines = [wire.read_line(line) for line in path.read_bytes().splitlines()]
    *decisions, reward = lines
    loaded = assembly.shelf.find("rl_policy", "v1")
    rows = [
        one for line in decisions if isinstance(line, wire.DecisionLine) for one in rows_of(line, observations=True)
    ]
    seen = set()
    for one in rows:
        values, _ = wire.read_observations(bytes(one.observation))
        if one.fallback is not None:
            continue
        if one.greedy:
            assert one.explored is None
            continue
        obs = np.array([values], np.float32)
        decided: Any = loaded.policy.decide(obs, greedy=True, mask=None, memory=None, rng=np.random.default_rng(0))
        likeliest = float(decided.probabilities.max())
        assert isinstance(one.propensity, float)
        wanted = not math.isclose(one.propensity, likeliest, rel_tol=1e-5)
        assert one.explored is wanted
        seen.add(wanted)
    assert seen == {True, False}
    assert isinstance(reward, wire.RewardLine)
    assert (reward.executed, reward.cost, reward.violations) == (wire.Executed(2, "drill"), 1.0, {"inlet": 0})
