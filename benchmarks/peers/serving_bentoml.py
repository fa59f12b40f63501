"""BentoML with one worker. ``Single`` answers one observation, ``Batched`` a list of them, and joins the lists that wait.

POLICY=POLICY.pt bentoml serve serving_bentoml:Single --host 127.0.0.1 --port PORT
"""

from __future__ import annotations

import os
from typing import Any

import bentoml  # type: ignore[import-not-found]  # lives in an environment of its own
import torch

SETTINGS: dict[str, Any] = {"workers": 1, "logging": {"access": {"enabled": False}}}
ROUTE = "/predictions/rl_policy"


class Policy:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.module = torch.jit.load(os.environ["POLICY"])

    @torch.inference_mode()
    def __call__(self, rows: list[list[float]]) -> tuple[list[int], list[list[float]]]:
        actions, probabilities = self.module(torch.tensor(rows), torch.ones(len(rows), 2, dtype=torch.bool))
        return actions.tolist(), probabilities.tolist()


@bentoml.service(**SETTINGS)
class Single:
    def __init__(self) -> None:
        self.policy = Policy()

    @bentoml.api(route=ROUTE)  # type: ignore[untyped-decorator]
    async def predict(self, observation: list[float]) -> dict[str, Any]:
        actions, probabilities = self.policy([observation])
        return {"action": actions[0], "probabilities": probabilities[0]}


@bentoml.service(**SETTINGS)
class Batched:
    def __init__(self) -> None:
        self.policy = Policy()

    @bentoml.api(route=ROUTE, batchable=True, max_batch_size=16)  # type: ignore[untyped-decorator]
    async def predict(self, observation: list[list[float]]) -> list[dict[str, Any]]:
        actions, probabilities = self.policy(observation)
        return [{"action": a, "probabilities": p} for a, p in zip(actions, probabilities, strict=True)]
