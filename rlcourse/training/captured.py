"""Updates that a GPU repeats by itself: judging a rollout and all gradient steps on it, recorded once as a CUDA graph.

The sister of :class:`~rlcourse.experience.captured.CapturedCollector`. With both, the host starts one graph to collect and
one to learn, and a small network's sixteen gradient steps no longer wait for sixteen hundred orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlcourse.errors import ConfigError
from rlcourse.experience.captured import copied, undisturbed
from rlcourse.vocabulary import Metrics, OnPolicyLearner, Rollout, SamplingPolicy


@runtime_checkable
class RepeatableLearner(Protocol):
    """A learner whose update is the same list of operations for every rollout of one shape, with no look at their results."""

    @property
    def repeatable(self) -> bool:
        """Whether that is so with its present settings."""
        ...

    @property
    def generator(self) -> torch.Generator | None:
        """What its updates draw from, on the device of its networks."""
        ...


def quickest(learner: OnPolicyLearner, device: torch.device) -> OnPolicyLearner:
    """The learner itself, or on a GPU its captured twin where it can be recorded."""
    repeats = isinstance(learner, RepeatableLearner) and learner.repeatable
    return CapturedLearner(learner) if device.type == "cuda" and repeats else learner


class CapturedLearner:
    """Another learner, whose updates come from a CUDA graph.

    The first rollout of a shape is learned from in the ordinary way, the second is recorded. The networks and the optimiser
    are the other learner's; whatever changes between updates (learning rate, clip) has to be a tensor that is written to.
    """

    def __init__(self, learner: OnPolicyLearner) -> None:
        """Raises :class:`ConfigError` for a learner that does not repeat itself, or does not say what it draws from."""
        if not isinstance(learner, RepeatableLearner) or not learner.repeatable:
            raise ConfigError(
                f"Updates of {type(learner).__name__} cannot be recorded.", mend="Use the learner itself."
            )
        self.learner: OnPolicyLearner = learner
        self._generator = learner.generator
        self._repeating = True
        self._shapes: list[torch.Size | None] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None
        self._rollout: Rollout | None = None
        self._metrics: Metrics = {}

    @property
    def policy(self) -> SamplingPolicy:
        """The learner's."""
        return self.learner.policy

    def update(self, rollout: Rollout) -> Metrics:
        """The learner's update.

        Raises:
            ConfigError: the rollout is not on a GPU.
        """
        if not rollout.reward.is_cuda:
            raise ConfigError(
                "A rollout on a CPU cannot be learned from in a CUDA graph.", mend="Use the learner itself."
            )
        if not self._repeating:
            return self.learner.update(rollout)
        shapes = [None if column is None else column.shape for column in _columns(rollout)]
        if shapes != self._shapes:
            self._shapes, self._graph = shapes, None
            return self._aside(rollout)
        if self._graph is None:
            self._graph = self._record(rollout)
        assert self._rollout is not None
        for kept, now in zip(_columns(self._rollout), _columns(rollout), strict=True):
            if kept is not None and now is not None:
                kept.copy_(now)
        self._graph.replay()
        return {name: value.clone() for name, value in self._metrics.items()}

    def _aside(self, rollout: Rollout) -> Metrics:
        # On the stream that will be recorded: gradients arrive on the stream on which they first did, and a recording must
        # not have to wait for another one.
        usual = torch.cuda.current_stream(rollout.reward.device)
        self._stream = torch.cuda.Stream(rollout.reward.device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            metrics = self.learner.update(rollout)
        usual.wait_stream(self._stream)
        return metrics

    def _record(self, rollout: Rollout) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        if self._generator is not None:
            graph.register_generator_state(self._generator)
        self._rollout = copied(rollout)  # the recording reads this one's memory from now on
        with undisturbed(), torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._metrics = self.learner.update(self._rollout)
        return graph

    def anneal(self, fraction: float) -> None:
        """The learner's."""
        self.learner.anneal(fraction)

    def state_dict(self) -> dict[str, Any]:
        """The learner's."""
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The learner's. What was recorded wrote to the old optimiser, so from here on updates are ordinary ones."""
        self._repeating, self._graph = False, None
        self.learner.load_state_dict(state)


def _columns(rollout: Rollout) -> list[Tensor | None]:
    return [getattr(rollout, each.name) for each in fields(rollout)]
