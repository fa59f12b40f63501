"""Every objective against the number worked by hand in its docstring."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from rlcourse.environments.known_answers import uniform_expectile
from rlcourse.errors import ConfigError
from rlcourse.objectives.policies import advantage_weights, categorical_entropy, negative_log_likelihood
from rlcourse.objectives.returns import discounted_returns, discounts, n_step_rewards
from rlcourse.objectives.values import (
    bellman_target,
    conservative_penalty,
    double_q_value,
    expectile_loss,
    squared_td_error,
)

LN3 = math.log(3.0)


def close(actual: torch.Tensor, expected: list[float] | float) -> None:
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


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: discounts(tensor([True]), 1.5),
        lambda: expectile_loss(tensor([1.0]), 1.0),
        lambda: advantage_weights(tensor([1.0]), -1.0),
        lambda: n_step_rewards(tensor([1.0]), tensor([1.0]), tensor([True]), 0),
    ],
)
def test_settings_without_meaning_are_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError):
        wrong()
