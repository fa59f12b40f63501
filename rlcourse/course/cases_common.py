"""Random inputs and the mistakes that any answer can make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlcourse.course.exercise_set import Mistake
from rlcourse.course.mutation import Mutation, mutated

REDUCE = "The caller reduces: return one number per sample, of shape (B,), and leave the mean to the training loop."


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """Standard normal float32 numbers, times ``scale``."""
    return torch.from_numpy(np.asarray(rng.normal(size=shape) * scale)).float()


def integers(rng: np.random.Generator, high: int, *shape: int) -> Tensor:
    """int64 numbers from 0 up to, without, ``high``."""
    return torch.from_numpy(rng.integers(high, size=shape))


def flags(rng: np.random.Generator, *shape: int, probability: float = 0.3) -> Tensor:
    """bool numbers, each true with the given probability."""
    return torch.from_numpy(rng.random(shape) < probability)


def column(values: list[float]) -> Tensor:
    """A float32 vector."""
    return torch.tensor(values, dtype=torch.float32)


def elementwise_mistakes(answer: Callable[..., Tensor], *, learns: bool) -> tuple[Mistake, ...]:
    """What goes wrong around an answer that is right in itself.

    Args:
        answer: the reference; it returns one float per sample.
        learns: a gradient is meant to pass.
    """
    wrong = [
        Mistake("mean", lambda *a: answer(*a).mean(), REDUCE),
        Mistake("sum", lambda *a: answer(*a).sum(), REDUCE),
        Mistake(
            "trailing axis",
            lambda *a: answer(*a).unsqueeze(-1),
            "An axis of size 1 is left over at the end: (B, 1) instead of (B,). In a subtraction it would broadcast to "
            "(B, B) and nobody would notice. Squeeze it away.",
        ),
        Mistake("sign", lambda *a: -answer(*a), "Right but for its sign: everything comes out negated."),
        Mistake(
            "float64",
            lambda *a: answer(*a).double(),
            "The numbers are right and the dtype is not: stay in the dtype of the inputs (float32 here).",
        ),
    ]
    if learns:
        wrong.append(
            Mistake(
                "no gradient",
                lambda *a: answer(*a).detach(),
                "The numbers are right, but no gradient passes: a detach(), a no_grad() or an item() cuts the graph, "
                "and nothing would learn.",
            )
        )
    return tuple(wrong)


def changing(argument: int, answer: Callable[..., Any]) -> Mistake:
    """The answer, with one argument overwritten on the way."""

    def overwrite(*arguments: Any) -> Any:
        result = answer(*arguments)
        with torch.no_grad():
            arguments[argument].copy_(torch.zeros_like(arguments[argument]))
        return result

    return Mistake(
        "in place",
        overwrite,
        "The answer is right, but it overwrites one of its inputs; the batch belongs to the caller. Work on a clone.",
    )


def planted(reference: Callable[..., Any], mutation: Mutation, hint: str) -> Mistake:
    """A hunt's own bug, left as it was found."""
    return Mistake("the planted bug", lambda *arguments: mutated(reference, mutation)(*arguments), hint)
