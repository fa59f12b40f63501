"""What TorchServe's worker runs for each batch of requests. It goes into the archive and needs torch alone.

A request is JSON::

    {"observation": [0.1, 0, -0.02, 0], "mask": [true, false], "memory": [...], "greedy": true}

``observation`` may be a list of rows; the answer then holds lists, too. ``mask`` and ``memory`` are for policies that
take them; ``greedy`` is true unless said otherwise, and may be called ``deterministic``, as our own service calls it. The
answer is ``{"action": ..., "version": ...}`` with ``probabilities`` where actions are counted and ``memory`` where the
policy has one. A request that makes no sense is answered with status 400 and does not disturb the others in its batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DESCRIPTION = "served.json"


class PolicyHandler:
    """TorchServe makes one, calls :meth:`initialize` once and :meth:`handle` for every batch."""

    def initialize(self, context: Any) -> None:
        """Read the policy that lies beside this file, and refuse another one.

        Raises:
            ValueError: the policy is not the one that was archived.
        """
        folder = Path(context.system_properties["model_dir"])
        self.about: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        file = folder / context.manifest["model"]["serializedFile"]
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != self.about["sha256"]:
            raise ValueError(f"{file.name} has SHA-256 {found}, and {self.about['sha256']} was archived.")
        torch.set_num_threads(1)  # a second one makes a small network slower
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            self.module = torch.jit.load(str(file), map_location="cpu").eval()

    @torch.inference_mode()
    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """One answer for each request, all of them computed at once."""
        asked: list[dict[str, Any]] = []
        answers: dict[int, dict[str, Any]] = {}
        for place, request in enumerate(data):
            try:
                asked.append({"place": place, **self.read(request)})
            except (ValueError, TypeError, KeyError) as error:
                context.set_response_status(400, "Bad Request", place)
                answers[place] = {"error": str(error)}
        if asked:
            inputs = [torch.cat([one[name] for one in asked]) for name in self.about["inputs"]]
            outputs = dict(zip(self.about["outputs"], self.module(*inputs), strict=True))
            start = 0
            for one in asked:
                rows = slice(start, start := start + one["observation"].shape[0])
                answers[one["place"]] = self.answer(one, {name: value[rows] for name, value in outputs.items()})
        for place in range(len(data)):
            context.set_response_content_type(place, "application/json")
        return [json.dumps(answers[place]) for place in range(len(data))]

    def read(self, request: dict[str, Any]) -> dict[str, Any]:
        """Tensors from one request.

        Raises:
            ValueError: it is not JSON, something has the wrong size, or something is no number.
            TypeError: something is of the wrong kind.
        """
        body = request.get("body", request.get("data"))
        if isinstance(body, bytes | bytearray | str):
            body = json.loads(body)
        if not isinstance(body, dict) or "observation" not in body:
            raise ValueError('Send a JSON object with an "observation".')
        unknown = set(body) - {"observation", "greedy", "deterministic", *self.about["inputs"]}
        if unknown:
            raise ValueError(f"{min(unknown)!r} means nothing to this policy.")
        sizes = {"observation": self.about["obs_size"], "mask": self.about["num_actions"]}
        sizes["memory"] = len(self.about["first_memory"])
        batched = (
            isinstance(body["observation"], list)
            and body["observation"][:1]
            and isinstance(body["observation"][0], list)
        )
        rows = len(body["observation"]) if batched else 1
        said = [body[name] for name in ("greedy", "deterministic") if name in body] or [True]
        if not all(isinstance(value, bool) for value in said) or len(set(said)) > 1:
            raise ValueError("greedy, or deterministic, which means the same, must be true or false.")
        read: dict[str, Any] = {"batched": bool(batched), "greedy": said[0]}
        for name in self.about["inputs"]:
            value = body.get(name)
            if value is None and name == "mask":
                value = [[True] * sizes[name]] * rows
            elif value is None and name == "memory":
                value = [self.about["first_memory"]] * rows
            elif not batched:
                value = [value]
            read[name] = self.tensor(name, value, (rows, sizes[name]))
        return read

    @staticmethod
    def tensor(name: str, value: Any, shape: tuple[int, int]) -> Tensor:
        """One named input, checked.

        Raises:
            ValueError: wrong size, or not finite, or nothing is allowed.
        """
        kinds = (bool,) if name == "mask" else (int, float)
        right = isinstance(value, list) and len(value) == shape[0]
        right = right and all(isinstance(row, list) and len(row) == shape[1] for row in value)
        if not right or not all(type(item) in kinds for row in value for item in row):
            raise ValueError(f"{name} must be {shape[1]} {'booleans' if name == 'mask' else 'numbers'} for each row.")
        if name == "mask":
            if not all(map(any, value)):
                raise ValueError("A mask must allow at least one action.")
            return torch.tensor(value)
        try:
            read = torch.tensor(value, dtype=torch.float32)
        except (OverflowError, RuntimeError) as error:
            raise ValueError(f"{name} holds a number that is too large.") from error
        if not (torch.isfinite(read).all() and all(math.isfinite(item) for row in value for item in row)):
            raise ValueError(f"{name} holds something that is no finite number.")
        return read

    def answer(self, asked: dict[str, Any], outputs: dict[str, Tensor]) -> dict[str, Any]:
        """What one request gets back."""
        action = outputs["action"] if asked["greedy"] else self.sample(outputs)
        told = [name for name in ("probabilities", "memory") if name in outputs]
        tensors: dict[str, Tensor] = {"action": action, **{name: outputs[name] for name in told}}
        values: dict[str, Any] = {name: value.tolist() for name, value in tensors.items()}
        if not asked["batched"]:
            values = {name: rows[0] for name, rows in values.items()}
        values["version"] = self.about["version"]
        return values

    def sample(self, outputs: dict[str, Tensor]) -> Tensor:
        """Draw instead of taking the best."""
        if "probabilities" in outputs:
            return torch.multinomial(outputs["probabilities"], 1).squeeze(-1)
        drawn = outputs["mean"] + outputs["std"] * torch.randn_like(outputs["mean"])
        if not self.about["low"]:
            return drawn
        low, high = torch.tensor(self.about["low"]), torch.tensor(self.about["high"])
        if self.about["head"] != "squashed_gaussian":
            return drawn.clamp(low, high)  # a draw may lie outside; the environment takes none that does
        return (high + low) / 2 + (high - low) / 2 * drawn.tanh()
