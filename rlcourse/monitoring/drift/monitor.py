"""All checks together, window after window, with one stated rate of false alarms.

What is compared, episode against episode (:mod:`~rlcourse.monitoring.drift.permutation`):

============  ==============  =========================================================================
check         feature         statistic
============  ==============  =========================================================================
``ks``        each            largest distance of the distribution functions at the thresholds
``mmd``       ``all``         squared maximum mean discrepancy of the states together
``actions``   ``all``         total variation of the shares of the actions; of continuous ones instead, entry by
                              entry, the largest distance of the distribution functions
``rewards``   ``return``      difference of the mean returns at one age
``rewards``   ``abandoned``   difference of the shares of episodes that nobody heard the end of
``concept``   ``bias``        difference of the mean temporal-difference errors
``concept``   ``size``        difference of their mean sizes
============  ==============  =========================================================================

There is no ``concept`` for continuous actions: Q is fitted action by action.
The p-values of a window are adjusted together, and an alarm is one at or below the budget's level. Memory is bounded: the
reference's units, the window's units, one kernel between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.drift.correction import CORRECTIONS, Correction, FalseAlarmBudget
from rlcourse.monitoring.drift.looks import Looks
from rlcourse.monitoring.drift.permutation import Statistic, permuted_means, permuted_mmd, shuffles
from rlcourse.monitoring.drift.states import ALL, Finding, rbf_kernel, stability_index
from rlcourse.monitoring.drift.units import Ruler, Units
from rlcourse.monitoring.signals import Array
from rlcourse.monitoring.streams import EpisodeRecord
from rlcourse.randomness import Seeds

CHECKS = ("ks", "mmd", "actions", "rewards", "concept")
STEADY_WINDOWS = 8
"""A reference of so many windows. One stays for good, and may be off by chance: of references of two windows one in a hundred
raises more than four times the false alarms that were stated, of such ones less than twice (reckoned for 14 independent
tests, the worst case, by ``benchmarks/monitoring.py``)."""


@dataclass(frozen=True)
class DriftConfig:
    """When to look, and how strict to be."""

    window_episodes: int = 32
    """Episodes in a window. Raising it finds smaller drifts, later."""
    stride_episodes: int = 32
    """So many new ones between two looks at least; less than a window and windows overlap."""
    budget: FalseAlarmBudget = field(default_factory=FalseAlarmBudget)
    """How often a healthy plant may wake somebody, and how many looks a day there are at most."""
    correction: Correction = "holm"
    """Among the tests of one window."""
    permutations: int = 1999
    """Shuffles. The smallest p-value is one in so many and one; too few can raise no alarm at all, and are refused."""

    def __post_init__(self) -> None:
        if min(self.window_episodes, self.stride_episodes, self.permutations) < 1:
            raise ConfigError("A window, a stride or the shuffles are below 1.", mend="Use whole numbers above 0.")
        if self.correction not in CORRECTIONS:
            raise ConfigError(
                f"There is no correction {self.correction!r}.", mend=f"Use one of {', '.join(CORRECTIONS)}."
            )

    def looks(self) -> Looks:
        """For one stream of episodes."""
        return Looks(self.window_episodes, self.stride_episodes, self.budget)


@dataclass(frozen=True)
class DriftReport:
    """What one window showed."""

    findings: tuple[Finding, ...]  # all with adjusted p-values
    stability: tuple[Finding, ...]  # the stability index of each feature: how much, for a person; raises no alarm
    level: float

    @property
    def raised(self) -> tuple[Finding, ...]:
        """The findings that count."""
        return tuple(one for one in self.findings if one.adjusted is not None and one.adjusted <= self.level)

    @property
    def alarm(self) -> bool:
        """Whether there are any."""
        return bool(self.raised)

    def by_check(self) -> dict[str, bool]:
        """For each check that was made, whether it raised an alarm."""
        made, raised = ({one.check for one in found} for found in (self.findings, self.raised))
        return {check: check in raised for check in CHECKS if check in made}


class DriftMonitor:
    """Compares windows of episodes with a reference.

    Args:
        ruler: measures both.
        reference: units of episodes that the ruler was *not* made from.
        config: when to look.
        rng: shuffles.

    Raises:
        ConfigError: so few shuffles that no p-value could be small enough.
        DatasetInvalidError: fewer than two episodes in the reference.
    """

    def __init__(self, ruler: Ruler, reference: Units, config: DriftConfig, *, rng: np.random.Generator) -> None:
        self.ruler, self.reference, self.config = ruler, reference, config
        if len(reference) < 2:
            raise DatasetInvalidError(f"{len(reference)} episodes are no reference.", mend="Collect some 50 or more.")
        tests = len(ruler.names) + len(ruler.action_names) + (5 if ruler.q else 3)
        needed = int(np.ceil(tests / config.budget.per_window)) - 1
        if config.permutations < needed:
            raise ConfigError(
                f"With {config.permutations} shuffles none of {tests} tests can come below {config.budget.per_window:g}.",
                mend=f"Use {needed} or more, or look less often.",
            )
        self._rng = rng
        self._window: deque[Units] = deque(maxlen=config.window_episodes)
        self.looks = config.looks()
        """Of :meth:`take`."""
        self._kernel = _mean_kernel(reference.rows, reference.rows, ruler.bandwidth)

    @classmethod
    def fit(
        cls,
        episodes: Episodes,
        num_actions: int,
        config: DriftConfig | None = None,
        *,
        seeds: Seeds,
        names: Sequence[str] | None = None,
    ) -> Self:
        """From one log of a plant that is well: a random half of its episodes makes the ruler, the others the reference.

        Raises:
            DatasetInvalidError: fewer than four episodes; see :meth:`Ruler.fit`.
            ConfigError: see :class:`DriftMonitor`.
        """
        if episodes.num_episodes < 4:
            raise DatasetInvalidError(
                f"{episodes.num_episodes} episodes are no reference.", mend="Collect some 100 or more."
            )
        order = seeds.numpy("drift reference").permutation(episodes.num_episodes)
        half = episodes.num_episodes // 2
        ruler = Ruler.fit(episodes.select(order[:half]), num_actions, names=names)
        reference = ruler.measure(episodes.select(order[half:]))
        return cls(ruler, reference, config or DriftConfig(), rng=seeds.numpy("drift shuffles"))

    def take(self, episodes: Episodes, records: Sequence[EpisodeRecord] | None = None) -> list[DriftReport]:
        """Mature episodes, in their order; a report for every look that they complete.

        Where records say when episodes became mature, the budget's looks a day are not exceeded.

        Raises:
            DatasetInvalidError: see :meth:`Ruler.measure`; none of them is taken.
            ShapeError: see :meth:`Ruler.measure`.
        """
        units = self.ruler.measure(episodes, records)
        reports = []
        for place in range(len(units)):
            self._window.append(units.select(np.array([place])))
            if self.looks.episode(None if records is None else records[place].mature_s):
                reports.append(self.compare(Units.concatenate(list(self._window))))
        return reports

    def compare(self, window: Units) -> DriftReport:
        """One look at any window.

        Raises:
            DatasetInvalidError: it is empty.
        """
        if len(window) == 0:
            raise DatasetInvalidError("The window holds no episodes.", mend="Wait until some are mature.")
        reference, ruler = self.reference, self.ruler
        chosen = shuffles(len(reference), len(window), self.config.permutations, self._rng)

        def test(part: str, distance: Statistic) -> list[tuple[float, float]]:
            units = np.concatenate([getattr(reference, part), getattr(window, part)])
            values, p = permuted_means(units, chosen, distance)
            return list(zip(values.tolist(), p.tolist(), strict=True))

        def kolmogorov(count: int) -> Statistic:
            return lambda a, b: np.abs(a - b).reshape(len(a), count, -1).max(axis=2)

        def total_variation(a: Array, b: Array) -> Array:
            half: Array = 0.5 * np.abs(a - b).sum(axis=1, keepdims=True)
            return half

        acted = total_variation if ruler.num_actions else kolmogorov(len(ruler.action_names))
        found = {
            "ks": (ruler.names, test("below", kolmogorov(len(ruler.names)))),
            "mmd": ((ALL,), [self._mmd(window, chosen)]),
            "actions": (ruler.action_names, test("actions", acted)),
            "rewards": (("return", "abandoned"), test("rewards", lambda a, b: np.abs(a - b))),
        }
        if ruler.q is not None:
            found["concept"] = (("bias", "size"), test("errors", lambda a, b: np.abs(a - b)))
        findings = [
            Finding(check, feature, value, p)
            for check, (labels, tested) in found.items()
            for feature, (value, p) in zip(labels, tested, strict=True)
        ]
        adjusted = CORRECTIONS[self.config.correction]([one.p_value for one in findings])
        return DriftReport(
            tuple(one.with_adjusted(float(p)) for one, p in zip(findings, adjusted, strict=True)),
            self._stability(window),
            self.config.budget.per_window,
        )

    def _mmd(self, window: Units, chosen: Array) -> tuple[float, float]:
        bandwidth = self.ruler.bandwidth
        across = _mean_kernel(self.reference.rows, window.rows, bandwidth)
        inside = _mean_kernel(window.rows, window.rows, bandwidth)
        return permuted_mmd(np.block([[self._kernel, across], [across.T, inside]]), chosen)

    def _stability(self, window: Units) -> tuple[Finding, ...]:
        expected, actual = (self._deciles(units.below.mean(axis=0)) for units in (self.reference, window))
        index = stability_index(expected, actual)
        return tuple(
            Finding("psi", name, float(value), float("nan"))
            for name, value in zip(self.ruler.names, index, strict=True)
        )

    def _deciles(self, below: Array) -> Array:
        """``(D * G,)`` shares at or below the thresholds to ``(D, (G + 3) / 2)`` shares between every second one."""
        inner = below.reshape(len(self.ruler.names), -1)[:, 1::2]
        shares: Array = np.diff(inner, axis=1, prepend=0.0, append=1.0)
        return shares


def _mean_kernel(a: Array, b: Array, bandwidth: float) -> Array:
    """``(E, M, D)`` and ``(F, M, D)`` rows to ``(E, F)`` means over all pairs of rows of two episodes."""
    kernel = rbf_kernel(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), bandwidth)
    means: Array = kernel.reshape(len(a), a.shape[1], len(b), b.shape[1]).mean(axis=(1, 3))
    return means
