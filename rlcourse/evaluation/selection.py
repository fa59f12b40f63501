r"""What picking the best of many noisy measurements does to the measurement, and what to do about it.

A trial's score is its true worth plus noise. Whoever keeps the highest score keeps the highest *sum*, and so, most of
the time, a piece of luck that will not come back: the winner's curse.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expected_best(scores: Tensor, num_tries: int) -> Tensor:
    r"""What the best of ``num_tries`` draws from these scores is on average.

    With the scores sorted, the best of n draws is the i-th of N or lower with probability :math:`(i/N)^n`, so

    .. math:: \mathbb{E}[\max] = \sum_{i=1}^N v_{(i)} \Big[ \big(\tfrac{i}{N}\big)^n - \big(\tfrac{i-1}{N}\big)^n \Big]

    Dodge et al. (2019), "Show your work", section 3.

    Args:
        scores: ``(N,)``, in any order; draws are with replacement.
        num_tries: n, 1 or more.

    Returns:
        ``()``.

    Worked number: the best of 2 draws from the scores 0 and 1 is 1 in three cases out of four, so 0.75.
    """
    count = scores.shape[0]
    share = torch.arange(count + 1, dtype=scores.dtype, device=scores.device) / count  # (N + 1,)
    return (scores.sort().values * share.pow(num_tries).diff()).sum()


def below_median(finished: Tensor, running: Tensor, startup: int) -> Tensor:
    """Which running trials should be pruned: those whose best report so far lies below the others' median *by then*.

    The median stopping rule of Golovin et al. (2017) as Optuna applies it: with what the others reported at that look,
    where the paper has their averages up to it.

    Args:
        finished: ``(N, T)``, the reports of N finished trials.
        running: ``(R, t)``, what R running trials have reported, ``1 <= t <= T``.
        startup: so many trials have to be finished before anything is pruned.

    Returns:
        ``(R,)`` bool.

    Worked number: after two looks the others stand at 10, 20 and 90; their median is 20. A trial with the reports
    (5, 19) is pruned, one with (21, 3) is not.
    """
    if finished.shape[0] < startup:
        return torch.zeros(running.shape[0], dtype=torch.bool, device=running.device)
    then = finished[:, running.shape[1] - 1]  # (N,)
    return running.amax(-1) < then.quantile(0.5)


def shrunken_scores(returns: Tensor) -> Tensor:
    r"""Each trial's mean, pulled towards the mean of all trials by as much as the seeds disagree.

    .. math:: \hat\mu_i = \bar\mu + \max\!\Big(0,\, 1 - \frac{\hat\sigma^2 / K}{s^2}\Big)\,(\bar x_i - \bar\mu)

    :math:`\hat\sigma^2` is the variance between seeds, averaged over trials, and :math:`s^2` the variance of the trials'
    means. Where the seeds alone explain how far the trials lie apart, nothing is left but the common mean. Empirical
    Bayes, after Efron and Morris (1975).

    Args:
        returns: ``(N, K)``, K seeds of each of N trials; both 2 or more.

    Returns:
        ``(N,)``.

    Worked number: the returns (0, 2) and (4, 6) have means 1 and 5, which vary by 8; the seeds vary by 2, so a mean of
    two by 1. The factor is 1 - 1/8, and the answer is (1.25, 4.75).
    """
    means = returns.mean(-1)  # (N,)
    noise = returns.var(-1).mean() / returns.shape[-1]
    spread = means.var()
    factor = torch.where(spread > noise, 1.0 - noise / spread, torch.zeros_like(spread))
    return means.mean() + factor * (means - means.mean())
