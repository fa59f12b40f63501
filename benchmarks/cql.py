"""CQL's speed: against d3rlpy's DiscreteCQL, and against the matrix multiplications that any CQL must do.

    python benchmarks/cql.py speed --data LOG      writes book/results/cql_speed.md
    python benchmarks/cql.py returns --data LOG    writes book/results/cql_peer_*.md: the same data, the same updates

All three are run in turn, several rounds in one go, one thread each, so that a noisy machine is noisy for all; the
table shows medians over the rounds and the median of the ratios within a round. ``speed`` ends with 1 if CQL makes
fewer updates than 45 % of what the multiplications alone would allow.

d3rlpy pins an old Gymnasium, so it lives in an environment of its own, ``.venv-d3rlpy``, which is made on first use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import markdown_table, write_result

from rlcourse.algorithms.cql import CQL, CQLConfig
from rlcourse.devices import products_keep_float32, torch_threads, wide_products
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import load_dataset
from rlcourse.experience.transitions import Transitions
from rlcourse.randomness import Seeds
from rlcourse.recipes.offline_train import train_once
from rlcourse.training.learners import OfflineConfigs
from rlcourse.training.offline import OfflineTrainingConfig

ROOT = Path(__file__).parents[1]
PEER = ROOT / ".venv-d3rlpy"
HIDDEN, SMALL, BATCH = (256, 256), (64, 64), 256
SHARE_LIMIT = 0.45
THEIR_INTERVAL = 8_000
"""Updates between two copies of d3rlpy's target network, its default."""


def main() -> int:
    """Run one of the two comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "returns"))
    parser.add_argument("--data", default="cartpole/replay-v0")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-python", type=Path, default=PEER / "bin" / "python")
    arguments = parser.parse_args()
    if not arguments.peer_python.exists():
        make_peer()
    command = f"python benchmarks/cql.py {arguments.what} --data {arguments.data}"
    with torch_threads(1), tempfile.TemporaryDirectory() as folder:
        dataset = load_dataset(arguments.data)
        log = Path(folder) / "log.npz"
        np.savez(log, **{name: getattr(dataset.episodes, name) for name in Episodes.__dataclass_fields__})
        if arguments.what == "speed":
            share = speed(dataset.episodes, log, arguments.peer_python, arguments.rounds, command)
            return 0 if share >= SHARE_LIMIT else 1
        returns(arguments.data, log, arguments.peer_python, arguments.seeds, command)
    return 0


def make_peer() -> None:
    """Build d3rlpy's environment."""
    subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
    pip: list[str | Path] = [PEER / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "torch==2.13.0"], check=True)  # first and alone: see the Makefile
    subprocess.run([*pip, "d3rlpy==2.8.1"], check=True)


def speed(episodes: Episodes, log: Path, python: Path, rounds: int, command: str) -> float:
    """Updates per second: ours on one and on two threads, d3rlpy's, and bare multiplications.

    Returns our rate divided by that of the multiplications alone.
    """
    transitions = Transitions.from_episodes(episodes, gamma=0.99, num_actions=2)
    large, small = f"{HIDDEN[0]}x{HIDDEN[1]}", f"{SMALL[0]}x{SMALL[1]}"
    ours, theirs = f"{large}, this package", f"{large}, d3rlpy"
    switched, products = f"{large}, d3rlpy, oneDNN allowed too", f"{large}, the multiplications alone, oneDNN"
    mkl = f"{large}, the multiplications alone, MKL"
    two, ours_mkl = f"{large}, this package on two threads", f"{large}, this package, MKL"
    compiled, copied = f"{large}, this package, compiled", f"{large}, this package, compiled, d3rlpy's target rule"
    names = (ours, compiled, copied, theirs, switched, products, mkl, ours_mkl, two)
    found: dict[str, list[float]] = {
        name: [] for name in (*names, f"{small}, this package", f"{small}, this package on two threads")
    }
    plain = our_update(transitions, HIDDEN)
    with wide_products(HIDDEN[0]):
        fused = our_update(transitions, HIDDEN, compiled=True)
        like_them = our_update(transitions, HIDDEN, compiled=True, target_every=THEIR_INTERVAL, target_rate=1.0)
        fused(), like_them()  # compiles, outside of what is timed
    for _ in range(rounds):
        with wide_products(HIDDEN[0]):
            found[products].append(rate(multiplications()))
            found[ours].append(rate(plain))
            found[compiled].append(rate(fused))
            found[copied].append(rate(like_them))
            with torch_threads(2):
                found[two].append(rate(plain))
        found[mkl].append(rate(multiplications()))
        found[ours_mkl].append(rate(plain))
        found[f"{small}, this package"].append(rate(our_update(transitions, SMALL)))
        with torch_threads(2):
            found[f"{small}, this package on two threads"].append(rate(our_update(transitions, SMALL)))
        for name, words in ((theirs, ()), (switched, ("--onednn",))):
            found[name].append(float(peer(python, log, "--updates", "400", *words)["updates_per_second"]))
    rows = []
    for name, rates in found.items():
        ratio = statistics.median(a / b for a, b in zip(rates, found[theirs], strict=True))
        shown = f"{ratio:.2f}" if name.startswith(large) else ""
        rows.append([name, f"{statistics.median(rates):.0f}", f"{min(rates):.0f} to {max(rates):.0f}", shown])
    body = (
        f"CQL updates per second, batch {BATCH}, one thread unless said otherwise; median of {rounds} rounds. oneDNN is "
        f"the library that `wide_products` lets torch use; on this machine it keeps float32: "
        f"{'yes' if products_keep_float32() else 'no, so MKL was used throughout'}. d3rlpy copies its target network "
        f"every {THEIR_INTERVAL} updates, ours follows at every one; in the row that says so it is copied, too.\n\n"
        + markdown_table(["", "updates per second", "range", "divided by d3rlpy's"], rows)
    )
    write_result("cql_speed", body, command=command, data={"updates_per_second": found})
    return statistics.median(a / b for a, b in zip(found[ours], found[products], strict=True))


def our_update(transitions: Transitions, hidden: tuple[int, ...], **settings: Any) -> Callable[[], object]:
    """One draw and one update of this package's CQL."""
    with Seeds(0).initialising("networks"):
        learner = CQL(transitions.spec(), CQLConfig(hidden=hidden, **settings))
    learner.read_ahead(transitions.next_obs)
    drawing = Seeds(0).torch("batches")
    return lambda: learner.update(transitions.sample(BATCH, drawing))


def multiplications() -> Callable[[], object]:
    """The matrix products of one update, and nothing else.

    Forwards: the online network on obs and next_obs, the target network on next_obs. Backward through the first: a
    product for every weight, and one for every layer's input but the first's.
    """
    sizes = [4, *HIDDEN, 2]
    layers = [(torch.randn(BATCH, i), torch.randn(i, o), torch.randn(BATCH, o)) for i, o in pairwise(sizes)]

    def run() -> None:
        for _ in range(3):
            for x, weight, _ in layers:
                torch.mm(x, weight)
        for depth, (x, weight, gradient) in enumerate(layers):
            torch.mm(x.T, gradient)
            if depth:
                torch.mm(gradient, weight.T)

    return run


def rate(step: Callable[[], object], *, warm_up: int = 50, count: int = 400) -> float:
    """Calls per second."""
    for _ in range(warm_up):
        step()
    started = time.perf_counter()
    for _ in range(count):
        step()
    return count / (time.perf_counter() - started)


def returns(name: str, log: Path, python: Path, seeds: int, command: str) -> None:
    """What both earn from the same data after the same number of updates."""
    training = OfflineTrainingConfig()
    dataset = load_dataset(name)
    shared = ["--updates", str(training.updates), "--warm-up", "0", "--hidden", "64", "64", "--eval-episodes", "100"]
    settings = OfflineConfigs()
    # A copy made every N updates is N / 2 updates old on average, a Polyak average with rate rho 1 / rho.
    interval = round(2 / settings.cql.target_rate)
    alike = {
        "--learning-rate": settings.cql.learning_rate,
        "--alpha": settings.cql.alpha,
        "--target-update-interval": interval,
    }
    theirs: dict[str, list[str]] = {
        "d3rlpy, its defaults": [],
        f"d3rlpy, our step size and alpha, target copied every {interval} updates": [
            str(word) for pair in alike.items() for word in pair
        ],
    }
    found: dict[str, list[float]] = {"this package": [], **{who: [] for who in theirs}}
    for seed in range(seeds):
        outcome, _ = train_once(dataset, name, "cql", seed, training, settings, device=torch.device("cpu"))
        found["this package"].append(outcome.last)
        for who, words in theirs.items():
            result = peer(python, log, *shared, *words, "--seed", str(seed))
            found[who].append(float(result["greedy_return"]))
    rows = [[who, f"{statistics.mean(r):.0f}", ", ".join(f"{x:.0f}" for x in r)] for who, r in found.items()]
    body = (
        f"Greedy return (100 episodes) after {training.updates} updates on {name}, networks 64x64, batch "
        f"{training.batch_size}, seeds 0 to {seeds - 1}.\n\n" + markdown_table(["", "mean", "each seed"], rows)
    )
    write_result(f"cql_peer_{dataset.card.quality}", body, command=command, data={"returns": found})


def peer(python: Path, log: Path, *words: str) -> dict[str, Any]:
    """Run the d3rlpy script; its last line is JSON."""
    script = ROOT / "benchmarks" / "peers" / "d3rlpy_cql.py"
    done = subprocess.run([python, script, log, *words], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


if __name__ == "__main__":
    raise SystemExit(main())
