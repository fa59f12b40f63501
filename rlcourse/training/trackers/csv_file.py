"""Metrics as a CSV file that any program reads, at any moment.

::

    step,eval/greedy_return,loss/td_loss
    5000,21.5,                              blank: not logged at this step
    10000,198.25,nan                        nan: logged, and not a number
"""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from rlcourse.errors import ConfigError
from rlcourse.files import storage_errors, write_text
from rlcourse.training.trackers._shared import closed


class CsvTracker:
    """One row for each call, in the order of the calls.

    A row reaches the file whole, in one write, and a name that appears later adds a column by replacing the file, so a
    reader never meets half of anything. A file that is there already is continued: a run that goes on from its
    checkpoint may log a step again, and then the later row counts.

    Raises:
        ConfigError: the file is something else than a table of metrics.
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closed = False
        with storage_errors(path):
            old = path.read_bytes() if path.exists() else b""
        if not old:
            self._columns = ["step"]
            write_text(path, _lines([self._columns]))
            return
        self._columns = self._header(old)
        whole = old.rfind(b"\n") + 1
        if whole < len(old):  # power failed in the middle of the last row
            with storage_errors(path):
                os.truncate(path, whole)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append one row. Numbers are written so that they come back exactly.

        Raises:
            StorageError: the row could not be written; the rows before it are untouched.
        """
        if self._closed:
            raise closed(self.path)
        new = [name for name in metrics if name not in self._columns]
        if new:
            self._widen([*self._columns, *new])
        row = [str(step), *(repr(float(metrics[name])) if name in metrics else "" for name in self._columns[1:])]
        with storage_errors(self.path):
            self._append(_lines([row]).encode())

    def close(self) -> None:
        """Do nothing but refuse further rows; every row is in the file already."""
        self._closed = True

    def _header(self, content: bytes) -> list[str]:
        first, end, _ = content.partition(b"\n")
        columns = next(csv.reader([first.decode("utf-8", errors="replace")]), [])
        if not end or columns[:1] != ["step"]:
            raise ConfigError(f"{self.path} is not a table of metrics.", mend="Name another file; this one is kept.")
        return columns

    def _widen(self, columns: list[str]) -> None:
        with storage_errors(self.path):
            text = self.path.read_text(encoding="utf-8")
        rows = list(csv.reader(io.StringIO(text)))[1:]
        write_text(self.path, _lines([columns, *(row + [""] * (len(columns) - len(row)) for row in rows)]))
        self._columns = columns

    def _append(self, line: bytes) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)  # a file that was taken away is not made again
        try:
            before = os.fstat(file).st_size
            if os.write(file, line) < len(line):
                os.ftruncate(file, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)


def _lines(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
