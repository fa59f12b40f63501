"""Calling an answer with plain data and getting plain data back.

The reader's own check and the grader's worker process share this file, so both see an answer through the same eyes.
It holds no answers, imports nothing of the course, and is what the sandbox may read.

A value travels as a small dictionary::

    {"kind": "tensor", "dtype": "float32", "shape": [2], "data": [1.0, 2.0]}
    {"kind": "float", "data": 0.9}          also int, bool, str, none
    {"kind": "tuple", "items": [...]}       also list
    {"kind": "linear", "weight": ..., "bias": ...}      an nn.Linear
    {"kind": "other", "type": "numpy.ndarray"}          anything else; only its name travels
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Plain = dict[str, Any]

DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.bool)
}
MAX_ELEMENTS = 10_000


def encode(value: Any) -> Plain:
    """A value as plain data. Types are compared exactly: a subclass that overrides ``==`` is ``other``."""
    kind = type(value)
    if kind is Tensor or kind is nn.Parameter:
        return _encode_tensor(value.detach())
    if kind is nn.Linear:
        return {"kind": "linear", "weight": encode(value.weight), "bias": encode(value.bias)}
    if kind in (float, int, bool, str):
        return {"kind": kind.__name__, "data": value}
    if value is None:
        return {"kind": "none"}
    if kind in (tuple, list):
        return {"kind": kind.__name__, "items": [encode(item) for item in value]}
    return {"kind": "other", "type": f"{kind.__module__}.{kind.__qualname__}"}


def _encode_tensor(value: Tensor) -> Plain:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES or value.numel() > MAX_ELEMENTS:
        return {"kind": "other", "type": f"a tensor of {value.numel()} {dtype}"}
    return {"kind": "tensor", "dtype": dtype, "shape": list(value.shape), "data": value.cpu().reshape(-1).tolist()}


def decode(plain: Plain) -> Any:
    """The inverse of :func:`encode`, for everything but ``other``."""
    kind = plain["kind"]
    if kind == "tensor":
        return torch.tensor(plain["data"], dtype=DTYPES[plain["dtype"]]).reshape(plain["shape"])
    if kind == "linear":
        weight = decode(plain["weight"])
        module = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            module.weight.copy_(weight)
            module.bias.copy_(decode(plain["bias"]))
        return module
    if kind in ("tuple", "list"):
        items = [decode(item) for item in plain["items"]]
        return tuple(items) if kind == "tuple" else items
    return None if kind == "none" else plain["data"]


def call(function: Callable[..., Any], arguments: Mapping[str, Plain], gradient_of: list[str], observe: str) -> Plain:
    """Call ``function`` once and say everything about it that a case may compare.

    Args:
        function: the answer.
        arguments: its arguments by position, named for the messages.
        gradient_of: arguments whose gradient is part of the answer.
        observe: the argument whose state afterwards is the answer, for functions that work in place; ``""`` takes
            what the function returns.

    Returns:
        ``{"value", "gradients", "changed"}``, or ``{"raised": {"type", "message", "line"}}``.
    """
    given = {name: decode(plain) for name, plain in arguments.items()}
    for name in gradient_of:
        given[name].requires_grad_(True)
    try:
        result = function(*given.values())
    except Exception as error:  # an answer may raise anything; whatever it is belongs in the verdict
        return {"raised": describe_error(error)}
    answer = given[observe] if observe else result
    changed = [name for name, plain in arguments.items() if name != observe and not _same_state(given[name], plain)]
    try:
        gradients = _gradients(answer, {name: given[name] for name in gradient_of})
    except Exception as error:  # a broken graph is the answer's fault, and is reported like any other
        return {"raised": describe_error(error)}
    return {"value": encode(answer), "gradients": gradients, "changed": changed}


def _same_state(value: Any, plain: Plain) -> bool:
    return bool(repr(encode(value)) == repr(plain))


def _gradients(answer: Any, wanted: Mapping[str, Tensor]) -> dict[str, Plain]:
    """Gradients of a weighted sum of the answer; weights all differ, so no two errors can cancel."""
    parts = [part for part in (answer if type(answer) is tuple else (answer,)) if isinstance(part, Tensor)]
    parts = [part for part in parts if part.requires_grad]
    if wanted and parts:
        sums = [(part.flatten() * torch.linspace(0.5, 1.5, part.numel())).sum() for part in parts]
        torch.autograd.backward(sums)
    return {name: encode(tensor.grad) for name, tensor in wanted.items()}


def describe_error(error: BaseException) -> Plain:
    """An exception as plain data: its type, its message and the line of the answer it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename.startswith("submission/")]
    return {
        "type": type(error).__name__,
        "message": _first_line(error),
        "line": lines[-1] if lines and lines[-1] else 0,
    }


def _first_line(error: BaseException) -> str:
    try:
        return (str(error).splitlines() or [""])[0][:300]
    except Exception:  # str() of an answer's own exception runs the answer's code
        return ""
