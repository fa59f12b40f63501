"""Cases of chapter 17: monitoring, drift and alerts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rlcourse.course.cases_common import changing, column, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation
from rlcourse.monitoring.drift.correction import holm
from rlcourse.monitoring.drift.states import stability_index
from rlcourse.monitoring.evaluation import quantile
from rlcourse.monitoring.signals import CENSORED, SUCCESS, cumulative_incidence

_FILE = "ch17_monitoring"


def _bools(*values: bool) -> Tensor:
    return torch.tensor(values)


# Percentiles


def merged_percentile(counts: Tensor, bounds: list[float], share: float) -> float:
    """The reference: the evaluator's ``histogram_quantile`` of the summed buckets."""
    return quantile(share, list(zip(bounds, counts.sum(0).tolist(), strict=True)))


def _own(counts: Tensor, bounds: list[float], share: float) -> Tensor:
    """``(S,)``: the percentile of each server by itself."""
    return torch.tensor([merged_percentile(row.unsqueeze(0), bounds, share) for row in counts], dtype=torch.float64)


def _bucket(counts: Tensor, bounds: list[float], share: float, pick: Callable[[float, float], float]) -> float:
    """From the bucket that holds the percentile: ``pick(lower edge, upper edge)``."""
    merged = counts.sum(0).tolist()
    place = next(k for k, count in enumerate(merged) if count >= share * merged[-1])
    if math.isinf(bounds[place]):
        return bounds[-2]
    return pick(bounds[place - 1] if place else 0.0, bounds[place])


def _draw_histograms(rng: np.random.Generator) -> Arguments:
    # One server in three is slow and busy, and the percentile lies in its buckets.
    quick, slow = rng.integers(20, 60, size=(2, 5)), rng.integers(5, 40, size=5)
    quick[:, 3:] = 0
    per_bucket = np.vstack([quick, slow])
    per_bucket[:, -1] = 0
    return {
        "counts": torch.from_numpy(per_bucket.cumsum(1)).float(),
        "bounds": [0.125, 0.25, 0.5, 1.0, math.inf],
        "share": float(rng.choice([0.8, 0.9, 0.95])),
    }


_TWO_SERVERS = torch.tensor([[90.0, 90.0, 90.0], [0.0, 10.0, 10.0]])

MERGED_PERCENTILE = Exercise(
    name="merged_percentile",
    file=_FILE,
    reference=merged_percentile,
    draw=_draw_histograms,
    worked=(
        Worked({"counts": _TWO_SERVERS, "bounds": [1.0, 2.0, math.inf], "share": 0.95}, 1.5),
        Worked({"counts": _TWO_SERVERS, "bounds": [1.0, 2.0, math.inf], "share": 0.45}, 0.5),
        Worked({"counts": torch.tensor([[5.0, 5.0, 10.0]]), "bounds": [1.0, 4.0, math.inf], "share": 0.9}, 4.0),
    ),
    mistakes=(
        Mistake(
            "mean of percentiles",
            lambda counts, bounds, share: float(_own(counts, bounds, share).mean()),
            "This is the mean of the servers' own percentiles. Nothing in the world is as slow as that: add the counts first "
            "and take one percentile of the sum.",
        ),
        Mistake(
            "weighted mean of percentiles",
            lambda counts, bounds, share: float(
                (_own(counts, bounds, share) * counts[:, -1].double()).sum() / counts[:, -1].double().sum()
            ),
            "Weighting the percentiles by traffic does not make them add up either. Add the counts first.",
        ),
        Mistake(
            "the slowest server's",
            lambda counts, bounds, share: float(_own(counts, bounds, share).max()),
            "This is the percentile of the slowest server. It may have answered a handful of requests: add the counts.",
        ),
        Mistake(
            "upper bound",
            lambda counts, bounds, share: _bucket(counts, bounds, share, lambda low, high: high),
            "The upper bound of the right bucket. Within it the requests are spread evenly: go the share of the way that "
            "the rank asks for.",
        ),
        Mistake(
            "middle of the bucket",
            lambda counts, bounds, share: _bucket(counts, bounds, share, lambda low, high: (low + high) / 2),
            "The middle of the right bucket, wherever the rank lies in it. Go the share of the way that the rank asks for.",
        ),
        Mistake(
            "cumulated twice",
            lambda counts, bounds, share: merged_percentile(counts.cumsum(1), bounds, share),
            "The counts are cumulative already: each holds all that are quicker. Adding them up along the bounds counts the "
            "quick ones again and again.",
        ),
        Mistake(
            "infinite",
            lambda counts, bounds, share: (
                math.inf
                if share * float(counts.sum(0)[-1]) > float(counts.sum(0)[-2])
                else merged_percentile(counts, bounds, share)
            ),
            "Beyond the last finite bound nothing is known. The answer is then that bound, which is a warning to choose other "
            "buckets.",
        ),
    ),
    hint="Sum over the servers, find the first bucket whose count reaches share times the last count, interpolate in it.",
    difficulty=2,
    minutes=20,
)

# Drift


def _shares(
    readings: Tensor, edges: Tensor, floor: float, *, right: bool = False
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    bins = torch.searchsorted(edges, readings, right=right)
    counted = torch.bincount(bins, minlength=len(edges) + 1).double() / len(readings)
    return counted.clamp(min=floor).numpy()


def drift_index(reference: Tensor, window: Tensor, edges: Tensor, floor: float) -> float:
    """The reference: the package's stability index of shares in fixed bins."""
    return float(stability_index(_shares(reference, edges, floor), _shares(window, edges, floor), floor=floor))


def _own_edges(reference: Tensor, window: Tensor, edges: Tensor, floor: float) -> float:
    levels = torch.arange(1, len(edges) + 1) / (len(edges) + 1)
    return drift_index(reference, window, torch.quantile(window, levels), floor)


def _one_way(reference: Tensor, window: Tensor, edges: Tensor, floor: float) -> float:
    e, a = _shares(reference, edges, floor), _shares(window, edges, floor)
    return float((a * np.log(a / e)).sum())


def _draw_readings(rng: np.random.Generator) -> Arguments:
    # Readings in quarters of a degree, so that some lie on an edge; nothing of the window is in the first bin.
    reference = np.round(rng.normal(24.0, 1.0, 80) * 4) / 4
    reference[:6] = (21.0, 21.5, 22.0, 23.0, 24.0, 25.0)
    window = np.maximum(np.round(rng.normal(24.8, 1.0, 30) * 4) / 4, 22.25)
    window[:3] = (23.0, 24.0, 25.0)
    return {
        "reference": torch.from_numpy(reference).float(),
        "window": torch.from_numpy(window).float(),
        "edges": column([22, 23, 24, 25]),
        "floor": float(rng.choice([0.001, 0.01])),
    }


DRIFT_INDEX = Exercise(
    name="drift_index",
    file=_FILE,
    reference=drift_index,
    draw=_draw_readings,
    worked=(
        Worked(
            {"reference": column([1, 9]), "window": column([1, 6, 7, 8]), "edges": column([5]), "floor": 0.001},
            -0.25 * math.log(0.5) + 0.25 * math.log(1.5),
        ),
        Worked(
            {"reference": column([1, 9]), "window": column([6, 7]), "edges": column([5]), "floor": 0.1},
            -0.4 * math.log(0.2) + 0.5 * math.log(2.0),
        ),
        Worked(
            {"reference": column([5, 9]), "window": column([5, 5, 5, 9]), "edges": column([5]), "floor": 0.001},
            0.25 * math.log(1.5) - 0.25 * math.log(0.5),
        ),
    ),
    mistakes=(
        Mistake(
            "bins of the window",
            _own_edges,
            "The bins were made from the window. A ruler that moves with what it measures always says the same: use the "
            "edges that are given.",
        ),
        Mistake(
            "no floor",
            lambda reference, window, edges, floor: drift_index(reference, window, edges, 1e-12),
            "An empty bin makes the logarithm explode, and one missing reading outweighs everything. No share counts as less "
            "than the floor.",
        ),
        Mistake(
            "one way",
            _one_way,
            "This is the divergence of the window from the reference alone. The index weighs each logarithm with the "
            "*difference* of the two shares.",
        ),
        Mistake(
            "the other way",
            lambda reference, window, edges, floor: _one_way(window, reference, edges, floor),
            "This is the divergence of the reference from the window alone. The index weighs each logarithm with the "
            "*difference* of the two shares.",
        ),
        Mistake(
            "sign",
            lambda *given: -drift_index(*given),
            "Right but for its sign. A difference and its logarithm have the same sign, so no bin makes the sum smaller.",
        ),
        Mistake(
            "bits",
            lambda *given: drift_index(*given) / math.log(2.0),
            "Right but for the unit: the logarithm is the natural one.",
        ),
        Mistake(
            "mean of the bins",
            lambda reference, window, edges, floor: drift_index(reference, window, edges, floor) / (len(edges) + 1),
            "The mean over the bins; their sum is asked for.",
        ),
        Mistake(
            "the edge above",
            lambda reference, window, edges, floor: float(
                stability_index(
                    _shares(reference, edges, floor, right=True), _shares(window, edges, floor, right=True), floor=floor
                )
            ),
            "A reading that is exactly at an edge belongs to the bin *below* it.",
        ),
    ),
    hint="Count both sides in the same bins, divide by their own numbers of readings, raise to the floor, then the sum.",
    difficulty=2,
    minutes=15,
)


def holm_alarms(p_values: Tensor, level: float) -> Tensor:
    """The reference: the package's adjusted p-values, at or below the level."""
    return torch.from_numpy(holm(p_values.double().numpy()) <= level + 1e-9)


def _by_limits(p_values: Tensor, limits: Tensor, *, stop: bool = True) -> Tensor:
    ordered, order = p_values.sort()
    small = ordered <= limits
    alarms = torch.zeros(len(p_values), dtype=torch.bool)
    alarms[order] = small.cumprod(0).bool() if stop else small
    return alarms


def _step_up(p_values: Tensor, limits: Tensor) -> Tensor:
    """All up to the largest that is small enough."""
    ordered, order = p_values.sort()
    small = (ordered <= limits).flip(0).cumsum(0).flip(0) > 0
    alarms = torch.zeros(len(p_values), dtype=torch.bool)
    alarms[order] = small
    return alarms


def _holms_limits(p_values: Tensor, level: float) -> Tensor:
    return level / torch.arange(len(p_values), 0, -1)


def _draw_p_values(rng: np.random.Generator) -> Arguments:
    # Of six: one or two pass, the next misses its limit, the one after is below its own; the fourth or fifth is above its
    # own, and below what a test alone, or Benjamini and Hochberg, would allow.
    level, passes = 0.06, int(rng.integers(1, 3))
    limits = level / np.arange(6, 0, -1)
    p = np.sort(rng.uniform(0.2, 0.9, 6))
    p[0] = rng.uniform(0.5, 0.95) * limits[0]
    if passes == 2:
        p[1] = (limits[0] + limits[1]) / 2
    p[passes] = limits[passes] * 1.02
    p[passes + 1] = limits[passes + 1] * 0.99
    p[passes + 2] = rng.choice([0.8 * level * (passes + 3) / 6, 0.055])
    return {"p_values": torch.from_numpy(rng.permutation(p)).float(), "level": level}


HOLM_ALARMS = Exercise(
    name="holm_alarms",
    file=_FILE,
    reference=holm_alarms,
    draw=_draw_p_values,
    worked=(
        Worked({"p_values": column([0.02, 0.01, 0.04]), "level": 0.05}, _bools(True, True, True)),
        Worked({"p_values": column([0.03, 0.01, 0.04]), "level": 0.05}, _bools(False, True, False)),
        Worked({"p_values": column([0.25, 0.125]), "level": 0.25}, _bools(True, True)),
        Worked({"p_values": column([0.02, 0.5, 0.02, 0.9]), "level": 0.05}, _bools(False, False, False, False)),
    ),
    mistakes=(
        Mistake(
            "each by itself",
            lambda p_values, level: p_values <= level,
            "Every test is judged as if it were the only one. With twelve of them at 5 % a healthy plant raises an alarm at "
            "nearly every second look.",
        ),
        Mistake(
            "all as strict",
            lambda p_values, level: p_values <= level / len(p_values),
            "This is Bonferroni's way: right about false alarms, and stricter than it need be. The second smallest is compared "
            "with level / (M - 1).",
        ),
        Mistake(
            "does not stop",
            lambda p_values, level: _by_limits(p_values, _holms_limits(p_values, level), stop=False),
            "It goes on after the first one that is too large. From there on nothing raises an alarm.",
        ),
        Mistake(
            "from the largest",
            lambda p_values, level: _step_up(p_values, _holms_limits(p_values, level)),
            "It looks for the *largest* p-value that is small enough and takes all below it. Begin at the smallest, and stop "
            "at the first that is too large.",
        ),
        Mistake(
            "false discoveries",
            lambda p_values, level: _step_up(p_values, level * torch.arange(1, len(p_values) + 1) / len(p_values)),
            "This is Benjamini's and Hochberg's way. It bounds the share of false alarms among the alarms, not the chance of "
            "any.",
        ),
        Mistake(
            "limits the wrong way round",
            lambda p_values, level: _by_limits(p_values, level / torch.arange(1, len(p_values) + 1)),
            "The limits are in the wrong order: the *smallest* p-value has the strictest one, level / M.",
        ),
        Mistake(
            "in sorted order",
            lambda p_values, level: holm_alarms(p_values.sort().values, level),
            "The alarms come in the order of the sorted p-values. Put each back in the place of its test.",
        ),
        Mistake(
            "strictly below",
            lambda p_values, level: _by_limits(p_values * (1.0 + 1e-6), _holms_limits(p_values, level)),
            "A p-value exactly at its limit raises an alarm: use <= and not <.",
        ),
        changing(0, holm_alarms),
    ),
    hint="Sort, compare with level / M, level / (M - 1), ..., level / 1, stop at the first that fails, undo the sorting.",
    difficulty=2,
    minutes=15,
)

# What is not known yet


def share_rewarded(age_s: Tensor, arrived: Tensor, horizon_s: float) -> float:
    """The reference: the package's cumulative incidence with rewards for successes, and no failures."""
    outcomes = np.where(arrived.numpy(), SUCCESS, CENSORED)
    return cumulative_incidence(age_s.double().numpy(), outcomes, horizon_s)


def _product_limit(
    age_s: Tensor,
    arrived: Tensor,
    horizon_s: float,
    *,
    at_risk: Callable[[Tensor, float], Tensor],
    before: bool = False,
) -> float:
    waiting = 1.0
    soon = age_s < horizon_s if before else age_s <= horizon_s
    for when in age_s[arrived & soon].unique().tolist():
        count = int(at_risk(age_s, when).sum())
        waiting *= 1.0 - int((arrived & (age_s == when)).sum()) / max(count, 1)
    return 1.0 - waiting


def _draw_waiting(rng: np.random.Generator) -> Arguments:
    age = rng.integers(1, 12, size=14)
    arrived = rng.random(14) < 0.6
    age[:6], arrived[:6] = (1, 3, 6, 6, 8, 2), (True, False, True, False, True, True)
    return {
        "age_s": torch.from_numpy(age).float(),
        "arrived": torch.from_numpy(arrived),
        "horizon_s": float(rng.choice([6.0, 8.0])),
    }


def _waited(age: list[float], arrived: tuple[bool, ...], horizon_s: float, expected: float) -> Worked:
    return Worked({"age_s": column(age), "arrived": _bools(*arrived), "horizon_s": horizon_s}, expected)


SHARE_REWARDED = Exercise(
    name="share_rewarded",
    file=_FILE,
    reference=share_rewarded,
    draw=_draw_waiting,
    worked=(
        _waited([1, 3, 2, 5], (True, True, False, False), 5.0, 5 / 8),
        _waited([1, 3, 2, 5], (True, True, False, False), 2.0, 1 / 4),
        _waited([2, 2, 4, 4], (True, False, True, True), 4.0, 1.0),
        _waited([3, 3], (False, False), 4.0, 0.0),
        _waited([4, 4], (True, False), 4.0, 0.5),
    ),
    mistakes=(
        Mistake(
            "pending count as never",
            lambda age_s, arrived, horizon_s: float((arrived & (age_s <= horizon_s)).float().mean()),
            "A decision of two seconds ago counts here as one that was never rewarded. It only says that it waited two "
            "seconds.",
        ),
        Mistake(
            "the rewarded alone",
            lambda age_s, arrived, horizon_s: (
                float((age_s[arrived] <= horizon_s).float().mean()) if bool(arrived.any()) else 0.0
            ),
            "Only the decisions whose reward has arrived were asked. Those are the quick ones: survivorship.",
        ),
        Mistake(
            "the young left out",
            lambda age_s, arrived, horizon_s: float(
                (arrived & (age_s <= horizon_s)).sum() / max(1, int((arrived | (age_s >= horizon_s)).sum()))
            ),
            "The young ones that still wait were left out, and the young ones that were rewarded were kept: the quick count "
            "twice as much as they should.",
        ),
        Mistake(
            "out of all",
            lambda age_s, arrived, horizon_s: _product_limit(
                age_s, arrived, horizon_s, at_risk=lambda ages, when: torch.ones_like(ages)
            ),
            "At each age, divide by the decisions that had come *to that age* unrewarded, not by all.",
        ),
        Mistake(
            "those older alone",
            lambda age_s, arrived, horizon_s: _product_limit(
                age_s, arrived, horizon_s, at_risk=lambda ages, when: ages > when
            ),
            "Those that are rewarded just then belong to those that had come so far: age >= when, not age > when.",
        ),
        Mistake(
            "waiting is an event",
            lambda age_s, arrived, horizon_s: share_rewarded(age_s, torch.ones_like(arrived), horizon_s),
            "A decision that still waits was counted as rewarded at its present age.",
        ),
        Mistake(
            "the share that waits",
            lambda *given: 1.0 - share_rewarded(*given),
            "This is the share that still waits.",
        ),
        Mistake(
            "before the horizon",
            lambda age_s, arrived, horizon_s: _product_limit(
                age_s, arrived, horizon_s, at_risk=lambda ages, when: ages >= when, before=True
            ),
            "A reward that arrives exactly at the horizon counts.",
        ),
        Mistake(
            "no horizon",
            lambda age_s, arrived, horizon_s: share_rewarded(age_s, arrived, math.inf),
            "Rewards beyond the horizon were counted, too.",
        ),
    ),
    hint="Go through the ages at which rewards arrived, in order; at each multiply the share that waits by 1 - d / n.",
    difficulty=3,
    minutes=25,
)

# Alerts


def burning(bad: Tensor, total: Tensor, objective: float, limit: float, long: int, short: int) -> Tensor:
    """The reference: both burn rates by running sums."""
    return (_burn(bad, total, objective, long) > limit) & (_burn(bad, total, objective, short) > limit)


def _running(values: Tensor, minutes: int) -> Tensor:
    sums = values.double().cumsum(0)
    sums[minutes:] = sums[minutes:] - sums[:-minutes].clone()
    return sums


def _burn(bad: Tensor, total: Tensor, objective: float, minutes: int) -> Tensor:
    spoilt, made = _running(bad, minutes), _running(total, minutes)
    return torch.where(made > 0, spoilt / made.clamp(min=1.0), 0.0) / (1.0 - objective)


def _mean_of_shares(bad: Tensor, total: Tensor, objective: float, minutes: int) -> Tensor:
    share = torch.where(total > 0, bad / total.clamp(min=1.0), 0.0)
    there = torch.arange(1, len(bad) + 1).clamp(max=minutes)
    return _running(share, minutes) / there / (1.0 - objective)


def _draw_minutes(rng: np.random.Generator) -> Arguments:
    total = rng.integers(15, 40, size=40).astype(np.float64)
    bad = np.minimum(total, rng.integers(0, 2, size=40))
    began = int(rng.integers(14, 18))
    bad[began : began + 8] = np.round(
        total[began : began + 8] * rng.uniform(0.75, 0.95)
    )  # an incident of eight minutes
    total[6], bad[6] = 2.0, 2.0  # a quiet minute in which both go wrong
    bad[30] = np.round(total[30] * 0.7)  # a spike
    total[36:] = bad[36:] = 0.0
    # Limits that no share of so few requests can equal: where it ties, rounding would decide.
    objective, limit = ((0.9, 2.53), (0.6, 1.131))[int(rng.integers(2))]
    return {
        "bad": torch.from_numpy(bad).float(),
        "total": torch.from_numpy(total).float(),
        "objective": objective,
        "limit": limit,
        "long": 9,
        "short": 2,
    }


def _minutes(bad: list[float], total: list[float], long: int, short: int, *expected: bool) -> Worked:
    given = {"bad": column(bad), "total": column(total), "objective": 0.9, "limit": 2.0, "long": long, "short": short}
    return Worked(given, _bools(*expected))


BURNING = Exercise(
    name="burning",
    file=_FILE,
    reference=burning,
    draw=_draw_minutes,
    worked=(
        _minutes([0, 0, 8, 1], [10] * 4, 4, 1, False, False, True, False),
        _minutes([5, 0, 0, 0], [10] * 4, 3, 1, True, False, False, False),
        _minutes([0, 2, 0], [100, 2, 0], 2, 1, False, False, False),
        _minutes([0, 0], [0, 0], 2, 1, False, False),
    ),
    mistakes=(
        Mistake(
            "the long window alone",
            lambda bad, total, objective, limit, long, short: _burn(bad, total, objective, long) > limit,
            "Only the long window was asked: it goes on firing long after the repair. The short one must burn, too.",
        ),
        Mistake(
            "the short window alone",
            lambda bad, total, objective, limit, long, short: _burn(bad, total, objective, short) > limit,
            "Only the short window was asked: it fires at every spike. The long one must burn, too.",
        ),
        Mistake(
            "either",
            lambda bad, total, objective, limit, long, short: (
                (_burn(bad, total, objective, long) > limit) | (_burn(bad, total, objective, short) > limit)
            ),
            "It fires when either window burns. Both must.",
        ),
        Mistake(
            "the share itself",
            lambda bad, total, objective, limit, long, short: burning(bad, total, 0.0, limit, long, short),
            "The share of bad requests was compared with a burn rate. Divide it by what may be bad, 1 - objective.",
        ),
        Mistake(
            "over the objective",
            lambda bad, total, objective, limit, long, short: burning(bad, total, 1.0 - objective, limit, long, short),
            "It was divided by the objective. The budget is the other part: 1 - objective.",
        ),
        Mistake(
            "mean of shares",
            lambda bad, total, objective, limit, long, short: (
                (_mean_of_shares(bad, total, objective, long) > limit)
                & (_mean_of_shares(bad, total, objective, short) > limit)
            ),
            "This is the mean of the minutes' shares: a minute with two requests weighs as much as one with forty. Add up both "
            "counts first.",
        ),
        Mistake(
            "windows of now",
            lambda bad, total, objective, limit, long, short: burning(bad, total, objective, limit, 1, 1),
            "Only this minute was looked at.",
        ),
        Mistake(
            "one minute too long",
            lambda bad, total, objective, limit, long, short: burning(
                bad, total, objective, limit, long + 1, short + 1
            ),
            "The windows are a minute too long: this minute is one of theirs.",
        ),
        changing(0, burning),
    ),
    hint="Sum bad and total over each window, divide, divide by 1 - objective; both above the limit. And 0 / 0 is no burn.",
    difficulty=2,
    minutes=20,
)


def alert_fires(values: Tensor, threshold: float, hold_s: float, step_s: float) -> Tensor:
    """The reference: counts how long the condition has held."""
    fires, held = [], 0
    for bad in (values > threshold).tolist():
        held = held + 1 if bad else 0
        fires.append(held > 0 and (held - 1) * step_s >= hold_s)
    return torch.tensor(fires)


def _fires(
    values: Tensor,
    threshold: float,
    hold_s: float,
    step_s: float,
    *,
    early: int = 0,
    resets: bool = True,
    latched: bool = False,
    strict: bool = False,
    forgives_gaps: bool = False,
) -> Tensor:
    """By hand, with a switch for each misunderstanding."""
    fires: list[bool] = []
    held = 0
    for value in values.tolist():
        if value > threshold or (forgives_gaps and math.isnan(value) and held):
            held += 1
        elif resets:
            held = 0
        waited = (held - 1 + early) * step_s
        now = (value > threshold or not resets or forgives_gaps) and held > 0
        fires.append((now and (waited > hold_s if strict else waited >= hold_s)) or (latched and any(fires)))
    return torch.tensor(fires)


def _draw_values(rng: np.random.Generator) -> Arguments:
    step_s = float(rng.choice([30.0, 60.0]))
    count = int(rng.integers(2, 4))  # of steps that it is held back
    values = rng.uniform(0.0, 0.9, 30)
    values[1 : 1 + count] = rng.uniform(1.1, 2.0, count)  # just too short
    values[8 : 9 + count] = rng.uniform(1.1, 2.0, count + 1)  # just long enough
    values[16 : 23 + count] = rng.uniform(1.1, 2.0, 7 + count)
    values[17] = math.nan
    values[27] = 1.0
    return {
        "values": torch.from_numpy(values).float(),
        "threshold": 1.0,
        "hold_s": count * step_s,
        "step_s": step_s,
    }


def _looked(values: list[float], hold_s: float, *expected: bool) -> Worked:
    return Worked({"values": column(values), "threshold": 5.0, "hold_s": hold_s, "step_s": 60.0}, _bools(*expected))


ALERT_FIRES = Exercise(
    name="alert_fires",
    file=_FILE,
    reference=alert_fires,
    draw=_draw_values,
    worked=(
        _looked([9, 9, 9, 1, 9], 120.0, False, False, True, False, False),
        _looked([9, 1, 9], 0.0, True, False, True),
        _looked([5, 5, 5], 60.0, False, False, False),
        _looked([9, 9, math.nan, 9, 9], 120.0, False, False, False, False, False),
        _looked([9, 9, 9], 90.0, False, False, True),
    ),
    mistakes=(
        Mistake(
            "at once",
            lambda values, threshold, hold_s, step_s: values > threshold,
            "It fires at once: the time that the condition must hold was not asked. One bad scrape then wakes somebody.",
        ),
        Mistake(
            "one too early",
            lambda *given: _fires(*given, early=1),
            "It fires one evaluation early. When the condition is seen for the first time, it has held for 0 seconds.",
        ),
        Mistake(
            "one too late",
            lambda *given: _fires(*given, strict=True),
            "It fires one evaluation late where the time fits exactly: held for hold_s *or more* is enough.",
        ),
        Mistake(
            "all in all",
            lambda *given: _fires(*given, resets=False),
            "The time was added up over interruptions. One good value, and the waiting begins anew.",
        ),
        Mistake(
            "for ever",
            lambda *given: _fires(*given, latched=True),
            "Once it fires, it never stops. An alert whose condition no longer holds is over.",
        ),
        Mistake(
            "through the gap",
            lambda *given: _fires(*given, forgives_gaps=True),
            "A missing value was taken for a bad one. NaN is above nothing: the waiting begins anew.",
        ),
        Mistake(
            "at the threshold",
            lambda values, threshold, hold_s, step_s: alert_fires(
                torch.where(values >= threshold, threshold + 1.0, values), threshold, hold_s, step_s
            ),
            "A value exactly at the threshold is not above it.",
        ),
        Mistake(
            "the onset alone",
            lambda *given: alert_fires(*given) & ~torch.cat([torch.tensor([False]), alert_fires(*given)[:-1]]),
            "It fires for one evaluation only. It goes on until the condition no longer holds.",
        ),
        changing(0, alert_fires),
    ),
    hint="Remember at which step the condition began to hold; forget it whenever it does not.",
    difficulty=2,
    minutes=15,
)

# Hunts


def percentile_of_day(windows: list[Tensor], share: float) -> float:
    """A percentile of the latencies of a day that was recorded in windows of five minutes.

    The smallest latency that at least ``share`` of the day's requests do not exceed.

    Args:
        windows: of each window the latencies of its requests, ``(n,)`` float, at least one.
        share: 0.95 for the 95th percentile.

    Returns:
        in the unit of the latencies.

    Worked number: windows (1, 1, 1, 1), (1) and (9): of the six the fifth makes 5/6, so for 0.8 it is 1, for 0.9 it is 9.
    """
    parts = [torch.cat(windows)]
    ranked = [part.sort().values for part in parts]
    found = [float(part[math.ceil(share * len(part) - 1e-6) - 1]) for part in ranked]
    return sum(found) / len(found)


def _draw_windows(rng: np.random.Generator) -> Arguments:
    # Quiet windows that are quick, and a busy one in which one request in four is slow.
    quiet = [torch.from_numpy(rng.uniform(2, 6, int(rng.integers(3, 8)))).float() for _ in range(7)]
    busy = rng.uniform(2, 6, 80)
    busy[:20] = rng.uniform(50, 90, 20)
    place = int(rng.integers(7))
    windows = [*quiet[:place], torch.from_numpy(rng.permutation(busy)).float(), *quiet[place:]]
    return {"windows": windows, "share": float(rng.choice([0.75, 0.9, 0.95]))}


_AVERAGED = Mutation(old="parts = [torch.cat(windows)]", new="parts = windows")
_SIX = [column([1, 1, 1, 1]), column([1]), column([9])]

HUNT_PERCENTILE_OF_DAY = Exercise(
    name="hunt_percentile_of_day",
    file=_FILE,
    reference=percentile_of_day,
    draw=_draw_windows,
    worked=(
        Worked({"windows": _SIX, "share": 0.8}, 1.0),
        Worked({"windows": _SIX, "share": 0.9}, 9.0),
        Worked({"windows": [column([3, 1, 2, 4])], "share": 0.5}, 2.0),
    ),
    mistakes=(
        planted(
            percentile_of_day,
            _AVERAGED,
            "Each window has a percentile of its own here, and their mean is answered. A window with three requests then "
            "counts as much as one with eighty.",
        ),
        Mistake(
            "the largest window",
            lambda windows, share: max(percentile_of_day([part], share) for part in windows),
            "This is the worst window's percentile. Ask all requests of the day together.",
        ),
        Mistake(
            "the median of windows",
            lambda windows, share: percentile_of_day(
                [torch.tensor([percentile_of_day([part], share) for part in windows])], 0.5
            ),
            "The median of percentiles is no percentile either. Ask all requests of the day together.",
        ),
        Mistake(
            "the percentile of percentiles",
            lambda windows, share: percentile_of_day(
                [torch.tensor([percentile_of_day([part], share) for part in windows])], share
            ),
            "The percentile of percentiles is no percentile of the requests. Ask all requests of the day together.",
        ),
        Mistake(
            "weighted by requests",
            lambda windows, share: (
                sum(percentile_of_day([part], share) * len(part) for part in windows)
                / sum(len(part) for part in windows)
            ),
            "Weighted by requests it is closer, and still no percentile. Ask all requests of the day together.",
        ),
    ),
    hint="Print how many numbers are averaged in the last line, and from how many requests each of them comes.",
    difficulty=1,
    minutes=10,
    mutation=_AVERAGED,
    symptom=(
        "The chart of the whole day says that 95 % of the requests take less than 15 ms. A customer sends his own log: one "
        "request in six took longer than 50 ms. Each window of the chart, looked at by itself, is right."
    ),
)


def mean_outcome(
    decided_s: Tensor, delay_s: Tensor, reward: Tensor, now_s: float, horizon_s: float
) -> tuple[float, int]:
    """What the decisions that can be judged by now have earned on average, when rewards come late.

    A decision is judged by its reward, if that comes within the horizon. Good and bad outcomes do not come equally fast.

    Args:
        decided_s: ``(N,)`` when each decision was made.
        delay_s: ``(N,)`` how long its reward takes; infinite if it never comes. What is not known yet must not be used.
        reward: ``(N,)``.
        now_s: when we look.
        horizon_s: how long a reward may take; it counts if it takes exactly that long.

    Returns:
        the mean reward; and how many of the decisions that can be judged got none in time.

    Worked number: it is 100, the horizon 50. Decisions at 10, 40 and 80 get rewards 2, 4 and 0 after 45, 50 and 5: the
    third is too young, so the mean is 3, and none is missing.
    """
    settled = decided_s + horizon_s <= now_s
    counted = settled & (delay_s <= horizon_s)
    return float(reward[counted].mean()), int((settled & ~counted).sum())


def _draw_outcomes(rng: np.random.Generator) -> Arguments:
    # Failures come after 5 s, successes after 40; some never.
    count = 24
    decided = rng.choice(100, size=count, replace=False).astype(np.float64)
    good = rng.random(count) < 0.7
    delay = np.where(good, 40.0, 5.0) + rng.integers(0, 10, size=count)
    reward = np.where(good, 1.0, 0.0) + rng.uniform(0, 0.2, count)
    # Old and good, old and silent, old and late, exactly at the horizon; young and failed already; young and unknown.
    decided[:7] = (3.0, 8.0, 12.0, 50.0, 90.0, 91.0, 80.0)
    delay[:7] = (40.0, math.inf, 60.0, 50.0, 5.0, 6.0, 45.0)
    return {
        "decided_s": torch.from_numpy(decided).float(),
        "delay_s": torch.from_numpy(delay).float(),
        "reward": torch.from_numpy(reward).float(),
        "now_s": 100.0,
        "horizon_s": 50.0,
    }


def _decided(decided: list[float], delay: list[float], reward: list[float], expected: tuple[float, int]) -> Worked:
    return Worked(
        {
            "decided_s": column(decided),
            "delay_s": column(delay),
            "reward": column(reward),
            "now_s": 100.0,
            "horizon_s": 50.0,
        },
        expected,
    )


_KNOWN_SO_FAR = Mutation(old="settled = decided_s + horizon_s <= now_s", new="settled = decided_s + delay_s <= now_s")

HUNT_MEAN_OUTCOME = Exercise(
    name="hunt_mean_outcome",
    file=_FILE,
    reference=mean_outcome,
    draw=_draw_outcomes,
    worked=(
        _decided([10, 40, 80], [45, 50, 5], [2, 4, 0], (3.0, 0)),
        _decided([10, 20, 30], [5, math.inf, 60], [2, 7, 7], (2.0, 2)),
        _decided([10, 50], [5, 5], [2, 4], (3.0, 0)),
    ),
    mistakes=(
        planted(
            mean_outcome,
            _KNOWN_SO_FAR,
            "Whoever has been rewarded by now is counted, however young. Of the young ones only the quick are known, and the "
            "quick are the failures.",
        ),
        Mistake(
            "missing are 0",
            lambda decided_s, delay_s, reward, now_s, horizon_s: (
                float((reward * (delay_s <= horizon_s))[decided_s + horizon_s <= now_s].mean()),
                mean_outcome(decided_s, delay_s, reward, now_s, horizon_s)[1],
            ),
            "A reward that did not come was counted as 0. Nobody knows that it was: leave it out, and say how many there are.",
        ),
        Mistake(
            "everything",
            lambda decided_s, delay_s, reward, now_s, horizon_s: (
                float(reward[delay_s <= horizon_s].mean()),
                mean_outcome(decided_s, delay_s, reward, now_s, horizon_s)[1],
            ),
            "This uses rewards that have not come yet.",
        ),
        Mistake(
            "late ones too",
            lambda decided_s, delay_s, reward, now_s, horizon_s: (
                float(reward[(decided_s + horizon_s <= now_s) & (decided_s + delay_s <= now_s)].mean()),
                mean_outcome(decided_s, delay_s, reward, now_s, horizon_s)[1],
            ),
            "A reward that came after the horizon was counted. The oldest decisions would then be judged by another rule than "
            "the youngest.",
        ),
        Mistake(
            "the others counted",
            lambda decided_s, delay_s, reward, now_s, horizon_s: (
                mean_outcome(decided_s, delay_s, reward, now_s, horizon_s)[0],
                int((decided_s + horizon_s > now_s).sum()),
            ),
            "The second number is that of the decisions that are too young. Asked for are those that were old enough and got "
            "no reward in time.",
        ),
    ),
    hint="Take two decisions of a moment ago: one failed at once, the other goes well. Which of them is in the mean?",
    difficulty=2,
    minutes=15,
    mutation=_KNOWN_SO_FAR,
    symptom=(
        "After every release the mean outcome of the new version begins far below that of the old one. It climbs, the longer "
        "the slower, and in the end the two agree. The same happens whenever traffic grows, and nobody has found a cause."
    ),
)

EXERCISES = (
    MERGED_PERCENTILE,
    DRIFT_INDEX,
    HOLM_ALARMS,
    SHARE_REWARDED,
    BURNING,
    ALERT_FIRES,
    HUNT_PERCENTILE_OF_DAY,
    HUNT_MEAN_OUTCOME,
)
