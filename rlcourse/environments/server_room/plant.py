r"""The physics and the prices of the server room: pure functions, a unit on every number.

Two masses hold heat, in kWh per kelvin: the air with the racks in it, and the water of a buffer tank, which a chiller
cools. With :math:`T_a, T_w, T_o` the temperatures of air, water and outdoors, :math:`L` the IT load, :math:`U` and
:math:`U_w` conductances and :math:`Q` the heat that the chiller removes,

.. math:: C_a \dot T_a = L + U\,(T_o - T_a) - U_w\,(T_a - T_w), \qquad
          C_w \dot T_w = U_w\,(T_a - T_w) - Q

Both are linear in the temperatures, so that a step over which :math:`L, T_o, Q` are held is a matrix product, exact for
any length of step: no solver, no error that grows.

The chiller reaches a fixed share :math:`\eta` of what Carnot allows between the temperatures *inside* it, which lie beyond
those of water and outdoor air, and the further the harder it works (:math:`f` is the fraction of full cooling):

.. math:: \mathrm{COP} = \eta\,\frac{T_e}{T_c - T_e}, \qquad T_e = T_w - (4 + 2f), \qquad T_c = T_o + (8 + 10f)

so that cooling is cheap on a cool night, dear into cold water, and dearer at full power than at half.

Sources: the chiller is the Carnot model of the Buildings library (Wetter, Zuo, Nouidui and Pang 2014, ``Carnot_TEva``);
COPs lie between 2 (all of the cooling, a hot day, cold water) and 7 (a quarter of it, a cool night, warm water). The
hours of the tariff are those of the Spanish one with three rates (CNMC, Circular 3/2020, "2.0TD") on working days.
Prices, masses and conductances are ours, of the size of a room with ten racks.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from rlcourse.environments.tensor_program import constants

STEP_MIN = 10.0  # min, one step
STEP_H = STEP_MIN / 60.0  # h
STEPS_A_DAY = 144

AIR_CAPACITY = 0.8  # kWh/K: 300 m^3 of air (0.1) and 5 t of racks at 0.5 kJ/(kg K) (0.7)
WATER_CAPACITY = 14.0  # kWh/K: 12 m^3 of water at 4.19 kJ/(kg K)
COIL_CONDUCTANCE = 4.0  # kW/K, from air to water: 30 kW need 7.5 K
ENVELOPE_CONDUCTANCE = 0.3  # kW/K, from outdoors to air: walls, roof and leaks

RATED_KW = 48.0  # heat the chiller removes at full cooling with 25 C outdoors
RATED_OUTDOOR_C = 25.0
DERATING = 0.01  # 1/K: a hundredth less for each kelvin above that
COLDEST_WATER_C = 10.0  # the chiller throttles itself on the last 2 K above this: colder coils would drip
THROTTLE_K = 2.0
EFFICIENCY = 0.35  # eta, share of Carnot, fans and pump included
EVAPORATOR_K = (4.0, 2.0)  # K below the water: at idle, and what full cooling adds
CONDENSER_K = (8.0, 10.0)  # K above outdoors: the same
SMALLEST_LIFT_K = 15.0  # compressors do not run on less
KELVIN = 273.15
_RATING = (RATED_KW, RATED_OUTDOOR_C, DERATING, COLDEST_WATER_C, THROTTLE_K)
_CHILLER = (*_RATING, *EVAPORATOR_K, *CONDENSER_K, EFFICIENCY, KELVIN, 1.0)

LOAD_KW = 30.0  # mean IT load
LOAD_SWING_KW = 6.0  # half of what it varies over the day
LOAD_NOISE = (2.5, 2.0)  # kW standard deviation, h correlation time
OUTDOOR_C = 20.0  # mean, a warm month
OUTDOOR_SWING_K = 6.0
OUTDOOR_NOISE = (3.0, 12.0)  # K, h: slow enough to make warm days and cool ones
PEAK_HOUR = 15.0  # h, when both daily curves are highest

VALLEY, FLAT, PEAK = 0.12, 0.22, 0.42  # EUR/kWh


def price_at(hour: float) -> float:
    """EUR/kWh at an hour of the day: the valley until 8, peaks from 10 to 14 and from 18 to 22, flat between them."""
    hour %= 24.0
    if hour < 8.0:
        return VALLEY
    return PEAK if 10.0 <= hour < 14.0 or 18.0 <= hour < 22.0 else FLAT


@functools.cache
def day_curves(device: torch.device) -> Tensor:
    """``(5, 144)``: IT load (kW), outdoor temperature (C), price (EUR/kWh), sine and cosine of the time of day."""
    hours = torch.arange(STEPS_A_DAY, dtype=torch.float64) * STEP_H
    swing = torch.cos(2 * math.pi * (hours - PEAK_HOUR) / 24.0)
    turn = 2 * math.pi * hours / 24.0
    price = torch.tensor([price_at(hour) for hour in hours.tolist()], dtype=torch.float64)
    rows = [LOAD_KW + LOAD_SWING_KW * swing, OUTDOOR_C + OUTDOOR_SWING_K * swing, price, turn.sin(), turn.cos()]
    return torch.stack(rows).float().to(device)


@functools.cache
def noise_shape(device: torch.device) -> tuple[Tensor, Tensor]:
    r"""How IT load (kW) and outdoor temperature (K) stray from their curves: ``(2, 1)`` memory and spread of one step.

    First-order autoregression, the Ornstein-Uhlenbeck process seen every ten minutes: memory
    :math:`\rho = e^{-\Delta t/\tau}`, spread :math:`\sigma\sqrt{1 - \rho^2}`, which keeps :math:`\sigma` where it is.
    """
    deviation, correlation_h = torch.tensor([LOAD_NOISE, OUTDOOR_NOISE], dtype=torch.float64).unsqueeze(-1).unbind(1)
    memory = torch.exp(-STEP_H / correlation_h)
    spread = deviation * torch.sqrt(1.0 - memory.square())
    return memory.float().to(device), spread.float().to(device)


@functools.cache
def transition(dtype: torch.dtype, device: torch.device) -> Tensor:
    r"""``(2, 4)``: what the two temperatures, the heat into the air and the heat out of the water become in one step.

    For :math:`\dot T = A T + B u` with constant :math:`u`: :math:`T' = e^{A\Delta t}\,T + A^{-1}(e^{A\Delta t} - 1)\,B\,u`.
    """
    a = torch.tensor(
        [
            [-(ENVELOPE_CONDUCTANCE + COIL_CONDUCTANCE) / AIR_CAPACITY, COIL_CONDUCTANCE / AIR_CAPACITY],
            [COIL_CONDUCTANCE / WATER_CAPACITY, -COIL_CONDUCTANCE / WATER_CAPACITY],
        ],
        dtype=torch.float64,
    )
    b = torch.diag(torch.tensor([1.0 / AIR_CAPACITY, -1.0 / WATER_CAPACITY], dtype=torch.float64))
    decay = torch.linalg.matrix_exp(a * STEP_H)
    return torch.cat([decay, torch.linalg.solve(a, (decay - torch.eye(2)) @ b)], dim=1).to(dtype).to(device)


def next_temperatures(air: Tensor, water: Tensor, it_load: Tensor, outdoor: Tensor, removed: Tensor) -> Tensor:
    """One step of the two masses, exact while what drives them is held.

    Args:
        air: ``(N,)`` C, what the servers breathe in.
        water: ``(N,)`` C, in the tank.
        it_load: ``(N,)`` kW.
        outdoor: ``(N,)`` C.
        removed: ``(N,)`` kW of heat, by the chiller.

    Returns:
        ``(2, N)`` C, air and water.
    """
    (envelope,) = constants(air.dtype, air.device, ENVELOPE_CONDUCTANCE)
    return transition(air.dtype, air.device) @ torch.stack([air, water, it_load + envelope * outdoor, removed])


def steady_temperatures(it_load: float, outdoor: float, removed: float) -> tuple[float, float]:
    """Air and water (C) where everything stays as it is.

    Worked number: 30 kW of load with 28 kW removed, 20 C outdoors: air 20 + 2/0.3 = 26.67 C, water 7 K below, 19.67 C.
    """
    air = outdoor + (it_load - removed) / ENVELOPE_CONDUCTANCE
    return air, air - removed / COIL_CONDUCTANCE


def chiller(fraction: Tensor, water: Tensor, outdoor: Tensor) -> tuple[Tensor, Tensor]:
    """``(N,)`` fractions of full cooling, water and outdoor temperatures (C) to ``(N,)`` kW of heat and of electricity.

    Worked number: half cooling, water at 19 C, 25 C outdoors: 24 kW of heat; 14 C inside the evaporator, 38 C inside the
    condenser, so COP = 0.35 * 287.15 / 24 = 4.19 and 5.73 kW of electricity.
    """
    rated, rated_at, derating, coldest, band, below, below_more, above, above_more, eta, kelvin, one = constants(
        water.dtype, water.device, *_CHILLER
    )
    throttle = ((water - coldest) / band).clamp(0.0, 1.0)
    heat = rated * fraction * throttle * (one - derating * (outdoor - rated_at))
    evaporator = water - below - below_more * fraction
    condenser = outdoor + above + above_more * fraction
    lift = (condenser - evaporator).clamp(min=SMALLEST_LIFT_K)
    return heat, heat * lift / (eta * (evaporator + kelvin))
