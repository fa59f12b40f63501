"""One seed, many independent streams. The only place in the package that seeds anything.

A run is given one integer.  Everything random in it draws from a stream that is named after its purpose, so adding
a new consumer never shifts the numbers an old one sees, and two environments never share a first state by accident::

    seeds = Seeds(7)
    generator = seeds.torch("batches")       # independent of ...
    initial   = seeds.torch("environment")   # ... this one
    rng       = seeds.numpy("bootstrap")
    worker    = seeds.child("worker", 3)     # a whole family for a subprocess

Seed 0 is a seed like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from rlcourse.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Seeds:
    """A family of named, independent random streams that all follow from one integer."""

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**63:
            raise ConfigError(f"The seed {seed} is out of range.", mend="Use a whole number from 0 to 2**63 - 1.")
        self.seed = seed

    def integer(self, purpose: str, index: int = 0) -> int:
        """A 63-bit seed for ``purpose``; for libraries that want a bare integer."""
        # A hash, not seed + index: run 0's stream 1 must not be run 1's stream 0.
        digest = hashlib.blake2b(f"{self.seed}/{purpose}/{index}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    def numpy(self, purpose: str, index: int = 0) -> np.random.Generator:
        """A NumPy generator for ``purpose``."""
        return np.random.default_rng(self.integer(purpose, index))

    def torch(self, purpose: str, device: torch.device | str = "cpu", index: int = 0) -> torch.Generator:
        """A torch generator for ``purpose`` that lives on ``device``."""
        import torch  # here, so that a process that serves in NumPy need not load it: two seconds and 200 MB

        generator = torch.Generator(device=device)
        generator.manual_seed(self.integer(purpose, index))
        return generator

    def child(self, purpose: str, index: int = 0) -> Seeds:
        """A new family, for a worker or a trial."""
        return Seeds(self.integer(purpose, index))

    @contextmanager
    def initialising(self, purpose: str, index: int = 0) -> Iterator[None]:
        """Run a block with torch's global stream set from ``purpose``, then put the stream back.

        ``torch.nn`` layers draw their first weights from the global stream and take no generator; this is the
        only way to seed them without disturbing anybody else.
        """
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(self.integer(purpose, index))
            yield
