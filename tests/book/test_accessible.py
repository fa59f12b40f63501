"""Repairs of the theme's HTML, on pieces as the theme and Sphinx write them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))

from accessible import repaired, rewrite_pages

SEARCH = '<button class="btn search-button-field search-button__button" title="Search" aria-label="Search" data-x="1">'
MODE = '<i class="theme-switch fa-solid fa-moon  fa-lg" data-mode="dark"  title="Dark"></i>'
LOGO = '<div class="sidebar-primary-item">\n\n<a class="navbar-brand logo" href="#">rlcourse</a></div>'
ARROW = (
    '<li><a href="a.html">One</a></li><li><a class="reference" href="b.html">Bellman &amp; <em>friends</em></a>'
    '<details open="open"><summary><span class="toctree-toggle"></span></summary></details></li>'
)
FOLDED = '<summary aria-label="Toggle hidden content"><p>Show code cell content</p></summary>'
CITATION = (
    '<div role="list" class="citation-list"><div class="citation" id="id4" role="doc-biblioentry">[1]</div></div>'
)
PARAMETERS = (
    '<dl class="py"><dt><span>(</span>\n\n<dl>\n<dd><em class="sig-param">tau</em>,</dd>\n'
    '<dd><em class="sig-param">n</em>,</dd>\n</dl>\n</dt><dd><dl class="field-list"><dt>Returns</dt><dd>x</dd></dl></dd></dl>'
)


def test_the_search_button_is_named_by_its_visible_words() -> None:
    assert repaired(SEARCH) == SEARCH.replace(' aria-label="Search"', "")


def test_the_icons_of_the_mode_switch_leave_the_name_to_the_button() -> None:
    assert "title" not in repaired(MODE)


def test_the_logo_and_the_search_button_stand_in_landmarks() -> None:
    around = '<div class="sidebar-primary-item">\n<button class="btn search-button-field x">'
    assert repaired(around).startswith('<div class="sidebar-primary-item" role="search">')
    assert repaired(LOGO).startswith('<div class="sidebar-primary-item" role="region" aria-label="')
    other = '<div class="sidebar-primary-item"><nav></nav></div>'
    assert repaired(other) == other


def test_an_arrow_is_named_after_its_own_chapter_in_plain_text() -> None:
    page = repaired(ARROW)
    assert '<summary aria-label="Pages under Bellman &amp; friends"><span' in page
    assert page.count("aria-label") == 1


def test_a_folded_cell_is_named_by_its_visible_words() -> None:
    assert repaired(FOLDED) == FOLDED.replace(' aria-label="Toggle hidden content"', "")


def test_an_entry_of_the_bibliography_is_an_item_of_its_list() -> None:
    assert repaired(CITATION) == CITATION.replace("doc-biblioentry", "listitem")


def test_parameters_become_a_list_and_other_definitions_stay() -> None:
    page = repaired(PARAMETERS)
    assert page.count('role="listitem"') == 2
    assert page.count("<dl") == page.count("</dl>") == 2
    assert page.endswith('</dt><dd><dl class="field-list"><dt>Returns</dt><dd>x</dd></dl></dd></dl>')


@pytest.mark.parametrize("piece", [SEARCH, MODE, LOGO, ARROW, FOLDED, CITATION, PARAMETERS])
def test_a_second_repair_changes_nothing(piece: str) -> None:
    assert repaired(piece) != piece
    assert repaired(repaired(piece)) == repaired(piece)


def finished(folder: Path, error: Exception | None = None, kind: str = "html") -> str:
    """The text of a page after the end of a build in ``folder``."""
    (folder / "_static").mkdir(exist_ok=True)
    for name in ("page.html", "_static/macro.html"):
        (folder / name).write_text(FOLDED, encoding="utf-8")
    app = SimpleNamespace(outdir=str(folder), builder=SimpleNamespace(format=kind))
    rewrite_pages(cast(Any, app), error)
    assert (folder / "_static/macro.html").read_text(encoding="utf-8") == FOLDED
    return (folder / "page.html").read_text(encoding="utf-8")


def test_pages_are_rewritten_after_an_html_build_that_succeeded(tmp_path: Path) -> None:
    assert finished(tmp_path) == repaired(FOLDED)
    assert finished(tmp_path, kind="latex") == FOLDED
    assert finished(tmp_path, error=RuntimeError()) == FOLDED
