"""Cases of chapter 18: safe release."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from rlcourse.course.cases_common import changing, column, elementwise_mistakes, flags, integers, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation
from rlcourse.release import power as planned
from rlcourse.release.matching import ControlVariates
from rlcourse.release.sequential import normal_mixture

_FILE = "ch18_release"


def _only(mistakes: tuple[Mistake, ...], *names: str) -> tuple[Mistake, ...]:
    return tuple(mistake for mistake in mistakes if mistake.name in names)


# How many


def episodes_per_arm(effect: float, sd: float, alpha: float, power: float) -> int:
    """The reference: the package's."""
    return planned.episodes_per_arm(effect, sd, alpha=alpha, power=power)


def _episodes(
    effect: float,
    sd: float,
    alpha: float,
    power: float,
    *,
    arms: float = 2.0,
    sides: float = 2.0,
    add: bool = True,
    squared: bool = True,
    rounded: Callable[[float], int] = math.ceil,
) -> int:
    """By hand, with a switch for each misunderstanding."""
    quantile = NormalDist().inv_cdf
    of_power = quantile(power) if add else 0.0
    z = quantile(1.0 - alpha / sides) + of_power
    ratio = abs(sd * z / effect)
    return rounded(arms * (ratio**2 if squared else ratio))


def _draw_power(rng: np.random.Generator) -> Arguments:
    return {
        "effect": float(rng.uniform(0.5, 2.0) * rng.choice([-1.0, 1.0])),
        "sd": float(rng.uniform(4.0, 7.0)),
        "alpha": float(rng.choice([0.01, 0.05, 0.1])),
        "power": float(rng.choice([0.8, 0.9, 0.95])),
    }


def _powered(effect: float, sd: float, alpha: float, power: float, expected: int) -> Worked:
    return Worked({"effect": effect, "sd": sd, "alpha": alpha, "power": power}, expected)


EPISODES_PER_ARM = Exercise(
    name="episodes_per_arm",
    file=_FILE,
    reference=episodes_per_arm,
    draw=_draw_power,
    worked=(_powered(0.5, 1.0, 0.05, 0.8, 63), _powered(-1.0, 2.0, 0.05, 0.8, 63), _powered(4.5, 6.6, 0.05, 0.95, 56)),
    mistakes=(
        Mistake(
            "one arm",
            lambda *a: _episodes(*a, arms=1.0),
            "Half of what is needed: the difference of two means varies twice as much as one mean. Both arms are uncertain.",
        ),
        Mistake(
            "both arms together",
            lambda *a: _episodes(*a, arms=4.0),
            "Twice too many: this is the number for both arms together. The question is for each.",
        ),
        Mistake(
            "one-sided",
            lambda *a: _episodes(*a, sides=1.0),
            "z of 1 - alpha is for a test of one side. Two sides share alpha: 1 - alpha/2.",
        ),
        Mistake(
            "no power",
            lambda *a: _episodes(*a, add=False),
            "The power is not in it. With so many episodes an effect of that size would be found half of the time.",
        ),
        Mistake(
            "not squared",
            lambda *a: _episodes(*a, squared=False),
            "An effect half as large needs four times the episodes, not twice: the ratio is squared.",
        ),
        Mistake(
            "effect not squared",
            lambda effect, sd, alpha, power: math.ceil(
                abs(_episodes(1.0, sd, alpha, power, rounded=lambda n: n) / effect)  # type: ignore[arg-type, return-value]
            ),
            "The effect is not squared. Episodes count by the square of sd over effect.",
        ),
        Mistake(
            "rounded down",
            lambda *a: _episodes(*a, rounded=math.floor),
            "Rounded down, the power is a little less than was promised. Round up.",
        ),
        Mistake(
            "a float",
            lambda *a: float(_episodes(*a)),
            "The number is right, but it is a float: episodes are counted. Return an int.",
        ),
    ),
    hint="Two quantiles added, times sd over effect, squared, times two, rounded up.",
    difficulty=1,
    minutes=10,
)

# Who


def canary_members(sessions: list[str], salt: str, share: float) -> list[bool]:
    """The reference; :func:`rlcourse.release.assignment.in_canary` does the same with another hash."""
    return [_place(f"{salt}:{session}") < share for session in sessions]


def _place(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def _first_ones(sessions: list[str], salt: str, share: float) -> list[bool]:
    known = sorted(set(sessions), key=lambda session: _place(f"{salt}:{session}"))
    inside = set(known[: round(share * len(known))])
    return [session in inside for session in sessions]


def _draw_sessions(rng: np.random.Generator) -> Arguments:
    names = [f"room-{number}" for number in rng.choice(1_000, size=12, replace=False)]
    return {
        "sessions": [names[i] for i in rng.integers(12, size=16)],
        "salt": f"r{int(rng.integers(1, 100))}",
        "share": float(rng.uniform(0.25, 0.75)),
    }


_NAMES = ["ada", "bob", "cyd", "ada"]

CANARY_MEMBERS = Exercise(
    name="canary_members",
    file=_FILE,
    reference=canary_members,
    draw=_draw_sessions,
    worked=(
        Worked({"sessions": _NAMES, "salt": "r7", "share": 0.2}, [False, False, True, False]),
        Worked({"sessions": _NAMES, "salt": "r7", "share": 0.4}, [True, False, True, True]),
        Worked({"sessions": _NAMES, "salt": "r7", "share": 0.0}, [False] * 4),
        Worked({"sessions": _NAMES, "salt": "r7", "share": 1.0}, [True] * 4),
    ),
    mistakes=(
        Mistake(
            "no salt",
            lambda sessions, salt, share: [_place(session) < share for session in sessions],
            "The salt is not used: the same few sessions try out every release.",
        ),
        Mistake(
            "salt behind",
            lambda sessions, salt, share: [_place(f"{session}:{salt}") < share for session in sessions],
            "A good hash, but not the one that was agreed upon: another machine would draw another canary. Salt, colon, name.",
        ),
        Mistake(
            "glued together",
            lambda sessions, salt, share: [_place(salt + session) < share for session in sessions],
            'Without the colon "r7" and "1a" make the same text as "r71" and "a". Salt, colon, name.',
        ),
        Mistake(
            "the first in the list",
            lambda sessions, salt, share: [i < share * len(sessions) for i in range(len(sessions))],
            "This takes the first of the list. Tomorrow the list is in another order, and everybody changes sides.",
        ),
        Mistake(
            "exactly so many",
            _first_ones,
            "The right number of sessions, but whether one is in depends on who else is in the list: a newcomer pushes "
            "somebody out. Compare each place with the share.",
        ),
        Mistake(
            "from the other end",
            lambda sessions, salt, share: [_place(f"{salt}:{session}") >= 1.0 - share for session in sessions],
            "Sticky and growing, but counted from the other end of the line: the place has to be *below* the share.",
        ),
        Mistake(
            "the others",
            lambda sessions, salt, share: [not inside for inside in canary_members(sessions, salt, share)],
            "Those who should be in are out, and the other way round.",
        ),
    ),
    hint="Hash salt, colon and name; eight hexadecimal digits as a whole number over 16^8; compare with the share.",
    difficulty=2,
    minutes=15,
)

# How sure


def always_valid_radius(episodes: Tensor, sd: float, alpha: float, rho: float) -> Tensor:
    """The reference: the package's boundary for a sum, divided by the number of returns."""
    return torch.from_numpy(normal_mixture(episodes.double().numpy() * sd**2, alpha=alpha, rho=rho)).float() / episodes


def _mixture(variance: Tensor, alpha_squared: float, rho: float) -> Tensor:
    return ((variance + rho) * ((variance + rho) / (rho * alpha_squared)).log()).sqrt()


def _draw_radius(rng: np.random.Generator) -> Arguments:
    return {
        "episodes": integers(rng, 400, 8).float() + 1.0,
        "sd": float(rng.uniform(1.5, 4.0)),
        "alpha": float(rng.choice([0.01, 0.05, 0.1])),
        "rho": float(rng.uniform(2.0, 40.0)),
    }


ALWAYS_VALID_RADIUS = Exercise(
    name="always_valid_radius",
    file=_FILE,
    reference=always_valid_radius,
    draw=_draw_radius,
    worked=(
        Worked(
            {"episodes": column([1.0, 3.0]), "sd": 1.0, "alpha": 0.05, "rho": 1.0},
            column([3.6563949, 1.8108020]),
        ),
    ),
    mistakes=(
        Mistake(
            "one look",
            lambda episodes, sd, alpha, rho: NormalDist().inv_cdf(1.0 - alpha / 2.0) * sd / episodes.sqrt(),
            "This is the ordinary interval, true for one look at a number of episodes that was fixed beforehand.",
        ),
        Mistake(
            "of the sum",
            lambda episodes, sd, alpha, rho: _mixture(episodes * sd**2, alpha**2, rho),
            "That is how far the *sum* strays. The mean is the sum divided by t.",
        ),
        Mistake(
            "root of t",
            lambda episodes, sd, alpha, rho: _mixture(episodes * sd**2, alpha**2, rho) / episodes.sqrt(),
            "Divided by the root of t. The root is in the boundary already: divide by t.",
        ),
        Mistake(
            "alpha not squared",
            lambda episodes, sd, alpha, rho: _mixture(episodes * sd**2, alpha, rho) / episodes,
            "The alpha under the logarithm is squared: the boundary solves an equation with exp(S^2 / ...) for S.",
        ),
        Mistake(
            "no rho in front",
            lambda episodes, sd, alpha, rho: (
                (episodes * sd**2 * ((episodes * sd**2 + rho) / (rho * alpha**2)).log()).sqrt() / episodes
            ),
            "Under the root v + rho stands twice, in front of the logarithm as well.",
        ),
        Mistake(
            "sd not squared",
            lambda episodes, sd, alpha, rho: _mixture(episodes * sd, alpha**2, rho) / episodes,
            "Variances add up, deviations do not: v is t times sd squared.",
        ),
        Mistake(
            "in units of sd",
            lambda episodes, sd, alpha, rho: sd * _mixture(episodes, alpha**2, rho) / episodes,
            "Nearly: this measures v in units of sd^2, but rho is in the unit of v. Put t sd^2 where v stands.",
        ),
        Mistake(
            "both sides",
            lambda episodes, sd, alpha, rho: 2.0 * always_valid_radius(episodes, sd, alpha, rho),
            "Twice too much: the whole width. Half of it was asked for.",
        ),
        *_only(elementwise_mistakes(always_valid_radius, learns=False), "float64"),
        changing(0, always_valid_radius),
    ),
    hint="v = t sd^2; the root of (v + rho) log((v + rho) / (rho alpha^2)); divide by t.",
    difficulty=2,
    minutes=15,
)

# Weather


def adjusted_difference(
    log: Tensor, log_heat: Tensor, candidate: Tensor, candidate_heat: Tensor, incumbent: Tensor, incumbent_heat: Tensor
) -> Tensor:
    """The reference: the package's control variates."""
    fitted = ControlVariates.fit(_conditions(log_heat), log.numpy())
    ours = fitted.adjust(candidate.numpy(), _conditions(candidate_heat)).mean()
    return torch.tensor(ours - fitted.adjust(incumbent.numpy(), _conditions(incumbent_heat)).mean()).float()


def _conditions(heat: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(heat), heat], dim=1).double()


def _slope(heat: Tensor, returns: Tensor) -> Tensor:
    x, y = heat - heat.mean(), returns - returns.mean()
    return (x * y).sum() / (x**2).sum()


def _with_slope(slope: Tensor, cand: Tensor, cand_heat: Tensor, inc: Tensor, inc_heat: Tensor) -> Tensor:
    return (cand - slope * cand_heat).mean() - (inc - slope * inc_heat).mean()


def _correlation(heat: Tensor, returns: Tensor) -> Tensor:
    return _slope(heat, returns) * heat.std() / returns.std()


def _draw_weather(rng: np.random.Generator) -> Arguments:
    slope, gain = float(rng.uniform(-3.0, -1.0)), float(rng.uniform(-4.0, 4.0))
    log_heat, cand_heat, inc_heat = 20.0 + normal(rng, 24, scale=4.0), 24.0 + normal(rng, 6), 18.0 + normal(rng, 9)
    return {
        "log": slope * log_heat + normal(rng, 24),
        "log_heat": log_heat,
        "candidate": slope * cand_heat + gain + normal(rng, 6),
        "candidate_heat": cand_heat,
        "incumbent": slope * inc_heat + normal(rng, 9),
        "incumbent_heat": inc_heat,
    }


_HEAT = torch.arange(10.0, 30.0)

ADJUSTED_DIFFERENCE = Exercise(
    name="adjusted_difference",
    file=_FILE,
    reference=adjusted_difference,
    draw=_draw_weather,
    worked=(
        Worked(
            {
                "log": -2.0 * _HEAT,
                "log_heat": _HEAT,
                "candidate": column([-62.0, -60.0]),
                "candidate_heat": column([30.0, 30.0]),
                "incumbent": column([-41.0]),
                "incumbent_heat": column([20.0]),
            },
            torch.tensor(0.0),
        ),
    ),
    mistakes=(
        Mistake(
            "not adjusted",
            lambda log, heat, cand, cand_heat, inc, inc_heat: cand.mean() - inc.mean(),
            "The plain difference: whoever had the hotter days is blamed for the heat. (Taking the mean heat of each arm away "
            "within that arm comes to the same.)",
        ),
        Mistake(
            "added",
            lambda log, heat, cand, cand_heat, inc, inc_heat: _with_slope(
                -_slope(heat, log), cand, cand_heat, inc, inc_heat
            ),
            "The slope has the wrong sign, or was added: what the weather explains is taken *out*, twice as much is in now.",
        ),
        Mistake(
            "correlation",
            lambda log, heat, cand, cand_heat, inc, inc_heat: _with_slope(
                _correlation(heat, log), cand, cand_heat, inc, inc_heat
            ),
            "That is the correlation, a number without a unit. The slope is the covariance over the variance of the heat.",
        ),
        Mistake(
            "slope upside down",
            lambda log, heat, cand, cand_heat, inc, inc_heat: _with_slope(
                _slope(log, heat), cand, cand_heat, inc, inc_heat
            ),
            "Divided by the variance of the returns: that is how the heat follows the returns. Divide by that of the heat.",
        ),
        Mistake(
            "through the origin",
            lambda log, heat, cand, cand_heat, inc, inc_heat: _with_slope(
                (heat * log).sum() / (heat**2).sum(), cand, cand_heat, inc, inc_heat
            ),
            "This slope belongs to a line that is forced through the origin. Take the means away before you multiply.",
        ),
        Mistake(
            "one arm",
            lambda log, heat, cand, cand_heat, inc, inc_heat: (
                (cand - _slope(heat, log) * cand_heat).mean() - inc.mean()
            ),
            "Only the candidate is adjusted. The incumbent had weather, too.",
        ),
        Mistake(
            "fitted to the release",
            lambda log, heat, cand, cand_heat, inc, inc_heat: _with_slope(
                _slope(torch.cat([cand_heat, inc_heat]), torch.cat([cand, inc])), cand, cand_heat, inc, inc_heat
            ),
            "The slope was fitted to the release itself. Where the arms had different weather it swallows a part of the very "
            "difference that is looked for. Fit it to the old log, before.",
        ),
        Mistake(
            "the other way round",
            lambda *a: -adjusted_difference(*a),
            "Candidate less incumbent, not the other way round: a loss would look like a gain.",
        ),
        changing(2, adjusted_difference),
    ),
    hint="Slope from the log; subtract slope times heat from every return of both arms; difference of the means.",
    difficulty=2,
    minutes=20,
    atol=2e-4,
)

# Shadow


def mirrored_agreement(action: Tensor, shadow_action: Tensor, mirrored_with: Tensor) -> float:
    """The reference; :func:`rlcourse.release.shadow.shadow_report` counts requests that were all mirrored."""
    return _share_of(action == shadow_action, 1.0 / mirrored_with)


def _share_of(agrees: Tensor, weight: Tensor) -> float:
    return float((weight * agrees).sum() / weight.sum())


def _draw_mirrored(rng: np.random.Generator) -> Arguments:
    action = integers(rng, 3, 12)
    shadow = torch.where(flags(rng, 12, probability=0.4), (action + 1) % 3, action)
    shadow[int(rng.integers(12))] = -1
    chance = torch.where(flags(rng, 12, probability=0.5), 1.0, float(rng.choice([0.05, 0.1, 0.2])))
    # Both kinds are there, and they agree differently often.
    chance[:2], shadow[:2] = column([1.0, 0.1]), torch.stack([(action[0] + 1) % 3, action[1]])
    return {"action": action, "shadow_action": shadow, "mirrored_with": chance}


MIRRORED_AGREEMENT = Exercise(
    name="mirrored_agreement",
    file=_FILE,
    reference=mirrored_agreement,
    draw=_draw_mirrored,
    worked=(
        Worked(
            {
                "action": torch.tensor([0, 1, 2]),
                "shadow_action": torch.tensor([1, 1, 2]),
                "mirrored_with": column([1.0, 0.1, 0.1]),
            },
            20.0 / 21.0,
        ),
        Worked(
            {
                "action": torch.tensor([0, 1]),
                "shadow_action": torch.tensor([-1, 1]),
                "mirrored_with": column([0.25, 0.5]),
            },
            1.0 / 3.0,
        ),
    ),
    mistakes=(
        Mistake(
            "counted plainly",
            lambda action, shadow, chance: float((action == shadow).float().mean()),
            "This is the agreement among the mirrored requests. The rare ones were mirrored more often and count too much.",
        ),
        Mistake(
            "weighed the wrong way",
            lambda action, shadow, chance: _share_of(action == shadow, chance),
            "What was mirrored *seldom* stands for many. Divide by the probability.",
        ),
        Mistake(
            "divided by the count",
            lambda action, shadow, chance: float(((action == shadow) / chance).mean()),
            "A share above 1 may come out: the weights add up to more than the number of rows. Divide by their sum.",
        ),
        Mistake(
            "failures left out",
            lambda action, shadow, chance: _share_of((action == shadow)[shadow >= 0], (1.0 / chance)[shadow >= 0]),
            "Where the shadow failed it did not agree: a candidate that crashes on every second request is not harmless.",
        ),
        Mistake(
            "failures agree",
            lambda action, shadow, chance: _share_of((action == shadow) | (shadow < 0), 1.0 / chance),
            "A failure (-1) was counted as agreement.",
        ),
        Mistake(
            "disagreement",
            lambda action, shadow, chance: 1.0 - mirrored_agreement(action, shadow, chance),
            "That is how often they differ.",
        ),
        Mistake(
            "a tensor",
            lambda action, shadow, chance: torch.tensor(mirrored_agreement(action, shadow, chance)),
            "The number is right, but it is a tensor: return a float.",
        ),
        changing(2, mirrored_agreement),
    ),
    hint="One weight for each row, 1 over the probability; the agreeing weights over all of them.",
    difficulty=1,
    minutes=10,
)

# The gate


def gate_answer(
    low: float, high: float, information: float, demanded: float, margin: float, verdict: str, fresh: bool
) -> str:
    """The reference: the order of :func:`rlcourse.release.gates.decide`, for an A/B stage."""
    if verdict == "reject" or high < 0.0:
        return "roll_back"
    if not fresh or verdict == "inconclusive":
        return "hold"
    if low > -margin:
        return "promote"
    return "ask" if information >= demanded else "hold"


def _enough_first(
    low: float, high: float, information: float, demanded: float, margin: float, verdict: str, fresh: bool
) -> str:
    answer = gate_answer(low, high, information, demanded, margin, verdict, fresh)
    return "hold" if answer == "promote" and information < demanded else answer


def _blind_first(
    low: float, high: float, information: float, demanded: float, margin: float, verdict: str, fresh: bool
) -> str:
    return gate_answer(low, high, information, demanded, margin, verdict, fresh) if fresh else "hold"


def _draw_gate(rng: np.random.Generator) -> Arguments:
    middle, radius = float(rng.uniform(-3.0, 4.0)), float(rng.uniform(0.5, 3.0))
    demanded = float(rng.integers(2, 6))
    return {
        "low": middle - radius,
        "high": middle + radius,
        "information": demanded * float(rng.choice([0.5, 1.0, 1.5])),
        "demanded": demanded,
        "margin": float(rng.choice([0.0, 1.0, 2.0])),
        "verdict": str(rng.choice(["promote", "promote", "promote", "inconclusive", "reject"])),
        "fresh": bool(rng.random() < 0.8),
    }


def _gate(
    low: float,
    high: float,
    expected: str,
    *,
    information: float = 1.0,
    margin: float = 0.0,
    verdict: str = "promote",
    fresh: bool = True,
) -> Worked:
    given = {
        "low": low,
        "high": high,
        "information": information,
        "demanded": 2.0,
        "margin": margin,
        "verdict": verdict,
        "fresh": fresh,
    }
    return Worked(given, expected)


GATE_ANSWER = Exercise(
    name="gate_answer",
    file=_FILE,
    reference=gate_answer,
    draw=_draw_gate,
    worked=(
        _gate(-1.0, 4.0, "promote", margin=2.0),
        _gate(-1.0, 4.0, "hold"),
        _gate(-1.0, 4.0, "ask", information=2.0),
        _gate(-1.0, 4.0, "ask", information=3.0),
        _gate(-4.0, 1.0, "ask", information=3.0),
        _gate(-1.0, 4.0, "promote", margin=2.0, information=3.0),
        _gate(1.0, 4.0, "promote", margin=2.0, information=3.0),
        _gate(-5.0, -1.0, "roll_back", fresh=False),
        _gate(-1.5, -1.0, "roll_back", margin=2.0),
        _gate(1.0, 4.0, "hold", fresh=False),
        _gate(1.0, 4.0, "hold", verdict="inconclusive", information=3.0),
        _gate(1.0, 4.0, "roll_back", verdict="reject", information=3.0),
        _gate(-5.0, -1.0, "roll_back", verdict="inconclusive"),
        _gate(-1.0, 4.0, "hold", verdict="inconclusive", information=3.0),
    ),
    mistakes=(
        Mistake(
            "the middle decides",
            lambda low, high, information, demanded, margin, verdict, fresh: gate_answer(
                (low + high) / 2, (low + high) / 2, information, demanded, margin, verdict, fresh
            ),
            "The middle of the interval decides. That is a guess; *surely* worse means that the whole interval is.",
        ),
        Mistake(
            "ends swapped",
            lambda low, high, information, demanded, margin, verdict, fresh: gate_answer(
                high, low, information, demanded, margin, verdict, fresh
            ),
            "The ends are swapped: surely worse means that even the *upper* end is below 0.",
        ),
        Mistake(
            "blind first",
            _blind_first,
            "Old evidence that shows harm still shows harm: what stops a release comes before what holds it.",
        ),
        Mistake(
            "enough first",
            _enough_first,
            "This waits for all planned episodes although it is proven already. The interval may be looked at at any time.",
        ),
        Mistake(
            "margin forgotten",
            lambda low, high, information, demanded, margin, verdict, fresh: gate_answer(
                low, high, information, demanded, 0.0, verdict, fresh
            ),
            "The margin is not used: equal and simpler would never pass.",
        ),
        Mistake(
            "margin on the wrong side",
            lambda low, high, information, demanded, margin, verdict, fresh: gate_answer(
                low, high, information, demanded, -margin, verdict, fresh
            ),
            "The margin has the wrong sign: it asks for *more* than better, where it should forgive a little.",
        ),
        Mistake(
            "margin for harm",
            lambda low, high, information, demanded, margin, verdict, fresh: (
                "roll_back"
                if verdict == "reject" or high < -margin
                else gate_answer(low, max(high, 0.0), information, demanded, margin, verdict, fresh)
            ),
            "The margin is no excuse for harm: who is *surely* worse goes back, by however little.",
        ),
        Mistake(
            "no verdict",
            lambda low, high, information, demanded, margin, verdict, fresh: gate_answer(
                low, high, information, demanded, margin, "promote", fresh
            ),
            "What the log said is not used.",
        ),
        Mistake(
            "doubts roll back",
            lambda low, high, information, demanded, margin, verdict, fresh: gate_answer(
                low, high, information, demanded, margin, "reject" if verdict == "inconclusive" else verdict, fresh
            ),
            "A log that cannot tell is no evidence of harm: hold, until a person has looked at it.",
        ),
        Mistake(
            "blindness rolls back",
            lambda low, high, information, demanded, margin, verdict, fresh: (
                gate_answer(low, high, information, demanded, margin, verdict, True) if fresh else "roll_back"
            ),
            "Missing evidence is not evidence of harm: hold. (The controller goes back by itself if it lasts too long.)",
        ),
        Mistake(
            "promoted for want of harm",
            lambda *a: "promote" if gate_answer(*a) == "ask" else gate_answer(*a),
            "All planned episodes, and still not proven good enough: in an A/B test it is not enough that no harm showed. Ask.",
        ),
        Mistake(
            "enough is too little",
            lambda low, high, information, demanded, margin, verdict, fresh: gate_answer(
                low, high, information, demanded + 1e-9, margin, verdict, fresh
            ),
            "Exactly as much information as was planned is enough: use >= and not >.",
        ),
        Mistake(
            "never asks",
            lambda *a: "hold" if gate_answer(*a) == "ask" else gate_answer(*a),
            "It would hold for ever: once all planned information is there, a person has to decide.",
        ),
    ),
    hint="Four questions in this order: does something stop it, does something hold it, is it proven, is the plan spent?",
    difficulty=2,
    minutes=20,
)

# Hunts


def first_alarm(differences: Tensor, sd: float, alpha: float, rho: float) -> Tensor:
    """The first day on which a candidate is surely worse, for each of many releases; somebody looks every day.

    The sum of the differences so far is compared with the normal mixture boundary: where the candidate is equal, the sum ever
    crosses it, on either side, with probability alpha at most.

    Args:
        differences: ``(R, D)``, candidate less incumbent on each day.
        sd: standard deviation of one of them.
        alpha: between 0 and 1.
        rho: of the mixture.

    Returns:
        ``(R,)`` int64: the day, counted from 1; 0 if there never is one.

    Worked number: sd 1, alpha 0.05, rho 1, each day 2 worse. The boundary is 3.66, 4.61, 5.43, 6.17, ...: crossed on day 3,
    when the sum is -6.
    """
    days = torch.arange(1, differences.shape[-1] + 1, dtype=differences.dtype)
    variance = days * sd**2
    boundary = ((variance + rho) * ((variance + rho) / (rho * alpha**2)).log()).sqrt()
    alarms = differences.cumsum(-1) < -boundary
    return torch.where(alarms.any(-1), alarms.int().argmax(-1) + 1, 0)


_PEEKING = Mutation(
    old="boundary = ((variance + rho) * ((variance + rho) / (rho * alpha**2)).log()).sqrt()",
    new="boundary = NormalDist().inv_cdf(1.0 - alpha / 2.0) * variance.sqrt()",
)


def _alarms(differences: Tensor, sd: float, alpha: float, rho: float) -> tuple[Tensor, Tensor]:
    variance = torch.arange(1, differences.shape[-1] + 1, dtype=differences.dtype) * sd**2
    return differences.cumsum(-1), _mixture(variance, alpha**2, rho)


def _first(alarms: Tensor) -> Tensor:
    return torch.where(alarms.any(-1), alarms.int().argmax(-1) + 1, 0)


def _bonferroni(differences: Tensor, sd: float, alpha: float, rho: float) -> Tensor:
    days = differences.shape[-1]
    variance = torch.arange(1, days + 1, dtype=differences.dtype) * sd**2
    return _first(differences.cumsum(-1) < NormalDist().inv_cdf(alpha / (2.0 * days)) * variance.sqrt())


def _either_side(differences: Tensor, sd: float, alpha: float, rho: float) -> Tensor:
    total, boundary = _alarms(differences, sd, alpha, rho)
    return _first(total.abs() > boundary)


def _at_the_end(differences: Tensor, sd: float, alpha: float, rho: float) -> Tensor:
    total, boundary = _alarms(differences, sd, alpha, rho)
    return torch.where(total[..., -1] < -boundary[-1], differences.shape[-1], 0)


def _draw_differences(rng: np.random.Generator) -> Arguments:
    drift = torch.from_numpy(np.asarray(rng.uniform(-1.5, 1.0, size=(14, 1)))).float()
    drift[:4] = column([-1.2, -0.9, 0.9, 0.0]).unsqueeze(-1)
    sd = float(rng.uniform(1.0, 2.0))
    return {
        "differences": sd * (normal(rng, 14, 50) + drift),
        "sd": sd,
        "alpha": float(rng.choice([0.05, 0.1])),
        "rho": float(rng.uniform(5.0, 15.0)),
    }


HUNT_FIRST_ALARM = Exercise(
    name="hunt_first_alarm",
    file=_FILE,
    reference=first_alarm,
    draw=_draw_differences,
    worked=(
        Worked(
            {
                "differences": torch.tensor([[-2.0, -2.0, -2.0, -2.0], [-2.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]]),
                "sd": 1.0,
                "alpha": 0.05,
                "rho": 1.0,
            },
            torch.tensor([3, 0, 0]),
        ),
    ),
    mistakes=(
        planted(
            first_alarm,
            _PEEKING,
            "The boundary is that of a single look, and there is a look every day: each gives chance another opportunity. Use "
            "the boundary that holds on all days at once.",
        ),
        Mistake(
            "alpha over the days",
            _bonferroni,
            "Dividing alpha by the number of days keeps the promise, but only for so many days, and it is not the boundary of "
            "the docstring: that one holds for ever.",
        ),
        Mistake(
            "on either side",
            _either_side,
            "Alarms also where the candidate is surely *better*. The sum has to be below the lower boundary.",
        ),
        Mistake(
            "at the end",
            _at_the_end,
            "Only the last day is looked at now. No chance is given to chance, and none to stopping early.",
        ),
        Mistake(
            "counted from 0",
            lambda *a: first_alarm(*a) - 1,
            "Days are counted from 1; 0 says that there never was an alarm.",
        ),
        changing(0, first_alarm),
    ),
    hint="Compare the line that makes the boundary with the docstring: what does it promise, for how many days?",
    difficulty=1,
    minutes=10,
    mutation=_PEEKING,
    symptom=(
        "Every bad release is stopped, and sooner than before. But of 1,000 releases of the incumbent against itself, watched "
        "for 100 days at alpha 0.05, some 190 are stopped as harmful. It should be 25 at most."
    ),
)


def dear_days(cost: Tensor, canary: Tensor, usual: float, keep: float, tolerance: float) -> Tensor:
    """Which days of the canary cost too much, beside what is usual.

    What is usual is a running mean of the *incumbent's* days: after each of them it is ``keep`` times what it was and
    ``1 - keep`` times the new cost. A day of the canary is too dear above ``1 + tolerance`` times what is usual on that day.

    Args:
        cost: ``(D,)``, one after the other.
        canary: ``(D,)`` bool, true where the candidate ran that day.
        usual: before the first.
        keep: from 0 to below 1.
        tolerance: 0.05 for 5 %.

    Returns:
        ``(D,)`` bool; false on the incumbent's days.

    Worked number: usual 40, keep 1/2, tolerance 0.1. Canary 43, incumbent 44, canary 47, canary 46: no, no, yes, no. After
    the 44 what is usual is 42, and 1.1 x 42 = 46.2.
    """
    answers = []
    for day, ours in zip(cost.tolist(), canary.tolist(), strict=True):
        answers.append(ours and day > (1.0 + tolerance) * usual)
        usual = usual if ours else keep * usual + (1.0 - keep) * day
    return torch.tensor(answers)


_CONTAMINATED = Mutation(
    old="usual = usual if ours else keep * usual + (1.0 - keep) * day",
    new="usual = keep * usual + (1.0 - keep) * day",
)


def _everybodys(cost: Tensor, canary: Tensor, usual: float, keep: float, tolerance: float) -> Tensor:
    """Right, but the incumbent's days are flagged as well."""
    answers = []
    for day, ours in zip(cost.tolist(), canary.tolist(), strict=True):
        answers.append(day > (1.0 + tolerance) * usual)
        usual = usual if ours else keep * usual + (1.0 - keep) * day
    return torch.tensor(answers)


def _only_unsuspicious(cost: Tensor, canary: Tensor, usual: float, keep: float, tolerance: float) -> Tensor:
    """The canary's days still enter, unless they were flagged."""
    answers = []
    for day, ours in zip(cost.tolist(), canary.tolist(), strict=True):
        answers.append(ours and day > (1.0 + tolerance) * usual)
        usual = usual if answers[-1] else keep * usual + (1.0 - keep) * day
    return torch.tensor(answers)


def _draw_days(rng: np.random.Generator) -> Arguments:
    canary = flags(rng, 40, probability=0.5)
    drift = torch.linspace(0.0, 12.0, 40) * canary
    return {
        "cost": 40.0 + drift + normal(rng, 40, scale=2.0) + torch.linspace(0.0, float(rng.uniform(-6.0, 6.0)), 40),
        "canary": canary,
        "usual": 40.0,
        "keep": float(rng.uniform(0.5, 0.8)),
        "tolerance": float(rng.choice([0.03, 0.05])),
    }


HUNT_DEAR_DAYS = Exercise(
    name="hunt_dear_days",
    file=_FILE,
    reference=dear_days,
    draw=_draw_days,
    worked=(
        Worked(
            {
                "cost": column([43.0, 44.0, 47.0, 46.0]),
                "canary": torch.tensor([True, False, True, True]),
                "usual": 40.0,
                "keep": 0.5,
                "tolerance": 0.1,
            },
            torch.tensor([False, False, True, False]),
        ),
        Worked(
            {
                "cost": column([41.0, 42.0, 43.0, 44.0]),
                "canary": torch.tensor([True, True, True, True]),
                "usual": 40.0,
                "keep": 0.5,
                "tolerance": 0.0625,
            },
            torch.tensor([False, False, True, True]),
        ),
        Worked(
            {
                "cost": column([44.0, 43.0, 41.0, 42.5]),
                "canary": torch.tensor([True, True, True, True]),
                "usual": 40.0,
                "keep": 0.5,
                "tolerance": 0.05,
            },
            torch.tensor([True, True, False, True]),
        ),
    ),
    mistakes=(
        planted(
            dear_days,
            _CONTAMINATED,
            "The canary's own days enter what counts as usual. Each dear day makes the next one look less dear: the measure "
            "moves along with what it measures.",
        ),
        Mistake(
            "all but the flagged",
            _only_unsuspicious,
            "Flagged days stay out now, but the canary's other days still enter: a slow worsening is learnt before it is "
            "noticed. Only the incumbent's days say what is usual.",
        ),
        Mistake(
            "never updated",
            lambda cost, canary, usual, keep, tolerance: canary & (cost.double() > (1.0 + tolerance) * usual),
            "What is usual never changes now: the first hot week makes every day of the canary look dear.",
        ),
        Mistake(
            "everybody's days",
            _everybodys,
            "The incumbent's days are flagged as well; only the candidate is on trial.",
        ),
        Mistake(
            "shares swapped",
            lambda cost, canary, usual, keep, tolerance: dear_days(cost, canary, usual, 1.0 - keep, tolerance),
            "keep is the share of the *old* mean.",
        ),
        changing(0, dear_days),
    ),
    hint="Follow the number `usual` through the docstring's example: on which days may it move?",
    difficulty=1,
    minutes=10,
    mutation=_CONTAMINATED,
    symptom=(
        "With keep 0.8 and a tolerance of 5 %, a candidate that is 10 % dearer from the first day on is flagged for three days "
        "and then no more. One that grows dearer by 0.5 % a day is never flagged: after 60 days it costs a third more. It "
        "should be flagged from day 11 on."
    ),
)

EXERCISES = (
    EPISODES_PER_ARM,
    CANARY_MEMBERS,
    ALWAYS_VALID_RADIUS,
    ADJUSTED_DIFFERENCE,
    MIRRORED_AGREEMENT,
    GATE_ANSWER,
    HUNT_FIRST_ALARM,
    HUNT_DEAR_DAYS,
)
