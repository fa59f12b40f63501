"""Rollouts: what is aligned with what, and that the next one goes on where the last one stopped."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlcourse.environments.tensor_program import TensorProgram
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.networks import CategoricalPolicy, RecurrentActorCritic, RecurrentCategoricalPolicy
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ActionSpace, DiscreteActions, Rollout


class Counter(TensorProgram):
    """Sees how many steps its episode has lasted, and a name that every episode has for itself.

    A time limit cuts off at 3 steps; action 1 ends the task.
    """

    env_id, obs_size, state_size, time_limit = "Counter", 2, 2, 3
    actions: ActionSpace = DiscreteActions(2)
    begun = 0

    def _first_states(self) -> Tensor:
        self.begun += 1
        name = 100.0 * self.begun + torch.arange(self.num_envs)
        return torch.stack([torch.zeros_like(name), name], -1)

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return state + torch.tensor([1.0, 0.0]), state[:, 0], action == 1


def always(logits: list[float]) -> CategoricalPolicy:
    """Samples from these logits, whatever it sees."""
    return CategoricalPolicy(lambda obs: torch.tensor(logits).expand(*obs.shape[:-1], 2))


def collector_of(env: TensorProgram, gamma: float = 0.9) -> RolloutCollector:
    return RolloutCollector(env, gamma=gamma, generator=Seeds(0).torch("exploration"))


def joined(one: Rollout, two: Rollout) -> dict[str, Tensor]:
    names = ("obs", "action", "log_probability", "reward", "discount", "continues", "next_obs", "starts")
    return {name: torch.cat([getattr(one, name), getattr(two, name)]) for name in names}


def test_a_time_limit_keeps_its_discount_and_its_true_last_observation() -> None:
    rollout = collector_of(Counter(2)).collect(always([9.0, -99.0]), 7)
    clock, following = rollout.obs[..., 0], rollout.next_obs[..., 0]
    assert clock[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert following[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 1], "3 is seen by nobody who acts, and still what followed"
    assert torch.equal(rollout.next_obs[..., 1], rollout.obs[..., 1]), "what followed belongs to the same episode"
    assert rollout.continues[:, 0].tolist() == [1, 1, 0, 1, 1, 0, 1]
    assert (rollout.discount == 0.9).all()
    assert rollout.starts[:, 0].tolist() == [True, False, False, True, False, False, True]


def test_the_end_of_the_task_has_no_discount() -> None:
    rollout = collector_of(Counter(64)).collect(always([0.0, 0.0]), 9)
    ended = rollout.action == 1
    assert ended.any() and not ended.all()
    assert torch.equal(rollout.discount == 0, ended)
    late = rollout.obs[..., 0] == 2
    assert torch.equal(rollout.continues == 0, ended | late)
    assert (late & ~ended).any(), "some were cut off"
    assert torch.equal(rollout.starts[1:], (ended | late)[:-1])
    assert rollout.starts[0].all()
    assert torch.equal(rollout.starts, rollout.obs[..., 0] == 0)
    assert rollout.num_steps == 9 * 64


def test_two_rollouts_are_one_cut_in_two() -> None:
    policy = always([0.5, 0.0])
    whole = collector_of(Counter(5)).collect(policy, 11)
    parts = collector_of(Counter(5))
    for name, found in joined(parts.collect(policy, 4), parts.collect(policy, 7)).items():
        assert torch.equal(found, getattr(whole, name)), name


def test_log_probabilities_are_those_of_the_policy_that_acted() -> None:
    rollout = collector_of(Counter(50)).collect(always([0.0, 1.0]), 20)
    expected = torch.tensor([0.0, 1.0]).log_softmax(-1)[rollout.action]
    torch.testing.assert_close(rollout.log_probability, expected)
    assert (rollout.action == 1).float().mean().item() == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.06)


def network() -> RecurrentActorCritic:
    with Seeds(0).initialising("networks"):
        return RecurrentActorCritic(torch.tensor([1.0, 200.0]), torch.tensor([1.0, 100.0]), 6, 2)


def test_a_memory_is_carried_over_the_seam_and_wiped_where_an_episode_begins() -> None:
    actor = network()
    head = actor.actor[0]
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.mul_(100.0)  # an opinion, so that the memory shows in the probabilities
    policy, collector = RecurrentCategoricalPolicy(actor), collector_of(Counter(8))
    one, two = collector.collect(policy, 5), collector.collect(policy, 6)
    assert one.memory is not None and (one.memory == 0).all()
    assert two.memory is not None and (two.memory != 0).any()
    both = joined(one, two)
    memory = policy.first_memory(8)
    for t in range(11):
        memory = torch.where(both["starts"][t].unsqueeze(-1), torch.zeros_like(memory), memory)
        if t == 5:
            going = ~both["starts"][5]
            assert going.any()
            torch.testing.assert_close(two.memory[going], memory[going])
        memory = actor.remember(both["obs"][t], memory).detach()
        logits = actor.actor(memory).log_softmax(-1)
        expected = logits.gather(-1, both["action"][t].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(both["log_probability"][t], expected.detach())


def test_a_memory_is_its_policy_s_own() -> None:
    """Another policy begins with none, whatever it finds; and so does the first one when it comes back."""
    one, other = (RecurrentCategoricalPolicy(network()) for _ in range(2))
    collector = collector_of(Counter(8))
    for policy in (one, other, one):
        first, second = collector.collect(policy, 4), collector.collect(policy, 4)
        assert first.memory is not None and (first.memory == 0).all()
        assert second.memory is not None and (second.memory != 0).any()
    assert collector.collect(always([0.0, 0.0]), 4).memory is None
    again = collector.collect(one, 4)
    assert again.memory is not None and (again.memory == 0).all()


def test_unrolling_with_starts_is_unrolling_each_episode_alone() -> None:
    actor = network()
    obs = torch.randn(9, 1, 2, generator=Seeds(0).torch("obs"))
    starts = torch.zeros(9, 1, dtype=torch.bool)
    starts[[3, 4]] = True
    before = torch.randn(1, 6, generator=Seeds(1).torch("memory"))
    nothing, none = torch.zeros(1, 6), torch.zeros(9, 1, dtype=torch.bool)
    parts = [
        actor.unroll(obs[:3], none[:3], before),
        actor.unroll(obs[3:4], none[:1], nothing),
        actor.unroll(obs[4:], none[4:], nothing),
    ]
    whole = actor.unroll(obs, starts, before)
    torch.testing.assert_close(whole, torch.cat(parts))
    assert not torch.allclose(actor.unroll(obs, none, before)[3:], whole[3:])


def test_a_rollout_has_at_least_one_step() -> None:
    with pytest.raises(ConfigError):
        collector_of(Counter(1)).collect(always([0.0, 0.0]), 0)


def test_a_rollout_by_probabilities_that_are_no_numbers_is_refused() -> None:
    collector = collector_of(Counter(2))
    with pytest.raises(TrainingDivergedError, match="stopped being finite"):
        collector.collect(always([math.nan, 0.0]), 3)
