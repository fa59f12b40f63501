"""Which code made a policy: versions name releases, and what was changed since has none."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import rlcourse

PACKAGE = Path(rlcourse.__file__).parent


@functools.cache
def code() -> dict[str, Any]:
    """The code of this package as it runs here.

    Returns:
        ``source_sha256`` over the package's modules; ``commit`` and whether something was ``changed`` since, both
        ``None`` where the package does not lie in a git checkout of its own.
    """
    commit = _git("rev-parse", "HEAD")
    status = None if commit is None else _git("status", "--porcelain", "--", PACKAGE.name)
    return {
        "source_sha256": source_sha256(PACKAGE),
        "commit": commit,
        "changed": None if status is None else bool(status),
    }


def source_sha256(package: Path) -> str:
    """SHA-256 over the names and the contents of all ``.py`` files of a package; the order of the disk is no part of it."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _git(*words: str) -> str | None:
    root = PACKAGE.parent
    # A package that was installed into somebody else's project must not be given that project's commit.
    if not (root / ".git").exists():
        return None
    # What a hook or a shell has set would point elsewhere; and a look must not take a lock.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *words],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env=clean,
        )
    except (OSError, subprocess.SubprocessError):  # no git here, or it does not trust the folder
        return None
    return done.stdout.strip()
