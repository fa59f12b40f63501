"""Metrics in Weights & Biases' files; ``wandb sync wandb/offline-run-*`` sends them later, if you want that."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlcourse.errors import ConfigError
from rlcourse.training.trackers._shared import closed, flat_settings, missing_extra, prove_writable

if TYPE_CHECKING:
    from wandb import Run


class WandbTracker:
    """One run, in a folder of its own below ``folder/wandb``.

    Offline it needs no account and sends nothing. The step is a metric of that name and the x-axis of all others:
    W&B's own step would silently drop what comes out of order. A run that is closed while an exception passes is
    marked as failed.

    A process of W&B's writes the files, at the latest when the tracker is closed, and ends with Python. What it cannot
    write, on a disk that fills up later, it says in its own log alone.

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
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Hand the metrics to W&B's process."""
        if self._run is None:
            raise closed(self.folder)
        self._run.log({"step": step, **{name: float(value) for name, value in metrics.items()}})

    def close(self) -> None:
        """Wait until everything is written."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=0 if sys.exception() is None else 1)
