"""``rlcourse``: which command runs, what wrong words are answered, and with which exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlcourse.recipes.command_line import COMMANDS, main


@pytest.mark.parametrize("name", sorted(COMMANDS), ids=" ".join)
def test_every_command_explains_itself_and_has_the_common_options(
    name: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*name, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--seed", "--device", "--json"):
        assert option in shown
    assert f"rlcourse {' '.join(name)}" in shown


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"rlcourse {' '.join(name)}" in shown for name in COMMANDS)
    assert main([]) == 2


def test_a_group_lists_its_own_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["offline", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "rlcourse offline compare" in shown
    assert "rlcourse grade" not in shown
    assert main(["offline"]) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ofline", "train"], "offline train"),
        (["offline", "generat"], "offline generate"),
        (["doktor"], "rlcourse doctor"),
    ],
)
def test_a_misspelt_command_is_2_and_names_the_near_one(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["offline", "train"], "--dataset"),
        (["offline", "train", "--dataset", "x/y-v0", "--algorithm", "cqk"], "cqk"),
        (["offline", "train", "--dataset", "x/y-v0", "--updates", "many"], "many"),
        (["offline", "train", "--dataset", "x/y-v0", "--updates", "0"], "updates is 0"),
        (["offline", "train", "--dataset", "x/y-v0", "--updats", "3"], "--updats"),
        (["offline", "generate", "--quality", "superb"], "superb"),
        (["offline", "generate", "--env", "CartPole-v9"], "CartPole-v9"),
        (["offline", "generate", "--transitions", "0", "--quality", "random"], "0 transitions"),
        (["offline", "compare", "--dataset", "x/y-v0", "--algorithms", "cql"], "bc among them"),
        (["offline", "compare", "--dataset", "x/y-v0", "--seeds", "1"], "2 seeds or more"),
        (["offline", "compare", "--dataset", "x/y-v0", "--plot", "a.gif"], "a.gif"),
        (["offline", "train", "--dataset", "x/y-v0", "--device", "abacus"], "abacus"),
    ],
)
def test_wrong_words_are_2_and_name_what_is_wrong(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    status = main(words)
    out, err = capsys.readouterr()
    assert status == 2, err
    assert says in err
    assert "Traceback" not in err
    assert out == ""


def test_a_data_set_that_is_not_there_is_1_and_lists_what_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["offline", "generate", "--quality", "random", "--transitions", "50", "--root", str(tmp_path)]) == 0
    assert main(["offline", "train", "--dataset", "cartpole/expert-v0", "--root", str(tmp_path)]) == 1
    assert "cartpole/random-v0" in capsys.readouterr().err


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(config: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlcourse.recipes.doctor.run", interrupted)
    assert main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_installed_command_answers_without_loading_torch() -> None:
    code = "import sys; from rlcourse.recipes.command_line import main; main(['--help']); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.splitlines()[-1] == "False"


def test_a_reader_who_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m rlcourse.recipes.command_line --help | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""


def test_doctor_finds_a_working_machine_and_says_so_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    states = {row["subject"]: row["state"] for row in content["results"]}
    for subject in ("torch", "device", "free disk", "an equation", "the physics", "learning", "a data set"):
        assert states[subject] == "ok", subject
    assert "Ready" in err


def test_doctor_fails_on_a_broken_equation_and_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlcourse.objectives.values import expectile_loss

    monkeypatch.setattr("rlcourse.recipes.doctor.expectile_loss", lambda error, tau: expectile_loss(error, 1 - tau))
    assert main(["doctor"]) == 1
    assert "Not ready: an equation" in capsys.readouterr().out


def test_doctor_fails_on_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cuda:99"]) == 1
    assert "Not ready: device" in capsys.readouterr().out
