"""What a recurrent policy remembers of each session, within a bound that no number of sessions can break.

Memories are rows of one array, so a session costs its ``H`` numbers, its name and a few words. The one unused for the
longest time is forgotten first; every operation takes the same time however many there are.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from rlcourse.errors import ArtifactError, ConfigError
from rlcourse.files import atomic_path
from rlcourse.serving.policies import Floats


class SessionStore:
    """Session names to memories.

    Args:
        size: ``H`` numbers in one memory.
        capacity: so many sessions at most; the one unused for the longest time makes room.
        lifetime_s: a session unused for longer is forgotten.
        clock: wall time in seconds, so that what was saved ages while the service is down.
        weights: SHA-256 of those of the policy. A memory is a row of numbers that means nothing to other weights.
    """

    FIRST_ROWS = 1024

    def __init__(
        self, size: int, capacity: int, lifetime_s: float, clock: Callable[[], float], weights: str = ""
    ) -> None:
        if size < 1 or capacity < 1 or not lifetime_s > 0.0:
            raise ConfigError(
                f"{capacity} sessions of {size} numbers for {lifetime_s} s.", mend="Use numbers above 0 for all three."
            )
        self.size, self.capacity, self.lifetime_s, self.weights = size, capacity, lifetime_s, weights
        self._clock = clock
        self._rows: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._memory = np.zeros((min(self.FIRST_ROWS, capacity), size), np.float32)
        self._used = array("d", bytes(8 * len(self._memory)))
        self._free = array("l", range(len(self._memory) - 1, -1, -1))
        self.evicted = 0
        self.expired = 0

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, session: str) -> Floats | None:
        """``(1, H)``, a copy; ``None`` of a session that is not known (any more)."""
        row = self._rows.get(session)
        if row is None:
            return None
        if self._used[row] + self.lifetime_s < self._clock():
            self.expired += 1
            self.forget(session)
            return None
        return self._memory[row : row + 1].copy()

    def put(self, session: str, memory: Floats) -> None:
        """Remember ``(H,)`` or ``(1, H)``; forgets what has expired, and the least recently used if there is no room."""
        now = self._clock()
        row = self._rows.get(session)
        if row is None:
            row = self._row_for_another(now)
            self._rows[session] = row
        else:
            self._rows.move_to_end(session)
        self._memory[row] = memory
        self._used[row] = now

    def forget(self, session: str) -> bool:
        """Drop a session; says whether there was one."""
        row = self._rows.pop(session, None)
        if row is None:
            return False
        self._free.append(row)
        return True

    def _row_for_another(self, now: float) -> int:
        # At most two for each one that comes in: expiry keeps up, and no single request pays for all of them.
        for _ in range(2):
            oldest = next(iter(self._rows), None)
            if oldest is None or self._used[self._rows[oldest]] + self.lifetime_s >= now:
                break
            self.expired += 1
            self.forget(oldest)
        if not self._free:
            if len(self._rows) >= self.capacity:
                self.evicted += 1
                return self._rows.popitem(last=False)[1]
            self._grow()
        return self._free.pop()

    def _grow(self) -> None:
        old = len(self._memory)
        new = min(2 * old, self.capacity)
        grown = np.zeros((new, self.size), np.float32)
        grown[:old] = self._memory
        self._memory = grown
        self._used.extend([0.0] * (new - old))
        self._free.extend(range(new - 1, old - 1, -1))

    def save(self, path: Path) -> None:
        """Write every session, atomically.

        Raises:
            StorageError: the disk is full or not writable.
        """
        self.snapshot()(path)

    def snapshot(self) -> Callable[[Path], None]:
        """Copy every session now; returns what writes the copy, which another thread may do, slow as disks are."""
        rows = np.fromiter(self._rows.values(), np.int64, len(self._rows))
        names = "\n".join(self._rows)  # a name holds no line break: the service refuses it
        memory, used, weights = self._memory[rows], np.array(self._used)[rows], np.array(self.weights)

        def write(path: Path) -> None:
            with atomic_path(path) as part, part.open("wb") as file:
                encoded = np.frombuffer(names.encode(), np.uint8)
                np.savez(file, names=encoded, memory=memory, used=used, weights=weights)

        return write

    def restore(self, path: Path) -> int:
        """Take in what :meth:`save` wrote, but what has expired since.

        Returns:
            How many memories were passed over because other weights made them.

        Raises:
            ArtifactError: the file is damaged or of a policy with another memory.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                names = saved["names"].tobytes().decode().split("\n") if len(saved["names"]) else []
                memory, used = saved["memory"], saved["used"]
                weights = str(saved["weights"]) if "weights" in saved else ""  # until 0.1 nobody asked whose they were
            if weights != self.weights:
                return len(names)
            if memory.shape != (len(names), self.size) or used.shape != (len(names),):
                raise ValueError(f"{len(names)} names, memories {memory.shape}")
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ArtifactError(
                f"{path} does not hold sessions of this policy: {error}.",
                mend="Move the file away; sessions then begin anew.",
            ) from error
        now = self._clock()
        for name, row, at in zip(names, memory, used.tolist(), strict=True):
            if at + self.lifetime_s >= now:
                self.put(name, row)
                self._used[self._rows[name]] = at
        return 0
