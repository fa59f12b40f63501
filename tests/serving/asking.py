"""The questions of :mod:`rlcourse.deployment.parity` as JSON requests, and the answers as arrays again."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.parity import Arrays
from rlcourse.deployment.portable import outputs_of


def requests_of(asked: Arrays) -> list[dict[str, Any]]:
    """One request for each row."""
    return [{name: value[row].tolist() for name, value in asked.items()} for row in range(len(asked["observation"]))]


def arrays_of(artifact: PolicyArtifact, answers: list[dict[str, Any]]) -> Arrays:
    """Named outputs, as far as a request is told of them."""
    named: Arrays = {}
    for name in outputs_of(artifact.description):
        if name in answers[0]:
            whole = name == "action" and artifact.description.discrete
            named[name] = np.array([answer[name] for answer in answers], np.int64 if whole else np.float32)
    return named
