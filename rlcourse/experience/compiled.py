"""Rollouts from a compiled program: on a CPU, the small operations of many steps become one call.

With eight environments a step is some thirty operations, each of which takes longer to ask for than to do. All random
numbers of a rollout are drawn beforehand, in the order in which an ordinary collector draws them; what is left is
arithmetic, and eight steps of it are one program::

    ordinary   act  advance  act  advance ...         each of some fifteen operations
    compiled   noise, first states │ eight steps │ eight steps │ ... │ log-probabilities
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlcourse.environments.batched import MaskedEnvironment
from rlcourse.environments.tensor_program import TensorProgram
from rlcourse.errors import ConfigError
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.networks import Program
from rlcourse.networks.program import tensors
from rlcourse.objectives.returns import discounts
from rlcourse.vocabulary import ActionSpace, Rollout, SamplingPolicy

TOGETHER = 8
"""Steps in one program: more take longer to compile, fewer are more calls."""


@runtime_checkable
class RepeatablePolicy(SamplingPolicy, Protocol):
    """A policy whose chance can be drawn beforehand."""

    def noise(self, actions: ActionSpace, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """``(T, N, A)`` or ``(T, N, K)``: what ``T`` calls of ``act`` would draw."""
        ...

    def act_by(self, obs: Tensor, noise: Tensor) -> Tensor:
        """``(N, D)`` and one step's noise to actions."""
        ...


@dataclass(frozen=True)
class _Steps:
    """Some steps as they were taken, time first."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    next_obs: Tensor


def built_in(env: TensorProgram) -> list[Any]:
    """What a recording of an environment's steps would go on using: its tensors besides the state, its plain numbers."""
    others = {name: value for name, value in vars(env).items() if name != "state"}
    return [*tensors(others), *(value for value in others.values() if isinstance(value, int | float | str))]


def unchanged(before: list[Any], now: list[Any]) -> bool:
    """Whether these are the very same tensors and the same numbers."""
    same = (
        a is b or not (isinstance(a, Tensor) or isinstance(b, Tensor) or a != b)
        for a, b in zip(before, now, strict=False)
    )
    return len(before) == len(now) and all(same)


class CompiledCollector(RolloutCollector):
    """The same rollouts from the same seeds, to rounding, several times as quick once the first has been compiled.

    Compiled steps go on with the tensors that they met. As long as an ordinary rollout puts others in their place, the
    next one is ordinary, too.
    """

    def __init__(self, env: TensorProgram, *, gamma: float, generator: torch.Generator) -> None:
        """Raises :class:`~rlcourse.errors.ConfigError` unless ``env`` is a tensor program that allows every action."""
        if not isinstance(env, TensorProgram):
            raise ConfigError(
                f"Steps of {env.env_id} cannot be compiled.",
                mend="Use RolloutCollector, or a task that is a tensor program (CartPole-v1, Pendulum-v1, Acrobot-v1).",
            )
        if isinstance(env, MaskedEnvironment):
            raise ConfigError(
                f"{env.env_id} rules out actions, and compiled steps do not ask which.", mend="Use RolloutCollector."
            )
        super().__init__(env, gamma=gamma, generator=generator)
        self._program = env
        self._policy: SamplingPolicy | None = None
        self._steady = False
        self._some, self._whole = Program(self._walk), Program(self._gather)

    @torch.no_grad()
    def collect(self, policy: SamplingPolicy, num_steps: int) -> Rollout:
        """As in :class:`~rlcourse.experience.on_policy.RolloutCollector`; ``policy`` has no memory."""
        if not isinstance(policy, RepeatablePolicy):
            raise ConfigError(
                f"What a {type(policy).__name__} does cannot be compiled.", mend="Use a policy without a memory."
            )
        if num_steps < 1:
            raise ConfigError(f"A rollout of {num_steps} steps.", mend="Use 1 or more.")
        env = self._program
        if policy is not self._policy or not self._steady:
            # In the ordinary way at first: constants that are made once must not be made while a program is traced.
            self._policy, self._some, self._whole = policy, Program(self._walk), Program(self._gather)
            before = built_in(env)
            rollout = super().collect(policy, num_steps)
            self._steady = unchanged(before, built_in(env))
            return rollout
        noise = policy.noise(env.actions, num_steps, env.num_envs, self._generator)
        first = torch.stack([env.first_states() for _ in range(num_steps)])
        parts: list[_Steps] = []
        state, obs, elapsed = begun = env.state, self._obs, env.elapsed.clone()
        try:
            for numbers, states in zip(noise.split(TOGETHER), first.split(TOGETHER), strict=True):
                state, obs, steps = self._some(state, obs, numbers, states)
                parts.append(steps)
        except BaseException:
            # A trace that breaks off leaves stand-ins behind, which hold no numbers.
            env.state = begun[0]
            env.elapsed.copy_(elapsed)
            raise
        env.state, self._obs = state, obs
        rollout, self._starts = self._whole(parts, self._starts)
        return self._checked(rollout)

    def _walk(self, state: Tensor, obs: Tensor, noise: Tensor, first: Tensor) -> tuple[Tensor, Tensor, _Steps]:
        env, policy = self._program, self._policy
        assert isinstance(policy, RepeatablePolicy)
        env.state, seen, actions, steps = state, [], [], []
        for numbers, states in zip(noise.unbind(), first.unbind(), strict=True):
            action = policy.act_by(obs, numbers)
            step = env.step(action, states)
            seen.append(obs)
            actions.append(action)
            steps.append(step)
            obs = step.obs
        next_obs, reward, terminated, truncated = (torch.stack([step[field] for step in steps]) for field in range(4))
        taken = _Steps(torch.stack(seen), torch.stack(actions), reward, terminated, truncated, next_obs)
        return env.state.clone(), obs.clone(), taken

    def _gather(self, parts: list[_Steps], starts: Tensor) -> tuple[Rollout, Tensor]:
        policy = self._policy
        assert policy is not None
        obs, action, reward, terminated, truncated, next_obs = (
            torch.cat([getattr(part, name) for part in parts]) for name in _Steps.__dataclass_fields__
        )
        ended = terminated | truncated
        rollout = Rollout(
            obs=obs,
            action=action,
            log_probability=reward,  # filled in below
            reward=reward,
            discount=discounts(terminated, self.gamma),
            continues=(~ended).float(),
            next_obs=next_obs,
            starts=torch.cat([starts.unsqueeze(0), ended[:-1]]),
        )
        return replace(rollout, log_probability=policy.log_probability(rollout)), ended[-1].clone()
