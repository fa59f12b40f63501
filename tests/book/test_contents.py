"""The book as a whole: one address, no page forgotten, no module forgotten, nothing loaded from elsewhere."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from jupyter_cache import get_cache  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "book" / "_ext")]

import build_book  # noqa: E402
import room  # noqa: E402
import vendor_javascript  # noqa: E402


def settings() -> dict[str, Any]:
    """The book's settings."""
    value: dict[str, Any] = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return value


def contents() -> dict[str, Any]:
    """The table of contents."""
    value: dict[str, Any] = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return value


def test_the_repository_has_one_address() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project["urls"]["Repository"]
    assert settings()["repository"]["url"] == address
    assert f"git+{address}" in (ROOT / "tools" / "colab_first_cell.py").read_text(encoding="utf-8")
    for name in ("book/intro.md", "README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https://github\.com/[\w-]+/rlcourse", text)) == {address}, name


def test_every_page_is_listed_once() -> None:
    assert build_book.faults_of_contents(ROOT, contents()) == []


def test_every_listed_page_exists() -> None:
    assert set(build_book.pages_in_toc(contents())) <= build_book.pages_on_disk(ROOT)


def test_no_public_module_is_missing_from_the_reference() -> None:
    described: list[str] = []
    for page in sorted((ROOT / "book" / "api").glob("*.md")):
        for package, flat in re.findall(r"```\{room\} ([\w.]+)\n(:flat:)?", page.read_text(encoding="utf-8")):
            described += room.public_modules(package, flat=bool(flat))
    every = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in build_book.files(ROOT, ["rlcourse/**/*.py"])
    ]
    public = {name for name in every if not any(part.startswith("_") for part in name.split("."))}
    assert set(described) == public
    assert len(described) == len(set(described))


def test_every_room_of_the_reference_is_in_its_table() -> None:
    table = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    for page in (ROOT / "book" / "api").glob("*.md"):
        assert f"(api/{page.name})" in table


def test_the_glossary_has_its_terms_once_and_each_with_a_meaning() -> None:
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8").split("```{glossary}")[1].split("```")[0]
    terms = re.findall(r"^(\w[^\n]*)\n  \S", text, re.MULTILINE)
    assert len(terms) >= 25
    assert len(terms) == len({term.lower() for term in terms})
    assert terms == re.findall(r"^(\w[^\n:]*)$", text, re.MULTILINE)


def test_the_vendored_scripts_are_the_ones_that_were_fetched() -> None:
    assert vendor_javascript.check() == []


def test_a_changed_vendored_script_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    copy = tmp_path / "vendor"
    shutil.copytree(vendor_javascript.VENDOR, copy)
    monkeypatch.setattr(vendor_javascript, "VENDOR", copy)
    (copy / "require.js").write_text("", encoding="utf-8")
    (copy / "embed-amd.js").unlink()
    assert vendor_javascript.check() == ["require.js is not the file that was fetched", "embed-amd.js is missing"]


# The builder's own checks, on a small tree.


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two pages and a module."""
    for name in ("book/a.md", "notebooks/b.ipynb", "rlcourse/m.py", "book/public/vendor/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    return tmp_path


TOC = {"root": "book/a", "parts": [{"caption": "I", "chapters": [{"file": "notebooks/b"}]}]}


def test_pages_are_read_from_all_levels_of_the_contents() -> None:
    toc = {"root": "r", "parts": [{"chapters": [{"file": "c.md", "sections": [{"file": "s.ipynb"}]}]}]}
    assert build_book.pages_in_toc(toc) == ["r", "c", "s"]


def test_an_unlisted_page_and_a_doubled_one_are_faults(small: Path) -> None:
    assert build_book.faults_of_contents(small, TOC) == []
    (small / "book" / "deep").mkdir()
    (small / "book" / "deep" / "lost.md").touch()
    doubled = {"root": "book/a", "chapters": [{"file": "notebooks/b"}, {"file": "book/a"}]}
    assert [fault.split(" ")[0] for fault in build_book.faults_of_contents(small, doubled)] == [
        "book/a",
        "book/deep/lost",
    ]


def test_a_page_that_was_not_built_and_one_that_should_not_be_are_faults(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "a.html").touch()
    (tmp_path / "book" / "old.html").touch()
    assert build_book.faults_of_build(tmp_path, TOC) == [
        "book/old was built but is not in _toc.yml",
        "notebooks/b is in _toc.yml but was not built",
    ]


@pytest.mark.parametrize("change", ["edit", "add", "rename"])
def test_a_change_in_the_package_changes_its_fingerprint(small: Path, change: str) -> None:
    before = build_book.fingerprint(small, build_book.COMPUTED_FROM)
    assert before == build_book.fingerprint(small, build_book.COMPUTED_FROM)
    module = small / "rlcourse" / "m.py"
    match change:
        case "edit":
            module.write_text("rlcourse/m2py", encoding="utf-8")
        case "add":
            (small / "rlcourse" / "n.py").touch()
        case "rename":
            module.rename(small / "rlcourse" / "n.py")
    assert build_book.fingerprint(small, build_book.COMPUTED_FROM) != before


def stand_in(monkeypatch: pytest.MonkeyPatch, *, status: int = 0) -> list[bool]:
    """Instead of the engine: write the pages, or fail. The list says for each call whether all was rebuilt."""
    calls: list[bool] = []

    def run_engine(root: Path, *, everything: bool) -> int:
        calls.append(everything)
        for page in build_book.pages_in_toc(TOC):
            html = root / "_build" / "html" / f"{page}.html"
            html.parent.mkdir(parents=True, exist_ok=True)
            html.touch()
        return status

    monkeypatch.setattr(build_book, "run_engine", run_engine)
    monkeypatch.setattr(build_book, "execute_labs", lambda root, toc: None)
    return calls


@pytest.fixture
def tree(small: Path) -> Path:
    """The small tree with what the builder reads besides."""
    (small / "_toc.yml").write_text(yaml.safe_dump(TOC), encoding="utf-8")
    (small / "tools").mkdir()
    (small / "tools" / "make_exercises.py").touch()
    return small


def test_an_unchanged_book_is_not_built_again_and_changed_prose_keeps_the_numbers(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stand_in(monkeypatch)
    cache = tree / "_build" / ".jupyter_cache"
    assert build_book.build(tree, fresh=False) == 0
    cache.mkdir()
    assert build_book.build(tree, fresh=False) == 0
    assert calls == [True]
    (tree / "book" / "a.md").write_text("changed", encoding="utf-8")
    assert build_book.build(tree, fresh=False) == 0
    assert calls == [True, False] and cache.is_dir()
    (tree / "rlcourse" / "m.py").write_text("changed", encoding="utf-8")
    assert build_book.build(tree, fresh=False) == 0
    assert calls == [True, False, True] and not cache.exists()


def test_a_failed_build_is_not_taken_for_a_finished_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, status=1)
    assert build_book.build(tree, fresh=False) == 1
    calls = stand_in(monkeypatch)
    assert build_book.build(tree, fresh=False) == 0
    assert calls == [True]


def test_the_engine_finds_what_labs_printed_and_not_those_that_failed(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").write_text("execute: {timeout: 60}", encoding="utf-8")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    labs = {"good": "open('runs', 'a').write('once ')\n6 * 7", "bad": "1 / 0"}
    for name, source in labs.items():
        lab = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=kernel)
        nbformat.write(lab, tmp_path / "notebooks" / f"{name}.ipynb")
    toc = {"root": "notebooks/good", "parts": [{"chapters": [{"file": "notebooks/bad"}]}]}
    for _ in range(2):
        build_book.execute_labs(tmp_path, toc)
    assert (tmp_path / "notebooks" / "runs").read_text() == "once ", "the one that is in the cache is not run again"
    cache = get_cache(tmp_path / "_build" / ".jupyter_cache")
    good, bad = (nbformat.read(tmp_path / "notebooks" / f"{name}.ipynb", 4) for name in labs)
    _, merged = cache.merge_match_into_notebook(good)
    assert merged.cells[0].outputs[0]["data"]["text/plain"] == "42"
    with pytest.raises(KeyError):
        cache.match_cache_notebook(bad)
