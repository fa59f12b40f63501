from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.exports import FILES
from rlcourse.files import sha256_of
from rlcourse.recipes.command_line import main
from rlcourse.serving.torchserve import Model, read_archive
from tests.deployment.policies import artifact_of


def test_every_form_is_written_and_its_check_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact_of("recurrent").save(tmp_path / "policy")
    report = tmp_path / "report.json"
    words = ["--output", str(tmp_path / "out"), "--questions", "500", "--json", str(report), "--forms", *FILES]
    assert main(["export", str(tmp_path / "policy"), *words]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES.values())
    rows = json.loads(report.read_text())["results"]
    assert [row["form"] for row in rows] == list(FILES)
    for row in rows:
        assert row["sha256"] == sha256_of(Path(row["file"]))
        assert row["questions"] == 500 and row["other_actions"] == 0
        assert row["ordinary_difference"] < 5e-6 and row["share_of_tolerance"] <= 1
    shown = capsys.readouterr().out
    assert all(form in shown for form in FILES)
    again = PolicyArtifact.load(tmp_path / "out" / "policy.zip")
    assert again.description == artifact_of("recurrent").description


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["nowhere"], 1, "No such file"),
        (["policy", "--forms", "pickle"], 2, "pickle"),
        (["policy", "--questions", "0"], 2, "Nothing would be checked"),
        ([], 2, "Required options"),
    ],
)
def test_wrong_words(
    tmp_path: Path,
    words: list[str],
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    artifact_of("tanh").save(tmp_path / "policy")
    assert main(["export", *words]) == status
    assert says in capsys.readouterr().err
    assert not (tmp_path / "exports").exists()


def test_a_tampered_policy_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact_of("tanh").save(tmp_path / "policy")
    weights = tmp_path / "policy" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    for command in (["export"], ["serve", "archive"]):
        assert main([*command, str(tmp_path / "policy"), "--output", str(tmp_path / "out")]) == 1
        assert "not those that were saved" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_archive_takes_the_artifacts_version(tmp_path: Path) -> None:
    artifact_of("tanh", version="2026.3").save(tmp_path / "policy.zip")
    file = tmp_path / "store" / "one.mar"
    assert main(["serve", "archive", str(tmp_path / "policy.zip"), "--output", str(file)]) == 0
    assert read_archive(file) == Model("rl_policy", "2026.3")
    assert main(["serve", "archive", str(tmp_path / "policy.zip"), "--output", str(file), "--version", "4"]) == 0
    assert read_archive(file) == Model("rl_policy", "4")
