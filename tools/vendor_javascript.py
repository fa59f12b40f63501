"""Fetch the JavaScript that the site carries with it, so that its pages ask no other host for anything.

    python tools/vendor_javascript.py            fetch the pinned packages by ``npm pack`` into book/public/vendor/
    python tools/vendor_javascript.py --check    change nothing; exit 1 when a file is missing or not the one recorded

The fetched files are kept in the repository: building the book needs neither npm nor a network.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcourse.files import sha256_of, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "book" / "public" / "vendor"
RECORD = "versions.json"


@dataclass(frozen=True)
class Package:
    """One npm package at one version, and the files of it that the site uses (a folder stands for all in it)."""

    name: str
    version: str
    purpose: str
    files: dict[str, str]  # path inside the package -> path under book/public/vendor


PACKAGES = (
    Package(
        "mathjax",
        "3.2.2",
        "sets the equations",
        {
            "es5/tex-mml-chtml.js": "mathjax/tex-mml-chtml.js",
            "es5/output/chtml/fonts/woff-v2": "mathjax/output/chtml/fonts/woff-v2",
            "LICENSE": "mathjax/LICENSE",
        },
    ),
    Package("requirejs", "2.3.8", "loads the widget manager", {"require.js": "require.js"}),
    Package(
        "@jupyter-widgets/html-manager",
        "1.0.15",
        "shows the stored state of ipywidgets",
        {
            "dist/embed-amd.js": "embed-amd.js",
            # Font Awesome 4.7, solid and brands: the manager asks for them by these names.
            "dist/d878b0a6a1144760244f.woff2": "@jupyter-widgets/html-manager/dist/d878b0a6a1144760244f.woff2",
            "dist/1551f4f60c37af51121f.woff2": "@jupyter-widgets/html-manager/dist/1551f4f60c37af51121f.woff2",
        },
    ),
)


def fetch(package: Package, scratch: Path) -> dict[str, Any]:
    """Unpack one package and copy its files into place; the answer is its entry in the record."""
    done = subprocess.run(
        ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        cwd=scratch,
        check=True,
        capture_output=True,
        text=True,
    )
    archive = scratch / done.stdout.split()[-1]
    inside = scratch / archive.stem
    with tarfile.open(archive) as tar:
        tar.extractall(inside, filter="data")
    for source, target in package.files.items():
        place(inside / "package" / source, VENDOR / target)
    manifest = json.loads((inside / "package" / "package.json").read_text(encoding="utf-8"))
    return {
        "version": package.version,
        "licence": manifest["license"],
        "purpose": package.purpose,
        "files": {path.relative_to(VENDOR).as_posix(): sha256_of(path) for path in installed(package)},
    }


def place(source: Path, target: Path) -> None:
    """Copy a file or a folder, replacing what was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def installed(package: Package) -> list[Path]:
    """The files under book/public/vendor that came from this package."""
    found: list[Path] = []
    for name in package.files.values():
        target = VENDOR / name
        found += sorted(target.rglob("*")) if target.is_dir() else [target]
    return found


def readme(record: dict[str, Any]) -> str:
    """The table of what is here, for people; versions.json says the same with checksums."""
    rows = "\n".join(
        f"| {name} | {entry['version']} | {entry['licence']} | {entry['purpose']} |" for name, entry in record.items()
    )
    return f"""# JavaScript from elsewhere

Unchanged copies of published npm packages. The site loads them from here, so that reading it needs no other host.
Written by `python tools/vendor_javascript.py`; checksums are in `{RECORD}`.

| package | version | licence | what it does here |
|---|---|---|---|
{rows}
"""


def check() -> list[str]:
    """What differs between the record and the files on the disk, one sentence each."""
    record = json.loads((VENDOR / RECORD).read_text(encoding="utf-8"))
    faults = []
    for package in PACKAGES:
        entry = record.get(package.name)
        if entry is None or entry["version"] != package.version:
            faults.append(f"{package.name} {package.version} is not the recorded version")
            continue
        for name, checksum in entry["files"].items():
            path = VENDOR / name
            if not path.is_file():
                faults.append(f"{name} is missing")
            elif sha256_of(path) != checksum:
                faults.append(f"{name} is not the file that was fetched")
    return faults


def main(argv: list[str] | None = None) -> int:
    """Fetch or check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, compare with the record")
    if parser.parse_args(argv).check:
        faults = check()
        for fault in faults:
            print(f"book/public/vendor: {fault}. Run python tools/vendor_javascript.py.", file=sys.stderr)
        return 1 if faults else 0
    with tempfile.TemporaryDirectory() as scratch:
        record = {package.name: fetch(package, Path(scratch)) for package in PACKAGES}
    write_json(VENDOR / RECORD, record)
    write_text(VENDOR / "README.md", readme(record))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
