"""The directive ``{room} rlcourse.objectives``: the reference of every public module of a package, none forgotten.

``{room} rlcourse`` with the flag ``:flat:`` takes the modules that stand in no room.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective


def public_modules(package: str, *, flat: bool = False) -> list[str]:
    """The names of a package and of its public modules, in alphabetical order; found without importing them."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{package} is not a package")
    found = [package]
    for module in pkgutil.iter_modules(spec.submodule_search_locations):
        name = f"{package}.{module.name}"
        if module.name.startswith("_"):
            continue
        if not module.ispkg:
            found.append(name)
        elif not flat:
            found += public_modules(name)
    return sorted(found)


def documented(name: str) -> bool:
    """Whether a module has any source: an empty ``__init__.py`` needs no section."""
    origin = source_file(name)
    return bool(origin.read_text(encoding="utf-8").strip())


def source_file(name: str) -> Path:
    """The file a module is made from."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} has no source file")
    return Path(spec.origin)


class RoomDirective(SphinxDirective):
    """A section with ``automodule`` for each module."""

    required_arguments = 1
    option_spec = {"flat": directives.flag}

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        try:
            names = [name for name in public_modules(package, flat="flat" in self.options) if documented(name)]
        except ModuleNotFoundError as error:
            raise self.error(str(error)) from error
        # The folder's own time stamp changes when a module is added.
        self.env.note_dependency(str(source_file(package).parent))
        lines: list[str] = []
        for name in names:
            self.env.note_dependency(str(source_file(name)))
            hide_option_marks(name)
            # A package's __all__ lists names that belong to its modules; they are described there.
            lines += [f"## {name}", "", "```{eval-rst}", f".. automodule:: {name}", "   :ignore-module-all:", "```", ""]
        holder = nodes.section()
        holder.document = self.state.document
        self.state.nested_parse(StringList(lines, source=self.get_source_info()[0]), 0, holder, match_titles=True)
        return holder.children


def hide_option_marks(module: str) -> None:
    """Show a command's option as its type: ``Annotated[X, ...]`` tells the command line something, a reader nothing."""
    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, type) and value.__module__ == module:
            notes: dict[str, object] = value.__annotations__
            for field, note in notes.items():
                if isinstance(note, str):
                    notes[field] = re.sub(r"^Annotated\[([\w.]+), .*\]$", r"\1", note)


def readable_defaults(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Defaults such as ``<factory>`` are not Python; with them in it a signature is shown as raw text."""
    return (re.sub(r"= ?<[^<>]*>", "= ...", signature) if signature else signature), returns


def drop_unused_sources(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Forget sources to which nothing links, such as the standard library's, when pages have been read side by side.

    One after the other, the next page's turn clears them away; side by side, all pages are cleared before the first.
    """
    sources = getattr(env, "_viewcode_modules", {})
    for module, entry in list(sources.items()):
        if entry and not entry[2]:  # source, tags, names used
            del sources[module]
    return []


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("room", RoomDirective)
    app.connect("autodoc-process-signature", readable_defaults)
    app.connect("env-updated", drop_unused_sources)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
