"""The equations of PPO, DQN and SAC beside torchrl's losses, torch's distributions and plain loops, on the same tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, distributions, nn
from torchrl.modules import ProbabilisticActor, QValueActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss, DQNLoss, SACLoss
from torchrl.objectives.value.functional import generalized_advantage_estimate

from rlcourse.algorithms.dqn import DQN, DQNConfig
from rlcourse.algorithms.sac import SAC, SACConfig
from rlcourse.objectives.policies import (
    categorical_entropy,
    categorical_log_probability,
    clipped_surrogate,
    gaussian_entropy,
    gaussian_log_probability,
    masked_logits,
    normalised_advantages,
    squashing_correction,
)
from rlcourse.objectives.returns import discounts, generalised_advantages
from rlcourse.vocabulary import Batch, ContinuousActions, TaskSpec

# The target networks are moved by hand here.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater:UserWarning")

BATCH, ACTIONS, SIZE, GAMMA = 64, 3, 4, 0.9


@pytest.fixture(autouse=True)
def seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def episodes(steps: int, envs: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rewards, values, next values, where tasks ended, and where time limits cut: all ``(T, N)``."""
    terminated = torch.rand(steps, envs) < 0.15
    truncated = (torch.rand(steps, envs) < 0.15) & ~terminated
    value, following = torch.randn(2, steps, envs)
    going = ~(terminated | truncated)
    # Within an episode what follows a step is what the next step sees.
    following[:-1] = torch.where(going[:-1], value[1:], following[:-1])
    return torch.randn(steps, envs), value, following, terminated, truncated


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_generalised_advantages_are_torchrl_s(lambda_: float) -> None:
    reward, value, following, terminated, truncated = episodes(40, 6)
    assert truncated.any() and terminated.any(), "both kinds of ends, or the test could not fail"
    going = (~(terminated | truncated)).float()
    found = generalised_advantages(reward, value, following, discounts(terminated, GAMMA), going, lambda_)

    def theirs(x: Tensor) -> Tensor:  # environments first, time second, a trailing axis of 1
        return x.T.unsqueeze(-1)

    done = terminated | truncated
    expected, _ = generalized_advantage_estimate(
        GAMMA, lambda_, theirs(value), theirs(following), theirs(reward), theirs(done), theirs(terminated)
    )
    equal(found, expected.squeeze(-1).T)


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_generalised_advantages_are_a_double_loop_s(lambda_: float) -> None:
    """Equation 16 as it is printed: for every step the sum of discounted temporal differences to the episode's end."""
    reward, value, following, terminated, truncated = (x.tolist() for x in episodes(25, 3))
    expected = torch.zeros(25, 3)
    for n in range(3):
        for t in range(25):
            total, weight = 0.0, 1.0
            for k in range(t, 25):
                after = 0.0 if terminated[k][n] else following[k][n]
                total += weight * (reward[k][n] + GAMMA * after - value[k][n])
                weight *= GAMMA * lambda_
                if terminated[k][n] or truncated[k][n]:
                    break
            expected[t, n] = total
    ended, cut = torch.tensor(terminated), torch.tensor(truncated)
    columns = (torch.tensor(reward), torch.tensor(value), torch.tensor(following))
    found = generalised_advantages(*columns, discounts(ended, GAMMA), (~(ended | cut)).float(), lambda_)
    equal(found, expected)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_clipped_surrogate_is_torchrl_s_and_so_is_its_gradient(normalise: bool) -> None:
    layer = nn.Linear(SIZE, ACTIONS)
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(layer, in_keys=["observation"], out_keys=["logits"]),
        ProbabilisticTensorDictModule(
            in_keys=["logits"], out_keys=["action"], distribution_class=distributions.Categorical
        ),
    )
    critic = TensorDictModule(nn.Linear(SIZE, 1), in_keys=["observation"], out_keys=["state_value"])
    loss = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_bonus=True, normalize_advantage=normalise)
    obs, action, advantage = torch.randn(BATCH, SIZE), torch.randint(ACTIONS, (BATCH,)), torch.randn(BATCH)
    old = categorical_log_probability(torch.randn(BATCH, ACTIONS), action)  # of another policy: many ratios are clipped
    data = TensorDict(
        {
            "observation": obs,
            "action": action,
            "action_log_prob": old,
            "advantage": advantage.unsqueeze(-1),
            "value_target": torch.zeros(BATCH, 1),
        },
        [BATCH],
    )
    theirs = loss(data)
    assert 0.1 < theirs["clip_fraction"] < 0.9
    theirs["loss_objective"].backward()
    params = loss.actor_network_params["module", "0", "module"]
    copied = nn.Linear(SIZE, ACTIONS)
    with torch.no_grad():
        copied.weight.copy_(params["weight"])
        copied.bias.copy_(params["bias"])
    logits = copied(obs)
    judged = normalised_advantages(advantage) if normalise else advantage
    found = clipped_surrogate(categorical_log_probability(logits, action), old, judged, 0.2).mean()
    found.backward()
    equal(-found, theirs["loss_objective"])
    assert copied.weight.grad is not None
    equal(-copied.weight.grad, params["weight"].grad)
    equal(categorical_entropy(logits).mean(), theirs["entropy"])


def linear_q_learner(weights: Any, target: Any, *, double: bool) -> DQN:
    learner = DQN(TaskSpec.unscaled(SIZE, ACTIONS), DQNConfig(hidden=(), double=double))
    for network, params in ((learner.q, weights), (learner.target_q, target)):
        layer = network.layers[0]
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            for tensor in params.values(include_nested=True, leaves_only=True):
                (layer.weight if tensor.dim() == 2 else layer.bias).copy_(tensor)
    return learner


@pytest.mark.parametrize("double", [True, False])
def test_the_loss_of_deep_q_learning_is_torchrl_s_and_its_targets_are_a_loop_s(double: bool) -> None:
    actor = QValueActor(nn.Linear(SIZE, ACTIONS), in_keys=["observation"], action_space="categorical")
    loss = DQNLoss(actor, action_space="categorical", loss_function="smooth_l1", double_dqn=double, delay_value=True)
    loss.make_value_estimator(gamma=GAMMA)
    for tensor in loss.target_value_network_params.values(include_nested=True, leaves_only=True):
        tensor.data.add_(torch.randn_like(tensor))  # a target that equals the online network would hide a mix-up
    terminated = torch.rand(BATCH) < 0.3
    done = terminated | (torch.rand(BATCH) < 0.2)
    obs, next_obs, reward = torch.randn(BATCH, SIZE), torch.randn(BATCH, SIZE), torch.randn(BATCH)
    action = torch.randint(ACTIONS, (BATCH,))
    after = {"observation": next_obs, "reward": reward[:, None], "done": done[:, None]}
    data = TensorDict(
        {"observation": obs, "action": action, "next": {**after, "terminated": terminated[:, None]}}, [BATCH]
    )
    theirs = loss(data)["loss"]
    learner = linear_q_learner(loss.value_network_params, loss.target_value_network_params, double=double)
    batch = Batch(obs, action, reward, discounts(terminated, GAMMA), next_obs)

    expected = []
    online, target = learner.q(next_obs).tolist(), learner.target_q(next_obs).tolist()
    for i in range(BATCH):
        chooser = online[i] if double else target[i]
        best = max(range(ACTIONS), key=lambda a: chooser[a])
        expected.append(reward[i].item() + (0.0 if terminated[i] else GAMMA * target[i][best]))
    equal(learner.target(batch), torch.tensor(expected))
    equal(learner.update(batch)["td_loss"], theirs.detach())


class Judge(nn.Module):
    """Observation and action beside each other, to a value."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(SIZE + 2, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.net(torch.cat([obs, action], -1))
        return value


def soft_learner(loss: SACLoss, actor: nn.Sequential, temperature: float, target_entropy: float) -> SAC:
    """Ours, with the weights of torchrl's."""
    box = ContinuousActions(-torch.ones(2), torch.ones(2))
    config = SACConfig(hidden=(8,), temperature=temperature, target_entropy=target_entropy)
    learner = SAC(TaskSpec.unscaled(SIZE, box), config)
    with torch.no_grad():
        learner.actor.layers.load_state_dict(actor.state_dict())
        for twins, theirs in (
            (learner.q, loss.qvalue_network_params),
            (learner.target_q, loss.target_qvalue_network_params),
        ):
            for layer, name in enumerate(("0", "2")):
                params = theirs["module", "net", name]
                twins.weights[layer].copy_(params["weight"].transpose(-1, -2))
                twins.biases[layer].copy_(params["bias"].unsqueeze(-2))
    return learner


def test_the_losses_of_soft_actor_critic_are_torchrl_s_and_so_are_their_gradients() -> None:
    net = nn.Sequential(nn.Linear(SIZE, 8), nn.ReLU(), nn.Linear(8, 4))
    split = NormalParamExtractor(scale_mapping="exp")
    actor = ProbabilisticActor(
        TensorDictModule(nn.Sequential(net, split), in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
    )
    judges = [ValueOperator(Judge(), in_keys=["observation", "action"]) for _ in range(2)]
    loss = SACLoss(actor, judges, loss_function="l2", alpha_init=0.3, target_entropy=-0.7, delay_qvalue=True)
    loss.make_value_estimator(gamma=GAMMA)
    for tensor in loss.target_qvalue_network_params.values(include_nested=True, leaves_only=True):
        tensor.data.add_(0.5 * torch.randn_like(tensor))  # a target that equals the online one would hide a mix-up
    learner = soft_learner(loss, net, 0.3, -0.7)
    terminated = torch.rand(BATCH) < 0.3
    obs, next_obs, reward = torch.randn(BATCH, SIZE), torch.randn(BATCH, SIZE), torch.randn(BATCH)
    action = 2.0 * torch.rand(BATCH, 2) - 1.0
    after = {"observation": next_obs, "reward": reward[:, None], "done": terminated[:, None]}
    data = TensorDict(
        {"observation": obs, "action": action, "next": {**after, "terminated": terminated[:, None]}}, [BATCH]
    )
    torch.manual_seed(1)  # both draw the next action first
    theirs = loss(data)
    torch.manual_seed(1)
    noise = [learner.policy.noise(BATCH) for _ in range(2)]
    batch = Batch(obs, action, reward, discounts(terminated, GAMMA), next_obs)
    total, (q_loss, policy_loss, temperature, entropy, _) = learner._loss(batch, *noise)
    equal(q_loss, 0.5 * theirs["loss_qvalue"].detach())  # equation 5 has a half, torchrl has not
    equal(policy_loss, theirs["loss_actor"].detach())
    equal(temperature, theirs["alpha"])
    equal(entropy, theirs["entropy"])
    equal((total - q_loss - policy_loss).detach(), theirs["loss_alpha"].detach())

    total.backward()
    (theirs["loss_qvalue"] / 2 + theirs["loss_actor"] + theirs["loss_alpha"]).backward()
    assert learner.log_temperature.grad is not None and loss.log_alpha.grad is not None
    equal(learner.log_temperature.grad, loss.log_alpha.grad.squeeze())
    expected = loss.actor_network_params["module", "0", "module", "0", "2", "weight"].grad
    last = learner.actor.layers[2]
    assert isinstance(last, nn.Linear)
    found = last.weight.grad
    assert found is not None and found.abs().max() > 1e-3
    equal(found, expected)
    found = learner.q.weights[0].grad
    assert found is not None and found.abs().max() > 1e-3
    equal(found, loss.qvalue_network_params["module", "net", "0", "weight"].grad.transpose(-1, -2))


def test_the_losses_of_soft_actor_critic_are_a_loop_s() -> None:
    """One row after another, one number after another, with torch's own distributions."""
    box = ContinuousActions(torch.tensor([-3.0, 0.0]), torch.tensor([1.0, 2.0]))  # neither symmetric nor of size 1
    learner = SAC(TaskSpec.unscaled(SIZE, box), SACConfig(hidden=(8,), temperature=0.3, target_entropy=-0.7))
    with torch.no_grad():
        for weights in learner.target_q.parameters():
            weights.add_(0.5 * torch.randn_like(weights))
    terminated = torch.rand(BATCH) < 0.3
    obs, next_obs, reward = torch.randn(BATCH, SIZE), torch.randn(BATCH, SIZE), torch.randn(BATCH)
    action = box.low + (box.high - box.low) * torch.rand(BATCH, 2)
    noise = torch.randn(2, BATCH, 2)

    @torch.no_grad()
    def drawn(seen: Tensor, numbers: Tensor) -> tuple[Tensor, float]:
        mean, log_std = learner.actor(seen).double().chunk(2, -1)
        normal = distributions.Independent(distributions.Normal(mean, log_std.exp()), 1)
        tanh = distributions.TransformedDistribution(normal, [distributions.TanhTransform(cache_size=1)])
        unsquashed = mean + log_std.exp() * numbers.double()
        squashed = tanh.transforms[0](unsquashed)
        return (box.centre + box.half_range * squashed).float(), tanh.log_prob(squashed).item()

    q_loss, policy_loss, entropy = 0.0, 0.0, 0.0
    for i in range(BATCH):
        following, how_likely = drawn(next_obs[i], noise[0, i])
        after = min(q.item() for q in learner.target_q(next_obs[i : i + 1], following[None]))
        target = reward[i].item() + (0.0 if terminated[i] else GAMMA * (after - 0.3 * how_likely))
        q_loss += sum(0.5 * (q.item() - target) ** 2 for q in learner.q(obs[i : i + 1], action[i : i + 1])) / BATCH
        mine, how_likely = drawn(obs[i], noise[1, i])
        policy_loss += (0.3 * how_likely - min(q.item() for q in learner.q(obs[i : i + 1], mine[None]))) / BATCH
        entropy -= how_likely / BATCH
    batch = Batch(obs, action, reward, discounts(terminated, GAMMA), next_obs)
    total, kept = learner._loss(batch, noise[0], noise[1])
    for found, expected in zip(kept, (q_loss, policy_loss, 0.3, entropy), strict=False):
        equal(found, torch.tensor(expected))
    alpha_loss = -math.log(0.3) * (-entropy - 0.7)
    equal(total.detach(), torch.tensor(q_loss + policy_loss + alpha_loss))


def test_a_normal_policy_is_torch_s_normal_distribution() -> None:
    mean, log_std, action = torch.randn(BATCH, 3), torch.randn(3), 2.0 * torch.randn(BATCH, 3)
    theirs = distributions.Independent(distributions.Normal(mean, log_std.exp().expand_as(mean)), 1)
    equal(gaussian_log_probability(mean, log_std, action), theirs.log_prob(action))
    equal(gaussian_entropy(log_std).expand(BATCH), theirs.entropy())


def test_masked_logits_are_a_distribution_over_what_is_left() -> None:
    logits, mask = torch.randn(BATCH, 4), torch.rand(BATCH, 4) < 0.5
    mask[:, 0] = True
    masked = masked_logits(logits, mask)
    for row in range(BATCH):
        left = mask[row].nonzero().squeeze(-1)
        theirs = distributions.Categorical(logits=logits[row, left])
        equal(masked[row].softmax(-1)[left], theirs.probs)
        equal(categorical_entropy(masked[row]), theirs.entropy())


def test_squashing_is_torch_s_and_torchrl_s_change_of_variables() -> None:
    """In float64, in which the inverse of tanh still finds its way back."""
    mean, log_std = torch.randn(BATCH, 3, dtype=torch.float64), torch.full((3,), -0.5, dtype=torch.float64)
    unsquashed = mean + log_std.exp() * torch.randn(BATCH, 3, dtype=torch.float64)
    found = gaussian_log_probability(mean, log_std, unsquashed) - squashing_correction(unsquashed)
    scale = log_std.exp().expand_as(mean)
    squashed = distributions.TransformedDistribution(
        distributions.Independent(distributions.Normal(mean, scale), 1), [distributions.TanhTransform()]
    )
    equal(found, squashed.log_prob(unsquashed.tanh()))
    equal(found, TanhNormal(mean, scale, event_dims=1).log_prob(unsquashed.tanh()))


def test_squashed_densities_add_up_to_one() -> None:
    """Whatever two libraries agree on: a density over (-1, 1) has area 1."""
    points = torch.linspace(-1.0, 1.0, 20_003, dtype=torch.float64)[1:-1]
    unsquashed = points.atanh().unsqueeze(-1)
    mean, log_std = torch.tensor([0.4], dtype=torch.float64), torch.tensor([-0.2], dtype=torch.float64)
    density = (gaussian_log_probability(mean, log_std, unsquashed) - squashing_correction(unsquashed)).exp()
    assert torch.trapezoid(density, points).item() == pytest.approx(1.0, abs=1e-4)
