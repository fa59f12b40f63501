"""``rlcourse doctor``: is this machine ready? Versions, device, tools, disk, and a self-test with known answers."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from rlcourse.algorithms.cql import CQL, CQLConfig
from rlcourse.devices import resolve_device
from rlcourse.environments import make
from rlcourse.environments.cartpole import CartPole
from rlcourse.errors import RLCourseError
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.collection import collect
from rlcourse.experience.minari_files import datasets_root, list_datasets, load_dataset, save_dataset
from rlcourse.networks import UniformPolicy
from rlcourse.objectives.values import expectile_loss
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import Common, report, show_result, table, versions, write_report
from rlcourse.vocabulary import Batch, TaskSpec

NEEDED_FREE_GIB = 1.0
TOOLS = {
    "make": "runs the book and the tests",
    "chromium": "opens the built site in make test",
    "chromedriver": "drives chromium in make test",
    "bwrap": "isolates submissions in rlcourse grade",
    "java": "runs TorchServe",
    "prometheus": "watches a service in rlcourse monitor up; its promtool grades alert rules",
    "prometheus-alertmanager": "tells people of alerts in rlcourse monitor up",
    "haproxy": "carries the traffic of a release; an adapter's tests need it",
}
EXTRAS = {  # package: (extra, purpose)
    "jupyter-book": ("book", "builds the site"),
    "jupyterlab": ("book", "runs the labs"),
    "ipywidgets": ("book", "sliders"),
    "nbval": ("book", "checks the labs"),
    "stable-baselines3": ("sb3", "algorithms sb3-ppo, sb3-dqn, sb3-sac"),
    "optuna": ("tune", "rlcourse tune"),
    "tensorboard": ("trackers", "event files"),
    "mlflow-skinny": ("trackers", "experiments in an SQLite file"),
    "wandb": ("trackers", "Weights & Biases, offline or not"),
    "mujoco": ("mujoco", "Hopper-v5 and its kind"),
    "box2d": ("box2d", "LunarLander-v3"),
    "onnxruntime": ("onnx", "rlcourse export --forms onnx"),
    "fastapi": ("serve", "rlcourse serve http"),
    "torchserve": ("torchserve", "rlcourse serve torchserve"),
    "ray": ("ray", "a policy behind Ray Serve"),
}


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """See whether this machine is ready. Exit status 1 if something required is missing.

    Example: rlcourse doctor --json -
    """


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    state: str  # ok, absent (optional), or failed
    detail: str


def run(config: Doctor) -> int:
    """Look at everything, print one table."""
    started = time.perf_counter()
    findings = [*_software(), *_hardware(config.device), *_tools(), *_storage(), *_self_tests(config.seed)]
    lines = table(["", "subject", "detail"], [[f.state, f.subject, f.detail] for f in findings])
    failed = [finding for finding in findings if finding.state == "failed"]
    seconds = time.perf_counter() - started
    closing = (
        f"Not ready: {', '.join(f.subject for f in failed)}." if failed else "Ready: everything that is required works."
    )
    show_result(f"{lines}\n\n{closing} ({seconds:.1f} s)", config.json)
    rows = [{"subject": f.subject, "state": f.state, "detail": f.detail} for f in findings]
    write_report(config.json, report("doctor", config, seconds=seconds, results=rows))
    return 1 if failed else 0


def _software() -> list[Finding]:
    found = [Finding(name, "ok", version) for name, version in versions().items()]
    for name, (extra, purpose) in EXTRAS.items():
        try:
            found.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(Finding(name, "absent", f"{purpose}: pip install 'rlcourse[{extra}]'"))
    return found


def _hardware(name: str) -> list[Finding]:
    try:
        device = resolve_device(name)
    except RLCourseError as error:
        return [Finding("device", "failed", str(error))]
    detail = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    return [
        Finding("device", "ok", f"{device} ({detail})"),
        Finding("torch threads", "ok", f"{torch.get_num_threads()} by default; training uses 1"),
    ]


def _tools() -> list[Finding]:
    return [
        Finding(tool, "ok", path) if (path := shutil.which(tool)) else Finding(tool, "absent", f"optional: {purpose}")
        for tool, purpose in TOOLS.items()
    ]


def _storage() -> list[Finding]:
    root = datasets_root(None)
    existing = next(folder for folder in [root, *root.parents] if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    names = list_datasets(None)
    return [
        Finding("free disk", "ok" if free >= NEEDED_FREE_GIB else "failed", f"{free:.1f} GiB under {existing}"),
        Finding("data sets", "ok", f"{len(names)} under {root}" + (f": {', '.join(names[:5])}" if names else "")),
    ]


def _self_tests(seed: int) -> list[Finding]:
    tests: dict[str, Callable[[int], str]] = {
        "an equation": _an_equation,
        "the physics": _the_physics,
        "learning": _learning,
        "a data set": _a_data_set,
    }
    findings = []
    for name, test in tests.items():
        try:
            findings.append(Finding(name, "ok", test(seed)))
        except (AssertionError, RLCourseError, RuntimeError) as error:
            findings.append(Finding(name, "failed", str(error)))
    return findings


def _an_equation(seed: int) -> str:
    rewards = torch.rand(4_000, generator=Seeds(seed).torch("expectile"), dtype=torch.float64)
    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([value], max_iter=50)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = expectile_loss(rewards - value, 0.7).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    # The 0.7-expectile v of U(0, 1) solves 0.7 (1 - v)^2 = 0.3 v^2.
    _demand(abs(value.item() - 0.6044) < 0.03, f"the 0.7-expectile of U(0, 1) came out as {value.item():.3f}")
    return f"0.7-expectile of U(0, 1) is {value.item():.3f} (0.604 expected)"


def _the_physics(seed: int) -> str:
    ours = CartPole(1, generator=Seeds(seed).torch("start"), dtype=torch.float64)
    theirs = make("CartPole-v1", 1, seeds=Seeds(seed), native=False)
    ours.reset()
    theirs.reset()
    cart = theirs.vector.envs[0].unwrapped  # type: ignore[attr-defined]
    cart.state = ours.state[0].numpy().copy()
    worst = 0.0
    for count in range(8):
        action = torch.tensor([count % 2])
        worst = max(worst, float((ours.step(action).next_obs - theirs.step(action).next_obs).abs().max()))
    _demand(worst < 1e-5, f"CartPole differs from Gymnasium's by {worst:.1e}")
    return f"batched CartPole follows Gymnasium's to {worst:.0e} over 8 steps"


def _learning(seed: int) -> str:
    # One state, one action that pays 1 and repeats: worth 1 / (1 - 0.5) = 2.
    seeds = Seeds(seed)
    with seeds.initialising("networks"):
        learner = CQL(TaskSpec.unscaled(1, 2), CQLConfig(hidden=(16,), alpha=0.0, target_rate=0.2, learning_rate=1e-2))
    ones = torch.ones(32)
    batch = Batch(ones[:, None], torch.zeros(32, dtype=torch.int64), ones, 0.5 * ones, ones[:, None])
    # The other action is never tried; make the target ask about the tried one alone by giving it a poor start.
    with torch.no_grad():
        for network in (learner.q, learner.target_q):
            last = network.layers[-1]
            assert isinstance(last, torch.nn.Linear)
            last.bias[1] = -100.0
    for _ in range(300):
        learner.update(batch)
    value = float(learner.q(ones[:1, None]).detach()[0, 0])
    _demand(abs(value - 2.0) < 0.05, f"a reward of 1 for ever at discount 0.5 was valued at {value:.3f}")
    return f"Q-learning values 1 a step at discount 0.5 at {value:.3f} (2 expected)"


def _a_data_set(seed: int) -> str:
    seeds = Seeds(seed)
    env = make("CartPole-v1", 4, seeds=seeds)
    episodes = collect(env, UniformPolicy(2), 200, generator=seeds.torch("acting"))
    card = DatasetCard(env_id="CartPole-v1", num_actions=2, quality="random", behaviour="uniform", seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        save_dataset("doctor/random-v0", episodes, card, root=Path(folder))
        back = load_dataset("doctor/random-v0", root=Path(folder)).episodes
    _demand(np.array_equal(back.observations, episodes.observations), "a data set came back changed")
    return f"{episodes.num_transitions} transitions saved and read back unchanged"


def _demand(holds: bool, problem: str) -> None:
    if not holds:
        raise AssertionError(problem)
