"""How long a data set of a million transitions takes to open, and what training from it adds to memory.

Run: python benchmarks/open_large_dataset.py [--transitions N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import minari
import numpy as np
import torch

from rlcourse.experience.card import DatasetCard
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import load_dataset, save_dataset
from rlcourse.experience.transitions import Transitions

REPEATS, BATCHES, BATCH_SIZE = 5, 100, 256
OPEN_LIMIT_S, GROWTH_LIMIT_BYTES = 1.0, 2**30


def main() -> int:
    """Measure, print one line and, with ``--json``, the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        found = measure(asked.transitions)
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    print(
        f"{found['transitions']} transitions in {found['episodes']} episodes: saved in {found['save_s']:.1f} s, "
        f"opened in {found['open_s_median']:.3f} s, memory grew by {found['growth_over_data_bytes'] / 2**20:.0f} MiB "
        f"over the data's own {found['data_bytes'] / 2**20:.0f} MiB; Minari alone took {found['minari_s']:.1f} s"
    )
    return 0 if found["open_s_median"] < OPEN_LIMIT_S and found["growth_over_data_bytes"] < GROWTH_LIMIT_BYTES else 1


def measure(num_transitions: int) -> dict[str, Any]:
    """All figures; times in seconds, sizes in bytes."""
    name = "benchmark/large-v0"
    card = DatasetCard(env_id="CartPole-v1", num_actions=2, quality="random", behaviour="even choice", seed=0)
    started = time.perf_counter()
    path = save_dataset(name, like_cartpole(num_transitions), card)
    save_s = time.perf_counter() - started

    opened = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        load_dataset(name)
        opened.append(time.perf_counter() - started)

    growth, data_bytes, episodes = in_a_fresh_process(name)
    started = time.perf_counter()
    rows = sum(len(episode.actions) for episode in minari.load_dataset(name))
    minari_s = time.perf_counter() - started
    assert rows == num_transitions
    return {
        "transitions": num_transitions,
        "episodes": episodes,
        "save_s": save_s,
        "open_s": opened,
        "open_s_median": statistics.median(opened),
        "data_bytes": data_bytes,
        "rss_growth_bytes": growth,
        "growth_over_data_bytes": growth - data_bytes,
        "minari_s": minari_s,
        "file_bytes": {file.name: file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()},
    }


def like_cartpole(num_transitions: int) -> Episodes:
    """Random numbers in the shape of CartPole under an even choice: episodes of 22 steps on average, at least 8."""
    rng = np.random.default_rng(0)
    lengths = 7 + rng.geometric(1 / 15.2, num_transitions // 8)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), num_transitions)) + 1]
    lengths[-1] -= lengths.sum() - num_transitions
    return Episodes(
        observations=rng.normal(size=(num_transitions + len(lengths), 4)).astype(np.float32),
        actions=rng.integers(0, 2, num_transitions),
        rewards=np.ones(num_transitions, dtype=np.float32),
        behaviour_probabilities=np.full(num_transitions, 0.5, dtype=np.float32),
        lengths=lengths,
        terminated=np.ones(len(lengths), dtype=np.bool_),
    )


def in_a_fresh_process(name: str) -> tuple[int, int, int]:
    """Peak memory growth of opening, laying out and drawing batches; the data's own size; the number of episodes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_train_from, (name,))


def _train_from(name: str) -> tuple[int, int, int]:
    before = _peak()
    loaded = load_dataset(name)
    transitions = Transitions.from_episodes(loaded.episodes, gamma=0.99, num_actions=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(BATCHES):
        transitions.sample(BATCH_SIZE, generator)
    return _peak() - before, loaded.episodes.num_bytes, loaded.episodes.num_episodes


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell peak memory in /proc/self/status")


if __name__ == "__main__":
    raise SystemExit(main())
