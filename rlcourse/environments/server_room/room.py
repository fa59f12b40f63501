"""``N`` server rooms stepped together, and the book that is kept of each.

One step of one room, in order::

    seen at t      what follows                                                                   seen at t + 1
    obs_t ──level──▶ chiller ──▶ temperatures after 10 minutes ──▶ book, reward ──▶ clock, weather, load ──▶ obs_{t+1}
             IT load, outdoor temperature and price of obs_t hold for the whole step

What is seen, entry by entry (:data:`OBSERVATION` has the names)::

    0  inlet_c            C         air that the servers breathe in, as the sensor reports it
    1  water_c            C         buffer tank
    2  outdoor_c          C
    3  it_load_kw         kW        electricity of the servers, all of which becomes heat
    4  price_eur_per_kwh  EUR/kWh   now; what comes later is for the policy to know
    5  sin_time                     time of day as a point on a circle: 1 at 6 o'clock
    6  cos_time                     1 at midnight
    7  cooling                      fraction of full cooling during the last step

Weather and load do not depend on what is done, and one draw is made at every step whoever acts: two policies that are
given the same seed meet the same days, and may be compared day by day.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlcourse.environments.batched import Step
from rlcourse.environments.server_room import plant
from rlcourse.environments.server_room.faults import ActiveFaults, Effects, Fault
from rlcourse.environments.tensor_program import constants
from rlcourse.errors import ConfigError, ShapeError
from rlcourse.vocabulary import DiscreteActions

ALLOWED_INLET_C = 27.0  # above it every degree-minute is paid for: ASHRAE's recommended range ends here
SAFETY_LIMIT_C = 32.0  # a step that ends above it is a violation: ASHRAE's allowable range of class A1 ends here
PENALTY = 0.05  # EUR per degree-minute: an hour 2 K too warm costs 6 EUR, as much as three and a half hours of cooling
ACCOUNT = (plant.STEP_H, plant.STEP_MIN, ALLOWED_INLET_C, PENALTY)
NUM_LEVELS = 5  # 0, 1/4, 1/2, 3/4 and all of the cooling
FIRST_LEVEL = 2
FIRST_INLET_C = (20.0, 26.0)  # the first inlet temperature is uniform within these

OBSERVATION = (
    "inlet_c",
    "water_c",
    "outdoor_c",
    "it_load_kw",
    "price_eur_per_kwh",
    "sin_time",
    "cos_time",
    "cooling",
)
USUAL = (24.0, 17.0, 20.0, 30.0, 0.25, 0.0, 0.0, 0.5)  # of each entry
SPREAD = (3.0, 4.0, 5.0, 5.0, 0.12, 0.7, 0.7, 0.35)


@dataclass(frozen=True)
class Ledger:
    """What an episode has used and cost so far, for each room."""

    energy_kwh: Tensor  # (N,) electricity of the chiller
    energy_cost: Tensor  # (N,) EUR, at the price of the hour
    penalty: Tensor  # (N,) EUR, for degree-minutes
    degree_minutes: Tensor  # (N,) K min of true inlet temperature above the allowed
    violations: Tensor  # (N,) int64 steps that ended above the safety limit

    @property
    def cost(self) -> Tensor:
        """``(N,)`` EUR in all; the return is its negative."""
        return self.energy_cost + self.penalty


class ServerRoom:
    """``N`` rooms, each at an hour of its own. Nothing ends the task; the time limit cuts the episode after a day.

    Episodes begin at any hour, so a policy cannot know when its day is over and leave the room warm to the next one.
    """

    env_id = "rlcourse/ServerRoom-v0"
    obs_size = len(OBSERVATION)
    num_actions = NUM_LEVELS
    actions = DiscreteActions(NUM_LEVELS)

    _temperatures: Tensor  # (2, N) C: inlet air and water
    _noise: Tensor  # (2, N): kW of IT load and K outdoors beyond their daily curves
    _clock: Tensor  # (N,) int64: steps since midnight
    _level: Tensor  # (N,) int64: of the last step
    _book: Tensor  # (5, N): the rows of a Ledger
    _load: Tensor  # (N,) kW: this and the rest follow from the above, and hold for the step to come
    _outdoor: Tensor  # (N,) C
    _price: Tensor  # (N,) EUR/kWh
    _effects: Effects | None  # of faults

    def __init__(
        self,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        max_episode_steps: int = plant.STEPS_A_DAY,
        start_hour: float | None = None,
    ) -> None:
        """All rooms begin at ``start_hour`` if one is given, else each at an hour of its own."""
        if num_envs < 1:
            raise ConfigError(f"{num_envs} environments cannot be stepped.", mend="Use 1 or more.")
        if start_hour is not None and not 0.0 <= start_hour < 24.0:
            raise ConfigError(f"{start_hour} is no hour of the day.", mend="Use 0 to 24, 13.5 for half past one.")
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.max_episode_steps = max_episode_steps
        self.start_hour = start_hour
        self.steps = 0  # ever made, across episodes
        self.elapsed = 0  # of this episode: all rooms begin and end their days together
        self.finished: Ledger | None = None  # the book of the last whole episode
        self._generator = generator
        self._curves = plant.day_curves(self.device)
        self._memory, self._spread = plant.noise_shape(self.device)
        self._fractions = torch.linspace(0.0, 1.0, NUM_LEVELS, device=self.device)
        self._faults = ActiveFaults(num_envs, self.device)
        self._begin(  # nothing is drawn before the first reset
            clock=torch.zeros(num_envs, dtype=torch.int64, device=self.device),
            noise=torch.zeros(2, num_envs, device=self.device),
            inlet=torch.full((num_envs,), FIRST_INLET_C[0], device=self.device),
        )

    @property
    def obs_mean(self) -> Tensor:
        """``(8,)``: an ordinary moment."""
        return torch.tensor(USUAL, device=self.device)

    @property
    def obs_std(self) -> Tensor:
        """``(8,)``: how far from it is not yet unusual."""
        return torch.tensor(SPREAD, device=self.device)

    @property
    def inlet(self) -> Tensor:
        """``(N,)`` C: the true inlet temperature, whatever the sensor says."""
        return self._temperatures[0]

    @property
    def hour(self) -> Tensor:
        """``(N,)``: the time of day."""
        return self._clock.float() * plant.STEP_H

    @property
    def ledger(self) -> Ledger:
        """This episode's book so far. Where an episode has just ended, its book is :attr:`finished`."""
        return _ledger(self._book)

    @property
    def violations(self) -> Tensor:
        """``(N,)`` int64: steps of this episode that ended above the safety limit."""
        return self.ledger.violations

    def inject(self, fault: Fault, copies: Tensor | None = None) -> None:
        """Let something go wrong from now on, in all rooms or in those where ``(N,)`` bool ``copies`` is true.

        Faults outlive episodes and :meth:`reset`; :meth:`clear` ends them. What is seen changes with the next step.
        """
        self._faults.add(fault, self.steps, copies)
        self._look_around()

    def clear(self) -> None:
        """Everything is mended at once."""
        self._faults = ActiveFaults(self.num_envs, self.device)
        self._look_around()

    def reset(self) -> Tensor:
        """Begin ``N`` episodes; returns ``(N, 8)`` float32."""
        clock = torch.randint(plant.STEPS_A_DAY, (self.num_envs,), generator=self._generator, device=self.device)
        noise = self._spread / (1.0 - self._memory.square()).sqrt() * self._normal()
        inlet = torch.empty(self.num_envs, device=self.device).uniform_(*FIRST_INLET_C, generator=self._generator)
        self._begin(clock, noise, inlet)
        return self._observe()

    def step(self, action: Tensor) -> Step:
        """Run every room for ten minutes at ``(N,)`` int64 levels; see :class:`rlcourse.environments.batched.Step`.

        Raises:
            ShapeError: not one whole number for each room.
            ConfigError: a level that the chiller does not have. (Only looked for on the CPU; a GPU would have to wait.)
        """
        self._level = self._permitted(self._checked(action))
        reward = self._cool(self._fractions.take(self._level))
        self.steps += 1
        self.elapsed += 1
        self._clock = (self._clock + 1) % plant.STEPS_A_DAY
        self._noise = self._memory * self._noise + self._spread * self._normal()
        self._look_around()
        next_obs = obs = self._observe()
        ended = self.elapsed >= self.max_episode_steps  # a number, not a tensor: no room's day ends before another's
        if ended:
            self.finished = self.ledger
            obs = self.reset()
        never = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return Step(next_obs, reward, never, torch.full_like(never, ended), obs)

    def _cool(self, fraction: Tensor) -> Tensor:
        """Ten minutes of it: temperatures and book move on. Returns ``(N,)`` rewards, in euros."""
        air, water = self._temperatures
        heat, power = plant.chiller(fraction, water, self._outdoor)
        if self._effects is not None:
            heat = heat * (1.0 - self._effects.weak_chiller)
        self._temperatures = plant.next_temperatures(air, water, self._load, self._outdoor, heat)
        inlet = self._temperatures[0]
        hours, minutes, allowed, per_degree_minute = constants(inlet.dtype, self.device, *ACCOUNT)
        energy = power * hours
        cost = energy * self._price
        degree_minutes = (inlet - allowed).clamp(min=0.0) * minutes
        penalty = degree_minutes * per_degree_minute
        violation = (inlet > SAFETY_LIMIT_C).float()
        self._book = self._book + torch.stack([energy, cost, penalty, degree_minutes, violation])
        return -cost - penalty

    def _look_around(self) -> None:
        """IT load, outdoor temperature, price and time of day as they are now, faults included."""
        self._effects = self._faults.effects(self.steps)
        load, outdoor, price, self._sin, self._cos = self._curves.index_select(1, self._clock).unbind()
        load, outdoor = load + self._noise[0], outdoor + self._noise[1]
        if self._effects is not None:
            load = load + self._effects.growing_load
            outdoor = outdoor + self._effects.heat_wave
            late = (self._effects.new_tariff / plant.STEP_H).round().long()
            price = self._curves[2].take((self._clock - late) % plant.STEPS_A_DAY)
        self._load, self._outdoor, self._price = load, outdoor, price

    def _observe(self) -> Tensor:
        """``(N, 8)`` float32."""
        inlet, water = self._temperatures
        if self._effects is not None:
            inlet = inlet + self._effects.sensor_drift
        cooling = self._fractions.take(self._level)
        return torch.stack(
            [inlet, water, self._outdoor, self._load, self._price, self._sin, self._cos, cooling], dim=-1
        )

    def _begin(self, clock: Tensor, noise: Tensor, inlet: Tensor) -> None:
        """A fresh day in every room."""
        self.elapsed = 0
        self._clock = clock if self.start_hour is None else torch.full_like(clock, _steps(self.start_hour))
        self._noise = noise
        self._temperatures = torch.stack([inlet, inlet - plant.LOAD_KW / plant.COIL_CONDUCTANCE])
        self._level = torch.full_like(clock, FIRST_LEVEL)
        self._book = torch.zeros(5, self.num_envs, device=self.device)
        self._look_around()

    def _normal(self) -> Tensor:
        return torch.randn(2, self.num_envs, generator=self._generator, device=self.device)

    def _permitted(self, action: Tensor) -> Tensor:
        return action

    def _checked(self, action: Tensor) -> Tensor:
        if action.shape != (self.num_envs,) or action.dtype != torch.int64:
            raise ShapeError(
                f"Actions are {action.dtype} of shape {tuple(action.shape)}.",
                mend=f"Use int64 of shape ({self.num_envs},), one level for each room.",
            )
        if self.device.type == "cpu":
            low, high = (int(bound) for bound in action.aminmax())
            if low < 0 or high >= NUM_LEVELS:
                raise ConfigError(
                    f"Levels from {low} to {high} were asked for.", mend=f"There are levels 0 to {NUM_LEVELS - 1}."
                )
        return action


class GentleServerRoom(ServerRoom):
    """The same rooms with a relay that spares the compressor: at each step the level may change by one at most.

    :meth:`action_mask` says what the relay lets through. A policy that cannot be told asks for what it likes, and gets
    the nearest level that may be had.
    """

    env_id = "rlcourse/GentleServerRoom-v0"

    def action_mask(self) -> Tensor:
        """``(N, 5)`` bool: the present level and its neighbours."""
        levels = torch.arange(NUM_LEVELS, device=self.device)
        return (levels - self._level.unsqueeze(-1)).abs() <= 1

    def _permitted(self, action: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(action, self._level + 1), self._level - 1)


def _steps(hour: float) -> int:
    return round(hour / plant.STEP_H) % plant.STEPS_A_DAY


def _ledger(book: Tensor) -> Ledger:
    energy, cost, penalty, degree_minutes, violations = book
    return Ledger(energy, cost, penalty, degree_minutes, violations.long())
