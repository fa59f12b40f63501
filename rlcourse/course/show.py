"""Printing the package's own source, so that a notebook shows the very lines that run."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from rlcourse.course.mutation import source_of
from rlcourse.errors import ExerciseError


def show(thing: type | ModuleType | Callable[..., Any]) -> None:
    """Print the source of a function, a method, a class or a module: in colour in a notebook, plain elsewhere.

    Raises:
        ExerciseError: it has no Python source.
    """
    try:
        source = inspect.getsource(thing) if inspect.ismodule(thing) else source_of(thing)
    except (OSError, TypeError) as error:
        raise ExerciseError(
            f"{thing!r} has no Python source to show.", mend="Give a function, a method, a class or a module."
        ) from error
    if not _in_notebook():
        print(source.rstrip("\n"))
        return
    from IPython.display import Code, display

    display(Code(source.rstrip("\n"), language="python"))  # type: ignore[no-untyped-call]


def _in_notebook() -> bool:
    # IPython is there exactly when something else has imported it; the package does without.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
