"""Which code made it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rlcourse.recipes import provenance


def test_any_change_of_a_module_or_its_name_is_another_source(tmp_path: Path) -> None:
    def of(**files: str) -> str:
        package = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            path = package / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (package / "notes.txt").write_text(str(package))  # no part of the code
        return provenance.source_sha256(package)

    first = of(a="x = 1", b__c="")
    assert len(first) == 64 and of(b__c="", a="x = 1") == first
    assert len({first, of(a="x = 2", b__c=""), of(a="x = 1", b__d=""), of(a="x = 1"), of(a="", b__c="x = 1")}) == 5


def test_a_checkout_names_its_commit_and_what_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "rlcourse"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    told = provenance.code.__wrapped__
    assert told() == {"source_sha256": provenance.source_sha256(package), "commit": None, "changed": None}

    def git(*words: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", "-C", str(tmp_path), *author, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as a hook has it
    found = told()
    monkeypatch.delenv("GIT_DIR")
    assert (found["commit"], found["changed"]) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "outside.txt").write_text("no code")
    assert told()["changed"] is False
    (package / "a.py").write_text("x = 2\n")
    changed = told()
    assert (changed["commit"], changed["changed"]) == (found["commit"], True)
    assert changed["source_sha256"] != found["source_sha256"]


def test_it_is_computed_once() -> None:
    assert provenance.code() is provenance.code()
    assert provenance.code()["source_sha256"] == provenance.source_sha256(provenance.PACKAGE)
