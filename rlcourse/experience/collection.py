"""Collect episodes with a policy, and cut what ``N`` parallel environments produced into episodes.

A recorder sees one column per environment and one row per step::

    time   env 0   env 1
      0    e0      e1        each letter is one step of one episode;
      1    e0      e1 ┐      ┐ and ┘ mark where an episode ends
      2    e0 ┐    e2
      3    e3      e2        the episodes still open at the end are left out: keeping their first
                             halves would show a policy that dies less, or earlier, than it did
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rlcourse.environments import BatchedEnvironment, Step
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.experience.episodes import Episodes, concatenated_ranges
from rlcourse.networks import sample_actions
from rlcourse.vocabulary import ActionSpace, ContinuousActions, ContinuousPolicy, DiscretePolicy

Author = DiscretePolicy | ContinuousPolicy
"""Whoever can say how likely, or how dense, what it does is."""
LOG_DENSITIES = (-87.0, 88.0)
"""Log-densities are kept within these: what float32 can hold. Many nearly certain entries multiply to more."""


class EpisodeRecorder:
    """Remembers every step of a batched environment and hands them back as episodes, in the order they ended."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, ...]] = []

    def record(self, obs: Tensor, action: Tensor, probability: Tensor, step: Step) -> None:
        """Add one row: what was seen ``(N, D)``, done ``(N,)`` or ``(N, K)``, how likely that was ``(N,)``, what came of it.

        How likely a continuous action was is a density in the units of the action; NaN where nobody can say.
        """
        row = (obs, action, probability, step.reward, step.terminated, step.truncated, step.next_obs)
        self._rows.append(row)

    def __len__(self) -> int:
        """Steps recorded, finished or not."""
        return sum(row[1].shape[0] for row in self._rows[:1]) * len(self._rows)

    def episodes(self, within: int | None = None) -> Episodes:
        """Every episode that was finished, or was within the first so many steps, ordered by the moment it ended."""
        rows = self._rows if within is None else self._rows[: within // self._rows[0][1].shape[0]]
        obs, action, probability, reward, terminated, truncated, next_obs = (
            torch.stack(column).transpose(0, 1).cpu().numpy() for column in zip(*rows, strict=True)
        )  # each (N, T, ...)
        num_envs, num_steps = reward.shape
        env, last = np.nonzero(terminated | truncated)
        begins = np.where(np.diff(env, prepend=-1) != 0, 0, np.roll(last, 1) + 1)
        order = np.lexsort((env, last))
        flat = env * num_steps
        first, final = (flat + begins)[order], (flat + last)[order]
        lengths = final - first + 1
        steps = concatenated_ranges(first, lengths)
        return Episodes(
            observations=_with_last(obs.reshape(num_envs * num_steps, -1), next_obs, steps, final, lengths),
            actions=_joined(action)[steps],
            rewards=reward.reshape(-1)[steps].astype(np.float32),
            behaviour_probabilities=probability.reshape(-1)[steps].astype(np.float32),
            lengths=lengths.astype(np.int64),
            terminated=terminated.reshape(-1)[final],
        )


def collect(env: BatchedEnvironment, policy: Author, num_transitions: int, *, generator: torch.Generator) -> Episodes:
    """Act with ``policy`` (sampling) until enough episodes have *finished*, then keep exactly ``num_transitions``.

    The last episode kept may be cut short by :func:`first_transitions`.

    Args:
        env: reset here.
        policy: asked how likely what it does is; that is logged as the propensity.
        num_transitions: how many to return.
        generator: for the policy's choices, on the environment's device.

    Raises:
        ConfigError: the policy cannot say how likely what it does in this environment is.
        TrainingDivergedError: what it says is not a finite number; a log of such actions would look like any other.
    """
    recorder, act = EpisodeRecorder(), accountable(policy, env.actions, generator)
    obs = env.reset()
    finished, length = 0, torch.zeros(env.num_envs, device=env.device, dtype=torch.int64)
    while finished < num_transitions:
        action, propensity = act(obs)
        step = env.step(action)
        recorder.record(obs, action, propensity, step)
        length += 1
        ended = step.terminated | step.truncated
        finished += int(length[ended].sum())
        length.masked_fill_(ended, 0)
        obs = step.obs
    episodes = first_transitions(recorder.episodes(), num_transitions)
    if not np.isfinite(episodes.behaviour_probabilities).all():
        raise TrainingDivergedError(
            f"The probabilities of a {type(policy).__name__} stopped being finite while it was asked.",
            mend="Look at its weights and at the observations; a policy that diverged has to be trained anew.",
        )
    return episodes


def accountable(
    policy: object, actions: ActionSpace, generator: torch.Generator
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """How ``policy`` turns ``(N, D)`` observations into actions and ``(N,)`` propensities, sampling.

    The propensity of a continuous action is its density in the units of the action, so that a log needs no bounds to be
    understood: an even choice between -2 and 2 has 1/4 everywhere.

    Raises:
        ConfigError: the policy cannot say, or acts in another kind of actions.
    """
    if isinstance(actions, ContinuousActions) and isinstance(policy, ContinuousPolicy):
        sample, log_volume = policy.sample, actions.half_range.log().sum()

        @torch.no_grad()
        def act_densely(obs: Tensor) -> tuple[Tensor, Tensor]:
            action, log_density = sample(obs, generator)
            return action, (log_density - log_volume).clamp(*LOG_DENSITIES).exp()

        return act_densely
    if not isinstance(actions, ContinuousActions) and isinstance(policy, DiscretePolicy):
        probabilities_of = policy.probabilities

        def act(obs: Tensor) -> tuple[Tensor, Tensor]:
            probabilities = probabilities_of(obs)
            action = sample_actions(probabilities, generator)
            return action, probabilities.gather(-1, action.unsqueeze(-1)).squeeze(-1)

        return act
    raise ConfigError(
        f"A {type(policy).__name__} cannot say how likely what it does in this task is.",
        mend="Log a policy with probabilities (discrete actions) or with sample (continuous ones).",
    )


def first_transitions(episodes: Episodes, num_transitions: int) -> Episodes:
    """The first ``num_transitions`` steps; an episode that straddles the end is cut there and counts as truncated."""
    ends = np.cumsum(episodes.lengths)
    keep = int(np.searchsorted(ends, num_transitions)) + 1
    kept = episodes.select(np.arange(min(keep, episodes.num_episodes)))
    surplus = kept.num_transitions - num_transitions
    if surplus <= 0:
        return kept
    lengths, terminated = kept.lengths.copy(), kept.terminated.copy()
    lengths[-1] -= surplus
    terminated[-1] = False
    return Episodes(
        observations=kept.observations[:-surplus],
        actions=kept.actions[:-surplus],
        rewards=kept.rewards[:-surplus],
        behaviour_probabilities=kept.behaviour_probabilities[:-surplus],
        lengths=lengths,
        terminated=terminated,
    )


def _joined(action: np.ndarray) -> np.ndarray:
    # (N, T) or (N, T, K): one environment's steps after the other's.
    if action.ndim == 2:
        return action.reshape(-1).astype(np.int64)
    return action.reshape(-1, action.shape[-1]).astype(np.float32)


def _with_last(
    obs: np.ndarray, next_obs: np.ndarray, steps: np.ndarray, final: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    # Episode e contributes length_e + 1 rows: what was seen before each step, then what was seen after the last.
    rows = np.empty((len(steps) + len(lengths), obs.shape[1]), dtype=np.float32)
    last_rows = np.cumsum(lengths + 1) - 1
    is_last = np.zeros(len(rows), dtype=bool)
    is_last[last_rows] = True
    rows[is_last] = next_obs.reshape(-1, obs.shape[1])[final]
    rows[~is_last] = obs[steps]
    return rows
