"""Mend what the theme's HTML leaves unsaid to a screen reader, in the written pages.

The theme has no hook for these places, so the finished files are rewritten. Each repair leaves no trace of what it
matches: running it twice, or on pages that an incremental build did not write again, changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path

from sphinx.application import Sphinx

SEARCH_BUTTON = re.compile(r'(<button class="[^"]*\bsearch-button-field\b[^>]*?)\s+aria-label="Search"')
MODE_ICON = re.compile(r'(<i class="theme-switch [^>]*?)\s+title="[^"]*"')
SEARCH = re.compile(r'<div class="sidebar-primary-item">(?=\s*<button class="[^"]*\bsearch-button-field\b)')
LOGO = re.compile(r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand logo")')
CHAPTER_WITH_SECTIONS = re.compile(r"(<a [^>]*>)((?:(?!</a>).)*)</a><details([^>]*)><summary>", re.DOTALL)
FOLDED_CELL = re.compile(r'<summary aria-label="Toggle hidden content">')
# A role that has been withdrawn; and what stands in a list has to be an item of it.
CITATION = re.compile(r'(<div class="citation"[^>]*) role="doc-biblioentry"')
# Sphinx writes a long signature's parameters as descriptions (dd) of nothing (no dt).
PARAMETERS = re.compile(r'<dl>\s*(<dd><em class="sig-param">.*?)</dl>', re.DOTALL)


def repaired(page: str) -> str:
    """The HTML of a page with names and landmarks where the theme forgot them."""
    # The visible words, "Search Ctrl+K", are the button's name; a shorter label hides them from voice control.
    page = SEARCH_BUTTON.sub(r"\1", page)
    # All three icons' titles are read out at once, against the button's own label.
    page = MODE_ICON.sub(r"\1", page)
    page = LOGO.sub('<div class="sidebar-primary-item" role="region" aria-label="Front page">', page)
    page = SEARCH.sub('<div class="sidebar-primary-item" role="search">', page)
    page = CHAPTER_WITH_SECTIONS.sub(_name_the_arrow, page)
    page = FOLDED_CELL.sub("<summary>", page)
    page = CITATION.sub(r'\1 role="listitem"', page)
    return PARAMETERS.sub(_list_parameters, page)


def _name_the_arrow(match: re.Match[str]) -> str:
    link, title, attributes = match.groups()
    words = escape(unescape(re.sub(r"<[^>]+>", "", title)).strip())
    return f'{link}{title}</a><details{attributes}><summary aria-label="Pages under {words}">'


def _list_parameters(match: re.Match[str]) -> str:
    items = match.group(1).replace("<dd>", '<div role="listitem">').replace("</dd>", "</div>")
    return f'<div role="list" class="rlc-parameters" style="margin-left: 2rem">\n{items}</div>'


def rewrite_pages(app: Sphinx, error: Exception | None, repair: Callable[[str], str] = repaired) -> None:
    """After a build that succeeded: repair every page in the output folder."""
    if error is not None or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    for path in sorted(Path(app.outdir).rglob("*.html")):
        if static in path.parents:
            continue
        before = path.read_text(encoding="utf-8")
        if (after := repair(before)) != before:
            path.write_text(after, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", rewrite_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
