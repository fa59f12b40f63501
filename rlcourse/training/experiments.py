"""What can be tuned: something with settings that is run once for each seed and looked at on the way."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from rlcourse.devices import resolve_device, torch_threads
from rlcourse.errors import ConfigError
from rlcourse.randomness import Seeds
from rlcourse.training.online import OnlineSettings, online_settings, train_online
from rlcourse.training.runs import Evaluation, Stop, TrainingRun
from rlcourse.training.search_spaces import Choice, Range, Space, including, search_space, settings_of, with_settings
from rlcourse.training.trackers import tracker_for

LOOKS = 10
"""Evaluations of each run of an :class:`OnlineExperiment`."""


class Experiment(Protocol):
    """One run is a number with noise; tuning sees nothing else of it. Small enough to send to another process."""

    @property
    def space(self) -> Space:
        """What may be changed."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What is used where nobody tunes, under the names of the space."""
        ...

    @property
    def looks(self) -> int:
        """How often a full run calls ``stop``, the end included."""
        ...

    def description(self) -> dict[str, Any]:
        """What makes two studies the same: plain values."""
        ...

    def run(self, values: Mapping[str, Any], seeds: Seeds, stop: Stop) -> TrainingRun:
        """Train once; ``stop`` gets the number of the look, from 1, and the return."""
        ...


@dataclass(frozen=True)
class OnlineExperiment:
    """An algorithm that learns while it acts, in one environment."""

    algorithm: str
    env_id: str
    num_steps: int | None = None
    """Environment steps of each run; by default the algorithm's own number for this environment."""
    device: str = "cpu"
    eval_episodes: int = 50
    """Episodes in each look."""
    tracker: str | None = None
    """Where the metrics of each run go, in words: see :func:`~rlcourse.training.trackers.choosing.tracker_for`."""

    def __post_init__(self) -> None:
        if self.num_steps is not None and self.num_steps < LOOKS:
            raise ConfigError(f"num_steps is {self.num_steps}.", mend=f"Use {LOOKS} or more.")
        self._settings()  # an unknown algorithm or environment is told now

    @property
    def space(self) -> Space:
        """That of the algorithm, wide enough for the settings found for this environment."""
        return including(search_space(self.algorithm), self.defaults)

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The course's own settings for this environment."""
        return settings_of(self._settings(), search_space(self.algorithm))

    @property
    def looks(self) -> int:
        """Always :data:`LOOKS`, evenly spaced."""
        return LOOKS

    def description(self) -> dict[str, Any]:
        """Algorithm, environment and lengths; the device and the tracker are no part of it."""
        return {
            "algorithm": self.algorithm,
            "env": self.env_id,
            "num_steps": self._settings().loop.num_steps,
            "eval_episodes": self.eval_episodes,
        }

    def run(self, values: Mapping[str, Any], seeds: Seeds, stop: Stop) -> TrainingRun:
        """One training run on one thread."""
        settings = with_settings(self._settings(), values)
        every = settings.loop.eval_every

        def looked(step: int, greedy_return: float) -> bool:
            # Rollouts of different lengths end at different steps; the number of the look is what trials share.
            return stop(min(LOOKS, step // every), greedy_return)

        name = run_name(self.algorithm, self.env_id, values, seeds)
        with torch_threads(1), closing(tracker_for(self.tracker, name, config=dict(values))) as tracker:
            run, _ = train_online(
                self.algorithm,
                self.env_id,
                seeds=seeds,
                device=resolve_device(self.device),
                settings=settings,
                tracker=tracker,
                stop=looked,
            )
        return run

    def _settings(self) -> OnlineSettings:
        search_space(self.algorithm)  # before Gymnasium is asked for the environment
        settings = online_settings(self.algorithm, self.env_id)
        num_steps = self.num_steps or settings.loop.num_steps
        lengths = {"num_steps": num_steps, "eval_every": num_steps // LOOKS, "eval_episodes": self.eval_episodes}
        return with_settings(settings, lengths)


def run_name(algorithm: str, env_id: str, values: Mapping[str, Any], seeds: Seeds) -> str:
    """What a run is called where metrics go: ``TASK-ALGORITHM-SETTINGS-SEEDS``, the last two as short hashes.

    The same run has the same name, also after a study has been interrupted.
    """
    settings = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
    return f"{env_id.replace('/', '-')}-{algorithm}-{settings[:8]}-{seeds.seed % 2**32:08x}"


@dataclass(frozen=True)
class NoisyHill:
    """A stand-in whose truth is known: a hill over two settings, and normal noise on every run.

    The best settings are a learning rate of 0.001 and a size of 64, worth ``height``; a learning rate ten times off
    costs 40, and a size off by a factor of two costs 5. Curves rise in a straight line to what a run will be worth.
    """

    noise: float = 10.0
    """Standard deviation between seeds."""
    height: float = 100.0
    pause_s: float = 0.0
    """How long each look takes."""
    looks: int = 5

    @property
    def space(self) -> Space:
        """A rate over four powers of ten, and five sizes."""
        return {"learning_rate": Range(1e-5, 1e-1, log=True), "size": Choice((16, 32, 64, 128, 256))}

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Close to the top, worth ``height`` - 15."""
        return {"learning_rate": 10**-2.75, "size": 128}

    def description(self) -> dict[str, Any]:
        """All that the numbers depend on."""
        return {"hill": self.height, "noise": self.noise, "looks": self.looks}

    def truth(self, values: Mapping[str, Any]) -> float:
        """What settings are worth without the noise."""
        return (
            self.height
            - 40.0 * abs(math.log10(values["learning_rate"] / 1e-3))
            - 5.0 * abs(math.log2(values["size"] / 64))
        )

    def run(self, values: Mapping[str, Any], seeds: Seeds, stop: Stop) -> TrainingRun:
        """The truth plus one draw."""
        # The settings name the stream: two trials with the same seeds still have noise of their own, as in training.
        worth = self.truth(values) + self.noise * float(seeds.numpy(f"noise of {sorted(values.items())}").normal())
        run = TrainingRun()
        for look in range(1, self.looks + 1):
            time.sleep(self.pause_s)
            run.evaluations.append(Evaluation(look, worth * look / self.looks, self.pause_s * look, 0.0))
            if stop(look, run.last):
                break
        return run
