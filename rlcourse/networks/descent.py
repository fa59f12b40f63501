"""One step down a loss's gradient: in plain torch, or compiled into a single graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from rlcourse.errors import ConfigError
from rlcourse.networks.optimisers import adam, anneal_, clip_gradients_, restore_
from rlcourse.networks.program import Program

TOGETHER = 4
"""Steps in one graph when several are due. Entering a graph takes about as long as a small network's step; compiling one
takes longer the more steps it holds."""

Loss = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
"""Tensors, or dataclasses of tensors, to a loss ``()`` and to whatever else is worth keeping, without gradients."""


class Descent:
    """Adam on one loss, with the gradient's length capped on the way.

    Plain, each of some hundred operations is launched by itself; with the small networks of this course that takes longer
    than the arithmetic. Compiled, loss, gradient, cap and Adam are one graph: two to three times as quick, after the
    first call has taken some twenty seconds (and needs a C++ compiler on a CPU). Where several steps are due at once,
    :meth:`run` takes four in one graph. Plain and compiled steps keep their moments in the same optimiser, and agree to
    rounding.

    ``follow`` is called after each step, inside the graph where there is one: for a target network that follows.
    """

    def __init__(
        self,
        loss: Loss,
        weights: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        epsilon: float = 1e-8,
        maximum_gradient: float | None = None,
        follow: Callable[[], None] | None = None,
        compiled: bool = False,
    ) -> None:
        self.loss = loss
        self.weights = list(weights)
        self.optimiser = adam(self.weights, learning_rate, epsilon=epsilon)
        self.epsilon = epsilon
        self.maximum_gradient = maximum_gradient
        self.follow = follow
        self._taken = 0  # steps, in graphs alone: a plain optimiser counts by itself
        self._compiled = Program(self._descend) if compiled else None

    def step(self, *inputs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step; returns the gradient's length before the cap (0 where there is no cap) and what the loss kept."""
        if self._compiled is not None:
            return self._graph([inputs])
        loss, kept = self.loss(*inputs)
        self.optimiser.zero_grad()
        loss.backward(inputs=self.weights)
        length = loss.new_zeros(())
        if self.maximum_gradient is not None:
            length = clip_gradients_(self.weights, self.maximum_gradient)
        self.optimiser.step()
        if self.follow is not None:
            self.follow()
        return length, kept

    def run(self, inputs: Iterable[tuple[Any, ...]]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step for each of ``inputs``, in their order; returns what :meth:`step` does for the last.

        Raises:
            ConfigError: there are none.
        """
        coming, last = iter(inputs), None
        while due := list(islice(coming, TOGETHER)):
            if self._compiled is not None and len(due) == TOGETHER:
                last = self._graph(due)
                continue
            for each in due:  # few are left: another graph for every number of them would cost more than it saves
                last = self.step(*each)
        if last is None:
            raise ConfigError("There is nothing to step on.", mend="Give run() the inputs of one step at least.")
        return last

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        anneal_(self.optimiser, fraction)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's; plain and compiled steps read each other's."""
        if self._compiled is not None:
            for moments in self.optimiser.state.values():
                moments["step"].fill_(self._taken)  # graphs do not count
        return self.optimiser.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        if self._compiled is None:
            restore_(self.optimiser, state)
            return
        self._begin_moments()
        met, rates = dict(self.optimiser.state), [group["lr"] for group in self.optimiser.param_groups]
        restore_(self.optimiser, state)
        # torch puts other tensors in their place; a program goes on with those that it met.
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate.copy_(group["lr"])
        for weight, moments in met.items():
            loaded = self.optimiser.state.get(weight)
            for name, tensor in moments.items():
                tensor.copy_(loaded[name]) if loaded else tensor.zero_()
            self.optimiser.state[weight] = moments
        self._taken = max(int(moments["step"]) for moments in met.values())

    def _graph(self, inputs: list[tuple[Any, ...]]) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert self._compiled is not None
        self._begin_moments()
        # Two numbers for all weights, so they stay out of the graph: in it, the powers would be taken for each weight.
        beta_one, beta_two = self.optimiser.param_groups[0]["betas"]
        numbers: list[float] = []
        for _ in inputs:
            self._taken += 1
            numbers += [1.0 / (1.0 - beta_one**self._taken), (1.0 - beta_two**self._taken) ** -0.5]
        return self._compiled(torch.tensor(numbers).unbind(), inputs)

    def _descend(
        self, corrections: tuple[Tensor, ...], inputs: list[tuple[Any, ...]]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        for number, each in enumerate(inputs):
            loss, kept = self.loss(*each)
            gradients = torch.autograd.grad(loss, self.weights)
            with torch.no_grad():
                length = loss.new_zeros(())
                if self.maximum_gradient is not None:
                    length = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
                    shrink = (self.maximum_gradient / (length + 1e-6)).clamp(max=1.0)
                    gradients = tuple(gradient * shrink for gradient in gradients)
                self._adam(gradients, *corrections[2 * number : 2 * number + 2])
                if self.follow is not None:
                    self.follow()
        return length, kept

    def _adam(self, gradients: tuple[Tensor, ...], size: Tensor, spread: Tensor) -> None:
        # Kingma and Ba (2015), algorithm 1, on the moments of torch's own optimiser.
        (group,) = self.optimiser.param_groups
        beta_one, beta_two = group["betas"]
        for weight, gradient in zip(self.weights, gradients, strict=True):
            state = self.optimiser.state[weight]
            first = state["exp_avg"].lerp_(gradient, 1.0 - beta_one)
            second = state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - beta_two)
            weight.sub_(group["lr"] * size * first / (second.sqrt() * spread + self.epsilon))

    def _begin_moments(self) -> None:
        if self.optimiser.state:
            return
        for weight in self.weights:
            self.optimiser.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
