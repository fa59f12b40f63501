r"""Live returns with what the conditions explain taken out: fitted to the incumbent's log, before the release, once.

::

    days before the release ─▶ fit ─▶ coefficients, spread ─▶ the plan, and settings.json
    days of the release ─────────────────┴─▶ adjusted returns of both arms ─▶ gate

**Fitted within days.** The arms are compared within days (:mod:`rlcourse.release.matching`), so only what differs between
the episodes of one day is worth explaining: every day's own mean is taken out before the least squares.

**Leakage is watched for.** The adjustment shifts the difference of the arms by exactly the difference of what is predicted
for them,

.. math:: \hat\delta_{\text{adjusted}} - \hat\delta_{\text{raw}} = -(\bar f_c - \bar f_i)

which is chance alone where the conditions do not depend on the arm. That can be tested: where a confidence sequence around
:math:`\bar f_c - \bar f_i` leaves zero out, a policy moves a "condition", or the arms were not drawn by chance. Then the
returns are judged as they were earned. (A guard and not a proof: a small leak takes many episodes to show.)

**The spread is measured.** Where it is surely much larger than what the release was planned with, returns are judged by the
measured one: harm still ends the release, and nothing else moves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import chi2

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.release.conditions import Conditions, Moments
from rlcourse.release.gates import LiveReturns, Reason
from rlcourse.release.matching import Array, Tally, Variation, matched
from rlcourse.release.sequential import contrast_radius, tuned_mixture

LEAK_ALPHA = 0.001
"""Chance that conditions which no policy moves are ever found to be moved."""
LEAST_KNOWN = 0.95
"""Share of the episodes whose conditions have to be known: readings may be missing."""
LARGER = 1.5
"""So many times the planned spread has to be exceeded for certain; less, the gate learns by itself
(:attr:`rlcourse.release.matching.Variation.worth`)."""
FEWEST = 20
"""Degrees of freedom before a measured spread is believed."""


@dataclass(frozen=True)
class Variates:
    """What the incumbent usually earns under given conditions, and how much its returns vary."""

    columns: tuple[int, ...]
    """Of the observation; none: nothing is taken out."""
    over: str
    coefficients: tuple[float, ...]  # (K,)
    intercept: float
    mean: float
    """Of the returns."""
    raw_sd: float
    """Of the returns within days, as they were earned."""
    sd: float
    """Of what is left."""
    episodes: int
    days: int

    @property
    def explained(self) -> float:
        """Share of the variance within days that the conditions explain."""
        return 1.0 - (self.sd / self.raw_sd) ** 2

    @property
    def conditions(self) -> Conditions | None:
        """As the monitor has to keep them."""
        return Conditions(self.columns, self.over) if self.columns else None  # type: ignore[arg-type]  # it checks

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Variates:
        """From ``dataclasses.asdict``.

        Raises:
            ConfigError: that is something else.
        """
        try:
            numbers = {name: float(content[name]) for name in ("intercept", "mean", "raw_sd", "sd")}
            found = Variates(
                tuple(map(int, content["columns"])),
                str(content["over"]),
                tuple(map(float, content["coefficients"])),
                **numbers,
                episodes=int(content["episodes"]),
                days=int(content["days"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"Those are no control variates: {error}.", mend="Begin the release again.") from error
        if len(found.coefficients) != (found.conditions.width if found.conditions else 0):
            raise ConfigError("Coefficients and conditions do not fit.", mend="Begin the release again.")
        return found


def fit(episodes: Array, first: Array, second: Array, conditions: Conditions | None) -> Variates:
    """Least squares within days.

    Args:
        episodes: ``(D,)`` of the incumbent, on days before the release.
        first: ``(D, P)`` sums of the return and the conditions.
        second: ``(D, P, P)`` sums of their products.
        conditions: which they are; ``None`` with ``P`` = 1.

    Raises:
        DatasetInvalidError: fewer than ten episodes for each number that is fitted, or returns that never vary.
    """
    n, size = np.asarray(episodes, np.float64), first.shape[-1]
    there = n > 0.0
    n, first, second = n[there], first[there], second[there]
    freedom, needed = float((n - 1.0).sum()), max(10 * size, FEWEST)
    if freedom < needed:
        raise DatasetInvalidError(
            f"The log shows {int(n.sum())} episodes of the incumbent on {len(n)} days before this one.",
            mend=f"Wait until there are {needed} more episodes than days, or name --usual and --sd.",
        )
    mean = first.sum(axis=0) / n.sum()
    within = (second - first[:, :, None] * first[:, None, :] / n[:, None, None]).sum(axis=0)  # (P, P)
    raw = math.sqrt(max(float(within[0, 0]), 0.0) / freedom)
    if not raw > 1e-9 * max(abs(float(mean[0])), 1e-9):
        raise DatasetInvalidError(
            "The incumbent's returns never vary.", mend="Name --usual and --sd: there is nothing to estimate."
        )
    coefficients, rank = _solved(within, mean)
    left = float(within[0, 0] - 2.0 * coefficients @ within[0, 1:] + coefficients @ within[1:, 1:] @ coefficients)
    # Returns that follow from the conditions exactly do not exist outside of a test; a spread of 0 would be sure of anything.
    sd = max(math.sqrt(max(left, 0.0) / max(freedom - rank, 1.0)), 1e-3 * raw)
    return Variates(
        conditions.columns if conditions else (),
        conditions.over if conditions else "episode",
        tuple(coefficients.tolist()),
        float(mean[0] - mean[1:] @ coefficients),
        float(mean[0]),
        raw,
        min(sd, raw),
        int(n.sum()),
        len(n),
    )


def _solved(within: Array, mean: Array) -> tuple[Array, int]:
    """``(K,)`` slopes and how many of them there are; a condition that does not vary within days gets 0."""
    scale = np.sqrt(np.maximum(np.diag(within)[1:], 0.0))
    varies = scale > 1e-6 * np.maximum(np.abs(mean[1:]), 1e-12)
    coefficients, (place,) = np.zeros(len(scale)), np.nonzero(varies)
    if not len(place):
        return coefficients, 0
    unit = scale[place]
    scaled, _, rank, _ = np.linalg.lstsq(
        within[1:, 1:][np.ix_(place, place)] / np.outer(unit, unit), within[0, 1:][place] / unit, rcond=1e-9
    )
    coefficients[place] = scaled / unit
    return coefficients, int(rank)


def judged(
    raw: Tally,
    moments: Moments | None,
    kept: Conditions | None,
    *,
    variates: Variates | None,
    promised: Variation,
) -> LiveReturns:
    """What the gate is to look at: adjusted returns, or the raw ones with the reason why.

    Args:
        raw: ``(D, 2)`` as they were earned.
        moments: of those whose conditions are known.
        kept: the conditions of ``moments``.
        variates: fitted before the release; ``None`` where the release was planned with a spread that somebody named.
        promised: what the release was planned with.
    """
    if variates is None or variates.conditions is None:
        return _checked(raw, promised, "unadjusted")
    wanted, ratio = variates.conditions, promised.candidate / promised.incumbent
    sd = max(variates.raw_sd, spread(raw) or 0.0)
    as_earned = replace(promised, incumbent=sd, candidate=ratio * sd)
    numbers = {"raw_sd": as_earned.incumbent, "planned_sd": promised.incumbent}
    if moments is None or kept != wanted:
        text = (
            f"The monitor does not keep the conditions that the release was planned with; as they were earned, returns vary "
            f"by {as_earned.incumbent:.3g} and not {promised.incumbent:.3g}. Start it with {_options(wanted)}."
        )
        return LiveReturns(raw, as_earned, Reason("conditions_missing", text, numbers))
    known, all_ = moments.episodes.sum(axis=0), raw.episodes.sum(axis=0)
    if (known < LEAST_KNOWN * all_).any():
        share = float((known / np.maximum(all_, 1.0)).min())
        text = f"The conditions of only {share:.0%} of the episodes are known; see which readings are missing."
        return LiveReturns(raw, as_earned, Reason("conditions_missing", text, {**numbers, "known": share}))
    slopes = np.array(variates.coefficients)
    moved = _moved(moments.combined(np.array([0.0, *slopes]), variates.intercept), variates)
    if moved is not None:
        return LiveReturns(raw, as_earned, moved)
    return _checked(moments.combined(np.array([1.0, *-slopes]), -variates.intercept), promised, "adjusted")


def spread(tally: Tally) -> float | None:
    """Standard deviation of the incumbent's returns within days; ``None`` while it is no more than a guess."""
    n, total, squares = (part[..., 0] for part in tally)
    freedom = float(np.maximum(n - 1.0, 0.0).sum())
    if freedom < FEWEST:
        return None
    within = np.maximum(squares - total**2 / np.maximum(n, 1.0), 0.0).sum()
    return math.sqrt(float(within) / freedom)


def _checked(tally: Tally, promised: Variation, what: str) -> LiveReturns:
    seen = spread(tally)
    # Where the same rooms come every day, their differences are in this spread, and the gate tells the two apart by itself.
    if seen is None or promised.rooms is not None:
        return LiveReturns(tally)
    freedom = float(np.maximum(tally.episodes[..., 0] - 1.0, 0.0).sum())
    surely = seen * math.sqrt(freedom / float(chi2.ppf(0.999, freedom)))
    if surely <= LARGER * promised.incumbent:
        return LiveReturns(tally)
    text = (
        f"The incumbent's {what} returns vary by {seen:.3g} from episode to episode; the release was planned with "
        f"{promised.incumbent:.3g}. Begin again with --sd {seen:.3g}, or with --monitor, which takes it from the log."
    )
    measured = replace(promised, incumbent=seen, candidate=seen * promised.candidate / promised.incumbent)
    numbers = {"sd": seen, "planned_sd": promised.incumbent}
    return LiveReturns(tally, measured, Reason("spread_larger", text, numbers))


def _moved(predicted: Tally, variates: Variates) -> Reason | None:
    """The reason if what is predicted surely differs between the arms."""
    usual = math.sqrt(max(variates.raw_sd**2 - variates.sd**2, 1e-6 * variates.raw_sd**2))
    contrast = matched(predicted, Variation(usual, usual))
    rho = tuned_mixture(100.0 / usual**2, LEAK_ALPHA)  # tightest at some hundred episodes of the candidate
    radius = float(contrast_radius(contrast.information, alpha=LEAK_ALPHA, rho=rho))
    shift = float(contrast.estimate)
    if contrast.episodes < FEWEST or abs(shift) <= radius:
        return None
    text = (
        f"The conditions of the two arms differ by what is worth {shift:+.3g} a day: the candidate moves one of the columns "
        f"{', '.join(map(str, variates.columns))}, or the arms were not drawn by chance."
    )
    return Reason("conditions_differ", text, {"shift": shift, "radius": radius})


def _options(conditions: Conditions) -> str:
    over = "" if conditions.over == "episode" else f" --conditions-over {conditions.over}"
    return f"--conditions {' '.join(map(str, conditions.columns))}{over}"
