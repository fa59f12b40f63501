"""Learners of continuous actions from logs, on problems whose answers are known in closed form."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from rlcourse.algorithms.bc import BC, BCConfig
from rlcourse.algorithms.cql_continuous import ContinuousCQL, ContinuousCQLConfig
from rlcourse.algorithms.iql import IQL, IQLConfig
from rlcourse.algorithms.td3_bc import TD3BC, TD3BCConfig
from rlcourse.errors import ConfigError
from rlcourse.networks import GaussianNetwork
from rlcourse.objectives.policies import advantage_weights
from rlcourse.objectives.values import sampled_log_sum_exp
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import Batch, ContinuousActions, Learner, TaskSpec

ACTIONS = ContinuousActions(torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 1.0]))
SPEC = TaskSpec.unscaled(1, ACTIONS)
ONE = torch.ones(1, 1)
BEST = torch.tensor([1.0, -0.5])
CQL_CONFIG = ContinuousCQLConfig(hidden=(32,), alpha=0.0, target_rate=0.2, learning_rate=5e-3, target_entropy=-6.0)
TD3_CONFIG = TD3BCConfig(hidden=(32,), alpha=10.0, target_rate=0.2, learning_rate=5e-3)
IQL_CONFIG = IQLConfig(hidden=(32,), tau=0.5, target_rate=0.2, learning_rate=5e-3, inverse_temperature=3.0)

LEARNERS: dict[str, Callable[[], Learner]] = {
    "bc": lambda: BC(SPEC, BCConfig(hidden=(32,), learning_rate=5e-3)),
    "cql": lambda: ContinuousCQL(SPEC, CQL_CONFIG, generator=Seeds(0).torch("noise")),
    "cql drawn": lambda: ContinuousCQL(SPEC, replace(CQL_CONFIG, gradient_draws=2), generator=Seeds(0).torch("noise")),
    "cql normed": lambda: ContinuousCQL(SPEC, replace(CQL_CONFIG, layer_norm=True), generator=Seeds(0).torch("noise")),
    "iql": lambda: IQL(SPEC, IQL_CONFIG),
    "td3-bc": lambda: TD3BC(SPEC, TD3_CONFIG, generator=Seeds(0).torch("noise")),
    "td3-bc normed": lambda: TD3BC(SPEC, replace(TD3_CONFIG, layer_norm=True), generator=Seeds(0).torch("noise")),
}


def even_actions(count: int = 256) -> torch.Tensor:
    unit = torch.rand(count, 2, generator=Seeds(1).torch("actions"))
    return ACTIONS.low + (ACTIONS.high - ACTIONS.low) * unit


def bandit(action: torch.Tensor) -> Batch:
    """The nearer to :data:`BEST`, the better; every pull ends the task."""
    count = len(action)
    ones = torch.ones(count, 1)
    return Batch(ones, action, 3.0 - (action - BEST).square().sum(-1), torch.zeros(count), ones)


def self_loop(discount: float = 0.8) -> Batch:
    """A reward of 1 for ever, whatever is done."""
    action = even_actions()
    ones = torch.ones(len(action), 1)
    return Batch(ones, action, torch.ones(len(action)), torch.full((len(action),), discount), ones)


def trained(make: Callable[[], Learner], batch: Batch, updates: int = 600) -> Learner:
    with Seeds(0).initialising("networks"):
        learner = make()
    for update in range(updates):
        learner.anneal(1.0 - update / updates)
        learner.update(batch)
    return learner


@pytest.mark.parametrize("name", ["cql", "iql", "td3-bc"])
def test_a_reward_of_one_for_ever_is_worth_its_series(name: str) -> None:
    learner = trained(LEARNERS[name], self_loop())
    assert isinstance(learner, ContinuousCQL | IQL | TD3BC)
    values = learner.q.of(ONE.expand(4, -1), even_actions(4)).detach()
    torch.testing.assert_close(values, torch.full((2, 4), 5.0), rtol=0.03, atol=0)


@pytest.mark.parametrize("name", ["cql", "cql drawn", "td3-bc", "td3-bc normed"])
def test_the_best_action_is_found_although_the_log_holds_all_alike(name: str) -> None:
    learner = trained(LEARNERS[name], bandit(even_actions()), updates=2_000)
    torch.testing.assert_close(learner.policy.act(ONE, greedy=True)[0], BEST, atol=0.3, rtol=0)


def test_cloning_finds_the_middle_and_the_spread_of_the_log_and_no_more() -> None:
    batch = bandit(even_actions(2_000))
    learner = trained(LEARNERS["bc"], batch, updates=1_500)
    assert isinstance(learner, BC) and isinstance(learner.network, GaussianNetwork)
    torch.testing.assert_close(learner.policy.act(ONE, greedy=True)[0], batch.action.mean(0), atol=0.02, rtol=0)
    spread = batch.action.std(0, correction=0)
    torch.testing.assert_close(learner.network.log_std.detach().exp(), spread, rtol=0.02, atol=0)
    torch.testing.assert_close(spread, torch.tensor([4.0, 2.0]) / math.sqrt(12), rtol=0.05, atol=0)


def test_a_log_that_never_varies_does_not_make_the_clone_surer_without_end() -> None:
    batch = bandit(torch.tensor([[0.5, 0.25]]).repeat(64, 1))
    learner = trained(LEARNERS["bc"], batch, updates=3_000)
    assert isinstance(learner, BC) and isinstance(learner.network, GaussianNetwork)
    assert (learner.network.log_std > ACTIONS.half_range.log() - 5.1).all()
    torch.testing.assert_close(learner.policy.act(ONE, greedy=True)[0], batch.action[0], atol=0.01, rtol=0)


def test_weights_pull_the_clone_towards_what_did_better() -> None:
    """Weights exp(beta A) turn the even log into a density proportional to exp(-beta |a - best|^2), cut at the bounds."""
    batch = bandit(even_actions(4_000))
    learner = trained(lambda: IQL(SPEC, replace(IQL_CONFIG, inverse_temperature=2.0)), batch, updates=2_000)
    weight = torch.exp(2.0 * batch.reward)
    expected = (weight.unsqueeze(-1) * batch.action).sum(0) / weight.sum()
    torch.testing.assert_close(learner.policy.act(ONE, greedy=True)[0], expected, atol=0.06, rtol=0)
    assert (expected - BEST).norm() < (batch.action.mean(0) - BEST).norm() / 2


def test_a_tenth_of_the_rewards_asks_for_ten_times_beta() -> None:
    advantage = torch.tensor([-0.5, 0.0, 1.0])
    expected = torch.tensor([math.exp(-1.0), 1.0, math.exp(2.0)])
    torch.testing.assert_close(advantage_weights(advantage, 2.0, 100.0), expected)
    torch.testing.assert_close(advantage_weights(0.1 * advantage, 20.0, 100.0), expected)


def test_a_larger_alpha_keeps_untried_actions_down() -> None:
    tried = torch.tensor([-1.0, 0.0]) + 0.1 * torch.randn(256, 2, generator=Seeds(2).torch("actions"))
    gaps = []
    for alpha in (0.0, 0.3, 3.0):
        learner = trained(partial(ContinuousCQL, SPEC, replace(CQL_CONFIG, alpha=alpha)), bandit(tried))
        assert isinstance(learner, ContinuousCQL)
        elsewhere = even_actions(500)
        far = elsewhere[(elsewhere - torch.tensor([-1.0, 0.0])).norm(dim=-1) > 1.0]
        untried = learner.q(ONE.expand(len(far), -1), far).mean()
        gaps.append((learner.q(ONE.expand(256, -1), tried).mean() - untried).item())
    assert gaps[0] < gaps[1] < gaps[2]


def test_a_drawn_gradient_reports_the_same_losses_and_points_the_same_way() -> None:
    batch, gradients, told = bandit(even_actions(64)), {}, {}
    for draws in (None, 2):
        total: list[torch.Tensor] = []
        for repeat in range(1 if draws is None else 400):
            with Seeds(0).initialising("networks"):
                learner = ContinuousCQL(SPEC, replace(CQL_CONFIG, alpha=1.0, samples=2, gradient_draws=draws))
            generator = Seeds(3).torch("noise")
            noise = torch.randn(2, 2, 64, 2, generator=generator)
            even = 2.0 * torch.rand(2, 64, 2, generator=generator) - 1.0
            teeth = torch.rand(draws or 0, 64, generator=Seeds(repeat).torch("teeth"))
            loss, told[draws] = learner._loss(batch, noise, even, teeth)
            total.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(learner.q.parameters()))]))
        gradients[draws] = torch.stack(total)
    torch.testing.assert_close(told[2], told[None])
    exact, drawn = gradients[None][0], gradients[2]
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - exact).abs() < 5.5 * error + 1e-5).all()
    assert drawn.std() > 0.0


def test_the_alpha_that_finds_itself_rises_above_its_gap_and_falls_below() -> None:
    moved = {}
    for gap in (-50.0, 50.0):
        config = replace(CQL_CONFIG, alpha=1.0, lagrange_gap=gap)
        learner = trained(partial(ContinuousCQL, SPEC, config), bandit(even_actions()), updates=20)
        assert isinstance(learner, ContinuousCQL)
        moved[gap] = learner.log_alpha.item()
    assert moved[50.0] < 0.0 < moved[-50.0]


def test_the_policy_stays_where_the_log_is_when_q_counts_for_nothing() -> None:
    batch = bandit(torch.tensor([[-1.0, 0.5]]).repeat(64, 1))
    learner = trained(lambda: TD3BC(SPEC, replace(TD3_CONFIG, alpha=0.0)), batch)
    torch.testing.assert_close(learner.policy.act(ONE, greedy=False)[0], batch.action[0], atol=0.02, rtol=0)


def test_the_policy_waits_while_q_settles() -> None:
    learner = TD3BC(SPEC, replace(TD3_CONFIG, policy_every=3))
    before = learner.actor(ONE).detach()
    for update in range(1, 4):
        metrics = learner.update(self_loop())
        assert ("policy_loss" in metrics) == (update == 3)
        assert torch.equal(learner.actor(ONE).detach(), before) == (update < 3)


def test_the_soft_maximum_from_samples() -> None:
    # The integral of exp(-a^2 / 2) over (-1, 1), from even draws and from draws of a density 3/2 a^2.
    exact = math.log(math.sqrt(2 * math.pi) * math.erf(1 / math.sqrt(2)))
    unit = torch.rand(2, 200_000, generator=Seeds(0).torch("draws"), dtype=torch.float64)
    even, tilted = 2 * unit[0] - 1, (2 * unit[1] - 1).sign() * (2 * unit[1] - 1).abs() ** (1 / 3)
    drawn = torch.cat([even, tilted])
    density = torch.cat([torch.full_like(even, 0.5), 1.5 * tilted.square()])
    weights = torch.exp(-drawn.square() / 2) / density
    estimate = sampled_log_sum_exp(-drawn.square() / 2, density.log())
    error = weights.std().item() / math.sqrt(len(drawn)) / math.exp(exact)
    assert abs(estimate.item() - exact) < 4 * error
    assert error < 0.01


def test_the_penalty_is_what_a_plain_loop_makes_it() -> None:
    learner = ContinuousCQL(SPEC, ContinuousCQLConfig(hidden=(8,), alpha=2.0, samples=3))
    obs = torch.randn(5, 1, generator=Seeds(0).torch("obs"))
    batch = Batch(obs, even_actions(5), torch.randn(5), torch.full((5,), 0.9), obs + 1.0)
    noise, even = torch.randn(2, 3, 5, 2), 2 * torch.rand(3, 5, 2) - 1
    _, (_, penalty, *_) = learner._loss(batch, noise, even, torch.empty(0, 5))
    total = 0.0
    with torch.no_grad():
        for row in range(5):
            here, there = batch.obs[row : row + 1], batch.next_obs[row : row + 1]
            for twin in range(2):
                terms = []
                for m in range(3):
                    for action, log_density in (
                        (ACTIONS.centre + ACTIONS.half_range * even[m, row : row + 1], torch.tensor([math.log(0.25)])),
                        learner.policy.sample_by(here, noise[0, m, row : row + 1]),
                        learner.policy.sample_by(there, noise[1, m, row : row + 1]),
                    ):
                        terms.append(math.exp(learner.q(here, action)[twin].item()) / math.exp(log_density.item()))
                logged = learner.q(here, batch.action[row : row + 1])[twin].item()
                total += math.log(sum(terms) / len(terms)) - logged
    assert penalty.item() == pytest.approx(total / 10, rel=1e-4)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_checkpoint_brings_everything_back_the_targets_included(name: str) -> None:
    one, two = trained(LEARNERS[name], bandit(even_actions()), 21), trained(LEARNERS[name], self_loop(), 3)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, two):
        if isinstance(learner, ContinuousCQL | TD3BC):
            learner._generator = Seeds(7).torch("noise")
        for _ in range(5):
            learner.update(self_loop())
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("name", ["cql", "cql drawn", "iql", "td3-bc", "td3-bc normed"])
def test_compiled_steps_are_plain_ones(name: str) -> None:
    learners: list[Learner] = []
    for compiled in (False, True):
        with Seeds(0).initialising("networks"):
            made: dict[str, Callable[[bool], Learner]] = {
                "cql": lambda c: ContinuousCQL(
                    SPEC,
                    replace(CQL_CONFIG, alpha=1.0, lagrange_gap=1.0, layer_norm=True, compiled=c),
                    generator=Seeds(0).torch("noise"),
                ),
                "cql drawn": lambda c: ContinuousCQL(
                    SPEC,
                    replace(CQL_CONFIG, alpha=1.0, gradient_draws=3, compiled=c),
                    generator=Seeds(0).torch("noise"),
                ),
                "iql": lambda c: IQL(SPEC, replace(IQL_CONFIG, compiled=c)),
                "td3-bc": lambda c: TD3BC(SPEC, replace(TD3_CONFIG, compiled=c), generator=Seeds(0).torch("noise")),
                "td3-bc normed": lambda c: TD3BC(
                    SPEC, replace(TD3_CONFIG, layer_norm=True, compiled=c), generator=Seeds(0).torch("noise")
                ),
            }
            learners.append(made[name](compiled))
        for _ in range(8):
            learners[-1].update(bandit(even_actions()))
    plain, fused = (learner.state_dict() for learner in learners)
    for key in plain:
        if key not in ("optimiser", "q_optimiser"):
            torch.testing.assert_close(plain[key], fused[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [TD3BC, ContinuousCQL])
def test_counted_actions_are_refused_with_a_word_on_what_to_use(make: Callable[[TaskSpec], Learner]) -> None:
    with pytest.raises(ConfigError, match="2 discrete ones"):
        make(TaskSpec.unscaled(1, 2))


@pytest.mark.parametrize(
    "config",
    [
        lambda: TD3BCConfig(policy_every=0),
        lambda: ContinuousCQLConfig(samples=0),
        lambda: ContinuousCQLConfig(samples=2, gradient_draws=0),
        lambda: ContinuousCQLConfig(samples=2, gradient_draws=7),
        lambda: ContinuousCQLConfig(temperature=0.0),
        lambda: ContinuousCQLConfig(alpha=0.0, lagrange_gap=5.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        config()
