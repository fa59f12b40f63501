"""Answers to the exercises of chapter 2: the mathematics of PPO, and comparing runs."""

from __future__ import annotations

import torch
from torch import Tensor

from rlcourse.objectives.policies import (
    categorical_log_probability,
    clipped_surrogate,
    gaussian_log_probability,
    kl_estimate,
    masked_logits,
    normalised_advantages,
    squashing_correction,
)
from rlcourse.objectives.returns import generalised_advantages

hunt_generalised_advantages = generalised_advantages
hunt_normalised_advantages = normalised_advantages
hunt_clipped_surrogate = clipped_surrogate


def interquartile_mean(scores: Tensor) -> Tensor:
    """The mean of the middle half of the scores: steadier than the mean, less wasteful than the median.

    A quarter of the scores, rounded down, is cut off at either end. Agarwal et al. (2021), section 4.3.

    Args:
        scores: ``(..., K)`` float, one score a run, in any order.

    Returns:
        ``(...)``.

    Worked number: the scores (0, 1, 2, 3, 4, 5, 6, 100) give 3.5: two are cut at either end.
    """
    cut = scores.shape[-1] // 4
    ordered = scores.sort(dim=-1).values  # (..., K)
    return ordered[..., cut : scores.shape[-1] - cut].mean(-1)


def probability_of_improvement(ours: Tensor, theirs: Tensor) -> Tensor:
    """How likely a run of ours beats a run of theirs, over all pairs; a tie is half a win.

    The Mann-Whitney U statistic divided by the number of pairs. Agarwal et al. (2021), section 4.3.

    Args:
        ours: ``(R,)`` float, one score a run.
        theirs: ``(S,)`` float; S need not be R.

    Returns:
        ``()`` between 0 and 1.

    Worked number: (1, 2, 3) against (2, 2, 0): 9 pairs, 5 wins and 2 ties, so 6/9 = 0.667.
    """
    difference = ours.unsqueeze(-1) - theirs  # (R, S)
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean()


def hunt_first_states(seed: int, num_episodes: int) -> Tensor:
    """Where each episode of a cart and its pole begins; the generator is seeded once, and never again."""
    generator = torch.Generator().manual_seed(seed)
    states = []
    for _ in range(num_episodes):
        states.append(0.1 * torch.rand(4, generator=generator) - 0.05)
    return torch.stack(states)


EXERCISES = (
    generalised_advantages.__name__,
    normalised_advantages.__name__,
    categorical_log_probability.__name__,
    masked_logits.__name__,
    clipped_surrogate.__name__,
    kl_estimate.__name__,
    gaussian_log_probability.__name__,
    squashing_correction.__name__,
    interquartile_mean.__name__,
    probability_of_improvement.__name__,
    "hunt_generalised_advantages",
    "hunt_normalised_advantages",
    "hunt_clipped_surrogate",
    "hunt_first_states",
)
