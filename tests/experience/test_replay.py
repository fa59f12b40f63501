from __future__ import annotations

import pytest
import torch

from rlcourse.environments import Step
from rlcourse.errors import ConfigError
from rlcourse.experience.replay import ReplayBuffer
from rlcourse.randomness import Seeds

GAMMA = 0.9


def filled(
    steps: int, *, capacity: int, num_envs: int, n_step: int
) -> tuple[ReplayBuffer, list[list[dict[str, float]]]]:
    """A buffer of numbered steps, and the same as one list per environment."""
    rng = Seeds(steps).numpy("steps")
    buffer = ReplayBuffer(capacity, 1, num_envs=num_envs, gamma=GAMMA, n_step=n_step)
    history: list[list[dict[str, float]]] = [[] for _ in range(num_envs)]
    for t in range(steps):
        number = torch.arange(num_envs) * 1000.0 + t
        reward = torch.from_numpy(rng.normal(size=num_envs)).float()
        code = torch.from_numpy(rng.choice([0, 0, 0, 1, 2], size=num_envs))
        step = Step(number[:, None] + 0.5, reward, code == 1, code == 2, torch.full((num_envs, 1), -1.0))
        buffer.add(number[:, None], number.long(), step)
        for i in range(num_envs):
            history[i].append({"reward": float(reward[i]), "end": float(code[i])})
    return buffer, history


@pytest.mark.parametrize("n_step", [1, 2, 5])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("steps", [2, 9, 10, 11, 25], ids=lambda s: f"{s} steps")
def test_folding_agrees_with_a_plain_loop_also_where_the_ring_closes(n_step: int, num_envs: int, steps: int) -> None:
    rows = 10
    buffer, history = filled(steps, capacity=rows * num_envs, num_envs=num_envs, n_step=n_step)
    assert len(buffer) == min(steps, rows) * num_envs
    batch = buffer.sample(600, Seeds(0).torch("batches"))
    seen = set()
    for obs, action, reward, discount, next_obs in zip(
        batch.obs[:, 0].tolist(),
        batch.action.tolist(),
        batch.reward.tolist(),
        batch.discount.tolist(),
        batch.next_obs[:, 0].tolist(),
        strict=True,
    ):
        env, t = divmod(int(obs), 1000)
        seen.add((env, t))
        assert action == int(obs)
        total, weight = 0.0, 1.0
        for k in range(t, min(t + n_step, steps)):
            total += weight * history[env][k]["reward"]
            weight *= GAMMA if history[env][k]["end"] != 1 else 0.0
            final = k
            if history[env][k]["end"]:
                break
        assert reward == pytest.approx(total, abs=1e-5)
        assert discount == pytest.approx(weight, abs=1e-6)
        assert next_obs == 1000.0 * env + final + 0.5, "the true last observation, never the first of the next episode"
    oldest = max(0, steps - rows)
    assert seen == {(env, t) for env in range(num_envs) for t in range(oldest, steps)}  # drawn 20 times each or more


def test_a_capacity_that_is_no_multiple_is_rounded_down() -> None:
    buffer, _ = filled(50, capacity=11, num_envs=3, n_step=3)
    assert buffer.capacity == len(buffer) == 9


def test_what_means_nothing_is_refused() -> None:
    for capacity, n_step in ((3, 1), (100, 0)):
        with pytest.raises(ConfigError):
            ReplayBuffer(capacity, 1, num_envs=4, gamma=GAMMA, n_step=n_step)
