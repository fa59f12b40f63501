"""``rlcourse monitor follow``: what a service's decisions led to, for Prometheus, read from its decision log."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated

import tyro

from rlcourse.errors import ConfigError, MissingExtraError
from rlcourse.experience.episodes import Episodes
from rlcourse.monitoring.drift import STEADY_WINDOWS, DriftConfig, DriftMonitor
from rlcourse.monitoring.exposing import Exposed
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import NO_PREFIX, Common, report, say, write_report

try:
    from rlcourse.monitoring.exporter import Exporter, Registry, exposition
    from rlcourse.serving.drifting import read_reference
    from rlcourse.serving.following import LogFollower
    from rlcourse.serving.sidecar import Sidecar, alone, read_saved
    from rlcourse.serving.tracking import WatchConfig
    from rlcourse.serving.watching import LogWatch
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"Following a log needs {error.name}, which is not installed.", mend="pip install 'rlcourse[serve,monitor]'"
    ) from error


@dataclass(frozen=True, kw_only=True)
class Follow(Common):
    """Follow a decision log while it grows, and show what its decisions led to at http://127.0.0.1:PORT/metrics.

    Returns, lengths and success of episodes, actions, rewards that are awaited or never came, drift against a reference;
    costs, safety violations and overrides where rewards name them (cost, violations, executed in POST /v1/rewards);
    for the gate of a release, returns by day and version at /returns. Goes on where it stopped; ends with Ctrl-C or SIGTERM.
    Let Prometheus scrape it beside the service: rlcourse monitor up 127.0.0.1:8080 decisions=127.0.0.1:9108

    Example: rlcourse monitor follow runs/served/decisions --success-return -50 --reference room/healthy-v0
    """

    log: Annotated[Path, tyro.conf.Positional]
    """Folder of the decision log."""
    port: int = 9108
    """On 127.0.0.1; 0 takes a free one and says which."""
    position: Path | None = Path("runs/monitor/follow.json")
    """File that says how far the log was read; None begins with the first line every time."""
    from_now: bool = False
    """Where there is no such file yet, pass over what the log holds already."""
    policy: str | None = None
    """Only the decisions of this policy. By default all."""
    reference: str | None = None
    """Data set, or folder of another decision log, of a plant that was well; without it drift is not checked."""
    root: Path | None = None
    """Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets."""
    num_actions: int | None = None
    """How many actions there are, where they are counted. By default what the reference says, or one more than the largest
    that it took."""
    features: tuple[str, ...] = ()
    """What the entries of an observation are called, in their order, such as inlet_c water_c; drift is shown under these
    names. By default their numbers, from 0."""
    baseline_cost: tuple[str, ...] = ()
    """What the safe baseline costs, as POLICY=EUROS_PER_HOUR; the saved share is shown where rewards say what each decision
    cost, and --step-s how long it lasted. The baseline's own spread is not in the interval."""
    poll_s: float = 0.5
    """Between two looks at the log."""
    watch: Annotated[WatchConfig, NO_PREFIX] = field(default_factory=WatchConfig)
    """What counts, and for how long things are kept."""
    drift: DriftConfig = field(default_factory=DriftConfig)
    """When to check for drift, and how strictly."""

    def __post_init__(self) -> None:
        if not 0.01 <= self.poll_s <= 60.0:
            raise ConfigError(f"A look every {self.poll_s} s.", mend="Use 0.01 to 60 seconds.")
        if len(set(self.features)) < len(self.features):
            raise ConfigError("Two features have the same name.", mend="Give each entry of --features its own.")
        if self.features and self.reference is None:
            raise ConfigError(
                "Features are named, and no drift is checked.", mend="Add --reference, or leave them out."
            )
        if self.baselines and self.watch.step_s is None:
            raise ConfigError(
                "Nobody knows how long a decision lasts.", mend="Say it with --step-s beside --baseline-cost."
            )

    @property
    def baselines(self) -> dict[str, float]:
        """Euros an hour, by policy.

        Raises:
            ConfigError: one is no name and number above 0, or a policy has two.
        """
        found = dict(map(_baseline_cost, self.baseline_cost))
        if len(found) < len(self.baseline_cost):
            raise ConfigError("A policy has two baselines.", mend="Give each policy one.")
        return found


def run(config: Follow) -> int:
    """Follow until told to stop."""
    started = time.perf_counter()
    follower = LogFollower(config.log)
    with _ended_in_order() as stop, nullcontext() if config.position is None else alone(config.position):
        saved = None if config.position is None else read_saved(config.position, config.log)
        registry = Registry()
        watch = LogWatch(
            Exporter(registry),
            config.watch,
            policy=config.policy,
            drift=drift_monitor(config),
            baselines=config.baselines,
        )
        sidecar = Sidecar(follower, watch, config.position, say=say)
        if saved is not None:
            sidecar.resume(saved)
        elif config.from_now:
            follower.skip_to_end()
        shown = {"metrics": b"", "returns": b"{}"}  # as they were when they had been saved

        def show() -> None:
            shown.update(metrics=exposition(registry), returns=sidecar.document())

        documents = {"/returns": lambda: shown["returns"]}
        with Exposed(lambda: shown["metrics"], config.port, documents=documents) as exposed:
            sidecar.round(stop.is_set)
            show()
            say(f"following {config.log}, {'from where it stopped' if saved else 'anew'}; {sidecar.lines} lines so far")
            say(f"ready: http://{exposed.address}/metrics after {time.perf_counter() - started:.2f} s")
            sidecar.run(stop, config.poll_s, show)
    say("stopped")
    content = report(
        "monitor follow",
        config,
        seconds=time.perf_counter() - started,
        results=watch.summary(),
        lines=sidecar.lines,
        unreadable_lines=sidecar.unreadable,
        rewards_without_a_decision=watch.unmatched,
        episodes_crowded_out=watch.crowded_out,
    )
    write_report(config.json, content)
    return 0


def drift_monitor(config: Follow) -> DriftMonitor | None:
    """What mature episodes are compared with.

    Raises:
        DataError: the reference is not there, damaged, or cannot be a reference.
        ConfigError: it is the log itself, it took actions that there are not, the settings allow no alarm, or there are
            more or fewer names than features.
    """
    if config.reference is None:
        return None
    episodes, told = read_reference(config.reference, config.policy, config.root, config.log)
    num_actions = _num_actions(episodes, config.num_actions, told)
    budget = config.drift.budget
    say(
        f"drift: a look after {config.drift.stride_episodes} episodes or more, at most {budget.windows_per_day} a day; "
        f"each at a level of {budget.per_window:g}, for {budget.per_day:g} false alarms a day"
    )
    if num_actions == 0:
        say("drift: actions are continuous; states, actions and rewards are checked, concept drift is not")
    features = episodes.observations.shape[1]
    if config.features and len(config.features) != features:
        raise ConfigError(
            f"{len(config.features)} names for the {features} entries of an observation.",
            mend="Give --features one name for each.",
        )
    monitor = DriftMonitor.fit(
        episodes, num_actions, config.drift, seeds=Seeds(config.seed), names=config.features or None
    )
    wanted = STEADY_WINDOWS * config.drift.window_episodes
    if len(monitor.reference) < wanted:
        say(
            f"drift: the reference has {len(monitor.reference)} episodes beside windows of {config.drift.window_episodes}; one "
            f"that is off by chance raises more alarms than stated, day after day; give {2 * wanted} episodes, of which "
            f"{wanted} are the reference"
        )
    return monitor


def _num_actions(episodes: Episodes, wanted: int | None, told: int | None) -> int:
    """How many actions there are; 0 if they are continuous."""
    if episodes.continuous:
        if wanted is not None:
            raise ConfigError("The reference's actions are continuous.", mend="Leave --num-actions out.")
        return 0
    taken = int(episodes.actions.max()) + 1
    found = wanted or told or taken
    if found < taken:
        raise ConfigError(f"The reference took action {taken - 1}.", mend=f"Use --num-actions {taken} or more.")
    return found


def _baseline_cost(words: str) -> tuple[str, float]:
    policy, _, number = words.rpartition("=")
    try:
        rate = float(number)
    except ValueError:
        rate = math.nan
    if not policy or not 0.0 < rate < math.inf:
        raise ConfigError(f"{words!r} is no baseline.", mend="Use POLICY=EUROS_PER_HOUR, such as rl_policy=1.80.")
    return policy, rate


@contextmanager
def _ended_in_order() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set: what has been read is saved before the end."""
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
