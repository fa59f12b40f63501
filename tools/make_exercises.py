"""Cut the exercises out of their answers.

    python tools/make_exercises.py            writes exercises/ from solutions/
    python tools/make_exercises.py --check    changes nothing; exit 1 when exercises/ is out of date

A file in solutions/ names its exercises in ``EXERCISES``; the functions are its own or imported from the package.
The signature and the docstring are the question, the body is the answer: the body is cut out by syntax tree. A hunt
keeps its body, with the one line of its mutation changed. Difficulty, minutes and symptoms stand beside the cases, in
``rlcourse/course/cases_*.py``.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from rlcourse.course.exercise_set import Exercise, exercise_named
from rlcourse.course.mutation import mutated_source, source_of
from rlcourse.errors import ExerciseError
from rlcourse.files import write_text

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 110


def stub(function: Callable[..., Any], name: str) -> str:
    """The function without its answer: signature, docstring, and a body that says it is not written yet.

    Raises:
        ExerciseError: it has no docstring, so there would be no question.
    """
    source = source_of(function)
    node = _definition(source)
    if ast.get_docstring(node) is None:
        raise ExerciseError(f"{name} has no docstring.", mend="Write one: it is the question that the reader sees.")
    lines = source.splitlines()[node.lineno - 1 : node.body[0].end_lineno]
    return "\n".join([*lines, f'    raise NotImplementedError("{name} is yours to write")']) + "\n"


def hunt(exercise: Exercise) -> str:
    """The reference with its planted bug, under the name of the exercise."""
    assert exercise.mutation is not None
    source = mutated_source(exercise.reference, exercise.mutation)
    node = _definition(source)
    if ast.get_docstring(node) is None:
        raise ExerciseError(f"{exercise.name} has no docstring.", mend="Write one: it says what the code should do.")
    lines = source.splitlines()
    lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"def {node.name}(", f"def {exercise.name}(", 1)
    return _wrapped_signature("\n".join(lines) + "\n")


def _wrapped_signature(source: str) -> str:
    """Break a signature that the longer name pushed past the margin."""
    node = _definition(source)
    lines = source.splitlines()
    line = lines[node.lineno - 1]
    if len(line) <= 120:
        return source
    head, rest = line.split("(", 1)
    arguments, tail = rest.rsplit(") ->", 1)
    lines[node.lineno - 1 : node.lineno] = [f"{head}(", f"    {arguments}", f") ->{tail}"]
    return "\n".join(lines) + "\n"


def _definition(source: str) -> ast.FunctionDef:
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def imports_for(function: Callable[..., Any], source: str, *, whole: bool) -> set[tuple[str, str]]:
    """What the text needs from elsewhere, as ``(module, name)``; ``(module, "")`` is a plain import.

    Args:
        function: where the text came from; its module's imports are looked through.
        source: the text of one function.
        whole: take the body into account, not the signature alone.

    Raises:
        ExerciseError: it needs something that its module defines rather than imports.
    """
    node = _definition(source)
    parts: list[ast.AST] = [node] if whole else [node.args, *([node.returns] if node.returns else [])]
    used = {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}
    own = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    own |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    available = _imports_of(inspect.getmodule(inspect.unwrap(function)))
    needed = set()
    for name in used - own - set(vars(builtins)):
        if name not in available:
            raise ExerciseError(
                f"{node.name} uses {name}, which its own module defines.",
                mend="An exercise may use only what can be imported; take the argument or the helper apart.",
            )
        needed.add(available[name])
    return needed


def _imports_of(module: ModuleType | None) -> dict[str, tuple[str, str]]:
    assert module is not None
    found: dict[str, tuple[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return found


def import_lines(needed: Iterable[tuple[str, str]]) -> str:
    """The imports in the order in which the linter wants them."""
    groups: dict[int, dict[str, set[str]]] = {}
    for module, name in {*needed, ("torch", "")}:
        top = module.split(".")[0]
        rank = 0 if top in sys.stdlib_module_names else 2 if top == "rlcourse" else 1
        groups.setdefault(rank, {}).setdefault(module, set()).add(name)
    sections = []
    for rank in sorted(groups):
        plain = sorted(module for module, names in groups[rank].items() if "" in names)
        lines = [f"import {module}" for module in plain]
        if rank == 1 and ("torch", "") not in needed:
            lines = [line.replace("import torch", "import torch  # noqa: F401") for line in lines]
        for module, names in sorted(groups[rank].items()):
            if wanted := sorted(names - {""}):
                lines.append(f"from {module} import {', '.join(wanted)}")
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, WIDTH))


def _preface(exercise: Exercise) -> str:
    effort = f"difficulty {exercise.difficulty} of 3, about {exercise.minutes} minutes (an estimate)"
    if exercise.mutation is None:
        return _comment(f"Write: {effort}.")
    found = f"Bug hunt: {effort}. One line of this code of the package was changed."
    return f"{_comment(found)}\n{_comment('Symptom: ' + exercise.symptom)}"


def exercise_file(solution: Path) -> str:
    """The whole text of the exercise file that belongs to a solution file.

    Raises:
        ExerciseError: the solution file lists what is not there, or what has no docstring.
    """
    module = _load(solution)
    topic = inspect.getdoc(module)
    if not topic or not topic.startswith("Answers to the exercises of "):
        raise ExerciseError(f"{solution.name} has no title.", mend='Begin it with "Answers to the exercises of ...".')
    needed: set[tuple[str, str]] = set()
    blocks = []
    for name in module.EXERCISES:
        exercise = exercise_named(name)
        if exercise.file != solution.stem or not callable(getattr(module, name, None)):
            raise ExerciseError(f"{solution.name} lists {name}, and has no such exercise.", mend="Correct EXERCISES.")
        function = exercise.reference if exercise.mutation else getattr(module, name)
        text = hunt(exercise) if exercise.mutation else stub(function, name)
        needed |= imports_for(function, text, whole=exercise.mutation is not None)
        blocks.append(f"{_preface(exercise)}\n{text}")
    title = topic.splitlines()[0].removeprefix("Answers to the exercises of ")
    header = (
        f'"""Exercises of {title}\n\n'
        f"GENERATED by tools/make_exercises.py from solutions/{solution.name}: change that file, not this one.\n\n"
        "Each docstring is a question. Write the body, or find the line that was changed, and ask whether it is right:\n\n"
        f"    rlcourse check exercises/{solution.name}\n"
        '"""\n\nfrom __future__ import annotations'
    )
    return f"{header}\n\n{import_lines(needed)}\n\n\n" + "\n\n".join(blocks)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"solutions_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # inspect looks for a function's source there
    spec.loader.exec_module(module)
    return module


def main(argv: list[str] | None = None) -> int:
    """Write the exercise files, or with ``--check`` say which are out of date."""
    parser = argparse.ArgumentParser(description="Cut the exercises out of their answers.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder that holds solutions/ and exercises/")
    options = parser.parse_args(argv)
    try:
        wanted = {
            options.root / "exercises" / path.name: exercise_file(path)
            for path in sorted((options.root / "solutions").glob("ch*.py"))
        }
    except ExerciseError as error:
        print(error, file=sys.stderr)
        return 1
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_bytes() != text.encode()]
    orphans = [path for path in (options.root / "exercises").glob("ch*.py") if path not in wanted]
    if options.check:
        for path in stale + orphans:
            print(
                f"{path.relative_to(options.root)} is out of date: run python tools/make_exercises.py", file=sys.stderr
            )
        return 1 if stale or orphans else 0
    for path in stale:
        write_text(path, wanted[path])
    for path in orphans:
        path.unlink()
    print(f"{len(wanted)} exercise files, {len(stale)} written, {len(orphans)} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
