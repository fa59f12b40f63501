"""The safe baseline: a thermostat with a stage for every level, which looks at the inlet temperature and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from rlcourse.environments.server_room.room import NUM_LEVELS
from rlcourse.errors import ConfigError
from rlcourse.networks import ScriptedPolicy


def thermostat(*, first_stage_c: float = 25.5, stage_k: float = 0.4) -> ScriptedPolicy:
    """Each stage adds a quarter of the cooling while the inlet is above its threshold."""
    if stage_k <= 0.0:
        raise ConfigError(f"Stages {stage_k} K apart.", mend="Use a distance above 0.")

    def stages(obs: Tensor) -> Tensor:
        return (((obs[:, 0] - first_stage_c) / stage_k).floor() + 1.0).clamp(0, NUM_LEVELS - 1).to(torch.int64)

    return ScriptedPolicy(stages, NUM_LEVELS)
