"""Answers to the exercises of chapter 6: off-policy evaluation."""

from __future__ import annotations

from rlcourse.objectives.importance import (
    clipped_cumulative_ratios,
    cumulative_ratios,
    doubly_robust_returns,
    effective_sample_size,
    importance_sampled_returns,
    per_decision_returns,
    probability_worse,
    resampled_means,
    step_ratios,
    taken_and_expected,
    weighted_mean,
)

hunt_clipped_cumulative_ratios = clipped_cumulative_ratios
hunt_resampled_means = resampled_means
hunt_taken_and_expected = taken_and_expected

EXERCISES = (
    step_ratios.__name__,
    cumulative_ratios.__name__,
    importance_sampled_returns.__name__,
    per_decision_returns.__name__,
    weighted_mean.__name__,
    effective_sample_size.__name__,
    doubly_robust_returns.__name__,
    probability_worse.__name__,
    "hunt_clipped_cumulative_ratios",
    "hunt_resampled_means",
    "hunt_taken_and_expected",
)
