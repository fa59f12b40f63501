from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.experience.card import DatasetCard, summarise
from rlcourse.experience.episodes import Episodes
from rlcourse.vocabulary import ContinuousActions, DiscreteActions

CARD = DatasetCard(env_id="CartPole-v1", num_actions=3, seed=1, details={"epsilon": 0.1})
BOX = DatasetCard(env_id="Pendulum-v1", action_low=(-2.0, 0.0), action_high=(2.0, 1.0))


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
    # Two of five and three of five: 0.4 ln 2.5 + 0.6 ln 5/3.
    assert found["actions"] == {
        "counts": [2, 3, 0],
        "frequencies": [0.4, 0.6, 0.0],
        "entropy": pytest.approx(0.4 * math.log(2.5) + 0.6 * math.log(5 / 3)),
    }
    # Ten observations along the diagonal of 20 by 20 cells, each in one of its own.
    assert found["coverage"] == {
        "parts": 20,
        "cells": 400,
        "occupied": 10,
        "share": 0.025,
        "effective": pytest.approx(10),
    }
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


@pytest.mark.parametrize("card", [CARD, BOX], ids=["discrete", "continuous"])
def test_a_card_survives_json(card: DatasetCard) -> None:
    assert DatasetCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_a_card_of_discrete_actions_is_written_as_before_there_were_others() -> None:
    assert "action_low" not in CARD.to_json() and CARD.to_json()["num_actions"] == 3


def test_a_card_knows_what_could_be_done() -> None:
    assert CARD.actions == DiscreteActions(3) and not CARD.continuous
    found = BOX.actions
    assert isinstance(found, ContinuousActions) and BOX.continuous
    assert (found.low.tolist(), found.high.tolist()) == ([-2.0, 0.0], [2.0, 1.0])
    assert replace(BOX, **DatasetCard.fields_of(found)) == BOX
    assert DatasetCard.fields_of(DiscreteActions(3)) == {"num_actions": 3}
    with pytest.raises(ConfigError, match="2 continuous numbers"):
        BOX.actions.count  # noqa: B018


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"num_actions": -1},
        {"num_actions": 2, "action_low": (0.0,), "action_high": (1.0,)},
        {"action_low": (0.0,)},
        {"action_high": (0.0,)},
        {"action_low": (0.0,), "action_high": (1.0, 1.0)},
        {"action_low": (0.0,), "action_high": (0.0,)},
        {"action_low": (0.0,), "action_high": (float("inf"),)},
        {"action_low": (float("nan"),), "action_high": (1.0,)},
    ],
    ids=str,
)
def test_a_card_names_actions_of_one_kind(given: dict[str, Any]) -> None:
    with pytest.raises(DatasetInvalidError):
        DatasetCard(env_id="Pendulum-v1", **given)


def test_worked_numbers_of_continuous_actions() -> None:
    actions = np.array([[-2, 0], [0, 1], [2, 0.5], [1, 0.5], [-1, 0.5]], dtype=np.float32)
    densities = np.array([2, 4, 2, 1, 2], dtype=np.float32)
    found = summarise(replace(worked(), actions=actions, behaviour_probabilities=densities), BOX)
    assert found["actions"]["entries"] == [
        {"low": -2, "high": 2, "min": -2, "mean": 0, "max": 2, "spread": pytest.approx(2**0.5), "at_bounds": 0.4},
        {"low": 0, "high": 1, "min": 0, "mean": 0.5, "max": 1, "spread": pytest.approx(0.1**0.5), "at_bounds": 0.4},
    ]
    # -ln of 2, 4, 2, 1, 2 is -ln 2 times 1, 2, 1, 0, 1: an entropy of densities may be negative.
    assert found["propensities"]["action_entropy"] == pytest.approx(-math.log(2))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "one"},
        {"num_actions": True},
        {"details": None},
        {"colour": "red"},
        {"num_actions": 0, "action_low": [0.0], "action_high": "1"},
        {"num_actions": 0, "action_low": [0.0], "action_high": [True]},
    ],
    ids=str,
)
def test_a_card_of_other_fields_or_types_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DatasetInvalidError):
        DatasetCard.from_json({**CARD.to_json(), **change})
