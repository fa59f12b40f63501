"""One changed line: how the bugs of the bug hunts are planted."""

from __future__ import annotations
import __future__ as futures

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from rlcourse.errors import ExerciseError


@dataclass(frozen=True)
class Mutation:
    """Replace the one line of a function's body that reads ``old`` (leading spaces aside) by ``new``."""

    old: str
    new: str


def source_of(function: Callable[..., Any]) -> str:
    """The function's source, flush left."""
    return textwrap.dedent(inspect.getsource(inspect.unwrap(function)))


def mutated_source(function: Callable[..., Any], mutation: Mutation) -> str:
    """The function's source with the mutation in it.

    Raises:
        ExerciseError: the line is not there exactly once; the package has moved on and the hunt has not.
    """
    lines = source_of(function).splitlines()
    hits = [i for i, line in enumerate(lines) if line.strip() == mutation.old]
    if len(hits) != 1:
        raise ExerciseError(
            f"{function.__qualname__} holds the line {mutation.old!r} {len(hits)} times.",
            mend="Bring the hunt's mutation up to date with the package.",
        )
    line = lines[hits[0]]
    lines[hits[0]] = line[: len(line) - len(line.lstrip())] + mutation.new
    return "\n".join(lines) + "\n"


@cache
def mutated(function: Callable[..., Any], mutation: Mutation) -> Callable[..., Any]:
    """The function with the mutation in it, ready to be called."""
    tree = ast.parse(mutated_source(function, mutation))
    flags = futures.annotations.compiler_flag
    code = compile(tree, f"<mutation of {function.__qualname__}>", "exec", flags=flags, dont_inherit=True)
    # A copy: the package itself must stay as it is.
    namespace = dict(vars(sys.modules[function.__module__]))
    exec(code, namespace)  # the package's own source, one line changed
    changed: Callable[..., Any] = namespace[function.__name__]
    return changed
