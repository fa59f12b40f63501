"""Sphinx glue for the whole site: what a page loads, and small repairs of the theme's HTML."""

from __future__ import annotations

from typing import Any

from docutils import nodes
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


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx. Late priority: after every extension has added its tags."""
    app.connect("html-page-context", tidy_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
