"""The sidebar's tree is made from titles alone, and is the same."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))

from rlcourse_site import title_of


def entry(text: str, *below: nodes.Node) -> nodes.list_item:
    item = nodes.list_item("", addnodes.compact_paragraph("", "", nodes.Text(text)))
    if below:
        item += nodes.bullet_list("", *below)
    return item


def test_headings_and_objects_go_and_lists_of_pages_stay() -> None:
    pages = addnodes.toctree()
    contents = nodes.bullet_list("", entry("Page", entry("Heading", entry("object")), nodes.list_item("", pages)))
    before = contents.pformat()
    found = title_of(contents)
    assert found.astext().split() == ["Page"]
    assert len(list(found.findall(addnodes.toctree))) == 1
    assert title_of(nodes.bullet_list("", entry("Page", entry("Heading")))).astext().split() == ["Page"]
    assert contents.pformat() == before, "the page's own list keeps everything"
