"""Our equations and torchrl's losses on the same tensors: two programs written apart that must give one number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torchrl.modules import QValueActor
from torchrl.objectives import BCLoss, DiscreteCQLLoss, DiscreteIQLLoss, DQNLoss
from torchrl.objectives.iql import IQLLoss

from rlcourse.objectives.policies import advantage_weights, negative_log_likelihood
from rlcourse.objectives.returns import discounts
from rlcourse.objectives.values import (
    bellman_target,
    conservative_penalty,
    double_q_value,
    expectile_loss,
    squared_td_error,
)

# The target networks are moved by hand here.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater:UserWarning")

BATCH, ACTIONS, SIZE, GAMMA = 32, 3, 4, 0.9


@pytest.fixture(autouse=True)
def seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def transitions() -> TensorDict:
    """A batch as torchrl wants it; a third of the episodes end, and some of those are only cut off."""
    terminated = torch.rand(BATCH, 1) < 0.3
    done = terminated | (torch.rand(BATCH, 1) < 0.2)
    return TensorDict(
        {
            "observation": torch.randn(BATCH, SIZE),
            "action": torch.randint(ACTIONS, (BATCH,)),
            "next": {
                "observation": torch.randn(BATCH, SIZE),
                "reward": torch.randn(BATCH, 1),
                "done": done,
                "terminated": terminated,
            },
        },
        [BATCH],
    )


def ours(data: TensorDict) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same batch as this package wants it: obs, action, reward, discount, next_obs."""
    following = data["next"]
    return (
        data["observation"],
        data["action"],
        following["reward"].squeeze(-1),
        discounts(following["terminated"].squeeze(-1), GAMMA),
        following["observation"],
    )


def moved_apart(target: Any) -> None:
    """A target network that equals the online one would hide a mix-up of the two."""
    for tensor in target.values(include_nested=True, leaves_only=True):
        tensor.data.add_(torch.randn_like(tensor))


def values_of(loss: Any, params: Any, obs: Tensor) -> Tensor:
    """``(B, A)`` Q-values of torchrl's value network under these parameters."""
    with torch.no_grad(), params.to_module(loss.value_network):
        found: Tensor = loss.value_network(TensorDict({"observation": obs}, [len(obs)]))["action_value"]
    return found


def q_actor() -> QValueActor:
    return QValueActor(nn.Linear(SIZE, ACTIONS), in_keys=["observation"], action_space="categorical")


def test_the_conservative_penalty() -> None:
    loss = DiscreteCQLLoss(q_actor(), action_space="categorical")
    loss.make_value_estimator(gamma=GAMMA)
    data = transitions()
    theirs = loss(data.clone())["loss_cql"]
    q = values_of(loss, loss.value_network_params, data["observation"])
    torch.testing.assert_close(conservative_penalty(q, data["action"]).mean(), theirs)


def test_the_gradient_of_the_conservative_penalty() -> None:
    loss = DiscreteCQLLoss(q_actor(), action_space="categorical")
    loss.make_value_estimator(gamma=GAMMA)
    data = transitions()
    loss(data.clone())["loss_cql"].backward()
    theirs = {tuple(p.shape): p.grad for p in loss.value_network_params.parameters() if p.grad is not None}
    layer = nn.Linear(SIZE, ACTIONS)
    with torch.no_grad():
        for p in loss.value_network_params.parameters():
            (layer.weight if p.dim() == 2 else layer.bias).copy_(p)
    conservative_penalty(layer(data["observation"]), data["action"]).mean().backward()
    torch.testing.assert_close(layer.weight.grad, theirs[ACTIONS, SIZE])
    torch.testing.assert_close(layer.bias.grad, theirs[ACTIONS,])


def test_the_squared_error_of_the_plain_maximum() -> None:
    loss = DiscreteCQLLoss(q_actor(), action_space="categorical", loss_function="l2")
    loss.make_value_estimator(gamma=GAMMA)
    # No moving apart: torchrl 0.14.1 takes the next value from a copy of the online network, whatever the target's
    # parameters are. The double Q target below is the one that tells the two networks apart.
    data = transitions()
    theirs = loss(data.clone())["loss_qvalue"]
    obs, action, reward, discount, next_obs = ours(data)
    target = bellman_target(reward, discount, values_of(loss, loss.target_value_network_params, next_obs).amax(-1))
    found = squared_td_error(values_of(loss, loss.value_network_params, obs), action, target).mean()
    torch.testing.assert_close(found, theirs)


def test_the_double_q_target() -> None:
    loss = DQNLoss(q_actor(), action_space="categorical", loss_function="l2", double_dqn=True, delay_value=True)
    loss.make_value_estimator(gamma=GAMMA)
    moved_apart(loss.target_value_network_params)
    data = transitions()
    theirs = loss(data.clone())["loss"]
    obs, action, reward, discount, next_obs = ours(data)
    online = values_of(loss, loss.value_network_params, next_obs)
    target = values_of(loss, loss.target_value_network_params, next_obs)
    assert (online.argmax(-1) != target.argmax(-1)).any(), "the two agree everywhere: the test could not fail"
    y = bellman_target(reward, discount, double_q_value(online, target))
    found = squared_td_error(values_of(loss, loss.value_network_params, obs), action, y).mean()
    torch.testing.assert_close(2.0 * found, theirs)  # torchrl's has no factor of one half


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.7, 0.95])
def test_the_expectile_loss(tau: float) -> None:
    error = torch.randn(100)
    torch.testing.assert_close(expectile_loss(error, tau), IQLLoss.loss_value_diff(error, tau))


def categorical_actor() -> ProbabilisticTensorDictSequential:
    return ProbabilisticTensorDictSequential(
        TensorDictModule(nn.Linear(SIZE, ACTIONS), in_keys=["observation"], out_keys=["logits"]),
        ProbabilisticTensorDictModule(
            in_keys=["logits"], out_keys=["action"], distribution_class=torch.distributions.Categorical
        ),
    )


# torchrl 0.14.1 warns of an annotation that its own class lacks.
@pytest.mark.filterwarnings("ignore:The name target_actor_network_params:UserWarning")
def test_the_loss_of_behavioural_cloning_and_its_gradient() -> None:
    loss = BCLoss(categorical_actor())
    data = transitions()
    # As floats the actions take torchrl's way through a distribution; whole numbers would end in the very function of
    # torch that ours calls.
    theirs = loss(data.clone().set("action", data["action"].float()))["loss_bc"]
    theirs.backward()
    params = loss.actor_network_params["module", "0", "module"]
    layer = nn.Linear(SIZE, ACTIONS)
    with torch.no_grad():
        layer.weight.copy_(params["weight"])
        layer.bias.copy_(params["bias"])
    found = negative_log_likelihood(layer(data["observation"]), data["action"]).mean()
    found.backward()
    torch.testing.assert_close(found, theirs)
    torch.testing.assert_close(layer.weight.grad, params["weight"].grad)
    torch.testing.assert_close(layer.bias.grad, params["bias"].grad)


def iql_loss(tau: float, beta: float) -> Any:
    actor = categorical_actor()
    q = TensorDictModule(nn.Linear(SIZE, ACTIONS), in_keys=["observation"], out_keys=["state_action_value"])
    value = TensorDictModule(nn.Linear(SIZE, 1), in_keys=["observation"], out_keys=["state_value"])
    loss = DiscreteIQLLoss(
        actor, q, value, action_space="categorical", loss_function="l2", temperature=beta, expectile=tau
    )
    loss.make_value_estimator(gamma=GAMMA)
    moved_apart(loss.target_qvalue_network_params)
    return loss


@pytest.mark.parametrize(("tau", "beta"), [(0.7, 3.0), (0.9, 10.0)])
def test_the_three_losses_of_implicit_q_learning(tau: float, beta: float) -> None:
    loss = iql_loss(tau, beta)
    data = transitions()
    theirs = loss(data.clone())
    obs, action, reward, discount, next_obs = ours(data)
    linear = nn.functional.linear

    def apply(params: Any, x: Tensor) -> Tensor:
        weight, bias = params["module", "weight"].detach(), params["module", "bias"].detach()
        if weight.dim() == 3:  # the two Q-networks
            return torch.stack([linear(x, w, b) for w, b in zip(weight, bias, strict=True)])
        return linear(x, weight, bias)

    judged = apply(loss.target_qvalue_network_params, obs).amin(0).gather(-1, action[:, None]).squeeze(-1)
    advantage = judged - apply(loss.value_network_params, obs).squeeze(-1)
    torch.testing.assert_close(expectile_loss(advantage, tau).mean(), theirs["loss_value"])

    logits = apply(loss.actor_network_params["module", "0"], obs)
    weight = advantage_weights(advantage, beta)
    assert weight.max() == 100.0 or beta < 10.0, "the cap was never reached"
    torch.testing.assert_close((weight * negative_log_likelihood(logits, action)).mean(), theirs["loss_actor"])

    target = bellman_target(reward, discount, apply(loss.value_network_params, next_obs).squeeze(-1))
    found = sum(squared_td_error(q, action, target) for q in apply(loss.qvalue_network_params, obs))
    assert isinstance(found, Tensor)
    torch.testing.assert_close(2.0 * found.mean(), theirs["loss_qvalue"])  # again without the half
