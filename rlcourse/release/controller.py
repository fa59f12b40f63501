"""The state machine of one release: killed at any step, it goes on where it was or goes back, and never believes in two.

On the disk, in one folder::

    release.json   what was settled before: stages, demands, who replaces whom; never changes
    state.json     where the release is; replaced atomically
    audit.jsonl    what happened, sealed line by line
    KILL           the kill switch: if this file exists, the next step goes back, whatever else is true
    lock           held while somebody decides
    apprentice/    of a release with such a stage: what the candidate proposes, and what people say to it

Every change takes the same way, and only the first step decides anything::

    1  state.json: the new state, the routing that is wanted, ``applied: false``, the audit line still to be written
    2  audit.jsonl: that line
    3  the router is told
    4  state.json: ``applied: true``, nothing left to be written

A process that dies before 1 has changed nothing. One that dies after it left a note of what to do: whoever comes next does 2
to 4 again, each of which may be done twice. So there is one wanted routing at any moment, with one live version in it, and
whether the world is there already is written beside it.

The world may also leave it again; every tick looks (:mod:`rlcourse.release.straying`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rlcourse.errors import ConfigError, DatasetCorruptError, ServerError, StorageError
from rlcourse.evaluation.off_policy.verdict import OffPolicyVerdict
from rlcourse.files import storage_errors, write_json
from rlcourse.release.apprentice import Apprentice
from rlcourse.release.audit import AuditEntry, append_audit, read_audit
from rlcourse.release.gates import GateAnswer, LiveEvidence, Reason, decide, seen_at, unwatched
from rlcourse.release.proposals import ProposalQueue
from rlcourse.release.routing import Router
from rlcourse.release.stages import Release
from rlcourse.release.state import ReleaseState, Status, killed, locked, read_release, read_state
from rlcourse.release.straying import PUT_RIGHT, strayed

Override = Literal["pause", "resume", "advance"]
OVERRIDES: tuple[Override, ...] = get_args(Override)
MACHINE = "controller"


class Controller:
    """Leads one release. Any number of processes may open the same folder; one at a time decides.

    Args:
        folder: of the release.
        router: told which version answers whom.
        clock: seconds since the epoch.
        step: called before and after every effect with its name; a test dies in it.

    Raises:
        ConfigError: no release there.
        DatasetCorruptError: the state or the audit log is not what was written.
    """

    def __init__(
        self,
        folder: Path,
        router: Router,
        *,
        clock: Callable[[], float] = time.time,
        step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.folder, self.router, self.clock, self.step = folder, router, clock, step
        self.release = read_release(folder)

    @classmethod
    def start(
        cls,
        folder: Path,
        release: Release,
        router: Router,
        *,
        who: str,
        why: str,
        clock: Callable[[], float] = time.time,
        step: Callable[[str], None] = lambda name: None,
    ) -> Controller:
        """Begin a release in a folder that holds none.

        Raises:
            ConfigError: another one is there, or the kill switch is on.
        """
        with locked(folder):
            if (folder / "state.json").exists():
                raise ConfigError(
                    f"{folder} holds a release already.", mend="Use a folder of its own for each release."
                )
            if killed(folder):
                raise ConfigError("The kill switch is on.", mend=f"Remove {folder / 'KILL'} once the cause is mended.")
            step("before release.json")
            write_json(folder / "release.json", release.to_json())
            step("after release.json")
            controller = cls(folder, router, clock=clock, step=step)
            # Before it has begun the incumbent is live; a first stage that needs a person waits there.
            now_s = clock()
            first = ReleaseState("running", -1, now_s, release.before, began_s=now_s)
            controller._enter(
                first, 0, who, "start", why, {"candidate": release.candidate, "incumbent": release.incumbent}
            )
        return controller

    def state(self) -> ReleaseState:
        """As it is on the disk."""
        return read_state(self.folder)

    def recover(self) -> ReleaseState:
        """Finish what a killed process began; does nothing where nothing is left."""
        with locked(self.folder):
            return self._settle(self._checked())

    def tick(self, evidence: LiveEvidence | None, verdict: OffPolicyVerdict | None = None) -> GateAnswer:
        """One step: finish what was begun, obey the kill switch, look whether the router still does what it was told, ask
        the gate, act on its answer.

        Args:
            evidence: the newest; ``None`` if monitoring does not answer.
            verdict: of off-policy evaluation.

        Raises:
            ServerError: the router did not obey, or does not say what it does. What is wanted is written down; the next
                tick tries again.
            StorageError: something could not be read or written. Then nothing was done, but harm goes back all the same:
                the router was told, and the error says so.
            DatasetCorruptError: the state or the audit log is not what was written; likewise.
        """
        with locked(self.folder):
            if killed(self.folder):
                with self._going_back_anyhow():
                    state = self._checked()
                    if state.status != "killed":
                        self._go_back(state, "killed", MACHINE, "kill", "the kill switch is on", {})
                        return GateAnswer("roll_back", (Reason("kill_switch", "The kill switch is on."),))
            trouble, astray = None, None
            try:
                state = self._checked()
                try:
                    state = self._settle(state)
                    if not state.ended and state.stage >= 0:
                        astray = strayed(self.router, state.routing, self.release.candidate)
                except ServerError as error:
                    trouble = error  # harm has to be seen all the same
            except (StorageError, DatasetCorruptError) as damage:
                self._go_back_from_harm(evidence, verdict, damage)
                raise
            if state.ended or state.stage < 0:
                text = f"The release is {state.status.replace('_', ' ')}."
                answer = GateAnswer("hold", (Reason("not_running", text),))
            else:
                answer = self._ask(state, evidence, verdict)
                if answer.answer != "roll_back":
                    state = self._noted(state, evidence)
                if astray is not None and answer.answer != "roll_back":
                    answer = GateAnswer("hold", (astray,))
                    self._bring_back(state, astray)
                elif trouble is None or answer.answer == "roll_back":
                    self._act(state, answer)
            if trouble is not None and answer.answer != "roll_back":
                raise trouble
            return answer

    def approve(self, who: str, why: str) -> ReleaseState:
        """Answer yes to what is asked.

        Raises:
            ConfigError: nothing is asked.
        """
        with locked(self.folder):
            state = self._movable()
            if state.status != "awaiting":
                raise ConfigError(
                    "Nothing waits for approval.", mend="See what the release does: rlcourse release status."
                )
            data = {"question": state.question}
            if state.question == "doubt":
                running = replace(state, status="running", question="", approved=True)
                return self._commit(running, who, "approve", why, data)
            return self._enter(state, state.stage + 1, who, "approve", why, data, agreed=True)

    def override(self, what: Override, who: str, why: str) -> ReleaseState:
        """Pause where it is, resume, or advance to the next stage against the gate's patience; harm still rolls back.

        Raises:
            ConfigError: the release has ended, or cannot do that now.
        """
        with locked(self.folder):
            state = self._movable()
            possible = {"pause": state.status in ("running", "awaiting"), "resume": state.status == "paused"}
            if state.ended or not possible.get(what, True):
                raise ConfigError(
                    f"A release that is {state.status} cannot {what}.", mend="See rlcourse release status."
                )
            if what == "advance":
                return self._enter(state, state.stage + 1, who, "override: advance", why, {}, agreed=True)
            status: Status = "paused" if what == "pause" else "running"
            # Whatever the router does by now, whoever resumes wants what the release says.
            moved = replace(state, status=status, question="", said=(), applied=what == "pause")
            return self._commit(moved, who, f"override: {what}", why, {})

    def roll_back(self, who: str, why: str) -> ReleaseState:
        """Back to the incumbent at once, also from a release that was promoted."""
        with locked(self.folder), self._going_back_anyhow():
            state = self._checked()
            if state.status in ("rolled_back", "killed"):
                return self._settle(state)
            return self._go_back(state, "rolled_back", who, "roll back", why, {})

    def kill(self, who: str, why: str) -> ReleaseState:
        """Throw the kill switch and go back; nothing moves in this folder again while the switch is on."""
        with locked(self.folder), self._going_back_anyhow():
            self.step("before KILL")
            with storage_errors(self.folder / "KILL"):
                (self.folder / "KILL").touch()
            self.step("after KILL")
            state = self._checked()
            if state.status == "killed":
                return self._settle(state)
            return self._go_back(state, "killed", who, "kill", why, {})

    def _bring_back(self, state: ReleaseState, astray: Reason) -> None:
        """The router does something else than it was told."""
        data = GateAnswer("hold", (astray,)).to_json()
        if astray.code == PUT_RIGHT:
            self._commit(replace(state, applied=False), MACHINE, "put right", astray.text, data)
        elif state.said != (astray.code,):
            paused = replace(state, status="paused", question="", said=(astray.code,))
            self._commit(paused, MACHINE, "pause", astray.text, data)

    def _go_back_from_harm(
        self,
        evidence: LiveEvidence | None,
        verdict: OffPolicyVerdict | None,
        damage: StorageError | DatasetCorruptError,
    ) -> None:
        """Ask the gate although the folder is damaged. Nothing is written: what was done to it is not to be covered up."""
        try:
            state = read_state(self.folder)
        except (StorageError, DatasetCorruptError):
            # What ends a release is the same in every stage.
            state = ReleaseState("running", 0, self.clock(), self.release.before)
        if state.ended or state.stage < 0:
            return
        answer = self._ask(state, evidence, verdict)
        if answer.answer == "roll_back":
            raise self._told_to_go_back(damage, " ".join(reason.text for reason in answer.reasons)) from damage

    def _told_to_go_back(
        self, damage: StorageError | DatasetCorruptError, why: str = ""
    ) -> StorageError | DatasetCorruptError:
        self.router.apply(self.release.before)
        return type(damage)(
            f"{damage.problem} {self.release.incumbent} answers everybody all the same. {why}".rstrip(),
            mend=damage.mend,
        )

    def _noted(self, state: ReleaseState, evidence: LiveEvidence | None) -> ReleaseState:
        """When everything was seen last, written down: whoever asks next may be another process."""
        stage = self.release.stages[state.stage]
        seen_s = min(seen_at(evidence, stage.demand, self.release.gate, acts=stage.acts), self.clock())
        if seen_s <= (-math.inf if state.seen_s is None else state.seen_s):
            return state
        noted = replace(state, seen_s=seen_s)
        self._write(noted)
        return noted

    def _ask(self, state: ReleaseState, evidence: LiveEvidence | None, verdict: OffPolicyVerdict | None) -> GateAnswer:
        stage = self.release.stages[state.stage]
        answer = decide(
            evidence,
            now_s=self.clock(),
            since_s=state.since_s,
            demand=stage.demand,
            variation=self.release.variation,
            config=self.release.gate,
            verdict=verdict,
            candidate=self.release.candidate,
            approved=state.approved,
            acts=stage.acts,
            seen_s=-math.inf if state.seen_s is None else state.seen_s,
            apprentice=self._apprentice() if stage.kind == "apprentice" else None,
        )
        return answer if answer.answer == "roll_back" else answer.beside(*unwatched(evidence, acts=stage.acts))

    @property
    def apprenticeship(self) -> ProposalQueue:
        """What the candidate proposes, in a stage in which it earns autonomy."""
        return ProposalQueue(self.folder / "apprentice", clock=self.clock)

    def _apprentice(self) -> Apprentice | None:
        try:
            return self.apprenticeship.look().apprentice
        except ConfigError:  # it has not begun
            return None

    def _act(self, state: ReleaseState, answer: GateAnswer) -> None:
        lasted = self.clock() - state.since_s >= self.release.stages[state.stage].least_s
        codes = tuple(reason.code for reason in answer.reasons)
        why, data = " ".join(reason.text for reason in answer.reasons), answer.to_json()
        if answer.answer == "roll_back":
            with self._going_back_anyhow():
                self._go_back(state, "rolled_back", MACHINE, "roll back", why, data)
        elif state.status == "running" and answer.answer == "promote" and lasted:
            self._enter(state, state.stage + 1, MACHINE, "promote", why, data)
        elif state.status == "running" and (question := _question(answer, self.release.patience)):
            waiting = replace(state, status="awaiting", question=question, said=codes)
            self._commit(waiting, MACHINE, "ask", why, data)
        elif codes != state.said:
            self._commit(replace(state, said=codes), MACHINE, answer.answer.replace("_", " "), why, data)

    def _enter(
        self,
        state: ReleaseState,
        stage: int,
        who: str,
        what: str,
        why: str,
        data: Mapping[str, Any],
        *,
        agreed: bool = False,
    ) -> ReleaseState:
        """Go to a stage, or past the last one; or ask first, if a person has to agree."""
        stages = self.release.stages
        if stage >= len(stages):
            done = replace(state, status="promoted", question="", routing=self.release.after, applied=False, said=())
            return self._commit(done, who, f"{what}: promoted", why, data)
        if stages[stage].approval and not agreed:
            asking = replace(state, status="awaiting", question="stage", said=())
            return self._commit(asking, who, f"{what}: ask to begin {stages[stage].kind}", why, data)
        now_s, acts_since_s = self.clock(), state.acts_since_s
        if acts_since_s is None and stages[stage].acts:
            acts_since_s = now_s
        begun = ReleaseState(
            "running",
            stage,
            now_s,
            self.release.routing(stage),
            approved=state.approved,
            began_s=state.began_s,
            acts_since_s=acts_since_s,
            events=state.events,
            pending=state.pending,
            audit_head=state.audit_head,
        )
        where = f"{stages[stage].kind} {stages[stage].share:.0%}"
        return self._commit(begun, who, f"{what}: begin {where}", why, data)

    def _go_back(
        self, state: ReleaseState, status: Status, who: str, what: str, why: str, data: Mapping[str, Any]
    ) -> ReleaseState:
        back = replace(state, status=status, question="", routing=self.release.before, applied=False, said=())
        return self._commit(back, who, what, why, data)

    def _commit(self, state: ReleaseState, who: str, what: str, why: str, data: Mapping[str, Any]) -> ReleaseState:
        events, now = state.events + 1, self.clock()
        entry = {
            # With the time in it: after a power cut that lost the last state, a count alone would come twice.
            "id": f"{self.release.name}-{events}-{round(now * 1e6)}",
            "at_s": now,
            "who": who,
            "what": what,
            "why": why,
            "data": {**data, "routing": state.routing.to_json()},
        }
        decided = replace(state, events=events, pending=(*state.pending, entry))
        self._write(decided)
        return self._settle(decided)

    @contextmanager
    def _going_back_anyhow(self) -> Iterator[None]:
        """Going back must not depend on a disk that is full or a log that was tampered with."""
        try:
            yield
        except (StorageError, DatasetCorruptError) as damage:
            raise self._told_to_go_back(damage) from damage

    def _settle(self, state: ReleaseState) -> ReleaseState:
        """Steps 2 to 4 of what is decided."""
        if state.applied and not state.pending:
            return state
        head, path = state.audit_head, self.folder / "audit.jsonl"
        for entry in state.pending:
            self.step("before audit")
            head = append_audit(path, AuditEntry(**entry))
            self.step("after audit")
        if not state.applied:
            self.step("before router")
            self.router.apply(state.routing)
            self.step("after router")
        settled = replace(state, applied=True, pending=(), audit_head=head)
        self._write(settled)
        return settled

    def _write(self, state: ReleaseState) -> None:
        self.step("before state.json")
        write_json(self.folder / "state.json", asdict(state))
        self.step("after state.json")

    def _movable(self) -> ReleaseState:
        if killed(self.folder):
            raise ConfigError("The kill switch is on.", mend=f"Remove {self.folder / 'KILL'} once the cause is mended.")
        return self._settle(self._checked())

    def _checked(self) -> ReleaseState:
        state = read_state(self.folder)
        if state.audit_head not in read_audit(self.folder / "audit.jsonl").hashes:
            raise DatasetCorruptError(
                f"The audit log of {self.folder} ends before something that was in it.",
                mend="Lines were cut off; bring the log back from a copy.",
            )
        return state


def _question(answer: GateAnswer, patience: float) -> str:
    """What only a person can settle, if anything."""
    for reason in answer.reasons:
        if reason.code.startswith("off_policy_"):
            return "doubt"
        if reason.code == "undecided" and reason.numbers["information"] >= patience * reason.numbers["demanded"]:
            return "undecided"
    return ""
