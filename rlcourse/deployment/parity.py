r"""Does another form of a policy answer as the policy itself does? Thousands of questions, the awkward ones among them.

Two float32 programs that add in another order differ, and the more so the larger the numbers that they add. With
:math:`m` the largest normalised observation entry or score (logit, Q-value, mean) of a row, its answers may differ by

.. math:: \epsilon = 10^{-6}\,(1 + m)

in probabilities, means and spreads relative to themselves, memories, and actions in half ranges. Discrete actions must
be the same unless the best two scores lie within :math:`2\epsilon` of each other. For observations like those of the
training data that is less than 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.description import PolicyDescription
from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.deployment.portable import inputs_of, outputs_of
from rlcourse.errors import ArtifactError
from rlcourse.networks import (
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    GreedyQPolicy,
    RecurrentCategoricalPolicy,
    SquashedGaussianPolicy,
)
from rlcourse.objectives.policies import masked_logits
from rlcourse.randomness import Seeds

TOLERANCE = 1e-6
Arrays = dict[str, npt.NDArray[Any]]


Answerer = Callable[[Arrays], Mapping[str, npt.NDArray[Any]]]
"""Any form of a policy: ``observation``, ``mask`` and ``memory`` to ``action``, ``probabilities`` and the like, under
the names that :mod:`rlcourse.deployment.portable` gives them."""


class Reference(NamedTuple):
    """What the policy itself says."""

    answers: Arrays
    scores: npt.NDArray[np.float32]  # (B, A) among the allowed, or (B, K)
    tolerance: npt.NDArray[np.float32]  # (B,)


@dataclass(frozen=True)
class Parity:
    """How one form compares."""

    form: str
    questions: int
    ordinary: float  # largest difference where observations are like those of the training data
    worst: float  # largest difference anywhere; observations reach a million times as far
    worst_share: float  # largest difference as a share of what is tolerated: above 1 fails
    ties: int  # rows where the best two actions are too near to tell apart
    other_actions: int  # rows with another discrete action that are not ties: above 0 fails

    @property
    def holds(self) -> bool:
        """Whether it is the same policy."""
        return self.worst_share <= 1.0 and self.other_actions == 0

    def demand(self) -> Parity:
        """Itself, if it holds.

        Raises:
            ArtifactError: it does not.
        """
        if not self.holds:
            raise ArtifactError(
                f"The policy as {self.form} does not answer as the policy does: {self.other_actions} other actions, "
                f"difference {self.worst:.1e}, {self.worst_share:.1f} times what is tolerated.",
                mend="Do not use that form; report this with the artifact.",
            )
        return self


def questions(artifact: PolicyArtifact, count: int = 4096, seed: int = 0) -> Arrays:
    """Inputs worth asking about.

    The first half of the rows looks like the training data, by the normalisation that the weights carry; the other half
    ranges from a ten-thousandth to a million times as far. The first three rows are zeros, the data's mean, and the
    smallest positive float32. Masks allow one action, some or all; memories lie between -1 and 1, the first are zero.
    """
    about, rng = artifact.description, Seeds(seed).numpy("parity")
    mean = artifact.weights["normaliser.mean"].numpy()
    scale = artifact.weights["normaliser.scale"].numpy()
    far = np.ones((count, 1))
    half = (count + 1) // 2
    far[half:] = 10.0 ** rng.uniform(-4, 6, (count - half, 1))
    obs = (mean + far * rng.standard_normal((count, about.obs_size)) / scale).astype(np.float32)
    obs[:3] = np.stack([np.zeros_like(mean), mean, np.full_like(mean, np.finfo(np.float32).tiny)])[:count]
    mask = rng.random((count, about.num_actions)) < rng.choice([0.0, 0.5, 1.0], (count, 1))
    mask[np.arange(count), rng.integers(about.num_actions, size=count)] = True
    memory = rng.uniform(-1, 1, (count, about.memory_size)).astype(np.float32)
    memory[: count // 8] = about.first_memory
    made: Arrays = {"observation": obs, "mask": mask, "memory": memory}
    return {name: made[name] for name in inputs_of(about)}


@torch.no_grad()
def reference(artifact: PolicyArtifact, asked: Arrays) -> Reference:
    """The answers of the policy that the artifact makes, by its own methods."""
    policy = artifact.policy()
    obs = torch.from_numpy(asked["observation"])
    mask = torch.from_numpy(asked["mask"]) if "mask" in asked else None
    answers: dict[str, torch.Tensor] = {}
    if isinstance(policy, RecurrentCategoricalPolicy):
        answers["memory"] = policy.act_remembering(obs, torch.from_numpy(asked["memory"]), greedy=True)[1]
        scores = policy.network.actor(answers["memory"])
    elif isinstance(policy, CategoricalPolicy):
        scores = policy.logits(obs)
    elif isinstance(policy, GreedyQPolicy):
        scores = policy.values(obs)
    elif isinstance(policy, SquashedGaussianPolicy):
        scores, log_std = policy.head(obs).chunk(2, -1)
        answers |= {"mean": scores, "std": log_std.clamp(*policy.LOG_STD).exp()}
    elif isinstance(policy, GaussianPolicy):
        scores = policy.mean(obs)
        answers |= {"mean": scores, "std": policy.log_std.exp().expand_as(scores)}
    else:
        assert isinstance(policy, DeterministicPolicy)
        scores = policy.action(obs)
        answers |= {"mean": scores, "std": torch.zeros_like(scores)}
    largest = scores.abs().amax(-1)
    if mask is not None:
        scores = masked_logits(scores, mask)
        answers["action"] = scores.argmax(-1)
        certain = torch.nn.functional.one_hot(answers["action"], scores.shape[-1]).float()
        answers["probabilities"] = certain if isinstance(policy, GreedyQPolicy) else scores.softmax(-1)
    else:
        answers["action"] = policy.act(obs, greedy=True)
    seen = ((obs - artifact.weights["normaliser.mean"]) * artifact.weights["normaliser.scale"]).abs().amax(-1)
    tolerance = TOLERANCE * (1.0 + torch.maximum(largest, seen))
    return Reference({name: value.numpy() for name, value in answers.items()}, scores.numpy(), tolerance.numpy())


def compare(form: str, artifact: PolicyArtifact, answerer: Answerer, *, count: int = 4096, seed: int = 0) -> Parity:
    """Ask both and compare.

    Raises:
        ArtifactError: an answer is missing, or has another shape or kind of number.
    """
    asked = questions(artifact, count, seed)
    truth = reference(artifact, asked)
    said = answerer(asked)
    about = artifact.description
    clear = np.ones(count, np.bool_)
    if about.discrete and about.num_actions > 1:
        best = np.sort(truth.scores, -1)[:, -2:]
        clear = best[:, 1] - best[:, 0] > 2 * truth.tolerance
    differences, shares, other_actions = np.zeros(count), np.zeros(count), 0
    for name in outputs_of(about):
        found, expected = said.get(name), truth.answers[name]
        if found is None or found.shape != expected.shape or found.dtype.kind != expected.dtype.kind:
            raise ArtifactError(f"The policy as {form} gives no {name} of the right kind.", mend="Export it again.")
        if expected.dtype.kind == "i":
            other_actions = int(((found != expected) & clear).sum())
            continue
        difference = np.abs(found - expected).astype(np.float64)
        difference[np.isnan(difference)] = np.inf
        if name == "probabilities" and about.head == "q":
            difference[~clear] = 0.0  # of two equally good actions either may be the certain one
        differences = np.maximum(differences, difference.max(-1))
        shares = np.maximum(shares, (difference / _unit(name, about, expected)).max(-1) / truth.tolerance)
    return Parity(
        form,
        count,
        ordinary=float(differences[: (count + 1) // 2].max()),
        worst=float(differences.max()),
        worst_share=float(shares.max()),
        ties=int((~clear).sum()),
        other_actions=other_actions,
    )


def _unit(name: str, about: PolicyDescription, expected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """What a difference is measured in."""
    unit = np.ones(1)
    if name == "action":
        unit = (np.array(about.high) - np.array(about.low)) / 2
    elif name in ("mean", "std"):
        unit = np.maximum(1.0, np.abs(expected))
    return unit


def numpy_answerer(policy: NumpyPolicy) -> Answerer:
    """A NumPy policy, asked by names."""

    def answer(asked: Arrays) -> Arrays:
        obs, mask, memory = asked["observation"], asked.get("mask"), asked.get("memory")
        acted = policy.act(obs, greedy=True, mask=mask, memory=memory)
        return {"action": acted.actions, **policy.distribution(obs, mask, memory)}

    return answer
