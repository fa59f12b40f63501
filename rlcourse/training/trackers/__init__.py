"""Where metrics go: the console, a CSV file, TensorBoard, MLflow, Weights & Biases, Prometheus, or several of them.

::

    with contextlib.closing(make_tracker("console,csv:runs/one.csv")) as tracker:
        train_off_policy(learner, env, config, seeds=seeds, tracker=tracker)

Each library is imported in one file, and only when its tracker is made. Nothing here uses the network unless
``WandbTracker(mode="online")`` is asked for by name; for Prometheus a port of this machine is opened, or a file written. The
names of the metrics are in :mod:`rlcourse.training.metrics`.
"""

from __future__ import annotations

from rlcourse.training.trackers.choosing import MultiTracker, check_places, make_tracker, tracker_for
from rlcourse.training.trackers.console import ConsoleTracker
from rlcourse.training.trackers.csv_file import CsvTracker
from rlcourse.training.trackers.mlflow_file import MlflowTracker
from rlcourse.training.trackers.prometheus_metrics import PrometheusTracker
from rlcourse.training.trackers.tensorboard_files import TensorBoardTracker
from rlcourse.training.trackers.wandb_files import WandbTracker

__all__ = [
    "ConsoleTracker",
    "CsvTracker",
    "MlflowTracker",
    "MultiTracker",
    "PrometheusTracker",
    "TensorBoardTracker",
    "WandbTracker",
    "check_places",
    "make_tracker",
    "tracker_for",
]
