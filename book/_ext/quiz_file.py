"""Reading a quiz from YAML: the format, and an error that names the place for every way to get it wrong.

::

    title: Check yourself            # optional
    questions:
      - question: "Which way does $\\tau$ pull $V$?"     # Markdown, with equations
        choices:
          - text: "Up, towards the better actions in the data."
            correct: true
            explanation: "Errors above V weigh tau, errors below weigh 1 - tau."
          - text: "Down."
            explanation: "That is what tau below one half does."
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlcourse.errors import RLCourseError

DEFAULT_TITLE = "Check yourself"


class QuizError(RLCourseError):
    """A quiz file does not say what a quiz needs."""


@dataclass(frozen=True)
class Choice:
    """One answer to a question, with the reason why it is right or wrong. Markdown."""

    text: str
    explanation: str
    correct: bool


@dataclass(frozen=True)
class Question:
    """A question with two or more choices, of which exactly one is correct. Markdown."""

    question: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Quiz:
    """The questions of one chapter."""

    title: str
    questions: tuple[Question, ...]


def read_quiz(path: Path) -> Quiz:
    """Read and check one file.

    Raises:
        QuizError: the file is missing, is not YAML, or breaks the format; the message names the question.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise QuizError(f"There is no quiz file {path.name}.", mend="Write it, or mend the path.") from error
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise QuizError(
            f"{path.name} is not YAML: {error}", mend="Put quotes around text that holds a colon, # or a backslash."
        ) from error
    return parse_quiz(value, path.name)


def parse_quiz(value: Any, where: str) -> Quiz:
    """Check what the YAML said. ``where`` names the file in errors.

    Raises:
        QuizError: a key is missing, unknown or of the wrong type, or not exactly one choice is correct.
    """
    fields = _fields(value, where, required={"questions"}, optional={"title"})
    questions = _list(fields["questions"], f"{where}: questions", at_least=1)
    return Quiz(
        title=_text(fields.get("title", DEFAULT_TITLE), f"{where}: title"),
        questions=tuple(_question(item, f"{where}: question {n}") for n, item in enumerate(questions, 1)),
    )


def _question(value: Any, where: str) -> Question:
    fields = _fields(value, where, required={"question", "choices"}, optional=set())
    items = _list(fields["choices"], f"{where}, choices", at_least=2)
    choices = tuple(_choice(item, f"{where}, choice {n}") for n, item in enumerate(items, 1))
    correct = sum(choice.correct for choice in choices)
    if correct != 1:
        raise QuizError(f"{where} has {correct} correct choices.", mend="Mark exactly one with correct: true.")
    if len({choice.text for choice in choices}) < len(choices):
        raise QuizError(f"{where} offers the same choice twice.", mend="Make the choices different.")
    return Question(_text(fields["question"], where), choices)


def _choice(value: Any, where: str) -> Choice:
    fields = _fields(value, where, required={"text", "explanation"}, optional={"correct"})
    correct = fields.get("correct", False)
    if not isinstance(correct, bool):
        raise QuizError(f"{where}: correct is {correct!r}.", mend="Write true or false.")
    return Choice(
        _text(fields["text"], f"{where}: text"), _text(fields["explanation"], f"{where}: explanation"), correct
    )


def _fields(value: Any, where: str, *, required: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise QuizError(f"{where} is {type(value).__name__}, not a mapping.", mend=f"Give it {_names(required)}.")
    if missing := required - value.keys():
        raise QuizError(f"{where} lacks {_names(missing)}.", mend="Every choice needs a text and an explanation.")
    if unknown := value.keys() - required - optional:
        raise QuizError(f"{where} has unknown {_names(unknown)}.", mend=f"Known: {_names(required | optional)}.")
    return value


def _list(value: Any, where: str, *, at_least: int) -> list[Any]:
    if not isinstance(value, list) or len(value) < at_least:
        raise QuizError(f"{where} is not a list of at least {at_least}.", mend="Start each entry with a dash.")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise QuizError(f"{where} is {value!r}, not a text.", mend="Write a sentence, in quotes if it is a number.")
    return value.strip()


def _names(keys: set[str]) -> str:
    return ", ".join(sorted(map(str, keys)))
