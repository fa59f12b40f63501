"""Rollouts that a GPU repeats by itself: the whole collection is recorded once, and started by one call from then on.

A step of thousands of environments is some fifty small operations. A GPU does each in a few microseconds, and the host
needs longer than that to ask for it: the device waits for its orders. A CUDA graph is the list of orders, kept on the
device::

    eager      host  ask ask ask ask ask ...          captured   host  replay
               GPU      op  op  op  op  ...                      GPU   op op op op op ...

Recorded operations always read and write the same memory. So what one rollout hands to the next (where the environments
are, what is seen, the memory of a policy) is written back to where the recording reads it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TypeGuard

import torch
from torch import Tensor

from rlcourse.environments import BatchedEnvironment
from rlcourse.environments.batched import MaskedEnvironment
from rlcourse.environments.tensor_program import TensorProgram
from rlcourse.errors import ConfigError
from rlcourse.experience.compiled import CompiledCollector, built_in, unchanged
from rlcourse.experience.on_policy import RolloutCollector
from rlcourse.vocabulary import Rollout, SamplingPolicy


def rollout_collector(
    env: BatchedEnvironment, *, gamma: float, generator: torch.Generator, compiled: bool = False
) -> RolloutCollector:
    """The quickest collector for an environment: captured where it is a tensor program on a GPU.

    With ``compiled``, a tensor program on a CPU is compiled; anything else, and what rules out actions, is collected in the
    ordinary way.
    """
    if CapturedCollector.records(env):
        return CapturedCollector(env, gamma=gamma, generator=generator)
    if isinstance(env, TensorProgram) and compiled and not isinstance(env, MaskedEnvironment):
        return CompiledCollector(env, gamma=gamma, generator=generator)
    return RolloutCollector(env, gamma=gamma, generator=generator)


class CapturedCollector(RolloutCollector):
    """The same rollouts, number for number, from a CUDA graph.

    The first rollout of a policy is collected in the ordinary way, while libraries settle; the second is recorded. Weights
    may change in between, as optimisers change them, in place. Another policy, or another length, is recorded anew.

    An environment that puts other tensors in the place of its own, besides its state, is never recorded: the recording
    would go on with the old ones. :class:`~rlcourse.environments.tensor_program.TensorProgram` says what is asked of it.
    """

    def __init__(self, env: TensorProgram, *, gamma: float, generator: torch.Generator) -> None:
        """Raises :class:`ConfigError` unless ``env`` is a tensor program on a GPU."""
        if not self.records(env):
            raise ConfigError(
                f"Steps of {env.env_id} on {env.device} cannot be recorded.",
                mend="Use RolloutCollector, or a tensor program on a CUDA device.",
            )
        super().__init__(env, gamma=gamma, generator=generator)
        self._program = env
        self._recorded: tuple[SamplingPolicy, int] | None = None
        self._steady = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._place: Place | None = None
        self._result: Rollout | None = None

    @staticmethod
    def records(env: BatchedEnvironment) -> TypeGuard[TensorProgram]:
        """Whether steps of this environment can be recorded."""
        return isinstance(env, TensorProgram) and env.device.type == "cuda"

    def collect(self, policy: SamplingPolicy, num_steps: int) -> Rollout:
        """As in :class:`~rlcourse.experience.on_policy.RolloutCollector`."""
        known = self._recorded is not None and self._recorded[0] is policy and self._recorded[1] == num_steps
        if not known or not self._steady:
            self._graph = self._place = self._result = None
            before = built_in(self._program)
            rollout = super().collect(policy, num_steps)
            self._recorded, self._steady = (policy, num_steps), unchanged(before, built_in(self._program))
            return rollout
        if self._graph is None:
            # What is seen can be the state itself, and a reset from outside changes only one of them.
            self.seen = tuple(each.clone() for each in self.seen)
            self._place = Place(self, self._program)
            self._graph, self._result = self._record(policy, num_steps)
        assert self._result is not None and self._place is not None
        self._place.bring_back()
        self._graph.replay()
        return copied(self._result)  # the next replay writes over the recording's own tensors

    def _record(self, policy: SamplingPolicy, num_steps: int) -> tuple[torch.cuda.CUDAGraph, Rollout]:
        graph = torch.cuda.CUDAGraph()
        for generator in {id(one): one for one in (self._generator, self._program.generator) if one}.values():
            graph.register_generator_state(generator)  # each replay draws on from where the last one stopped
        with undisturbed(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            rollout = collect_in_place(self, self._program, policy, num_steps)
        return graph, rollout


class Place:
    """The very tensors in which a collector and its environment are now: where a recording begins and ends.

    A recording knows them by their addresses alone, so somebody has to keep them; and whoever resets the environment, or
    collects from it with another collector, puts others there.
    """

    def __init__(self, collector: RolloutCollector, env: TensorProgram) -> None:
        self._collector, self._env = collector, env
        self._seen, self._state, self._elapsed = collector.seen, env.state, env.elapsed

    def bring_back(self) -> None:
        """Write what is true now into these tensors, and put them back."""
        collector, env = self._collector, self._env
        kept = (*self._seen, self._state, self._elapsed)
        for old, now in zip(kept, (*collector.seen, env.state, env.elapsed), strict=True):
            if now is not old:
                old.copy_(now)
        collector.seen, env.state, env.elapsed = self._seen, self._state, self._elapsed


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage is collected inside: freeing what an old recording held would spoil a new one."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def collect_in_place(
    collector: RolloutCollector, env: TensorProgram, policy: SamplingPolicy, num_steps: int
) -> Rollout:
    """A rollout that leaves its end in the very tensors in which it found its beginning.

    Args:
        collector: an ordinary one, of ``env``.
        env: its environment. Of its tensors ``elapsed`` is written in place anyway.
        policy: one that has been collected with before, so that its memory is there.
        num_steps: ``T``.
    """
    place = Place(collector, env)
    rollout = RolloutCollector.collect(collector, policy, num_steps)
    if rollout.memory is not None:
        rollout = replace(rollout, memory=rollout.memory.clone())  # written over by the next lines
    place.bring_back()
    return rollout


def copied(rollout: Rollout) -> Rollout:
    """The same in memory of its own."""
    columns = {each.name: getattr(rollout, each.name) for each in fields(rollout)}
    return replace(rollout, **{name: column.clone() for name, column in columns.items() if isinstance(column, Tensor)})
