r"""Which rows of a log may be handed to a test that believes its rows independent.

The tests of the textbooks (Kolmogorov-Smirnov, chi-square) take every row for a fresh draw. The states of a plant are
not: ten minutes later the water is as warm as it was. A hundred steps of one warm afternoon then look like a hundred
witnesses of a warmer world, and the test cries drift on most windows of a plant in perfect health::

    one day      ──╱╲──╱╲╱╲──    144 rows, but only about 144 / tau of news
    thinned      · · · · · ·     every 2 tau-th row of one long stream
    one a day    ·      ·        one row of every episode: independent if the episodes are

Three ways out: :func:`thinned`; :func:`one_per_episode`, exact and wasteful; and to shuffle whole episodes
(:mod:`~rlcourse.monitoring.drift.permutation`), exact and thrifty, which is what the monitor does.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.signals import Array, finite


def rows_of(values: npt.ArrayLike, name: str) -> Array:
    """``(R, D)`` float64 from that or from ``(R,)``.

    Raises:
        DatasetInvalidError: no rows, NaN or infinite.
        ShapeError: more than two axes.
    """
    array = finite(values, name)
    if array.ndim > 2:
        raise ShapeError(f"{name} have shape {array.shape}.", mend="Give one row for each step, (R, D).")
    return array.reshape(len(array), -1)


def pair_of(reference: npt.ArrayLike, window: npt.ArrayLike) -> tuple[Array, Array]:
    """Both as rows over the same features.

    Raises:
        DatasetInvalidError: one of them is empty or holds NaN.
        ShapeError: they differ in their features.
    """
    ours, theirs = rows_of(reference, "reference rows"), rows_of(window, "window rows")
    if ours.shape[1] != theirs.shape[1]:
        raise ShapeError(
            f"The reference has {ours.shape[1]} features and the window {theirs.shape[1]}.",
            mend="Make a new reference whenever the observation changes; the two cannot be compared.",
        )
    return ours, theirs


def varying(rows: Array, names: tuple[str, ...] | None = None) -> Array:
    """``(D,)`` standard deviations, none of them 0.

    Raises:
        DatasetInvalidError: a feature that is constant: nothing can be learned from it about what is usual.
    """
    spread: Array = rows.std(axis=0)
    scale = np.maximum(1.0, np.abs(rows).max(axis=0))
    constant = np.flatnonzero(spread <= 1e-12 * scale)
    if constant.size:
        found = ", ".join(names[place] if names else str(place) for place in constant)
        raise DatasetInvalidError(
            f"Constant in the reference: feature {found}.",
            mend="Leave it out of the drift checks and alert on any other value of it.",
        )
    return spread


def autocorrelation_time(series: npt.ArrayLike, *, window: float = 5.0) -> float:
    r"""How many steps of a stationary series hold the news of one independent draw: :math:`\tau = 1 + 2\sum_k \rho_k`.

    The sum stops at the first lag that exceeds ``window`` times the sum so far; beyond, there is noise alone. Sokal (1997).

    Args:
        series: ``(T,)``, consecutive.
        window: raising it takes longer memories in, and more noise.

    Raises:
        DatasetInvalidError: fewer than 8 steps, NaN, or a constant series.

    Closed form: a first-order autoregression with memory :math:`\rho` has :math:`\tau = (1 + \rho) / (1 - \rho)`.
    """
    values = rows_of(series, "steps")[:, 0]
    if values.size < 8:
        raise DatasetInvalidError(f"{values.size} steps show no memory.", mend="Give a longer series.")
    varying(values[:, None])
    centred = values - values.mean()
    size = 2 ** math.ceil(math.log2(2 * values.size))  # twice as long, or the ends would meet
    spectrum = np.fft.rfft(centred, size)
    products = np.fft.irfft(spectrum * spectrum.conj(), size)[: values.size]
    times = 2.0 * np.cumsum(products / products[0]) - 1.0
    far_enough = np.arange(values.size) >= window * times
    return max(1.0, float(times[int(far_enough.argmax()) if far_enough.any() else -1]))


def thinned(rows: npt.ArrayLike, *, tau: float | None = None) -> Array:
    r"""Every :math:`\lceil 2\tau \rceil`-th row of one long stream, for the feature with the longest memory.

    Args:
        rows: ``(T, D)``, consecutive.
        tau: :func:`autocorrelation_time`; ``None`` estimates it from these rows. Better from the reference, once.

    Raises:
        DatasetInvalidError: see :func:`autocorrelation_time`.
        ConfigError: a time below 1.
    """
    array = rows_of(rows, "rows")
    longest = max(autocorrelation_time(column) for column in array.T) if tau is None else tau
    if not 1.0 <= longest < math.inf:
        raise ConfigError(f"An autocorrelation time of {longest}.", mend="It is 1 for independent rows, else above.")
    kept: Array = array[:: math.ceil(2.0 * longest) if longest > 1.0 else 1]
    return kept


def one_per_episode(episodes: Episodes, rng: np.random.Generator) -> tuple[Array, npt.NDArray[np.int64]]:
    """``(E, D)`` states and ``(E,)`` actions: of each episode one step, drawn at random.

    If episodes are independent, so are these. (A mean over each episode would be too, but has another distribution.)

    Raises:
        DatasetInvalidError: NaN, or continuous actions.
    """
    if episodes.continuous:
        raise DatasetInvalidError("Actions are continuous numbers.", mend="Compare them as states are compared.")
    drawn = (rng.random(episodes.num_episodes) * episodes.lengths).astype(np.int64)
    first = episodes.first_steps()
    states = episodes.observations[first + np.arange(episodes.num_episodes) + drawn]
    return rows_of(states, "states"), episodes.actions[first + drawn].astype(np.int64)
