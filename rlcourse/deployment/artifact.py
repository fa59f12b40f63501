"""A saved policy: weights that are only numbers, a description that is only JSON, and a checksum over both.

::

    policy/
    ├── policy.json           what it is, how it was made, how good it was; SHA-256 of the weights and of itself
    └── weights.safetensors   the logits or Q-network, its normalisation included

Loading verifies the checksums and never runs code from the file.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rlcourse.errors import ArtifactError, DatasetCorruptError
from rlcourse.experience import manifest
from rlcourse.files import atomic_directory
from rlcourse.networks import Activation, CategoricalPolicy, GreedyQPolicy, LogitsNetwork, QNetwork
from rlcourse.vocabulary import DiscretePolicy

FORMAT = 1
FILES = ("policy.json", "weights.safetensors")
Head = Literal["logits", "q"]


@dataclass(frozen=True)
class PolicyDescription:
    """Everything about a policy but its weights."""

    algorithm: str
    env_id: str
    head: Head  # logits are sampled from, Q-values are maximised
    hidden: tuple[int, ...]
    obs_size: int
    num_actions: int
    provenance: dict[str, Any] = field(default_factory=dict)  # data set, seed, config, versions
    evaluation: dict[str, Any] = field(default_factory=dict)  # what it earned, and how that was measured
    activation: Activation = "relu"  # between the layers


@dataclass(frozen=True)
class PolicyArtifact:
    """Weights and what they mean."""

    description: PolicyDescription
    weights: dict[str, Tensor]

    @classmethod
    def from_policy(cls, policy: DiscretePolicy, **description: Any) -> PolicyArtifact:
        """Copy the weights out of a policy that one of this package's learners made.

        Args:
            policy: a :class:`CategoricalPolicy` or :class:`GreedyQPolicy` around an MLP.
            **description: ``algorithm``, ``env_id``, ``provenance`` and ``evaluation``.

        Raises:
            ArtifactError: another kind of policy.
        """
        network = policy.logits if isinstance(policy, CategoricalPolicy) else getattr(policy, "q", None)
        if not isinstance(network, LogitsNetwork | QNetwork):
            raise ArtifactError(
                f"A {type(policy).__name__} cannot be saved.",
                mend="Save the policy of a BC, CQL, IQL, DQN or memoryless discrete PPO learner.",
            )
        linear = [layer for layer in network.layers if isinstance(layer, torch.nn.Linear)]
        return cls(
            PolicyDescription(
                head="logits" if isinstance(network, LogitsNetwork) else "q",
                hidden=tuple(layer.out_features for layer in linear[:-1]),
                obs_size=linear[0].in_features,
                num_actions=linear[-1].out_features,
                activation=network.activation,
                **description,
            ),
            {name: value.detach().cpu().clone() for name, value in network.state_dict().items()},
        )

    def policy(self, device: torch.device | str = "cpu") -> DiscretePolicy:
        """The policy, ready to act on ``device``."""
        about = self.description
        zeros = torch.zeros(about.obs_size)
        kind = LogitsNetwork if about.head == "logits" else QNetwork
        network = kind(zeros, zeros, about.hidden, about.num_actions, about.activation)
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            raise ArtifactError(
                "The weights do not fit the network that the description names.", mend="Save the policy again."
            ) from error
        network.to(device).eval().requires_grad_(False)
        return CategoricalPolicy(network) if about.head == "logits" else GreedyQPolicy(network)

    def save(self, folder: Path) -> None:
        """Write the folder, atomically; an older artifact there is replaced only when the new one is complete.

        Raises:
            StorageError: the disk is full or not writable.
            ArtifactError: something that is no policy is there.
        """
        refuse_anything_else(folder)
        weights = save(self.weights)
        about = {
            "format": FORMAT,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "description": asdict(self.description),
        }
        with atomic_directory(folder) as part:
            (part / "weights.safetensors").write_bytes(weights)
            (part / "policy.json").write_text(manifest.sealed(about), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PolicyArtifact:
        """Read and verify.

        Raises:
            ArtifactError: missing, damaged, or of another format.
        """
        try:
            about = manifest.unsealed(folder / "policy.json")
        except DatasetCorruptError as error:
            raise ArtifactError(error.problem, mend="Name the folder that a save made, or copy it again.") from error
        try:
            weights = (folder / "weights.safetensors").read_bytes()
            if about["format"] != FORMAT:
                raise ArtifactError(
                    f"{folder} has format {about['format']}.",
                    mend=f"This version reads format {FORMAT}; save it again.",
                )
            if hashlib.sha256(weights).hexdigest() != about["weights_sha256"]:
                raise ArtifactError(
                    f"The weights in {folder} are not those that were saved.", mend="Copy the artifact again."
                )
            fields = about["description"]
            if fields["head"] not in get_args(Head):
                raise ArtifactError(f"{folder} has an unknown head {fields['head']!r}.", mend="Save the policy again.")
            description = PolicyDescription(**{**fields, "hidden": tuple(fields["hidden"])})
            return cls(description, load(weights))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ArtifactError(
                f"{folder} does not hold a policy: {error}.", mend="Name the folder that a save made."
            ) from error


def refuse_anything_else(folder: Path) -> None:
    """Raise :class:`ArtifactError` if saving to ``folder`` would replace anything but an older policy."""
    if not folder.exists() or (folder.is_dir() and {entry.name for entry in folder.iterdir()} <= set(FILES)):
        return
    raise ArtifactError(f"{folder} holds something that is no saved policy.", mend="Choose another folder.")
