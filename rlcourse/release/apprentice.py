"""The apprentice: a policy that earns its autonomy from the people beside it, and loses it faster than it earned it.

::

    imitate ──agrees──▶ approve ──few refusals──▶ veto ──few vetoes──▶ autonomous
       ▲                   ▲                                               │
       └───────────────────┴───────────────── a violation ─────────────────┘   (one step back to approve)

=============  ====================================================================================================
imitate        the person acts; what the apprentice would have done is compared
approve        the apprentice proposes; nothing happens before a person agrees, and the safe action after the deadline
veto           the apprentice proposes; it happens at the deadline unless a person objects
autonomous     the apprentice acts; a person may still override
=============  ====================================================================================================

A level is passed when a share of disagreement that would be too much is ruled out (Wald's likelihood ratio turned round, so
that one may look after every proposal).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

from rlcourse.errors import ConfigError
from rlcourse.release.sequential import likelihood_ratio

Level = Literal["imitate", "approve", "veto", "autonomous"]
LEVELS: tuple[Level, ...] = get_args(Level)
CONSENTING: tuple[Level, ...] = ("veto", "autonomous")
"""Where silence is a yes."""
Settled = Literal["approved", "vetoed", "overridden", "expired"]
Said = Literal["approved", "vetoed", "overridden", "expired", "violated"]
"""What a line of an apprentice's log says became of an action."""


@dataclass(frozen=True)
class ApprenticeConfig:
    """What has to be shown."""

    good: float = 0.02
    """Share of refused proposals that is what good work looks like."""
    too_many: float = 0.1
    """Share that has to be ruled out before the next level; nearer to ``good`` takes longer."""
    alpha: float = 0.01
    """Chance of promoting an apprentice of whom too many proposals are refused."""
    deadline_s: float = 60.0
    """For a person to answer."""
    safe_action: int = 0
    """Done where nobody has approved in time."""

    def __post_init__(self) -> None:
        if not (0.0 < self.good < self.too_many < 1.0 and 0.0 < self.alpha < 1.0 and self.deadline_s > 0.0):
            raise ConfigError(
                "An apprenticeship that cannot be judged.",
                mend="Use 0 < good < too_many < 1, an alpha between 0 and 1, and a deadline above 0.",
            )


@dataclass(frozen=True)
class Proposal:
    """One action that waits for a person."""

    id: str
    action: int
    deadline_s: float
    silence: bool = False
    """Whether silence was consent when it was proposed; it is not afterwards made so."""


@dataclass(frozen=True)
class Settlement:
    """What became of a proposal."""

    id: str
    action: int
    """That is to be done."""
    how: Settled
    who: str
    why: str


@dataclass(frozen=True)
class Apprentice:
    """Where it stands. Immutable: every method returns the next state."""

    config: ApprenticeConfig = field(default_factory=ApprenticeConfig)
    level: Level = "imitate"
    accepted: int = 0
    """At this level."""
    refused: int = 0
    waiting: Mapping[str, Proposal] = field(default_factory=dict)

    def imitated(self, own: int, persons: int) -> Apprentice:
        """A person did ``persons``; the apprentice would have done ``own``."""
        self._at("imitate")
        return self._counted(own == persons)

    def propose(self, id: str, action: int, now_s: float) -> Apprentice:
        """Put an action before a person.

        Raises:
            ConfigError: not the time to propose, or an id that waits already.
        """
        self._at("approve", "veto", "autonomous")
        if id in self.waiting:
            raise ConfigError(f"Proposal {id} waits already.", mend="Give each proposal an id of its own.")
        waits = self.config.deadline_s if self.level != "autonomous" else 0.0
        proposal = Proposal(id, action, now_s + waits, self.level in CONSENTING)
        return replace(self, waiting={**self.waiting, id: proposal})

    def answer(
        self, id: str, *, who: str, agrees: bool, why: str = "", instead: int | None = None
    ) -> tuple[Apprentice, Settlement]:
        """A person agrees, or does something else: ``instead``, or the safe action.

        Raises:
            ConfigError: nothing of that id waits.
        """
        proposal, left = self._taken(id)
        if agrees:
            settled = Settlement(id, proposal.action, "approved", who, why)
        else:
            action = self.config.safe_action if instead is None else instead
            settled = Settlement(id, action, "vetoed" if instead is None else "overridden", who, why)
        return left._counted(agrees), settled

    def unanswered(self, id: str) -> tuple[Apprentice, Settlement]:
        """The deadline has passed: silence is consent from ``veto`` on, and a refusal before.

        Raises:
            ConfigError: nothing of that id waits.
        """
        proposal, left = self._taken(id)
        consent = self.consents(proposal)
        action = proposal.action if consent else self.config.safe_action
        # Silence teaches only where it means consent: an absent person is no verdict on the proposal.
        return left._counted(True) if consent else left, Settlement(id, action, "expired", "", "nobody answered")

    def consents(self, proposal: Proposal) -> bool:
        """Whether silence is a yes to it: that has to hold when it is proposed, and still when its time is over."""
        return proposal.silence and self.level in CONSENTING

    def expire(self, now_s: float) -> tuple[Apprentice, tuple[Settlement, ...]]:
        """Settle all that nobody answered in time."""
        state, settled = self, list[Settlement]()
        for proposal in self.waiting.values():
            if proposal.deadline_s <= now_s:
                state, one = state.unanswered(proposal.id)
                settled.append(one)
        return state, tuple(settled)

    def violated(self) -> Apprentice:
        """Something unsafe happened: back to asking first. What waits is answered by nobody but a person."""
        level: Level = "imitate" if self.level == "imitate" else "approve"
        return replace(self, level=level, accepted=0, refused=0)

    def _counted(self, accepted: bool) -> Apprentice:
        state = replace(self, accepted=self.accepted + accepted, refused=self.refused + (not accepted))
        config, total = self.config, state.accepted + state.refused
        # Turned round: that too many are refused is the hypothesis to be thrown out, by how few of them were accepted.
        evidence = likelihood_ratio(state.accepted, total, limit=1.0 - config.too_many, feared=1.0 - config.good)
        if evidence < 1.0 / config.alpha or state.level == "autonomous":
            return state
        return replace(state, level=LEVELS[LEVELS.index(state.level) + 1], accepted=0, refused=0)

    def _taken(self, id: str) -> tuple[Proposal, Apprentice]:
        proposal = self.waiting.get(id)
        if proposal is None:
            raise ConfigError(f"No proposal {id} waits.", mend="It was answered before, or its deadline has passed.")
        return proposal, replace(self, waiting={name: one for name, one in self.waiting.items() if name != id})

    def _at(self, *levels: Level) -> None:
        if self.level not in levels:
            raise ConfigError(
                f"An apprentice that is to {self.level} was asked for something else.",
                mend=f"This belongs to: {', '.join(levels)}.",
            )


class Line(NamedTuple):
    """One line of an apprentice's log."""

    what: str
    """A :data:`Said`, or ``proposed``."""
    at_s: float = 0.0
    proposal: str | None = None
    """Its id; ``None``: an action that never waited here, of which only the outcome is known."""
    action: int = 0
    """That was proposed, or done instead."""


def replay(config: ApprenticeConfig, lines: Iterable[Line]) -> list[Apprentice]:
    """Where an apprentice stood after each line of its log, the first of which came while it imitated.

    Raises:
        ConfigError: a line says something else, or does not follow from those before it.
    """
    state, found = Apprentice(config), list[Apprentice]()
    for line in lines:
        state = after(state, line)
        found.append(state)
    return found


def after(state: Apprentice, line: Line) -> Apprentice:
    """Where an apprentice stands after one more line.

    Raises:
        ConfigError: it says something else, or does not follow.
    """
    if line.what not in (*get_args(Said), "proposed"):
        raise ConfigError(f"A line of the log says {line.what!r}.", mend=f"Use {', '.join(get_args(Said))}.")
    agrees, consents = line.what == "approved", state.level in CONSENTING
    if line.what == "violated":
        return state.violated()
    if line.proposal is None:
        # Somebody who did not look has not compared, and is no judge where silence is no consent.
        return state if line.what == "expired" and not consents else state._counted(agrees or line.what == "expired")
    if line.what == "proposed":
        return state.propose(line.proposal, line.action, line.at_s)
    if line.what == "expired":
        return state.unanswered(line.proposal)[0]
    return state.answer(line.proposal, who="", agrees=agrees)[0]
