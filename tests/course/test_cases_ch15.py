"""Chapter 15's exercises: references agree with the service, symptoms are true."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from rlcourse.course import cases_ch15 as cases
from rlcourse.course.exercise_set import Exercise, exercises_of
from rlcourse.course.mutation import mutated
from rlcourse.deployment import numpy_policy
from rlcourse.serving import decisions, wire
from rlcourse.serving.sessions import SessionStore

drawn = pytest.mark.parametrize("seed", range(20))


def planted(exercise: Exercise) -> Callable[..., Any]:
    assert exercise.mutation is not None
    return mutated(exercise.reference, exercise.mutation)


def test_there_are_functions_to_write_and_bugs_to_find() -> None:
    kinds = [exercise.kind for exercise in exercises_of("ch15_serving")]
    assert (kinds.count("function"), kinds.count("hunt")) == (7, 2)


# The references against the service


@drawn
def test_masked_probabilities_are_those_of_the_served_policy(seed: int) -> None:
    given = cases.MASKED_PROBABILITIES.draw(np.random.default_rng(seed))
    scores = np.where(given["mask"].numpy(), given["logits"].numpy(), numpy_policy.LOWEST)
    found = cases.masked_probabilities(given["logits"], given["mask"])
    torch.testing.assert_close(found, torch.from_numpy(numpy_policy.softmax(scores)))


@drawn
def test_the_session_store_forgets_the_same_sessions(seed: int) -> None:
    given = cases.SESSIONS_TO_FORGET.draw(np.random.default_rng(seed))
    used, now = given["used_s"], [0.0]
    store = SessionStore(1, given["capacity"], given["lifetime_s"], lambda: now[0])
    for row in used.argsort().tolist():
        now[0] = float(used[row])
        store.put(str(row), np.zeros(1, np.float32))
    now[0] = given["now_s"]
    store.put("newcomer", np.zeros(1, np.float32))
    forgotten = [store.get(str(row)) is None for row in range(len(used))]
    assert forgotten == cases.sessions_to_forget(**given).tolist()


@drawn
def test_the_logs_own_reader_joins_the_same_rewards(seed: int) -> None:
    given = cases.JOIN_REWARDS.draw(np.random.default_rng(seed))
    observation = msgspec.Raw(json.dumps([0.0]).encode())
    lines: list[wire.DecisionLine | wire.RewardLine] = [
        wire.DecisionLine(name, 0.0, "policy", "1", observation, 0, 1.0, 1.0) for name in given["decisions"]
    ]
    lines += [
        wire.RewardLine(name, 1.0, reward)
        for name, reward in zip(given["rewarded"], given["reward"].tolist(), strict=True)
    ]
    joined = decisions.join(lines)
    reward, orphans = cases.join_rewards(**given)
    assert joined.orphans == orphans
    assert joined.without_reward == int(reward.isnan().sum()) == 1
    assert joined.episodes.rewards.tolist() == reward[~reward.isnan()].tolist()


def test_mixed_propensities_are_how_often_actions_are_taken() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities, mask, share, count = torch.tensor([0.7, 0.3, 0.0]), torch.tensor([True, True, False]), 0.2, 200_000
    policy = torch.multinomial(probabilities, count, replacement=True, generator=generator)
    fallback = torch.multinomial(mask.float(), count, replacement=True, generator=generator)
    action = torch.where(torch.rand(count, generator=generator) < share, fallback, policy)
    for one in (0, 1):
        wanted = cases.mixed_propensity(
            probabilities.unsqueeze(0), mask.unsqueeze(0), torch.tensor([one]), share
        ).item()
        assert (action == one).float().mean().item() == pytest.approx(wanted, abs=0.005)


# What the hunts say goes wrong does go wrong


def test_a_mask_after_the_argmax_answers_action_0() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2_000, 4, generator=generator)
    mask = torch.rand(2_000, 4, generator=generator) < 0.5
    scores, mask = scores[mask.any(-1)], mask[mask.any(-1)]
    bug = planted(cases.HUNT_BEST_ALLOWED)
    assert torch.equal(bug(scores, torch.ones_like(mask)), scores.argmax(-1))
    ruled_out = ~mask.gather(-1, scores.argmax(-1, keepdim=True)).squeeze(-1)
    assert (bug(scores, mask)[ruled_out] == 0).all()
    assert (~mask[ruled_out, 0]).any(), "action 0 is forbidden itself, and answered"
    assert mask.gather(-1, cases.best_allowed(scores, mask).unsqueeze(-1)).all()


def test_a_memory_in_place_is_everybodys() -> None:
    bug = planted(cases.HUNT_REMEMBERED)
    obs = torch.tensor([[8.0], [8.0], [8.0], [0.0]])
    alone = ["ada"] * 4
    assert torch.equal(bug(alone, obs, 0.5), cases.remembered(alone, obs, 0.5))
    both = ["ada", "ada", "ada", "bob"]
    assert bug(both, obs, 0.5)[-1].item() == 3.5
    assert cases.remembered(both, obs, 0.5)[-1].item() == 0.0
    again = [*both, "ada"]
    silent = torch.cat([obs, torch.tensor([[0.0]])])
    assert bug(again, silent, 0.5)[-1].item() == 3.5 / 2, "hers was 7, and is Bob's 3.5 by now"
    assert cases.remembered(again, silent, 0.5)[-1].item() == 7.0 / 2
