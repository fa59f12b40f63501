"""A function of tensors as one compiled program, called without further questions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Generic, Self, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from rlcourse.errors import ConfigError

R = TypeVar("R")
aten = torch.ops.aten

NARROW = 16
"""Columns below which a product is quicker the other way round."""


class Program(Generic[R]):
    """Runs a function through the compiler once for each set of shapes that it is given.

    ``torch.compile`` asks at every call whether anything has changed that its program relies on; with the small networks
    of this course that takes as long as the arithmetic. A program does not ask, and so it has a contract:

    * The function is given tensors, and tuples, lists and dataclasses of tensors, and returns such.
    * What it reads besides (weights, moments, what an environment keeps) is changed **in place** or not at all: the program
      goes on with the very tensors that it met at first. Numbers and choices that are no tensors are built in.
    * Nothing in it is random: noise is an argument.

    Gradients are taken inside (``torch.autograd.grad``); none flow through. A deep copy has compiled nothing yet: what it
    meets are the copies.
    """

    def __init__(self, function: Callable[..., R]) -> None:
        self.function = function
        self._made: dict[tuple[Any, ...], Callable[[list[Tensor]], R]] = {}

    def __call__(self, *inputs: Any) -> R:
        """What the function returns, in memory that nothing else uses.

        Raises:
            ConfigError: at the first call for a set of shapes: there is no compiler on this machine.
        """
        leaves = list(tensors(inputs))
        given = [each for each in leaves if each is not None]
        shapes = tuple(None if each is None else (each.shape, each.dtype) for each in leaves)
        made = self._made.get(shapes)
        if made is None:
            made = self._made[shapes] = self._make(inputs, given)
        return made(given)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = type(self)(copy.deepcopy(self.function, memo))
        memo[id(self)] = made
        return made

    def _make(self, inputs: tuple[Any, ...], given: list[Tensor]) -> Callable[[list[Tensor]], R]:
        shaped: list[R] = []

        def flat(*each: Tensor) -> tuple[Tensor, ...]:
            shaped[:] = [self.function(*filled(inputs, iter(each)))]
            return tuple(each for each in tensors(shaped[0]) if each is not None)

        def with_met(*each: Tensor) -> tuple[Tensor, ...]:
            with _StandIns(dict(zip(map(id, met), each[len(given) :], strict=True))):
                return flat(*each[: len(given)])

        _under_way.append(self)
        try:
            met = _met(flat, given)
            # Detached: one tensor given twice would be one input of the graph, and another call may give two.
            everything = [each.detach() for each in (*given, *met)]
            graph = make_fx(with_met, REWRITTEN, tracing_mode="fake")(*everything)
        finally:
            _under_way.pop()
        run = _compiled(graph, everything)
        kept = everything[len(given) :]
        return lambda now: cast(R, filled(shaped[0], iter(run(*now, *kept))))


@torch.no_grad()
def _compiled(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    try:
        return torch._inductor.standalone_compile(
            graph,
            list(examples),
            dynamic_shapes="from_example_inputs",
            options={"config_patches": {"cpp_wrapper": True}},
        )
    except RuntimeError as error:
        from torch._inductor.exc import InvalidCxxCompiler  # the compiler's parts take seconds to import

        if not any(isinstance(each, InvalidCxxCompiler) for each in _reasons(error)):
            raise
        raise ConfigError(
            "Nothing can be compiled: there is no C++ compiler.", mend="Install g++, or leave compiled off."
        ) from error


def _reasons(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, however it was wrapped on the way."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "inner_exception", None) or seen.__cause__ or seen.__context__


class _StandIns(TorchDispatchMode):
    """Operations see stand-ins in place of real tensors, so that tracing an in-place operation changes nothing."""

    def __init__(self, known: dict[int, Tensor], make: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known
        self.make = make
        self.met: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Tensor, self._stand_in, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _stand_in(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in self.known and self.make is not None:
            self.known[id(tensor)] = self.make(tensor)
            self.met.append(tensor)
        return self.known[id(tensor)]


def _met(function: Callable[..., Any], given: list[Tensor]) -> list[Tensor]:
    """The tensors that a function reads or writes without being given them."""
    fake = FakeTensorMode()
    unreal = [fake.from_tensor(each) for each in given]
    with fake, _StandIns({}, fake.from_tensor) as meeting:
        function(*unreal)
    met: list[Tensor] = meeting.met
    return met


_under_way: list[Program[Any]] = []


def tracing() -> bool:
    """Whether what is called now is being made into a program."""
    return bool(_under_way)


def tensors(tree: Any) -> Iterator[Tensor | None]:
    """All tensors in tuples, lists, dictionaries and dataclasses, in order; ``None`` where one was left out."""
    if tree is None or isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for each in tree:
            yield from tensors(each)
    elif isinstance(tree, dict):
        for each in tree.values():
            yield from tensors(each)
    elif is_dataclass(tree) and not isinstance(tree, type):
        for each in fields(tree):
            yield from tensors(getattr(tree, each.name))


def filled(tree: Any, new: Iterator[Tensor]) -> Any:
    """The same with other tensors, in the order of :func:`tensors`."""
    if isinstance(tree, Tensor):
        return next(new)
    if isinstance(tree, tuple | list):
        return type(tree)([filled(each, new) for each in tree])
    if isinstance(tree, dict):
        return {name: filled(each, new) for name, each in tree.items()}
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{each.name: filled(getattr(tree, each.name), new) for each in fields(tree)})
    return tree


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # The addition is fused with what comes next; inside the multiplication it would be a copy of the bias into every row.
    product: Tensor = aten.mm(a, b)
    return product + bias


def _mm(a: Tensor, b: Tensor) -> Tensor:
    # The gradient of a first layer, (64, 256) by (256, 4), takes MKL three times as long as its transpose.
    if b.shape[1] < NARROW <= a.shape[0]:
        turned: Tensor = aten.mm(b.t(), a.t()).t()
        return turned
    return cast(Tensor, NotImplemented)  # leave it as it is


def _tanh(x: Tensor) -> Tensor:
    # A quotient of two polynomials, Eigen's ptanh: within 4e-7, and half the time of a division and an exponential.
    x = x.clamp(-7.905311, 7.905311)
    square = x * x
    over = x * _polynomial(square, TANH_OVER)
    return over / _polynomial(square, TANH_UNDER)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


TANH_OVER = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
TANH_UNDER = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)

REWRITTEN: dict[Any, Callable[..., Any]] = {
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten.tanh.default: _tanh,
}
