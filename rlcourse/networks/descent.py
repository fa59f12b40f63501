"""One step down a loss's gradient: in plain torch, or compiled into a single graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from rlcourse.networks.optimisers import adam, anneal_, clip_gradients_

Loss = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
"""Tensors, or dataclasses of tensors, to a loss ``()`` and to whatever else is worth keeping, without gradients."""


class Descent:
    """Adam on one loss, with the gradient's length capped on the way.

    Plain, each of some hundred operations is launched by itself; with the small networks of this course that takes longer
    than the arithmetic. Compiled, loss, gradient, cap and Adam are one graph: two to three times as quick, after the
    first call has taken some ten seconds (and needs a C++ compiler on a CPU). Both keep their moments in the same
    optimiser, and agree to rounding.

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
        self._compiled = self._compile() if compiled else None

    def step(self, *inputs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step; returns the gradient's length before the cap (0 where there is no cap) and what the loss kept."""
        if self._compiled is not None:
            self._begin_moments()
            return self._compiled(*self._corrections(), *inputs)
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

    def anneal(self, fraction: float) -> None:
        """Shrink the learning rate to a fraction of its first value."""
        anneal_(self.optimiser, fraction)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's; plain and compiled steps read each other's."""
        return self.optimiser.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.optimiser.load_state_dict(dict(state))

    def _compile(self) -> Callable[..., tuple[Tensor, tuple[Tensor, ...]]]:
        def step(size: Tensor, spread: Tensor, *inputs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
            loss, kept = self.loss(*inputs)
            gradients = torch.autograd.grad(loss, self.weights)
            with torch.no_grad():
                length = loss.new_zeros(())
                if self.maximum_gradient is not None:
                    length = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
                    shrink = (self.maximum_gradient / (length + 1e-6)).clamp(max=1.0)
                    gradients = tuple(gradient * shrink for gradient in gradients)
                self._adam(gradients, size, spread)
                if self.follow is not None:
                    self.follow()
            return length, kept

        # The compiler counts versions by code object and gives up after eight; a ninth learner deserves its own count.
        own = FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
        compiled: Callable[..., tuple[Tensor, tuple[Tensor, ...]]] = torch.compile(own, fullgraph=True)
        torch._dynamo.config.trace_autograd_ops = True  # lets the compiler follow autograd.grad
        return compiled

    def _corrections(self) -> tuple[Tensor, Tensor]:
        # Two numbers for all weights, so they stay out of the graph: in it, the powers would be taken for each weight.
        (group,) = self.optimiser.param_groups
        beta_one, beta_two = group["betas"]
        step = self.optimiser.state[self.weights[0]]["step"] + 1.0
        return group["lr"] / (1.0 - beta_one**step), (1.0 - beta_two**step).rsqrt()

    def _adam(self, gradients: tuple[Tensor, ...], size: Tensor, spread: Tensor) -> None:
        # Kingma and Ba (2015), algorithm 1, on the moments of torch's own optimiser.
        (group,) = self.optimiser.param_groups
        beta_one, beta_two = group["betas"]
        for weight, gradient in zip(self.weights, gradients, strict=True):
            state = self.optimiser.state[weight]
            state["step"].add_(1.0)
            first = state["exp_avg"].lerp_(gradient, 1.0 - beta_one)
            second = state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - beta_two)
            weight.sub_(size * first / (second.sqrt() * spread + self.epsilon))

    def _begin_moments(self) -> None:
        if self.optimiser.state:
            return
        for weight in self.weights:
            self.optimiser.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
