"""Sphinx glue for the whole site: what a page loads, and small repairs of the theme's HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

# The theme's engine always adds the tags of a service that runs code on a remote kernel. The course has none.
UNUSED = ("sphinx-thebe", "thebelab", "THEBE_JS_URL", "thebe_selector")


def tidy_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Drop script and style tags that are there twice or for nothing; the former throw an error in the console.

    MathJax is more than a megabyte, and Sphinx loads it on a page when any page *below* it has an equation.
    """
    unused = UNUSED if has_equations(doctree) else (*UNUSED, "mathjax", "window.MathJax")
    for key in ("script_files", "css_files"):
        kept: list[Any] = []
        seen: set[tuple[str, str]] = set()
        for asset in context.get(key, []):
            identity = (str(getattr(asset, "filename", asset) or ""), str(_attribute(asset, "body")))
            if identity in seen or any(word in part for word in unused for part in identity):
                continue
            seen.add(identity)
            kept.append(asset)
        context[key] = kept


def has_equations(doctree: nodes.document | None) -> bool:
    """Whether a page has an equation of its own."""
    return doctree is not None and any(True for kind in (nodes.math, nodes.math_block) for _ in doctree.findall(kind))


def _attribute(asset: object, name: str) -> object:
    attributes = getattr(asset, "attributes", None)
    return attributes.get(name) if isinstance(attributes, dict) else None


class QuickSidebar:
    """Makes the tree in the sidebar, which shows titles alone, from titles alone.

    Sphinx copies each page's whole list of contents first, with every class and function of the reference, and then
    throws away all but the title: most of the time that writing the site takes.
    """

    def __init__(self) -> None:
        self._of: object = None
        self._titles: dict[str, nodes.bullet_list] = {}

    def titles(self, contents: Mapping[str, nodes.bullet_list]) -> dict[str, nodes.bullet_list]:
        """For each page its title, with the lists of pages under it; copies, made once."""
        if self._of is not contents:
            self._of, self._titles = contents, {page: title_of(one) for page, one in contents.items()}
        return self._titles

    def replace(
        self, app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
    ) -> None:
        """Give the page a ``toctree`` that is quick where titles alone are wanted."""
        whole = context.get("toctree")
        if whole is None:
            return

        def toctree(**options: Any) -> Any:
            if not options.get("titles_only"):
                return whole(**options)
            contents = app.env.tocs
            app.env.tocs = self.titles(contents)
            try:
                return whole(**options)
            finally:
                app.env.tocs = contents

        context["toctree"] = toctree


def title_of(contents: nodes.bullet_list) -> nodes.bullet_list:
    """A copy of a page's list of contents with nothing under a heading but lists of pages."""
    copy = contents.deepcopy()
    for entry in copy.children:
        if isinstance(entry, nodes.list_item) and len(entry) > 1:
            if pages := list(entry.findall(addnodes.toctree)):
                entry[1][:] = pages  # type: ignore[index]
            else:
                entry.pop(1)
    return copy


def declare_safe(app: Sphinx) -> None:
    """Say for an extension that does not say it itself that pages may be read side by side.

    It numbers chapters after all pages have been read, and here none is numbered.
    """
    app.extensions["sphinx_multitoc_numbering"].parallel_read_safe = True


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx. Late priority: after every extension has added its tags."""
    app.connect("builder-inited", declare_safe)
    app.connect("html-page-context", QuickSidebar().replace)
    app.connect("html-page-context", tidy_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
