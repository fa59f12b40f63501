"""IQL and CQL of d3rlpy for continuous actions, on random numbers: how many updates they make in a second.

Run with the Python of d3rlpy's own environment; see benchmarks/continuous.py. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time

import d3rlpy
import numpy as np
import torch


def main() -> None:
    """Build, warm up, measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("algorithm", choices=("iql", "cql"))
    parser.add_argument("--hidden", type=int, nargs="+", required=True)
    parser.add_argument("--sizes", type=int, nargs=2, required=True, help="numbers in an observation and in an action")
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    d3rlpy.seed(0)
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=arguments.hidden)
    if arguments.algorithm == "iql":
        algorithm = d3rlpy.algos.IQLConfig(
            batch_size=arguments.batch_size,
            actor_encoder_factory=encoder,
            critic_encoder_factory=encoder,
            value_encoder_factory=encoder,
        ).create(device="cpu")
    else:
        algorithm = d3rlpy.algos.CQLConfig(
            batch_size=arguments.batch_size, actor_encoder_factory=encoder, critic_encoder_factory=encoder
        ).create(device="cpu")
    rng, count = np.random.default_rng(0), 10_000
    obs_size, action_size = arguments.sizes
    ends = (np.arange(count) % 200 == 199).astype(np.float32)
    dataset = d3rlpy.dataset.MDPDataset(
        rng.normal(size=(count, obs_size)).astype(np.float32),
        rng.uniform(-1, 1, size=(count, action_size)).astype(np.float32),
        rng.normal(size=(count, 1)).astype(np.float32),
        ends,
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )
    algorithm.build_with_dataset(dataset)
    for _ in range(5):
        algorithm.update(dataset.sample_transition_batch(arguments.batch_size))
    started = time.perf_counter()
    for _ in range(arguments.updates):
        algorithm.update(dataset.sample_transition_batch(arguments.batch_size))
    rate = arguments.updates / (time.perf_counter() - started)
    print(json.dumps({"updates_per_second": rate, "version": d3rlpy.__version__}))


if __name__ == "__main__":
    main()
