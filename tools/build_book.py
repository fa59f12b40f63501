"""Build the book with warnings as errors, and make sure that what was built is what was asked for.

    python tools/build_book.py            build what changed; a second when nothing did
    python tools/build_book.py --fresh    throw away earlier results first

The engine keeps executed notebooks under a key made from the notebook alone, so after a change in the package it would
go on showing the old numbers. Here everything a notebook can depend on is hashed, and a change empties that cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
# What the numbers in a notebook can depend on besides the notebook.
COMPUTED_FROM = ("rlcourse/**/*.py", "requirements.lock", "solutions/*.py")
# What else ends up on a page or decides how it looks.
WRITTEN_FROM = (
    "_config.yml",
    "_toc.yml",
    "book/**/*",
    "notebooks/*",
    "pyproject.toml",
    "tools/book_engine.py",
    "tools/build_book.py",
    "tools/make_exercises.py",
    "tools/run_labs.py",
)
PAGES = (".md", ".ipynb")
BIN = Path(sys.executable).parent


def files(root: Path, patterns: Iterable[str]) -> list[Path]:
    """The files that match any pattern, sorted, without caches."""
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts))


def fingerprint(root: Path, patterns: Iterable[str]) -> str:
    """A hash over the names and the bytes of the files."""
    total = hashlib.sha256()
    for path in files(root, patterns):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return total.hexdigest()


def pages_in_toc(toc: dict[str, Any]) -> list[str]:
    """The page names in a table of contents, in reading order, without their endings."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (value[key] for key in ("root", "file") if key in value)
            for key in ("parts", "chapters", "sections", "subtrees", "entries"):
                yield from walk(value.get(key))
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)

    return [str(name).removesuffix(".md").removesuffix(".ipynb") for name in walk(toc)]


def pages_on_disk(root: Path) -> set[str]:
    """Every Markdown file and notebook under book/ and notebooks/ that ought to be a page."""
    found = files(root, [f"{folder}/**/*{ending}" for folder in ("book", "notebooks") for ending in PAGES])
    # Files that are served as they are, and tables that pages include.
    outside = {root / "book" / "public", root / "book" / "results"}
    return {path.relative_to(root).with_suffix("").as_posix() for path in found if not outside & set(path.parents)}


def pages_built(site: Path) -> set[str]:
    """The pages of the book among the built files; the engine's own index pages are not counted."""
    return {
        path.relative_to(site).with_suffix("").as_posix()
        for folder in ("book", "notebooks")
        for path in (site / folder).rglob("*.html")
    }


def faults_of_contents(root: Path, toc: dict[str, Any]) -> list[str]:
    """Pages that are written but not listed, or listed twice; the engine would leave both unsaid."""
    listed = pages_in_toc(toc)
    faults = [f"{name} is not in _toc.yml: add it, or delete the file" for name in pages_on_disk(root) - set(listed)]
    faults += [f"{name} stands in _toc.yml twice" for name in set(listed) if listed.count(name) > 1]
    return sorted(faults)


def faults_of_build(site: Path, toc: dict[str, Any]) -> list[str]:
    """Pages that are listed but have no HTML, and HTML that nothing lists."""
    listed, built = set(pages_in_toc(toc)), pages_built(site)
    faults = [f"{name} is in _toc.yml but was not built" for name in listed - built]
    faults += [f"{name} was built but is not in _toc.yml" for name in built - listed]
    return sorted(faults)


def complain(faults: list[str]) -> int:
    """Print the faults; the exit status they deserve."""
    for fault in faults:
        print(f"book: {fault}.", file=sys.stderr)
    return 1 if faults else 0


def environment() -> dict[str, str]:
    """For what runs the labs: one thread for each kernel, so that their numbers do not depend on how many cores there are."""
    found = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", **os.environ}
    found["PATH"] = f"{BIN}{os.pathsep}{found.get('PATH', '')}"
    return found


def execute_labs(root: Path, toc: dict[str, Any]) -> None:
    """Run the labs whose results the engine does not have."""
    from run_labs import run_labs  # the notebooks' libraries take seconds to load, and most builds have nothing to do

    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    labs = [lab for name in pages_in_toc(toc) if (lab := root / f"{name}.ipynb").is_file()]
    cache = root / "_build" / ".jupyter_cache"
    cache.parent.mkdir(exist_ok=True)
    run_labs(labs, cache, timeout_s=settings["execute"]["timeout"], environment=environment())


def run_engine(root: Path, *, everything: bool) -> int:
    """Jupyter Book, with every warning an error; its exit status."""
    engine = str(Path(__file__).resolve().parent / "book_engine.py")
    command = [sys.executable, engine, "build", str(root), "-W", "-n", "--keep-going"]
    return subprocess.run([*command, "--all"] if everything else command, cwd=root, env=environment()).returncode


def build(root: Path, *, fresh: bool) -> int:
    """Everything from exercises to the last check; the exit status."""
    output = root / "_build"
    site, stamp = output / "html", output / "built_from.json"
    if fresh:
        shutil.rmtree(output, ignore_errors=True)
    cut = subprocess.run([sys.executable, str(root / "tools" / "make_exercises.py")], cwd=root).returncode
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    if cut or complain(faults_of_contents(root, toc)):
        return 1
    now = {
        "computed": fingerprint(root, COMPUTED_FROM),
        "written": fingerprint(root, [*COMPUTED_FROM, "exercises/*.py", *WRITTEN_FROM]),
    }
    before = json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else {}
    if before == now and not complain(faults_of_build(site, toc)):
        print("The site in _build/html is up to date.")
        return 0
    if stale := before.get("computed") != now["computed"]:
        shutil.rmtree(output / ".jupyter_cache", ignore_errors=True)
    stamp.unlink(missing_ok=True)  # a build that fails or is interrupted leaves nothing that looks finished
    shutil.rmtree(site, ignore_errors=True)  # pages of files that are gone would stay
    execute_labs(root, toc)
    status = run_engine(root, everything=stale)
    if status or complain(faults_of_build(site, toc)):
        print("The book was not built.", file=sys.stderr)
        return 1
    stamp.write_text(json.dumps(now), encoding="utf-8")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Build; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="throw away earlier results first")
    return build(ROOT, fresh=parser.parse_args(argv).fresh)


if __name__ == "__main__":
    raise SystemExit(main())
