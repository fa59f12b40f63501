"""Where tensors live, how many threads work on them, which library multiplies them: chosen here, never left to chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from rlcourse.errors import ConfigError, DeviceUnavailableError


def resolve_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device that exists.

    ``auto`` takes a CUDA device when there is one.  Small networks are often quicker on the CPU all the same: a
    64x64 network's update is shorter than the time it takes to ask a GPU for it.

    Raises:
        ConfigError: the name means nothing to torch.
        DeviceUnavailableError: torch knows the device, this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"There is no device called {name!r}.", mend="Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailableError(
            f"The device {name!r} was asked for, and torch sees {torch.cuda.device_count()} CUDA devices.",
            mend="Use --device cpu, or install a CUDA build of torch and its driver.",
        )
    return device


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` CPU threads inside the block.

    One for each run is right for the networks in this course. A second thread speeds up an update of a 256x256 network
    by about a quarter and one of a 64x64 network not at all (chapter 4 shows the measurement); the second core does
    more by running another run.
    """
    if count < 1:
        raise ConfigError(f"{count} threads cannot do any work.", mend="Use 1 or more.")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


WIDE = 192
"""Layers from this width on are quicker through oneDNN where MKL leaves half of the vector unit idle (measured on
AMD processors: 256x256 products run twice as fast, 128x128 alike, 64x64 slower)."""


@contextmanager
def wide_products(width: int) -> Iterator[None]:
    """Let oneDNN multiply float32 matrices on the CPU inside the block, if layers are wide and nothing is lost by it.

    torch hands such products to oneDNN only when it may round them to bfloat16. oneDNN does so on processors with
    matrix tiles (AMX) and keeps float32 on all others; :func:`products_keep_float32` tells which this one is. On a
    GPU nothing changes.

    Args:
        width: the widest hidden layer that will be multiplied.
    """
    if width < WIDE or not products_keep_float32():
        yield
        return
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


@cache
def products_keep_float32() -> bool:
    """Whether a product that *may* be rounded to bfloat16 is as exact as float32 on this machine; tried once."""
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    if switch is None or not hasattr(switch, "fp32_precision"):  # a torch older than this switch
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator, dtype=torch.float64) for _ in range(2))
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        error = ((a.float() @ b.float()).double() - a @ b).abs().max().item()
    finally:
        switch.fp32_precision = before
    return error < FLOAT32_ERROR


FLOAT32_ERROR = 2e-4
"""Largest error of a 256-term sum of standard normal products: about 4e-5 in float32, about 0.1 in bfloat16."""
