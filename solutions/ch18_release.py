"""Answers to the exercises of chapter 18: safe release."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import torch
from torch import Tensor


def episodes_per_arm(effect: float, sd: float, alpha: float, power: float) -> int:
    """How many episodes each of two equal arms needs, for a two-sided test that is made once, at the end.

    n = 2 sd^2 (z_(1 - alpha/2) + z_power)^2 / effect^2, rounded up. ``statistics.NormalDist().inv_cdf(p)`` gives z_p.

    Args:
        effect: smallest difference of mean returns that has to be found, other than 0, of either sign.
        sd: standard deviation of an episode's return, in both arms.
        alpha: chance of finding a difference where there is none.
        power: chance of finding one of this size.

    Returns:
        a whole number.

    Worked number: half a standard deviation, alpha 0.05, power 0.8: 2 (1.960 + 0.842)^2 / 0.25 = 62.8, so 63.
    """
    normal = NormalDist()
    z = normal.inv_cdf(1.0 - alpha / 2.0) + normal.inv_cdf(power)
    return math.ceil(2.0 * (sd * z / effect) ** 2)


def canary_members(sessions: list[str], salt: str, share: float) -> list[bool]:
    """Which sessions the candidate answers: decided by a hash, so that nobody has to remember it.

    The place of a session is a number from 0 up to 1: the first 8 hexadecimal digits of the SHA-256 of the salt, a colon
    and its name (``"r7:ada"``, in UTF-8), read as a whole number and divided by 16^8. It is in the canary if its place is
    below the share. A session's answer must not depend on who else is in the list.

    Args:
        sessions: names, in any order, the same one perhaps more than once.
        salt: of this release; another salt draws another canary.
        share: from 0 to 1.

    Returns:
        one bool for each session.

    Worked number: with the salt "r7", ada stands at 0.302, bob at 0.517 and cyd at 0.151. At a share of 0.2 cyd alone is in,
    at 0.4 ada is, too.
    """

    def place(session: str) -> float:
        return int(hashlib.sha256(f"{salt}:{session}".encode()).hexdigest()[:8], 16) / 16**8

    return [place(session) < share for session in sessions]


def always_valid_radius(episodes: Tensor, sd: float, alpha: float, rho: float) -> Tensor:
    """Half the width of a confidence sequence for a mean: the interval that may be looked at after every episode.

    The normal mixture (Robbins 1970; Howard et al. 2021, equation 14). The sum of t returns has the variance v = t sd^2 and
    ever strays further than sqrt((v + rho) log((v + rho) / (rho alpha^2))) from its mean with probability alpha at most.
    The mean is the sum divided by t.

    Args:
        episodes: ``(N,)`` float, the t; 1 or more.
        sd: standard deviation of one return.
        alpha: between 0 and 1.
        rho: says where the interval is narrow; in the unit of v.

    Returns:
        ``(N,)``.

    Worked number: t 1, sd 1, alpha 0.05, rho 1: the root of 2 log(2 / 0.0025) = 13.37, which is 3.656.
    """
    variance = episodes * sd**2
    return ((variance + rho) * ((variance + rho) / (rho * alpha**2)).log()).sqrt() / episodes


def adjusted_difference(
    log: Tensor, log_heat: Tensor, candidate: Tensor, candidate_heat: Tensor, incumbent: Tensor, incumbent_heat: Tensor
) -> Tensor:
    """Candidate less incumbent, with what the weather explains taken out of both arms first.

    A control variate (CUPED: Deng et al. 2013). In the incumbent's old log, returns follow the heat of the day with a slope:
    the covariance of the two over the variance of the heat. From each return of the release, slope times its own day's heat
    is subtracted; then the means of the two arms are compared.

    Args:
        log: ``(L,)`` returns of the incumbent before the release.
        log_heat: ``(L,)`` how hot each of those days was; not all alike.
        candidate: ``(C,)`` returns in the release.
        candidate_heat: ``(C,)``.
        incumbent: ``(I,)``.
        incumbent_heat: ``(I,)``.

    Returns:
        a scalar.

    Worked number: a log in which each degree costs 2. The candidate earns -62 at 30 and -60 at 30 degrees, the incumbent
    -41 at 20: plainly it loses 20, adjusted it neither gains nor loses: -61 + 60 less -41 + 40.
    """
    heat = log_heat - log_heat.mean()
    slope = (heat * (log - log.mean())).sum() / (heat**2).sum()
    return (candidate - slope * candidate_heat).mean() - (incumbent - slope * incumbent_heat).mean()


def mirrored_agreement(action: Tensor, shadow_action: Tensor, mirrored_with: Tensor) -> float:
    """How often a shadow would have acted as the incumbent did, over *all* requests, when only some were mirrored.

    Rare requests were mirrored more often than ordinary ones. One that was mirrored with probability p stands for 1/p
    requests. The shares are those of the weights: the agreeing ones' sum over the sum of all.

    Args:
        action: ``(N,)`` int64, what the incumbent did.
        shadow_action: ``(N,)`` int64, what the shadow said; -1 where it failed, which is no agreement.
        mirrored_with: ``(N,)`` above 0, at most 1: with which probability a request of this kind was mirrored.

    Returns:
        a float from 0 to 1.

    Worked number: mirrored with 1, 0.1 and 0.1; the first disagrees, the others agree: 20/21. Counted plainly: 2/3.
    """
    weight = 1.0 / mirrored_with
    return float((weight * (action == shadow_action)).sum() / weight.sum())


def gate_answer(
    low: float, high: float, information: float, demanded: float, margin: float, verdict: str, fresh: bool
) -> str:
    """What a gate says at the end of an A/B stage, and in which order it looks.

    First what stops a release, whatever else is true: the log's verdict is "reject", or the candidate is surely worse. Then
    what holds it: evidence that is not fresh, or a verdict that is "inconclusive". Then what is known: surely better than
    the margin below the incumbent is enough at any time. If all planned information is there and it is not, a person has to
    decide. Before that, it waits.

    Args:
        low: lower end of the always-valid interval of candidate less incumbent.
        high: upper end.
        information: collected so far.
        demanded: planned for this stage; reaching it exactly is enough.
        margin: by so much the candidate may be worse and is still taken; 0 or more.
        verdict: of off-policy evaluation: "promote", "reject" or "inconclusive".
        fresh: the evidence is new enough to be believed.

    Returns:
        "roll_back", "hold", "promote" or "ask".

    Worked number: the interval (-1, 4) with margin 2 is good enough: "promote". With margin 0 it is not: "hold" before the
    planned information is there, and then "ask".
    """
    if verdict == "reject" or high < 0.0:
        return "roll_back"
    if not fresh or verdict == "inconclusive":
        return "hold"
    if low > -margin:
        return "promote"
    return "ask" if information >= demanded else "hold"


def hunt_first_alarm(differences: Tensor, sd: float, alpha: float, rho: float) -> Tensor:
    """The first day on which the candidate is surely worse, by a boundary that holds on all days at once."""
    days = torch.arange(1, differences.shape[-1] + 1, dtype=differences.dtype)
    variance = days * sd**2
    boundary = ((variance + rho) * ((variance + rho) / (rho * alpha**2)).log()).sqrt()
    alarms = differences.cumsum(-1) < -boundary
    return torch.where(alarms.any(-1), alarms.int().argmax(-1) + 1, 0)


def hunt_dear_days(cost: Tensor, canary: Tensor, usual: float, keep: float, tolerance: float) -> Tensor:
    """Days of the canary that cost too much, beside a running mean of the incumbent's days alone."""
    answers = []
    for day, ours in zip(cost.tolist(), canary.tolist(), strict=True):
        answers.append(ours and day > (1.0 + tolerance) * usual)
        usual = usual if ours else keep * usual + (1.0 - keep) * day
    return torch.tensor(answers)


EXERCISES = (
    episodes_per_arm.__name__,
    canary_members.__name__,
    always_valid_radius.__name__,
    adjusted_difference.__name__,
    mirrored_agreement.__name__,
    gate_answer.__name__,
    "hunt_first_alarm",
    "hunt_dear_days",
)
