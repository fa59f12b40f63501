"""DiscreteCQL of d3rlpy on a log given as an .npz file: its speed, and what its policy earns.

Run with the Python of d3rlpy's own environment (it pins an old Gymnasium); see benchmarks/cql.py, which makes that
environment and calls this file. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import d3rlpy
import gymnasium as gym
import numpy as np
import torch


def main() -> None:
    """Measure speed (``--speed``) or train and evaluate (``--updates``)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=6.25e-5)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--target-update-interval", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-episodes", type=int, default=0)
    parser.add_argument("--onednn", action="store_true", help="let oneDNN multiply, as this package does")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.onednn:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    d3rlpy.seed(arguments.seed)
    dataset, mean, std = read(arguments.data)
    algorithm = d3rlpy.algos.DiscreteCQLConfig(
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        gamma=arguments.gamma,
        alpha=arguments.alpha,
        target_update_interval=arguments.target_update_interval,
        encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden_units=arguments.hidden),
        observation_scaler=d3rlpy.preprocessing.StandardObservationScaler(mean=mean, std=std),
    ).create(device="cpu")
    algorithm.build_with_dataset(dataset)
    for _ in range(arguments.warm_up):
        algorithm.update(dataset.sample_transition_batch(arguments.batch_size))
    started = time.perf_counter()
    for _ in range(arguments.updates):
        algorithm.update(dataset.sample_transition_batch(arguments.batch_size))
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {"updates_per_second": arguments.updates / seconds, "version": d3rlpy.__version__}
    if arguments.eval_episodes:
        result["greedy_return"] = evaluate(algorithm, arguments.eval_episodes, arguments.seed)
    print(json.dumps(result))


def read(path: str) -> tuple[Any, Any, Any]:
    """The log as d3rlpy's replay buffer, and its observations' mean and spread; a cut episode is a timeout there too."""
    log = np.load(path)
    terminals, timeouts, rows, first = [], [], [], 0
    for length, terminated in zip(log["lengths"], log["terminated"], strict=True):
        ends = np.zeros(length, dtype=np.float32)
        ends[-1] = 1.0
        terminals.append(ends * terminated)
        timeouts.append(ends * (not terminated))
        rows.append(log["observations"][first : first + length])
        first += length + 1  # the last observation of an episode has no place in d3rlpy's data
    observations = np.concatenate(rows)
    dataset = d3rlpy.dataset.MDPDataset(
        observations,
        log["actions"][:, None],
        log["rewards"][:, None],
        np.concatenate(terminals),
        np.concatenate(timeouts),
        action_space=d3rlpy.ActionSpace.DISCRETE,
    )
    return dataset, observations.mean(0), observations.std(0)


def evaluate(algorithm: Any, episodes: int, seed: int) -> float:
    """Mean greedy return over ``episodes`` episodes, all environments stepped together."""
    envs = [gym.make("CartPole-v1") for _ in range(episodes)]
    obs = np.stack([env.reset(seed=1_000_000 * (seed + 1) + i)[0] for i, env in enumerate(envs)])
    returns, running = np.zeros(episodes), np.ones(episodes, dtype=bool)
    while running.any():
        actions = algorithm.predict(obs)
        for index in np.flatnonzero(running):
            obs[index], reward, terminated, truncated, _ = envs[index].step(int(actions[index]))
            returns[index] += reward
            running[index] = not (terminated or truncated)
    return float(returns.mean())


if __name__ == "__main__":
    main()
