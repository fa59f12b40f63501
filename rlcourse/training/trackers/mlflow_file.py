"""Metrics in MLflow's SQLite file; ``mlflow ui --backend-store-uri sqlite:///mlflow.db`` shows it.

That command comes with the package ``mlflow``; to write, ``mlflow-skinny`` is enough.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcourse.errors import StorageError
from rlcourse.training.trackers._shared import closed, flat_settings, missing_extra, prove_writable

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARAMS_AT_ONCE = 100
"""MLflow takes no more in one call."""


class MlflowTracker:
    """One run of one experiment, through a client of its own: MLflow's global state is left as it is.

    A run that is closed while an exception passes is marked FAILED. MLflow stores an infinite value as the largest
    float; NaN it keeps. Its usage reports are switched off, so nothing leaves the machine.

    Raises:
        MissingExtraError: mlflow, sqlalchemy or alembic is not installed.
        StorageError: the file cannot be written, or is not MLflow's.
    """

    def __init__(
        self, path: Path = Path("mlflow.db"), *, experiment: str = "rlcourse", run: str = "run", config: Any = None
    ) -> None:
        """The settings in ``config`` become the run's parameters. Two runs may have the same name."""
        self.path = path = path.absolute()
        prove_writable(path.parent)
        try:
            self._client = _client(f"sqlite:///{path}", path)
        except ImportError as error:
            raise missing_extra("MlflowTracker", error) from error
        from mlflow.entities import Param

        with _refusals(path):
            self.run_id: str = self._client.create_run(self._experiment(experiment), run_name=run).info.run_id
            params = [Param(name, str(value)) for name, value in flat_settings(config).items()]
            for first in range(0, len(params), PARAMS_AT_ONCE):
                self._client.log_batch(self.run_id, params=params[first : first + PARAMS_AT_ONCE])
        self._closed = False

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Write the metrics in one transaction.

        Raises:
            StorageError: the file refused them.
        """
        from mlflow.entities import Metric

        if self._closed:
            raise closed(self.path)
        now_ms = time.time_ns() // 1_000_000
        rows = [Metric(name, float(value), now_ms, step) for name, value in metrics.items()]
        with _refusals(self.path):
            self._client.log_batch(self.run_id, metrics=rows, synchronous=True)

    def close(self) -> None:
        """Mark the run FINISHED, or FAILED.

        Raises:
            StorageError: the file refused it.
        """
        if self._closed:
            return
        self._closed = True
        with _refusals(self.path):
            self._client.set_terminated(self.run_id, "FINISHED" if sys.exception() is None else "FAILED")

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                # Left to itself MLflow would name a folder below wherever Python happens to run.
                return self._client.create_experiment(name, self.path.with_suffix(".artifacts").as_uri())
            except MlflowException:  # another process was faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id


def _client(address: str, path: Path) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    import alembic  # noqa: F401 - MLflow would notice too late that they are missing
    import sqlalchemy  # noqa: F401
    from mlflow import MlflowClient
    from mlflow.telemetry import set_telemetry_client

    set_telemetry_client()  # type: ignore[no-untyped-call]  # ... and here, where it was imported before
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # constructors are silent
    with _refusals(path):
        return MlflowClient(address)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StorageError(
            f"Could not write {path}: {str(error).splitlines()[0]}",
            mend="Check that it is MLflow's file, that its folder may be written to and that the disk has room.",
        ) from error
