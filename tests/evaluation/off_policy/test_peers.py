"""The same arrays, and what two libraries for off-policy evaluation make of them.

Open Bandit Pipeline brings a CUDA build of torch, and scope-rl needs an old Gym and an old d3rlpy, so neither installs beside
this package. ``benchmarks/peers/ope_peers.py`` asks them in an environment of their own and prints the numbers below: those of
obp 0.4.1's estimators, and of scope-rl 0.2.1's basic_estimators for discrete actions. Here the same arrays come from that file.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from rlcourse.evaluation.off_policy import (
    ModelValues,
    Statistic,
    Trajectories,
    direct,
    doubly_robust,
    importance_sampling,
    per_decision,
    weighted_doubly_robust,
    weighted_importance_sampling,
    weighted_per_decision,
)


def load() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "peers" / "ope_peers.py"
    spec = importlib.util.spec_from_file_location("ope_peers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PEERS = load()
ACTION, BEHAVIOUR, REWARD, TARGET, Q = PEERS.ACTION, PEERS.BEHAVIOUR, PEERS.REWARD, PEERS.TARGET, PEERS.Q

OBP = {
    "InverseProbabilityWeighting": -0.01801956152448819,
    "SelfNormalizedInverseProbabilityWeighting": -0.020925872599008796,
    "DoublyRobust": -0.034612524745971394,
    "DirectMethod": -0.09557121592468593,
    "SelfNormalizedDoublyRobust": -0.024780713965214255,
}
SCOPE_RL = {
    "TrajectoryWiseImportanceSampling": -0.08859734941302157,
    "PerDecisionImportanceSampling": -0.05094650249889432,
    "SelfNormalizedTIS": -0.305807306979755,
    "SelfNormalizedPDIS": 0.13896394180298638,
    "DoublyRobust": 0.024993264789254392,
    "SelfNormalizedDR": 0.3098547945056095,
}


def log_and_model(episodes: int, steps: int, gamma: float) -> tuple[Trajectories, ModelValues]:
    def rows(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.reshape(episodes, steps))

    taken = np.take_along_axis(TARGET, ACTION[:, None], 1).squeeze(1)
    log = Trajectories.from_arrays(target=rows(taken), behaviour=rows(BEHAVIOUR), reward=rows(REWARD), gamma=gamma)
    q = np.take_along_axis(Q, ACTION[:, None], 1).squeeze(1)
    return log, ModelValues(rows(q), rows((TARGET * Q).sum(1)), torch.zeros(episodes, dtype=torch.float64))


def value(statistic: Statistic) -> float:
    return float(statistic.value(torch.ones(1, statistic.num_episodes, dtype=torch.float64)))


def test_every_number_has_a_script_that_prints_it() -> None:
    assert (set(PEERS.OBP), set(PEERS.SCOPE_RL)) == (set(OBP), set(SCOPE_RL))


@pytest.mark.parametrize("name", OBP)
def test_one_step_as_in_obp(name: str) -> None:
    log, model = log_and_model(50, 1, 1.0)
    ours = {
        "InverseProbabilityWeighting": importance_sampling(log),
        "SelfNormalizedInverseProbabilityWeighting": weighted_importance_sampling(log),
        "DoublyRobust": doubly_robust(log, model),
        "DirectMethod": direct(log, model),
        "SelfNormalizedDoublyRobust": weighted_doubly_robust(log, model),
    }
    assert value(ours[name]) == pytest.approx(OBP[name], rel=1e-9)


@pytest.mark.parametrize("name", SCOPE_RL)
def test_five_steps_as_in_scope_rl(name: str) -> None:
    log, model = log_and_model(50 // PEERS.STEPS, PEERS.STEPS, PEERS.GAMMA)
    ours = {
        "TrajectoryWiseImportanceSampling": importance_sampling(log),
        "PerDecisionImportanceSampling": per_decision(log),
        "SelfNormalizedTIS": weighted_importance_sampling(log),
        "SelfNormalizedPDIS": weighted_per_decision(log),
        "DoublyRobust": doubly_robust(log, model),
        "SelfNormalizedDR": weighted_doubly_robust(log, model),
    }
    assert value(ours[name]) == pytest.approx(SCOPE_RL[name], rel=1e-9)
