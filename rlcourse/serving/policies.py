"""What the service asks of a policy, and saved policies that answer it without loading torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.errors import ArtifactError

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
    ) -> Decided:
        """Choose actions.

        Args:
            obs: ``(B, D)``, finite.
            greedy: take the likeliest action instead of sampling one.
            mask: ``(B, A)`` true where an action is allowed, at least one in each row; ``None`` allows all.
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
        assert probabilities is not None  # read_artifact lets nothing else in
        return Decided(actions, probabilities, memory)


class Artifact(NamedTuple):
    """A saved policy, read for serving."""

    policy: ServablePolicy
    version: str
    low: Floats | None  # (D,) an observation below is out of range; None: not known
    high: Floats | None  # (D,)


def read_artifact(source: Path) -> Artifact:
    """Read what :meth:`rlcourse.deployment.artifact.PolicyArtifact.save` wrote, without torch.

    Raises:
        ArtifactError: missing, damaged, or of a kind that cannot be served.
    """
    policy = NumpyPolicy.load(source)
    about = policy.description
    if not about.discrete:
        raise ArtifactError(
            f"{source} makes continuous actions, and this service answers with discrete ones alone.",
            mend="Serve a policy with logits or Q-values.",
        )
    return Artifact(
        SavedPolicy(policy), policy.version, _bounds(about.obs_low, -np.inf), _bounds(about.obs_high, np.inf)
    )


def _bounds(values: tuple[float | None, ...], endless: float) -> Floats | None:
    if all(value is None for value in values):
        return None
    return np.array([endless if value is None else value for value in values], np.float32)
