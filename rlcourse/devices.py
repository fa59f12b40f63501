"""Where tensors live and how many threads work on them: chosen here, never left to chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    One is right for the networks in this course: splitting a 256x256 multiplication over two threads costs more in
    waiting than it saves in work (chapter 4 shows the measurement).
    """
    if count < 1:
        raise ConfigError(f"{count} threads cannot do any work.", mend="Use 1 or more.")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
