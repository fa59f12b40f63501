"""Stands in for ``rlcourse.course`` while a submission is graded, so that a notebook's own checks do no harm."""

from __future__ import annotations

from typing import Any


def check(function: Any, **settings: Any) -> None:
    """Nothing: the grader checks."""


def show(thing: Any) -> None:
    """Nothing: nobody is looking."""
