"""Policies good, middling and bad, trained here, and the logs they leave behind.

For continuous actions a soft actor-critic is the author, see :mod:`~rlcourse.training.continuous_behaviour`. On CartPole:

========  =====================================================================================================
quality   who acted
========  =====================================================================================================
random    every action alike (any task)
scripted  a rule written by hand, with epsilon 0.2 unless told otherwise (any task that has one; the server room's is its
          thermostat)
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

from typing import Literal, get_args

import torch

from rlcourse.algorithms.dqn import DQN, DQNConfig
from rlcourse.environments import BatchedEnvironment, make
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.experience.collection import EpisodeRecorder, collect
from rlcourse.experience.episodes import Episodes
from rlcourse.networks import EpsilonGreedyPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.continuous_behaviour import replay_log, trained_log
from rlcourse.training.generated import NUM_ENVS, Generated, random_log, scripted_log, thinned
from rlcourse.training.off_policy import OffPolicyConfig, train_off_policy
from rlcourse.vocabulary import ContinuousActions, ListTracker, TaskSpec, Tracker

__all__ = ["QUALITIES", "Generated", "Quality", "generate"]

Quality = Literal["random", "scripted", "medium", "expert", "mixed", "replay", "medium-replay"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)

SOLVED_RETURN = 475.0
"""CartPole-v1 counts as solved from here on (Gymnasium's reward threshold)."""
MEDIUM_RETURN = 200.0
MEDIUM_TOLERANCE = 40.0
MEDIUM_EPSILON = 0.3
EXPERT_EPSILON = 0.02
SCRIPTED_EPSILON = 0.2
SHORTEST_LIFE = 80_000
"""What the life behind a small replay log is made for, in transitions. In lives made for 40,000, 60,000, 80,000 and
100,000 of them 2, 5, 6 and 5 of eight learners reached 475."""
ATTEMPTS = 5
"""Fresh learners tried before giving up; one in a few never passes through the wanted band."""


def generate(
    env_id: str,
    quality: Quality,
    num_transitions: int,
    *,
    seeds: Seeds,
    device: torch.device | str = "cpu",
    tracker: Tracker | None = None,
    training_steps: int | None = None,
    epsilon: float | None = None,
) -> Generated:
    """Collect ``num_transitions`` transitions of the given quality.

    Args:
        env_id: CartPole-v1, or a task with continuous actions; any task for a random log, any with a rule for a scripted.
        quality: who acts.
        num_transitions: how many.
        seeds: everything random follows from it.
        device: where networks and tensor environments live.
        tracker: gets the metrics of authors that learn.
        training_steps: how long the author of a log of continuous actions learns; by default what suits the task.
        epsilon: how often a scripted author tries any action instead, by default :data:`SCRIPTED_EPSILON`.

    Raises:
        ConfigError: unknown quality, fewer than 1 transition, a quality that the task does not have, or a setting that
            the quality does not know.
        TrainingDivergedError: none of the learners tried reached what the quality asks for.
        MissingExtraError: the task needs a package that is not installed.
    """
    if quality not in QUALITIES:
        raise ConfigError(f"There is no quality {quality!r}.", mend=f"Use one of {', '.join(QUALITIES)}.")
    if num_transitions < 1:
        raise ConfigError(f"{num_transitions} transitions are not a data set.", mend="Use 1 or more.")
    if epsilon is not None and quality != "scripted":
        raise ConfigError(f"A {quality} author has no epsilon to be set.", mend="Only scripted ones have.")
    continuous = isinstance(make(env_id, 1, seeds=seeds).actions, ContinuousActions)
    if training_steps is not None and (not continuous or quality in ("random", "scripted")):
        raise ConfigError(
            f"The author of a {quality} log of {env_id} does not learn for a number of steps that could be set.",
            mend="Leave --training-steps out; it is for authors that learn continuous actions.",
        )
    if quality == "random":
        return random_log(env_id, num_transitions, seeds, device)
    if quality == "scripted":
        chance = SCRIPTED_EPSILON if epsilon is None else epsilon
        return scripted_log(env_id, num_transitions, chance, seeds, device)
    if not continuous and env_id != "CartPole-v1":
        raise ConfigError(
            f"Nobody has said what a {quality} author on {env_id} is.",
            mend="Use random or scripted, CartPole-v1, or a task with continuous actions.",
        )
    if quality == "medium-replay" and not continuous:
        raise ConfigError(f"No life on {env_id} is told only to its middle.", mend="Use replay: all of it.")
    if quality == "replay" or quality == "medium-replay":
        if continuous:
            return replay_log(
                env_id,
                num_transitions,
                seeds=seeds,
                device=device,
                training_steps=training_steps,
                tracker=tracker,
                half=quality == "medium-replay",
            )
        return _replay(env_id, num_transitions, seeds, device, tracker)

    def trained(kind: Literal["medium", "expert"], count: int) -> Generated:
        if not continuous:
            return _trained(env_id, kind, count, seeds, device, tracker)
        return trained_log(
            env_id, kind, count, seeds=seeds, device=device, training_steps=training_steps, tracker=tracker
        )

    if quality != "mixed":
        return trained(quality, num_transitions)
    half = num_transitions // 2
    random, medium = random_log(env_id, max(1, half), seeds, device), trained("medium", num_transitions - half)
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
            episodes = thinned(recorder.episodes(), num_transitions)
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


def _never_reached(env_id: str, quality: str) -> TrainingDivergedError:
    return TrainingDivergedError(
        f"None of {ATTEMPTS} learners on {env_id} reached the return that {quality!r} data asks for.",
        mend="Use another seed, or a quality the task allows (random always works).",
    )
