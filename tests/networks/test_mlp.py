from __future__ import annotations

import pytest
import torch

from rlcourse.errors import ConfigError
from rlcourse.networks import (
    LogitsNetwork,
    Normaliser,
    QNetwork,
    TwinActionQNetwork,
    TwinQNetwork,
    ValueNetwork,
    adam,
    anneal_,
    clip_gradients_,
    frozen_copy,
    mlp,
    polyak_update_,
)
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ContinuousActions

MEAN, STD = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.5, 0.0])


@pytest.fixture
def obs() -> torch.Tensor:
    return torch.randn(7, 3, generator=Seeds(0).torch("obs"))


def test_an_mlp_has_relu_between_layers_and_none_after_the_last(obs: torch.Tensor) -> None:
    with Seeds(0).initialising("networks"):
        network = mlp([3, 8, 2])
    first, _, last = network
    assert isinstance(first, torch.nn.Linear) and isinstance(last, torch.nn.Linear)
    hidden = (obs @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(network(obs), hidden @ last.weight.T + last.bias)
    assert network(obs).min() < 0, "a ReLU after the last layer would forbid negative values"


def test_the_normaliser_gives_mean_zero_and_spread_one() -> None:
    data = torch.randn(1_000, 3, generator=Seeds(1).torch("data")) * 5 + 3
    data[:, 2] = 4.0  # never varies
    shifted = Normaliser(data.mean(0), data.std(0))(data)
    torch.testing.assert_close(shifted.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted.std(0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert torch.isfinite(shifted).all()


def test_the_normaliser_travels_with_the_weights(obs: torch.Tensor) -> None:
    one = QNetwork(MEAN, STD, (8,), 2)
    two = QNetwork(torch.zeros(3), torch.ones(3), (8,), 2)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(obs), two(obs))


def test_output_shapes(obs: torch.Tensor) -> None:
    assert QNetwork(MEAN, STD, (8, 8), 2)(obs).shape == (7, 2)
    assert LogitsNetwork(MEAN, STD, (), 4)(obs).shape == (7, 4)
    assert ValueNetwork(MEAN, STD, (8,))(obs).shape == (7,)
    assert TwinQNetwork(MEAN, STD, (8,), 2)(obs).shape == (2, 7, 2)


def test_twins_equal_two_plain_networks_with_the_same_weights(obs: torch.Tensor) -> None:
    with Seeds(0).initialising("networks"):
        twins = TwinQNetwork(MEAN, STD, (16, 8), 4)
    found = twins(obs)
    for index in range(2):
        plain = QNetwork(MEAN, STD, (16, 8), 4)
        linear = [layer for layer in plain.layers if isinstance(layer, torch.nn.Linear)]
        with torch.no_grad():
            for layer, weight, bias in zip(linear, twins.weights, twins.biases, strict=True):
                layer.weight.copy_(weight[index].T)
                layer.bias.copy_(bias[index, 0])
        torch.testing.assert_close(found[index], plain(obs))
    assert not torch.allclose(found[0], found[1])


@pytest.fixture
def normed() -> TwinActionQNetwork:
    bound = torch.tensor([2.0, 1.0])
    with Seeds(0).initialising("networks"):
        return TwinActionQNetwork(MEAN, STD, (16, 8), ContinuousActions(-bound, bound), layer_norm=True)


def test_each_normed_twin_is_a_stack_of_torchs_own_layers(obs: torch.Tensor, normed: TwinActionQNetwork) -> None:
    action = torch.randn(7, 2, generator=Seeds(0).torch("action")).requires_grad_()
    found = normed(obs, action)
    for index in range(2):
        x = normed.normaliser(torch.cat([obs, action], -1))
        for layer, (weight, bias) in enumerate(zip(normed.weights, normed.biases, strict=True)):
            x = torch.nn.functional.linear(x, weight[index].T, bias[index, 0])
            if layer < 2:
                x = torch.nn.LayerNorm(x.shape[-1], elementwise_affine=False)(x).clamp(min=0)
        torch.testing.assert_close(found[index], x.squeeze(-1))
        ours, theirs = (torch.autograd.grad(y.sum(), action, retain_graph=True)[0] for y in (found[index], x))
        torch.testing.assert_close(ours, theirs)


def test_a_normed_twin_cannot_praise_a_far_action_without_limit(obs: torch.Tensor, normed: TwinActionQNetwork) -> None:
    # Eight numbers with mean 0 and spread 1 have length sqrt(8), before the ReLU and at most that behind it.
    limit = 8**0.5 * normed.weights[-1].squeeze(-1).norm(dim=-1) + normed.biases[-1].flatten().abs()
    assert (normed(obs, torch.full((7, 2), 1e6)).abs() <= limit.unsqueeze(-1) + 1e-4).all()
    plain = TwinActionQNetwork(MEAN, STD, (16, 8), ContinuousActions(-torch.ones(2), torch.ones(2)))
    assert plain(obs, torch.full((7, 2), 1e6)).abs().min() > 1e3


def test_a_twin_learns_nothing_from_the_other(obs: torch.Tensor) -> None:
    twins = TwinQNetwork(MEAN, STD, (8,), 2)
    twins(obs)[0].sum().backward()
    for parameter in twins.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].abs().sum() > 0
        assert parameter.grad[1].abs().sum() == 0


def test_twins_start_within_the_bounds_of_plain_layers() -> None:
    twins = TwinQNetwork(MEAN, STD, (400,), 2)
    assert twins.weights[0].abs().max() <= 3**-0.5
    assert twins.weights[0].abs().max() > 0.95 * 3**-0.5  # 2,400 uniform draws come closer to the bound than that
    assert twins.biases[1].abs().max() <= 400**-0.5


def test_polyak_averaging_follows_its_closed_form() -> None:
    online, target = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.fill_(10.0)
        for parameter in target.parameters():
            parameter.zero_()
    for k in range(1, 6):
        polyak_update_(target, online, 0.1)
        assert target.weight.item() == pytest.approx(10.0 * (1 - 0.9**k), rel=1e-6)
        assert target.bias.item() == pytest.approx(10.0 * (1 - 0.9**k), rel=1e-6)
    assert online.weight.item() == 10.0
    polyak_update_(target, online, 1.0)
    assert target.weight.item() == 10.0


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1])
def test_a_target_rate_that_means_nothing_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError):
        polyak_update_(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), rate)


def test_a_frozen_copy_is_equal_separate_and_without_gradient(obs: torch.Tensor) -> None:
    network = QNetwork(MEAN, STD, (8,), 2)
    copy = frozen_copy(network)
    before = copy(obs)
    assert torch.equal(before, network(obs))
    assert not before.requires_grad
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert torch.equal(copy(obs), before)


def test_annealing_counts_from_the_first_rate_and_not_from_the_last() -> None:
    optimiser = adam(torch.nn.Linear(1, 1).parameters(), 0.1)
    for fraction in (1.0, 0.5, 0.5, 0.25):
        anneal_(optimiser, fraction)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(0.1 * fraction)
    with pytest.raises(ConfigError):
        adam(torch.nn.Linear(1, 1).parameters(), 0.0)


def with_gradients(*gradients: float | None) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.tensor([gradient])
    return parameters


@pytest.mark.parametrize(("maximum", "expected"), [(1.0, [0.6, 0.8]), (5.0, [3.0, 4.0]), (100.0, [3.0, 4.0])])
def test_long_gradients_are_shortened_together_and_short_ones_are_left_alone(
    maximum: float, expected: list[float]
) -> None:
    parameters = with_gradients(3.0, None, 4.0)
    assert clip_gradients_(parameters, maximum).item() == pytest.approx(5.0)
    found = [parameter.grad.item() for parameter in parameters if parameter.grad is not None]
    assert found == pytest.approx(expected, rel=1e-5)


def test_gradients_of_zero_stay_zero() -> None:
    parameters = with_gradients(0.0, 0.0)
    assert clip_gradients_(parameters, 1.0).item() == 0.0
    assert [parameter.grad.item() for parameter in parameters if parameter.grad is not None] == [0.0, 0.0]


def test_clipping_agrees_with_torch() -> None:
    generator = Seeds(0).torch("gradients")
    one, two = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        a.grad = torch.randn(a.shape, generator=generator)
        b.grad = a.grad.clone()
    torch.testing.assert_close(
        clip_gradients_(one.parameters(), 0.5), torch.nn.utils.clip_grad_norm_(two.parameters(), 0.5)
    )
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
