"""A saved policy that acts in NumPy, without torch: what a service runs.

A network of a few thousand weights is done in microseconds; what costs is calling a framework, so none is called.
All numbers are float32, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from rlcourse.deployment.description import PolicyDescription
from rlcourse.deployment.stored import read_stored
from rlcourse.errors import ArtifactError, ShapeError

Floats = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]
LOWEST = np.finfo(np.float32).min
"""What a forbidden action's score becomes, as in training: the smallest finite number."""
ZERO = np.zeros((), np.float32)
FEW = 16
"""Up to so many actions, one row's probabilities are computed faster in Python than in NumPy."""
LOG_STD = (-20.0, 2.0)
"""A squashed Gaussian's log-spreads are kept within these, as in training."""


class Acted(NamedTuple):
    """What a policy answers to ``B`` observations."""

    actions: npt.NDArray[Any]  # (B,) int64, or (B, K) float32
    probabilities: Floats | None  # (B, A) among the allowed actions; None where actions are continuous
    memory: Floats | None  # (B, H) what to remember; None for a policy without memory


class NumpyPolicy:
    """A policy of any kind that can be saved, in NumPy.

    Not for training: weights are read once. It is safe to call from several threads.
    """

    def __init__(self, description: PolicyDescription, weights: Mapping[str, npt.NDArray[Any]], version: str = ""):
        """Raises :class:`ArtifactError` where the weights do not fit the description."""
        self.description = description
        self.version = version
        self.obs_size = description.obs_size
        self.num_actions = description.num_actions
        self.memory_size = description.memory_size
        try:
            self._read(weights)
        except KeyError as error:
            raise ArtifactError(f"The weights lack {error}.", mend="Save the policy again.") from error

    @classmethod
    def load(cls, source: Path) -> NumpyPolicy:
        """Read and verify a folder or a file that :class:`~rlcourse.deployment.artifact.PolicyArtifact` saved.

        Raises:
            ArtifactError: missing, damaged, or of another format.
        """
        stored = read_stored(source)
        try:
            weights = load(stored.weights)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ArtifactError(
                f"{source} does not hold a policy: {error}.", mend="Name the folder or file that a save made."
            ) from error
        return cls(stored.description, weights, stored.version)

    def first_memory(self, batch_size: int) -> Floats:
        """``(B, H)``: what an episode begins with."""
        return np.tile(np.array(self.description.first_memory, np.float32), (batch_size, 1))

    def act(
        self,
        obs: Floats,
        *,
        greedy: bool,
        generator: np.random.Generator | None = None,
        mask: Masks | None = None,
        memory: Floats | None = None,
    ) -> Acted:
        """Choose actions.

        Args:
            obs: ``(B, D)`` float32.
            greedy: take the best-looking action instead of sampling one.
            generator: where the randomness comes from; needed unless ``greedy``.
            mask: ``(B, A)`` true where an action is allowed, at least one in each row; ``None`` allows all.
            memory: ``(B, H)`` after the last step; ``None`` where an episode begins.

        Raises:
            ShapeError: something does not fit, no action is allowed, or there is nothing to sample with.
        """
        if not greedy and generator is None:
            raise ShapeError("There is no randomness to sample with.", mend="Give a generator, or act greedily.")
        if self._plain and mask is None and obs.shape == self._mean.shape:
            return self._act_one(obs, None if greedy else generator)
        scores, memory = self._scores(obs, mask, memory)
        if self.description.head == "logits":
            probabilities = softmax(scores)
            actions = scores.argmax(-1) if generator is None or greedy else draw(probabilities, generator)
            return Acted(actions, probabilities, memory)
        if self.description.head == "q":
            actions = scores.argmax(-1)
            return Acted(actions, _certain(scores, actions), memory)
        return Acted(self._continuous(scores, None if greedy else generator), None, memory)

    def distribution(self, obs: Floats, mask: Masks | None = None, memory: Floats | None = None) -> dict[str, Floats]:
        """What :meth:`act` draws from.

        Returns:
            ``probabilities`` ``(B, A)`` or, where actions are continuous, ``mean`` and ``std`` ``(B, K)`` before squashing
            and clipping; and ``memory`` ``(B, H)`` where there is one.
        """
        scores, memory = self._scores(obs, mask, memory)
        remembered = {} if memory is None else {"memory": memory}
        if self.description.head == "logits":
            return {"probabilities": softmax(scores), **remembered}
        if self.description.head == "q":
            return {"probabilities": _certain(scores, scores.argmax(-1)), **remembered}
        mean, std = self._normal(scores)
        return {"mean": mean, "std": std}

    def _read(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        about = self.description
        shapes = _shapes(about)
        for name, shape in shapes.items():
            found = weights[name]
            if found.shape != shape or found.dtype != np.float32:
                raise ArtifactError(
                    f"{name} has shape {found.shape} of {found.dtype}, and the description wants {shape} of float32.",
                    mend="Save the policy again.",
                )
        surplus = set(weights) - set(shapes)
        if surplus:
            raise ArtifactError(f"The weights do not fit: {min(surplus)} is not used.", mend="Save the policy again.")
        # Vectors are kept as (1, N): NumPy takes 2 µs to stretch one over a single row, and 0.6 µs if it is a row already.
        self._plain = False  # see _act_one
        self._mean, self._scale = _row(weights["normaliser.mean"]), _row(weights["normaliser.scale"])
        if about.network == "recurrent":
            self._gates = {
                name: _row(value) if value.ndim == 1 else _transposed(value)
                for name, value in weights.items()
                if "critic" not in name
            }
            return
        count = len(about.hidden) + 1
        # Transposed and contiguous once, so that each product reads memory in a row.
        self._layers = [
            (_transposed(weights[f"layers.{2 * layer}.weight"]), _row(weights[f"layers.{2 * layer}.bias"]))
            for layer in range(count)
        ]
        self._activation = np.tanh if about.activation == "tanh" else _relu
        plain = about.network == "mlp" and about.head == "logits" and about.activation == "relu"
        self._plain = plain and self.num_actions <= FEW
        if not about.discrete:
            low, high = np.array(about.low, np.float32), np.array(about.high, np.float32)
            self._low, self._high = low, high
            self._centre: Floats = ((high + low) / np.float32(2)).astype(np.float32)
            self._half: Floats = ((high - low) / np.float32(2)).astype(np.float32)
        if about.head == "gaussian":
            self._std = np.exp(weights["log_std"])

    def _scores(self, obs: Floats, mask: Masks | None, memory: Floats | None) -> tuple[Floats, Floats | None]:
        """Logits, Q-values, or what a continuous head makes of an observation; and the next memory."""
        if obs.ndim != 2 or obs.shape[1] != self.obs_size:
            raise ShapeError(
                f"Observations have shape {obs.shape}.", mend=f"Use (B, {self.obs_size}): one row for each."
            )
        x: Floats = obs - self._mean
        x *= self._scale
        if self.memory_size:
            memory = self._remember(x, memory)
            scores = memory.dot(self._gates["actor.0.weight"]) + self._gates["actor.0.bias"]
        else:
            scores, memory = self._forward(x), None
        if mask is not None:
            self._check(mask, scores)
            scores = np.where(mask, scores, LOWEST)
        return scores, memory

    def _act_one(self, obs: Floats, generator: np.random.Generator | None) -> Acted:
        """The same for one row, with as few calls as it can be done: a service is asked this thousands of times a second."""
        x = obs - self._mean
        x *= self._scale
        for weight, bias in self._layers[:-1]:
            x = x.dot(weight)
            x += bias
            np.maximum(x, ZERO, out=x)
        weight, bias = self._layers[-1]
        x = x.dot(weight)
        x += bias
        (scores,) = x.tolist()
        largest = max(scores)
        # Something that is no number makes the sum, and so every probability, no number.
        powers = [math.exp(score - largest) for score in scores] if math.isfinite(largest) else [math.nan] * len(scores)
        total = sum(powers)
        probabilities = np.array([[power / total for power in powers]], np.float32)
        actions = np.array([scores.index(largest)]) if generator is None else draw(probabilities, generator)
        return Acted(actions, probabilities, None)

    def _forward(self, x: Floats) -> Floats:
        weight, bias = self._layers[0]
        x = x.dot(weight)
        x += bias
        for weight, bias in self._layers[1:]:
            self._activation(x, out=x)
            x = x.dot(weight)
            x += bias
        if self.description.network == "dueling":
            advantage = x[:, 1:]
            x = x[:, :1] + advantage - advantage.mean(-1, keepdims=True)
        elif self.description.network == "bounded":
            x = self._centre + self._half * np.tanh(x)
        return x

    def _remember(self, x: Floats, memory: Floats | None) -> Floats:
        if memory is None:
            memory = self.first_memory(len(x))
        if memory.shape != (len(x), self.memory_size):
            raise ShapeError(
                f"Memories have shape {memory.shape}.", mend=f"Use ({len(x)}, {self.memory_size}): one for each row."
            )
        gates = self._gates
        features = _relu(x.dot(gates["features.weight"]) + gates["features.bias"])
        seen = features.dot(gates["cell.weight_ih"]) + gates["cell.bias_ih"]
        kept = memory.dot(gates["cell.weight_hh"]) + gates["cell.bias_hh"]
        size = self.memory_size
        reset, update = np.split(_logistic(seen[:, : 2 * size] + kept[:, : 2 * size]), 2, -1)
        new = np.tanh(seen[:, 2 * size :] + reset * kept[:, 2 * size :])
        remembered: Floats = new + update * (memory - new)
        return remembered

    def _check(self, mask: Masks, scores: Floats) -> None:
        if not self.description.takes_mask:
            raise ShapeError("Continuous actions cannot be masked.", mend="Leave the mask away.")
        if mask.shape != scores.shape or mask.dtype != np.bool_:
            raise ShapeError(
                f"The mask has shape {mask.shape} of {mask.dtype}.",
                mend=f"Use {scores.shape} of bool, one for each action.",
            )
        if not mask.any(-1).all():
            raise ShapeError("A mask allows no action at all.", mend="Allow at least one in each row.")

    def _normal(self, scores: Floats) -> tuple[Floats, Floats]:
        if self.description.head == "gaussian":
            return scores, np.broadcast_to(self._std, scores.shape)
        if self.description.head == "deterministic":
            return scores, np.zeros_like(scores)
        mean, log_std = np.split(scores, 2, -1)
        return mean, np.exp(np.clip(log_std, *LOG_STD))

    def _continuous(self, scores: Floats, generator: np.random.Generator | None) -> Floats:
        mean, std = self._normal(scores)
        sampled = mean
        if generator is not None and self.description.head != "deterministic":
            sampled = mean + std * generator.standard_normal(mean.shape, dtype=np.float32)
        if self.description.head == "squashed_gaussian":
            sampled = self._centre + self._half * np.tanh(sampled)
        elif generator is None:
            sampled = np.clip(sampled, self._low, self._high)
        return sampled


def softmax(scores: Floats) -> Floats:
    """``(B, A)`` scores to ``(B, A)`` probabilities."""
    powers: Floats = np.exp(scores - np.maximum.reduce(scores, -1, keepdims=True))
    powers /= np.add.reduce(powers, -1, keepdims=True)
    return powers


def draw(probabilities: Floats, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """``(B, A)`` probabilities to ``(B,)`` actions: the first whose cumulated probability passes a uniform number."""
    cumulated = probabilities.cumsum(-1, dtype=np.float64)
    passed = cumulated > generator.random(len(probabilities))[:, None] * cumulated[:, -1:]
    chosen: npt.NDArray[np.int64] = passed.argmax(-1)
    return chosen


def _certain(scores: Floats, actions: npt.NDArray[np.int64]) -> Floats:
    probabilities = np.zeros_like(scores)
    probabilities[np.arange(len(actions)), actions] = 1.0
    # A Q-value that is no number must not pass for certainty; it is the largest to argmax.
    probabilities[np.isnan(scores[np.arange(len(actions)), actions])] = np.nan
    return probabilities


def _shapes(about: PolicyDescription) -> dict[str, tuple[int, ...]]:
    """Every weight that a policy so described has, and its shape."""
    size, count = about.obs_size, about.num_actions
    shapes: dict[str, tuple[int, ...]] = {"normaliser.mean": (size,), "normaliser.scale": (size,)}
    if about.network == "recurrent":
        (hidden,) = about.hidden
        shapes |= {"features.weight": (hidden, size), "features.bias": (hidden,)}
        shapes |= {f"cell.weight_{side}": (3 * hidden, hidden) for side in ("ih", "hh")}
        shapes |= {f"cell.bias_{side}": (3 * hidden,) for side in ("ih", "hh")}
        for head, outputs in (("actor", count), ("critic", 1)):
            shapes |= {f"{head}.0.weight": (outputs, hidden), f"{head}.0.bias": (outputs,)}
        return shapes
    outputs = {"squashed_gaussian": 2 * count}.get(about.head, count + (about.network == "dueling"))
    sizes = [size, *about.hidden, outputs]
    for layer in range(len(sizes) - 1):
        shapes[f"layers.{2 * layer}.weight"] = (sizes[layer + 1], sizes[layer])
        shapes[f"layers.{2 * layer}.bias"] = (sizes[layer + 1],)
    if about.network == "bounded":
        shapes |= {"centre": (count,), "half_range": (count,)}
    if about.head == "gaussian":
        shapes["log_std"] = (count,)
    return shapes


def _transposed(value: npt.NDArray[Any]) -> Floats:
    return np.ascontiguousarray(value.T)


def _row(value: npt.NDArray[Any]) -> Floats:
    return np.ascontiguousarray(value[None])


def _relu(x: Floats, out: Floats | None = None) -> Floats:
    positive: Floats = np.maximum(x, ZERO, out=out)
    return positive


def _logistic(x: Floats) -> Floats:
    # By way of tanh, which cannot overflow.
    half = np.float32(0.5)
    between: Floats = half * (np.float32(1.0) + np.tanh(half * x))
    return between
