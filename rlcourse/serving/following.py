"""Reads a decision log while it grows, and remembers how far.

::

    decisions/
    ├── 17958…-00000.jsonl   read to its end; its run went on in 00001, so it will not grow again
    ├── 17958…-00001.jsonl   ├── read ──────┤── new lines ──┤─ torn
    └── 17959…-00000.jsonl   another run: a process that was started later, or beside the first one

A *run* is one process that writes; its files follow each other. So a position is one file and one offset for every run,
however many files there are. A last line without its line break is left alone until the rest has come; if its writer was
killed, that is never.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rlcourse.errors import ConfigError, DatasetNotFoundError
from rlcourse.serving import wire

Line = wire.DecisionLine | wire.RewardLine
Position = dict[str, tuple[int, int]]
"""By run: the number of its file, and how many bytes of it have been read."""
ABREAST = 4
"""So many runs are read side by side, in the order of their lines."""


@dataclass(frozen=True)
class Piece:
    """Some lines of one file, in their order."""

    lines: tuple[Line, ...]
    unreadable: int
    """Whole lines that are none of a decision log."""
    run: str
    number: int
    end: int
    """Where the next piece of that file begins."""


class LogFollower:
    """Pieces of a log, each given once.

    Args:
        folder: of the log; there need not be a file in it yet.
        position: where to go on; ``None`` begins with the first line that there is.
        piece_bytes: read at once, and so what is held in memory. A longer line is read whole.

    Raises:
        DatasetNotFoundError: no such folder.
        ConfigError: pieces of nothing.
    """

    def __init__(
        self, folder: Path, position: Mapping[str, tuple[int, int]] | None = None, *, piece_bytes: int = 2**18
    ):
        if not folder.is_dir():
            raise DatasetNotFoundError(
                f"There is no folder {folder}.", mend="Name the folder that the service writes to: STATE/decisions."
            )
        if piece_bytes < 1:
            raise ConfigError(f"Pieces of {piece_bytes} bytes.", mend="Use 1 or more.")
        self.folder, self._piece_bytes = folder, piece_bytes
        self.position: Position = dict(position or {})
        self._ahead: dict[str, Piece] = {}

    def next_piece(self, *, until: Mapping[str, tuple[int, int]] | None = None) -> Piece | None:
        """The next lines, or ``None`` while there are none. The same ones again until :meth:`done` has been said.

        Of runs that overlap in time, the one whose next line is the oldest comes first.

        Args:
            until: read no further than this position.

        Raises:
            DatasetNotFoundError: the folder is gone.
        """
        for run, files in self._runs().items():
            if len(self._ahead) >= ABREAST:
                break
            if run not in self._ahead and (piece := self._next_of(run, files, until)) is not None:
                self._ahead[run] = piece
        if not self._ahead:
            return None
        return min(self._ahead.values(), key=lambda piece: piece.lines[0].time if piece.lines else 0.0)

    def done(self, piece: Piece) -> None:
        """Go on behind it the next time."""
        self._ahead.pop(piece.run, None)
        self.position[piece.run] = (piece.number, piece.end)

    def skip_to_end(self) -> None:
        """Pass over everything that is there now."""
        for run, files in self._runs().items():
            number = max(files)
            with files[number].open("rb") as file:
                self.position[run] = (number, _last_break(file))

    def prune(self) -> None:
        """Forget the runs whose files have been deleted."""
        runs = self._runs()
        self.position = {run: place for run, place in self.position.items() if run in runs}

    def _next_of(
        self, run: str, files: Mapping[int, Path], until: Mapping[str, tuple[int, int]] | None
    ) -> Piece | None:
        number, offset = self.position.get(run, (-1, 0))
        for count, path in sorted(files.items()):
            start, stop = offset if count == number else 0, _stop(until, run, count)
            if count < number or (stop is not None and start >= stop):
                continue
            found = self._read(path, start, stop)
            if found is not None:
                lines, unreadable, end = found
                return Piece(lines, unreadable, run, count, end)
        return None

    def _runs(self) -> dict[str, dict[int, Path]]:
        runs: dict[str, dict[int, Path]] = {}
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".jsonl"))
        except OSError as error:
            raise DatasetNotFoundError(
                f"{self.folder} cannot be read any more.", mend="Bring the folder back, or follow another."
            ) from error
        for name in names:
            run, sign, count = name.removesuffix(".jsonl").rpartition("-")
            known = bool(sign) and count.isdecimal()
            runs.setdefault(run if known else name, {})[int(count) if known else 0] = self.folder / name
        return runs

    def _read(self, path: Path, start: int, stop: int | None) -> tuple[tuple[Line, ...], int, int] | None:
        try:
            with path.open("rb") as file:
                # Shorter than what was read: the disk was full, and the writer took its last lines back. It writes the same
                # ones again at the same place.
                file.seek(start)
                data = file.read(self._piece_bytes)
                if data and b"\n" not in data:
                    data += file.readline()
        except FileNotFoundError:  # deleted since the folder was listed
            return None
        if stop is not None:
            data = data[: stop - start]
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return None
        lines, unreadable = [], 0
        for line in whole.split(b"\n")[:-1]:
            try:
                found = wire.read_any_line(line)
            except ValueError:
                unreadable += 1
            else:
                if not isinstance(found, wire.ShadowLine):  # it decided nothing
                    lines.append(found)
        return tuple(lines), unreadable, start + len(whole)


def _stop(until: Mapping[str, tuple[int, int]] | None, run: str, number: int) -> int | None:
    if until is None:
        return None
    last, offset = until.get(run, (-1, 0))
    if number < last:
        return None
    return offset if number == last else 0


def _last_break(file: BinaryIO) -> int:
    """Behind the last line break."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 2**16)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
