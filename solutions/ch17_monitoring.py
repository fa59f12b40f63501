"""Answers to the exercises of chapter 17: monitoring, drift and alerts."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def merged_percentile(counts: Tensor, bounds: list[float], share: float) -> float:
    """The percentile of a whole fleet, from the histogram of each of its servers.

    A server keeps cumulative counts: how many of its requests took no longer than each bound. Add the counts of all servers
    bound by bound. The percentile lies in the first bucket whose cumulative count reaches ``share`` times the number of
    requests. Within a bucket the requests are taken to be spread evenly; the first bucket begins at 0. Beyond the last
    finite bound nothing is known: the answer is then that bound.

    Args:
        counts: ``(S, K)`` float, the cumulative counts of ``S`` servers; at least one request in all.
        bounds: ``K`` upper bounds in seconds, rising, the last one infinite, ``K`` at least 2.
        share: 0.99 for the 99th percentile; above 0, below 1.

    Returns:
        seconds.

    Worked number: bounds 1, 2 and infinity. One server counts (90, 90, 90), another (0, 10, 10): 90 and 100 together. The
    95th of 100 is the fifth of the ten between 1 and 2: 1.5. The servers' own 95th percentiles are 0.95 and 1.95, and
    their mean is 1.45.
    """
    merged: list[float] = [0.0, *counts.sum(0).tolist()]
    edges = [0.0, *bounds]
    rank = share * merged[-1]
    place = next(k for k in range(1, len(merged)) if merged[k] >= rank)
    if math.isinf(edges[place]):
        return edges[place - 1]
    within = (rank - merged[place - 1]) / (merged[place] - merged[place - 1])
    return edges[place - 1] + within * (edges[place] - edges[place - 1])


def drift_index(reference: Tensor, window: Tensor, edges: Tensor, floor: float) -> float:
    """The population stability index of one sensor: how far a window of readings has moved from the reference.

    The bins are fixed: with inner edges e1 < e2 < ... the first bin holds what is at most e1, the second what is above e1
    and at most e2, and so on; the last holds the rest. With the share ``e`` of the reference and the share ``a`` of the
    window in each bin, and no share counted as less than ``floor``, it is the sum over the bins of (a - e) ln(a / e).

    Args:
        reference: ``(R,)`` readings of good days.
        window: ``(W,)`` readings of now.
        edges: ``(K - 1,)``, rising, made from the reference once.
        floor: what an empty bin counts as, above 0.

    Returns:
        0 if all shares agree, else more.

    Worked number: one edge, at 5; reference (1, 9), window (1, 6, 7, 8): (1/2, 1/2) against (1/4, 3/4), which makes
    -1/4 ln(1/2) + 1/4 ln(3/2) = 0.275.
    """

    def shares(readings: Tensor) -> Tensor:
        bins = torch.searchsorted(edges, readings)
        return (torch.bincount(bins, minlength=len(edges) + 1).double() / len(readings)).clamp(min=floor)

    expected, actual = shares(reference), shares(window)
    return float(((actual - expected) * (actual / expected).log()).sum())


def holm_alarms(p_values: Tensor, level: float) -> Tensor:
    """Which of many tests raise an alarm, if the chance of *any* false alarm among them shall be ``level`` at most.

    Holm's way: sort the p-values. The smallest of M must be at most level / M, the next level / (M - 1), and so on; the
    largest level / 1. Stop at the first that is too large: it and all after it raise nothing.

    Args:
        p_values: ``(M,)`` float, in the order of the tests.
        level: such as 0.05.

    Returns:
        ``(M,)`` bool, in the order of the tests.

    Worked number: (0.02, 0.01, 0.04) at 0.05: 0.01 is below 0.05 / 3, 0.02 below 0.05 / 2, 0.04 below 0.05: all three. With
    0.03 in place of 0.02 only the second: 0.03 is above 0.05 / 2, and 0.04 is not asked.
    """
    count = len(p_values)
    ordered, order = p_values.sort()
    small = ordered <= level / torch.arange(count, 0, -1)
    alarms = torch.zeros(count, dtype=torch.bool)
    alarms[order] = small.cumprod(0).bool()
    return alarms


def share_rewarded(age_s: Tensor, arrived: Tensor, horizon_s: float) -> float:
    """Which share of all decisions has been rewarded by the age ``horizon_s``, although many are younger than that.

    The estimator of Kaplan and Meier. At each age at which rewards arrived, of the ``n`` decisions that had come to that age
    unrewarded (those whose reward arrived just then among them) ``d`` were rewarded: a share of 1 - d / n goes on waiting.
    The product of these shares over all ages up to ``horizon_s``, which is included, is the share that still waits at the
    horizon.

    Args:
        age_s: ``(N,)`` float: for a rewarded decision its age when the reward arrived, for another its age now.
        arrived: ``(N,)`` bool, whether the reward has arrived.
        horizon_s: an age.

    Returns:
        the share that no longer waits.

    Worked number: rewards after 1 and 3 seconds; two more decisions have waited for 2 and 5. At 1: of four one is
    rewarded, 3/4 wait. At 3: of the two that came so far one, so 3/8 wait and 5/8 are rewarded. Half of all have a reward.
    """
    waiting = 1.0
    for when in age_s[arrived & (age_s <= horizon_s)].unique().tolist():
        rewarded = int((arrived & (age_s == when)).sum())
        waiting *= 1.0 - rewarded / int((age_s >= when).sum())
    return 1.0 - waiting


def burning(bad: Tensor, total: Tensor, objective: float, limit: float, long: int, short: int) -> Tensor:
    """At which minutes an alert on the error budget fires.

    The burn rate over a window is the share of bad requests in it over the share that may be bad, 1 - objective. The alert
    fires where it is above ``limit`` over the last ``long`` minutes *and* over the last ``short`` minutes, this minute
    included. At the beginning the windows hold the minutes that there are. Over a window without any requests there is no
    burn rate, and nothing fires.

    Args:
        bad: ``(T,)`` float, bad requests in each minute.
        total: ``(T,)`` float, requests in each minute.
        objective: the share of good requests that was promised, such as 0.99.
        limit: a burn rate, such as 14.4.
        long: minutes.
        short: minutes, fewer.

    Returns:
        ``(T,)`` bool.

    Worked number: promised 0.9, limit 2, windows of 4 minutes and 1. Of 10 requests a minute 0, 0, 8, 1 are bad: in the
    third minute 8 of 30 over the long window, a rate of 2.67, and 8 over the short one: it fires. In the fourth 9 of 40,
    2.25, but 1 of 10 over the short one, a rate of 1: it does not.
    """

    def rate(minutes: int) -> Tensor:
        window = torch.stack([torch.arange(len(bad)) - back for back in range(minutes)], dim=1)
        inside = window >= 0
        spoilt = (bad[window.clamp(min=0)] * inside).sum(1)
        made = (total[window.clamp(min=0)] * inside).sum(1)
        return torch.where(made > 0, spoilt / made.clamp(min=1.0), 0.0) / (1.0 - objective)

    return (rate(long) > limit) & (rate(short) > limit)


def alert_fires(values: Tensor, threshold: float, hold_s: float, step_s: float) -> Tensor:
    """At which evaluations an alert fires that says ``values > threshold`` and ``for: hold_s``.

    Every ``step_s`` seconds the condition is looked at. While it holds, the alert is pending, and it fires from the moment
    at which the condition has held, at every evaluation, since ``hold_s`` seconds or more. NaN means that there is no value:
    the condition does not hold then, and the waiting begins anew.

    Args:
        values: ``(T,)`` float, one for each evaluation.
        threshold: what is above it is bad.
        hold_s: 0 or more.
        step_s: above 0.

    Returns:
        ``(T,)`` bool.

    Worked number: every 60 seconds the values 9, 9, 9, 1, 9 with threshold 5 and 120 seconds: the condition begins to hold
    at 0, has held for 120 seconds at the third evaluation, fires there, and nowhere else.
    """
    fires, since = [], None
    for step, value in enumerate(values.tolist()):
        if not value > threshold:
            since = None
        elif since is None:
            since = step
        fires.append(since is not None and (step - since) * step_s >= hold_s)
    return torch.tensor(fires)


def hunt_percentile_of_day(windows: list[Tensor], share: float) -> float:
    """The percentile of a day's requests: those of all windows together, whichever window they came in."""
    ranked = torch.cat(windows).sort().values
    return float(ranked[math.ceil(share * len(ranked) - 1e-6) - 1])


def hunt_mean_outcome(
    decided_s: Tensor, delay_s: Tensor, reward: Tensor, now_s: float, horizon_s: float
) -> tuple[float, int]:
    """The mean reward of the decisions that are old enough to be judged, and how many of those have none yet."""
    old_enough = decided_s + horizon_s <= now_s
    in_time = old_enough & (delay_s <= horizon_s)
    return float(reward[in_time].mean()), int((old_enough & ~in_time).sum())


EXERCISES = (
    merged_percentile.__name__,
    drift_index.__name__,
    holm_alarms.__name__,
    share_rewarded.__name__,
    burning.__name__,
    alert_fires.__name__,
    "hunt_percentile_of_day",
    "hunt_mean_outcome",
)
