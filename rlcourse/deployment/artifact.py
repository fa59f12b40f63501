"""A saved policy: weights that are only numbers, a description that is only JSON, and a checksum over both.

It is one folder or one file (:mod:`rlcourse.deployment.stored`). What the policy is, and whence it came, is in its
:class:`~rlcourse.deployment.description.PolicyDescription`. Loading verifies the checksums and never runs code from the
file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rlcourse.deployment.description import Head, Network, PolicyDescription
from rlcourse.deployment.stored import FORMAT, read_stored, refuse_anything_else, write_stored
from rlcourse.errors import ArtifactError
from rlcourse.networks import (
    ActionNetwork,
    CategoricalPolicy,
    DeterministicPolicy,
    DuelingQNetwork,
    GaussianNetwork,
    GaussianPolicy,
    GreedyQPolicy,
    LogitsNetwork,
    MLPNetwork,
    QNetwork,
    RecurrentActorCritic,
    RecurrentCategoricalPolicy,
    SquashedGaussianPolicy,
)
from rlcourse.vocabulary import ContinuousActions, DiscretePolicy, Policy

__all__ = ["FORMAT", "PolicyArtifact", "PolicyDescription", "refuse_anything_else"]
AnyNetwork = MLPNetwork | DuelingQNetwork | RecurrentActorCritic
SPREAD = "log_std"
"""The name of a Gaussian policy's own log-spread, where its network does not hold it."""


@dataclass(frozen=True)
class PolicyArtifact:
    """Weights and what they mean."""

    description: PolicyDescription
    weights: dict[str, Tensor]

    @classmethod
    def from_policy(cls, policy: Policy, **description: Any) -> PolicyArtifact:
        """Copy the weights out of a policy that one of this package's learners made.

        Args:
            policy: one of :mod:`rlcourse.networks`, around one of its networks.
            **description: ``algorithm``, ``env_id``, and any of ``provenance``, ``evaluation``, ``version``, ``obs_low``
                and ``obs_high``, as in :class:`PolicyDescription`.

        Raises:
            ArtifactError: another kind of policy.
        """
        parts = _parts(policy)
        sizes = _sizes(parts.network)
        actions = parts.actions
        size = sizes[-1] if actions is None else actions.size
        weights = {**parts.network.state_dict(), **parts.more}
        return cls(
            PolicyDescription(
                head=parts.head,
                network=parts.kind,
                hidden=sizes[1:-1],
                obs_size=sizes[0],
                num_actions=size - 1 if parts.kind == "dueling" else size,
                activation=getattr(parts.network, "activation", "relu"),
                first_memory=(0.0,) * sizes[1] if parts.kind == "recurrent" else (),
                low=() if actions is None else _floats(actions.low),
                high=() if actions is None else _floats(actions.high),
                **description,
            ),
            {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()},
        )

    @property
    def actions(self) -> ContinuousActions | None:
        """The bounds of continuous actions, or ``None`` where actions are counted."""
        about = self.description
        return None if about.discrete else ContinuousActions(torch.tensor(about.low), torch.tensor(about.high))

    def policy(self, device: torch.device | str = "cpu") -> Policy:
        """The policy, ready to act on ``device``.

        Raises:
            ArtifactError: the weights do not fit the description.
        """
        about, network = self.description, self.network(device)
        if isinstance(network, RecurrentActorCritic):
            return RecurrentCategoricalPolicy(network)
        if about.head == "logits":
            return CategoricalPolicy(network)
        if about.head == "q":
            return GreedyQPolicy(network)
        if about.head == "deterministic":
            return DeterministicPolicy(network)
        actions = ContinuousActions(*(torch.tensor(bound, device=device) for bound in (about.low, about.high)))
        if about.head == "squashed_gaussian":
            return SquashedGaussianPolicy(network, actions)
        log_std = network.log_std if isinstance(network, GaussianNetwork) else self.weights[SPREAD].to(device).clone()
        return GaussianPolicy(network, log_std, actions)

    def discrete_policy(self, device: torch.device | str = "cpu") -> DiscretePolicy:
        """The policy, if it can say how likely each of finitely many actions is.

        Raises:
            ArtifactError: it cannot, or its weights do not fit.
        """
        policy = self.policy(device)
        if not isinstance(policy, DiscretePolicy):
            raise ArtifactError(
                f"A {type(policy).__name__} has no probabilities of single actions for one observation.",
                mend="Use a policy over discrete actions, without a memory.",
            )
        return policy

    def network(self, device: torch.device | str = "cpu") -> AnyNetwork:
        """The network with its weights, frozen, on ``device``.

        Raises:
            ArtifactError: the weights do not fit the description.
        """
        own = {name: value.clone() for name, value in self.weights.items()}
        free = self.description.head == "gaussian" and self.description.network == "mlp"
        spread = own.pop(SPREAD, None) if free else None
        # On the meta device a network has shapes and no memory: sizes that lie cost nothing before they are found out.
        with torch.device("meta"):
            network = self._empty()
        try:
            network.load_state_dict(own, assign=True)
        except RuntimeError as error:
            raise ArtifactError(
                "The weights do not fit the network that the description names.", mend="Save the policy again."
            ) from error
        wrong = any(value.dtype != torch.float32 for value in self.weights.values())
        if wrong or (free and (spread is None or spread.shape != (self.description.num_actions,))):
            raise ArtifactError(
                "The weights do not fit the network that the description names: a spread is missing or a number is not "
                "in 32 bits.",
                mend="Save the policy again.",
            )
        return network.to(device).eval().requires_grad_(False)

    def _empty(self) -> AnyNetwork:
        about, actions = self.description, self.actions
        zeros = torch.zeros(about.obs_size)
        if about.network == "recurrent":
            return RecurrentActorCritic(zeros, zeros, about.hidden[0], about.num_actions)
        if about.network == "dueling":
            return DuelingQNetwork(zeros, zeros, about.hidden, about.num_actions)
        if actions is None:
            kind = LogitsNetwork if about.head == "logits" else QNetwork
            return kind(zeros, zeros, about.hidden, about.num_actions, about.activation)
        if about.network == "bounded":
            bounded = GaussianNetwork if about.head == "gaussian" else ActionNetwork
            return bounded(zeros, zeros, about.hidden, actions)
        outputs = 2 * about.num_actions if about.head == "squashed_gaussian" else about.num_actions
        return MLPNetwork(zeros, zeros, about.hidden, outputs, about.activation)

    def save(self, target: Path) -> None:
        """Write a folder, or one file if the name ends in ``.zip``.

        It is written atomically; an older artifact there is replaced only when the new one is complete.

        Raises:
            StorageError: the disk is full or not writable.
            ArtifactError: something that is no policy is there.
        """
        write_stored(target, self.description, save(self.weights))

    @classmethod
    def load(cls, source: Path) -> PolicyArtifact:
        """Read and verify a folder or a file.

        Raises:
            ArtifactError: missing, damaged, or of another format.
        """
        stored = read_stored(source)
        try:
            return cls(stored.description, load(stored.weights))
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ArtifactError(
                f"{source} does not hold a policy: {error}.", mend="Name the folder or file that a save made."
            ) from error


class _Parts(NamedTuple):
    head: Head
    kind: Network
    network: AnyNetwork
    actions: ContinuousActions | None
    more: dict[str, Tensor]  # weights that are not the network's


def _parts(policy: Policy) -> _Parts:
    if isinstance(policy, CategoricalPolicy) and isinstance(policy.logits, LogitsNetwork):
        return _Parts("logits", "mlp", policy.logits, None, {})
    if isinstance(policy, RecurrentCategoricalPolicy):
        return _Parts("logits", "recurrent", policy.network, None, {})
    if isinstance(policy, GreedyQPolicy) and isinstance(policy.q, QNetwork):
        return _Parts("q", "mlp", policy.q, None, {})
    if isinstance(policy, GreedyQPolicy) and isinstance(policy.q, DuelingQNetwork):
        return _Parts("q", "dueling", policy.q, None, {})
    if isinstance(policy, GaussianPolicy) and isinstance(policy.mean, GaussianNetwork):
        return _Parts("gaussian", "bounded", policy.mean, policy.actions, {})
    if isinstance(policy, GaussianPolicy) and type(policy.mean) is MLPNetwork:
        return _Parts("gaussian", "mlp", policy.mean, policy.actions, {SPREAD: policy.log_std})
    if isinstance(policy, SquashedGaussianPolicy) and type(policy.head) is MLPNetwork:
        return _Parts("squashed_gaussian", "mlp", policy.head, policy.actions, {})
    if isinstance(policy, DeterministicPolicy) and isinstance(policy.action, ActionNetwork):
        centre, half = policy.action.centre, policy.action.half_range
        return _Parts("deterministic", "bounded", policy.action, ContinuousActions(centre - half, centre + half), {})
    raise ArtifactError(
        f"A {type(policy).__name__} cannot be saved.",
        mend="Save the policy of a learner of this package: BC, CQL, IQL, TD3+BC, DQN, PPO or SAC.",
    )


def _sizes(network: AnyNetwork) -> tuple[int, ...]:
    """Inputs, hidden sizes, outputs."""
    if isinstance(network, RecurrentActorCritic):
        (head,) = network.actor
        assert isinstance(head, torch.nn.Linear)
        return network.features.in_features, network.hidden, head.out_features
    linear = [layer for layer in network.layers if isinstance(layer, torch.nn.Linear)]
    return linear[0].in_features, *(layer.out_features for layer in linear)


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(map(float, values.detach().cpu()))
