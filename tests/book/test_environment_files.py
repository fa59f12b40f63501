"""The files that say what to install agree with pyproject.toml, the one that is right."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = dict(
    line.split("==", 1)
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").split("\n")
    if line.strip() and not line.startswith("#")
)


def asked_for(extra: str) -> list[Requirement]:
    """What the package needs with an extra, and with the extras of its own that this one names."""
    found: list[Requirement] = []
    for line in PROJECT["optional-dependencies"][extra]:
        wanted = Requirement(line)
        own = canonicalize_name(wanted.name) == PROJECT["name"]
        found += [more for name in wanted.extras for more in asked_for(name)] if own else [wanted]
    return found


NEEDED = [Requirement(line) for line in PROJECT["dependencies"]] + asked_for("dev")


def test_the_conda_environment_asks_pyproject_and_nothing_else() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    python, pip, by_pip = environment["dependencies"]
    assert pip == "pip"
    # The package with the extra of a reader: whatever pyproject says of them holds here too, with no second list.
    assert by_pip == {"pip": ["-e .[book]"]}
    assert "book" in PROJECT["optional-dependencies"]
    version = re.fullmatch(r"python=(3\.\d+)", python)
    assert version
    assert PROJECT["requires-python"] == f">={version[1]}"
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]


@pytest.mark.parametrize("wanted", NEEDED, ids=str)
def test_the_lock_holds_a_version_that_pyproject_allows(wanted: Requirement) -> None:
    version = LOCK[canonicalize_name(wanted.name)]
    assert wanted.specifier.contains(version.split(" ")[0], prereleases=True)


def test_the_lock_pins_everything_exactly_and_leaves_the_cuda_build_to_torch() -> None:
    assert LOCK["torch"] == "2.13.0"
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.!]*( ; .+)?", version) for version in LOCK.values())
    assert not [name for name in LOCK if name.startswith(("nvidia", "cuda", "triton"))]


def test_the_versions_that_were_chosen_by_hand_are_the_locked_ones() -> None:
    lines = (ROOT / "requirements.constraints").read_text(encoding="utf-8").splitlines()
    chosen = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
    assert chosen
    assert all(wanted.specifier.contains(LOCK[canonicalize_name(wanted.name)]) for wanted in chosen)
