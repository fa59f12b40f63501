"""Learning continuous actions from logs: speed beside d3rlpy, and what is earned on Pendulum.

    python benchmarks/continuous.py speed     writes book/results/continuous_speed.md
    python benchmarks/continuous.py study     writes book/results/continuous_study.md
    python benchmarks/continuous.py caution   writes book/results/continuous_alpha.md
    python benchmarks/continuous.py logs      writes book/results/continuous_logs.md

Speed: updates per second at the network sizes that CORL uses (IQL two hidden layers of 256, CQL three, with ten sampled
actions from each of three sources), batch 256, one thread each, in turn, several rounds in one go. The log is random
numbers of the size of Hopper's (11 in an observation, 3 in an action). d3rlpy lives in ``.venv-d3rlpy``, see cql.py.
Logs: what the ready recipes collect on the three walking robots (extra ``mujoco``), as ``rlcourse offline describe`` sees it.
A log that is not there yet is made, which takes up to an hour each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from cql import PEER, ROOT, make_peer, rate
from offline_study import compare
from results import COMPARED, compared_rows, markdown_table, write_result

from rlcourse.algorithms.cql_continuous import ContinuousCQL, ContinuousCQLConfig
from rlcourse.algorithms.iql import IQL, IQLConfig
from rlcourse.devices import torch_threads, wide_products
from rlcourse.experience.card import summarise
from rlcourse.experience.minari_files import load_dataset
from rlcourse.experience.names import list_datasets
from rlcourse.randomness import Seeds
from rlcourse.recipes.command_line import main as rlcourse
from rlcourse.vocabulary import Batch, ContinuousActions, Learner, TaskSpec

BATCH, SIZES, LOG = 256, (11, 3), 10_000
HIDDEN = {"iql": (256, 256), "cql": (256, 256, 256)}
COUNTS = {"iql": 300, "cql": 25}
"""Updates that are timed in one round."""
DRAWS = {"iql": (None,), "cql": (None, 4)}
"""How many sampled actions carry the gradient of CQL's penalty; None: all 30."""
QUALITIES = ("medium", "mixed")
WALKERS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")
ALPHAS = (0, 1, 10, 50)
COMMON = "--n-step 1 --updates 6000 --eval-every 3000"
SETTINGS = tuple(
    f"{COMMON} --reward-scale 0.1 --iql.tau 0.9 --iql.inverse-temperature 30 --td3-bc.alpha 10 "
    "--td3-bc.learning-rate 0.00075 --td3-bc.target-rate 0.005 --cql-continuous.layer-norm --cql-continuous.alpha 0.3 "
    "--cql-continuous.target-rate 0.005 --cql-continuous.samples 4 --cql-continuous.gradient-draws 4".split()
)
FEW_SAMPLES = tuple(f"{COMMON} --cql-continuous.samples 4".split())


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("speed", "study", "caution", "logs"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=WALKERS, default=list(WALKERS), help="for logs")
    parser.add_argument("--peer-python", type=Path, default=PEER / "bin" / "python")
    arguments = parser.parse_args()
    command = f"python benchmarks/continuous.py {arguments.part}"
    if arguments.part == "logs":
        walkers(arguments.tasks, f"{command} --tasks {' '.join(arguments.tasks)}")
        return 0
    if arguments.part != "speed":
        (study if arguments.part == "study" else caution)(arguments.seeds, command)
        return 0
    if not arguments.peer_python.exists():
        make_peer()
    with torch_threads(1), wide_products(256):
        speed(arguments.peer_python, arguments.rounds, command)
    return 0


def speed(python: Path, rounds: int, command: str) -> None:
    """Ours plain, ours compiled and theirs, in turn."""
    steps = {
        (name, draws, compiled): our_update(name, draws, compiled)
        for name in HIDDEN
        for draws in DRAWS[name]
        for compiled in (False, True)
    }
    for step in steps.values():
        step(), step()  # compiles, outside of what is timed
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, hidden in HIDDEN.items():
            for draws, compiled in product(DRAWS[name], (False, True)):
                label = f"{name}, this package{f', {draws} draws' if draws else ''}{', compiled' if compiled else ''}"
                measured = rate(steps[name, draws, compiled], warm_up=5, count=COUNTS[name])
                found.setdefault(label, []).append(measured)
            words = ["--hidden", *map(str, hidden), "--sizes", *map(str, SIZES), "--updates", str(COUNTS[name])]
            found.setdefault(f"{name}, d3rlpy", []).append(peer(python, name, *words))
    rows = []
    for label, rates in found.items():
        theirs = found[f"{label.split(',')[0]}, d3rlpy"]
        ratio = statistics.median(a / b for a, b in zip(rates, theirs, strict=True))
        rows.append([label, f"{statistics.median(rates):.1f}", f"{min(rates):.1f} to {max(rates):.1f}", f"{ratio:.2f}"])
    body = (
        f"Updates per second for continuous actions, batch {BATCH}, one thread, median of {rounds} rounds. IQL: two "
        f"hidden layers of 256 units; CQL: three, ten sampled actions from each of three sources. With *4 draws* all 30 are "
        f"judged, and four of them, drawn by their weight, carry the penalty's gradient.\n\n"
        + markdown_table(["", "updates per second", "range", "divided by d3rlpy's"], rows)
    )
    write_result("continuous_speed", body, command=command, data={"updates_per_second": found})


def our_update(name: str, draws: int | None, compiled: bool) -> Callable[[], object]:
    """One draw and one update."""
    obs_size, action_size = SIZES
    generator = Seeds(0).torch("log")
    obs, next_obs = torch.randn(2, LOG, obs_size, generator=generator)
    action = 2 * torch.rand(LOG, action_size, generator=generator) - 1
    reward, discount = torch.randn(LOG, generator=generator), torch.full((LOG,), 0.99)
    bound = torch.ones(action_size)
    spec = TaskSpec(torch.zeros(obs_size), torch.ones(obs_size), ContinuousActions(-bound, bound))
    learner: Learner
    with Seeds(0).initialising("networks"):
        if name == "iql":
            learner = IQL(spec, IQLConfig(hidden=HIDDEN[name], compiled=compiled))
        else:
            config = ContinuousCQLConfig(hidden=HIDDEN[name], gradient_draws=draws, compiled=compiled)
            learner = ContinuousCQL(spec, config, generator=Seeds(0).torch("noise"))

    def step() -> object:
        row = torch.randint(LOG, (BATCH,), generator=generator)
        return learner.update(Batch(obs[row], action[row], reward[row], discount[row], next_obs[row]))

    return step


def peer(python: Path, *words: str) -> float:
    """Run the d3rlpy script; its last line is JSON."""
    script = ROOT / "benchmarks" / "peers" / "d3rlpy_continuous.py"
    done = subprocess.run([python, script, *words], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["updates_per_second"])


def study(seeds: int, command: str) -> None:
    """Every method on a middling log and on one that is half noise, with one set of settings for both."""
    reports = {quality: compared(quality, seeds, ("bc", "cql", "iql", "td3-bc"), *SETTINGS) for quality in QUALITIES}
    body = (
        f"Greedy returns on Pendulum-v1, 50,000 transitions a log, {seeds} seeds, one set of settings for both logs "
        f"(`{' '.join(SETTINGS)}`, else the defaults). SAC reaches about -150, doing nothing sensible -1,200.\n\n"
        + markdown_table(COMPARED, compared_rows(reports))
    )
    write_result("continuous_study", body, command=command, data={"reports": reports})


def caution(seeds: int, command: str) -> None:
    """What the weight of the conservative penalty does on a log that leaves much out, and on one that does not."""
    found = {
        (quality, alpha): compared(quality, seeds, ("bc", "cql"), *FEW_SAMPLES, "--cql-continuous.alpha", str(alpha))
        for quality in QUALITIES
        for alpha in ALPHAS
    }
    rows = []
    for quality in QUALITIES:
        for label, report, number in (
            ("BC", found[quality, ALPHAS[0]], 0),
            *((f"CQL, alpha {alpha}", found[quality, alpha], 1) for alpha in ALPHAS),
        ):
            row = report["summary"][number]
            rows.append([quality, label, f"**{row['iqm']:.0f}** [{row['ci_low']:.0f}, {row['ci_high']:.0f}]"])
    body = (
        f"The same returns over {seeds} seeds, with another weight of the conservative penalty and four samples from each "
        f"source (`{' '.join(FEW_SAMPLES)}`).\n\n"
        + markdown_table(["log", "method", "last: IQM [95 % interval]"], rows)
    )
    reports = {f"{quality}, alpha {alpha}": report for (quality, alpha), report in found.items()}
    write_result("continuous_alpha", body, command=command, data={"reports": reports})


def compared(quality: str, seeds: int, algorithms: tuple[str, ...], *options: str) -> dict[str, Any]:
    """The report of ``rlcourse offline compare`` on a pendulum's log, which is made on first use."""
    return compare(collected("Pendulum-v1", quality, 50_000), seeds, algorithms, *options)


def walkers(tasks: Sequence[str], command: str) -> None:
    """What half-learned robots did, and what they did all the way there."""
    rows, data = [], {}
    for env_id, quality in product(tasks, ("medium", "medium-replay")):
        dataset = load_dataset(collected(env_id, quality, 100_000))
        card, found = dataset.card, summarise(dataset.episodes, dataset.card)
        returns, ends, told = found["returns"], found["ends"], card.details
        rows.append(
            [
                env_id,
                quality,
                f"{found['transitions']:,}",
                f"{found['episodes']:,}",
                f"{100 * ends['time_limit'] / found['episodes']:.0f} %",
                f"{returns['mean']:,.0f}",
                f"{returns['min']:,.0f} / {returns['median']:,.0f} / {returns['max']:,.0f}",
                f"{told['return_by_chance']:,.0f}, {told['best_return']:,.0f}",
                f"{found['propensities']['action_entropy']:.2f}",
            ]
        )
        data[f"{env_id} {quality}"] = found
    names = [
        "task",
        "log",
        "transitions",
        "episodes",
        "cut off",
        "mean return",
        "lowest / median / highest",
        "chance, best",
        "entropy",
    ]
    body = (
        "Logs by a soft actor-critic that learned for 100,000 steps, seed 0. *medium*: 100,000 transitions by the author as it "
        "was half way to its best. *medium-replay*: all that it did until then. *cut off*: share of episodes that the time "
        "limit ended; the others fell. *chance, best*: what random actions earn, and the author at its best. *entropy*: of "
        "the author's actions, in nats, differential.\n\n" + markdown_table(names, rows)
    )
    write_result("continuous_logs", body, command=command, data=data)


def collected(env_id: str, quality: str, transitions: int) -> str:
    """The name of a log, which is made on first use."""
    name = f"{env_id.split('-')[0].lower()}/{quality}-v0"
    if name not in list_datasets():
        words = ["--env", env_id, "--quality", quality, "--transitions", str(transitions)]
        if rlcourse(["offline", "generate", *words]):
            raise SystemExit(1)
    return name


if __name__ == "__main__":
    raise SystemExit(main())
