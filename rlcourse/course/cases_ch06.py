"""Cases of chapter 6: off-policy evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlcourse.course.cases_common import changing, column, elementwise_mistakes, integers, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation
from rlcourse.objectives.importance import (
    clipped_cumulative_ratios,
    cumulative_ratios,
    discounted_returns,
    doubly_robust_returns,
    effective_sample_size,
    importance_sampled_returns,
    per_decision_returns,
    probability_worse,
    resampled_means,
    step_ratios,
    taken_and_expected,
    weighted_mean,
)

_FILE = "ch06_off_policy"
_EPISODES, _STEPS = 4, 5


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.from_numpy(rng.uniform(low, high, size=shape)).float()


def _mask(rng: np.random.Generator) -> Tensor:
    """Episodes of different lengths, one of them whole and one of them short."""
    lengths = np.append(rng.integers(1, _STEPS, size=_EPISODES - 1), _STEPS)
    return (torch.arange(_STEPS) < torch.from_numpy(rng.permutation(lengths)).unsqueeze(-1)).float()


# Ratios


def _draw_step(rng: np.random.Generator) -> Arguments:
    return {
        "target": _uniform(rng, 0.05, 0.95, _EPISODES, _STEPS),
        "behaviour": _uniform(rng, 0.1, 0.9, _EPISODES, _STEPS),
        "mask": _mask(rng),
    }


STEP_RATIOS = Exercise(
    name="step_ratios",
    file=_FILE,
    reference=step_ratios,
    draw=_draw_step,
    worked=(
        Worked(
            {
                "target": torch.tensor([[0.9, 0.2, 0.0]]),
                "behaviour": torch.tensor([[0.6, 0.4, 0.0]]),
                "mask": torch.tensor([[1.0, 1.0, 0.0]]),
            },
            torch.tensor([[1.5, 0.5, 1.0]]),
        ),
    ),
    mistakes=(
        Mistake(
            "upside down",
            lambda target, behaviour, mask: step_ratios(behaviour, target, mask),
            "The fraction is upside down: what the target policy likes better than the logger has to count for *more*.",
        ),
        Mistake(
            "no mask",
            lambda target, behaviour, mask: target / behaviour,
            "After the end of an episode there is nothing to compare, and 0 / 0 is no number. The ratio is 1 there.",
        ),
        Mistake(
            "zero after the end",
            lambda target, behaviour, mask: step_ratios(target, behaviour, mask) * mask,
            "A ratio of 0 after the end wipes out the whole episode's product. Use the number that leaves a product alone.",
        ),
        Mistake(
            "difference",
            lambda target, behaviour, mask: torch.where(mask > 0, target - behaviour, 1.0),
            "Not how much likelier in points, but by which factor: divide.",
        ),
        *(m for m in elementwise_mistakes(step_ratios, learns=False) if m.name in ("mean", "sign", "float64")),
    ),
    hint="Target over behaviour where there was a step, 1 elsewhere.",
    difficulty=1,
    minutes=10,
)


def _draw_ratios(rng: np.random.Generator) -> Arguments:
    return {"ratios": _uniform(rng, 0.3, 2.5, _EPISODES, _STEPS)}


CUMULATIVE_RATIOS = Exercise(
    name="cumulative_ratios",
    file=_FILE,
    reference=cumulative_ratios,
    draw=_draw_ratios,
    worked=(Worked({"ratios": torch.tensor([[2.0, 0.5, 3.0]])}, torch.tensor([[2.0, 1.0, 3.0]])),),
    mistakes=(
        Mistake(
            "along episodes",
            lambda ratios: ratios.cumprod(0),
            "This multiplies different episodes with each other. Time is the second axis.",
        ),
        Mistake(
            "sum",
            lambda ratios: ratios.cumsum(-1),
            "Probabilities of independent choices are multiplied, not added.",
        ),
        Mistake(
            "whole episodes only",
            lambda ratios: ratios.prod(-1),
            "One number per episode is the last column alone: keep every product on the way, (N, T).",
        ),
        Mistake(
            "one step behind",
            lambda ratios: torch.cat([torch.ones_like(ratios[:, :1]), ratios.cumprod(-1)[:, :-1]], -1),
            "The product at step t lacks the ratio of step t itself.",
        ),
        Mistake(
            "backwards",
            lambda ratios: ratios.flip(-1).cumprod(-1).flip(-1),
            "This multiplies what comes *after* each step. A reward is weighed by what led to it.",
        ),
        changing(0, cumulative_ratios),
    ),
    hint="A running product along time.",
    difficulty=1,
    minutes=5,
)


def _draw_clipped(rng: np.random.Generator) -> Arguments:
    return {"ratios": _uniform(rng, 0.2, 3.0, _EPISODES, _STEPS), "cap": float(rng.uniform(0.8, 1.5))}


_CLIP_BUG = Mutation(old="return ratios.cumprod(-1).clamp(max=cap)", new="return ratios.clamp(max=cap).cumprod(-1)")
HUNT_CLIPPED = Exercise(
    name="hunt_clipped_cumulative_ratios",
    file=_FILE,
    reference=clipped_cumulative_ratios,
    draw=_draw_clipped,
    worked=(Worked({"ratios": torch.tensor([[4.0, 0.25, 3.0]]), "cap": 2.0}, torch.tensor([[2.0, 1.0, 2.0]])),),
    mistakes=(
        planted(
            clipped_cumulative_ratios,
            _CLIP_BUG,
            "The single ratios are capped and then multiplied, so a weight can still grow without bound, and one that a later "
            "step would have brought back to 1 never comes back.",
        ),
        Mistake(
            "not capped at all",
            lambda ratios, cap: ratios.cumprod(-1),
            "Now nothing is capped.",
        ),
        Mistake(
            "from below",
            lambda ratios, cap: ratios.cumprod(-1).clamp(min=cap),
            "The cap is an upper bound: large weights are the dangerous ones.",
        ),
    ),
    hint="Work the docstring's number through by hand, one step at a time.",
    difficulty=1,
    minutes=10,
    mutation=_CLIP_BUG,
    symptom=(
        "The log acts evenly, the target policy prefers one action nine times out of ten, weights are capped at 2. Still an "
        "episode of 20 preferred actions weighs more than 100,000."
    ),
)

# Returns


def _draw_returns(rng: np.random.Generator) -> Arguments:
    mask = _mask(rng)
    return {
        "cumulative": cumulative_ratios(torch.where(mask > 0, _uniform(rng, 0.3, 2.0, _EPISODES, _STEPS), 1.0)),
        "reward": normal(rng, _EPISODES, _STEPS),  # not 0 after the end: the mask has to be used
        "mask": mask,
        "gamma": float(rng.uniform(0.6, 0.95)),
    }


_RETURNS = {
    "cumulative": torch.tensor([[2.0, 3.0]]),
    "reward": torch.tensor([[1.0, 2.0]]),
    "mask": torch.ones(1, 2),
    "gamma": 0.5,
}
_NO_MASK = "What stands in the reward after an episode's end was never paid: multiply with the mask."
_NO_DISCOUNT = "The discount is missing: a reward at step t counts gamma**t."

IMPORTANCE_SAMPLED_RETURNS = Exercise(
    name="importance_sampled_returns",
    file=_FILE,
    reference=importance_sampled_returns,
    draw=_draw_returns,
    worked=(Worked(_RETURNS, column([6.0])),),
    mistakes=(
        Mistake(
            "first ratio",
            lambda cumulative, reward, mask, gamma: cumulative[:, 0] * discounted_returns(reward, mask, gamma),
            "An episode is weighed by *all* that was done in it: the last product, not the first.",
        ),
        Mistake(
            "product of products",
            lambda cumulative, reward, mask, gamma: cumulative.prod(-1) * discounted_returns(reward, mask, gamma),
            "The ratios come multiplied already; this multiplies the products again.",
        ),
        Mistake(
            "per decision",
            per_decision_returns,
            "This is the per-decision estimator, the next exercise: here the whole return gets the whole episode's weight.",
        ),
        Mistake(
            "no discount",
            lambda cumulative, reward, mask, gamma: importance_sampled_returns(cumulative, reward, mask, 1.0),
            _NO_DISCOUNT,
        ),
        Mistake(
            "no mask",
            lambda cumulative, reward, mask, gamma: importance_sampled_returns(
                cumulative, reward, torch.ones_like(mask), gamma
            ),
            _NO_MASK,
        ),
        *elementwise_mistakes(importance_sampled_returns, learns=False),
    ),
    hint="Each episode's discounted return, times its last cumulative ratio.",
    difficulty=2,
    minutes=15,
)

PER_DECISION_RETURNS = Exercise(
    name="per_decision_returns",
    file=_FILE,
    reference=per_decision_returns,
    draw=_draw_returns,
    worked=(Worked(_RETURNS, column([5.0])),),
    mistakes=(
        Mistake(
            "whole episodes",
            importance_sampled_returns,
            "Every reward got the weight of the whole episode. What was done after a reward cannot have caused it.",
        ),
        Mistake(
            "one step behind",
            lambda cumulative, reward, mask, gamma: per_decision_returns(
                torch.cat([torch.ones_like(cumulative[:, :1]), cumulative[:, :-1]], -1), reward, mask, gamma
            ),
            "The weight of a reward includes the action that earned it: rho_t, not rho_{t-1}.",
        ),
        Mistake(
            "no discount",
            lambda cumulative, reward, mask, gamma: per_decision_returns(cumulative, reward, mask, 1.0),
            _NO_DISCOUNT,
        ),
        Mistake(
            "no mask",
            lambda cumulative, reward, mask, gamma: per_decision_returns(
                cumulative, reward, torch.ones_like(mask), gamma
            ),
            _NO_MASK,
        ),
        Mistake(
            "discounted from one",
            lambda cumulative, reward, mask, gamma: gamma * per_decision_returns(cumulative, reward, mask, gamma),
            "The first reward is not discounted: gamma**0 is 1.",
        ),
        *elementwise_mistakes(per_decision_returns, learns=False),
    ),
    hint="Weigh each reward with its own cumulative ratio, discount, sum over time.",
    difficulty=2,
    minutes=15,
)


def _draw_weighted(rng: np.random.Generator) -> Arguments:
    return {"weights": _uniform(rng, 0.0, 5.0, 6), "values": normal(rng, 6, scale=3.0)}


WEIGHTED_MEAN = Exercise(
    name="weighted_mean",
    file=_FILE,
    reference=weighted_mean,
    draw=_draw_weighted,
    worked=(Worked({"weights": column([3, 1]), "values": column([1, 5])}, torch.tensor(2.0)),),
    mistakes=(
        Mistake(
            "divided by N",
            lambda weights, values: (weights * values).mean(-1),
            "This divides by the number of episodes: ordinary importance sampling, which can leave the range of the values.",
        ),
        Mistake(
            "weights of one",
            lambda weights, values: values.mean(-1),
            "The weights are not used.",
        ),
        Mistake(
            "not normalised",
            lambda weights, values: (weights * values).sum(-1),
            "The sum still has to be divided by the sum of the weights.",
        ),
        Mistake(
            "softmax",
            lambda weights, values: (weights.softmax(-1) * values).sum(-1),
            "The weights are ratios of probabilities already, not logits: divide by their sum.",
        ),
    ),
    hint="Sum of weight times value, over the sum of the weights.",
    difficulty=1,
    minutes=5,
)


def _draw_effective(rng: np.random.Generator) -> Arguments:
    return {"weights": _uniform(rng, 0.1, 4.0, 3, 6)}


EFFECTIVE_SAMPLE_SIZE = Exercise(
    name="effective_sample_size",
    file=_FILE,
    reference=effective_sample_size,
    draw=_draw_effective,
    worked=(Worked({"weights": column([1, 1, 2])}, torch.tensor(16 / 6)),),
    mistakes=(
        Mistake(
            "upside down",
            lambda weights: weights.square().sum(-1) / weights.sum(-1).square(),
            "Upside down: equal weights should give N, and this gives 1 / N.",
        ),
        Mistake(
            "no square of the sum",
            lambda weights: weights.sum(-1) / weights.square().sum(-1),
            "The sum above the line is squared; without it the answer changes when all weights double.",
        ),
        Mistake(
            "over everything",
            lambda weights: weights.sum().square() / weights.square().sum(),
            "Only the last axis holds the weights that belong together; the others are separate questions.",
        ),
        Mistake(
            "counted",
            lambda weights: (weights > 0).float().sum(-1),
            "This counts the weights. One that is a thousand times the others makes them count for nothing.",
        ),
    ),
    hint="The square of the sum, over the sum of the squares.",
    difficulty=1,
    minutes=5,
)


def _draw_robust(rng: np.random.Generator) -> Arguments:
    drawn = dict(_draw_returns(rng))
    gamma, mask = drawn.pop("gamma"), drawn.pop("mask")
    shape = (_EPISODES, _STEPS)
    ended = torch.from_numpy(rng.random(_EPISODES) < 0.5).float()
    return {
        **drawn,
        "q": normal(rng, *shape),
        "value": normal(rng, *shape),
        "tail": normal(rng, _EPISODES) * ended,
        "mask": mask,
        "gamma": gamma,
    }


def _no_tail(
    cumulative: Tensor, reward: Tensor, q: Tensor, value: Tensor, tail: Tensor, mask: Tensor, gamma: float
) -> Tensor:
    return doubly_robust_returns(cumulative, reward, q, value, torch.zeros_like(tail), mask, gamma)


def _same_ratio(
    cumulative: Tensor, reward: Tensor, q: Tensor, value: Tensor, tail: Tensor, mask: Tensor, gamma: float
) -> Tensor:
    steps = discounted_returns(cumulative * (value + reward - q), mask, gamma)
    return steps + gamma ** mask.sum(-1) * cumulative[:, -1] * tail


_ONE = torch.ones(1, 1)
_ROBUST = {
    "cumulative": 2 * _ONE,
    "reward": _ONE,
    "q": 0.5 * _ONE,
    "value": 0.75 * _ONE,
    "tail": torch.zeros(1),
    "mask": _ONE,
    "gamma": 0.9,
}

DOUBLY_ROBUST_RETURNS = Exercise(
    name="doubly_robust_returns",
    file=_FILE,
    reference=doubly_robust_returns,
    draw=_draw_robust,
    worked=(Worked(_ROBUST, column([1.75])), Worked({**_ROBUST, "tail": column([10.0])}, column([19.75]))),
    mistakes=(
        Mistake(
            "same ratio",
            _same_ratio,
            "The value of a state does not depend on what is done there: it carries the weight of the step *before*, "
            "1 at the start.",
        ),
        Mistake(
            "tail forgotten",
            _no_tail,
            "An episode that was cut off goes on behind its last step; the model's tail stands for that.",
        ),
        Mistake(
            "tail not weighed",
            lambda cumulative, reward, q, value, tail, mask, gamma: (
                _no_tail(cumulative, reward, q, value, tail, mask, gamma) + gamma ** mask.sum(-1) * tail
            ),
            "The tail lies behind all that was done in the episode, so it carries the last product of ratios.",
        ),
        Mistake(
            "no model",
            lambda cumulative, reward, q, value, tail, mask, gamma: per_decision_returns(
                cumulative, reward, mask, gamma
            ),
            "Without the model this is the per-decision estimator.",
        ),
        Mistake(
            "model only",
            lambda cumulative, reward, q, value, tail, mask, gamma: value[:, 0],
            "This is what the model says of the first state; what it got wrong along the way is to be added.",
        ),
        Mistake(
            "no mask",
            lambda cumulative, reward, q, value, tail, mask, gamma: doubly_robust_returns(
                cumulative, reward, q, value, tail, torch.ones_like(mask), gamma
            ),
            _NO_MASK,
        ),
        *elementwise_mistakes(doubly_robust_returns, learns=False),
    ),
    hint="For each step: the state's value with the weight before it, and the surprise r - Q with the weight of it.",
    difficulty=3,
    minutes=30,
)

# Models and draws


def _draw_model(rng: np.random.Generator) -> Arguments:
    return {
        "q": normal(rng, 5, 3, scale=2.0),
        "probabilities": torch.softmax(normal(rng, 5, 3), -1),
        "action": integers(rng, 3, 5),
    }


_MODEL_BUG = Mutation(old="expected = (probabilities * q).sum(-1)", new="expected = taken")
HUNT_TAKEN = Exercise(
    name="hunt_taken_and_expected",
    file=_FILE,
    reference=taken_and_expected,
    draw=_draw_model,
    worked=(
        Worked(
            {
                "q": torch.tensor([[1.0, 5.0]]),
                "probabilities": torch.tensor([[0.25, 0.75]]),
                "action": torch.tensor([0]),
            },
            (column([1.0]), column([4.0])),
        ),
    ),
    mistakes=(
        planted(
            taken_and_expected,
            _MODEL_BUG,
            "The logged action stands where the target policy's belongs: whatever policy is asked about, this evaluates the "
            "logger.",
        ),
        Mistake(
            "greedy",
            lambda q, probabilities, action: (taken_and_expected(q, probabilities, action)[0], q.amax(-1)),
            "The best action's value belongs to a greedy policy. The one in question has probabilities of its own.",
        ),
        Mistake(
            "evenly",
            lambda q, probabilities, action: (taken_and_expected(q, probabilities, action)[0], q.mean(-1)),
            "A plain mean evaluates a policy that acts evenly; weigh with the target policy's probabilities.",
        ),
    ),
    hint="Ask about two very different policies and compare the answers.",
    difficulty=1,
    minutes=10,
    mutation=_MODEL_BUG,
    symptom=(
        "Fitted Q evaluation gives every candidate the same value, a random one and a good one alike, and that value is the "
        "log's own mean return."
    ),
)


def _draw_resampled(rng: np.random.Generator) -> Arguments:
    return {"reward": normal(rng, 6, 4), "drawn": integers(rng, 6, 5, 6)}


_DRAW_BUG = Mutation(old="returns = reward.sum(-1)", new="returns = reward.flatten() * reward.shape[-1]")
HUNT_RESAMPLED = Exercise(
    name="hunt_resampled_means",
    file=_FILE,
    reference=resampled_means,
    draw=_draw_resampled,
    worked=(
        Worked(
            {"reward": torch.tensor([[1.0, 1.0], [3.0, 1.0]]), "drawn": torch.tensor([[0, 0], [0, 1]])},
            column([2.0, 3.0]),
        ),
    ),
    mistakes=(
        planted(
            resampled_means,
            _DRAW_BUG,
            "Single steps are drawn, each scaled up as if it were an episode. What belongs together has to be drawn together.",
        ),
        Mistake(
            "over draws",
            lambda reward, drawn: reward.sum(-1)[drawn].mean(0),
            "The mean runs over the wrong axis: one number for each of the B draws is wanted.",
        ),
        Mistake(
            "mean of steps",
            lambda reward, drawn: reward.mean(-1)[drawn].mean(-1),
            "An episode is worth the sum of its rewards, not their mean.",
        ),
    ),
    hint="What does `drawn` count: episodes or steps? What does `returns` hold one of for each?",
    difficulty=2,
    minutes=15,
    mutation=_DRAW_BUG,
    symptom=(
        "Of a log of 100 episodes with 50 steps each, the last 98 can be replaced by anything: the interval does not move. And "
        "where every step pays the same, it has no width at all, although episodes differ in length."
    ),
)


def _draw_worse(rng: np.random.Generator) -> Arguments:
    return {  # whole numbers, so that there are ties
        "candidate": torch.from_numpy(rng.integers(4, size=12)).float(),
        "logger": torch.from_numpy(rng.integers(4, size=12)).float(),
    }


PROBABILITY_WORSE = Exercise(
    name="probability_worse",
    file=_FILE,
    reference=probability_worse,
    draw=_draw_worse,
    worked=(Worked({"candidate": column([3, 1, 2, 2]), "logger": column([2, 2, 2, 1])}, torch.tensor(0.375)),),
    mistakes=(
        Mistake(
            "better",
            lambda candidate, logger: probability_worse(logger, candidate),
            "This is the probability that the candidate is *better*.",
        ),
        Mistake(
            "ties lost",
            lambda candidate, logger: (candidate < logger).float().mean(),
            "Ties count half: two equal policies should come out at one half, not at 0.",
        ),
        Mistake(
            "ties as losses",
            lambda candidate, logger: (candidate <= logger).float().mean(),
            "Ties count half, not whole.",
        ),
        Mistake(
            "all pairs",
            lambda candidate, logger: (
                (candidate.unsqueeze(1) < logger).float() + 0.5 * (candidate.unsqueeze(1) == logger).float()
            ).mean(),
            "Every resample of one was compared with every resample of the other. Go draw by draw: luck that both share must "
            "cancel.",
        ),
    ),
    hint="Compare the two draw by draw: losses count 1, ties one half.",
    difficulty=1,
    minutes=10,
)

EXERCISES = (
    STEP_RATIOS,
    CUMULATIVE_RATIOS,
    IMPORTANCE_SAMPLED_RETURNS,
    PER_DECISION_RETURNS,
    WEIGHTED_MEAN,
    EFFECTIVE_SAMPLE_SIZE,
    DOUBLY_ROBUST_RETURNS,
    PROBABILITY_WORSE,
    HUNT_CLIPPED,
    HUNT_RESAMPLED,
    HUNT_TAKEN,
)
