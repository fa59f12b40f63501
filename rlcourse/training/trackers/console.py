"""Metrics as lines on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from tqdm import tqdm


class ConsoleTracker:
    """One compact line for each call, on standard error, where it does not mix with results."""

    def __init__(self, *, always: bool = False, stream: TextIO | None = None) -> None:
        """Set ``always`` to print also where nobody watches: into a file or a pipe. ``stream`` replaces standard error."""
        self._always = always
        self._stream = stream

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Print one line; a progress bar that is on the screen moves down."""
        stream = self._stream or sys.stderr
        if self._always or stream.isatty():
            numbers = "  ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
            tqdm.write(f"step {step:>9,}  {numbers}", file=stream)
            stream.flush()

    def close(self) -> None:
        """Do nothing; the stream is not ours."""
