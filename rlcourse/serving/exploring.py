"""Which of the actions that were drawn were not the likeliest: only who holds all the probabilities can say.

The decision log has the probability of the action that was taken, and of the others nothing. Below a half it leaves open
whether another was likelier, so the service looks, and writes down yes or no.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlcourse.serving.continuous import Drawn


def explored(decided: Any, *, many: bool, greedy: bool) -> bool | list[bool] | None:
    """Whether another action was likelier than the one that was drawn, for each observation of a batch.

    Args:
        decided: with ``actions``, ``(B,)``, and ``probabilities``, ``(B, A)``; ``None`` if the policy was not heard.
        many: the request was a batch.
        greedy: nothing was drawn.

    Returns:
        ``None`` where nothing was drawn, or where actions are continuous and none has a probability. Of equally likely
        actions none is an exploring one.
    """
    if greedy or decided is None or isinstance(decided, Drawn):
        return None
    probabilities = decided.probabilities
    if not many:
        row = probabilities[0].tolist()  # for a handful of actions NumPy's maximum costs more than Python's
        return bool(row[decided.actions.item(0)] < max(row))
    taken = probabilities[np.arange(len(probabilities)), decided.actions]
    found: list[bool] = (taken < probabilities.max(-1)).tolist()
    return found
