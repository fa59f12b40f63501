"""environment.yml, pyproject.toml and the lock say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().split()
    return dict(line.split("==") for line in lines)


def test_the_environment_installs_this_project_with_an_extra_that_exists() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    (editable,) = by_pip  # a second line here would be a second source of truth
    found = re.fullmatch(r"-e \.\[(\w+)\]", editable)
    assert found is not None
    assert found[1] in project()["optional-dependencies"]
    assert environment["name"] == project()["name"]
    (python,) = [entry for entry in plain if entry.startswith("python=")]
    assert SpecifierSet(project()["requires-python"]).contains(python.removeprefix("python="))
    assert sorted(plain) == ["pip", python]


def test_the_lock_holds_every_dependency_in_its_range() -> None:
    versions = locked()
    extras = project()["optional-dependencies"]
    wanted = [Requirement(line) for line in [*project()["dependencies"], *extras["book"], *extras["dev"]]]
    wanted = [requirement for requirement in wanted if requirement.name != "rlcourse"]
    assert len(wanted) > 20
    for requirement in wanted:
        version = versions[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_the_lock_brings_no_cuda_libraries() -> None:
    assert not [name for name in locked() if name.startswith(("nvidia", "cuda", "triton"))]
    assert locked()["torch"] == "2.13.0"


def test_every_dependency_gives_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    entries = [line for line in section.splitlines() if line.strip().startswith('"')]
    bare = [line for line in entries if "#" not in line]
    # Test runners, linters and stubs explain themselves by their names.
    assert all(re.search(r'"(rlcourse|pytest>|ruff|mypy|pre-commit|types-)', line) for line in bare), bare
