"""What the service asks of a policy, and small networks that answer in NumPy without loading torch.

A network of a few thousand weights is done in microseconds; what costs is calling a framework, so none is called.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from rlcourse.errors import ArtifactError, DatasetCorruptError
from rlcourse.experience import manifest

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


class Decided(NamedTuple):
    """What a policy answers to ``B`` observations."""

    actions: Integers  # (B,)
    probabilities: Floats  # (B, A) under the policy itself, among the actions allowed
    memory: Floats | None  # (B, H) what to remember, of a policy that remembers


class ServablePolicy(Protocol):
    """A policy as the service sees it."""

    @property
    def obs_size(self) -> int:
        """``D``."""
        ...

    @property
    def num_actions(self) -> int:
        """``A``."""
        ...

    @property
    def memory_size(self) -> int:
        """``H``; 0 for a policy that remembers nothing."""
        ...

    def decide(
        self,
        obs: Floats,
        *,
        greedy: bool,
        mask: Booleans | None,
        memory: Floats | None,
        rng: np.random.Generator,
    ) -> Decided:
        """Choose actions.

        Args:
            obs: ``(B, D)``, finite.
            greedy: take the likeliest action instead of sampling one.
            mask: ``(B, A)`` true where an action is allowed, at least one in each row; ``None`` allows all.
            memory: ``(B, H)`` of earlier steps; ``None`` where there were none.
            rng: where the randomness comes from.
        """
        ...


Head = Literal["logits", "q"]


@dataclass(frozen=True)
class NetworkPolicy:
    """A multilayer perceptron whose outputs are logits (sampled from) or Q-values (maximised)."""

    head: Head
    activation: Literal["relu", "tanh"]
    mean: Floats  # (D,)
    scale: Floats  # (D,)
    weights: tuple[Floats, ...]  # (inputs, outputs) each: transposed once, here
    biases: tuple[Floats, ...]

    @property
    def obs_size(self) -> int:
        """``D``."""
        return int(self.weights[0].shape[0])

    @property
    def num_actions(self) -> int:
        """``A``."""
        return int(self.weights[-1].shape[1])

    @property
    def memory_size(self) -> int:
        """It remembers nothing."""
        return 0

    def outputs(self, obs: Floats) -> Floats:
        """``(B, D)`` to ``(B, A)`` logits or Q-values."""
        x: Floats = (obs - self.mean) * self.scale
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x.dot(weight)
            x += bias
            if layer < last:
                if self.activation == "relu":
                    np.maximum(x, 0.0, out=x)
                else:
                    np.tanh(x, out=x)
        return x

    def decide(
        self,
        obs: Floats,
        *,
        greedy: bool,
        mask: Booleans | None,
        memory: Floats | None,
        rng: np.random.Generator,
    ) -> Decided:
        """See :class:`ServablePolicy`."""
        scores = self.outputs(obs)
        if mask is not None:
            scores[~mask] = -np.inf
        if self.head == "q":
            actions = scores.argmax(-1)
            probabilities = np.zeros_like(scores)
            probabilities[np.arange(len(actions)), actions] = 1.0
            # A Q-value that is no number must not pass for certainty.
            probabilities[np.isnan(scores).any(-1)] = np.nan
            return Decided(actions, probabilities, None)
        if len(scores) == 1:
            probabilities = _softmax_of_one(scores)
        else:
            probabilities = np.exp(scores - scores.max(-1, keepdims=True))
            probabilities /= probabilities.sum(-1, keepdims=True)
        return Decided(probabilities.argmax(-1) if greedy else draw(probabilities, rng), probabilities, None)


def _softmax_of_one(scores: Floats) -> Floats:
    # A handful of numbers: Python's own exp is done before NumPy has looked at its arguments.
    row = scores[0].tolist()
    highest = max(row)
    if not math.isfinite(highest):
        return np.full_like(scores, np.nan)
    powers = [math.exp(score - highest) for score in row]
    total = sum(powers)
    return np.array([[power / total for power in powers]], dtype=np.float32)


def draw(probabilities: Floats, rng: np.random.Generator) -> Integers:
    """``(B, A)`` probabilities to ``(B,)`` actions: the first whose cumulated probability passes a uniform number."""
    if len(probabilities) == 1:
        row = probabilities[0].tolist()
        left = rng.random() * sum(row)
        chosen = 0
        for action, probability in enumerate(row):
            if probability > 0.0:
                chosen = action
                if left < probability:
                    break
                left -= probability
        return np.array([chosen])
    cumulated = probabilities.cumsum(-1, dtype=np.float64)
    passed = cumulated > rng.random(len(probabilities))[:, None] * cumulated[:, -1:]
    actions: Integers = passed.argmax(-1)
    return actions


class Artifact(NamedTuple):
    """A saved policy, read for serving."""

    policy: ServablePolicy
    version: str  # the first 12 digits of its weights' SHA-256, unless its folder says otherwise
    about: Mapping[str, Any]  # its description
    low: Floats | None  # (D,) an observation below is out of range; None: not known
    high: Floats | None  # (D,)


def read_artifact(folder: Path) -> Artifact:
    """Read what :meth:`rlcourse.deployment.artifact.PolicyArtifact.save` wrote, without torch.

    Raises:
        ArtifactError: missing, damaged, or of a kind that cannot be served.
    """
    try:
        about = manifest.unsealed(folder / "policy.json")
    except DatasetCorruptError as error:
        raise ArtifactError(error.problem, mend="Name the folder that a save made, or copy it again.") from error
    try:
        data = (folder / "weights.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != about["weights_sha256"]:
            raise ArtifactError(
                f"The weights in {folder} are not those that were saved.", mend="Copy the artifact again."
            )
        description = about["description"]
        policy = network_policy(description["head"], description.get("activation", "relu"), load(data))
        if (policy.obs_size, policy.num_actions) != (description["obs_size"], description["num_actions"]):
            raise ArtifactError(
                f"The weights in {folder} do not fit the network that the description names.",
                mend="Save the policy again.",
            )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} does not hold a policy: {error}.", mend="Name the folder that a save made."
        ) from error
    return Artifact(policy, about["weights_sha256"][:12], description, None, None)


def network_policy(head: str, activation: str, weights: Mapping[str, Any]) -> NetworkPolicy:
    """From the state of a ``LogitsNetwork`` or ``QNetwork``.

    Raises:
        ArtifactError: another kind of head.
        KeyError: a weight is missing.
    """
    if head not in get_args(Head) or activation not in ("relu", "tanh"):
        raise ArtifactError(
            f"A policy with head {head!r} and activation {activation!r} cannot be served here.",
            mend="Serve one with logits or Q-values over discrete actions.",
        )
    layers = sorted(int(name.split(".")[1]) for name in weights if name.startswith("layers.") and "weight" in name)
    return NetworkPolicy(
        head=head,  # type: ignore[arg-type]
        activation=activation,  # type: ignore[arg-type]
        mean=np.asarray(weights["normaliser.mean"], np.float32),
        scale=np.asarray(weights["normaliser.scale"], np.float32),
        weights=tuple(np.ascontiguousarray(weights[f"layers.{i}.weight"].T, np.float32) for i in layers),
        biases=tuple(np.asarray(weights[f"layers.{i}.bias"], np.float32) for i in layers),
    )
