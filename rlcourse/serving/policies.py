"""What the service asks of a policy, and saved policies that answer it without loading torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.deployment.stored import read_stored
from rlcourse.errors import ArtifactError
from rlcourse.serving.continuous import ActionBounds, Drawn, SavedContinuousPolicy

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


class Decided(NamedTuple):
    """What a policy over counted actions answers to ``B`` observations."""

    actions: Integers  # (B,)
    probabilities: Floats  # (B, A) under the policy itself, among the actions allowed
    memory: Floats | None  # (B, H) what to remember, of a policy that remembers

    def rows(self, part: slice) -> Decided:
        """Of some of the observations."""
        return Decided(self.actions[part], self.probabilities[part], None if self.memory is None else self.memory[part])


def sound(decided: Decided | Drawn, rows: int, bounds: ActionBounds | None) -> bool:
    """Whether an answer to so many observations is made of numbers."""
    if isinstance(decided, Drawn):
        acted = decided.sound(bounds)
    elif rows == 1:
        acted = 0.0 < decided.probabilities.item(decided.actions.item(0)) < 1.01
    else:
        acted = abs(float(decided.probabilities.sum()) - rows) < 0.01 * rows
    return acted and (decided.memory is None or bool(np.isfinite(decided.memory).all()))


class ServablePolicy(Protocol):
    """A policy as the service sees it."""

    @property
    def obs_size(self) -> int:
        """``D``."""
        ...

    @property
    def num_actions(self) -> int:
        """``A``, or ``K`` where actions are continuous."""
        ...

    @property
    def memory_size(self) -> int:
        """``H``; 0 for a policy that remembers nothing."""
        ...

    def first_memory(self, batch_size: int) -> Floats:
        """``(B, H)``: what an episode begins with."""
        ...

    def decide(
        self,
        obs: Floats,
        *,
        greedy: bool,
        mask: Booleans | None,
        memory: Floats | None,
        rng: np.random.Generator,
    ) -> Decided | Drawn:
        """Choose actions.

        Args:
            obs: ``(B, D)``, finite.
            greedy: take the likeliest action instead of sampling one.
            mask: ``(B, A)`` true where an action is allowed, at least one in each row; ``None`` allows all, and is all
                that a policy over continuous actions gets.
            memory: ``(B, H)`` of a policy that remembers; ``None`` for others.
            rng: where the randomness comes from.
        """
        ...


class SavedPolicy:
    """A saved policy over discrete actions, as the service asks it."""

    def __init__(self, policy: NumpyPolicy) -> None:
        self._policy = policy
        self.obs_size, self.num_actions = policy.obs_size, policy.num_actions
        self.memory_size = policy.memory_size

    def first_memory(self, batch_size: int) -> Floats:
        """``(B, H)``: what an episode begins with."""
        return self._policy.first_memory(batch_size)

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
        actions, probabilities, memory = self._policy.act(obs, greedy=greedy, generator=rng, mask=mask, memory=memory)
        assert probabilities is not None  # read_artifact wraps continuous actions otherwise
        return Decided(actions, probabilities, memory)


class Artifact(NamedTuple):
    """A saved policy, read for serving."""

    policy: ServablePolicy
    version: str
    low: Floats | None  # (D,) an observation below is out of range; None: not known
    high: Floats | None  # (D,)
    actions: ActionBounds | None = None  # of continuous actions; None: they are counted
    weights: str = ""  # their SHA-256: whose memories a session's are


def read_artifact(source: Path) -> Artifact:
    """Read what :meth:`rlcourse.deployment.artifact.PolicyArtifact.save` wrote, without torch.

    Raises:
        ArtifactError: missing, damaged, of another format, or with a weight that is no number.
    """
    policy, stored = NumpyPolicy.load(source), read_stored(source)
    for name, values in load(stored.weights).items():
        if not np.isfinite(values).all():
            raise ArtifactError(
                f"{source} was saved whole, and {name} in it is not finite.",
                mend="Serve a policy from before its training diverged.",
            )
    about = policy.description
    low, high = _bounds(about.obs_low, -np.inf), _bounds(about.obs_high, np.inf)
    if about.discrete:
        return Artifact(SavedPolicy(policy), policy.version, low, high, weights=stored.sha256)
    continuous = SavedContinuousPolicy(policy)
    return Artifact(continuous, policy.version, low, high, continuous.bounds, stored.sha256)


def _bounds(values: tuple[float | None, ...], endless: float) -> Floats | None:
    if all(value is None for value in values):
        return None
    return np.array([endless if value is None else value for value in values], np.float32)
