from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import DatasetInvalidError
from rlcourse.experience.card import DatasetCard, summarise
from rlcourse.experience.episodes import Episodes

CARD = DatasetCard(env_id="CartPole-v1", num_actions=3, seed=1, details={"epsilon": 0.1})


def worked() -> Episodes:
    """Five episodes of one step with returns 0, 1, 2, 3, 10."""
    return Episodes(
        observations=np.arange(20, dtype=np.float32).reshape(10, 2),
        actions=np.array([0, 0, 1, 1, 1]),
        rewards=np.array([0, 1, 2, 3, 10], dtype=np.float32),
        behaviour_probabilities=np.array([0.5, 0.25, 0.5, 1.0, 0.5], dtype=np.float32),
        lengths=np.ones(5, dtype=np.int64),
        terminated=np.array([True, True, False, True, False]),
    )


def test_worked_numbers() -> None:
    found = summarise(worked(), CARD, size_bytes=99, checksum="abc", bins=5)
    assert (found["transitions"], found["episodes"]) == (5, 5)
    returns = found["returns"]
    assert [returns[k] for k in ("min", "first_quartile", "median", "third_quartile", "max", "mean")] == [
        0.0, 1.0, 2.0, 3.0, 10.0, 3.2,
    ]  # fmt: skip
    assert returns["histogram"] == {"counts": [2, 2, 0, 0, 1], "edges": [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]}
    assert found["ends"] == {"terminated": 3, "time_limit": 2}
    assert found["actions"] == {"counts": [2, 3, 0], "frequencies": [0.4, 0.6, 0.0]}
    assert found["observations"] == [{"min": 0, "mean": 9, "max": 18}, {"min": 1, "mean": 10, "max": 19}]
    # -ln of 1/2, 1/4, 1/2, 1, 1/2 is ln 2 times 1, 2, 1, 0, 1.
    assert found["propensities"]["action_entropy"] == pytest.approx(math.log(2))
    assert found["propensities"]["known"] == 1.0
    assert (found["file_bytes"], found["checksum"]) == (99, "abc")
    assert found["provenance"]["details"] == {"epsilon": 0.1}


def test_without_propensities_there_is_no_entropy_and_still_plain_json() -> None:
    unknown = replace(worked(), behaviour_probabilities=np.full(5, np.nan, dtype=np.float32))
    found = summarise(unknown, CARD)
    assert found["propensities"] == {"known": 0.0, "min": None, "max": None, "action_entropy": None}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_card_survives_json() -> None:
    assert DatasetCard.from_json(json.loads(json.dumps(CARD.to_json()))) == CARD


@pytest.mark.parametrize(
    "change", [{"seed": "one"}, {"num_actions": True}, {"details": None}, {"colour": "red"}], ids=str
)
def test_a_card_of_other_fields_or_types_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DatasetInvalidError):
        DatasetCard.from_json({**CARD.to_json(), **change})
