"""What off-policy evaluation looks at: logged episodes as rows, and how likely a target policy was to do the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.experience.episodes import Episodes
from rlcourse.objectives.importance import cumulative_ratios, discounted_returns, step_ratios
from rlcourse.vocabulary import DiscretePolicy

Propensities = Literal["logged", "estimated"]
"""Whether the behaviour policy's probabilities were written down by the logger or guessed from the log."""


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
    action: Tensor | None = None  # (N, T) int64
    terminated: Tensor | None = None  # (N,) bool: the task ended; otherwise the episode was cut off
    all_target: Tensor | None = None  # (N, T + 1, A) the target policy's probabilities of all actions

    @property
    def num_episodes(self) -> int:
        """``N``."""
        return self.reward.shape[0]

    @property
    def horizon(self) -> int:
        """``T``."""
        return self.reward.shape[1]

    def cumulative(self) -> Tensor:
        """``(N, T)`` products of ratios up to and with each step."""
        return cumulative_ratios(step_ratios(self.target, self.behaviour, self.mask))

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
        return cls(**tensors, gamma=gamma, propensities=propensities).validate()

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        policy: DiscretePolicy,
        *,
        gamma: float,
        behaviour: np.ndarray | None = None,
    ) -> Self:
        """Lay episodes side by side and ask ``policy`` how likely it was to do what they did.

        Args:
            episodes: with discrete actions.
            policy: the one in question.
            gamma: in (0, 1].
            behaviour: ``(S,)`` estimated propensities, to be used instead of the logged ones.

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
        probabilities = policy.probabilities(rows).double()  # (S + E, A)
        all_target = torch.zeros(count, longest + 1, probabilities.shape[-1], dtype=torch.float64)
        all_target[seen] = probabilities
        action = torch.zeros(count, longest, dtype=torch.int64)
        action[there] = torch.from_numpy(episodes.actions)
        logged = episodes.behaviour_probabilities if behaviour is None else behaviour
        columns = []
        for values, empty in ((logged, 1.0), (episodes.rewards, 0.0)):
            column = torch.full((count, longest), empty, dtype=torch.float64)
            column[there] = torch.from_numpy(np.asarray(values)).double()
            columns.append(column)
        if int(episodes.actions.max()) >= all_target.shape[-1]:
            raise DatasetInvalidError(
                f"The log holds action {int(episodes.actions.max())}, the policy knows {all_target.shape[-1]} actions.",
                mend="Use a policy for the same task.",
            )
        return cls(
            target=all_target[:, :-1].gather(-1, action.unsqueeze(-1)).squeeze(-1),
            behaviour=columns[0],
            reward=columns[1],
            mask=there.double(),
            gamma=gamma,
            propensities="logged" if behaviour is None else "estimated",
            obs=obs,
            action=action,
            terminated=torch.from_numpy(episodes.terminated),
            all_target=all_target,
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
        if unknown:
            raise DatasetInvalidError(
                f"The propensities of {unknown} of {int(there.sum())} steps were not logged.",
                mend="Estimate them (estimate_propensities, or --propensities estimated), and read what that costs.",
            )
        for problem, wrong in (
            ("propensities of 0 or less: the log says that its own action was impossible", self.behaviour <= 0),
            ("propensities that are infinite", ~self.behaviour.isfinite()),
            ("target probabilities that are negative or no number", ~((self.target >= 0) & self.target.isfinite())),
            ("rewards that are no number", ~self.reward.isfinite()),
        ):
            if bool(wrong[there].any()):
                raise DatasetInvalidError(
                    f"The log has {problem} ({int(wrong[there].sum())} steps).",
                    mend="Find out how it was written; nothing can be estimated from it.",
                )
        return self
