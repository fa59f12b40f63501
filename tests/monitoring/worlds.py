"""Plants whose logs the drift tests read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rlcourse.environments.server_room import Fault, ServerRoom, thermostat
from rlcourse.experience.episodes import Array as AnyArray
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.signals import Array
from rlcourse.randomness import Seeds


def autoregression(streams: int, steps: int, memory: float, rng: np.random.Generator) -> Array:
    """``(streams, steps)``: standard normal at every step, correlated in time."""
    noise = rng.standard_normal((streams, steps)) * np.sqrt(1.0 - memory**2)
    series = np.empty((streams, steps))
    series[:, 0] = rng.standard_normal(streams)
    for step in range(1, steps):
        series[:, step] = memory * series[:, step - 1] + noise[:, step]
    return series


def small_plant(episodes: int, rng: np.random.Generator, *, steps: int = 24, memory: float = 0.9) -> Episodes:
    """Two slow features, two actions that follow the first, a reward that follows both."""
    states = np.stack([autoregression(episodes, steps + 1, memory, rng) for _ in range(2)], axis=2)
    actions = (states[:, :-1, 0] + 0.5 * rng.standard_normal((episodes, steps)) > 0).astype(np.int64)
    rewards = states[:, :-1, 1] - actions + 0.1 * rng.standard_normal((episodes, steps))
    return packed(states, actions, rewards)


def steady_plant(episodes: int, rng: np.random.Generator, *, steps: int = 24) -> Episodes:
    """The same with two continuous actions: the first follows the first feature, the second is noise."""
    log = small_plant(episodes, rng, steps=steps)
    first = np.delete(log.observations[:, 0], np.arange(steps, len(log.observations), steps + 1))
    actions = np.stack([0.5 * first, 0.0 * first], axis=1) + 0.3 * rng.standard_normal((len(first), 2))
    return replace(log, actions=actions.astype(np.float32))


def packed(states: AnyArray, actions: AnyArray, rewards: AnyArray) -> Episodes:
    """``(E, T + 1, D)``, ``(E, T)`` and ``(E, T)``; a time limit ended all of them."""
    count, steps = actions.shape
    return Episodes(
        observations=states.reshape(-1, states.shape[-1]).astype(np.float32),
        actions=actions.reshape(-1).astype(np.int64),
        rewards=rewards.reshape(-1).astype(np.float32),
        behaviour_probabilities=np.full(count * steps, np.nan, np.float32),
        lengths=np.full(count, steps, np.int64),
        terminated=np.zeros(count, np.bool_),
    )


def server_rooms(days: int, seed: int, fault: Fault | None = None) -> Episodes:
    """Whole days of rooms under the thermostat."""
    room = ServerRoom(days, generator=Seeds(seed).torch("environment"))
    if fault is not None:
        room.inject(fault)
    policy, obs = thermostat(), room.reset()
    seen, actions, rewards = [obs], [], []
    while room.finished is None:
        actions.append(policy.act(obs, greedy=True))
        step = room.step(actions[-1])
        seen.append(step.next_obs)
        rewards.append(step.reward)
        obs = step.obs
    columns = [torch.stack(part, dim=1).numpy() for part in (seen, actions, rewards)]
    return packed(*columns)
