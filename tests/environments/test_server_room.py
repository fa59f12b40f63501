"""The server room: its physics against closed forms, its book against the rewards, its faults one by one."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlcourse.environments import MaskedEnvironment, ScaledEnvironment, make
from rlcourse.environments.server_room import (
    FAULT_KINDS,
    OBSERVATION,
    STEPS_A_DAY,
    Fault,
    GentleServerRoom,
    ServerRoom,
    plant,
    room,
    thermostat,
)
from rlcourse.environments.server_room.faults import FaultKind
from rlcourse.errors import ConfigError, ShapeError
from rlcourse.networks import UniformPolicy
from rlcourse.randomness import Seeds

CPU = torch.device("cpu")


def number(value: float, count: int = 1) -> Tensor:
    return torch.full((count,), value, dtype=torch.float64)


def started(count: int, seed: int = 0, **settings: Any) -> ServerRoom:
    env = ServerRoom(count, generator=Seeds(seed).torch("environment"), **settings)
    env.reset()
    return env


def level(env: ServerRoom, of: int) -> Tensor:
    return torch.full((env.num_envs,), of)


def seen(obs: Tensor, name: str) -> Tensor:
    return obs[:, OBSERVATION.index(name)]


def settle(it_load: float, outdoor: float, removed: float, steps: int = 5_000) -> tuple[float, float]:
    air, water = number(40.0), number(3.0)
    for _ in range(steps):
        air, water = plant.next_temperatures(air, water, number(it_load), number(outdoor), number(removed))
    return float(air), float(water)


# The physics.


@pytest.mark.parametrize(
    ("it_load", "outdoor", "removed"), [(30.0, 20.0, 28.0), (36.0, 30.0, 40.0), (24.0, 10.0, 20.0)]
)
def test_the_room_settles_where_heat_in_is_heat_out(it_load: float, outdoor: float, removed: float) -> None:
    assert settle(it_load, outdoor, removed) == pytest.approx(plant.steady_temperatures(it_load, outdoor, removed))


def test_the_worked_steady_state() -> None:
    assert plant.steady_temperatures(30.0, 20.0, 28.0) == pytest.approx((26.667, 19.667), abs=1e-3)


def test_without_load_and_cooling_the_room_becomes_as_warm_as_outdoors() -> None:
    assert settle(0.0, 12.5, 0.0) == pytest.approx((12.5, 12.5))


@settings(max_examples=50, deadline=None)
@given(
    air=st.floats(10, 40),
    water=st.floats(5, 30),
    load=st.floats(0, 60),
    out=st.floats(-10, 45),
    removed=st.floats(0, 50),
)
def test_a_step_agrees_with_small_euler_steps(
    air: float, water: float, load: float, out: float, removed: float
) -> None:
    exact = plant.next_temperatures(*(number(value) for value in (air, water, load, out, removed)))
    parts = 2_000
    for _ in range(parts):
        warming = (load + 0.3 * (out - air) - 4.0 * (air - water)) / 0.8
        cooling = (4.0 * (air - water) - removed) / 14.0
        air, water = air + warming * plant.STEP_H / parts, water + cooling * plant.STEP_H / parts
    assert exact.squeeze(-1).tolist() == pytest.approx([air, water], abs=2e-2)


def test_no_energy_is_lost_where_the_walls_let_nothing_through() -> None:
    """Outdoors as warm as the air on average: what the masses gain is the load less what the chiller removes."""
    air, water = number(25.0), number(18.0)
    gained = through_walls = 0.0
    for _ in range(200):
        nxt = plant.next_temperatures(air, water, number(30.0), air, number(29.0))
        gained += 0.8 * float(nxt[0] - air) + 14.0 * float(nxt[1] - water)
        through_walls += 0.3 * float((nxt[0] - air).abs()) * plant.STEP_H
        air, water = nxt
    assert gained == pytest.approx(200 * plant.STEP_H * (30.0 - 29.0), abs=through_walls)


def test_the_worked_chiller() -> None:
    heat, power = plant.chiller(number(0.5), number(19.0), number(25.0))
    assert float(heat) == pytest.approx(24.0)
    assert float(heat / power) == pytest.approx(0.35 * 287.15 / 24.0)
    assert float(power) == pytest.approx(5.731, abs=1e-3)


def cop(fraction: float, water: float, outdoor: float) -> float:
    heat, power = plant.chiller(number(fraction), number(water), number(outdoor))
    return float(heat / power)


def test_cooling_is_cheap_on_cool_nights_and_dear_into_cold_water_and_at_full_power() -> None:
    usual = cop(0.5, 18.0, 25.0)
    assert cop(0.5, 18.0, 15.0) > usual > cop(0.5, 18.0, 35.0)
    assert cop(0.5, 12.0, 25.0) < usual
    assert cop(1.0, 18.0, 25.0) < usual < cop(0.25, 18.0, 25.0)
    assert cop(0.25, 25.0, 5.0) == pytest.approx(0.35 * (25.0 - 4.5 + 273.15) / 15.0)  # the smallest lift
    assert 2.0 < cop(1.0, 12.0, 33.0) < cop(0.25, 19.0, 10.0) < 7.0


def test_the_chiller_removes_less_when_it_is_hot_and_nothing_from_the_coldest_water() -> None:
    heat = [float(plant.chiller(number(1.0), number(18.0), number(out))[0]) for out in (25.0, 35.0)]
    assert heat == pytest.approx([48.0, 43.2])
    at = {water: float(plant.chiller(number(1.0), number(water), number(25.0))[0]) for water in (12.0, 11.0, 10.0, 9.0)}
    assert at == pytest.approx({12.0: 48.0, 11.0: 24.0, 10.0: 0.0, 9.0: 0.0})
    assert [float(part) for part in plant.chiller(number(0.0), number(18.0), number(25.0))] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("hour", "price"),
    [(0.0, 0.12), (7.99, 0.12), (8.0, 0.22), (10.0, 0.42), (14.0, 0.22), (18.0, 0.42), (22.0, 0.22), (24.0, 0.12)],
)
def test_the_tariff(hour: float, price: float) -> None:
    assert plant.price_at(hour) == price


def test_the_days_curves() -> None:
    load, outdoor, price, sin, cos = plant.day_curves(CPU)
    assert len(load) == STEPS_A_DAY == round(24 / plant.STEP_H)
    assert float(load.mean()) == pytest.approx(30.0, abs=1e-3) and float(outdoor.mean()) == pytest.approx(
        20.0, abs=1e-3
    )
    assert int(load.argmax()) == int(outdoor.argmax()) == round(15 / plant.STEP_H)
    assert (float(load.max()), float(outdoor.min())) == pytest.approx((36.0, 14.0), abs=1e-3)
    assert price.unique().tolist() == pytest.approx([0.12, 0.22, 0.42])
    six = round(6 / plant.STEP_H)
    assert (float(sin[six]), float(cos[six]), float(cos[0])) == pytest.approx((1.0, 0.0, 1.0), abs=1e-6)


def test_load_and_weather_stray_as_far_and_for_as_long_as_documented() -> None:
    env = started(4000, start_hour=0.0)
    noise = []
    for _ in range(13):
        noise.append(env._noise)
        env.step(level(env, 2))
    first, last = noise[0], noise[12]  # two hours apart
    torch.testing.assert_close(first.std(1), torch.tensor([2.5, 3.0]), rtol=0.05, atol=0.0)
    torch.testing.assert_close(last.std(1), torch.tensor([2.5, 3.0]), rtol=0.05, atol=0.0)
    for row, hours in enumerate((2.0, 12.0)):
        correlation = float(torch.corrcoef(torch.stack([first[row], last[row]]))[0, 1])
        assert correlation == pytest.approx(math.exp(-2.0 / hours), abs=0.05)
    assert abs(float(torch.corrcoef(torch.stack([first[0], first[1]]))[0, 1])) < 0.06


# The book.


def test_an_hour_of_one_kilowatt_at_thirty_cents_costs_thirty_cents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plant, "chiller", lambda fraction, water, outdoor: (48.0 * fraction, torch.ones(3)))
    monkeypatch.setattr(plant, "price_at", lambda hour: 0.30)
    plant.day_curves.cache_clear()
    env = started(3)
    plant.day_curves.cache_clear()
    rewards = sum(env.step(level(env, 4)).reward for _ in range(6))
    ledger = env.ledger
    assert ledger.energy_kwh.tolist() == pytest.approx([1.0] * 3)
    assert ledger.energy_cost.tolist() == pytest.approx([0.30] * 3)
    assert torch.as_tensor(rewards).tolist() == pytest.approx([-0.30] * 3)


def test_degree_minutes_and_violations_are_counted_above_27_and_32_degrees() -> None:
    env = started(1)
    inlets, rewards = [], []
    for _ in range(60):
        rewards.append(float(env.step(level(env, 0)).reward))
        inlets.append(float(env.inlet))
    over = [max(0.0, inlet - 27.0) * plant.STEP_MIN for inlet in inlets]
    assert sum(over) > 0 and max(inlets) > 32.0
    assert float(env.ledger.degree_minutes) == pytest.approx(sum(over), rel=1e-4)
    assert rewards == pytest.approx([-0.05 * amount for amount in over], abs=1e-4)  # no cooling, no electricity
    assert int(env.violations) == sum(inlet > 32.0 for inlet in inlets)
    assert float(env.ledger.energy_kwh) == 0.0


def test_the_book_adds_up_with_the_rewards_and_begins_anew_with_every_day() -> None:
    env, policy, acting = started(50), UniformPolicy(5), Seeds(0).torch("actions")
    obs = env.reset()
    for _ in range(2):
        total = torch.zeros(50)
        for _ in range(STEPS_A_DAY):
            step = env.step(policy.act(obs, greedy=False, generator=acting))
            total, obs = total + step.reward, step.obs
        assert env.finished is not None
        torch.testing.assert_close(env.finished.cost, -total, rtol=1e-4, atol=1e-3)
        assert float(env.ledger.cost.abs().max()) == 0.0
        torch.testing.assert_close(env.finished.penalty, 0.05 * env.finished.degree_minutes)
        mean_price = env.finished.energy_cost / env.finished.energy_kwh
        assert float(mean_price.min()) > 0.12 and float(mean_price.max()) < 0.42


def test_a_ledger_that_was_read_does_not_change_afterwards() -> None:
    env = started(2)
    env.step(level(env, 4))
    before = env.ledger
    first = before.energy_kwh.clone()
    env.step(level(env, 4))
    assert torch.equal(before.energy_kwh, first)
    assert bool((env.ledger.energy_kwh > first).all())


# The environment.


def test_the_observation_is_what_it_says() -> None:
    env = started(5, start_hour=13.5)
    obs = env.reset()
    assert obs.shape == (5, env.obs_size) == (5, len(OBSERVATION)) and obs.dtype == torch.float32
    assert torch.equal(seen(obs, "inlet_c"), env.inlet)
    torch.testing.assert_close(seen(obs, "water_c"), env.inlet - 7.5)
    assert seen(obs, "price_eur_per_kwh").tolist() == pytest.approx([0.42] * 5)
    assert env.hour.tolist() == pytest.approx([13.5] * 5)
    angle = torch.atan2(seen(obs, "sin_time"), seen(obs, "cos_time")) % (2 * math.pi)
    assert (angle * 24 / (2 * math.pi)).tolist() == pytest.approx([13.5] * 5)
    obs = env.step(torch.tensor([0, 1, 2, 3, 4])).obs
    assert seen(obs, "cooling").tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert seen(obs, "outdoor_c").unique().numel() == seen(obs, "it_load_kw").unique().numel() == 5


def test_the_load_and_the_price_that_are_seen_are_those_that_count() -> None:
    env = started(200)
    inlet, water, outdoor, load, price = env.reset()[:, :5].unbind(1)
    step = env.step(level(env, 2))
    heat, power = plant.chiller(torch.full((200,), 0.5), water, outdoor)
    torch.testing.assert_close(env.inlet, plant.next_temperatures(inlet, water, load, outdoor, heat)[0])
    cool = env.inlet < 27.0
    torch.testing.assert_close(step.reward[cool], (-power * plant.STEP_H * price)[cool])
    assert int(cool.sum()) > 150


def test_a_day_is_cut_off_and_never_ends_by_itself() -> None:
    env = started(3)
    steps = [env.step(level(env, 0)) for _ in range(STEPS_A_DAY + 1)]  # far beyond every limit
    assert [bool(s.truncated.all()) for s in steps] == [False] * (STEPS_A_DAY - 1) + [True, False]
    assert not any(bool(s.terminated.any()) for s in steps)
    last = steps[STEPS_A_DAY - 1]
    assert float(seen(last.next_obs, "inlet_c").min()) > 40.0  # the true last one ...
    assert float(seen(last.obs, "inlet_c").max()) <= 26.0  # ... and a fresh first one
    assert torch.equal(steps[0].obs, steps[0].next_obs)
    assert env.finished is not None and int(env.finished.violations.min()) > 50
    assert env.violations.tolist() == [0, 0, 0]


def test_the_seed_decides_everything() -> None:
    def day(seed: int) -> Tensor:
        env, acting = started(4, seed), Seeds(7).torch("actions")
        return torch.stack([env.step(torch.randint(5, (4,), generator=acting)).next_obs for _ in range(300)])

    assert torch.equal(day(0), day(0))
    assert not torch.equal(day(0), day(1))


def test_rooms_differ_from_each_other_and_days_too() -> None:
    env = started(64)
    first, second = env.reset(), env.reset()
    assert len(first.unique(dim=0)) == 64 and not torch.equal(first, second)
    assert env.hour.unique().numel() > 30


def test_what_one_room_does_changes_nothing_in_another() -> None:
    here, there = started(3), started(3)
    for index in range(STEPS_A_DAY + 5):
        a = here.step(torch.tensor([index % 5, 2, 3]))
        b = there.step(torch.tensor([4 - index % 5, 2, 3]))
        for mine, yours in zip(a, b, strict=True):
            assert torch.equal(mine[1:], yours[1:])
    assert float((here.inlet - there.inlet)[0].abs()) > 0.0


def test_whoever_acts_meets_the_same_weather_and_load() -> None:
    idle, busy = started(10), started(10)
    for _ in range(STEPS_A_DAY + 5):
        a, b = idle.step(level(idle, 0)).obs, busy.step(level(busy, 4)).obs
        for name in ("outdoor_c", "it_load_kw", "price_eur_per_kwh"):
            assert torch.equal(seen(a, name), seen(b, name))


def test_observations_are_scaled_to_order_one() -> None:
    env = started(100)
    assert isinstance(env, ScaledEnvironment)
    acting, scaled = Seeds(0).torch("actions"), []
    for _ in range(STEPS_A_DAY):
        obs = env.step(torch.randint(5, (100,), generator=acting)).obs
        scaled.append((obs - env.obs_mean) / env.obs_std)
    everything = torch.cat(scaled)
    assert float(everything.mean(0).abs().max()) < 1.0
    assert 0.5 < float(everything.std(0).min()) <= float(everything.std(0).max()) < 2.0


@pytest.mark.parametrize(
    "action", [torch.tensor([2.0, 2.0]), torch.tensor([2]), torch.tensor([[2], [2]]), torch.tensor([True, False])]
)
def test_actions_of_the_wrong_kind_are_refused(action: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"int64 of shape \(2,\)"):
        started(2).step(action)


@pytest.mark.parametrize("action", [[0, 5], [-1, 2]])
def test_levels_that_there_are_not_are_refused(action: list[int]) -> None:
    env = started(2)
    with pytest.raises(ConfigError, match="levels 0 to 4"):
        env.step(torch.tensor(action))
    assert env.steps == 0  # nothing happened


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError):
        ServerRoom(0)
    with pytest.raises(ConfigError, match="hour"):
        ServerRoom(1, start_hour=24.0)
    with pytest.raises(ConfigError, match="above 0"):
        thermostat(stage_k=0.0)


# The relay.


def test_the_relay_lets_the_level_change_by_one() -> None:
    env = GentleServerRoom(3, generator=Seeds(0).torch("environment"))
    env.reset()
    assert isinstance(env, MaskedEnvironment) and not isinstance(started(1), MaskedEnvironment)
    assert env.action_mask().tolist() == [[False, True, True, True, False]] * 3  # begins at level 2
    obs = env.step(torch.tensor([0, 2, 4])).obs
    assert seen(obs, "cooling").tolist() == [0.25, 0.5, 0.75]  # as far as the relay lets it
    obs = env.step(torch.tensor([0, 2, 4])).obs
    assert seen(obs, "cooling").tolist() == [0.0, 0.5, 1.0]
    assert env.action_mask().tolist() == [
        [True, True, False, False, False],
        [False, True, True, True, False],
        [False, False, False, True, True],
    ]


def test_within_the_mask_the_relay_changes_nothing() -> None:
    gentle = GentleServerRoom(20, generator=Seeds(0).torch("environment"))
    plain, acting = ServerRoom(20, generator=Seeds(0).torch("environment")), Seeds(0).torch("actions")
    assert torch.equal(gentle.reset(), plain.reset())
    for _ in range(STEPS_A_DAY + 1):
        action = torch.multinomial(gentle.action_mask().float(), 1, generator=acting).squeeze(-1)
        for mine, yours in zip(gentle.step(action), plain.step(action), strict=True):
            assert torch.equal(mine, yours)


# The faults.


def pair(fault: Fault, count: int = 4) -> tuple[ServerRoom, ServerRoom]:
    """Two equal batches, one of which fails; they meet the same weather."""
    sound, failing = started(count), started(count)
    failing.inject(fault)
    return sound, failing


def test_growing_load_heats_the_room_and_is_seen() -> None:
    sound, failing = pair(Fault("growing_load", 6.0))
    for _ in range(3):
        a, b = sound.step(level(sound, 2)).obs, failing.step(level(failing, 2)).obs
    torch.testing.assert_close(seen(b, "it_load_kw") - seen(a, "it_load_kw"), torch.full((4,), 6.0))
    assert bool((failing.inlet > sound.inlet + 0.5).all())


def test_a_weak_chiller_cools_less_for_the_same_electricity() -> None:
    sound, failing = pair(Fault("weak_chiller", 0.3))
    a, b = sound.step(level(sound, 4)), failing.step(level(failing, 4))
    assert torch.equal(sound.ledger.energy_kwh, failing.ledger.energy_kwh)
    warmer = seen(b.obs, "water_c") - seen(a.obs, "water_c")
    heat = float(plant.RATED_KW * plant.STEP_H * 0.3)
    assert warmer.mean().item() == pytest.approx(heat / plant.WATER_CAPACITY, rel=0.15)


def test_a_drifting_sensor_changes_what_is_seen_and_nothing_else() -> None:
    sound, failing = pair(Fault("sensor_drift", -3.0))
    for _ in range(5):
        a, b = sound.step(level(sound, 1)), failing.step(level(failing, 1))
        torch.testing.assert_close(seen(b.obs, "inlet_c"), seen(a.obs, "inlet_c") - 3.0)
        assert torch.equal(a.obs[:, 1:], b.obs[:, 1:]) and torch.equal(a.reward, b.reward)
    assert torch.equal(sound.inlet, failing.inlet)


def test_a_new_tariff_moves_every_price_of_the_day() -> None:
    env = started(1, start_hour=0.0)
    env.inject(Fault("new_tariff", 12.0))
    prices = []
    for _ in range(STEPS_A_DAY - 1):
        prices.append(float(seen(env.step(level(env, 2)).obs, "price_eur_per_kwh")))
    hours = [(index + 1) * plant.STEP_H for index in range(len(prices))]
    assert prices == pytest.approx([plant.price_at(hour - 12.0 + 1e-6) for hour in hours])
    assert prices[round(13 / plant.STEP_H)] == pytest.approx(0.12)  # midday is cheap now


def test_a_new_tariff_changes_the_bill_and_not_the_electricity() -> None:
    sound, failing = pair(Fault("new_tariff", 12.0), count=200)
    a, b = sound.step(level(sound, 2)), failing.step(level(failing, 2))
    assert torch.equal(sound.ledger.energy_kwh, failing.ledger.energy_kwh)
    assert not torch.equal(a.reward, b.reward)


def test_a_heat_wave_makes_cooling_dearer() -> None:
    sound, failing = pair(Fault("heat_wave", 8.0))
    a, b = sound.step(level(sound, 3)).obs, failing.step(level(failing, 3)).obs
    torch.testing.assert_close(seen(b, "outdoor_c") - seen(a, "outdoor_c"), torch.full((4,), 8.0))
    assert bool((failing.ledger.energy_kwh > sound.ledger.energy_kwh).all())


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_every_fault_can_strike_some_rooms_and_be_mended(kind: FaultKind) -> None:
    sound, failing = started(2), started(2)
    failing.inject(Fault(kind, 0.5 if kind == "weak_chiller" else 12.0), torch.tensor([False, True]))
    for _ in range(60):
        a, b = sound.step(level(sound, 2)), failing.step(level(failing, 2))
        assert torch.equal(a.next_obs[0], b.next_obs[0]) and torch.equal(a.reward[0], b.reward[0])
    assert not torch.equal(a.next_obs[1], b.next_obs[1]) or not torch.equal(sound.ledger.cost, failing.ledger.cost)
    failing.clear()
    sound.reset()
    failing.reset()
    a, b = sound.step(level(sound, 2)), failing.step(level(failing, 2))
    assert torch.equal(a.next_obs, b.next_obs) and torch.equal(a.reward, b.reward)


def test_a_fault_begins_when_it_is_told_to_and_grows() -> None:
    fault = Fault("heat_wave", 10.0, start_step=2, ramp_steps=4)
    assert [fault.strength(step) for step in range(8)] == [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert [Fault("heat_wave", 10.0, start_step=2).strength(step) for step in range(4)] == [0.0, 0.0, 1.0, 1.0]
    sound, failing = started(1), started(1)
    differences = []
    for step in range(12):
        if step == 3:
            failing.inject(fault)
        a, b = sound.step(level(sound, 2)).obs, failing.step(level(failing, 2)).obs
        differences.append(float(seen(b, "outdoor_c") - seen(a, "outdoor_c")))
    assert differences == pytest.approx([0, 0, 0, 0, 0, 2.5, 5.0, 7.5, 10.0, 10.0, 10.0, 10.0], abs=1e-4)


def test_faults_add_up_and_outlive_the_day() -> None:
    env = started(1, max_episode_steps=3)
    for fault in (Fault("growing_load", 2.0), Fault("growing_load", 3.0), Fault("weak_chiller", 0.5)):
        env.inject(fault)
    env.inject(Fault("weak_chiller", 0.5))
    for _ in range(7):
        env.step(level(env, 2))
    assert env._effects is not None
    assert float(env._effects.growing_load) == 5.0
    assert float(env._effects.weak_chiller) == pytest.approx(0.75)  # half of a half is left: 0.25


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"kind": "earthquake", "magnitude": 8.0}, "growing_load"),
        ({"kind": "heat_wave", "magnitude": math.nan}, "finite"),
        ({"kind": "weak_chiller", "magnitude": 30.0}, "0 to 1"),
        ({"kind": "weak_chiller", "magnitude": -0.1}, "0 to 1"),
        ({"kind": "heat_wave", "magnitude": 5.0, "start_step": -1}, "0 or more"),
        ({"kind": "heat_wave", "magnitude": 5.0, "ramp_steps": -1}, "0 or more"),
    ],
)
def test_faults_that_mean_nothing_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Fault(**settings)


@pytest.mark.parametrize("copies", [torch.tensor([True]), torch.tensor([0, 1]), torch.ones(2)])
def test_copies_that_are_no_mask_are_refused(copies: Tensor) -> None:
    with pytest.raises(ShapeError, match="bool tensor"):
        started(2).inject(Fault("heat_wave", 5.0), copies)


# Behind Gymnasium's interface.


@pytest.mark.parametrize("kind", [ServerRoom, GentleServerRoom])
def test_gymnasium_finds_nothing_to_object_to(kind: type[ServerRoom]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(kind.env_id).unwrapped, skip_render_check=True)
    spec = gym.spec(kind.env_id)
    assert spec.max_episode_steps == STEPS_A_DAY
    assert spec.nondeterministic is False


def test_gymnasiums_room_is_the_batched_one_step_by_step() -> None:
    single: Any = gym.make(ServerRoom.env_id)
    first, _ = single.reset(seed=3)
    seed = int(gym.utils.seeding.np_random(3)[0].integers(2**63 - 1))
    batched = ServerRoom(1, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(batched.reset()[0], torch.from_numpy(first))
    for index in range(2 * STEPS_A_DAY):
        obs, reward, terminated, truncated, info = single.step(index % 5)
        assert obs in single.observation_space
        step = batched.step(torch.tensor([index % 5]))
        np.testing.assert_array_equal(step.next_obs[0].numpy(), obs)
        assert float(step.reward) == reward
        assert not terminated and truncated == bool(step.truncated)
        ledger = batched.finished if truncated else batched.ledger
        assert ledger is not None
        assert info["violations"] == int(ledger.violations)
        assert info["energy_cost"] + info["penalty"] == pytest.approx(float(ledger.cost))
        if truncated:
            obs, info = single.reset()
            np.testing.assert_array_equal(step.obs[0].numpy(), obs)
            assert info["energy_kwh"] == 0.0


def test_seeds_behind_gymnasium() -> None:
    a, b = gym.make(ServerRoom.env_id), gym.make(ServerRoom.env_id)
    np.testing.assert_array_equal(a.reset(seed=0)[0], b.reset(seed=0)[0])
    np.testing.assert_array_equal(a.reset()[0], b.reset()[0])
    assert not np.array_equal(a.reset()[0], b.reset(seed=0)[0])
    fresh = [gym.make(ServerRoom.env_id).reset()[0] for _ in range(2)]
    assert not np.array_equal(*fresh)


def test_the_relay_behind_gymnasium_says_what_it_lets_through() -> None:
    env: Any = gym.make(GentleServerRoom.env_id)
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [False, True, True, True, False]
    obs, _, _, _, info = env.step(4)
    assert obs[-1] == 0.75 and info["action_mask"].tolist() == [False, False, True, True, True]
    assert "action_mask" not in gym.make(ServerRoom.env_id).reset()[1]


def test_faults_behind_gymnasium() -> None:
    env: Any = gym.make(ServerRoom.env_id)
    env.reset(seed=0)
    env.unwrapped.room.inject(Fault("sensor_drift", -4.0))
    obs, *_ = env.step(2)
    assert obs[0] == pytest.approx(float(env.unwrapped.room.inlet) - 4.0)


@pytest.mark.parametrize("env_id", [ServerRoom.env_id, GentleServerRoom.env_id])
@pytest.mark.parametrize("native", [True, False])
def test_the_name_leads_to_the_room(env_id: str, native: bool) -> None:
    env = make(env_id, 2, seeds=Seeds(0), native=native)
    assert (env.env_id, env.obs_size, env.num_actions) == (env_id, 8, 5)
    assert isinstance(env, ServerRoom) == native
    assert env.step(torch.tensor([2, 3])).reward.shape == (2,) if native else env.reset().shape == (2, 8)


@pytest.mark.gpu
def test_on_a_gpu_the_same_physics_hold() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    here, there = started(64), ServerRoom(64, device="cuda", generator=Seeds(0).torch("environment", "cuda"))
    there.reset()
    for name in ("_temperatures", "_noise", "_clock", "_level"):
        setattr(there, name, getattr(here, name).cuda())
    here._look_around()
    there._look_around()
    a, b = here.step(level(here, 3)), there.step(torch.full((64,), 3, device="cuda"))
    torch.testing.assert_close(a.reward, b.reward.cpu())
    torch.testing.assert_close(here.inlet, there.inlet.cpu(), rtol=1e-4, atol=1e-3)


# The baseline.


def test_the_thermostats_stages() -> None:
    obs = torch.tensor(room.USUAL).repeat(7, 1)
    obs[:, 0] = torch.tensor([20.0, 25.45, 25.55, 25.95, 26.35, 26.75, 40.0])
    policy = thermostat()
    assert policy.act(obs, greedy=True).tolist() == [0, 0, 1, 2, 3, 4, 4]
    assert thermostat(first_stage_c=20.5, stage_k=5.0).act(obs, greedy=True).tolist() == [0, 1, 2, 2, 2, 2, 4]
