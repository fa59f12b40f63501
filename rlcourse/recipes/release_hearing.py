"""What an apprentice would have done, from the decision log of the service that mirrors to it, into the queue of its release.

The service asks the apprentice as it asks a shadow, and carries out none of its actions: the incumbent, or the person who
overrides it, acts at every level. What people approve and veto are its words.
"""

from __future__ import annotations

from pathlib import Path

from rlcourse.errors import DatasetInvalidError, MissingExtraError
from rlcourse.release.controller import Controller
from rlcourse.release.proposals import Heard, hear

try:
    from rlcourse.serving.decision_log import read_all_lines
    from rlcourse.serving.mirrored import asked
    from rlcourse.serving.outcomes import overridden
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"Reading a decision log needs {error.name}, which is not installed.", mend="pip install 'rlcourse[serve]'"
    ) from error


def listen(controller: Controller, log: Path, policy: str) -> None:
    """Read on, if the release is in an apprentice stage.

    Raises:
        DatasetNotFoundError, DatasetCorruptError: see :func:`~rlcourse.serving.decision_log.read_lines`.
        DatasetInvalidError: actions are continuous.
    """
    state = controller.state()
    if state.stage < 0 or state.status != "running" or controller.release.stages[state.stage].kind != "apprentice":
        return
    candidate = controller.release.candidate
    hear(controller.apprenticeship, heard(log, candidate, policy=policy, since_s=state.since_s), who=candidate)


def heard(log: Path, version: str, *, policy: str, since_s: float) -> list[Heard]:
    """What a shadow was asked since a time, what it would have done and what was carried out, in the order of its answers.

    Where it failed it said nothing; that is the gate's affair.
    """
    pairs, rewards = asked(read_all_lines(log), version, policy=policy)
    found = []
    for done, said in pairs:
        if said.time < since_s or said.action is None:
            continue
        name = done.request_id
        answers, own = ([one] if isinstance(one, int) else one for one in (done.action, said.action))
        if (
            not isinstance(answers, list)
            or not isinstance(own, list)
            or not all(isinstance(one, int) for one in answers)
        ):
            raise DatasetInvalidError(
                f"Decision {name} has continuous actions.", mend="Leave the apprentice stage out: there is no agreeing."
            )
        for row, (answer, proposed) in enumerate(zip(answers, own, strict=True)):
            reward = rewards.get((name, row))
            executed = None if reward is None else reward.executed
            acted = executed.action if executed is not None and overridden(answer, executed) else answer
            if isinstance(acted, int):
                found.append(Heard(name if len(own) == 1 else f"{name}-{row}", int(proposed), acted))
    return found
