"""What can go wrong in the server room while a policy is running it.

================  =======  ===============================================================================
kind              unit     what the magnitude does
================  =======  ===============================================================================
``growing_load``  kW       is added to the IT load
``weak_chiller``  share    of the cooling is lost (0 to 1), for the same electricity: a fouled condenser
``sensor_drift``  K        is added to the inlet temperature that is *seen*; the true one and the account stay
``new_tariff``    h        is how much later every price of the day begins: 12 makes midday cheap
``heat_wave``     K        is added to the outdoor temperature
================  =======  ===============================================================================

In time, from the moment it is injected::

    strength   0 ........ 0 ──────────╱ 1 ──────── 1      until it is cleared, across episodes
                          │           │
                    start_step   + ramp_steps             a ramp of 0 comes all at once
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rlcourse.errors import ConfigError, ShapeError

FaultKind = Literal["growing_load", "weak_chiller", "sensor_drift", "new_tariff", "heat_wave"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


@dataclass(frozen=True)
class Fault:
    """One fault: how bad it gets, and when. A step is ten minutes, 144 are a day."""

    kind: FaultKind
    """Which; the table at the head of this module has the units."""
    magnitude: float
    """At its worst, in the kind's unit."""
    start_step: int = 0
    """Steps from the injection to the beginning."""
    ramp_steps: int = 0
    """Steps from the beginning to the worst; 0 comes all at once."""

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ConfigError(f"There is no fault called {self.kind!r}.", mend=f"Use one of {', '.join(FAULT_KINDS)}.")
        if not math.isfinite(self.magnitude):
            raise ConfigError(f"{self.kind} of magnitude {self.magnitude}.", mend="Use a finite number.")
        if self.kind == "weak_chiller" and not 0.0 <= self.magnitude <= 1.0:
            raise ConfigError(
                f"A chiller that loses {self.magnitude} of its cooling.",
                mend="It is a share: use 0 to 1, 0.3 for 30 %.",
            )
        if self.start_step < 0 or self.ramp_steps < 0:
            raise ConfigError(
                f"{self.kind} begins after {self.start_step} steps and takes {self.ramp_steps}.",
                mend="Both are counted from now on: use 0 or more.",
            )

    def strength(self, steps: int) -> float:
        """From 0 to 1, so many steps after the injection."""
        since = steps - self.start_step
        if since < 0:
            return 0.0
        return 1.0 if since >= self.ramp_steps else since / self.ramp_steps


class Effects(NamedTuple):
    """What all faults together do at one step; every field ``(N,)`` float."""

    growing_load: Tensor  # kW
    weak_chiller: Tensor  # share lost
    sensor_drift: Tensor  # K
    new_tariff: Tensor  # h
    heat_wave: Tensor  # K


class ActiveFaults:
    """The faults injected into ``N`` copies, and since when."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.num_envs = num_envs
        self.device = device
        self._active: list[tuple[Fault, int, Tensor]] = []

    def add(self, fault: Fault, step: int, copies: Tensor | None) -> None:
        """Begin to count for ``fault`` at ``step``, in all copies or in those for which ``(N,)`` ``copies`` is true."""
        if copies is None:
            copies = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        if copies.dtype != torch.bool or copies.shape != (self.num_envs,):
            raise ShapeError(
                f"The copies that fail are {copies.dtype} of shape {tuple(copies.shape)}.",
                mend=f"Use a bool tensor of shape ({self.num_envs},): true where the fault strikes.",
            )
        self._active.append((fault, step, copies.to(self.device)))

    def effects(self, step: int) -> Effects | None:
        """All faults of a kind add up, chillers by what each leaves; ``None`` when there is no fault at all."""
        if not self._active:
            return None
        total = torch.zeros(len(FAULT_KINDS), self.num_envs, device=self.device)
        left = torch.ones(self.num_envs, device=self.device)
        for fault, since, copies in self._active:
            amount = fault.magnitude * fault.strength(step - since)
            if fault.kind == "weak_chiller":
                left = left * (1.0 - amount * copies)
            else:
                total[FAULT_KINDS.index(fault.kind)] += amount * copies
        total[FAULT_KINDS.index("weak_chiller")] = 1.0 - left
        return Effects(*total.unbind())
