r"""Two arms compared where the same rooms come every day: one room seen for ten days is not ten rooms.

A session that bears a room's name keeps its side for the whole release. What distinguishes that room for good then comes back
with every one of its days::

    day         1     2     3                                 1 room, 3 days: three looks at the same luck
    room-7      +3    +3    +3     always the candidate's     drawn anew each day (a session per room *and* day): three draws

With :math:`y_{sd}` the return of room :math:`s` on day :math:`d` and :math:`a_{sd}` 1 where the candidate ran it,

.. math:: y_{sd} - m_s = \text{day}_d + \delta\,a_{sd} + b_s + \varepsilon_{sd}, \qquad
          b_s \sim (0, \tau^2), \quad \varepsilon_{sd} \sim (0, \sigma^2_{a_{sd}})

:math:`m_s` is what the room itself earned before the release beyond the others, shrunk by what is chance in it
(:func:`usual_of_rooms`; CUPED with the room's own past). It leaves a small :math:`\tau`. A room without a past has
:math:`m_s = 0`, and :math:`\tau` is all by which rooms differ.

:math:`\hat\delta` is the generalised least squares estimate, and its information is one over its variance. **Why the gate may
still look every evening:** for an efficient estimate in a linear model with a known covariance, score and information,
:math:`S_t = I_t\hat\delta_t`, have independent increments, whatever the days have in common: the covariance of two of the
estimates is the variance of the later one (Jennison and Turnbull 1997; Scharfstein, Tsiatis and Robins 1997). So
:math:`S_t - I_t\delta` is a Brownian motion read off at the times :math:`I_t`, and the normal mixture of
:mod:`rlcourse.release.sequential` bounds it. The mean of the days that :func:`rlcourse.release.matching.matched` takes is not
efficient here; its increments repeat each other, and it is wrong too often. As there, :math:`\sigma` and :math:`\tau` are
learnt on the way, so that the promise holds in the limit, of *rooms* now and not of days alone.

What it leaves out: a room that responds to the candidate in a way of its own (four rooms cannot show by how much rooms
differ in that), and differences that come or go during the release; the second is seen in the incumbent's rooms only
as far as it makes them differ more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlcourse.errors import ShapeError
from rlcourse.release.matching import CANDIDATE, INCUMBENT, Array, Contrast, Tally, Variation

FOR_EVER = 1e4
"""So many times the last day, where nothing but the count of rooms is to limit what is known."""


class RoomsFound(NamedTuple):
    """Sums of single rooms."""

    names: tuple[str, ...]  # S
    tally: Tally  # (D, 2, S)


class UsualOfRooms(NamedTuple):
    """What rooms earned before the release."""

    beyond: Array
    """``(..., S)``: :math:`m_s`, beyond the mean of all, shrunk."""
    sd: Array
    """``(...)``: of what the rooms still differ by once that is taken out."""


def usual_of_rooms(episodes: Array, means: Array, sd: Array | float) -> UsualOfRooms:
    r"""Shrunk means of rooms, by the method of moments.

    Of the spread of the means, :math:`\overline{\sigma^2/n_s}` is chance. What is left of it is :math:`\tau_0^2`, and a mean
    of :math:`n` episodes is worth :math:`\tau_0^2/(\tau_0^2 + \sigma^2/n)` of itself.

    Worked number: two rooms, four episodes each, means 3 and 5, deviation 2 within a room: the means vary by 2, of which
    4/4 = 1 is chance; so half of -1 and of +1, and a variance of 1 * 1/2 is left.

    Args:
        episodes: ``(..., S)`` of each room before the release; 0: it is new.
        means: ``(..., S)`` of its returns, adjusted as those of the release will be.
        sd: ``(...)`` of an episode within a room.
    """
    known, n = episodes > 0.0, np.maximum(episodes, 1.0)
    count = known.sum(axis=-1)
    centre = np.where(known, means, 0.0).sum(axis=-1) / np.maximum(count, 1)
    strayed = np.where(known, means - centre[..., None], 0.0)
    chance = np.asarray(sd, np.float64)[..., None] ** 2 / n
    between = (strayed**2).sum(axis=-1) / np.maximum(count - 1, 1)
    true = np.maximum(between - np.where(known, chance, 0.0).sum(axis=-1) / np.maximum(count, 1), 0.0)[..., None]
    worth = np.where(known, true / (true + chance), 0.0)
    return UsualOfRooms(worth * strayed, np.sqrt((true * (1.0 - worth)).mean(axis=-1)))


def rooms_of(session: Sequence[str], day: Sequence[int], arm: Sequence[int], returns: Sequence[float]) -> RoomsFound:
    """Sums by day and room.

    Raises:
        ShapeError: lists that do not fit together.
    """
    if len(session) != len(day):
        raise ShapeError(f"{len(session)} sessions on {len(day)} days.", mend="Name one for each episode.")
    names = tuple(sorted(set(session)))
    place = {name: number for number, name in enumerate(names)}
    room, days = [place[name] for name in session], max(day, default=-1) + 1
    # Every room's days after one another, then folded; what comes after the last one's last day is empty.
    cells = Tally.of([one * days + which for one, which in zip(room, day, strict=True)], arm, returns)
    empty = np.zeros((len(names) * days - len(cells.episodes), 2))
    folded = (np.concatenate([part, empty]).reshape(len(names), days, 2) for part in cells)
    return RoomsFound(names, Tally(*(np.moveaxis(part, 0, -1) for part in folded)))


def matched_rooms(rooms: Tally, variation: Variation) -> Contrast:
    """The two arms compared within days, with the rooms' own differences in the variance.

    Worked number: rooms that differ by nothing (``rooms`` 0): as :func:`rlcourse.release.matching.matched`. Four rooms of
    each arm, deviation 2 within and 1 between, one day: 4/4 + 4/4 + 1/4 + 1/4 = 2.5, so 0.4 of information. A hundred such
    days hold 1/(0.02 + 0.5) = 1.92, and none hold more than 1/(1/4 + 1/4) = 2.

    Args:
        rooms: ``(..., D, 2, S)`` sums by day and room, :math:`m_s` subtracted; 0 episodes where a room did not run.
        variation: expected, before the release has shown it.
    """
    noise, between = _learnt(rooms, variation)
    estimate, information = _least_squares(rooms.episodes, rooms.total, noise, between)
    by_day = rooms.episodes.sum(axis=-1)  # (..., D, 2)
    both = (by_day > 0.0).all(axis=-1)
    return Contrast(estimate, information, (by_day[..., CANDIDATE] * both).sum(axis=-1))


def attainable(rooms: Tally, variation: Variation) -> float:
    """Information that the same rooms would hold if the last day on which both versions ran went on for ever.

    Infinite where there was none yet: nobody knows then how many rooms will come.

    Args:
        rooms: ``(D, 2, S)`` of one release.
        variation: as in :func:`matched_rooms`.
    """
    (both,) = np.nonzero((rooms.episodes.sum(axis=-1) > 0.0).all(axis=-1))
    if not len(both):
        return np.inf
    noise, between = _learnt(rooms, variation)
    episodes = rooms.episodes.copy()
    episodes[both[-1]] *= FOR_EVER
    return float(_least_squares(episodes, np.zeros_like(episodes), noise, between)[1])


def design_information(sizes: Sequence[int], fleet: int, variation: Variation) -> float:
    """Information after so many days, the candidate running the first ``sizes[d]`` of ``fleet`` rooms on day ``d``.

    Worked number: 4 of 8 rooms on one day, deviations 2 within and 1 between: 0.4.
    """
    theirs = np.arange(fleet) < np.array(sizes)[:, None]  # (D, S)
    episodes = np.stack([~theirs, theirs], axis=-2).astype(np.float64)
    noise = np.array([variation.incumbent, variation.candidate]) ** 2
    between = np.asarray(variation.rooms or 0.0) ** 2
    return float(_least_squares(episodes, np.zeros_like(episodes), noise, between)[1])


def _learnt(rooms: Tally, variation: Variation) -> tuple[Array, Array]:
    """``(..., 2)`` variance within rooms and ``(...)`` between them, the guesses worth some degrees of freedom."""
    by_day, own = rooms.episodes.sum(axis=-1), rooms.episodes.sum(axis=-3)  # (..., D, 2), (..., 2, S)
    usual = rooms.total.sum(axis=-1) / np.maximum(by_day, 1.0)
    # Of a room from the others of its days.
    apart = rooms.total.sum(axis=-3) - np.einsum("...das,...da->...as", rooms.episodes, usual)
    squares = (rooms.squares.sum(axis=-1) - by_day * usual**2).sum(axis=-2)
    within = np.maximum(squares - (apart**2 / np.maximum(own, 1.0)).sum(axis=-1), 0.0)
    spent = (by_day > 0.0).sum(axis=-2) + (own > 0.0).sum(axis=-1) - 1.0
    freedom = np.maximum(own.sum(axis=-1) - spent, 0.0)
    guess = np.array([variation.incumbent, variation.candidate]) ** 2
    noise = (within + variation.worth * guess) / np.maximum(freedom + variation.worth, 1e-9)
    # The incumbent has many rooms. The candidate's are drawn from the same fleet, and differ as much.
    there, days = own[..., INCUMBENT, :] > 0.0, np.maximum(own[..., INCUMBENT, :], 1.0)
    count = there.sum(axis=-1)
    spread = ((apart[..., INCUMBENT, :] / days) ** 2).sum(axis=-1) / np.maximum(count - 1, 1)
    chance = noise[..., INCUMBENT] * (there / days).sum(axis=-1) / np.maximum(count, 1)
    freedom = np.maximum(count - 1.0, 0.0)
    between = freedom * (spread - chance) + variation.worth * (variation.rooms or 0.0) ** 2
    return noise, np.maximum(between / np.maximum(freedom + variation.worth, 1e-9), 0.0)


def _least_squares(episodes: Array, total: Array, noise: Array, between: Array) -> tuple[Array, Array]:
    r"""Estimate and information, ``(...)`` each, from ``(..., D, 2, S)`` counts and sums.

    The days are nuisances, eliminated by a Schur complement; of a room's covariance
    :math:`W^{-1} + \tau^2 1 1^\top` the inverse is :math:`W - \kappa\,w w^\top` with
    :math:`\kappa = \tau^2/(1 + \tau^2 \sum w)`.
    """
    ours, its = (1.0 / noise[..., None, None, arm] for arm in (INCUMBENT, CANDIDATE))
    theirs = its * episodes[..., CANDIDATE, :]  # (..., D, S), as the next two
    weight = ours * episodes[..., INCUMBENT, :] + theirs
    earned = its * total[..., CANDIDATE, :]
    summed = ours * total[..., INCUMBENT, :] + earned
    kappa = between[..., None] / (1.0 + between[..., None] * weight.sum(axis=-2))  # (..., S)
    own = theirs.sum(axis=-2)
    tied = np.stack([kappa * own, kappa * summed.sum(axis=-2)], axis=-1)  # (..., S, 2)
    right = np.stack([theirs.sum(axis=-1), summed.sum(axis=-1)], axis=-1) - weight @ tied  # (..., D, 2)
    of_days = -(weight * kappa[..., None, :]) @ np.swapaxes(weight, -1, -2)  # (..., D, D)
    diagonal, seen = np.arange(of_days.shape[-1]), weight.sum(axis=-1)
    of_days[..., diagonal, diagonal] += np.where(seen > 0.0, seen, 1.0)
    solved = np.linalg.solve(of_days, right)
    plain = own.sum(axis=-1) - (tied[..., 0] * own).sum(axis=-1)
    score = earned.sum(axis=(-1, -2)) - (tied[..., 1] * own).sum(axis=-1)
    crossed = right[..., 0]
    information = plain - (crossed * solved[..., 0]).sum(axis=-1)
    known = information > 1e-12 * np.maximum(plain, 1e-300)
    estimate = (score - (crossed * solved[..., 1]).sum(axis=-1)) / np.where(known, information, 1.0)
    return np.where(known, estimate, 0.0), np.where(known, information, 0.0)
