"""The override queue on the disk: what an apprentice proposes waits there for a person.

One folder::

    answers.jsonl   what has to be shown, then every proposal and what became of it, sealed line by line
                    (:mod:`rlcourse.release.audit`)
    head.json       the last hash that is known to be in there, so that lines which were cut off are missed
    lock            held while somebody writes

Where the apprentice stands is written nowhere: it follows from the log. No process waits for a deadline,
either. Every call first settles what nobody answered in time; so whoever carries the actions out calls when a deadline has
passed, and reads what is to be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlcourse.errors import ConfigError, DatasetCorruptError
from rlcourse.files import write_json
from rlcourse.release.apprentice import Apprentice, ApprenticeConfig, Level, Line, Said, Settlement, after, replay
from rlcourse.release.audit import AuditEntry, append_audit, read_audit
from rlcourse.release.evidence import read_object
from rlcourse.release.state import locked

ASKED_AT_ONCE = 5
"""Proposals that wait for people at the same time, of those that come from a log: nobody reads the forty-first."""
HEARD_AT_ONCE = 200
"""Imitations that one call compares: each is written down and sealed."""


class Heard(NamedTuple):
    """What an apprentice said to a request that somebody else decided."""

    id: str
    action: int
    """Its own."""
    done: int
    """What was carried out."""


@dataclass(frozen=True)
class Standing:
    """Where an apprentice is, and how it came there."""

    apprentice: Apprentice
    entries: tuple[AuditEntry, ...]
    """The first holds the demands."""
    levels: tuple[Level, ...]
    """After each entry."""
    settled: tuple[Settlement, ...] = ()
    """By this call: these actions are to be done now."""


class ProposalQueue:
    """Proposals and answers of one apprentice. Any number of processes may open the same folder; one at a time writes.

    Every method raises ``ConfigError`` where no apprentice began, ``DatasetCorruptError`` where the folder holds something
    else than was written, and ``StorageError`` where it cannot be read or written.

    Args:
        folder: of the apprenticeship.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.clock = folder, clock

    def begin(self, demands: ApprenticeConfig) -> Standing:
        """Write down what has to be shown; an apprenticeship that has begun goes by its own demands."""
        with self._opened(demands) as standing:
            return standing

    def look(self) -> Standing:
        """Settle what nobody answered in time, and no more."""
        with self._opened() as standing:
            return standing

    def tell(
        self, what: Said, *, who: str, why: str, demands: ApprenticeConfig | None = None, request: str | None = None
    ) -> Standing:
        """Write down what became of an action that never waited here, as all do while the apprentice imitates.

        Args:
            what: became of it.
            who: says so.
            why: the reason.
            demands: of the apprentice, if this is its first answer; ``None``: it has begun.
            request: that it was about, so that it is counted once.
        """
        data = {} if request is None else {"request": request}
        with self._opened(demands) as standing:
            return self._append(standing, after(standing.apprentice, Line(what)), what, who, why, data)

    def propose(self, id: str, action: int, *, who: str) -> Standing:
        """Put an action before a person; an autonomous apprentice's is settled at once.

        Raises:
            ConfigError: not the time to propose, or an id that was used before.
        """
        with self._opened() as standing:
            if any(entry.data.get("proposal") == id for entry in standing.entries):
                raise ConfigError(f"Proposal {id} was made before.", mend="Give each proposal an id of its own.")
            now_s = self.clock()
            state = standing.apprentice.propose(id, action, now_s)
            data = {"proposal": id, "action": action}
            return self._expired(self._append(standing, state, "proposed", who, "", data, now_s=now_s), now_s)

    def answer(self, id: str, *, agrees: bool, who: str, why: str = "", instead: int | None = None) -> Standing:
        """A person agrees, or does something else: ``instead``, or the safe action.

        Raises:
            ConfigError: nothing of that id waits: it was answered before, or its deadline has passed.
        """
        with self._opened() as standing:
            state, settled = standing.apprentice.answer(id, who=who, agrees=agrees, why=why, instead=instead)
            return self._settle(standing, state, settled)

    @contextmanager
    def _opened(self, demands: ApprenticeConfig | None = None) -> Iterator[Standing]:
        path = self.folder / "answers.jsonl"
        if demands is None and not path.exists():
            raise ConfigError(f"{self.folder} holds no apprentice.", mend="Write down a first answer with --what.")
        with locked(self.folder):
            if demands is not None and not read_audit(path).entries:
                begun = Standing(Apprentice(demands), (), ())
                self._append(begun, begun.apprentice, "begun", "", "", asdict(demands))
            yield self._expired(self._read(path), self.clock())

    def _read(self, path: Path) -> Standing:
        trail, head = read_audit(path), self.folder / "head.json"
        if head.exists() and read_object(head).get("head") not in trail.hashes:
            raise DatasetCorruptError(
                f"{path} ends before something that was in it.", mend="Lines were cut off; bring it back from a copy."
            )
        try:
            first, *rest = trail.entries
            demands = ApprenticeConfig(**first.data)
            steps = [Apprentice(demands), *replay(demands, map(_line, rest))]
        except (ConfigError, TypeError, ValueError) as error:
            raise DatasetCorruptError(
                f"{path} is no log of an apprentice: {error}.",
                mend="Bring it back from a copy, or begin in another folder.",
            ) from error
        return Standing(steps[-1], trail.entries, tuple(step.level for step in steps))

    def _expired(self, standing: Standing, now_s: float) -> Standing:
        for proposal in tuple(standing.apprentice.waiting.values()):
            if proposal.deadline_s <= now_s:
                standing = self._settle(standing, *standing.apprentice.unanswered(proposal.id))
        return standing

    def _settle(self, standing: Standing, state: Apprentice, settled: Settlement) -> Standing:
        data = {"proposal": settled.id, "action": settled.action}
        return self._append(standing, state, settled.how, settled.who, settled.why, data, settled=(settled,))

    def _append(
        self,
        standing: Standing,
        state: Apprentice,
        what: str,
        who: str,
        why: str,
        data: Mapping[str, Any],
        *,
        now_s: float | None = None,
        settled: tuple[Settlement, ...] = (),
    ) -> Standing:
        at_s = self.clock() if now_s is None else now_s
        entry = AuditEntry(str(len(standing.entries) + 1), at_s, who, what, why, data)
        head = append_audit(self.folder / "answers.jsonl", entry)
        write_json(self.folder / "head.json", {"head": head})
        return Standing(
            state, (*standing.entries, entry), (*standing.levels, state.level), (*standing.settled, *settled)
        )


def hear(queue: ProposalQueue, heard: Sequence[Heard], *, who: str) -> Standing:
    """Compare an apprentice that imitates with what was done; put the newest words of one that proposes before people.

    Every request counts once, however often it is heard.

    Args:
        queue: of an apprenticeship that has begun.
        heard: from the log, in order.
        who: proposes.
    """
    standing = queue.look()
    known = {entry.data.get(key) for entry in standing.entries for key in ("request", "proposal")}
    fresh = [one for one in heard if one.id not in known]
    compared = 0
    while standing.apprentice.level == "imitate" and compared < min(len(fresh), HEARD_AT_ONCE):
        one = fresh[compared]
        agrees = one.action == one.done
        why = "" if agrees else f"{one.action} where {one.done} was done"
        standing = queue.tell("approved" if agrees else "overridden", who="log", why=why, request=one.id)
        compared += 1
    if standing.apprentice.level not in ("approve", "veto"):
        return standing
    room = ASKED_AT_ONCE - len(standing.apprentice.waiting)
    for one in fresh[compared:][-room:] if room > 0 else []:
        standing = queue.propose(one.id, one.action, who=who)
    return standing


def _line(entry: AuditEntry) -> Line:
    proposal = entry.data.get("proposal")
    return Line(
        entry.what, float(entry.at_s), None if proposal is None else str(proposal), int(entry.data.get("action", 0))
    )
