"""Cases of chapter 4: conservative Q-learning."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from rlcourse.course.cases_common import column, elementwise_mistakes, flags, integers, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation
from rlcourse.networks.targets import polyak_update_
from rlcourse.objectives.returns import discounts
from rlcourse.objectives.values import bellman_target, conservative_penalty, double_q_value, squared_td_error

_FILE = "ch04_cql"


def _taken(q: Tensor, action: Tensor) -> Tensor:
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def _draw_target(rng: np.random.Generator) -> Arguments:
    discount = discounts(flags(rng, 5), 0.9)
    return {"reward": normal(rng, 5), "discount": discount, "next_value": normal(rng, 5, scale=5.0)}


BELLMAN_TARGET = Exercise(
    name="bellman_target",
    file=_FILE,
    reference=bellman_target,
    draw=_draw_target,
    worked=(
        Worked({"reward": column([1]), "discount": column([0.9]), "next_value": column([10])}, column([10.0])),
        Worked({"reward": column([1]), "discount": column([0.0]), "next_value": column([10])}, column([1.0])),
    ),
    mistakes=(
        Mistake(
            "carries a gradient",
            lambda reward, discount, next_value: reward + discount * next_value,
            "The numbers are right, but a gradient flows through the target: the network could then lower its error by "
            "moving the goal. Detach it.",
        ),
        Mistake(
            "no discount",
            lambda reward, discount, next_value: (reward + next_value).detach(),
            "The value of what follows is not discounted; where the task ended it must not count at all.",
        ),
        Mistake(
            "discounts the reward",
            lambda reward, discount, next_value: (discount * (reward + next_value)).detach(),
            "The reward of this step is discounted too: at a task's end it would vanish. The discount belongs to the next "
            "value alone.",
        ),
        Mistake(
            "gamma twice",
            lambda reward, discount, next_value: (reward + 0.99 * discount * next_value).detach(),
            "The next value is discounted twice: gamma is already inside `discount`.",
        ),
        Mistake(
            "ends reversed",
            lambda reward, discount, next_value: (reward + (1 - discount) * next_value).detach(),
            "`discount` is treated like a done flag. It is already 0 where the task ended: multiply by it as it is.",
        ),
        *elementwise_mistakes(bellman_target, learns=False),
    ),
    hint="Reward plus discount times next value, detached.",
    difficulty=1,
    minutes=5,
    gradient_of=("next_value",),
)


def _draw_two_q(rng: np.random.Generator) -> Arguments:
    return {"online_q": normal(rng, 5, 3, scale=3.0), "target_q": normal(rng, 5, 3, scale=3.0)}


_DOUBLE_WORKED = (
    Worked({"online_q": torch.tensor([[1.0, 3.0]]), "target_q": torch.tensor([[5.0, 2.0]])}, column([2.0])),
    Worked(
        {"online_q": torch.tensor([[1.0, 3.0], [4.0, 0.0]]), "target_q": torch.tensor([[5.0, 2.0], [7.0, 9.0]])},
        column([2.0, 7.0]),
    ),
)

_PLAIN_MAXIMUM = Mistake(
    "plain maximum",
    lambda online_q, target_q: target_q.amax(-1),
    "The target network chooses and judges: this is the plain maximum, which picks the luckiest estimate. The online "
    "network must choose the action.",
)
_WRONG_JUDGE = Mistake(
    "online judges",
    lambda online_q, target_q: online_q.amax(-1),
    "The online network judges its own choice. Let the target network name the price.",
)
_SWAPPED = Mistake(
    "networks swapped",
    lambda online_q, target_q: double_q_value(target_q, online_q),
    "The roles are swapped: online chooses (argmax), target judges (gather).",
)

DOUBLE_Q_VALUE = Exercise(
    name="double_q_value",
    file=_FILE,
    reference=double_q_value,
    draw=_draw_two_q,
    worked=_DOUBLE_WORKED,
    mistakes=(
        _PLAIN_MAXIMUM,
        _WRONG_JUDGE,
        _SWAPPED,
        Mistake(
            "smaller of two",
            lambda online_q, target_q: torch.minimum(online_q, target_q).amax(-1),
            "This is clipped double Q-learning, the minimum of two critics. Double Q-learning takes one network's choice "
            "and the other's price.",
        ),
        Mistake(
            "returns the action",
            lambda online_q, target_q: online_q.argmax(-1),
            "This returns which action was chosen; asked for is what the target network thinks it is worth.",
        ),
        Mistake(
            "indexes the batch",
            lambda online_q, target_q: target_q[..., online_q.argmax(-1)],
            "Indexing with the whole vector of choices gives every sample every choice, (B, B). Use gather, one choice "
            "per row.",
        ),
        *elementwise_mistakes(double_q_value, learns=True),
    ),
    hint="argmax over actions of one tensor, gather from the other.",
    difficulty=2,
    minutes=10,
    gradient_of=("online_q", "target_q"),
)

_DOUBLE_BUG = Mutation(
    old="return target_q.gather(-1, online_q.argmax(-1, keepdim=True)).squeeze(-1)",
    new="return target_q.gather(-1, target_q.argmax(-1, keepdim=True)).squeeze(-1)",
)

HUNT_DOUBLE_Q_VALUE = Exercise(
    name="hunt_double_q_value",
    file=_FILE,
    reference=double_q_value,
    draw=_draw_two_q,
    worked=_DOUBLE_WORKED,
    mistakes=(
        planted(double_q_value, _DOUBLE_BUG, _PLAIN_MAXIMUM.hint),
        _WRONG_JUDGE,
        _SWAPPED,
    ),
    hint="Two questions are asked: which action, and how much. Each goes to another network.",
    difficulty=1,
    minutes=10,
    mutation=_DOUBLE_BUG,
    symptom=(
        "Three actions are all worth 0, and both networks estimate them with independent noise of standard deviation 1. "
        "The value of the state comes out at 0.85 on average. It should be 0."
    ),
    gradient_of=("online_q", "target_q"),
)


def _draw_td(rng: np.random.Generator) -> Arguments:
    return {"q": normal(rng, 5, 3, scale=3.0), "action": integers(rng, 3, 5), "target": normal(rng, 5, scale=3.0)}


SQUARED_TD_ERROR = Exercise(
    name="squared_td_error",
    file=_FILE,
    reference=squared_td_error,
    draw=_draw_td,
    worked=(
        Worked({"q": torch.tensor([[1.0, 3.0]]), "action": torch.tensor([1]), "target": column([5])}, column([2.0])),
    ),
    mistakes=(
        Mistake(
            "no half",
            lambda q, action, target: (_taken(q, action) - target).square(),
            "Twice too large: the half in front is missing. It makes the gradient the error itself.",
        ),
        Mistake(
            "absolute",
            lambda q, action, target: 0.5 * (_taken(q, action) - target).abs(),
            "This is the absolute error; the square is missing.",
        ),
        Mistake(
            "greedy action",
            lambda q, action, target: 0.5 * (q.amax(-1) - target).square(),
            "The largest Q-value is compared with the target. What happened is known for the action in the data only.",
        ),
        Mistake(
            "all actions",
            lambda q, action, target: 0.5 * (q - target.unsqueeze(-1)).square().sum(-1),
            "All actions are pulled to the target, but only one was taken: gather it first.",
        ),
        *elementwise_mistakes(squared_td_error, learns=True),
    ),
    hint="Gather Q of the action taken, subtract the target, square, halve.",
    difficulty=1,
    minutes=10,
    gradient_of=("q",),
)


def _draw_penalty(rng: np.random.Generator) -> Arguments:
    return {"q": normal(rng, 5, 3, scale=3.0), "action": integers(rng, 3, 5)}


_PENALTY_WORKED = (
    Worked({"q": torch.tensor([[0.0, math.log(3)]]), "action": torch.tensor([1])}, column([math.log(4 / 3)])),
    Worked({"q": torch.tensor([[0.0, math.log(3)]]), "action": torch.tensor([0])}, column([math.log(4)])),
    Worked({"q": torch.tensor([[0.0, 200.0]]), "action": torch.tensor([0])}, column([200.0])),
)

_PENALTY_SIGN = Mistake(
    "sign",
    lambda q, action: -conservative_penalty(q, action),
    "The sign is wrong: the loss is rewarded for praising actions that nobody took. The penalty is never negative.",
)

CONSERVATIVE_PENALTY = Exercise(
    name="conservative_penalty",
    file=_FILE,
    reference=conservative_penalty,
    draw=_draw_penalty,
    worked=_PENALTY_WORKED,
    mistakes=(
        _PENALTY_SIGN,
        Mistake(
            "hard maximum",
            lambda q, action: q.amax(-1) - _taken(q, action),
            "The hard maximum stands where the soft one belongs: log sum exp pushes down every action, the most where Q is "
            "highest.",
        ),
        Mistake(
            "mean of the others",
            lambda q, action: q.mean(-1) - _taken(q, action),
            "This is the mean over actions; the equation has log sum exp.",
        ),
        Mistake(
            "data forgotten",
            lambda q, action: q.logsumexp(-1),
            "Only the push down is there. Subtract Q of the data's action, or all values sink together.",
        ),
        Mistake(
            "log mean exp",
            lambda q, action: q.logsumexp(-1) - math.log(q.shape[-1]) - _taken(q, action),
            "Off by the logarithm of the number of actions: a sum of exponentials, not their mean.",
        ),
        Mistake(
            "overflows",
            lambda q, action: q.exp().sum(-1).log() - _taken(q, action),
            "Right for small Q-values, infinite for large ones: exp(200) does not fit a float32. torch.logsumexp subtracts "
            "the largest first.",
        ),
        Mistake(
            "over the batch",
            lambda q, action: q.logsumexp(0).mean() - _taken(q, action),
            "The sum runs over the batch instead of over the actions: the axis is wrong.",
        ),
        *(m for m in elementwise_mistakes(conservative_penalty, learns=True) if m.name != "sign"),
    ),
    hint="log sum exp over the actions, minus Q of the data's action.",
    difficulty=2,
    minutes=15,
    gradient_of=("q",),
)

_PENALTY_BUG = Mutation(
    old="return torch.logsumexp(q, dim=-1) - q.gather(-1, action.unsqueeze(-1)).squeeze(-1)",
    new="return torch.logsumexp(q, dim=-1) - q.gather(-1, q.argmax(-1, keepdim=True)).squeeze(-1)",
)

HUNT_CONSERVATIVE_PENALTY = Exercise(
    name="hunt_conservative_penalty",
    file=_FILE,
    reference=conservative_penalty,
    draw=_draw_penalty,
    worked=_PENALTY_WORKED,
    mistakes=(
        planted(
            conservative_penalty,
            _PENALTY_BUG,
            "The greedy action stands where the data's action belongs: the penalty never looks at `action`, so it cannot "
            "tell what the log holds from what it lacks.",
        ),
        _PENALTY_SIGN,
    ),
    hint="Which quantities depend on the data, and which only on Q?",
    difficulty=2,
    minutes=10,
    mutation=_PENALTY_BUG,
    symptom=(
        "Shuffling the actions of the data set does not change the penalty at all. However large alpha is, the greedy action "
        "is pushed further up, whether the log holds it or not."
    ),
    gradient_of=("q",),
)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def _draw_polyak(rng: np.random.Generator) -> Arguments:
    target, online = (_linear(normal(rng, 2, 3), normal(rng, 2)) for _ in range(2))
    return {"target": target, "online": online, "rate": float(rng.uniform(0.01, 0.4))}


def _constant(weight: float, bias: float) -> nn.Linear:
    return _linear(torch.full((1, 1), weight), torch.full((1,), bias))


def _polyak_weights_only(target: nn.Linear, online: nn.Linear, rate: float) -> None:
    with torch.no_grad():
        target.weight.lerp_(online.weight, rate)


POLYAK_UPDATE = Exercise(
    name="polyak_update_",
    file=_FILE,
    reference=polyak_update_,
    draw=_draw_polyak,
    worked=(
        Worked({"target": _constant(0, 0), "online": _constant(10, 20), "rate": 0.1}, _constant(1, 2)),
        Worked({"target": _constant(1, 0), "online": _constant(10, 20), "rate": 1.0}, _constant(10, 20)),
    ),
    mistakes=(
        Mistake(
            "rate reversed",
            lambda target, online, rate: polyak_update_(target, online, 1 - rate) if rate < 1 else None,
            "The target jumps nearly all the way: rate is the share of the *online* network, 1 - rate that of the target.",
        ),
        Mistake(
            "copies",
            lambda target, online, rate: target.load_state_dict(online.state_dict()),
            "The online network is copied outright; the target should move by `rate` of the way only.",
        ),
        Mistake(
            "adds",
            lambda target, online, rate: polyak_update_(target, _sum(target, online), rate),
            "rate * online is added and nothing is taken away: the old weights must shrink by (1 - rate).",
        ),
        Mistake(
            "moves the online network",
            lambda target, online, rate: polyak_update_(online, target, rate),
            "The wrong network moves. The target follows; the online network is left alone.",
        ),
        Mistake(
            "does nothing",
            lambda target, online, rate: None,
            "The target is as it was. Assigning to a loop variable changes nothing: write into the parameter in place "
            "(copy_, lerp_), under torch.no_grad().",
        ),
        Mistake(
            "weights only",
            _polyak_weights_only,
            "The weights move and the biases do not: take every parameter of the network.",
        ),
    ),
    hint="For every pair of parameters: (1 - rate) * target + rate * online, written into target under torch.no_grad().",
    difficulty=2,
    minutes=15,
    observe="target",
)


def _sum(one: nn.Linear, two: nn.Linear) -> nn.Linear:
    return _linear((one.weight + two.weight).detach(), (one.bias + two.bias).detach())


EXERCISES = (
    BELLMAN_TARGET,
    DOUBLE_Q_VALUE,
    SQUARED_TD_ERROR,
    CONSERVATIVE_PENALTY,
    POLYAK_UPDATE,
    HUNT_DOUBLE_Q_VALUE,
    HUNT_CONSERVATIVE_PENALTY,
)
