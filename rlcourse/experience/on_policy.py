"""Rollouts for on-policy learners: a fixed number of steps of every environment, under the policy as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rlcourse.environments import BatchedEnvironment, Step
from rlcourse.environments.batched import MaskedEnvironment
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.objectives.returns import discounts
from rlcourse.vocabulary import MaskedPolicy, RecurrentPolicy, Rollout, SamplingPolicy


class RolloutCollector:
    """Steps ``N`` environments and remembers where they are: the next rollout goes on where the last one stopped.

    On a GPU nothing here waits for the device: the whole collection is queued while the host runs ahead. Where the host is
    slower than the device all the same, :class:`~rlcourse.experience.captured.CapturedCollector` records it.
    """

    def __init__(self, env: BatchedEnvironment, *, gamma: float, generator: torch.Generator) -> None:
        self.env = env
        self.gamma = gamma
        self._generator = generator
        self._obs = env.reset()
        self._starts = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        self._memory: Tensor | None = None
        self._remembering: SamplingPolicy | None = None  # whose memory it is

    @property
    def seen(self) -> tuple[Tensor, ...]:
        """Where the next rollout begins: observations, which of them are an episode's first, and the policy's memory."""
        return (self._obs, self._starts) if self._memory is None else (self._obs, self._starts, self._memory)

    @seen.setter
    def seen(self, where: tuple[Tensor, ...]) -> None:
        self._obs, self._starts, *memory = where
        self._memory = memory[0] if memory else None

    @torch.no_grad()
    def collect(self, policy: SamplingPolicy, num_steps: int) -> Rollout:
        """``num_steps`` steps of each environment.

        Args:
            policy: acts, sampling. A recurrent one gets its memory carried, wiped at every episode's first step and when
                another policy comes in between; a masked environment needs one that can be told what is allowed.
            num_steps: ``T``, 1 or more.

        Raises:
            ConfigError: no steps, or the environment rules out actions and the policy cannot be told.
            TrainingDivergedError: on a CPU, how likely an action was is no finite number. On a GPU the training loop's
                next look at its losses finds out.
        """
        if num_steps < 1:
            raise ConfigError(f"A rollout of {num_steps} steps.", mend="Use 1 or more.")
        if policy is not self._remembering:
            self._remembering = policy
            self._memory = policy.first_memory(self.env.num_envs) if isinstance(policy, RecurrentPolicy) else None
        memory = self._memory
        act = self._actor(policy)
        obs, actions, masks, steps = [], [], [], []
        starts = [self._starts]
        for _ in range(num_steps):
            action, mask = act(starts[-1])
            step = self.env.step(action)
            obs.append(self._obs)
            actions.append(action)
            masks.append(mask)
            steps.append(step)
            starts.append(step.terminated | step.truncated)
            self._obs = step.obs
        self._starts = starts.pop()
        return self._checked(self._rollout(policy, obs, actions, masks, steps, torch.stack(starts), memory))

    @staticmethod
    def _checked(rollout: Rollout) -> Rollout:
        # Where looking is free, on a CPU alone. An action drawn from probabilities that are no numbers looks like any other.
        if rollout.log_probability.device.type == "cpu" and not bool(rollout.log_probability.isfinite().all()):
            raise TrainingDivergedError(
                "The policy's probabilities stopped being finite.",
                mend="Lower the learning rate, and look at the scale of rewards and observations.",
            )
        return rollout

    def _actor(self, policy: SamplingPolicy) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
        # Chosen once for a rollout: asking an object whether it fits a Protocol takes as long as a step of CartPole.
        env = self.env
        if isinstance(env, MaskedEnvironment):
            if not isinstance(policy, MaskedPolicy):
                raise ConfigError(
                    f"{env.env_id} rules out actions, and a {type(policy).__name__} cannot be told which.",
                    mend="Use a memoryless policy over discrete actions (PPO without memory).",
                )
            return partial(self._act_within, policy, env)
        if isinstance(policy, RecurrentPolicy):
            return partial(self._act_remembering, policy)
        return lambda starts: (policy.act(self._obs, greedy=False, generator=self._generator), None)

    def _act_within(self, policy: MaskedPolicy, env: MaskedEnvironment, starts: Tensor) -> tuple[Tensor, Tensor]:
        mask = env.action_mask()
        return policy.act_within(self._obs, mask, greedy=False, generator=self._generator), mask

    def _act_remembering(self, policy: RecurrentPolicy, starts: Tensor) -> tuple[Tensor, None]:
        assert self._memory is not None
        memory = self._memory * (~starts).unsqueeze(-1)
        action, self._memory = policy.act_remembering(self._obs, memory, greedy=False, generator=self._generator)
        return action, None

    def _rollout(
        self,
        policy: SamplingPolicy,
        obs: list[Tensor],
        actions: list[Tensor],
        masks: list[Tensor | None],
        steps: list[Step],
        starts: Tensor,
        memory: Tensor | None,
    ) -> Rollout:
        next_obs, reward, terminated, truncated = (torch.stack([step[field] for step in steps]) for field in range(4))
        known = [mask for mask in masks if mask is not None]
        rollout = Rollout(
            obs=torch.stack(obs),
            action=torch.stack(actions),
            log_probability=reward,  # filled in below: the policy has not changed, and one large pass is quicker
            reward=reward,
            discount=discounts(terminated, self.gamma),
            continues=(~(terminated | truncated)).float(),
            next_obs=next_obs,
            starts=starts,
            action_mask=torch.stack(known) if known else None,
            memory=memory,
        )
        return replace(rollout, log_probability=policy.log_probability(rollout))
