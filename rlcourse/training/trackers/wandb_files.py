"""Metrics in Weights & Biases' files; ``wandb sync wandb/offline-run-*`` sends them later, if you want that."""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlcourse.errors import ConfigError, StorageError
from rlcourse.training.trackers._shared import closed, flat_settings, missing_extra, prove_writable

if TYPE_CHECKING:
    from wandb import Run

WRITTEN_WITHIN_S = 60.0
"""So long W&B's process may take for what is left when a run is closed."""
BLOCK = 32_768
"""Its file is a log of LevelDB's: blocks of so many bytes, and before each piece of a record seven bytes."""


class WandbTracker:
    """One run, in a folder of its own below ``folder/wandb``.

    Offline it needs no account and sends nothing. The step is a metric of that name and the x-axis of all others:
    W&B's own step would silently drop what comes out of order. A run that is closed while an exception passes is
    marked as failed.

    A process of W&B's writes the files and ends with Python. Closing a run asks it for the rest without waiting for it, so
    the tracker waits until the run's last record is in the file. What cannot be written, on a disk that fills up later,
    that process says in its own log alone; here it is noticed when the tracker is closed.

    Raises:
        MissingExtraError: wandb is not installed.
        StorageError: the folder cannot be written to (wandb itself would quietly take another).
        ConfigError: online, and there is no account or no network.
    """

    def __init__(
        self,
        folder: Path = Path(),
        *,
        project: str = "rlcourse",
        run: str = "run",
        config: Any = None,
        mode: Literal["offline", "online"] = "offline",
    ) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its process would report crashes over the network
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("WandbTracker", error) from error
        folder = folder.absolute()
        prove_writable(folder)
        settings = wandb.Settings(
            mode=mode,
            silent=True,
            console="off",
            reinit="create_new",
            disable_code=True,
            disable_git=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )
        try:
            self._run: Run | None = wandb.init(
                project=project, name=run, dir=folder, config=dict(flat_settings(config)), settings=settings
            )
        except wandb.Error as error:
            raise ConfigError(
                f"Weights & Biases refused to start a run: {error}", mend="Run wandb login, or use mode='offline'."
            ) from error
        self.folder = Path(self._run.settings.sync_dir)
        """Where this run's files are."""
        self._file = Path(self._run.settings.sync_file)
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Hand the metrics to W&B's process."""
        if self._run is None:
            raise closed(self.folder)
        self._run.log({"step": step, **{name: float(value) for name, value in metrics.items()}})

    def close(self) -> None:
        """Wait until everything is written.

        Raises:
            StorageError: the end of the run is not in the file after :data:`WRITTEN_WITHIN_S`.
        """
        run, self._run = self._run, None
        if run is None:
            return
        run.finish(exit_code=0 if sys.exception() is None else 1)
        until = time.monotonic() + WRITTEN_WITHIN_S
        while not _ended(self._file):
            if time.monotonic() > until:
                raise StorageError(
                    f"The end of the run is not in {self._file} after {WRITTEN_WITHIN_S:g} s.",
                    mend="See whether the disk is full, and what debug-internal.log beside that file says.",
                )
            time.sleep(0.01)


def _ended(path: Path) -> bool:
    """Whether a run's file holds the record that ends it, one of the last."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # generated code

    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size // BLOCK - 1) * BLOCK
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return False
    return any(Record.FromString(record).HasField("exit") for record in _records(content, skip=7 if start == 0 else 0))


def _records(content: bytes, skip: int) -> Iterator[bytes]:
    """The whole records of a file's last blocks; ``skip``: bytes before the first piece, where the file begins here."""
    position, parts, known = skip, b"", False
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        piece = content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind == 0 or len(piece) < length:  # the rest has not been written yet
            return
        if kind in (1, 2):  # a whole record, or its first piece
            parts, known = b"", True
        parts += piece
        if kind in (1, 4) and known:  # whole, or its last piece
            yield parts
