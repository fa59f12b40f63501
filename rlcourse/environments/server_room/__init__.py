"""``rlcourse/ServerRoom-v0``: cool a machine room for less money, and never let it get too warm.

The decision problem that the chapters on serving, monitoring and release operate. Every ten minutes one of five levels
of cooling is chosen; a day is 144 decisions. The reward is money: minus the cost of the electricity, minus 5 cents for
each degree-minute that the air at the servers' inlets is above 27 C. Steps that end above 32 C are violations of the
safety limit and are counted by themselves: money does not make up for them. (27 and 32 C are the ends of the recommended
range and of the allowable range of class A1 in ASHRAE TC 9.9, "Thermal guidelines for data processing environments",
fifth edition, 2021.)

The chiller does not cool the air but a tank of water, and the tank is what makes the task worth learning. Cold can be
bought at night, when electricity costs 12 cents and the outdoor air is cool, and used up from 10 to 14 and from 18 to 22
o'clock, when it costs 42. But cold water costs more electricity for each kilowatt of cooling, the tank holds three to four
hours of the load, and a hot afternoon with much to compute leaves the chiller little to spare. Storage of this kind is a
classic of learned control (Liu and Henze 2006); cooling rooms full of computers one of its few celebrated uses in
production (Lazic et al. 2018).

Its files: the physics and prices (:mod:`~rlcourse.environments.server_room.plant`), what may go wrong
(:mod:`~rlcourse.environments.server_room.faults`), the batched environment and its book
(:mod:`~rlcourse.environments.server_room.room`), the same behind Gymnasium's interface
(:mod:`~rlcourse.environments.server_room.single`); and the safe baseline,
:func:`~rlcourse.environments.server_room.baseline.thermostat`.
"""

from __future__ import annotations

import gymnasium as gym

from rlcourse.environments.server_room.baseline import thermostat
from rlcourse.environments.server_room.faults import FAULT_KINDS, Effects, Fault, FaultKind
from rlcourse.environments.server_room.plant import STEPS_A_DAY
from rlcourse.environments.server_room.room import (
    ALLOWED_INLET_C,
    NUM_LEVELS,
    OBSERVATION,
    SAFETY_LIMIT_C,
    GentleServerRoom,
    Ledger,
    ServerRoom,
)

__all__ = [
    "ALLOWED_INLET_C",
    "FAULT_KINDS",
    "NUM_LEVELS",
    "OBSERVATION",
    "SAFETY_LIMIT_C",
    "STEPS_A_DAY",
    "Effects",
    "Fault",
    "FaultKind",
    "GentleServerRoom",
    "Ledger",
    "ServerRoom",
    "thermostat",
]

for _kind, _gentle in ((ServerRoom, False), (GentleServerRoom, True)):
    if _kind.env_id not in gym.registry:  # a module that is reloaded does not register twice
        gym.register(
            _kind.env_id,
            "rlcourse.environments.server_room.single:ServerRoomEnv",
            max_episode_steps=STEPS_A_DAY,
            kwargs={"gentle": _gentle},
        )
