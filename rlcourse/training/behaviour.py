"""Policies good, middling and bad, trained here, and the logs they leave behind.

========  =====================================================================================================
quality   who acted
========  =====================================================================================================
random    every action alike
medium    a double DQN stopped when its *greedy* return was about 200, acting with epsilon 0.3
expert    a double DQN stopped when its greedy return reached 475, acting with epsilon 0.02
mixed     half of it random, half of it medium
replay    one double DQN while it learned, with epsilon falling from 1 to 0.05 over the first half of its life
========  =====================================================================================================

A replay log is a sample of a life, not the life itself. The life is a little longer than the log, and never shorter
than 96,000 steps, so that also a small log reaches from the first random step to a learner that is good. It does not
stop when the task is solved. Episodes that were still open at its end are left out; of the others, evenly spaced ones
are kept until they hold as many transitions as were asked for. Learners whose greedy return never reached 475 are not
used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch

from rlcourse.algorithms.dqn import DQN, DQNConfig
from rlcourse.environments import BatchedEnvironment, make
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.experience.collection import EpisodeRecorder, collect, first_transitions
from rlcourse.experience.episodes import Episodes
from rlcourse.networks import EpsilonGreedyPolicy, UniformPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.off_policy import OffPolicyConfig, train_off_policy
from rlcourse.vocabulary import ListTracker, TaskSpec, Tracker

Quality = Literal["random", "medium", "expert", "mixed", "replay"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)

SOLVED_RETURN = 475.0
"""CartPole-v1 counts as solved from here on (Gymnasium's reward threshold)."""
MEDIUM_RETURN = 200.0
MEDIUM_TOLERANCE = 40.0
MEDIUM_EPSILON = 0.3
EXPERT_EPSILON = 0.02
NUM_ENVS = 32
SHORTEST_LIFE = 80_000
"""What the life behind a small replay log is made for, in transitions. In lives made for 40,000, 60,000, 80,000 and
100,000 of them 2, 5, 6 and 5 of eight learners reached 475."""
ATTEMPTS = 5
"""Fresh learners tried before giving up; one in a few never passes through the wanted band."""


@dataclass(frozen=True)
class Generated:
    """Episodes and the story of who made them."""

    episodes: Episodes
    behaviour: str
    details: dict[str, float | int | str] = field(default_factory=dict)


def generate(
    env_id: str,
    quality: Quality,
    num_transitions: int,
    *,
    seeds: Seeds,
    device: torch.device | str = "cpu",
    tracker: Tracker | None = None,
) -> Generated:
    """Collect ``num_transitions`` transitions of the given quality.

    Raises:
        ConfigError: unknown quality, or fewer than 1 transition.
        TrainingDivergedError: none of :data:`ATTEMPTS` learners reached the return the quality asks for.
    """
    if quality not in QUALITIES:
        raise ConfigError(f"There is no quality {quality!r}.", mend=f"Use one of {', '.join(QUALITIES)}.")
    if num_transitions < 1:
        raise ConfigError(f"{num_transitions} transitions are not a data set.", mend="Use 1 or more.")
    if quality == "random":
        return _random(env_id, num_transitions, seeds, device)
    if quality == "mixed":
        return _mixed(env_id, num_transitions, seeds, device, tracker)
    if quality == "replay":
        return _replay(env_id, num_transitions, seeds, device, tracker)
    return _trained(env_id, quality, num_transitions, seeds, device, tracker)


def _random(env_id: str, num_transitions: int, seeds: Seeds, device: torch.device | str) -> Generated:
    env = make(env_id, NUM_ENVS, seeds=seeds.child("random"), device=device)
    episodes = collect(env, UniformPolicy(env.num_actions), num_transitions, generator=seeds.torch("random", device))
    return Generated(episodes, "uniform over the actions")


def _mixed(
    env_id: str, num_transitions: int, seeds: Seeds, device: torch.device | str, tracker: Tracker | None
) -> Generated:
    half = num_transitions // 2
    random = _random(env_id, max(1, half), seeds, device)
    medium = _trained(env_id, "medium", num_transitions - half, seeds, device, tracker)
    both = Episodes.concatenate([random.episodes, medium.episodes])
    return Generated(both, f"half {random.behaviour}; half {medium.behaviour}", medium.details)


def _trained(
    env_id: str,
    quality: Quality,
    num_transitions: int,
    seeds: Seeds,
    device: torch.device | str,
    tracker: Tracker | None,
) -> Generated:
    epsilon = MEDIUM_EPSILON if quality == "medium" else EXPERT_EPSILON

    def reached(step: int, greedy_return: float) -> bool:
        if quality == "medium":
            return abs(greedy_return - MEDIUM_RETURN) <= MEDIUM_TOLERANCE
        return greedy_return >= SOLVED_RETURN

    # A learner on its way up passes 200 early or not at all; 475 may take it long, and the wait costs seconds. Whole
    # numbers of evaluations: an extra one at the end would be one more chance to stop by luck.
    config = OffPolicyConfig(num_steps=480 * (62 if quality == "medium" else 312), eval_every=480)
    for attempt in range(ATTEMPTS):
        family = seeds.child(quality, attempt)
        learner, env, history = _learner(env_id, family, device)
        train_off_policy(learner, env, config, seeds=family, tracker=history, stop=reached)
        steps, returns = history.series("eval/greedy_return")
        if reached(steps[-1], returns[-1]):
            policy = EpsilonGreedyPolicy(learner.policy, epsilon)
            acting = make(env_id, NUM_ENVS, seeds=family.child("acting"), device=device)
            episodes = collect(acting, policy, num_transitions, generator=family.torch("acting", device))
            details: dict[str, float | int | str] = {
                "greedy_return": round(returns[-1], 1),
                "trained_for_steps": steps[-1],
                "epsilon": epsilon,
                "attempt": attempt,
            }
            story = f"double DQN stopped at a greedy return of {returns[-1]:.0f}, acting with epsilon {epsilon}"
            return Generated(episodes, story, details)
    raise _never_reached(env_id, quality)


def _replay(
    env_id: str, num_transitions: int, seeds: Seeds, device: torch.device | str, tracker: Tracker | None
) -> Generated:
    # A short life seldom reaches 475, so a small request gets a thinned long one. Finished episodes alone are kept, so
    # the life is longer than the data by what the copies can have open at the end: 500 steps each.
    lifetime = max(num_transitions, SHORTEST_LIFE) + 500 * NUM_ENVS
    config = OffPolicyConfig(num_steps=lifetime, exploration_steps=lifetime // 2, eval_every=1_920)
    for attempt in range(ATTEMPTS):
        family = seeds.child("replay", attempt)
        learner, env, history = _learner(env_id, family, device)
        recorder = EpisodeRecorder()
        train_off_policy(learner, env, config, seeds=family, tracker=history, recorder=recorder)
        steps, returns = history.series("eval/greedy_return")
        if max(returns) >= SOLVED_RETURN:
            first = next(s for s, r in zip(steps, returns, strict=True) if r >= SOLVED_RETURN)
            episodes = _thinned(recorder.episodes(), num_transitions)
            details: dict[str, float | int | str] = {
                "best_greedy_return": round(max(returns), 1),
                "last_greedy_return": round(returns[-1], 1),
                "first_solved_at_step": first,
                "lifetime_steps": lifetime,
                "attempt": attempt,
            }
            story = (
                f"evenly spaced finished episodes from {lifetime} steps in the life of one double DQN, epsilon from 1 "
                f"to 0.05 over the first half; its greedy return reached {SOLVED_RETURN:.0f} by step {first}"
            )
            return Generated(episodes, story, details)
    raise _never_reached(env_id, "replay")


def _learner(env_id: str, family: Seeds, device: torch.device | str) -> tuple[DQN, BatchedEnvironment, ListTracker]:
    env = make(env_id, NUM_ENVS, seeds=family, device=device)
    with family.initialising("networks"):
        learner = DQN(TaskSpec.unscaled(env.obs_size, env.num_actions, device), DQNConfig())
    return learner, env, ListTracker()


def _thinned(episodes: Episodes, num_transitions: int) -> Episodes:
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


def _never_reached(env_id: str, quality: str) -> TrainingDivergedError:
    return TrainingDivergedError(
        f"None of {ATTEMPTS} learners on {env_id} reached the return that {quality!r} data asks for.",
        mend="Use another seed, or a quality the task allows (random always works).",
    )
