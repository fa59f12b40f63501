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
from rlcourse.release.gates import Counts, LiveEvidence
from rlcourse.release.matching import Tally


def evidence_from_json(content: Mapping[str, Any]) -> LiveEvidence:
    """Live evidence from plain values; what is left out is unknown.

    ::

        {"measured_at_s": 1795800000.0,
         "episodes": {"day": [0, 0, 1], "candidate": [false, true, true], "returns": [-41.2, -39.9, -40.3]},
         "counts": {"latency": {"bad": 3, "total": 5000}, "errors": {...}, "fallbacks": {...}},
         "violations": 0}

    Raises:
        DatasetCorruptError: something is of another type, or impossible.
    """
    try:
        episodes = content.get("episodes")
        tally = None
        if episodes is not None:
            arms = [int(bool(one)) for one in episodes["candidate"]]
            tally = Tally.of(episodes["day"], arms, episodes["returns"])
        counts = {
            str(name): Counts(int(one["bad"]), int(one["total"])) for name, one in content.get("counts", {}).items()
        }
        if any(not 0 <= one.bad <= one.total for one in counts.values()):
            raise ValueError("more bad requests than requests")
        violations = content.get("violations")
        return LiveEvidence(
            float(content["measured_at_s"]), tally, counts, None if violations is None else int(violations)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetCorruptError(
            f"That is no evidence: {type(error).__name__}, {error}.", mend="See evidence_from_json for its form."
        ) from error


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
