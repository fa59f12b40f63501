"""What a policy earns: whole episodes, all at once, in a batched environment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlcourse.environments import BatchedEnvironment, make
from rlcourse.environments.batched import MaskedEnvironment
from rlcourse.errors import ConfigError
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import MaskedPolicy, Policy, RecurrentPolicy

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
    A policy with a memory therefore begins it once; a masked environment says at every step what is allowed.

    Args:
        policy: acts on ``(num_episodes, D)`` observations.
        env_id: a Gymnasium name.
        num_episodes: how many.
        greedy: act greedily, or sample.
        seeds: first states follow from its ``"environment"`` stream, samples from ``"actions"``.
        device: where to run.

    Returns:
        ``(num_episodes,)``.

    Raises:
        ConfigError: no episodes asked for, none that ends, or an environment whose masks the policy cannot be told.
    """
    if num_episodes < 1:
        raise ConfigError(f"{num_episodes} episodes say nothing.", mend="Use 1 or more.")
    env = make(env_id, num_episodes, seeds=seeds, device=device)
    choose = _choosing(policy, env, greedy, seeds.torch("actions", device))
    obs = env.reset()
    total = torch.zeros(num_episodes, device=device, dtype=torch.float64)
    running = torch.ones(num_episodes, device=device, dtype=torch.bool)
    for _ in range(MAX_STEPS):
        step = env.step(choose(obs))
        total += step.reward * running
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
        if not running.any():
            returns: npt.NDArray[np.float64] = total.cpu().numpy()
            return returns
    raise ConfigError(
        f"{env_id} still had open episodes after {MAX_STEPS} steps.", mend="Give the environment a time limit."
    )


def _choosing(
    policy: Policy, env: BatchedEnvironment, greedy: bool, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """How ``policy`` turns ``(N, D)`` observations into actions, from the first step of ``env``'s episodes on."""
    if isinstance(env, MaskedEnvironment):
        mask = env.action_mask
        if not isinstance(policy, MaskedPolicy):
            raise ConfigError(
                f"{env.env_id} rules out actions, and a {type(policy).__name__} cannot be told which.",
                mend="Use a policy with act_within: one over discrete actions, without memory.",
            )
        within = policy.act_within
        return lambda obs: within(obs, mask(), greedy=greedy, generator=generator)
    if isinstance(policy, RecurrentPolicy):
        remembering, memory = policy.act_remembering, policy.first_memory(env.num_envs)

        def choose(obs: Tensor) -> Tensor:
            nonlocal memory
            action, memory = remembering(obs, memory, greedy=greedy, generator=generator)
            return action

        return choose
    return lambda obs: policy.act(obs, greedy=greedy, generator=generator)
