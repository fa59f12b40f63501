"""What a policy does to the server room: money, energy and violations, day by day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlcourse.environments.server_room import Fault, GentleServerRoom, ServerRoom
from rlcourse.errors import ConfigError
from rlcourse.evaluation.returns import _choosing as choosing
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import MaskedPolicy, Policy


@dataclass(frozen=True)
class OperatingReport:
    """One number a day for each room; rooms of the same seeds meet the same weather and load, whoever runs them."""

    cost: npt.NDArray[np.float64]  # (E,) EUR, energy and penalty; the return is its negative
    energy_kwh: npt.NDArray[np.float64]  # (E,)
    energy_cost: npt.NDArray[np.float64]  # (E,) EUR
    degree_minutes: npt.NDArray[np.float64]  # (E,) K min above the allowed inlet temperature
    violations: npt.NDArray[np.int64]  # (E,) steps that ended above the safety limit

    @property
    def mean_cost(self) -> float:
        """EUR a day."""
        return float(self.cost.mean())

    @property
    def total_violations(self) -> int:
        """Steps above the safety limit, over all days."""
        return int(self.violations.sum())


def operate(
    policy: Policy,
    *,
    num_episodes: int,
    seeds: Seeds,
    faults: Sequence[Fault] = (),
    greedy: bool = True,
    gentle: bool = False,
    device: torch.device | str = "cpu",
) -> OperatingReport:
    """Let ``policy`` run ``num_episodes`` rooms for a day each, from random hours on.

    Args:
        policy: acts on ``(num_episodes, 8)`` observations.
        num_episodes: ``E``, how many.
        seeds: weather and load follow from the ``"environment"`` stream, samples from ``"actions"``.
        faults: injected before the first observation; their steps are counted from there.
        greedy: act greedily, or sample.
        gentle: with the relay that spares the compressor. A policy that cannot be told of it is held back by it.
        device: where to run.

    Raises:
        ConfigError: no episodes asked for.
    """
    if num_episodes < 1:
        raise ConfigError(f"{num_episodes} episodes say nothing.", mend="Use 1 or more.")
    kind = GentleServerRoom if gentle else ServerRoom
    env = kind(num_episodes, device=device, generator=seeds.torch("environment", device))
    for fault in faults:
        env.inject(fault)
    generator = seeds.torch("actions", device)
    if gentle and not isinstance(policy, MaskedPolicy):
        choose: Callable[[Tensor], Tensor] = partial(policy.act, greedy=greedy, generator=generator)
    else:
        choose = choosing(policy, env, greedy, generator)
    obs = env.reset()
    while env.finished is None:
        obs = env.step(choose(obs)).obs
    ledger = env.finished

    def numbers(amount: Tensor) -> npt.NDArray[np.float64]:
        return amount.double().cpu().numpy()

    return OperatingReport(
        cost=numbers(ledger.cost),
        energy_kwh=numbers(ledger.energy_kwh),
        energy_cost=numbers(ledger.energy_cost),
        degree_minutes=numbers(ledger.degree_minutes),
        violations=ledger.violations.cpu().numpy(),
    )
