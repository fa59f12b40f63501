"""Collecting 50,000 transitions; opening a data set of a million, and what training from it adds to memory.

python benchmarks/datasets.py [--transitions N]     writes book/results/datasets.md
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import minari
import numpy as np
from results import markdown_table, write_result

from rlcourse.algorithms.cql import CQL
from rlcourse.devices import torch_threads
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import load_dataset, save_dataset
from rlcourse.experience.transitions import Transitions
from rlcourse.randomness import Seeds
from rlcourse.training.behaviour import generate

REPEATS, UPDATES, BATCH_SIZE = 5, 100, 256
COLLECTED = 50_000
CARD = DatasetCard(env_id="CartPole-v1", num_actions=2, quality="random", behaviour="even choice", seed=0)
COLLECT_LIMIT_S, OPEN_LIMIT_S, GROWTH_LIMIT_BYTES = 10.0, 1.0, 2**30


def main() -> int:
    """Measure, write the table; exit status 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        os.environ["MINARI_DATASETS_PATH"] = folder
        found = {**collecting(), **measure(asked.transitions)}
    rows = [
        [f"act {COLLECTED:,} steps in CartPole, at random", _range(found["collect_s"])],
        ["... and save them as a data set", _range(found["save_small_s"])],
        [f"save {found['transitions']:,} transitions in {found['episodes']:,} episodes", f"{found['save_s']:.1f} s"],
        ["open them, every byte checked against its checksum", _range(found["open_s"])],
        ["read them through Minari alone, episode by episode", f"{found['minari_s']:.1f} s"],
        [
            f"memory for opening them and {UPDATES} CQL updates, beyond the data's own {_mib(found['data_bytes'])}",
            _mib(found["growth_over_data_bytes"]),
        ],
    ]
    write_result("datasets", markdown_table(["what", "time or memory"], rows), command=_COMMAND, data=found)
    within = (
        statistics.median(found["collect_s"]) + statistics.median(found["save_small_s"]) < COLLECT_LIMIT_S
        and statistics.median(found["open_s"]) < OPEN_LIMIT_S
        and found["growth_over_data_bytes"] < GROWTH_LIMIT_BYTES
    )
    return 0 if within else 1


_COMMAND = "python benchmarks/datasets.py"


def _range(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def collecting() -> dict[str, Any]:
    """Seconds to act and to save, several times."""
    acted, saved = [], []
    for repeat in range(REPEATS):
        started = time.perf_counter()
        made = generate("CartPole-v1", "random", COLLECTED, seeds=Seeds(repeat))
        acted.append(time.perf_counter() - started)
        started = time.perf_counter()
        save_dataset(f"benchmark/small{repeat}-v0", made.episodes, CARD)
        saved.append(time.perf_counter() - started)
    return {"collect_s": acted, "save_small_s": saved}


def measure(num_transitions: int) -> dict[str, Any]:
    """All figures; times in seconds, sizes in bytes."""
    name = "benchmark/large-v0"
    started = time.perf_counter()
    path = save_dataset(name, like_cartpole(num_transitions), CARD)
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
    """Peak memory growth of opening, laying out and training; the data's own size; the number of episodes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_train_from, (name,))


def _train_from(name: str) -> tuple[int, int, int]:
    before = _peak()
    loaded = load_dataset(name)
    transitions = Transitions.from_episodes(loaded.episodes, gamma=0.98, num_actions=2, n_step=5)
    learner, drawing = CQL(transitions.spec()), Seeds(0).torch("batches")
    with torch_threads(1):
        for _ in range(UPDATES):
            learner.update(transitions.sample(BATCH_SIZE, drawing))
    return _peak() - before, loaded.episodes.num_bytes, loaded.episodes.num_episodes


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell peak memory in /proc/self/status")


if __name__ == "__main__":
    raise SystemExit(main())
