"""Learners on problems whose answers are known in closed form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlcourse.algorithms.bc import BC, BCConfig
from rlcourse.algorithms.cql import CQL, CQLConfig
from rlcourse.algorithms.dqn import DQN, DQNConfig
from rlcourse.algorithms.iql import IQL, IQLConfig
from rlcourse.algorithms.sac import SAC, SACConfig
from rlcourse.environments import known_answers as known
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import Batch, ContinuousActions, DiscreteActions, TaskSpec

Make = Callable[[TaskSpec], Any]
"""Learners of several kinds; each test asks for what its own have."""
ONE = torch.ones(1, 1)

LEARNERS: dict[str, Make] = {
    "bc": lambda spec: BC(spec, BCConfig(hidden=(16,))),
    "cql": lambda spec: CQL(spec, CQLConfig(hidden=(16,), alpha=0.0, target_rate=0.2, learning_rate=5e-3)),
    "dqn": lambda spec: DQN(spec, DQNConfig(hidden=(16,), target_rate=0.2, learning_rate=5e-3)),
    "dqn, not double": lambda spec: DQN(
        spec, DQNConfig(hidden=(16,), target_rate=0.2, learning_rate=5e-3, double=False)
    ),
    "dqn, dueling": lambda spec: DQN(spec, DQNConfig(hidden=(16,), target_rate=0.2, learning_rate=5e-3, dueling=True)),
    "dqn, copied target": lambda spec: DQN(
        spec, DQNConfig(hidden=(16,), target_rate=1.0, target_every=7, learning_rate=5e-3, maximum_gradient=10.0)
    ),
    "iql": lambda spec: IQL(spec, IQLConfig(hidden=(16,), tau=0.5, target_rate=0.2, learning_rate=5e-3)),
}


VALUES_ACTIONS = [name for name in LEARNERS if name.startswith(("cql", "dqn"))]


def trained(make: Make, batch: Batch, *, updates: int = 400, num_actions: int = 2) -> Any:
    with Seeds(0).initialising("networks"):
        learner = make(known.spec_of(batch, num_actions))
    for update in range(updates):
        learner.anneal(1.0 - update / updates)
        learner.update(batch)
    return learner


@pytest.mark.parametrize("name", VALUES_ACTIONS)
def test_a_reward_of_one_for_ever_is_worth_its_series(name: str) -> None:
    batch, value = known.self_loop(0.8)
    learner = trained(LEARNERS[name], batch)
    assert learner.q(ONE).detach().max().item() == pytest.approx(value, rel=0.02)


def test_iql_values_the_self_loop_too() -> None:
    batch, value = known.self_loop(0.8)
    learner = trained(LEARNERS["iql"], batch)
    assert learner.value(ONE).item() == pytest.approx(value, rel=0.02)


@pytest.mark.parametrize("name", VALUES_ACTIONS)
def test_the_chain_ends_where_it_ends(name: str) -> None:
    batch, values = known.chain(0.9)
    learner = trained(LEARNERS[name], batch, updates=600)
    learned = learner.q(torch.eye(2)).detach().amax(-1)
    torch.testing.assert_close(learned, values, rtol=0.02, atol=0.02)


def test_treating_the_time_limit_as_death_would_change_the_answer() -> None:
    """The same self-loop with the discount zeroed, as a merged ``done`` would: worth 1 and not 5."""
    batch, value = known.self_loop(0.8)
    dead = Batch(batch.obs, batch.action, batch.reward, torch.zeros_like(batch.discount), batch.next_obs)
    learner = trained(LEARNERS["cql"], dead)
    assert learner.q(ONE).max().item() == pytest.approx(1.0, abs=0.05)
    assert value == pytest.approx(5.0)


@pytest.mark.parametrize("name", [*VALUES_ACTIONS, "iql"])
def test_the_best_arm_is_found(name: str) -> None:
    batch, best = known.bandit([0.2, 1.0, 0.5])
    learner = trained(LEARNERS[name], batch, num_actions=3)
    assert learner.policy.act(ONE, greedy=True).item() == best


def test_cloning_finds_the_frequencies_of_the_log_and_no_more() -> None:
    action = torch.tensor([0, 0, 0, 1])
    batch = Batch(torch.ones(4, 1), action, torch.tensor([0.0, 0.0, 0.0, 9.0]), torch.zeros(4), torch.ones(4, 1))
    learner = trained(LEARNERS["bc"], batch, updates=1_500)
    torch.testing.assert_close(learner.policy.probabilities(ONE)[0], torch.tensor([0.75, 0.25]), atol=0.01, rtol=0)
    assert learner.policy.act(ONE, greedy=True).item() == 0  # the reward of 9 is none of its business


@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
def test_iql_settles_on_the_upper_expectile_of_uniform_rewards(tau: float) -> None:
    """Fifty actions worth 0.01, 0.03, ... 0.99, equally often: at tau 0.7 V is 0.604, and not 0.396."""
    batch, _ = known.bandit([(a + 0.5) / 50 for a in range(50)], size=500)
    config = IQLConfig(hidden=(32,), tau=tau, target_rate=0.2, learning_rate=5e-3)
    learner = trained(lambda spec: IQL(spec, config), batch, updates=800, num_actions=50)
    assert learner.value(ONE).item() == pytest.approx(known.uniform_expectile(tau), abs=0.02)


@pytest.mark.parametrize(("tau", "expected"), [(0.5, 0.5), (0.7, 0.7), (0.9, 0.9)])
def test_iql_leans_towards_the_better_of_two_actions(tau: float, expected: float) -> None:
    """Two actions, worth 0 and 1, equally often in the log: V solves tau (1 - v) = (1 - tau) v, so v = tau."""
    batch, _ = known.bandit([0.0, 1.0])
    config = IQLConfig(hidden=(32,), tau=tau, target_rate=0.2, learning_rate=5e-3)
    learner = trained(lambda spec: IQL(spec, config), batch, updates=800)
    assert learner.value(ONE).item() == pytest.approx(expected, abs=0.03)


def test_a_larger_alpha_widens_the_gap_between_tried_and_untried_actions() -> None:
    batch, _ = known.bandit([1.0], size=64)  # only action 0 is ever taken
    gaps = []
    for alpha in (0.0, 0.1, 1.0):
        config = CQLConfig(hidden=(16,), alpha=alpha, learning_rate=5e-3)
        q = trained(lambda spec, c=config: CQL(spec, c), batch).q(ONE)[0]  # type: ignore[misc]
        gaps.append((q[0] - q[1]).item())
    assert gaps[0] < gaps[1] < gaps[2]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_checkpoint_brings_everything_back_the_target_included(name: str) -> None:
    batch, _ = known.chain(0.9)
    one = trained(LEARNERS[name], batch, updates=20)
    two = trained(LEARNERS[name], batch, updates=3)
    two.load_state_dict(copy.deepcopy(one.state_dict()))  # as from a file: torch would share the moments otherwise
    for _ in range(5):
        one.update(batch)
        two.update(batch)
    flat_one, flat_two = _tensors(one.state_dict()), _tensors(two.state_dict())
    assert len(flat_one) == len(flat_two) > 0
    for a, b in zip(flat_one, flat_two, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("log_length", [32, 500])  # the second is too long for looking ahead to pay
def test_judging_the_log_ahead_changes_nothing_that_is_learned(log_length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(log_length + 1, 3, generator=generator)
    action = torch.randint(2, (log_length,), generator=generator)
    spec = TaskSpec(torch.zeros(3), torch.ones(3), DiscreteActions(2))
    learners = []
    for _ in range(2):
        torch.manual_seed(1)
        learners.append(CQL(spec, CQLConfig(hidden=(8,), target_every=5, target_rate=1.0)))
    ahead, each_time = learners
    ahead.read_ahead(obs[1:])
    for update in range(23):
        row = torch.randint(log_length, (16,), generator=generator)
        batch = Batch(obs[row], action[row], torch.ones(16), torch.full((16,), 0.9), obs[row + 1], row=row)
        torch.testing.assert_close(ahead.update(batch), each_time.update(batch))
        assert (ahead._judged is not None) == (log_length == 32 and update % 5 != 4)
    torch.testing.assert_close(_tensors(ahead.state_dict()), _tensors(each_time.state_dict()))


def test_a_copied_target_stands_still_between_two_copies() -> None:
    batch, _ = known.chain(0.9)
    learner = trained(LEARNERS["dqn, copied target"], batch, updates=6)
    assert isinstance(learner, DQN)
    before = learner.target_q(torch.eye(2))
    assert not torch.equal(before, learner.q(torch.eye(2)))
    learner.update(batch)  # the seventh
    assert not torch.equal(learner.target_q(torch.eye(2)), before)
    assert torch.equal(learner.target_q(torch.eye(2)), learner.q(torch.eye(2)))


@pytest.mark.parametrize("every", [1, 3])
def test_updates_in_turn_are_updates_one_by_one(every: int) -> None:
    batch, _ = known.chain(0.9)
    parts = [Batch(*(column[start::2] for column in _columns(batch))) for start in (0, 1)] * 4
    learners = []
    for _ in range(2):
        torch.manual_seed(1)
        rate = 0.5 if every == 1 else 1.0
        learners.append(DQN(known.spec_of(batch), DQNConfig(hidden=(8,), target_every=every, target_rate=rate)))
    in_turn, one_by_one = learners
    expected = [one_by_one.update(part) for part in parts][-1]
    torch.testing.assert_close(in_turn.update_in_turn(parts), expected)
    torch.testing.assert_close(_tensors(in_turn.state_dict()), _tensors(one_by_one.state_dict()))
    assert in_turn.updates == len(parts)


def test_only_the_double_estimate_asks_both_networks() -> None:
    batch, _ = known.bandit([0.0, 0.0], size=4)
    for double, expected in ((True, 2.0), (False, 5.0)):
        learner = DQN(known.spec_of(batch), DQNConfig(hidden=(), double=double))
        for network, values in ((learner.q, [1.0, 3.0]), (learner.target_q, [5.0, 2.0])):
            linear = network.layers[0]
            assert isinstance(linear, torch.nn.Linear)
            with torch.no_grad():
                linear.weight.zero_()
                linear.bias.copy_(torch.tensor(values))
        going = Batch(batch.obs, batch.action, torch.ones(4), torch.full((4,), 0.5), batch.next_obs)
        torch.testing.assert_close(learner.target(going), torch.full((4,), 1.0 + 0.5 * expected))


def between_one_and_minus_one(batch: Batch) -> Batch:
    """The two actions as the numbers -1 and 1."""
    action = 2.0 * batch.action.float().unsqueeze(-1) - 1.0
    return Batch(batch.obs, action, batch.reward, batch.discount, batch.next_obs)


def soft(batch: Batch, *, updates: int, temperature: float = 1e-6, compiled: bool = False) -> SAC:
    spec = TaskSpec.unscaled(batch.obs.shape[-1], ContinuousActions(-torch.ones(1), torch.ones(1)))
    config = SACConfig(hidden=(16,), target_rate=0.2, learning_rate=5e-3, temperature=temperature, compiled=compiled)
    with Seeds(0).initialising("networks"):
        learner = SAC(spec, config, generator=torch.Generator().manual_seed(2))
    for update in range(updates):
        learner.anneal(1.0 - update / updates)
        learner.update(batch)
    return learner


def test_sac_at_no_temperature_values_the_self_loop_by_its_series() -> None:
    """Entropy is worth next to nothing, so a value is the sum of its rewards, whatever is done."""
    loop, value = known.self_loop(0.8)
    everywhere = torch.linspace(-0.9, 0.9, 7).unsqueeze(-1)
    learned = soft(between_one_and_minus_one(loop), updates=600).q(torch.ones(7, 1), everywhere).detach()
    torch.testing.assert_close(learned, torch.full((2, 7), value), rtol=0.02, atol=0.0)


def test_a_checkpoint_of_sac_brings_everything_back_the_target_and_the_temperature_included() -> None:
    batch = between_one_and_minus_one(known.chain(0.9)[0])
    one, two = soft(batch, updates=20, temperature=0.5), soft(batch, updates=3, temperature=0.1)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    torch.testing.assert_close(_tensors(two.state_dict()), _tensors(one.state_dict()), rtol=0, atol=0)
    for learner in (one, two):
        assert learner._generator is not None
        learner._generator.manual_seed(7)
        for _ in range(5):
            learner.update(batch)
    flat_one, flat_two = _tensors(one.state_dict()), _tensors(two.state_dict())
    assert len(flat_one) == len(flat_two) > 0
    for a, b in zip(flat_one, flat_two, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow  # compiling takes half a minute
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning")
def test_compiled_steps_of_sac_are_the_plain_ones() -> None:
    batch = between_one_and_minus_one(known.chain(0.9)[0])
    plain, compiled = (soft(batch, updates=20, temperature=0.2, compiled=each) for each in (False, True))
    torch.testing.assert_close(compiled.update(batch), plain.update(batch), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(_tensors(compiled.state_dict()), _tensors(plain.state_dict()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*LEARNERS, "sac"])
def test_what_a_copy_learns_is_not_learned_by_the_original(name: str) -> None:
    batch, _ = known.chain(0.9)
    if name == "sac":
        batch = between_one_and_minus_one(batch)
        learner: Any = soft(batch, updates=8)
        learner._generator = None  # torch's own generators cannot be copied
    else:
        learner = trained(LEARNERS[name], batch, updates=8)
    other = copy.deepcopy(learner)
    before = copy.deepcopy(_tensors(learner.state_dict()))
    other_before = copy.deepcopy(_tensors(other.state_dict()))
    for _ in range(7):
        other.update(batch)
    torch.testing.assert_close(_tensors(learner.state_dict()), before, rtol=0, atol=0)
    assert not all(map(torch.equal, _tensors(other.state_dict()), other_before))


def _columns(batch: Batch) -> tuple[torch.Tensor, ...]:
    return batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs


def _tensors(state: object) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        return [t for value in state.values() for t in _tensors(value)]
    if isinstance(state, list | tuple):
        return [t for value in state for t in _tensors(value)]
    return []
