"""Every objective against the number worked by hand in its docstring."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from rlcourse.environments.known_answers import uniform_expectile
from rlcourse.errors import ConfigError
from rlcourse.objectives.importance import (
    clipped_cumulative_ratios,
    cumulative_ratios,
    doubly_robust_returns,
    effective_sample_size,
    importance_sampled_returns,
    per_decision_returns,
    probability_worse,
    resampled_means,
    step_ratios,
    taken_and_expected,
    weighted_mean,
)
from rlcourse.objectives.importance import discounted_returns as discounted_rows
from rlcourse.objectives.policies import (
    advantage_weights,
    categorical_entropy,
    categorical_log_probability,
    clipped_surrogate,
    gaussian_entropy,
    gaussian_log_probability,
    kl_estimate,
    masked_logits,
    negative_log_likelihood,
    normalised_advantages,
    normalised_gain,
    soft_policy_loss,
    squashing_correction,
    temperature_loss,
)
from rlcourse.objectives.returns import discounted_returns, discounts, generalised_advantages, n_step_rewards
from rlcourse.objectives.values import (
    bellman_target,
    conservative_penalty,
    double_q_value,
    expectile_loss,
    half_squared_error,
    sampled_log_sum_exp,
    soft_maximum_draws,
    squared_td_error,
    taken,
)

LN3 = math.log(3.0)
ONES = torch.ones(2)


def close(actual: torch.Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, tensor(expected, dtype=actual.dtype), rtol=0, atol=1e-5)


def test_discounts() -> None:
    close(discounts(tensor([False, False, True]), 0.9), [0.9, 0.9, 0.0])


def test_discounted_returns() -> None:
    half = torch.full((3,), 0.5)
    close(discounted_returns(torch.ones(3), half, tensor(8.0)), [2.75, 3.5, 5.0])


def test_discounted_returns_of_several_columns() -> None:
    reward, discount = torch.ones(3, 2), torch.full((3, 2), 0.5)
    close(discounted_returns(reward, discount, tensor([8.0, 0.0]))[0], [2.75, 1.75])


def test_n_step_rewards() -> None:
    reward, discount, index = n_step_rewards(
        tensor([1.0, 2.0, 4.0]), tensor([0.5, 0.5, 0.0]), tensor([False, False, True]), 2
    )
    close(reward, [2.0, 4.0, 4.0])
    close(discount, [0.25, 0.0, 0.0])
    assert index.tolist() == [1, 2, 2]


def test_n_step_never_reaches_into_the_next_episode() -> None:
    # Two episodes, the first cut off after two steps (its discount stays), the second ended by the task.
    last = tensor([False, True, False, True])
    reward, discount, index = n_step_rewards(tensor([1.0, 2.0, 4.0, 8.0]), tensor([0.5, 0.5, 0.5, 0.0]), last, 3)
    close(reward, [2.0, 2.0, 8.0, 8.0])
    close(discount, [0.25, 0.5, 0.0, 0.0])
    assert index.tolist() == [1, 1, 3, 3]


def test_bellman_target() -> None:
    close(bellman_target(tensor([1.0]), tensor([0.9]), tensor([10.0])), [10.0])


def test_bellman_target_carries_no_gradient() -> None:
    value = tensor([10.0], requires_grad=True)
    assert not bellman_target(tensor([1.0]), tensor([0.9]), value).requires_grad


def test_double_q_value() -> None:
    close(double_q_value(tensor([[1.0, 3.0]]), tensor([[5.0, 2.0]])), [2.0])


def test_squared_td_error() -> None:
    close(squared_td_error(tensor([[1.0, 3.0]]), tensor([1]), tensor([5.0])), [2.0])


def test_conservative_penalty() -> None:
    q = tensor([[0.0, LN3], [0.0, LN3]])
    close(conservative_penalty(q, tensor([1, 0])), [math.log(4.0) - LN3, math.log(4.0)])


def test_conservative_penalty_is_never_negative_and_ignores_a_shift() -> None:
    q = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * 10
    action = torch.arange(100) % 3
    penalty = conservative_penalty(q, action)
    assert (penalty >= 0).all()
    torch.testing.assert_close(conservative_penalty(q + 7.0, action), penalty, rtol=0, atol=1e-5)


def test_expectile_loss() -> None:
    close(expectile_loss(tensor([2.0, -2.0]), 0.7), [2.8, 1.2])


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.7, 0.9])
def test_the_minimiser_of_the_expectile_loss_is_the_expectile(tau: float) -> None:
    rewards = (torch.arange(2_000, dtype=torch.float64) + 0.5) / 2_000  # an even grid on (0, 1)
    candidates = torch.linspace(0, 1, 2_001, dtype=torch.float64)
    losses = torch.stack([expectile_loss(rewards - value, tau).mean() for value in candidates])
    assert float(candidates[losses.argmin()]) == pytest.approx(uniform_expectile(tau), abs=1e-3)


def test_the_upper_expectile_is_the_upper_one() -> None:
    assert uniform_expectile(0.7) == pytest.approx(0.6044, abs=1e-4)


def test_negative_log_likelihood() -> None:
    close(negative_log_likelihood(tensor([[0.0, LN3]]), tensor([0])), [math.log(4.0)])


def test_advantage_weights() -> None:
    close(advantage_weights(tensor([math.log(2.0), 0.0, 9.0]), 2.0, 100.0), [4.0, 1.0, 100.0])


def test_advantage_weights_carry_no_gradient() -> None:
    assert not advantage_weights(tensor([1.0], requires_grad=True), 2.0).requires_grad


def test_categorical_entropy() -> None:
    close(categorical_entropy(tensor([[5.0, 5.0]])), [math.log(2.0)])


def test_generalised_advantages() -> None:
    value, following = tensor([2.0, 3.0]), tensor([3.0, 4.0])
    half, continues = tensor([0.5, 0.5]), tensor([1.0, 0.0])
    close(generalised_advantages(tensor([1.0, 1.0]), value, following, half, continues, 0.5), [0.5, 0.0])
    close(generalised_advantages(tensor([2.0, 3.0]), value, following, half, continues, 0.5), [2.0, 2.0])


def test_with_lambda_one_advantages_and_values_add_up_to_the_return() -> None:
    reward, value = torch.arange(5.0), torch.randn(5, generator=torch.Generator().manual_seed(0))
    discount, going = torch.full((5,), 0.9), torch.ones(5)
    following = torch.cat([value[1:], tensor([7.0])])
    advantage = generalised_advantages(reward, value, following, discount, going, 1.0)
    torch.testing.assert_close(advantage + value, discounted_returns(reward, discount, tensor(7.0)))


def test_nothing_of_the_next_episode_flows_back_over_a_time_limit() -> None:
    reward, zeros, continues = tensor([0.0, 1.0, 100.0]), torch.zeros(3), tensor([1.0, 0.0, 1.0])
    following = tensor([0.0, 10.0, 0.0])  # 10 is what the episode that was cut off was about to see
    close(generalised_advantages(reward, zeros, following, torch.full((3,), 0.5), continues, 1.0), [3.0, 6.0, 100.0])


def test_categorical_log_probability() -> None:
    close(categorical_log_probability(tensor([[0.0, LN3]]), tensor([1])), [math.log(0.75)])
    assert categorical_log_probability(torch.zeros(4, 5, 3), torch.zeros(4, 5, dtype=torch.int64)).shape == (4, 5)


def test_masked_logits() -> None:
    logits = masked_logits(tensor([[0.0, LN3, 5.0]]), tensor([[True, True, False]]))
    close(logits.softmax(-1), [[0.25, 0.75, 0.0]])
    close(categorical_entropy(logits), [math.log(4.0) - 0.75 * LN3])  # and not NaN


def test_what_is_forbidden_learns_nothing() -> None:
    logits = tensor([[0.0, LN3, 5.0]], requires_grad=True)
    masked = masked_logits(logits, tensor([[True, True, False]]))
    (categorical_log_probability(masked, tensor([0])) + categorical_entropy(masked)).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0.0
    assert (logits.grad[0, :2] != 0.0).all()


def test_gaussian_log_probability() -> None:
    close(gaussian_log_probability(tensor([[0.0]]), tensor([0.0]), tensor([[1.0]])), [-1.4189385])
    # Two numbers: the log-densities add up. The second is standard deviation 2, in its middle.
    found = gaussian_log_probability(tensor([[0.0, 5.0]]), tensor([0.0, math.log(2.0)]), tensor([[1.0, 5.0]]))
    close(found, [-1.4189385 - 0.9189385 - math.log(2.0)])


def test_gaussian_entropy() -> None:
    close(gaussian_entropy(tensor([0.0])), 1.4189385)
    close(gaussian_entropy(tensor([0.0, math.log(2.0)])), 2 * 1.4189385 + math.log(2.0))


def test_squashing_correction() -> None:
    close(squashing_correction(tensor([[0.0], [10.0]])), [0.0, -18.6137056])
    assert (1.0 - tensor([10.0]).tanh().square()).log().isneginf().all(), (
        "the naive form would do, and the test is idle"
    )
    close(squashing_correction(tensor([[0.3, -0.7]])), [2 * -math.log(math.cosh(0.3)) - 2 * math.log(math.cosh(0.7))])


def test_normalised_advantages() -> None:
    close(normalised_advantages(tensor([1.0, 2.0, 3.0])), [-1.0, 0.0, 1.0])
    # Over all samples: which of the two environments went better is kept.
    close(normalised_advantages(tensor([[1.0, 3.0], [1.0, 3.0]])), [[-(0.75**0.5), 0.75**0.5]] * 2)
    close(normalised_advantages(torch.full((4,), 7.0)), [0.0] * 4)


def test_clipped_surrogate() -> None:
    new, old = torch.full((2,), math.log(1.5)), torch.zeros(2)
    close(clipped_surrogate(new, old, tensor([2.0, -2.0]), 0.2), [2.4, -3.0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "learns"), [(1.5, 2, 0), (1.5, -2, 1), (0.5, 2, 1), (0.5, -2, 0), (1, 2, 1)]
)
def test_the_clip_holds_where_the_step_has_paid_and_never_where_it_has_cost(
    ratio: float, advantage: float, learns: float
) -> None:
    new = tensor([math.log(ratio)], requires_grad=True)
    clipped_surrogate(new, torch.zeros(1), tensor([float(advantage)]), 0.2).sum().backward()
    assert new.grad is not None
    close(new.grad, [learns * ratio * advantage])


def test_kl_estimate() -> None:
    close(kl_estimate(tensor([math.log(2.0), 0.0]), torch.zeros(2)), [1.0 - math.log(2.0), 0.0])


def test_the_mean_of_the_kl_estimate_is_the_divergence() -> None:
    old, new = tensor([0.5, 0.3, 0.2]).log(), tensor([0.2, 0.2, 0.6]).log()
    estimate = kl_estimate(new, old)  # of each action; the old policy's probabilities weigh them
    assert (estimate > 0).all()
    torch.testing.assert_close((old.exp() * estimate).sum(), (old.exp() * (old - new)).sum())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: generalised_advantages(ONES, ONES, ONES, ONES, ONES, 1.5),
        lambda: discounts(tensor([True]), 1.5),
        lambda: expectile_loss(tensor([1.0]), 1.0),
        lambda: advantage_weights(tensor([1.0]), -1.0),
        lambda: n_step_rewards(tensor([1.0]), tensor([1.0]), tensor([True]), 0),
    ],
)
def test_settings_without_meaning_are_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError):
        wrong()


def test_importance_ratios() -> None:
    mask = tensor([[1.0, 1.0, 0.0]])
    ratios = step_ratios(tensor([[0.9, 0.2, 0.0]]), tensor([[0.6, 0.4, 0.0]]), mask)
    close(ratios, [[1.5, 0.5, 1.0]])
    close(cumulative_ratios(tensor([[2.0, 0.5, 3.0]])), [[2.0, 1.0, 3.0]])


def test_weighed_returns() -> None:
    cumulative, reward, mask = tensor([[2.0, 3.0]]), tensor([[1.0, 2.0]]), torch.ones(1, 2)
    close(discounted_rows(reward, mask, 0.5), [2.0])
    close(importance_sampled_returns(cumulative, reward, mask, 0.5), [6.0])
    close(per_decision_returns(cumulative, reward, mask, 0.5), [5.0])


def test_doubly_robust_returns() -> None:
    one = torch.ones(1, 1)
    close(doubly_robust_returns(2 * one, one, 0.5 * one, 0.75 * one, torch.zeros(1), one, 0.9), [1.75])
    # Cut off after one step in a place worth 10: 0.9 * 2 * 10 more.
    close(doubly_robust_returns(2 * one, one, 0.5 * one, 0.75 * one, tensor([10.0]), one, 0.9), [19.75])


def test_effective_sample_size() -> None:
    close(effective_sample_size(tensor([1.0, 1.0, 2.0])), 16 / 6)


def test_judging_by_weights() -> None:
    close(weighted_mean(tensor([3.0, 1.0]), tensor([1.0, 5.0])), 2.0)
    close(clipped_cumulative_ratios(tensor([[4.0, 0.25, 3.0]]), 2.0), [[2.0, 1.0, 2.0]])
    taken, expected = taken_and_expected(tensor([[1.0, 5.0]]), tensor([[0.25, 0.75]]), tensor([0]))
    close(taken, [1.0])
    close(expected, [4.0])
    close(resampled_means(tensor([[1.0, 1.0], [3.0, 1.0]]), tensor([[0, 0], [0, 1]])), [2.0, 3.0])
    close(probability_worse(tensor([3.0, 1.0, 2.0, 2.0]), tensor([2.0, 2.0, 2.0, 1.0])), 0.375)


def test_values_of_what_was_taken() -> None:
    q = tensor([[1.0, 3.0]])
    close(taken(q, tensor([1])), [3.0])
    close(taken(torch.stack([q, 2 * q]), tensor([1])), [[3.0], [6.0]])
    close(half_squared_error(tensor([3.0]), tensor([5.0])), [2.0])


def test_sampled_log_sum_exp() -> None:
    close(sampled_log_sum_exp(tensor([[0.0, math.log(3)]]), tensor([[0.5, 0.5]]).log()), [math.log(4)])


def test_soft_maximum_draws() -> None:
    q, even_density = tensor([[0.0, math.log(3)]]), tensor([-1.0, -1.0])
    for even, drawn in ((0.2, 0), (0.3, 1)):
        index, weight = soft_maximum_draws(q, even_density, tensor([even]))
        assert index.tolist() == [drawn]
        close(weight, [[1.0]])
    # Two critics that disagree, (1/4, 3/4) and (3/4, 1/4), draw from (1/2, 1/2).
    index, weight = soft_maximum_draws(tensor([[0.0, math.log(3)], [math.log(3), 0.0]]), even_density, tensor([0.6]))
    assert index.tolist() == [1]
    close(weight, [[1.5], [0.5]])
    # The largest number below 1, and a sample that no critic believes in at the end of the list.
    index, weight = soft_maximum_draws(tensor([[0.0, 0.0, -1e9]]), torch.zeros(3), tensor([1.0 - 2.0**-24]))
    assert index.tolist()[0] in (1, 2) and weight.isfinite().all()


def test_the_drawn_gradient_is_that_of_the_soft_maximum_on_average() -> None:
    """4,000 draws of two from 12 samples, for two critics and five states; five standard errors of each entry."""
    generator = torch.Generator().manual_seed(0)
    q = 2.0 * torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    log_density = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    exact = torch.softmax(q - log_density, -1)  # the soft maximum's gradient
    found = []
    for _ in range(4_000):
        index, weight = soft_maximum_draws(q, log_density, torch.rand(2, 5, generator=generator, dtype=torch.float64))
        carried = torch.zeros_like(q).scatter_add_(-1, index.T.expand(2, 5, 2), weight.transpose(1, 2) / 2)
        found.append(carried)
    draws = torch.stack(found)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() < 5 * error + 1e-3).all()


def test_soft_policies() -> None:
    close(soft_policy_loss(tensor([-1.0]), tensor([3.0]), tensor(0.5)), [-3.5])
    log_temperature = tensor(2.0, requires_grad=True)
    loss = temperature_loss(log_temperature, tensor(-3.0), -1.0)
    close(loss.detach(), -4.0)
    loss.backward()
    assert log_temperature.grad is not None and log_temperature.grad < 0, "a descent raises it: the policy is too sure"


def test_normalised_gain() -> None:
    close(normalised_gain(tensor([-1.0, 3.0])), [-0.5, 1.5])
