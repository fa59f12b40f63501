"""Finding answers in source text, first by reading it, then by running it.

A submission is one or more files; a file is a list of cells (a ``.py`` file has one). Reading comes first because what
it finds can be trusted: none of the submission's code has run yet.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ALLOWED = frozenset({"rlcourse", "rlcourse.errors", "rlcourse.vocabulary", "rlcourse.course", "rlcourse.course.inside"})
"""What a graded answer may import of the package; everything else holds answers or leads to them."""


@dataclass(frozen=True)
class File:
    """Source text under a name."""

    name: str
    cells: tuple[str, ...]

    def label(self, cell: int) -> str:
        """How messages call a place in this file."""
        return f"{self.name}, cell {cell + 1}" if self.name.endswith(".ipynb") else self.name


@dataclass(frozen=True)
class Definition:
    """Where a name is defined, and whether there is anything in it."""

    file: int
    state: str
    """``stub``, ``attempted`` or ``imported``"""


@dataclass(frozen=True)
class Reading:
    """What the text of a submission says."""

    definitions: dict[str, Definition]
    answer_imports: list[str]
    """Imports that will not work in grading, as "line 3 of x.py imports y"."""
    syntax_errors: list[str]


def compiled(source: str, filename: str, tree_only: bool = False) -> Any:
    """Compile a cell; Jupyter's own lines (``%magic``, ``!command``, ``name?``) are blanked if they stand in the way.

    Raises:
        SyntaxError: it is not Python even so.
        ValueError: it holds null bytes.
    """
    flags = ast.PyCF_ONLY_AST if tree_only else 0
    try:
        return compile(source, filename, "exec", flags=flags, dont_inherit=True)
    except SyntaxError:
        if not filename.endswith("]") or source.lstrip().startswith("%%"):
            if source.lstrip().startswith("%%"):
                return compile("", filename, "exec", flags=flags, dont_inherit=True)
            raise
        return compile(_without_magics(source), filename, "exec", flags=flags, dont_inherit=True)


def _without_magics(source: str) -> str:
    lines = source.split("\n")
    for i, line in enumerate(lines):
        bare = line.strip()
        if bare.startswith(("%", "!", "?")) or bare.endswith("?"):
            lines[i] = line[: len(line) - len(line.lstrip())] + "pass"
    return "\n".join(lines)


def code_name(file: File, cell: int) -> str:
    """The file name that tracebacks carry."""
    return f"submission/{file.name}[{cell + 1}]" if file.name.endswith(".ipynb") else f"submission/{file.name}"


def read(files: Sequence[File]) -> Reading:
    """Look for answers without running anything. A later definition replaces an earlier one, unless it is a stub."""
    reading = Reading({}, [], [])
    for number, file in enumerate(files):
        for cell, source in enumerate(file.cells):
            try:
                tree = compiled(source, code_name(file, cell), tree_only=True)
            except SyntaxError as error:
                reading.syntax_errors.append(f"{file.label(cell)}, line {error.lineno}: {error.msg}")
                continue
            except (ValueError, RecursionError, MemoryError) as error:
                reading.syntax_errors.append(f"{file.label(cell)}: {error}")
                continue
            _read_cell(tree, number, file.label(cell), reading)
    return reading


def _read_cell(tree: ast.Module, number: int, label: str, reading: Reading) -> None:
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = "stub" if _is_stub(node) else "attempted"
        elif isinstance(node, ast.ImportFrom | ast.Import):
            closed = closed_imports(node)
            reading.answer_imports.extend(f"line {node.lineno} of {label} imports {name}" for name in closed)
            if closed and isinstance(node, ast.ImportFrom):
                found |= {alias.asname or alias.name: "imported" for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id: "attempted" for target in node.targets if isinstance(target, ast.Name)}
    for name, state in found.items():
        before = reading.definitions.get(name)
        if before is None or state != "stub" or before.state == "stub":
            reading.definitions[name] = Definition(number, state)


def closed_imports(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules of the package that this statement imports and that are closed in grading."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if is_closed(alias.name)]
    module = node.module or ""
    if module in ("rlcourse", "rlcourse.course"):
        return [name for alias in node.names if is_closed(name := f"{module}.{alias.name}") and alias.name not in _OPEN]
    return [module] if is_closed(module) else []


_OPEN = frozenset({"check", "show"})


def is_closed(module: str) -> bool:
    """Whether a module is a part of the package that answers may not use."""
    return module.startswith("rlcourse.") and module not in ALLOWED and not module.startswith("rlcourse.course.inside.")


def _is_stub(node: ast.FunctionDef) -> bool:
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    if len(body) != 1:
        return not body
    only = body[0]
    if isinstance(only, ast.Raise) and only.exc is not None:
        name = only.exc.func if isinstance(only.exc, ast.Call) else only.exc
        return isinstance(name, ast.Name) and name.id == "NotImplementedError"
    return isinstance(only, ast.Pass) or (
        isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant) and only.value.value is Ellipsis
    )


@dataclass(frozen=True)
class Failure:
    """A cell that did not run to its end."""

    place: str
    error: BaseException


@dataclass(frozen=True)
class Loaded:
    """A submission that has been run."""

    modules: list[types.ModuleType]
    failures: list[Failure]

    def function(self, name: str, preferred: int | None) -> Callable[..., Any] | None:
        """The answer called ``name``, from the file where reading found it or else from any."""
        order = list(range(len(self.modules)))
        if preferred is not None:
            order = [preferred, *(i for i in order if i != preferred)]
        for i in order:
            candidate = vars(self.modules[i]).get(name)
            if callable(candidate):
                found: Callable[..., Any] = candidate
                return found
        return None


def load(files: Sequence[File]) -> Loaded:
    """Run every cell of every file. A cell that fails is noted; what it defined before that stays."""
    loaded = Loaded([], [])
    for number, file in enumerate(files):
        module = types.ModuleType(f"submission_{number}")
        sys.modules[module.__name__] = module  # dataclasses and pickling look a class's module up there
        loaded.modules.append(module)
        for cell, source in enumerate(file.cells):
            try:
                exec(compiled(source, code_name(file, cell)), module.__dict__)
            except BaseException as error:
                loaded.failures.append(Failure(file.label(cell), error))
    return loaded
