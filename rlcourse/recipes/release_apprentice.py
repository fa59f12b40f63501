"""``rlcourse release apprentice``: the actions that wait for a person, and the autonomy that followed from the answers."""

from __future__ import annotations

import getpass
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rlcourse.errors import ConfigError
from rlcourse.recipes.common import NO_PREFIX, Common, report, show_result, table, write_report
from rlcourse.release.apprentice import ApprenticeConfig, Said
from rlcourse.release.audit import AuditEntry
from rlcourse.release.proposals import ProposalQueue, Standing


@dataclass(frozen=True, kw_only=True)
class Tell(Common):
    """Show what waits for a person, and how far a policy has come from imitating to acting alone. With --what, --propose or
    --answer, write something down first.

    Every call settles what nobody answered in time. The folder keeps all of it, sealed line by line (answers.jsonl), and where
    the apprentice stands follows from that.

    Example: rlcourse release apprentice runs/a1 --propose night-7 2

    Example: rlcourse release apprentice runs/a1 --answer night-7 veto --why "the door was open"

    Example: rlcourse release apprentice runs/a1 --what vetoed --why "the door was open"
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Of the apprenticeship; made by the first --what."""
    what: Said | None = None
    """Of an action that did not wait here, as while the policy imitates: approved, vetoed or overridden by a person; expired
    without an answer; violated: something unsafe happened."""
    propose: tuple[str, int] | None = None
    """An id of your choice, and the action that is to wait for a person, as long as --deadline-s says."""
    answer: tuple[str, Literal["approve", "veto"]] | None = None
    """The id of what waits, and what you say to it. A veto does the safe action, or --instead."""
    instead: int | None = None
    """--answer ID veto: do this action."""
    who: str = field(default_factory=getpass.getuser)
    """Who says so, or proposes."""
    why: str = ""
    """The reason; a veto, an override and a violation need one."""
    demands: Annotated[ApprenticeConfig, NO_PREFIX] = field(default_factory=ApprenticeConfig)
    """What has to be shown. Later calls go by those of the first."""

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.what, self.propose, self.answer)) > 1:
            raise ConfigError("Several things at once.", mend="Use one of --what, --propose and --answer in a call.")
        vetoes = self.answer is not None and self.answer[1] == "veto"
        if self.instead is not None and not vetoes:
            raise ConfigError("Instead of what?", mend="Use --instead with --answer ID veto.")
        if (vetoes or self.what in ("vetoed", "overridden", "violated")) and not self.why:
            said = "A veto" if vetoes else self.what
            raise ConfigError(f"{said}, and no reason.", mend="Name it with --why: somebody will want to learn.")


def run(config: Tell) -> int:
    """Write down, settle, show."""
    started = time.perf_counter()
    queue = ProposalQueue(config.folder, clock=time.time)
    if config.what is not None:
        standing = queue.tell(config.what, who=config.who, why=config.why, demands=config.demands)
    elif config.propose is not None:
        standing = queue.propose(*config.propose, who=config.who)
    elif config.answer is not None:
        id, said = config.answer
        standing = queue.answer(id, agrees=said == "approve", who=config.who, why=config.why, instead=config.instead)
    else:
        standing = queue.look()
    state, now_s = standing.apprentice, time.time()
    show_result(readable(standing, now_s), config.json)
    content = report(
        "release apprentice",
        config,
        seconds=time.perf_counter() - started,
        results=[_plain(one) for one in standing.entries[1:]],
        waiting=[{"id": one.id, "action": one.action, "deadline_s": one.deadline_s} for one in state.waiting.values()],
        settled=[{"id": one.id, "action": one.action, "how": one.how} for one in standing.settled],
        level=state.level,
        accepted=state.accepted,
        refused=state.refused,
    )
    write_report(config.json, content)
    return 0


def readable(standing: Standing, now_s: float) -> str:
    """Where an apprentice is, for people."""
    state = standing.apprentice
    answers = [one for one in standing.entries[1:] if one.what != "proposed"]
    counts = f"{state.accepted} accepted and {state.refused} refused at this level, {len(answers)} answers in all"
    lines = [f"{state.level}: {counts}"]
    if state.waiting:
        means = {True: "it is done", False: "the safe action is done"}
        rows = [
            [one.id, str(one.action), f"{max(one.deadline_s - now_s, 0.0):.0f} s", means[state.consents(one)]]
            for one in state.waiting.values()
        ]
        lines += ["", table(["waits", "action", "for", "without an answer"], rows)]
    rows = []
    for number in range(1, len(standing.entries)):
        one, before, then = standing.entries[number], standing.levels[number - 1], standing.levels[number]
        if then != before or number >= len(standing.entries) - 5:
            rows.append([str(number), one.what, *(_of(one)), one.who, one.why, then])
    return "\n".join([*lines, "", table(["line", "what", "id", "action", "who", "why", "then"], rows)])


def _of(entry: AuditEntry) -> tuple[str, str]:
    return str(entry.data.get("proposal", "")), str(entry.data.get("action", ""))


def _plain(entry: AuditEntry) -> dict[str, Any]:
    return {"at_s": entry.at_s, "what": entry.what, "who": entry.who, "why": entry.why, **entry.data}
