"""What a policy earns: whole episodes, all at once, in a batched environment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from rlcourse.environments import make
from rlcourse.errors import ConfigError
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import Policy

MAX_STEPS = 100_000
"""An environment whose episodes never end is an error, not a wait."""


def episode_returns(
    policy: Policy,
    env_id: str,
    *,
    num_episodes: int,
    greedy: bool,
    seeds: Seeds,
    device: torch.device | str = "cpu",
) -> npt.NDArray[np.float64]:
    """The undiscounted return of ``num_episodes`` episodes, one from each of as many environments.

    One episode per environment, and all of them counted: taking the first to finish would favour short episodes.

    Args:
        policy: acts on ``(num_episodes, D)`` observations.
        env_id: a Gymnasium name.
        num_episodes: how many.
        greedy: act greedily, or sample.
        seeds: first states follow from its ``"environment"`` stream, samples from ``"actions"``.
        device: where to run.

    Returns:
        ``(num_episodes,)``.
    """
    if num_episodes < 1:
        raise ConfigError(f"{num_episodes} episodes say nothing.", mend="Use 1 or more.")
    env = make(env_id, num_episodes, seeds=seeds, device=device)
    generator = seeds.torch("actions", device)
    obs = env.reset()
    total = torch.zeros(num_episodes, device=device, dtype=torch.float64)
    running = torch.ones(num_episodes, device=device, dtype=torch.bool)
    for _ in range(MAX_STEPS):
        step = env.step(policy.act(obs, greedy=greedy, generator=generator))
        total += step.reward * running
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
        if not running.any():
            returns: npt.NDArray[np.float64] = total.cpu().numpy()
            return returns
    raise ConfigError(
        f"{env_id} still had open episodes after {MAX_STEPS} steps.", mend="Give the environment a time limit."
    )
