r"""A model of the *task*, fitted to the log, in which any policy can be tried.

Fitted Q evaluation learns what a policy is worth from estimates of what it is worth one step later, so a mistake where the log
is thin spreads to wherever the policy goes from there. What one step does is told by every logged step alone, whoever acted.
One model serves all policies that are to be ranked. Its own mistakes add up over the steps that are tried, and it says nothing
of luck: it knows the mean of what comes next, and no more. That suits tasks with smooth laws and little noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.evaluation.off_policy.trajectories import Trajectories
from rlcourse.networks import Descent
from rlcourse.networks.mlp import mlp
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import Policy


@dataclass(frozen=True)
class DynamicsConfig:
    """Settings of a learned model of the task."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers."""
    updates: int = 4_000
    """Gradient steps. More, until the error of one step is small beside what one step changes."""
    batch_size: int = 256
    """Transitions in one gradient step."""
    learning_rate: float = 2e-3
    """Adam's first step; it falls linearly to zero."""

    def __post_init__(self) -> None:
        if min(self.updates, self.batch_size) < 1:
            raise ConfigError("updates and batch_size count things.", mend="Use 1 or more of each.")


@dataclass(frozen=True)
class Dynamics:
    """What a state and a continuous action lead to, as a log tells it: the mean of the next observation and of the reward."""

    network: nn.Module
    middle: Tensor  # (D + K,) of what goes in
    spread: Tensor  # (D + K,)
    change_middle: Tensor  # (D + 1,) of what comes out: the observation's change, then the reward
    change_spread: Tensor  # (D + 1,)
    lowest: Tensor  # (D + 1,) of any logged observation and reward: nothing leaves these
    highest: Tensor  # (D + 1,)

    @torch.no_grad()
    def step(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, D)`` and ``(B, K)`` to the next ``(B, D)`` observations and ``(B,)`` rewards."""
        said = self.network((torch.cat([obs, action], -1) - self.middle) / self.spread)
        change = self.change_middle + self.change_spread * said
        after = torch.cat([obs + change[:, :-1], change[:, -1:]], -1).clamp(self.lowest, self.highest)
        return after[:, :-1], after[:, -1]


def fit_dynamics(log: Trajectories, config: DynamicsConfig | None = None, *, seeds: Seeds) -> Dynamics:
    """Fit one step of the task by least squares, on every step of the log.

    Args:
        log: made by :meth:`Trajectories.from_episodes`, of continuous actions; who is to be judged does not matter here.
        config: settings.
        seeds: first weights and batches draw from its streams.

    Raises:
        DatasetInvalidError: no observations, actions that are counted, or an episode that the task ended: this model does not
            know about ends.
    """
    config = config or DynamicsConfig()
    if log.obs is None or log.action is None or log.terminated is None or log.drawn is None:
        raise DatasetInvalidError(
            "A model of the task needs observations and continuous actions.",
            mend="Make the log with Trajectories.from_episodes, or use fqe.",
        )
    if bool(log.terminated.any()):
        raise DatasetInvalidError(
            f"The task ended {int(log.terminated.sum())} episodes, and this model does not know when a task ends.",
            mend="Use fqe or linear, which do.",
        )
    there = log.mask > 0
    obs, after = log.obs[:, :-1][there], log.obs[:, 1:][there]  # (S, D)
    given = torch.cat([obs, log.action[there]], -1)
    wanted = torch.cat([after - obs, log.reward[there].float().unsqueeze(-1)], -1)
    reached = torch.cat([after, wanted[:, -1:]], -1)
    middle, spread = given.mean(0), given.std(0).clamp_min(1e-6)
    change_middle, change_spread = wanted.mean(0), wanted.std(0).clamp_min(1e-6)
    inputs, outputs = (given - middle) / spread, (wanted - change_middle) / change_spread
    with seeds.initialising("networks"):
        network = mlp([inputs.shape[-1], *config.hidden, outputs.shape[-1]])

    def loss(index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        error = (network(inputs[index]) - outputs[index]).square().mean()
        return error, (error.detach(),)

    descent, drawing = Descent(loss, network.parameters(), config.learning_rate), seeds.torch("batches")
    for update in range(config.updates):
        if update % 50 == 0:
            descent.anneal(1.0 - update / config.updates)
        descent.step(torch.randint(len(inputs), (config.batch_size,), generator=drawing))
    return Dynamics(network, middle, spread, change_middle, change_spread, reached.amin(0), reached.amax(0))


@torch.no_grad()
def simulated_values(
    dynamics: Dynamics, policy: Policy, log: Trajectories, *, seeds: Seeds, repeats: int = 4
) -> Tensor:
    """What the policy earns in the model, from the log's own first states over as many steps as its longest episode.

    Args:
        dynamics: from :func:`fit_dynamics`.
        policy: of continuous actions, drawn from its own spread; beyond the logged actions' range they are clipped to it.
        log: gives the first states, the discount and the horizon.
        seeds: actions draw from the stream ``"simulated actions"``.
        repeats: how often each first state is tried.

    Returns:
        ``(N,)``: the mean discounted return from each episode's first state.
    """
    assert log.obs is not None and log.action is not None
    logged = log.action[log.mask > 0]
    low, high = logged.amin(0), logged.amax(0)
    generator = seeds.torch("simulated actions")
    obs = log.obs[:, 0].repeat(repeats, 1)
    total = torch.zeros(len(obs), dtype=torch.float64)
    for t in range(log.horizon):
        action = policy.act(obs, greedy=False, generator=generator).clamp(low, high)
        obs, reward = dynamics.step(obs, action)
        total += log.gamma**t * reward.double()
    values: Tensor = total.unflatten(0, (repeats, -1)).mean(0)
    return values
