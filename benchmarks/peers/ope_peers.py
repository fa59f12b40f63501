"""What Open Bandit Pipeline and SCOPE-RL make of a few small arrays; ``tests/evaluation/off_policy/test_peers.py`` compares.

Neither installs beside this package: obp wants an old pandas and a torch of its own, scope-rl an old Gym and an old d3rlpy.
Their estimators need none of that but import it, so they are read without the rest of their packages::

    python -m venv peers
    peers/bin/pip install numpy scipy scikit-learn pandas
    peers/bin/pip install --no-deps obp==0.4.1 scope-rl==0.2.1
    peers/bin/python benchmarks/peers/ope_peers.py

Prints one JSON object: for each library the estimates by name of the estimator.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

STEP = np.arange(50)
ACTION = (STEP * 7) % 3
BEHAVIOUR = 0.2 + 0.6 * ((STEP * 0.618) % 1)
REWARD = np.sin(STEP)
RAW = np.exp(np.cos(STEP[:, None] * (np.arange(3) + 1)))
TARGET = RAW / RAW.sum(1, keepdims=True)
Q = np.sin(STEP[:, None] + np.arange(3))

OBP = (
    "InverseProbabilityWeighting",
    "SelfNormalizedInverseProbabilityWeighting",
    "DoublyRobust",
    "DirectMethod",
    "SelfNormalizedDoublyRobust",
)
SCOPE_RL = (
    "TrajectoryWiseImportanceSampling",
    "PerDecisionImportanceSampling",
    "SelfNormalizedTIS",
    "SelfNormalizedPDIS",
    "DoublyRobust",
    "SelfNormalizedDR",
)
UNUSED = ("torch", "gym", "d3rlpy", "d3rlpy.preprocessing", "d3rlpy.dataset")
STEPS, GAMMA = 5, 0.9
"""For SCOPE-RL the fifty rows are ten episodes."""


def main() -> None:
    """Ask both."""
    found = {"obp": asked_obp(), "scope_rl": asked_scope_rl()}
    print(json.dumps(found, indent=2))


def asked_obp() -> dict[str, float]:
    """Fifty decisions by themselves."""
    estimators = bare("obp.ope.estimators")
    log = {
        "reward": REWARD,
        "action": ACTION,
        "pscore": BEHAVIOUR,
        "action_dist": TARGET[:, :, None],
        "estimated_rewards_by_reg_model": Q[:, :, None],
        "position": np.zeros(len(STEP), dtype=int),
    }
    return {name: float(getattr(estimators, name)().estimate_policy_value(**log)) for name in OBP}


def asked_scope_rl() -> dict[str, float]:
    """Ten episodes of five steps."""
    estimators = bare("scope_rl.ope.discrete.basic_estimators")
    log: dict[str, Any] = {
        "step_per_trajectory": STEPS,
        "action": ACTION,
        "reward": REWARD,
        "pscore": BEHAVIOUR,
        "evaluation_policy_action_dist": TARGET,
        "state_action_value_prediction": Q,
        "gamma": GAMMA,
    }
    return {name: float(getattr(estimators, name)().estimate_policy_value(**log)) for name in SCOPE_RL}


class Absent(ModuleType):
    """A package that is imported and never used here: whatever is asked of it is a class of its own."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


def bare(name: str) -> ModuleType:
    """A module without what its packages' ``__init__`` would import, and with :data:`UNUSED` packages left out."""
    for unused in UNUSED:
        sys.modules.setdefault(unused, Absent(unused))
    parts = name.split(".")
    found = importlib.util.find_spec(parts[0])
    if found is None or found.origin is None:
        raise SystemExit(f"{parts[0]} is not installed here; see the first lines of this file.")
    folder = Path(found.origin).parent
    for depth in range(1, len(parts)):
        package = ModuleType(".".join(parts[:depth]))
        package.__path__ = [str(folder.joinpath(*parts[1:depth]))]
        sys.modules[package.__name__] = package
    return importlib.import_module(name)


if __name__ == "__main__":
    main()
