"""Metrics as TensorBoard's event files; ``tensorboard --logdir runs`` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcourse.files import storage_errors
from rlcourse.training.trackers._shared import closed, flat_settings, missing_extra, prove_writable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """One scalar for each metric, one folder for each run.

    A run that goes on in the same folder adds a file; TensorBoard draws them as one.

    Raises:
        MissingExtraError: tensorboard is not installed.
        StorageError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, *, config: Any = None) -> None:
        """The settings in ``config`` appear under TEXT."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("TensorBoardTracker", error) from error
        self.folder = folder
        prove_writable(folder)
        with storage_errors(folder):
            self._writer: SummaryWriter | None = SummaryWriter(str(folder))
            settings = flat_settings(config)
            if settings:
                rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
                self._writer.add_text("config", f"| setting | value |\n| --- | --- |\n{rows}")
                self._writer.flush()

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Write the scalars and flush, so that a browser beside the run sees them.

        Raises:
            StorageError: they could not be written.
        """
        if self._writer is None:
            raise closed(self.folder)
        with storage_errors(self.folder):
            for name, value in metrics.items():
                self._writer.add_scalar(name, float(value), step)
            self._writer.flush()

    def close(self) -> None:
        """Close the event file.

        Raises:
            StorageError: the last events could not be written.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            with storage_errors(self.folder):
                writer.close()
