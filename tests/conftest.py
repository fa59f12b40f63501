"""Settings of every test run."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
import torch

# One thread: two of them spend more time waiting for each other than working, most of all beside pytest-xdist.
torch.set_num_threads(1)


@pytest.fixture
def hear_ctrl_c() -> Callable[[], None]:
    """For ``preexec_fn``: a shell starts background jobs deaf to Ctrl-C, and their children inherit that."""

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return hear
