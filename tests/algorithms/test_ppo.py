"""PPO on problems whose answers are known, and what a rollout is made of on its way through an update."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlcourse.algorithms.dqn import DQN
from rlcourse.algorithms.ppo import PPO, PPOConfig
from rlcourse.environments import BatchedEnvironment
from rlcourse.environments.tensor_program import TensorProgram
from rlcourse.errors import ConfigError, ShapeError
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import (
    ActionSpace,
    ContinuousActions,
    DiscreteActions,
    DiscretePolicy,
    MaskedPolicy,
    RecurrentPolicy,
    Rollout,
    TaskSpec,
)

ONE = torch.ones(1, 1)
GAMMA = 0.8


class SelfLoop(TensorProgram):
    """One state, a reward of 1 for ever; a time limit cuts it off after 5 steps."""

    env_id, obs_size, state_size, time_limit = "SelfLoop", 1, 1, 5
    actions: ActionSpace = DiscreteActions(2)

    def _first_states(self) -> Tensor:
        return torch.ones(self.num_envs, 1)

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return state, torch.ones(self.num_envs), torch.zeros(self.num_envs, dtype=torch.bool)


class Bandit(SelfLoop):
    """Three arms, the last one best; the task ends with every pull."""

    env_id = "Bandit"
    actions = DiscreteActions(3)
    paid = torch.tensor([0.2, 0.5, 1.0])

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return state, self.paid[action], torch.ones(self.num_envs, dtype=torch.bool)


class MaskedBandit(Bandit):
    """The best arm is forbidden."""

    def action_mask(self) -> Tensor:
        return torch.tensor([True, True, False]).expand(self.num_envs, -1)


class Throw(SelfLoop):
    """Two continuous actions; the nearer to (1, -0.5), the better. Bounds are -2 to 2 and -1 to 1."""

    env_id = "Throw"
    actions = ContinuousActions(torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 1.0]))

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        miss = (action - torch.tensor([1.0, -0.5])).square().sum(-1)
        return state, -miss, torch.ones(self.num_envs, dtype=torch.bool)


class Recall(TensorProgram):
    """The first observation is a signal, +1 or -1; three steps later the action that it named is paid 1.

    Every other copy gets the other signal, so whoever has forgotten it is right half of the time, whatever they do.
    """

    env_id, obs_size, state_size, time_limit = "Recall", 2, 2, 100
    actions: ActionSpace = DiscreteActions(2)

    def _first_states(self) -> Tensor:
        signal = 1.0 - 2.0 * (torch.arange(self.num_envs) % 2).float()
        return torch.stack([signal, torch.zeros_like(signal)], -1)

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        signal, clock = state.unbind(-1)
        last = clock >= 3
        right = action == (signal > 0).long()
        return torch.stack([signal, clock + 1], -1), (last & right).float(), last

    def _observe(self, state: Tensor) -> Tensor:
        signal, clock = state.unbind(-1)
        return torch.stack([signal * (clock == 0), clock / 3], -1)


def spec_of(env: BatchedEnvironment) -> TaskSpec:
    return TaskSpec.unscaled(env.obs_size, env.actions)


def collector_of(env: BatchedEnvironment, gamma: float = GAMMA) -> RolloutCollector:
    return RolloutCollector(env, gamma=gamma, generator=Seeds(0).torch("exploration"))


def made(env: BatchedEnvironment, config: PPOConfig, shuffle: int = 0) -> PPO:
    with Seeds(0).initialising("networks"):
        return PPO(spec_of(env), config, generator=Seeds(shuffle).torch("minibatches"))


SMALL = PPOConfig(hidden=(16,), learning_rate=5e-3, epochs=10)


def trained(env: TensorProgram, config: PPOConfig = SMALL, *, rollouts: int = 40, steps: int = 8) -> PPO:
    learner, collector = made(env, config), collector_of(env)
    for done in range(rollouts):
        learner.anneal(1.0 - done / rollouts)
        learner.update(collector.collect(learner.policy, steps))
    return learner


def value_of_one(learner: PPO) -> float:
    return float(learner.network.critic(ONE).detach())


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_a_reward_of_one_for_ever_is_worth_its_series_although_a_time_limit_cuts_it_off(lambda_: float) -> None:
    learner = trained(SelfLoop(4), replace(SMALL, lambda_=lambda_))
    assert value_of_one(learner) == pytest.approx(1.0 / (1.0 - GAMMA), rel=0.02)


def test_treating_the_time_limit_as_death_would_change_the_answer() -> None:
    """One step in five would end the task: V = 1 + (4/5) gamma V, and so 2.78 and not 5."""
    env = SelfLoop(4)
    learner, collector = made(env, replace(SMALL, lambda_=0.0)), collector_of(env)
    for done in range(40):
        learner.anneal(1.0 - done / 40)
        rollout = collector.collect(learner.policy, 10)
        learner.update(replace(rollout, discount=rollout.discount * rollout.continues))
    assert value_of_one(learner) == pytest.approx(1.0 / (1.0 - 0.8 * GAMMA), rel=0.02)


def test_the_best_arm_is_found() -> None:
    learner = trained(Bandit(16), replace(SMALL, batch_size=64))
    assert isinstance(learner.policy, DiscretePolicy)
    assert learner.policy.act(ONE, greedy=True).item() == 2
    assert learner.policy.probabilities(ONE)[0, 2] > 0.9


def test_a_forbidden_arm_is_never_pulled_and_nothing_is_learned_of_it() -> None:
    env = MaskedBandit(16)
    learner, collector = made(env, SMALL), collector_of(env)
    logits = learner.network.logits.layers[-1]
    assert isinstance(logits, torch.nn.Linear)
    before = logits.weight[2].detach().clone()
    for _ in range(20):
        rollout = collector.collect(learner.policy, 8)
        assert rollout.action_mask is not None and rollout.action_mask.shape == (8, 16, 3)
        assert (rollout.action < 2).all()
        log_probability, _, _ = learner.network(learner.judge(rollout)[0])
        torch.testing.assert_close(rollout.log_probability.flatten(), log_probability.detach())  # among what is allowed
        learner.update(rollout)
    assert torch.equal(logits.weight[2], before)
    assert isinstance(learner.policy, MaskedPolicy)
    assert learner.policy.act_within(ONE, env.action_mask()[:1], greedy=True).item() == 1, "the best of what is allowed"


def test_the_middle_of_a_continuous_target_is_found() -> None:
    learner = trained(Throw(32), replace(SMALL, learning_rate=1e-2), rollouts=60)
    found = learner.policy.act(ONE, greedy=True)[0]
    torch.testing.assert_close(found, torch.tensor([1.0, -0.5]), atol=0.1, rtol=0)
    assert (learner.network.log_std < made(Throw(1), SMALL).network.log_std).all(), "it has become surer of itself"


def test_the_spread_begins_at_half_the_range_of_each_action() -> None:
    network = made(Throw(1), replace(SMALL, log_std=-1.0)).network
    torch.testing.assert_close(network.log_std.exp(), torch.tensor([2.0, 1.0]) / torch.e)


def share_right(env: TensorProgram, learner: PPO) -> float:
    """What greedy episodes of 4 steps earn on average: the share of signals that were answered rightly."""
    obs, policy, earned = env.reset(), learner.policy, torch.zeros(env.num_envs)
    memory = policy.first_memory(env.num_envs) if isinstance(policy, RecurrentPolicy) else None
    for _ in range(4):
        if memory is not None and isinstance(policy, RecurrentPolicy):
            action, memory = policy.act_remembering(obs, memory, greedy=True)
        else:
            action = policy.act(obs, greedy=True)
        step = env.step(action)
        earned, obs = earned + step.reward, step.obs
    return float(earned.mean())


def test_only_a_memory_answers_a_signal_that_is_gone() -> None:
    config = PPOConfig(hidden=(16,), learning_rate=5e-3, epochs=4, batch_size=256, lambda_=1.0)
    remembering = trained(Recall(32), replace(config, memory=16), rollouts=60, steps=12)
    forgetting = trained(Recall(32), config, rollouts=60, steps=12)
    assert share_right(Recall(32), remembering) == 1.0
    assert share_right(Recall(32), forgetting) == 0.5


def test_a_rollout_is_gone_through_from_the_memory_it_began_with() -> None:
    """Before the first step of an update the ratio is 1 everywhere, however the minibatches are cut."""
    env = Recall(6)
    learner, collector = made(env, PPOConfig(memory=8, batch_size=14, epochs=1)), collector_of(env)
    collector.collect(learner.policy, 6)  # 4 steps an episode: the next rollout begins in the middle of one
    rollout = collector.collect(learner.policy, 7)
    assert not rollout.starts[0].any() and rollout.starts.any()
    parts = list(learner._minibatches(learner.judge(rollout)[0]))
    assert [part.action.shape for part in parts] == [(7, 2)] * 3
    for part in parts:
        log_probability, _, _ = learner.network(part)
        torch.testing.assert_close(log_probability, part.log_probability)
        strange = replace(part, memory=torch.ones_like(part.obs[0, :, :1]).expand(-1, 8))
        assert not torch.allclose(learner.network(strange)[0][0], part.log_probability[0]), "the memory counts"


def test_the_value_of_what_follows_a_time_limit_remembers_the_episode_that_was_cut_off() -> None:
    """The next value is that of the memory after the true next observation, not of a wiped one."""
    env = SelfLoop(2, max_episode_steps=3)
    learner, collector = made(env, PPOConfig(memory=4)), collector_of(env)
    rollout = collector.collect(learner.policy, 6)
    value, next_value = learner.network.judge(rollout)
    # Within an episode what follows is what comes next; all observations are alike, so the fourth goes on from the third.
    torch.testing.assert_close(next_value[:2], value[1:3])
    torch.testing.assert_close(value[3:], value[:3])
    assert not torch.allclose(next_value[2], value[0])


def numbered(steps: int = 10, envs: int = 6) -> Rollout:
    """A rollout whose observations are their own numbers."""
    number = torch.arange(float(steps * envs)).view(steps, envs)
    zeros, ones = torch.zeros(steps, envs), torch.ones(steps, envs)
    return Rollout(
        obs=number.unsqueeze(-1),
        action=torch.zeros(steps, envs, dtype=torch.int64),
        log_probability=zeros,
        reward=number.sin(),
        discount=ones * GAMMA,
        continues=ones,
        next_obs=number.unsqueeze(-1) + 1,
        starts=zeros.bool(),
    )


def test_the_value_of_what_follows_is_that_of_what_truly_followed() -> None:
    """Not of the next row, which may be another episode's first."""
    learner = made(SelfLoop(6), PPOConfig(lambda_=0.0))
    rollout = numbered()
    rollout = replace(rollout, next_obs=100.0 - rollout.obs)
    following = learner.network.critic(100.0 - rollout.obs).detach()
    samples, _ = learner.judge(rollout)
    torch.testing.assert_close(samples.target, (rollout.reward + GAMMA * following).flatten())
    torch.testing.assert_close(samples.advantage, samples.target - learner.network.critic(samples.obs).detach())


@pytest.mark.parametrize(("batch_size", "sizes"), [(20, [20, 20, 20]), (16, [16, 16, 16, 12]), (60, [60]), (500, [60])])
def test_an_epoch_sees_every_sample_once(batch_size: int, sizes: list[int]) -> None:
    learner = made(SelfLoop(6), PPOConfig(batch_size=batch_size))
    samples = learner.judge(numbered())[0]
    for _ in range(2):
        parts = list(learner._minibatches(samples))
        assert [len(part.obs) for part in parts] == sizes
        seen = torch.cat([part.obs for part in parts]).flatten()
        assert torch.equal(seen.sort().values, torch.arange(60.0))
        # Every column went the same way.
        reward = torch.cat([part.target for part in parts])
        order = seen.long()
        torch.testing.assert_close(reward, samples.target[order])


def test_one_left_over_sample_waits_for_the_next_epoch() -> None:
    learner = made(SelfLoop(6), PPOConfig(batch_size=59))
    assert [len(part.obs) for part in learner._minibatches(learner.judge(numbered())[0])] == [59]


def test_one_seed_shuffles_alike_and_another_does_not() -> None:
    def orders(shuffle: int) -> list[Tensor]:
        learner = made(SelfLoop(6), PPOConfig(batch_size=20), shuffle)
        samples = learner.judge(numbered())[0]
        return [part.obs.flatten() for _ in range(2) for part in learner._minibatches(samples)]

    one, same, other = orders(1), orders(1), orders(2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[3]), "two epochs are shuffled apart"


def test_two_runs_from_the_same_seeds_end_with_the_same_weights() -> None:
    config = replace(SMALL, batch_size=16)
    one, two = (trained(Bandit(8), config, rollouts=3) for _ in range(2))
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_annealing_shrinks_the_step_and_the_clip_from_their_first_values() -> None:
    env = Bandit(16)
    config = PPOConfig(hidden=(8,), epochs=1, batch_size=1_000, clip=0.3)
    rollout = collector_of(env).collect(made(env, config).policy, 8)
    moved = {}
    for fraction in (1.0, 0.25):
        learner = made(env, config)
        logits = learner.network.logits.layers[-1]
        assert isinstance(logits, torch.nn.Linear)
        before = logits.bias.detach().clone()
        for previous in (1.0, 0.5, fraction):  # a fraction of the first value, not of the last
            learner.anneal(previous)
        assert float(learner.clip) == pytest.approx(0.3 * fraction)
        learner.update(rollout)
        moved[fraction] = (logits.bias.detach() - before).norm().item()
    assert moved[0.25] == pytest.approx(0.25 * moved[1.0], rel=1e-3)
    learner.anneal(0.0)
    assert learner.clip > 0.0, "a clip of 0 would leave nothing to learn from, and no ratio inside"


def test_the_more_often_a_rollout_is_gone_through_the_further_the_policy_strays_from_it() -> None:
    env = Bandit(16)
    rollout = collector_of(env).collect(made(env, SMALL).policy, 8)
    metrics = {}
    for epochs in (1, 3, 30):
        metrics[epochs] = made(env, replace(SMALL, epochs=epochs)).update(rollout)
    assert 0.0 <= metrics[1]["kl"] < metrics[3]["kl"] < metrics[30]["kl"]
    assert metrics[1]["clip_fraction"] == 0.0 < metrics[30]["clip_fraction"]


@pytest.mark.parametrize("kind", ["discrete", "continuous", "memory"])
def test_a_checkpoint_brings_everything_back(kind: str) -> None:
    env: TensorProgram = Throw(8) if kind == "continuous" else Recall(8)
    config = PPOConfig(hidden=(8,), memory=4 if kind == "memory" else 0, epochs=2)
    one, two = trained(env, config, rollouts=4), trained(env, config, rollouts=2)
    assert float(one.clip) != float(two.clip)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert float(one.clip) == float(two.clip)
    rollout = collector_of(env).collect(one.policy, 8)
    for learner in (one, two):
        learner.anneal(0.2)
        learner.update(rollout)
    flat_one, flat_two = _tensors(one.state_dict()), _tensors(two.state_dict())
    assert len(flat_one) == len(flat_two) > len(list(one.network.parameters())), "the optimiser's moments are there"
    for a, b in zip(flat_one, flat_two, strict=True):
        assert torch.equal(a, b)


def _tensors(state: object) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, dict):
        return [t for value in state.values() for t in _tensors(value)]
    if isinstance(state, list | tuple):
        return [t for value in state for t in _tensors(value)]
    return []


def test_a_learner_for_other_actions_says_so() -> None:
    continuous = spec_of(Throw(1))
    with pytest.raises(ConfigError, match="memory 0"):
        PPO(continuous, PPOConfig(memory=8))
    with pytest.raises(ConfigError, match="ppo"):
        DQN(continuous)


def test_a_policy_that_cannot_be_told_what_is_forbidden_is_refused() -> None:
    env = MaskedBandit(4)
    with pytest.raises(ConfigError, match="rules out actions"):
        collector_of(env).collect(made(env, PPOConfig(memory=4)).policy, 2)


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"batch_size": 1}, {"clip": 0.0}, {"memory": -1}])
def test_settings_without_meaning_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        PPOConfig(**setting)  # type: ignore[arg-type]


def test_the_entropy_bonus_keeps_the_policy_undecided() -> None:
    entropies = []
    for weight in (0.0, 2.0):
        learner = trained(Bandit(16), replace(SMALL, entropy_weight=weight), rollouts=20)
        assert isinstance(learner.policy, DiscretePolicy)
        p = learner.policy.probabilities(ONE)[0]
        entropies.append(-(p * p.log()).sum().item())
    assert entropies[0] < 0.5 < 0.9 < entropies[1]


@pytest.mark.parametrize(("num_envs", "steps", "memory"), [(1, 1, 0), (4, 1, 8)])
def test_a_rollout_without_a_spread_is_refused_before_it_ruins_the_weights(
    num_envs: int, steps: int, memory: int
) -> None:
    env = Bandit(num_envs)
    learner = made(env, PPOConfig(hidden=(8,), memory=memory))
    with pytest.raises(ShapeError, match="no spread"):
        learner.update(collector_of(env).collect(learner.policy, steps))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning")
def test_a_compiled_update_is_the_same_update() -> None:
    rollout = collector_of(Bandit(16)).collect(made(Bandit(16), SMALL).policy, 8)
    config = replace(SMALL, activation="tanh", epochs=3)
    plain, fused = made(Bandit(16), config), made(Bandit(16), replace(config, compiled=True))
    for fraction in (1.0, 0.5):
        for learner in (plain, fused):
            learner.anneal(fraction)
        expected, found = plain.update(rollout), fused.update(rollout)
        assert expected.keys() == found.keys()
        for name, number in expected.items():
            torch.testing.assert_close(found[name], number, rtol=1e-4, atol=1e-5, msg=name)
    for a, b in zip(plain.network.parameters(), fused.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
