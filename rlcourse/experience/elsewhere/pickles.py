"""Pickles that hold NumPy arrays and plain containers, read without running anything that they ask for.

A pickle is a program. Python's own reader imports whatever it names and calls it with whatever it likes, so a file from
somebody else can do on this machine what its reader may do. Here the program may name a handful of things, and even
those are stand-ins that take notes: an array is built from the notes afterwards, by checks of our own. (NumPy's reader is
not asked either: it believes what a pickle says about a type, and a wrong word there corrupts memory.)
"""

from __future__ import annotations

import math
import pickle
import re
from typing import IO, Any, ClassVar, Literal

import numpy as np

from rlcourse.errors import DatasetCorruptError, DatasetUntrustedError

_NUMBERS = re.compile(r"[biuf](1|2|4|8)|U\d{1,4}|S\d{1,4}")
_TROUBLE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)  # what a broken or hostile program makes the reader raise
DEEPEST = 50
"""Containers within containers; a log needs three or four."""


def read_pickle(file: IO[bytes], where: str) -> Any:
    """Plain containers, numbers, text and arrays; nothing else gets in.

    Args:
        file: at the beginning of the pickle.
        where: its name, for the error.

    Raises:
        DatasetUntrustedError: it names something that no array and no container needs.
        DatasetCorruptError: it cannot be read.
    """
    try:
        return _Resolver().resolved(_Reader(file, where).load())
    except _TROUBLE as error:
        raise DatasetCorruptError(
            f"{where} cannot be read as a pickle of arrays: {error}.",
            mend="Write the log again, best as .npz or .hdf5, from where it can be read.",
        ) from error


class _Type:
    """Stands for ``numpy.dtype``: remembers its name and byte order."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        self.name = name
        self.order: Literal["<", ">", "="] = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = "<" if state[1] == "<" else ">" if state[1] == ">" else "="

    def of_numbers(self) -> np.dtype[Any]:
        if not isinstance(self.name, str) or not _NUMBERS.fullmatch(self.name):
            raise ValueError(f"arrays of {self.name!r} are no data")
        return np.dtype(self.name).newbyteorder(self.order)


class _Array:
    """Stands for an array: remembers its shape, its type and its bytes."""

    def __init__(self, *given: Any) -> None:
        """What numpy._reconstruct is given is overruled by the state that follows."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.kind, self.by_columns, self.data = state

    @property
    def of_objects(self) -> bool:
        return isinstance(self.kind, _Type) and self.kind.name in ("O", "O8")

    def checked_shape(self) -> tuple[int, ...]:
        shape = tuple(self.shape)
        if not isinstance(self.kind, _Type) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("an array without a type or a shape")
        return shape

    def numbers(self) -> Any:
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        flat = np.frombuffer(bytes(data), self.kind.of_numbers())  # checks that the bytes are whole numbers
        shaped = flat.reshape(self.checked_shape(), order="F" if self.by_columns else "C")
        return shaped.astype(flat.dtype.newbyteorder("="))


class _Buffer(_Array):
    """Stands for an array of protocol 5, which is made at once."""

    def __init__(self, data: Any, kind: Any, shape: Any, order: str) -> None:
        self.__setstate__((1, shape, kind, order == "F", data))


class _Scalar(_Array):
    """Stands for one NumPy number."""

    def __init__(self, kind: Any, data: Any) -> None:
        self.__setstate__((1, (), kind, False, data))


class _Bytes:
    """Stands for ``_codecs.encode``, with which protocol 2 writes bytes as text."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes written as {encoding!r}")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise ValueError("text with a state")


class _NoBytes:
    """Stands for ``bytes()``, with which protocol 2 writes none at all."""

    def __new__(cls) -> Any:
        return b""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("bytes with a state")


class _Ordered(dict[Any, Any]):
    """Stands for ``collections.OrderedDict``."""

    # A class without this method would let a pickle write to the class itself.
    def __setstate__(self, state: Any) -> None:
        raise ValueError("a dictionary with a state")


class _Reader(pickle.Unpickler):
    KNOWN: ClassVar[dict[tuple[str, str], type]] = {
        ("numpy", "dtype"): _Type,
        ("numpy", "ndarray"): _Array,  # only ever the first argument of _reconstruct
        ("collections", "OrderedDict"): _Ordered,
        ("_codecs", "encode"): _Bytes,
        ("builtins", "bytes"): _NoBytes,
        ("__builtin__", "bytes"): _NoBytes,  # the same in Python 2
    } | {
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _Buffer),
        )
    }

    def __init__(self, file: IO[bytes], where: str) -> None:
        super().__init__(file)
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise DatasetUntrustedError(
                f"{self.where} asks for {module}.{name}, which no array and no plain container needs.",
                mend="Do not open it. Ask whoever wrote it for .npz, .hdf5, .csv or .parquet.",
            )
        return self.KNOWN[module, name]


class _Resolver:
    """Turns stand-ins into what they stand for, each once: a small pickle can name one list a billion times."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}  # by identity; the containers stay alive until everything is resolved

    def resolved(self, value: Any, depth: int = DEEPEST) -> Any:
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if depth == 0:
            raise ValueError(f"containers lie more than {DEEPEST} deep")
        if id(value) not in self.done:
            self.done[id(value)] = self._fresh(value, depth - 1)
        return self.done[id(value)]

    def _fresh(self, value: Any, depth: int) -> Any:
        if isinstance(value, _Array):
            return self._objects(value, depth) if value.of_objects else value.numbers()
        if isinstance(value, dict):
            return {self.resolved(key, depth): self.resolved(item, depth) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.resolved(item, depth) for item in value]
        raise ValueError(f"a {type(value).__name__} is no data")

    def _objects(self, array: _Array, depth: int) -> Any:
        """An array of objects as a plain list; with several axes as one list after the other."""
        shape = array.checked_shape()
        if not isinstance(array.data, list) or len(array.data) != math.prod(shape):
            raise ValueError("an array of objects without its objects")
        found = [self.resolved(item, depth) for item in array.data]
        return found if shape else found[0]
