"""A compiled step is the same step, and the two can take turns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rlcourse.errors import ConfigError
from rlcourse.networks import Descent

X, Y = torch.linspace(-1, 1, 32).unsqueeze(-1), torch.linspace(-1, 1, 32).square()


def descent(*, compiled: bool, cap: float | None = 0.5, follower: Tensor | None = None) -> Descent:
    torch.manual_seed(0)
    first = nn.Linear(1, 8)
    net = nn.Sequential(first, nn.Tanh(), nn.Linear(8, 1))

    def loss(x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        error = (net(x).squeeze(-1) - y).square().mean()
        return error, (error.detach(),)

    def follow() -> None:
        assert follower is not None
        follower.lerp_(first.bias.detach(), 0.5)

    hook = None if follower is None else follow
    return Descent(loss, net.parameters(), 1e-2, maximum_gradient=cap, follow=hook, compiled=compiled)


def test_a_plain_step_is_torchs_own_adam_behind_a_cap() -> None:
    ours, theirs = descent(compiled=False), descent(compiled=False)
    adam = torch.optim.Adam(theirs.weights, lr=1e-2)
    for _ in range(20):
        length, (kept,) = ours.step(X, Y)
        loss, (expected,) = theirs.loss(X, Y)
        adam.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.weights, 0.5)
        adam.step()
        torch.testing.assert_close(length, norm)
        torch.testing.assert_close(kept, expected)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        torch.testing.assert_close(a, b)


def test_the_loss_falls_and_annealing_to_nothing_stops_it() -> None:
    steps = descent(compiled=False, cap=None)
    first = steps.step(X, Y)[1][0]
    for _ in range(200):
        _, (last,) = steps.step(X, Y)
    assert last < 0.2 * first
    steps.anneal(0.0)
    before = [weight.clone() for weight in steps.weights]
    steps.step(X, Y)
    assert all(torch.equal(a, b) for a, b in zip(before, steps.weights, strict=True))


def test_what_follows_sees_the_weights_after_the_step() -> None:
    follower = torch.zeros(8)
    steps = descent(compiled=False, follower=follower)
    steps.step(X, Y)
    torch.testing.assert_close(follower, steps.weights[1].detach() / 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning")
def test_in_a_graph_it_does_too() -> None:
    follower = torch.zeros(8)
    steps = descent(compiled=True, cap=None, follower=follower)
    for _ in range(3):
        before = follower.clone()
        length, _ = steps.step(X, Y)
        torch.testing.assert_close(follower, (before + steps.weights[1].detach()) / 2)
        assert length == 0.0  # no cap, nothing measured


@pytest.mark.slow  # compiling takes some twenty seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning")
def test_compiled_and_plain_steps_agree_and_read_each_others_moments() -> None:
    plain, fused = descent(compiled=False), descent(compiled=True)
    for step in range(30):
        for each in (plain, fused):
            each.anneal(1.0 - step / 60)
        one, two = plain.step(X, Y), fused.step(X, Y)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    fused.load_state_dict(copy.deepcopy(plain.state_dict()))  # torch would share the moments otherwise
    plain.load_state_dict(copy.deepcopy(fused.state_dict()))
    for _ in range(10):
        plain.step(X, Y)
        fused.step(X, Y)
    for a, b in zip(plain.weights, fused.weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_nothing_to_step_on_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to step on"):
        descent(compiled=False).run([])


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning")
def test_steps_in_a_row_are_the_same_steps(compiled: bool) -> None:
    follower, also = torch.zeros(8), torch.zeros(8)
    one_by_one = descent(compiled=False, follower=follower)
    in_a_row = descent(compiled=compiled, follower=also)
    parts = [(X[start::3], Y[start::3]) for start in (0, 1, 2)] * 2  # of two sizes; six: a graph of four, two left over
    for x, y in parts:
        expected = one_by_one.step(x, y)
    torch.testing.assert_close(in_a_row.run(iter(parts)), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(also, follower, rtol=1e-4, atol=1e-6)
    in_a_row.load_state_dict(copy.deepcopy(one_by_one.state_dict()))
    for a, b in zip(one_by_one.weights, in_a_row.weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(in_a_row.run(parts[:5]), [one_by_one.step(*part) for part in parts[:5]][-1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning")
def test_a_process_may_compile_more_learners_than_the_compiler_allows_versions() -> None:
    for _ in range(10):
        length, _ = descent(compiled=True).step(X, Y)
        assert length > 0
