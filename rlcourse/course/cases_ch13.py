"""Cases of chapter 13: tuning, and the noise it feeds on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlcourse.course.cases_common import changing, column, elementwise_mistakes, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation
from rlcourse.evaluation.selection import below_median, expected_best, shrunken_scores

_FILE = "ch13_tuning"


def _draw_best(rng: np.random.Generator) -> Arguments:
    return {"scores": normal(rng, 7, scale=10.0) + 50, "num_tries": int(rng.integers(2, 6))}


def _unsorted(scores: Tensor, num_tries: int) -> Tensor:
    share = torch.arange(len(scores) + 1) / len(scores)
    return (scores * share.pow(num_tries).diff()).sum()


def _cumulative(scores: Tensor, num_tries: int) -> Tensor:
    share = torch.arange(1, len(scores) + 1) / len(scores)
    return (scores.sort().values * share.pow(num_tries)).sum()


EXPECTED_BEST = Exercise(
    name="expected_best",
    file=_FILE,
    reference=expected_best,
    draw=_draw_best,
    worked=(
        Worked({"scores": column([1, 0]), "num_tries": 2}, torch.tensor(0.75)),
        Worked({"scores": column([8, 2, 4, 6]), "num_tries": 1}, torch.tensor(5.0)),
        Worked({"scores": column([3, 9, 6]), "num_tries": 2}, torch.tensor(22 / 3)),
    ),
    mistakes=(
        Mistake("unsorted", _unsorted, "The weights belong to ranks: sort the scores first, lowest first."),
        Mistake(
            "descending",
            lambda scores, num_tries: -expected_best(-scores, num_tries),
            "This is the expected *worst*: the largest weight has to meet the highest score.",
        ),
        Mistake(
            "cumulative",
            _cumulative,
            "(i/N)^n is the chance that the best is the i-th *or lower*. The chance that it is exactly the i-th is the "
            "difference of two of these, and the weights add up to 1.",
        ),
        Mistake(
            "the mean",
            lambda scores, num_tries: scores.mean(),
            "This is one draw's average: the number of tries has to matter.",
        ),
        Mistake(
            "the maximum",
            lambda scores, num_tries: scores.max(),
            "This is the best of all N scores. Of n draws the best is often a lower one.",
        ),
        Mistake(
            "n times",
            lambda scores, num_tries: (
                scores.sort().values
                * (num_tries * torch.arange(1, len(scores) + 1) / len(scores)).diff(prepend=column([0]))
            ).sum(),
            "Independent draws multiply: the chance that all n lie at rank i or lower is (i/N) to the *power* n.",
        ),
        Mistake(
            "float",
            lambda scores, num_tries: float(expected_best(scores, num_tries)),
            "The number is right, but it is a Python float: return the 0-d tensor.",
        ),
        changing(0, expected_best),
    ),
    hint="Sort; weigh the i-th score with (i/N)^n - ((i-1)/N)^n; add up.",
    difficulty=2,
    minutes=15,
)


def _draw_median(rng: np.random.Generator) -> Arguments:
    # Rising curves, so that what the others have at the end says nothing about what they had by now.
    trials, looks = int(rng.integers(4, 8)), 5
    seen = int(rng.integers(2, looks))
    return {
        "finished": normal(rng, trials, looks) + torch.arange(1, looks + 1),
        "running": normal(rng, 6, seen) + torch.arange(1, seen + 1),
        "startup": int(rng.integers(3, 6)),
    }


def _rows(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def _flags(*values: bool) -> Tensor:
    return torch.tensor(values)


def _then(finished: Tensor, running: Tensor) -> Tensor:
    return finished[:, running.shape[1] - 1]


def _unless_early(pruned: Tensor, finished: Tensor, startup: int) -> Tensor:
    return pruned if finished.shape[0] >= startup else torch.zeros_like(pruned)


_OTHERS = _rows([1, 10, 99], [2, 20, 60], [3, 90, 70])
# Pruned; saved by its first report; above the median of 20 but below the mean of 40; equal, which is not below; above
# what the others had one look earlier.
_RUNNING = _rows([5, 19], [21, 3], [5, 30], [4, 20], [0, 3])

BELOW_MEDIAN = Exercise(
    name="below_median",
    file=_FILE,
    reference=below_median,
    draw=_draw_median,
    worked=(
        Worked({"finished": _OTHERS, "running": _RUNNING, "startup": 3}, _flags(True, False, False, False, True)),
        Worked({"finished": _OTHERS, "running": _RUNNING, "startup": 4}, _flags(*[False] * 5)),
        Worked(
            {"finished": _rows([1], [2], [3], [4]), "running": _rows([2.2], [2.7]), "startup": 4}, _flags(True, False)
        ),
    ),
    mistakes=(
        Mistake(
            "reversed",
            lambda finished, running, startup: _unless_early(
                running.amax(-1) > _then(finished, running).quantile(0.5), finished, startup
            ),
            "This prunes the good trials: a trial goes when it lies *below* the median.",
        ),
        Mistake(
            "at the end",
            lambda finished, running, startup: _unless_early(
                running.amax(-1) < finished[:, -1].quantile(0.5), finished, startup
            ),
            "A trial in its second look is compared with what the others had at the *end*. Compare at the same look.",
        ),
        Mistake(
            "one look early",
            lambda finished, running, startup: _unless_early(
                running.amax(-1) < finished[:, max(0, running.shape[1] - 2)].quantile(0.5), finished, startup
            ),
            "The others are taken one look too early: t reports are there, and indices begin at 0.",
        ),
        Mistake(
            "the last report",
            lambda finished, running, startup: _unless_early(
                running[:, -1] < _then(finished, running).quantile(0.5), finished, startup
            ),
            "One bad look ends a trial that was good before. The rule asks for the *best* report so far.",
        ),
        Mistake(
            "the mean",
            lambda finished, running, startup: _unless_early(
                running.amax(-1) < _then(finished, running).mean(), finished, startup
            ),
            "The mean of the others: a single very good trial would prune all that follow. The rule asks for the median.",
        ),
        Mistake(
            "lower median",
            lambda finished, running, startup: _unless_early(
                running.amax(-1) < _then(finished, running).median(), finished, startup
            ),
            "For an even number of trials torch.median returns the lower of the two in the middle. Take their mean: "
            "quantile(0.5) does.",
        ),
        Mistake(
            "equal is below",
            lambda finished, running, startup: _unless_early(
                running.amax(-1) <= _then(finished, running).quantile(0.5), finished, startup
            ),
            "A trial *at* the median is pruned, too. With many equal scores nothing would survive: use < and not <=.",
        ),
        Mistake(
            "startup off by one",
            lambda finished, running, startup: below_median(finished, running, startup + 1),
            "With exactly `startup` finished trials pruning may begin; this waits for one more.",
        ),
        Mistake(
            "no startup",
            lambda finished, running, startup: below_median(finished, running, 0),
            "It prunes before `startup` trials are finished; a median of one trial is no median.",
        ),
        Mistake(
            "one for all",
            lambda finished, running, startup: below_median(finished, running, startup).any(),
            "Each running trial has an answer of its own: return (R,), and reduce over looks alone.",
        ),
    ),
    hint="Compare each best report so far with the median of the finished trials at this look, once enough are finished.",
    difficulty=2,
    minutes=15,
)


def _draw_returns(rng: np.random.Generator) -> Arguments:
    truth = normal(rng, 6, 1, scale=float(rng.uniform(4.0, 12.0)))
    return {"returns": 100 + truth + normal(rng, 6, 3, scale=float(rng.uniform(4.0, 12.0)))}


def _shrunken(means: Tensor, noise: Tensor, spread: Tensor) -> Tensor:
    return means.mean() + (1 - noise / spread).clamp(min=0) * (means - means.mean())


_SHRUNKEN_WORKED = (
    Worked({"returns": _rows([0, 2], [4, 6])}, column([1.25, 4.75])),
    Worked({"returns": _rows([0, 10], [10, 0], [4, 8])}, column([16 / 3] * 3)),
    Worked({"returns": _rows([5, 5, 5], [8, 8, 8])}, column([5, 8])),
)
_NOT_OF_THE_MEAN = Mistake(
    "noise of one seed",
    lambda returns: _shrunken(returns.mean(-1), returns.var(-1).mean(), returns.mean(-1).var()),
    "The variance between seeds is that of *one* run. A score is the mean of K runs, and its variance is K times smaller.",
)

SHRUNKEN_SCORES = Exercise(
    name="shrunken_scores",
    file=_FILE,
    reference=shrunken_scores,
    draw=_draw_returns,
    worked=_SHRUNKEN_WORKED,
    mistakes=(
        _NOT_OF_THE_MEAN,
        Mistake(
            "no floor",
            lambda returns: (
                returns.mean()
                + (1 - returns.var(-1).mean() / returns.shape[-1] / returns.mean(-1).var())
                * (returns.mean(-1) - returns.mean())
            ),
            "Where the seeds disagree more than the trials, the factor turns negative and the ranking upside down. It stops "
            "at 0.",
        ),
        Mistake(
            "biased variance",
            lambda returns: _shrunken(
                returns.mean(-1),
                returns.var(-1, correction=0).mean() / returns.shape[-1],
                returns.mean(-1).var(correction=0),
            ),
            "These variances divide by n. From so few numbers the mean is estimated, too: divide by n - 1.",
        ),
        Mistake(
            "upside down",
            lambda returns: (
                returns.mean()
                + (returns.var(-1).mean() / returns.shape[-1] / returns.mean(-1).var()).clamp(max=1)
                * (returns.mean(-1) - returns.mean())
            ),
            "The noisier the seeds, the *less* this pulls. The share of noise is what has to go: 1 minus it stays.",
        ),
        Mistake(
            "towards zero",
            lambda returns: shrunken_scores(returns) - returns.mean() * (1 - _factor(returns)),
            "The scores are pulled towards 0. Pull them towards their common mean.",
        ),
        Mistake(
            "standard deviations",
            lambda returns: _shrunken(
                returns.mean(-1),
                (returns.var(-1).mean() / returns.shape[-1]).sqrt(),
                returns.mean(-1).std(),
            ),
            "Standard deviations do not add up, variances do: the ratio is one of variances.",
        ),
        Mistake(
            "spread of all returns",
            lambda returns: _shrunken(returns.mean(-1), returns.var(-1).mean() / returns.shape[-1], returns.var()),
            "s^2 is the variance of the trials' *means*, not that of all returns.",
        ),
        Mistake("unshrunken", lambda returns: returns.mean(-1), "These are the scores themselves: nothing is pulled."),
        *(m for m in elementwise_mistakes(shrunken_scores, learns=False) if m.name in ("trailing axis", "float64")),
        changing(0, shrunken_scores),
    ),
    hint="Means, variance between seeds over K, variance of the means; the factor is 1 minus their ratio, not below 0.",
    difficulty=3,
    minutes=20,
)


def _factor(returns: Tensor) -> Tensor:
    noise = returns.var(-1).mean() / returns.shape[-1]
    return (1 - noise / returns.mean(-1).var()).clamp(min=0)


_SHRUNKEN_BUG = Mutation(old="noise = returns.var(-1).mean() / returns.shape[-1]", new="noise = returns.var(-1).mean()")

HUNT_SHRUNKEN_SCORES = Exercise(
    name="hunt_shrunken_scores",
    file=_FILE,
    reference=shrunken_scores,
    draw=_draw_returns,
    worked=_SHRUNKEN_WORKED,
    mistakes=(
        planted(shrunken_scores, _SHRUNKEN_BUG, _NOT_OF_THE_MEAN.hint),
        Mistake("unshrunken", lambda returns: returns.mean(-1), "Now nothing is pulled, however noisy the seeds are."),
    ),
    hint="Ask of each variance: of what is it the variance, of one run or of a mean of K?",
    difficulty=1,
    minutes=10,
    mutation=_SHRUNKEN_BUG,
    symptom=(
        "Trials really differ by about 10, and so do their seeds. With 3 seeds a quarter of the differences between trials "
        "is left, with 30 seeds a thirtieth: the more carefully a trial is measured, the less it is believed."
    ),
)

EXERCISES = (EXPECTED_BEST, BELOW_MEDIAN, SHRUNKEN_SCORES, HUNT_SHRUNKEN_SCORES)
