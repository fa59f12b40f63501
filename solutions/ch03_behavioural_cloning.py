"""Answers to the exercises of chapter 3: sums of rewards over time, and behavioural cloning."""

from rlcourse.objectives.policies import categorical_entropy, negative_log_likelihood
from rlcourse.objectives.returns import discounted_returns, discounts, n_step_rewards

hunt_n_step_rewards = n_step_rewards

EXERCISES = (
    discounts.__name__,
    discounted_returns.__name__,
    n_step_rewards.__name__,
    negative_log_likelihood.__name__,
    categorical_entropy.__name__,
    "hunt_n_step_rewards",
)
