"""The quiz as HTML: built by Sphinx from a page of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUIZ = """
title: Values
questions:
  - question: "Which way does $\\\\tau = 0.9$ pull?"
    choices:
      - {text: "Up & `away`", correct: true, explanation: "Right **so**."}
      - {text: Down, explanation: "That is 0.1."}
"""


def build(folder: Path, quiz: str) -> subprocess.CompletedProcess[str]:
    """A site of two pages, of which one has the quiz."""
    (folder / "quiz.yml").write_text(quiz, encoding="utf-8")
    (folder / "index.md").write_text("# Home\n\n```{toctree}\npage\n```\n", encoding="utf-8")
    (folder / "page.md").write_text("# Page\n\n```{quiz} quiz.yml\n```\n", encoding="utf-8")
    (folder / "public").mkdir()
    (folder / "public" / "quiz.js").write_bytes((ROOT / "book" / "public" / "quiz.js").read_bytes())
    (folder / "conf.py").write_text(
        "extensions = ['myst_parser', 'quiz']\nmyst_enable_extensions = ['dollarmath']\n"
        "exclude_patterns = ['public']\nhtml_extra_path = ['public']\n",
        encoding="utf-8",
    )
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(folder), str(folder / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "book" / "_ext")},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder, QUIZ)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_a_question_is_a_fieldset_with_labelled_buttons(site: Path) -> None:
    html = (site / "page.html").read_text(encoding="utf-8")
    assert html.count("<fieldset>") == html.count("</fieldset>") == 1
    assert html.count('type="radio"') == 2
    assert html.count("<label for=") == 2
    assert "Up &amp; " in html
    assert 'class="math' in html.split("<legend>")[1].split("</legend>")[0]


def test_explanations_are_hidden_until_asked_for_and_there_without_scripts(site: Path) -> None:
    html = (site / "page.html").read_text(encoding="utf-8")
    shown, without_scripts = html.split("<noscript>")
    assert shown.count('hidden=""') == 2 and 'role="status"' in shown
    assert "<details>" in without_scripts and "Right <strong>so</strong>." in without_scripts


def test_the_script_is_loaded_on_pages_with_a_quiz_only(site: Path) -> None:
    assert "quiz.js" in (site / "page.html").read_text(encoding="utf-8")
    assert "quiz.js" not in (site / "index.html").read_text(encoding="utf-8")


def test_a_broken_quiz_stops_the_build_and_names_the_question(tmp_path: Path) -> None:
    done = build(tmp_path, QUIZ.replace("correct: true, ", ""))
    assert done.returncode != 0
    assert "question 1 has 0 correct choices" in done.stderr
