"""Answers to the exercises of chapter 4: conservative Q-learning."""

from rlcourse.networks.targets import polyak_update_
from rlcourse.objectives.values import bellman_target, conservative_penalty, double_q_value, squared_td_error

hunt_double_q_value = double_q_value
hunt_conservative_penalty = conservative_penalty

EXERCISES = (
    bellman_target.__name__,
    double_q_value.__name__,
    squared_td_error.__name__,
    conservative_penalty.__name__,
    polyak_update_.__name__,
    "hunt_double_q_value",
    "hunt_conservative_penalty",
)
