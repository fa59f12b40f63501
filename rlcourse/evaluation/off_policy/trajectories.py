"""What off-policy evaluation looks at: logged episodes as rows, and how likely a target policy was to do the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.experience.episodes import Episodes
from rlcourse.networks import GaussianPolicy
from rlcourse.objectives.importance import cumulative_ratios, discounted_returns, step_ratios
from rlcourse.vocabulary import DensityPolicy, DiscretePolicy, Policy

Propensities = Literal["logged", "estimated", "unknown"]
"""Whether the behaviour policy's probabilities were written down by the logger, guessed from the log, or left out: then nothing
can be weighed by them."""


@dataclass(frozen=True)
class Trajectories:
    """``N`` episodes of up to ``T`` steps; a bandit's log has ``T`` = 1. All of it float64."""

    target: Tensor  # (N, T) probability (or density) of the logged action under the policy in question
    behaviour: Tensor  # (N, T) the same under the policy that acted
    reward: Tensor  # (N, T)
    mask: Tensor  # (N, T) 1 where there was a step
    gamma: float
    propensities: Propensities = "logged"
    obs: Tensor | None = None  # (N, T + 1, D) the row after an episode's last step is what was seen then
    action: Tensor | None = None  # (N, T) int64, or (N, T, K) float
    terminated: Tensor | None = None  # (N,) bool: the task ended; otherwise the episode was cut off
    all_target: Tensor | None = None  # (N, T + 1, A) the target policy's probabilities of all actions
    drawn: Tensor | None = (
        None  # (N, T + 1, M, K) in place of those, where actions are continuous: some that it would take
    )
    weighable: bool = True
    """False for a deterministic policy over continuous actions: it has no density, and nothing logged can be weighed."""

    @property
    def num_episodes(self) -> int:
        """``N``."""
        return self.reward.shape[0]

    @property
    def horizon(self) -> int:
        """``T``."""
        return self.reward.shape[1]

    def cumulative(self) -> Tensor:
        """``(N, T)`` products of ratios up to and with each step.

        Raises:
            DatasetInvalidError: the target policy has no density, the propensities are unknown, or a product is too large to be
                a number.
        """
        if self.propensities == "unknown":
            raise DatasetInvalidError(
                "The propensities were not logged, so nothing can be weighed by them.", mend=_UNKNOWN
            )
        if not self.weighable:
            raise DatasetInvalidError(
                "A deterministic policy over continuous actions has no density, so no logged action can be weighed.",
                mend="Use an estimator that asks a model what it would have done, fqe or linear; or give the policy a spread.",
            )
        products = cumulative_ratios(step_ratios(self.target, self.behaviour, self.mask))
        overflown = int((~products.isfinite()).any(-1).sum())
        if overflown:
            raise DatasetInvalidError(
                f"In {overflown} episodes the product of {self.horizon} ratios is too large to be a number.",
                mend="The two policies are too far apart to weigh whole episodes; use fqe, linear or mdr.",
            )
        return products

    def returns(self) -> Tensor:
        """``(N,)`` what each episode paid, discounted: what the *behaviour* policy is worth, on average."""
        return discounted_returns(self.reward, self.mask, self.gamma)

    @classmethod
    def from_arrays(
        cls,
        *,
        target: Tensor | np.ndarray,
        behaviour: Tensor | np.ndarray,
        reward: Tensor | np.ndarray,
        gamma: float = 1.0,
        mask: Tensor | np.ndarray | None = None,
        propensities: Propensities = "logged",
    ) -> Self:
        """From ``(N,)`` arrays of a bandit's log or ``(N, T)`` arrays of episodes; all steps count unless ``mask`` says not.

        Raises:
            ShapeError: arrays of different shapes.
            DatasetInvalidError: probabilities or rewards that cannot be.
            ConfigError: gamma outside (0, 1].
        """
        given = {"target": target, "behaviour": behaviour, "reward": reward}
        tensors = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in given.items()}
        mask = torch.ones_like(tensors["reward"]) if mask is None else torch.as_tensor(mask, dtype=torch.float64)
        tensors["mask"] = mask
        if mask.dim() == 1:
            tensors = {name: value.unsqueeze(-1) for name, value in tensors.items()}
        return cls(gamma=gamma, propensities=propensities, **tensors).validate()  # type: ignore[arg-type]  # tensors alone

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        policy: Policy,
        *,
        gamma: float,
        behaviour: np.ndarray | None = None,
        draws: int = 4,
        generator: torch.Generator | None = None,
        weighs: bool = True,
    ) -> Self:
        """Lay episodes side by side and ask ``policy`` how likely it was to do what they did.

        Args:
            episodes: with actions of either kind.
            policy: the one in question. Over continuous actions, one that cannot say how likely an action is counts as
                deterministic.
            gamma: in (0, 1].
            behaviour: ``(S,)`` estimated propensities, to be used instead of the logged ones.
            draws: M, how many continuous actions to draw from ``policy`` at each observation, for models to ask about.
            generator: what they are drawn with; ``None`` uses torch's global stream.
            weighs: False if no estimator will multiply ratios, so that propensities need not be known.

        Raises:
            DatasetInvalidError: propensities that were not logged or are 0, or numbers that cannot be.
        """
        lengths = torch.from_numpy(episodes.lengths)
        count, longest = len(lengths), int(lengths.max())
        there = torch.arange(longest) < lengths.unsqueeze(-1)  # (N, T)
        seen = torch.arange(longest + 1) < lengths.unsqueeze(-1) + 1  # (N, T + 1)
        rows = torch.from_numpy(episodes.observations)  # (S + E, D)
        obs = torch.zeros(count, longest + 1, rows.shape[-1])
        obs[seen] = rows
        logged = episodes.behaviour_probabilities if behaviour is None else behaviour
        unknown = not weighs and bool(np.isnan(logged).any())
        columns = []
        for values, empty in ((logged, 1.0), (episodes.rewards, 0.0)):
            column = torch.full((count, longest), empty, dtype=torch.float64)
            column[there] = torch.from_numpy(np.asarray(values)).double()
            columns.append(column)
        if np.issubdtype(episodes.actions.dtype, np.floating):
            asked = _by_density(episodes, policy, there, seen, draws, generator)
        else:
            asked = _by_probability(episodes, policy, there, seen)
        return cls(
            behaviour=columns[0],
            reward=columns[1],
            mask=there.double(),
            gamma=gamma,
            propensities="unknown" if unknown else "logged" if behaviour is None else "estimated",
            obs=obs,
            terminated=torch.from_numpy(episodes.terminated),
            **asked,
        ).validate()

    def validate(self) -> Self:
        """Check everything once, so that no estimator ever returns a number that only looks fine.

        Raises:
            ShapeError, DatasetInvalidError, ConfigError: see :meth:`from_arrays`.
        """
        if not 0.0 < self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma}.", mend="Use a number above 0 and at most 1.")
        for name in ("target", "behaviour", "mask"):
            if getattr(self, name).shape != self.reward.shape or self.reward.dim() != 2:
                raise ShapeError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}, reward {tuple(self.reward.shape)}.",
                    mend="Give one number per step: (N,) for a bandit, (N, T) for episodes.",
                )
        there = self.mask > 0
        if self.num_episodes < 1 or not bool(there[:, 0].all()):
            raise DatasetInvalidError("An episode has no steps.", mend="Leave out empty episodes.")
        unknown = int(self.behaviour[there].isnan().sum())
        if unknown and self.propensities != "unknown":
            raise DatasetInvalidError(
                f"The propensities of {unknown} of {int(there.sum())} steps were not logged.", mend=_UNKNOWN
            )
        for problem, wrong in (
            ("propensities of 0 or less: the log says that its own action was impossible", self.behaviour <= 0),
            ("propensities that are infinite", self.behaviour.isinf()),
            ("target probabilities that are negative or no number", ~((self.target >= 0) & self.target.isfinite())),
            ("rewards that are no number", ~self.reward.isfinite()),
            *(
                (f"{what} that are no number", ~values.isfinite().flatten(2).all(-1))
                for what, values in (("actions", self.action), ("actions of the target policy", self.drawn))
                if values is not None and values.dim() > 2
            ),
        ):
            wrong = wrong[:, : self.horizon] & there
            if bool(wrong.any()):
                raise DatasetInvalidError(
                    f"The log has {problem} ({int(wrong.sum())} steps).",
                    mend="Find out how it was written; nothing can be estimated from it.",
                )
        return self


_UNKNOWN = (
    "Estimate them (estimate_propensities, or --propensities estimated), and read what that costs; or use estimators that need "
    "none: mdr, mis, fqe, linear."
)


def _by_probability(episodes: Episodes, policy: Policy, there: Tensor, seen: Tensor) -> dict[str, Any]:
    if not isinstance(policy, DiscretePolicy):
        raise DatasetInvalidError(
            f"The log counts its actions, and a {type(policy).__name__} does not say how likely each of them is.",
            mend="Judge a policy by a log of its own task.",
        )
    probabilities = policy.probabilities(torch.from_numpy(episodes.observations)).double()  # (S + E, A)
    if int(episodes.actions.max()) >= probabilities.shape[-1]:
        raise DatasetInvalidError(
            f"The log holds action {int(episodes.actions.max())}, the policy knows {probabilities.shape[-1]} actions.",
            mend="Use a policy for the same task.",
        )
    all_target = torch.zeros(*seen.shape, probabilities.shape[-1], dtype=torch.float64)
    all_target[seen] = probabilities
    action = torch.zeros(there.shape, dtype=torch.int64)
    action[there] = torch.from_numpy(episodes.actions)
    target = all_target[:, :-1].gather(-1, action.unsqueeze(-1)).squeeze(-1)
    return {"target": target, "action": action, "all_target": all_target}


def _by_density(
    episodes: Episodes, policy: Policy, there: Tensor, seen: Tensor, draws: int, generator: torch.Generator | None
) -> dict[str, Any]:
    if isinstance(policy, DiscretePolicy):
        raise DatasetInvalidError(
            f"The log holds continuous actions, and a {type(policy).__name__} counts them.",
            mend="Judge a policy by a log of its own task.",
        )
    rows = torch.from_numpy(episodes.observations)  # (S + E, D)
    taken = torch.from_numpy(episodes.actions)  # (S, K)
    weighable = isinstance(policy, DensityPolicy)
    count = draws if weighable else 1
    found = torch.stack([policy.act(rows, greedy=False, generator=generator) for _ in range(count)], 1)  # (S + E, M, K)
    if found.shape[-1] != taken.shape[-1]:
        raise DatasetInvalidError(
            f"The log's actions hold {taken.shape[-1]} numbers, the policy's {found.shape[-1]}.",
            mend="Use a policy for the same task.",
        )
    if isinstance(policy, GaussianPolicy):
        # The environment clips what lies beyond its bounds. No model has seen anything there.
        found = found.clamp(policy.actions.low, policy.actions.high)
    action = torch.zeros(*there.shape, taken.shape[-1])
    action[there] = taken
    drawn = torch.zeros(*seen.shape, *found.shape[1:])
    drawn[seen] = found
    target = torch.zeros(there.shape, dtype=torch.float64)
    if isinstance(policy, DensityPolicy):
        acted_on = torch.zeros(*seen.shape, rows.shape[-1])
        acted_on[seen] = rows
        target[there] = policy.log_density(acted_on[:, :-1][there], taken).double().exp()
    return {"target": target, "action": action, "drawn": drawn, "weighable": weighable}
