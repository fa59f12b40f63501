"""From words on the command line to a tracker.

===================  =============================================================================
``null``             nowhere
``console``          standard error, if that is a terminal; ``console:always`` whatever it is
``csv:FILE``         a CSV file; one that is there is continued
``tensorboard:DIR``  event files in a folder
``mlflow:FILE``      MLflow's SQLite file, by default ``mlflow.db``; it holds many runs
``wandb:DIR``        a folder ``wandb`` in this one, by default here; it holds many runs
``prometheus:PORT``  a port of this machine, for Prometheus to scrape while the run lasts
``prometheus:FILE``  a file, FILE.prom, for the textfile collector of node_exporter
===================  =============================================================================

In the words of a command ``{run}`` stands for the name of a run: a command with many runs gives each its own place.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlcourse.errors import ConfigError
from rlcourse.training.trackers.console import ConsoleTracker
from rlcourse.training.trackers.csv_file import CsvTracker
from rlcourse.training.trackers.mlflow_file import MlflowTracker
from rlcourse.training.trackers.prometheus_metrics import PrometheusTracker
from rlcourse.training.trackers.tensorboard_files import TensorBoardTracker
from rlcourse.training.trackers.wandb_files import WandbTracker
from rlcourse.vocabulary import NullTracker, Tracker

ONE_RUN_EACH = ("csv", "tensorboard", "prometheus")
"""Places that hold one run."""


class MultiTracker:
    """Gives everything to several trackers, in their order."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log to each; the first that raises ends it."""
        for tracker in self.trackers:
            tracker.log(metrics, step=step)

    def close(self) -> None:
        """Close all of them, also if one of them raises."""
        with ExitStack() as closing:
            for tracker in reversed(self.trackers):
                closing.callback(tracker.close)


def make_tracker(
    words: str | Sequence[str],
    *,
    experiment: str = "rlcourse",
    run: str = "run",
    config: Any = None,
    threshold: float | None = None,
) -> Tracker:
    """The tracker that ``words`` ask for.

    Args:
        words: for example ``"csv:runs/one.csv"``; several joined by commas, or a sequence of them, whose paths may then
            hold commas.
        experiment: MLflow's experiment, W&B's project.
        run: the run's name in both, and its label for Prometheus.
        config: a dataclass (or mapping) of settings to keep beside the metrics, where the library has a place for them.
        threshold: the wanted return, of which Prometheus is told when it was reached.

    Raises:
        ConfigError: a word is not in the table of this module.
        MissingExtraError: a library is not installed.
        StorageError: there is no writing there.
        ServerError: the port is taken.
    """
    parts = [part.strip() for part in words.split(",")] if isinstance(words, str) else list(words)
    with ExitStack() as on_failure:
        trackers: list[Tracker] = []
        for part in parts:
            trackers.append(_one(part, experiment, run, config, threshold))
            on_failure.callback(trackers[-1].close)
        on_failure.pop_all()
    return trackers[0] if len(trackers) == 1 else MultiTracker(trackers)


def tracker_for(words: str | None, run: str, *, config: Any = None, threshold: float | None = None) -> Tracker:
    """The tracker of one run among those of a command; ``None`` is none.

    Raises:
        RLCourseError: see :func:`make_tracker`.
    """
    return make_tracker((words or "null").replace("{run}", run), run=run, config=config, threshold=threshold)


def check_places(words: str | None, *, side_by_side: str | None) -> None:
    """Whether the words of a command with many runs give each a place of its own; before any work.

    Args:
        words: as :func:`tracker_for` takes them.
        side_by_side: what to do so that runs follow each other; ``None`` where they do.

    Raises:
        ConfigError: two runs would share a file, or a port.
    """
    for word in (words or "").split(","):
        kind, _, where = word.strip().partition(":")
        if kind == "prometheus" and where.isdecimal():
            if side_by_side is not None:
                raise ConfigError(f"{word!r} is one port, and runs go side by side.", mend=side_by_side)
        elif kind in ONE_RUN_EACH and "{run}" not in word:
            place = f"{word.removesuffix('.prom')}/{{run}}{'.prom' if kind == 'prometheus' else ''}"
            raise ConfigError(f"{word!r} holds one run, and there are many.", mend=f"Write {place}.")


def _one(word: str, experiment: str, run: str, config: Any, threshold: float | None) -> Tracker:
    kind, _, where = word.partition(":")
    makers: dict[str, Callable[[], Tracker]] = {
        "null": NullTracker,
        "console": lambda: ConsoleTracker(always=where == "always"),
        "csv": lambda: CsvTracker(Path(where)),
        "tensorboard": lambda: TensorBoardTracker(Path(where), config=config),
        "mlflow": lambda: MlflowTracker(Path(where or "mlflow.db"), experiment=experiment, run=run, config=config),
        "wandb": lambda: WandbTracker(Path(where), project=experiment, run=run, config=config),
        "prometheus": lambda: PrometheusTracker(
            int(where) if where.isdecimal() else Path(where), run=run, threshold=threshold
        ),
    }
    if kind not in makers:
        near = difflib.get_close_matches(kind, makers, n=1)
        meant = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(makers)}."
        raise ConfigError(f"There is no tracker called {kind!r}.", mend=meant)
    if kind in ("csv", "tensorboard", "prometheus") and not where:
        more = " or prometheus:PORT" if kind == "prometheus" else ""
        raise ConfigError(f"{kind} holds one run and must be told where.", mend=f"Write {kind}:PATH{more}.")
    if (kind == "null" and where) or (kind == "console" and where not in ("", "always")):
        raise ConfigError(f"{kind} takes no place such as {where!r}.", mend=f"Write {kind} alone.")
    if "://" in where:
        raise ConfigError(f"{where!r} is an address, and trackers write files.", mend=f"Write {kind}:PATH.")
    return makers[kind]()
