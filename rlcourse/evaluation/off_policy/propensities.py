"""Propensities that nobody logged, guessed from the log itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from rlcourse.algorithms.bc import BC, BCConfig
from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.transitions import Transitions
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ActionSpace, DiscreteActions


def estimate_propensities(
    episodes: Episodes,
    *,
    actions: int | ActionSpace,
    seeds: Seeds,
    updates: int = 2_000,
    folds: int = 2,
    floor: float = 0.01,
) -> npt.NDArray[np.float64]:
    """How likely the logger was to do what it did, according to a clone of it.

    Every episode is judged by a clone that was trained on the others: a clone that has seen an action finds it likelier than
    it was, and its weights come out too small.

    What it costs: a clone that is wrong by a tenth at every step is wrong by a factor of two and a half after ten, and the
    mean of the weights need not be 1. No interval of this package knows about that error.

    Args:
        episodes: with actions of either kind.
        actions: how many there are, or their bounds. A continuous action's propensity is a density, and the clone a normal
            distribution, which the logger need not have been.
        seeds: first weights, batches and folds draw from its streams.
        updates: gradient steps for each clone.
        folds: parts of the log, 2 or more.
        floor: no probability is guessed below this; a tiny one would give its episode all the weight there is.

    Returns:
        ``(S,)``.

    Raises:
        DatasetInvalidError: fewer episodes than folds.
        ConfigError: fewer than two folds, or a floor outside [0, 1).
    """
    if folds < 2 or not 0.0 <= floor < 1.0:
        raise ConfigError(
            f"{folds} folds with a floor of {floor}.", mend="Use 2 folds or more and a floor from 0 to 1."
        )
    if episodes.num_episodes < folds:
        raise DatasetInvalidError(
            f"{episodes.num_episodes} episodes cannot be split into {folds} parts.",
            mend="Propensities cannot be guessed from so little; log them.",
        )
    space = DiscreteActions(actions) if isinstance(actions, int) else actions
    first = episodes.first_steps()
    found = np.empty(episodes.num_transitions)
    order = seeds.numpy("folds").permutation(episodes.num_episodes)
    for number, judged in enumerate(np.array_split(order, folds)):
        family = seeds.child(f"fold {number}")
        others = episodes.select(np.setdiff1d(order, judged))
        log = Transitions.from_episodes(others, gamma=1.0, actions=space)
        with family.initialising("networks"):
            clone = BC(log.spec(), BCConfig())
        drawing = family.torch("batches")
        for update in range(updates):
            if update % 50 == 0:
                clone.anneal(1.0 - update / updates)
            clone.update(log.sample(256, drawing))
        for index in judged:
            steps = slice(first[index], first[index] + episodes.lengths[index])
            rows = slice(first[index] + index, first[index] + index + episodes.lengths[index])
            seen, done = torch.from_numpy(episodes.observations[rows]), torch.from_numpy(episodes.actions[steps])
            with torch.no_grad():
                found[steps] = clone.policy.log_likelihood(seen, done).exp().numpy()
    return np.maximum(found, floor)
