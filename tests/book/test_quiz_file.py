"""The format of a quiz: what is accepted, and that every way to get it wrong is named."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from quiz_file import DEFAULT_TITLE, QuizError, parse_quiz, read_quiz  # noqa: E402

GOOD: dict[str, Any] = {
    "questions": [
        {
            "question": "Which way?",
            "choices": [
                {"text": "Up", "correct": True, "explanation": "Yes."},
                {"text": "Down", "explanation": "No."},
            ],
        }
    ]
}


def test_a_good_quiz_is_read_in_order() -> None:
    quiz = parse_quiz(GOOD, "ch04.yml")
    assert quiz.title == DEFAULT_TITLE
    assert [(choice.text, choice.correct) for choice in quiz.questions[0].choices] == [("Up", True), ("Down", False)]


def broken(change: str) -> Any:
    """The good quiz with one thing wrong."""
    quiz = copy.deepcopy(GOOD)
    question = quiz["questions"][0]
    match change:
        case "no questions":
            quiz["questions"] = []
        case "not a mapping":
            return ["questions"]
        case "unknown key":
            question["hint"] = "x"
        case "one choice":
            del question["choices"][1]
        case "none correct":
            del question["choices"][0]["correct"]
        case "two correct":
            question["choices"][1]["correct"] = True
        case "no explanation":
            del question["choices"][1]["explanation"]
        case "empty text":
            question["choices"][1]["text"] = " "
        case "number for text":
            question["choices"][1]["text"] = 0.9
        case "correct is a word":
            question["choices"][1]["correct"] = "no"
        case "twice the same":
            question["choices"][1]["text"] = "Up"
    return quiz


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("no questions", "at least 1"),
        ("not a mapping", "not a mapping"),
        ("unknown key", "question 1 has unknown hint"),
        ("one choice", "question 1, choices is not a list of at least 2"),
        ("none correct", "question 1 has 0 correct"),
        ("two correct", "question 1 has 2 correct"),
        ("no explanation", "choice 2 lacks explanation"),
        ("empty text", "choice 2: text"),
        ("number for text", "choice 2: text is 0.9"),
        ("correct is a word", "choice 2: correct is 'no'"),
        ("twice the same", "same choice twice"),
    ],
)
def test_a_broken_quiz_is_refused_with_its_place(change: str, says: str) -> None:
    with pytest.raises(QuizError) as caught:
        parse_quiz(broken(change), "ch04.yml")
    assert says in caught.value.problem and "ch04.yml" in caught.value.problem
    assert caught.value.mend


def test_a_missing_file_and_one_that_is_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(QuizError, match=r"no quiz file ch09\.yml"):
        read_quiz(tmp_path / "ch09.yml")
    (tmp_path / "ch09.yml").write_text('question: "a\nb: [', encoding="utf-8")
    with pytest.raises(QuizError, match="not YAML"):
        read_quiz(tmp_path / "ch09.yml")


@pytest.mark.parametrize("path", sorted((ROOT / "book" / "quizzes").glob("*.yml")), ids=lambda path: path.stem)
def test_the_book_s_quizzes_are_good_and_do_not_give_the_answer_away_by_place(path: Path) -> None:
    quiz = read_quiz(path)
    places = {next(n for n, c in enumerate(q.choices) if c.correct) for q in quiz.questions}
    assert len(places) > 1 or len(quiz.questions) == 1
