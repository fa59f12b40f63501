"""Answers to the exercises of chapter 13: tuning, and the noise it feeds on."""

from __future__ import annotations

from rlcourse.evaluation.selection import below_median, expected_best, shrunken_scores

hunt_shrunken_scores = shrunken_scores

EXERCISES = (
    expected_best.__name__,
    below_median.__name__,
    shrunken_scores.__name__,
    "hunt_shrunken_scores",
)
