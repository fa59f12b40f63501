"""Reading plain data that came from a process nobody trusts, comparing it, and showing it to a person.

Everything here works on Python's own numbers, strings and lists. No object of a submission ever gets here, so none
can answer "yes, equal" for itself.
"""

from __future__ import annotations

import math
from typing import Any

from rlcourse.course.inside.calling import DTYPES, MAX_ELEMENTS, Plain

_SCALARS: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}
_DEPTH = 4


class ReplyError(ValueError):
    """A reply does not have the form that the worker writes."""


def checked_outcome(reply: Any) -> Plain:
    """The reply as an outcome, if it has exactly the right form.

    Raises:
        ReplyError: it has not.
    """
    if type(reply) is not dict:
        raise ReplyError("not an object")
    if set(reply) == {"raised"}:
        raised = reply["raised"]
        _require(type(raised) is dict and set(raised) == {"type", "message", "line"}, "error")
        _require(
            type(raised["type"]) is str and type(raised["message"]) is str and type(raised["line"]) is int, "error"
        )
        return reply
    _require(set(reply) == {"value", "gradients", "changed"}, "keys")
    _check_value(reply["value"], _DEPTH)
    _require(type(reply["gradients"]) is dict and type(reply["changed"]) is list, "gradients")
    for gradient in reply["gradients"].values():
        _check_value(gradient, 1)
    _require(all(type(name) is str for name in reply["changed"]), "changed")
    return reply


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ReplyError(what)


def _check_value(value: Any, depth: int) -> None:
    _require(depth > 0 and type(value) is dict and type(value.get("kind")) is str, "value")
    kind = value["kind"]
    if kind == "tensor":
        _check_tensor(value)
    elif kind == "linear":
        _require(set(value) == {"kind", "weight", "bias"}, kind)
        _check_value(value["weight"], 1)
        _check_value(value["bias"], 1)
    elif kind in _SCALARS:
        _require(set(value) == {"kind", "data"} and type(value["data"]) is _SCALARS[kind], kind)
    elif kind in ("tuple", "list"):
        _require(set(value) == {"kind", "items"} and type(value["items"]) is list and len(value["items"]) < 100, kind)
        for item in value["items"]:
            _check_value(item, depth - 1)
    elif kind == "other":
        _require(set(value) == {"kind", "type"} and type(value["type"]) is str, kind)
    else:
        _require(kind == "none" and set(value) == {"kind"}, kind)


def _check_tensor(value: Plain) -> None:
    _require(set(value) == {"kind", "dtype", "shape", "data"}, "tensor")
    dtype, shape, data = value["dtype"], value["shape"], value["data"]
    _require(type(dtype) is str and dtype in DTYPES and type(shape) is list and type(data) is list, "tensor")
    _require(all(type(size) is int and 0 <= size <= MAX_ELEMENTS for size in shape) and len(shape) < 10, "shape")
    _require(len(data) == math.prod(shape) and len(data) <= MAX_ELEMENTS, "data")
    element = bool if dtype == "bool" else int if dtype.startswith("int") else float
    _require(all(type(number) is element for number in data), "element")


def difference(got: Plain, wanted: Plain, rtol: float, atol: float) -> str:
    """What kind of thing differs first: ``type``, ``dtype``, ``shape``, ``value``, or ``""`` when nothing does."""
    if got["kind"] != wanted["kind"]:
        return "type"
    kind = wanted["kind"]
    if kind == "tensor":
        if got["shape"] != wanted["shape"]:
            return "shape"
        if got["dtype"] != wanted["dtype"]:
            return "dtype"
        return (
            "" if all(_close(a, b, rtol, atol) for a, b in zip(got["data"], wanted["data"], strict=True)) else "value"
        )
    if kind in ("tuple", "list"):
        if len(got["items"]) != len(wanted["items"]):
            return "shape"
        parts = zip(got["items"], wanted["items"], strict=True)
        return next((d for a, b in parts if (d := difference(a, b, rtol, atol))), "")
    if kind == "linear":
        names = ("weight", "bias")
        return next((d for name in names if (d := difference(got[name], wanted[name], rtol, atol))), "")
    if kind == "other":
        return "" if got["type"] == wanted["type"] else "type"
    return "" if kind == "none" or _close(got["data"], wanted["data"], rtol, atol) else "value"


def _close(a: Any, b: Any, rtol: float, atol: float) -> bool:
    if type(a) is not float or type(b) is not float:
        return type(a) is type(b) and a == b
    if math.isnan(b):
        return math.isnan(a)
    if math.isinf(b):
        return a == b  # a tolerance relative to infinity would let everything pass
    return abs(a - b) <= atol + rtol * abs(b)


def show_value(value: Plain) -> str:
    """A value in one line, as torch would print it."""
    kind = value["kind"]
    if kind == "tensor":
        note = "" if value["dtype"] in ("float32", "int64", "bool") else f", dtype={value['dtype']}"
        return f"tensor({_nested(value['data'], value['shape'])}{note})"
    if kind in ("tuple", "list"):
        inside = ", ".join(show_value(item) for item in value["items"])
        return f"({inside})" if kind == "tuple" else f"[{inside}]"
    if kind == "linear":
        return f"Linear(weight={show_value(value['weight'])}, bias={show_value(value['bias'])})"
    if kind == "other":
        return f"an object of type {value['type']}"
    return "None" if kind == "none" else _number(value["data"])


def _nested(data: list[Any], shape: list[int]) -> str:
    if not shape:
        return _number(data[0])
    step = len(data) // shape[0] if shape[0] else 0
    return "[" + ", ".join(_nested(data[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])) + "]"


def _number(value: Any) -> str:
    return f"{value:.4g}" if type(value) is float else repr(value)
