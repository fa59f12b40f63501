"""Settings of every test run."""

from __future__ import annotations

import torch

# One thread: two of them spend more time waiting for each other than working, most of all beside pytest-xdist.
torch.set_num_threads(1)
