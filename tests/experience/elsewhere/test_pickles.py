"""Pickles: arrays get in, code does not."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rlcourse.errors import DatasetCorruptError, DatasetUntrustedError
from rlcourse.experience.elsewhere.pickles import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(data: bytes) -> Any:
    return read_pickle(io.BytesIO(data), "log.pkl")


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], item) for key, item in expected.items())
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


KINDS = [np.float32, np.float64, np.int64, np.int8, np.uint8, np.bool_, np.dtype(">f8"), np.dtype("U5"), np.dtype("S3")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_arrays_come_back_whatever_the_protocol(kind: Any, protocol: int) -> None:
    values = np.arange(6).reshape(2, 3).astype(kind)
    for array in (values, np.asfortranarray(values), values[:, ::2], values[:0], values[0, 0], np.array(values[0, 0])):
        found = np.asarray(read(pickle.dumps(array, protocol=protocol)))
        native = np.asarray(array).dtype.newbyteorder("=")
        assert found.dtype == native and np.array_equal(found, np.asarray(array))


@given(
    st.dictionaries(st.text(max_size=5), arrays.arrays(np.float32, st.integers(0, 5)), max_size=3),
    st.sampled_from(PROTOCOLS),
)
@settings(max_examples=40, deadline=None)
def test_dictionaries_of_arrays_come_back(content: dict[str, Any], protocol: int) -> None:
    assert same(read(pickle.dumps(content, protocol=protocol)), content)
    assert same(read(pickle.dumps([content, OrderedDict(content)], protocol=protocol)), [content, content])


def test_an_array_of_arrays_comes_back_as_a_list_of_them() -> None:
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.arange(3.0), np.arange(2.0)]
    assert same(read(pickle.dumps({"observations": ragged})), {"observations": list(ragged)})


class Runs:
    """A program in the place of data."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def harmful(marker: Path) -> dict[str, Any]:
    touch = f"open({str(marker)!r}, 'w')"
    return {
        "os.system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(eval, touch),
        "exec": Runs(exec, touch),
        "open": Runs(open, str(marker), "w"),
        "subprocess": Runs(subprocess.check_call, ["touch", str(marker)]),
        "getattr": Runs(getattr, [], "append"),
        "numpy.load": Runs(np.load, str(marker)),
        "among arrays": {"observations": np.zeros(3), "infos": [{"x": Runs(os.system, f"touch {marker}")}]},
        "in an array of objects": np.array([Runs(os.system, f"touch {marker}")], dtype=object),
        "as a key": {Runs(os.system, f"touch {marker}"): 1},
        "a path": marker,
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", harmful(Path("x")))
def test_a_program_is_refused_and_has_not_run(name: str, protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data = pickle.dumps(harmful(marker)[name], protocol=protocol)
    with pytest.raises(DatasetUntrustedError, match="asks for") as caught:
        read(data)
    assert "Do not open it" in caught.value.mend
    assert not marker.exists()


def test_the_marker_would_have_been_noticed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(harmful(marker)["os.system"]))
    assert marker.exists()


def program(*lines: bytes) -> bytes:
    return b"".join(lines)


GLOBAL_ORDERED, GLOBAL_DTYPE = b"ccollections\nOrderedDict\n", b"cnumpy\ndtype\n"
HAND_WRITTEN = {
    # BUILD with a state upon a class, and upon a function: a careless reader lets a file write to the program itself.
    "state for a class": program(GLOBAL_ORDERED, b"(dS'__eq__'\nI1\ns", b"b", b"."),
    "slots for a class": program(GLOBAL_ORDERED, b"(N(dS'items'\nI1\nst", b"b", b"."),
    "slots for a function": program(b"c_codecs\nencode\n", b"(N(dS'__doc__'\nI1\nst", b"b", b"."),
    "a type with flags of objects": program(
        GLOBAL_DTYPE, b"(S'f8'\nI00\nI01\ntR", b"(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb", b"."
    ),
    "a type of addresses": program(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR",
        b"(I1\n(I1\nt", GLOBAL_DTYPE, b"(S'O8'\nI0\nI1\ntR", b"I00\nS'12345678'\ntb.",
    ),
    "records": program(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR",
        b"(I1\n(I1\nt", GLOBAL_DTYPE, b"(S'V8'\nI0\nI1\ntR", b"I00\nS'12345678'\ntb.",
    ),
    "more rows than bytes": program(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR",
        b"(I1\n(I9999999999\nt", GLOBAL_DTYPE, b"(S'f8'\nI0\nI1\ntR", b"I00\nS'12345678'\ntb.",
    ),
    "rows of negative number": program(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR",
        b"(I1\n(I-1\nt", GLOBAL_DTYPE, b"(S'f8'\nI0\nI1\ntR", b"I00\nS'12345678'\ntb.",
    ),
    "bytes in another code": program(b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR."),
    "an array that was never filled": program(b"cnumpy\nndarray\n(tR."),
    "a class": program(GLOBAL_ORDERED, b"."),
    "something kept elsewhere": b"Pelsewhere\n.",
    "an extension": b"\x82\x01.",
    "nothing": b"",
    "half of one": pickle.dumps(np.arange(100))[:60],
    "noise": bytes(range(256)),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_what_is_no_pickle_of_arrays_is_an_error_and_leaves_no_trace(name: str) -> None:
    before = pickle.dumps({"observations": np.arange(3.0), "more": OrderedDict(a=1)}, protocol=2)
    if name.startswith(("state", "slots", "a type", "records", "more", "rows")):
        pickletools.dis(HAND_WRITTEN[name], out=io.StringIO())  # a well-formed program, wrong only in what it says
    # A type by itself is what pickles of arrays begin with; it is no data either.
    with pytest.raises((DatasetCorruptError, DatasetUntrustedError)):
        read(HAND_WRITTEN[name])
    assert same(read(before), {"observations": np.arange(3.0), "more": {"a": 1}})


def test_one_list_named_a_billion_times_is_resolved_once() -> None:
    nested: list[Any] = [1]
    for _ in range(30):
        nested = [nested] * 10
    assert len(read(pickle.dumps(nested))) == 10


def test_containers_that_hold_themselves_or_lie_too_deep_are_an_error() -> None:
    itself: list[Any] = []
    itself.append(itself)
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    for content in (itself, deep):
        with pytest.raises(DatasetCorruptError, match="deep"):
            read(pickle.dumps(content))
