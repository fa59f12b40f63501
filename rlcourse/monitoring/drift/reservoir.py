"""A fair sample of a stream whose length nobody knows, in memory that does not grow."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

from rlcourse.errors import ConfigError

U = TypeVar("U")


class Reservoir(Generic[U]):
    """Keeps ``capacity`` items, each that ever came with the same probability. Algorithm R of Vitter (1985).

    A reference that is collected over weeks: the last hundred episodes would be those of one day.
    """

    def __init__(self, capacity: int, *, rng: np.random.Generator) -> None:
        if capacity < 1:
            raise ConfigError(f"A reservoir of {capacity}.", mend="Use 1 or more.")
        self.capacity, self._rng = capacity, rng
        self.items: list[U] = []
        self.seen = 0

    def offer(self, item: U) -> None:
        """Take it, or not; once full, the n-th item is taken with probability ``capacity / n``, in a random one's place."""
        self.seen += 1
        if len(self.items) < self.capacity:
            self.items.append(item)
            return
        place = int(self._rng.integers(self.seen))
        if place < self.capacity:
            self.items[place] = item
