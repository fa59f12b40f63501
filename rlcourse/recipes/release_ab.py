"""``rlcourse release ab``: one log read twice, by a test that is read once and by an interval that may be looked at daily."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.recipes.common import Common, report, show_result, table, write_report
from rlcourse.release.adapters.returns import ask
from rlcourse.release.adjusting import spread
from rlcourse.release.evidence import evidence_from_json, read_object
from rlcourse.release.gates import GateConfig, read
from rlcourse.release.matching import Tally, Variation, matched
from rlcourse.release.power import always_valid_information, fixed_information
from rlcourse.release.stages import fixed_horizon


@dataclass(frozen=True, kw_only=True)
class Ab(Common):
    """Compare two versions by their returns, day by day: the fixed-horizon test, and the interval that always holds.

    The test says nothing before its planned episodes are there, and its first word is its last. The interval is wider and
    may be looked at on every day.

    Example: rlcourse release ab runs/r7/evidence.json --effect 2.2

    Example: rlcourse release ab --monitor http://127.0.0.1:9108 --candidate v2 --incumbent v1 --effect 2.2
    """

    evidence: Annotated[Path | None, tyro.conf.Positional] = None
    """A file of evidence, with the episodes of both."""
    monitor: str | None = None
    """Address of rlcourse monitor follow, in place of a file; with --candidate and --incumbent."""
    policy: str = "rl_policy"
    """Name of the policy, for --monitor."""
    candidate: str | None = None
    """Version that wants to be live."""
    incumbent: str | None = None
    """Version that is."""
    effect: float
    """Difference of mean returns that has to be found; the test is planned for it, and the interval tuned to it."""
    sd: float | None = None
    """Of an episode's return; by default as the incumbent's days show."""
    alpha: float = 0.05
    """Chance of finding a difference where there is none."""
    power: float = 0.9
    """Chance that the test finds the effect."""

    def __post_init__(self) -> None:
        if (self.evidence is None) == (self.monitor is None):
            raise ConfigError("Name one log.", mend="Give a file of evidence, or --monitor.")
        if self.monitor is not None and not (self.candidate and self.incumbent):
            raise ConfigError("Whom should the monitor compare?", mend="Name --candidate and --incumbent.")


def run(config: Ab) -> int:
    """Read the log, day by day."""
    started = time.perf_counter()
    tally = _tally(config)
    sd = config.sd if config.sd is not None else spread(tally)
    if sd is None or not sd > 0.0:
        raise DatasetInvalidError("The spread of the returns is not known yet.", mend="Name it with --sd, or wait.")
    variation = Variation(sd, sd)
    planned = fixed_information(config.effect, alpha=config.alpha, power=config.power)
    tuned = always_valid_information(config.effect, alpha=config.alpha, power=config.power)
    gate = GateConfig(alpha=config.alpha, tuned_at=tuned)
    results: list[dict[str, Any]] = []
    once: str | None = None
    for day in range(1, tally.episodes.shape[0] + 1):
        contrast = matched(Tally(*(part[:day] for part in tally)), variation)
        reading = read(contrast, 0.0, gate)
        once = once or fixed_horizon(contrast, planned, alpha=config.alpha)
        results.append(
            {
                "day": day,
                "episodes": float(contrast.episodes),
                "estimate": float(contrast.estimate),
                "information": float(contrast.information),
                "fixed": once or "not yet",
                "low": float(reading.low),
                "high": float(reading.high),
                "always_valid": "harm" if reading.harm else "gain" if reading.gain else "not yet",
            }
        )
    header = ["day", "candidate's episodes", "difference", "read once", "interval that always holds", "looked at daily"]
    rows = [
        [
            str(one["day"]),
            f"{one['episodes']:.0f}",
            f"{one['estimate']:+.2f}",
            one["fixed"],
            f"{one['low']:+.2f} to {one['high']:+.2f}",
            one["always_valid"],
        ]
        for one in results
    ]
    said = f"The test is read at {planned:.2f} of information; spread {sd:.3g}."
    show_result(f"{table(header, rows)}\n\n{said}", config.json)
    content = report(
        "release ab", config, seconds=time.perf_counter() - started, results=results, planned=planned, sd=sd
    )
    write_report(config.json, content)
    return 0


def _tally(config: Ab) -> Tally:
    if config.monitor is not None:
        found = ask(config.monitor, config.policy, [str(config.incumbent), str(config.candidate)])
        tally = found.on(found.days.argsort()).tally
    else:
        assert config.evidence is not None  # else refused
        said = evidence_from_json(read_object(config.evidence)).tally
        if said is None:
            raise DatasetInvalidError(f"{config.evidence} holds no episodes.", mend="See evidence_from_json.")
        tally = said
    if not (tally.episodes > 0.0).all(axis=-1).any():
        raise DatasetInvalidError("On no day did both versions run.", mend="Compare two that ran side by side.")
    return tally
