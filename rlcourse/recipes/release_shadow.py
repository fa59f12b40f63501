"""``rlcourse release shadow``: what a shadow would have done, from the decision log of the service that mirrored to it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlcourse.errors import ConfigError, MissingExtraError
from rlcourse.recipes.common import Common, report, show_result, table, write_report
from rlcourse.release.shadow import ShadowReport, judge_shadow

try:
    from rlcourse.serving.mirrored import report_of
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"Reading a decision log needs {error.name}, which is not installed.", mend="pip install 'rlcourse[serve]'"
    ) from error


@dataclass(frozen=True, kw_only=True)
class Shadow(Common):
    """Show how often a shadow agreed, failed or was late, and what its choices would have earned. Exit status 1 if it may not
    go on.

    Example: rlcourse release shadow runs/served/decisions --candidate v2 --agreement 0.8
    """

    log: Annotated[Path, tyro.conf.Positional]
    """Folder of the decision log."""
    candidate: str
    """Version of the shadow."""
    policy: str = "rl_policy"
    """Its name in the service."""
    promised_ms: float = 50.0
    """A slower answer is late."""
    requests: int = 1_000
    """Fewer mirrored requests say nothing yet."""
    agreement: float = 0.0
    """Least share of equal answers; low for a policy that is meant to differ."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.agreement <= 1.0 or self.requests < 1 or not self.promised_ms > 0.0:
            raise ConfigError(
                "A shadow that cannot be judged.",
                mend="Use an agreement from 0 to 1, 1 request or more, and milliseconds above 0.",
            )


def run(config: Shadow) -> int:
    """Read, count, judge."""
    started = time.perf_counter()
    found = report_of(config.log, config.candidate, policy=config.policy, promised_ms=config.promised_ms)
    answer = judge_shadow(found, requests=config.requests, agreement=config.agreement)
    lines = [table(["", config.candidate], _rows(found)), ""]
    if found.changes:
        most = sorted(found.changes.items(), key=lambda one: -one[1])[:10]
        lines += [table(["instead of", "times"], [[name, str(count)] for name, count in most]), ""]
    lines += [f"shadow: {answer.answer.replace('_', ' ')}", *(f"  {one.text}" for one in answer.reasons)]
    show_result("\n".join(lines), config.json)
    content = report(
        "release shadow", config, seconds=time.perf_counter() - started, shadow=found, judged=answer.to_json()
    )
    write_report(config.json, content)
    return 1 if answer.answer == "roll_back" else 0


def _rows(found: ShadowReport) -> list[list[str]]:
    def known(value: float | None) -> str:
        return "not known" if value is None else f"{value:.3f}"

    return [
        ["requests mirrored", f"{found.requests:,}"],
        ["failed", str(found.failed)],
        ["late", str(found.late)],
        ["same action", f"{found.agreement:.1%}"],
        ["rewards known", f"{found.rewarded:,}"],
        ["reward of a step, as earned", known(found.logged_reward)],
        ["reward of a step, had it acted", known(found.counterfactual_reward)],
        ["... which is worth so many steps", f"{found.worth:.1f}"],
    ]
