"""How much of what could be seen a log has seen: the space of observations cut into cells, and how many are occupied."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlcourse.experience.episodes import Array

MOST_CELLS = 10_000
"""About as many cells as a grid has; each entry is cut into as many parts as that allows, from 2 to :data:`MOST_PARTS`."""
MOST_PARTS = 20
MOST_ENTRIES = 20
"""Of longer observations even halves make a million cells, and every log looks empty."""


def coverage(observations: Array) -> dict[str, Any] | None:
    """Cells of a grid over the log's own range that hold at least one observation.

    ``effective`` is the exponential of the entropy of how often each cell was visited: as many cells as would be as
    evenly filled. A log that sits in one corner and has once passed everywhere has many occupied cells and few effective
    ones. The range is the log's own, so numbers of two logs compare their shapes, not their extents: look at the ranges
    for those. Entries that never vary are not cut.

    Args:
        observations: ``(M, D)``.

    Returns:
        ``parts`` of each entry, ``cells``, ``occupied``, ``share`` of them, ``effective``; ``None`` where more than
        :data:`MOST_ENTRIES` entries vary.

    Worked number: (0, 0), (0, 1), (1, 1), (1, 1) occupy 3 of 400 cells, and effectively 2 ** 1.5 = 2.83.
    """
    low, high = (observations.min(axis=0).astype(np.float64), observations.max(axis=0).astype(np.float64))
    varying = np.flatnonzero(high > low)
    if len(varying) > MOST_ENTRIES:
        return None
    parts = int(np.clip(MOST_CELLS ** (1 / max(1, len(varying))) + 1e-9, 2, MOST_PARTS))
    cell = np.zeros(len(observations), dtype=np.int64)
    for entry in varying:
        place = (observations[:, entry] - low[entry]) / (high[entry] - low[entry]) * parts
        cell = cell * parts + np.minimum(place.astype(np.int64), parts - 1)
    shares = np.unique(cell, return_counts=True)[1] / len(cell)
    cells = parts ** len(varying)
    return {
        "parts": parts,
        "cells": cells,
        "occupied": len(shares),
        "share": len(shares) / cells,
        "effective": float(np.exp(-(shares * np.log(shares)).sum())),
    }
