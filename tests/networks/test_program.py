"""A program returns what its function returns, and writes where its function writes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rlcourse.networks import Program
from rlcourse.networks.program import REWRITTEN, filled, tensors


@dataclass(frozen=True)
class Pair:
    one: Tensor
    other: Tensor | None


def test_tensors_are_found_and_put_back_in_order() -> None:
    a, b, c = (torch.full((1,), float(number)) for number in range(3))
    tree = ([Pair(a, None)], {"b": b}, 7)
    assert list(tensors(tree)) == [a, None, b]
    again = filled(tree, iter([c, a]))
    assert again == ([Pair(c, None)], {"b": a}, 7)


def test_rewritten_operations_are_the_same_operations() -> None:
    generator = torch.Generator().manual_seed(0)
    x, narrow, bias = (torch.randn(*size, generator=generator) for size in ((64, 256), (256, 4), (4,)))
    aten = torch.ops.aten
    torch.testing.assert_close(REWRITTEN[aten.mm.default](x, narrow), x @ narrow)
    torch.testing.assert_close(REWRITTEN[aten.addmm.default](bias, x, narrow), torch.addmm(bias, x, narrow))
    far = torch.linspace(-12, 12, 10_001)
    torch.testing.assert_close(REWRITTEN[aten.tanh.default](far), far.tanh(), rtol=0, atol=5e-7)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute:UserWarning")
def test_what_it_met_is_read_and_written_anew_at_every_call() -> None:
    scale, calls = torch.ones(3), torch.zeros(())
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def function(pair: Pair) -> tuple[dict[str, Tensor], Tensor]:
        (gradient,) = torch.autograd.grad((weight.square() * scale * pair.one).sum(), [weight])
        with torch.no_grad():
            calls.add_(1.0)
        return {"gradient": gradient}, pair.one if pair.other is None else pair.one + pair.other

    program, x = Program(function), torch.tensor([1.0, 1.0, 2.0])
    for number in (1.0, 2.0):
        scale.fill_(number)
        found, same = program(Pair(x, None))
        torch.testing.assert_close(found["gradient"], 2.0 * number * x * weight.detach())
        assert torch.equal(same, x)
        assert calls == number
    _, total = program(Pair(x, x))  # another shape of input, another program
    torch.testing.assert_close(total, 2.0 * x)
    assert calls == 3.0
    _, total = program(Pair(x, 10.0 * x))  # the same shapes, and no longer one tensor twice
    torch.testing.assert_close(total, 11.0 * x)
    _, total = program(Pair(x, x))
    torch.testing.assert_close(total, 2.0 * x)


class Doubling:
    """Something with a tensor of its own and a program that writes to it."""

    def __init__(self) -> None:
        self.total = torch.zeros(2)
        self.program = Program(self.add)

    def add(self, x: Tensor) -> Tensor:
        self.total.add_(x)
        return 2.0 * x


def test_a_copy_has_compiled_nothing_and_calls_the_copy_s_function() -> None:
    one = Doubling()
    one.program._made[(torch.Size([2]), torch.float32),] = lambda given: one.add(*given)  # as if it had been compiled
    one.program(torch.ones(2))
    other = copy.deepcopy(one)
    assert other.program._made == {}
    assert other.program.function.__self__ is other  # type: ignore[attr-defined]
    other.program.function(torch.ones(2))
    assert torch.equal(one.total, torch.ones(2)) and torch.equal(other.total, torch.full((2,), 2.0))


WITHOUT_A_COMPILER = """
import torch
from rlcourse.errors import ConfigError
from rlcourse.networks import Program
try:
    Program(lambda x: 2.0 * x.sin())(torch.ones(7))
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow  # the compiler's own parts take seconds to import
def test_without_a_compiler_the_mend_is_to_install_one() -> None:
    environment = {**os.environ, "CXX": "no-compiler-of-this-name"}
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_A_COMPILER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip().endswith("Install g++, or leave compiled off.")
