"""Evidence and verdicts as files: what monitoring writes for the gate, and what ``rlcourse ope --verdict`` wrote before."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlcourse.errors import DatasetCorruptError, DatasetNotFoundError
from rlcourse.evaluation.off_policy.verdict import Demands, Evidence, OffPolicyVerdict
from rlcourse.evaluation.statistics import Interval
from rlcourse.release.adjusting import Variates, judged
from rlcourse.release.conditions import Moments
from rlcourse.release.gates import Counts, LiveEvidence, LiveReturns
from rlcourse.release.matching import Tally, Variation
from rlcourse.release.rooms import rooms_of, usual_of_rooms


def evidence_from_json(
    content: Mapping[str, Any], *, promised: Variation | None = None, variates: Variates | None = None
) -> LiveEvidence:
    """Live evidence from plain values; what is left out is unknown.

    ::

        {"measured_at_s": 1795800000.0,
         "episodes": {"day": [0, 0, 1], "candidate": [false, true, true], "returns": [-41.2, -39.9, -40.3],
                      "conditions": [[20.1, 31.0], [20.4, 29.7], [22.0, 30.2]]},
         "counts": {"latency": {"bad": 3, "total": 5000}, "errors": {...}, "fallbacks": {...}},
         "violations": 0}

    ``session``, one name for each of the episodes, is for a release in which the same rooms come every day; and so is
    ``"before": {"session": [...], "returns": [...]}`` with the incumbent's episodes before the release, from which the gate
    learns what each room usually earns.

    ``conditions`` is for a release that began with ``--monitor``, and holds the numbers of
    :meth:`rlcourse.release.conditions.Conditions.of`; otherwise it is left out.

    Args:
        content: of the file.
        promised: how much returns vary by the plan; ``None`` does not ask.
        variates: that the release was planned with.

    Raises:
        DatasetCorruptError: something is of another type, or impossible.
    """
    try:
        episodes = content.get("episodes")
        returns = None if episodes is None else _returns(episodes, content.get("before"), promised, variates)
        counts = {
            str(name): Counts(int(one["bad"]), int(one["total"])) for name, one in content.get("counts", {}).items()
        }
        if any(not 0 <= one.bad <= one.total for one in counts.values()):
            raise ValueError("more bad requests than requests")
        violations = content.get("violations")
        return LiveEvidence(
            float(content["measured_at_s"]),
            None if returns is None else returns.tally,
            counts,
            None if violations is None else int(violations),
            None if returns is None else returns.variation,
            None if returns is None else returns.objection,
            rooms=None if returns is None else returns.rooms,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetCorruptError(
            f"That is no evidence: {type(error).__name__}, {error}.", mend="See evidence_from_json for its form."
        ) from error


def _returns(
    episodes: Mapping[str, Any], before: Mapping[str, Any] | None, promised: Variation | None, variates: Variates | None
) -> LiveReturns:
    day, arms, earned = episodes["day"], [int(bool(one)) for one in episodes["candidate"]], episodes["returns"]
    session = episodes.get("session") if promised is not None and promised.rooms is not None else None
    if session is not None and promised is not None and before is not None:
        usual = _usual_of(before, promised.incumbent)
        earned = [float(one) - usual.get(str(name), 0.0) for one, name in zip(earned, session, strict=True)]
    tally = Tally.of(day, arms, earned)
    if promised is None:
        return LiveReturns(tally)
    wanted = None if variates is None else variates.conditions
    rows = episodes.get("conditions")
    if wanted is None or rows is None:
        found = judged(tally, None, None, variates=variates, promised=promised)
    elif any(len(row) != wanted.width for row in rows):
        raise ValueError(f"rows of conditions that are not {wanted.width} numbers")
    else:
        found = judged(tally, Moments.of(day, arms, earned, rows), wanted, variates=variates, promised=promised)
    if session is None:
        return found
    return found._replace(rooms=rooms_of([str(one) for one in session], day, arms, earned).tally)


def _usual_of(before: Mapping[str, Any], sd: float) -> dict[str, float]:
    """What each room earned before, beyond the others."""
    names, returns = [str(one) for one in before["session"]], before["returns"]
    past = rooms_of(names, [0] * len(names), [0] * len(names), returns)
    episodes, total = past.tally.episodes[0, 0], past.tally.total[0, 0]
    usual = usual_of_rooms(episodes, total / episodes, sd).beyond
    return dict(zip(past.names, usual.tolist(), strict=True))


def verdict_from_json(content: Mapping[str, Any], *, judged_as: str, candidate: str) -> OffPolicyVerdict:
    """A verdict as ``OffPolicyVerdict.to_json`` wrote it, with the candidate called what the release calls it.

    Args:
        content: the verdict.
        judged_as: the candidate's name there: a folder, mostly.
        candidate: its version in the release.

    Raises:
        DatasetCorruptError: that is no verdict.
    """

    def number(value: Any) -> Any:
        return math.nan if value is None else value  # JSON has neither NaN nor infinity

    try:
        if content["decision"] not in ("promote", "reject", "inconclusive"):
            raise ValueError(content["decision"])
        if any(one["propensities"] not in ("logged", "estimated") for one in content["evidence"]):
            raise ValueError("propensities that are neither logged nor estimated")
        evidence = tuple(
            Evidence(**{**{key: number(value) for key, value in one.items()}, "objections": tuple(one["objections"])})
            for one in content["evidence"]
        )
        found = OffPolicyVerdict(
            content["decision"],
            content["candidate"],
            str(content["reason"]),
            Interval(**{key: number(value) for key, value in content["logger"].items()}),
            evidence,
            Demands(**content["demands"]),
            tuple(float(lost) for lost in content["expected_regret"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetCorruptError(
            f"That is no verdict: {error}.", mend="Write one: rlcourse ope --verdict FILE."
        ) from error
    return replace(found, candidate=candidate) if found.candidate == judged_as else found


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DatasetNotFoundError: no such file.
        DatasetCorruptError: no JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetNotFoundError(f"{path} cannot be read.", mend="Name a file that is there.") from error
    except ValueError as error:
        raise DatasetCorruptError(f"{path} is no JSON: {error}.", mend="Write it again.") from error
    if not isinstance(content, dict):
        raise DatasetCorruptError(f"{path} holds no object.", mend="Write it again.")
    return content
