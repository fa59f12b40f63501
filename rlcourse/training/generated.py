"""What the makers of logs share: the log and its story, authors that need no training, and how a long life is thinned."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from rlcourse.environments import NATIVE, make
from rlcourse.errors import ConfigError
from rlcourse.experience.collection import collect, first_transitions
from rlcourse.experience.episodes import Episodes
from rlcourse.networks import EpsilonGreedyPolicy, UniformBoxPolicy, UniformPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.scripted import scripted_policy
from rlcourse.vocabulary import ContinuousActions, DiscretePolicy

NUM_ENVS = 32
"""Copies in which the author of a log acts, where a tensor program makes them cheap."""
NUM_GYMNASIUM_ENVS = 8
"""... and where each is stepped by itself. Fewer leave less unfinished work behind."""


@dataclass(frozen=True)
class Generated:
    """Episodes and the story of who made them."""

    episodes: Episodes
    behaviour: str
    details: dict[str, float | int | str] = field(default_factory=dict)


def copies(env_id: str) -> int:
    """In how many copies of a task an author acts."""
    return NUM_ENVS if env_id in NATIVE else NUM_GYMNASIUM_ENVS


def random_log(env_id: str, num_transitions: int, seeds: Seeds, device: torch.device | str) -> Generated:
    """Every action alike."""
    env = make(env_id, copies(env_id), seeds=seeds.child("random"), device=device)
    generator = seeds.torch("random", device)
    if isinstance(env.actions, ContinuousActions):
        episodes = collect(env, UniformBoxPolicy(env.actions), num_transitions, generator=generator)
        return Generated(episodes, "uniform within the bounds of the actions")
    episodes = collect(env, UniformPolicy(env.num_actions), num_transitions, generator=generator)
    return Generated(episodes, "uniform over the actions")


def scripted_log(
    env_id: str, num_transitions: int, epsilon: float, seeds: Seeds, device: torch.device | str
) -> Generated:
    """The rule a person wrote down for the task, which with probability ``epsilon`` tries any action instead.

    For the server room it is the thermostat.

    Raises:
        ConfigError: nobody has written a rule, or the actions are continuous: half a rule and half a density have no
            common measure, so that there would be no propensity to log.
    """
    env = make(env_id, copies(env_id), seeds=seeds.child("scripted"), device=device)
    rule = scripted_policy(env)
    if not isinstance(rule, DiscretePolicy):
        raise ConfigError(
            f"The scripted policy for {env_id} acts in continuous actions and has no propensities to log.",
            mend="Use another quality: random, medium, expert, mixed or replay.",
        )
    policy = EpsilonGreedyPolicy(rule, epsilon)
    episodes = collect(env, policy, num_transitions, generator=seeds.torch("scripted", device))
    name = "thermostat" if env_id == "rlcourse/ServerRoom-v0" else "rule written by hand"
    return Generated(episodes, f"{name}, acting with epsilon {epsilon}", {"epsilon": epsilon})


def thinned(episodes: Episodes, num_transitions: int) -> Episodes:
    """Evenly spaced episodes over the whole life, about ``num_transitions`` of them, then cut to the number."""
    share = num_transitions / episodes.num_transitions
    if share >= 1.0:
        return first_transitions(episodes, num_transitions)
    # Keep an episode whenever the running total of transitions passes the next multiple of 1 / share.
    ends = np.cumsum(episodes.lengths)
    quota = np.floor(ends * share / np.maximum(1.0, ends[-1] * share) * num_transitions)
    kept, total = [], 0
    for index, allowed in enumerate(quota):
        if total < allowed:
            kept.append(index)
            total += int(episodes.lengths[index])
    return first_transitions(episodes.select(np.asarray(kept)), num_transitions)
