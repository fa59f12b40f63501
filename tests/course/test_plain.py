"""What a process that nobody trusts may say, and how it is compared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from rlcourse.course.inside.calling import call, decode, encode
from rlcourse.course.plain import ReplyError, checked_outcome, difference, show_value

TENSOR = {"kind": "tensor", "dtype": "float32", "shape": [2], "data": [1.0, 2.0]}


def outcome(value: Any) -> dict[str, Any]:
    return {"value": value, "gradients": {}, "changed": []}


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1.5, -2.0]),
        torch.tensor([[1], [2]]),
        torch.tensor(True),
        torch.zeros(0, 3),
        0.5,
        3,
        True,
        "a",
        None,
    ],
)
def test_a_value_survives_the_journey(value: Any) -> None:
    assert encode(decode(encode(value))) == encode(value)
    assert checked_outcome(outcome(encode(value)))


def test_a_module_survives_the_journey() -> None:
    layer = nn.Linear(3, 2)
    assert encode(decode(encode(layer))) == encode(layer)
    assert encode((1.0, [layer]))["items"][1]["items"][0]["kind"] == "linear"


class AlwaysEqual:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class SlyTensor(torch.Tensor):
    pass


@pytest.mark.parametrize("value", [AlwaysEqual(), torch.zeros(2).as_subclass(SlyTensor), {"a": 1}, torch.zeros(20_000)])
def test_anything_else_travels_by_name_only(value: Any) -> None:
    assert set(encode(value)) == {"kind", "type"}


@pytest.mark.parametrize(
    "forged",
    [
        None,
        [],
        {},
        {"value": TENSOR},
        {"value": TENSOR, "gradients": {}, "changed": [], "more": 1},
        outcome({**TENSOR, "shape": [3]}),
        outcome({**TENSOR, "shape": [-2]}),
        outcome({**TENSOR, "shape": [True, 2]}),
        outcome({**TENSOR, "data": [1, 2]}),
        outcome({**TENSOR, "data": [1.0, "2"]}),
        outcome({**TENSOR, "dtype": "complex64"}),
        outcome({**TENSOR, "dtype": ["float32"]}),
        outcome({"kind": "float", "data": True}),
        outcome({"kind": "int", "data": 1.0}),
        outcome({"kind": "verdict", "data": "passed"}),
        outcome({"kind": ["tensor"]}),
        outcome({"kind": "tuple", "items": [{"kind": "tuple", "items": [{"kind": "tuple", "items": [outcome(1)]}]}]}),
        {"raised": "NotImplementedError"},
        {"raised": {"type": "E", "message": 3, "line": 0}},
        {"value": TENSOR, "gradients": {"x": 1}, "changed": []},
        {"value": TENSOR, "gradients": {}, "changed": [1]},
    ],
)
def test_a_reply_of_any_other_form_is_refused(forged: Any) -> None:
    with pytest.raises(ReplyError):
        checked_outcome(forged)


@pytest.mark.parametrize(
    ("got", "found"),
    [
        (torch.tensor([1.0, 2.0]), ""),
        (torch.tensor([1.0, 2.00001]), ""),
        (torch.tensor([1.0, 2.1]), "value"),
        (torch.tensor([1.0, math.nan]), "value"),
        (torch.tensor([1.0, math.inf]), "value"),
        (torch.tensor([[1.0, 2.0]]), "shape"),
        (torch.tensor([1.0, 2.0], dtype=torch.float64), "dtype"),
        (torch.tensor([1, 2]), "dtype"),
        ([1.0, 2.0], "type"),
        (None, "type"),
    ],
)
def test_difference_names_what_differs_first(got: Any, found: str) -> None:
    assert difference(encode(got), TENSOR, rtol=1e-4, atol=1e-5) == found


def test_difference_of_scalars_is_strict_about_types() -> None:
    assert difference(encode(True), encode(1), 1e-4, 1e-5) == "type"
    assert difference(encode(1), encode(1.0), 1e-4, 1e-5) == "type"
    assert difference(encode(math.nan), encode(math.nan), 1e-4, 1e-5) == ""
    assert difference(encode((1, 2)), encode((1,)), 1e-4, 1e-5) == "shape"


def test_only_infinity_is_infinite() -> None:
    for wanted in (math.inf, -math.inf):
        assert difference(encode(wanted), encode(wanted), 1e-4, 1e-5) == ""
        for got in (0.0, 1e300, -wanted, math.nan):
            assert difference(encode(got), encode(wanted), 1e-4, 1e-5) == "value"


def test_call_reports_value_gradient_and_changes() -> None:
    def double_and_spoil(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y.zero_()
        return 2 * x

    said = call(double_and_spoil, {"x": TENSOR, "y": TENSOR}, ["x"], "")
    assert said["value"]["data"] == [2.0, 4.0]
    assert said["gradients"]["x"]["data"] == [1.0, 3.0]  # weights 0.5 and 1.5, times 2
    assert said["changed"] == ["y"]


def test_call_reports_an_error_that_cannot_even_be_printed() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def fail() -> None:
        raise Silent

    assert call(fail, {}, [], "")["raised"] == {"type": "Silent", "message": "", "line": 0}


def test_show_value_reads_like_torch() -> None:
    assert show_value(encode(torch.tensor([[1.0, 2.5]]))) == "tensor([[1, 2.5]])"
    assert show_value(encode((0.5, [True], None))) == "(0.5, [True], None)"
    assert show_value(encode(AlwaysEqual())).endswith("AlwaysEqual")
