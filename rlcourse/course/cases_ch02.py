"""Cases of chapter 2: the mathematics of PPO, and comparing runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rlcourse.course.cases_common import changing, column, elementwise_mistakes, flags, integers, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation
from rlcourse.evaluation import statistics
from rlcourse.objectives.policies import (
    categorical_log_probability,
    clipped_surrogate,
    gaussian_log_probability,
    kl_estimate,
    masked_logits,
    negative_log_likelihood,
    normalised_advantages,
    squashing_correction,
)
from rlcourse.objectives.returns import discounts, generalised_advantages

_FILE = "ch02_baselines"


def _without(mistakes: tuple[Mistake, ...], *names: str) -> tuple[Mistake, ...]:
    return tuple(mistake for mistake in mistakes if mistake.name not in names)


def _only(mistakes: tuple[Mistake, ...], *names: str) -> tuple[Mistake, ...]:
    return tuple(mistake for mistake in mistakes if mistake.name in names)


def _draw_advantages(rng: np.random.Generator) -> Arguments:
    lanes = () if rng.random() < 0.5 else (3,)
    terminated = flags(rng, 7, *lanes, probability=0.2)
    truncated = flags(rng, 7, *lanes, probability=0.2)
    terminated[2] = False
    truncated[2] = True  # every case holds a time limit in the middle, with another episode after it
    return {
        "reward": normal(rng, 7, *lanes),
        "value": normal(rng, 7, *lanes, scale=3.0),
        "next_value": normal(rng, 7, *lanes, scale=3.0),
        "discount": discounts(terminated, 0.9),
        "continues": (~(terminated | truncated)).float(),
        "lambda_": float(rng.uniform(0.4, 0.95)),
    }


def _advantages_worked(reward: list[float], expected: list[float], *, discount: float = 0.5) -> Worked:
    arguments = {
        "reward": column(reward),
        "value": column([2, 3]),
        "next_value": column([3, 4]),
        "discount": column([0.5, discount]),
        "continues": column([1, 0]),
        "lambda_": 0.5,
    }
    return Worked(arguments, column(expected))


_ADVANTAGES_WORKED = (
    _advantages_worked([1, 1], [0.5, 0.0]),
    _advantages_worked([2, 3], [2.0, 2.0]),
    _advantages_worked([2, 3], [1.5, 0.0], discount=0.0),  # the task ended: the next value counts nothing
)
_TRUNCATION = Mistake(
    "truncation as termination",
    lambda reward, value, next_value, discount, continues, lambda_: generalised_advantages(
        reward, value, next_value, discount * continues, continues, lambda_
    ),
    "An episode that a time limit cut off loses the value of what it was about to see. `continues` says where one episode's "
    "sum stops; whether anything follows is said by `discount` alone.",
)
_LEAKING = Mistake(
    "leaks into the last episode",
    lambda reward, value, next_value, discount, continues, lambda_: generalised_advantages(
        reward, value, next_value, discount, torch.ones_like(continues), lambda_
    ),
    "Advantages flow back from one episode into the one before it: at a time limit the discount is not 0, so only "
    "`continues` can stop them.",
)


def _advantages_from_the_next_row(
    reward: Tensor, value: Tensor, next_value: Tensor, discount: Tensor, continues: Tensor, lambda_: float
) -> Tensor:
    return generalised_advantages(reward, value, torch.cat([value[1:], next_value[-1:]]), discount, continues, lambda_)


def _advantages_undiscounted(
    reward: Tensor, value: Tensor, next_value: Tensor, discount: Tensor, continues: Tensor, lambda_: float
) -> Tensor:
    delta = reward + discount * next_value - value
    zeros = torch.zeros_like(delta)
    return generalised_advantages(delta, zeros, zeros, torch.ones_like(discount), continues, lambda_)


def _advantages_forwards(
    reward: Tensor, value: Tensor, next_value: Tensor, discount: Tensor, continues: Tensor, lambda_: float
) -> Tensor:
    r, v, n, d, c = (x.flip(0) for x in (reward, value, next_value, discount, continues))
    return generalised_advantages(r, v, n, d, c, lambda_).flip(0)


GENERALISED_ADVANTAGES = Exercise(
    name="generalised_advantages",
    file=_FILE,
    reference=generalised_advantages,
    draw=_draw_advantages,
    worked=_ADVANTAGES_WORKED,
    mistakes=(
        _TRUNCATION,
        _LEAKING,
        Mistake(
            "deltas only",
            lambda reward, value, next_value, discount, continues, lambda_: reward + discount * next_value - value,
            "These are the one-step errors delta. Add what followed them, shrunk by lambda and the discount at each step.",
        ),
        Mistake(
            "lambda forgotten",
            lambda reward, value, next_value, discount, continues, lambda_: generalised_advantages(
                reward, value, next_value, discount, continues, 1.0
            ),
            "lambda is missing: this is the answer for lambda = 1, whatever is asked for.",
        ),
        Mistake(
            "discount forgotten",
            _advantages_undiscounted,
            "What flows back is shrunk by lambda alone. Each step also costs its discount: lambda * d * c.",
        ),
        Mistake(
            "value targets",
            lambda reward, value, next_value, discount, continues, lambda_: (
                generalised_advantages(reward, value, next_value, discount, continues, lambda_) + value
            ),
            "This is advantage plus value, the target that the value network is pulled to. The advantage is without it.",
        ),
        Mistake(
            "the next row's value",
            _advantages_from_the_next_row,
            "V of the next *row* stands where V of what followed belongs. Where an episode ended the next row is another "
            "episode's first step; `next_value` has the right number for every step.",
        ),
        Mistake(
            "forwards in time",
            _advantages_forwards,
            "The sum runs from the first step to the last, so every step is credited with what came *before* it. Start at the "
            "end and go back.",
        ),
        *_only(elementwise_mistakes(generalised_advantages, learns=False), "sign", "float64"),
        changing(0, generalised_advantages),
    ),
    hint="First all deltas at once; then from the last step back, A_t = delta_t + lambda * d_t * c_t * A_(t+1).",
    difficulty=3,
    minutes=30,
)

_TRUNCATION_BUG = Mutation(
    old="advantages = list((reward + discount * next_value - value).unbind(0))  # the deltas, to begin with",
    new="advantages = list((reward + discount * continues * next_value - value).unbind(0))  # the deltas, to begin with",
)

HUNT_GENERALISED_ADVANTAGES = Exercise(
    name="hunt_generalised_advantages",
    file=_FILE,
    reference=generalised_advantages,
    draw=_draw_advantages,
    worked=_ADVANTAGES_WORKED,
    mistakes=(planted(generalised_advantages, _TRUNCATION_BUG, _TRUNCATION.hint), _LEAKING),
    hint="Two columns mark the end of an episode. Ask of each of its uses: which of the two belongs here?",
    difficulty=2,
    minutes=15,
    mutation=_TRUNCATION_BUG,
    symptom=(
        "A reward of 1 for ever, gamma 0.8, and a time limit of 5 steps. The value should be 5 in the only state there is. "
        "With lambda 0 the critic settles on 2.78: it believes that one step in five is the last one."
    ),
)


def _draw_logits(rng: np.random.Generator) -> Arguments:
    return {"logits": normal(rng, 4, 3, scale=2.0), "action": integers(rng, 3, 4)}


def _picked(values: Tensor, action: Tensor) -> Tensor:
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


CATEGORICAL_LOG_PROBABILITY = Exercise(
    name="categorical_log_probability",
    file=_FILE,
    reference=categorical_log_probability,
    draw=_draw_logits,
    worked=(
        Worked({"logits": torch.tensor([[0.0, math.log(3)]]), "action": torch.tensor([1])}, column([math.log(0.75)])),
        Worked(  # exp(200) is infinite in float32; the answer is not
            {"logits": torch.tensor([[0.0, 200.0]]), "action": torch.tensor([0])}, column([-200.0])
        ),
        Worked(  # a rollout: time, environments, actions
            {"logits": torch.zeros(2, 1, 4), "action": torch.zeros(2, 1, dtype=torch.int64)},
            torch.full((2, 1), -math.log(4)),
        ),
    ),
    mistakes=(
        Mistake(
            "not normalised",
            _picked,
            "Logits are not log-probabilities yet: subtract log sum exp over the actions.",
        ),
        Mistake(
            "no logarithm",
            lambda logits, action: _picked(logits.softmax(-1), action),
            "This is the probability itself. The logarithm is missing.",
        ),
        Mistake(
            "softmax over the batch",
            lambda logits, action: _picked(logits.log_softmax(0), action),
            "The probabilities add up to 1 over the batch instead of over the actions: the axis of the softmax is wrong.",
        ),
        Mistake(
            "overflows",
            lambda logits, action: _picked(logits, action) - logits.exp().sum(-1).log(),
            "Right for small logits, infinite for large ones: exp(200) does not fit a float32. log_softmax and logsumexp "
            "subtract the largest logit first.",
        ),
        Mistake(
            "loss",
            lambda logits, action: negative_log_likelihood(logits.flatten(0, -2), action.flatten()).view(action.shape),
            "This is the *negative* log-probability, a loss to minimise. Asked for is the log-probability, never above 0.",
        ),
        Mistake(
            "two axes only",
            lambda logits, action: logits.log_softmax(-1)[torch.arange(len(logits)), action],
            "Right for a batch, wrong for a rollout, whose leading axes are time and environments. gather works along the last "
            "axis, however many come before it.",
        ),
        *_without(elementwise_mistakes(categorical_log_probability, learns=True), "sign"),
    ),
    hint="log_softmax over the last axis, then gather the entry of the action taken.",
    difficulty=1,
    minutes=10,
    gradient_of=("logits",),
)


def _draw_masked(rng: np.random.Generator) -> Arguments:
    mask = flags(rng, 5, 4, probability=0.5)
    mask[:, 0] = True
    mask[:, -1] = False
    return {"logits": normal(rng, 5, 4, scale=3.0), "mask": mask}


_LEAST = torch.finfo(torch.float32).min

MASKED_LOGITS = Exercise(
    name="masked_logits",
    file=_FILE,
    reference=masked_logits,
    draw=_draw_masked,
    worked=(
        Worked(
            {"logits": torch.tensor([[0.0, math.log(3), 5.0]]), "mask": torch.tensor([[True, True, False]])},
            torch.tensor([[0.0, math.log(3), _LEAST]]),
        ),
    ),
    mistakes=(
        Mistake(
            "mask reversed",
            lambda logits, mask: masked_logits(logits, ~mask),
            "What is allowed was ruled out, and what is forbidden was left: `mask` is true where an action is allowed.",
        ),
        Mistake(
            "minus infinity",
            lambda logits, mask: logits.masked_fill(~mask, -torch.inf),
            "Minus infinity makes the right probabilities, and then an entropy of 0 times infinity, which is NaN. Take the "
            "smallest *finite* number of the dtype.",
        ),
        Mistake(
            "times the mask",
            lambda logits, mask: logits * mask,
            "A logit of 0 is not a probability of 0: exp(0) is 1. Forbidden actions need a very negative logit.",
        ),
        Mistake(
            "some large number",
            lambda logits, mask: logits.masked_fill(~mask, -1e9),
            "A number such as -1e9 works until logits come in another size or dtype (float16 ends at -65504). torch.finfo "
            "knows the smallest number of each.",
        ),
        Mistake(
            "after the softmax",
            lambda logits, mask: logits.softmax(-1) * mask,
            "These are probabilities that were masked after the softmax, so what is left no longer adds up to 1. Rule out the "
            "logits and leave the softmax to the caller.",
        ),
        Mistake(
            "log-probabilities",
            lambda logits, mask: masked_logits(logits, mask).log_softmax(-1),
            "The right probabilities, one step too far: asked for are the logits as they came, with the forbidden ones "
            "replaced.",
        ),
        *_only(elementwise_mistakes(masked_logits, learns=False), "float64"),
    ),
    hint="Where the mask is false put torch.finfo(logits.dtype).min; leave the rest as it is.",
    difficulty=1,
    minutes=5,
)


def _draw_gaussian(rng: np.random.Generator) -> Arguments:
    return {"mean": normal(rng, 4, 2), "log_std": normal(rng, 2, scale=0.7), "action": normal(rng, 4, 2, scale=2.0)}


def _gaussian_terms(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """``(..., K)``: each number's own log-density."""
    return gaussian_log_probability(mean.unsqueeze(-1), log_std.unsqueeze(-1), action.unsqueeze(-1))


_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)

GAUSSIAN_LOG_PROBABILITY = Exercise(
    name="gaussian_log_probability",
    file=_FILE,
    reference=gaussian_log_probability,
    draw=_draw_gaussian,
    worked=(
        Worked(
            {"mean": torch.zeros(1, 1), "log_std": torch.zeros(1), "action": torch.ones(1, 1)},
            column([-0.5 - _HALF_LOG_TAU]),
        ),
        Worked(
            {"mean": torch.zeros(1, 2), "log_std": column([0.0, math.log(2)]), "action": torch.tensor([[1.0, 0.0]])},
            column([-0.5 - 2 * _HALF_LOG_TAU - math.log(2)]),
        ),
    ),
    mistakes=(
        Mistake(
            "not summed",
            _gaussian_terms,
            "One number for each part of the action came back. The parts are independent: their log-densities add up.",
        ),
        Mistake(
            "mean over the parts",
            lambda mean, log_std, action: _gaussian_terms(mean, log_std, action).mean(-1),
            "The parts of the action were averaged. Probabilities of independent parts multiply, so their logarithms add.",
        ),
        Mistake(
            "log_std as it is",
            lambda mean, log_std, action: gaussian_log_probability(mean, log_std.abs().log(), action),
            "log_std is used as if it were the standard deviation. It is its logarithm: exp(log_std) is the spread.",
        ),
        Mistake(
            "log_std as the log of the variance",
            lambda mean, log_std, action: gaussian_log_probability(mean, 0.5 * log_std, action),
            "log_std is used as the logarithm of the variance. The variance is exp(2 * log_std).",
        ),
        Mistake(
            "not scaled",
            lambda mean, log_std, action: (-0.5 * (action - mean).square() - log_std - _HALF_LOG_TAU).sum(-1),
            "The distance from the mean must be measured in standard deviations: divide by exp(log_std) before squaring.",
        ),
        Mistake(
            "width forgotten",
            lambda mean, log_std, action: (-0.5 * ((action - mean) / log_std.exp()).square() - _HALF_LOG_TAU).sum(-1),
            "A wide distribution is lower everywhere: - log_std is missing. Without it the policy could only gain by growing "
            "its spread.",
        ),
        Mistake(
            "constant forgotten",
            lambda mean, log_std, action: (
                gaussian_log_probability(mean, log_std, action) + _HALF_LOG_TAU * mean.shape[-1]
            ),
            "Off by (1/2) log(2 pi) for each part of the action: then exp of it is no density.",
        ),
        Mistake(
            "density",
            lambda mean, log_std, action: gaussian_log_probability(mean, log_std, action).exp(),
            "This is the density itself. The logarithm is asked for.",
        ),
        *elementwise_mistakes(gaussian_log_probability, learns=True),
    ),
    hint="Scale the distance by exp(-log_std), then minus half of (square + 2 log_std + log 2 pi), summed over the last axis.",
    difficulty=2,
    minutes=15,
    gradient_of=("mean", "log_std"),
)


def _draw_to_normalise(rng: np.random.Generator) -> Arguments:
    # Environments that differ in what they earn, and a drift over time: what a wrong axis would erase.
    lanes, drift = normal(rng, 3, scale=3.0), normal(rng, 5, 1)
    return {"advantage": 4.0 * normal(rng, 5, 3) + lanes + drift}


_NORMALISED_WORKED = (
    Worked({"advantage": column([1, 2, 3])}, column([-1, 0, 1])),
    Worked(
        {"advantage": torch.tensor([[1.0, 3.0], [1.0, 3.0]])},
        torch.tensor([[-math.sqrt(0.75), math.sqrt(0.75)]] * 2),
    ),
    Worked({"advantage": torch.full((4,), 7.0)}, torch.zeros(4)),
)
_OVER_TIME = Mistake(
    "over the first axis",
    lambda advantage: (advantage - advantage.mean(0)) / (advantage.std(0) + 1e-8),
    "Mean and spread were taken over the first axis alone, so every environment ends up with mean 0: that one went better "
    "than another is erased. Take them over all samples.",
)
_OVER_ENVIRONMENTS = Mistake(
    "over the last axis",
    lambda advantage: (advantage - advantage.mean(-1, keepdim=True)) / (advantage.std(-1, keepdim=True) + 1e-8),
    "Mean and spread were taken over the last axis alone, so every time step ends up with mean 0. Take them over all samples.",
)

NORMALISED_ADVANTAGES = Exercise(
    name="normalised_advantages",
    file=_FILE,
    reference=normalised_advantages,
    draw=_draw_to_normalise,
    worked=_NORMALISED_WORKED,
    mistakes=(
        _OVER_TIME,
        _OVER_ENVIRONMENTS,
        Mistake(
            "not centred",
            lambda advantage: advantage / (advantage.std() + 1e-8),
            "The spread is 1, the mean is not 0: subtract it.",
        ),
        Mistake(
            "not scaled",
            lambda advantage: advantage - advantage.mean(),
            "The mean is 0, the spread is not 1: divide by it. Otherwise the size of the rewards sets the size of the step.",
        ),
        Mistake(
            "variance",
            lambda advantage: (advantage - advantage.mean()) / (advantage.var() + 1e-8),
            "Divided by the variance. The spread is its square root, the standard deviation.",
        ),
        Mistake(
            "n instead of n - 1",
            lambda advantage: (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8),
            "A little too large: the sum of squares was divided by n. The worked number divides by n - 1, "
            "which is torch's default.",
        ),
        Mistake(
            "no guard",
            lambda advantage: (advantage - advantage.mean()) / advantage.std(),
            "Where all advantages are equal this is 0 / 0, not a number, and one such minibatch ruins every weight. Add a tiny "
            "number to the spread.",
        ),
        Mistake(
            "largest is 1",
            lambda advantage: (advantage - advantage.mean()) / (advantage.abs().max() + 1e-8),
            "Divided by the largest advantage: one outlier would shrink all others. Divide by the standard deviation.",
        ),
        *_only(elementwise_mistakes(normalised_advantages, learns=False), "sign", "float64"),
        changing(0, normalised_advantages),
    ),
    hint="Subtract the mean of all entries, divide by their standard deviation plus 1e-8.",
    difficulty=1,
    minutes=5,
)

_NORMALISED_BUG = Mutation(
    old="return (advantage - advantage.mean()) / (advantage.std() + 1e-8)",
    new="return (advantage - advantage.mean(0)) / (advantage.std(0) + 1e-8)",
)

HUNT_NORMALISED_ADVANTAGES = Exercise(
    name="hunt_normalised_advantages",
    file=_FILE,
    reference=normalised_advantages,
    draw=_draw_to_normalise,
    worked=_NORMALISED_WORKED,
    mistakes=(planted(normalised_advantages, _NORMALISED_BUG, _OVER_TIME.hint), _OVER_ENVIRONMENTS),
    hint="Feed it two columns, one all good and one all bad, and look at what comes back.",
    difficulty=1,
    minutes=10,
    mutation=_NORMALISED_BUG,
    symptom=(
        "Advantages come as (T, N): two environments side by side. In the first every action turned out badly (-1.1, -0.9), in "
        "the second every action turned out well (0.9, 1.1). What comes back is the same for both: (-0.71, 0.71)."
    ),
)


def _draw_surrogate(rng: np.random.Generator) -> Arguments:
    old = -normal(rng, 8).abs() - 0.1
    return {
        "log_probability": old + normal(rng, 8, scale=0.5),
        "old_log_probability": old,
        "advantage": normal(rng, 8, scale=2.0),
        "clip": float(rng.uniform(0.1, 0.3)),
    }


_SURROGATE_WORKED = (
    Worked(
        {
            "log_probability": torch.full((2,), math.log(0.6)),
            "old_log_probability": torch.full((2,), math.log(0.4)),
            "advantage": column([2, -2]),
            "clip": 0.2,
        },
        column([2.4, -3.0]),
    ),
    Worked(
        {
            "log_probability": torch.full((2,), math.log(0.2)),
            "old_log_probability": torch.full((2,), math.log(0.4)),
            "advantage": column([2, -2]),
            "clip": 0.2,
        },
        column([1.0, -1.6]),
    ),
)
_STALE = Mistake(
    "ratio of the policy to itself",
    lambda log_probability, old_log_probability, advantage, clip: clipped_surrogate(
        log_probability, log_probability.detach(), advantage, clip
    ),
    "The ratio is taken between the policy and itself, so it is always 1 and nothing is ever clipped. It belongs between the "
    "policy as it is and the policy that acted, whose log-probabilities were logged.",
)
_UNCLIPPED = Mistake(
    "not clipped",
    lambda log_probability, old_log_probability, advantage, clip: (
        (log_probability - old_log_probability).exp() * advantage
    ),
    "The plain ratio times the advantage: nothing holds the policy back. The clip is missing.",
)


def _surrogate(
    combine: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """The two gains, plain and clipped, put together in another way."""

    def answer(log_probability: Tensor, old_log_probability: Tensor, advantage: Tensor, clip: float) -> Tensor:
        ratio = (log_probability - old_log_probability).exp()
        return combine(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)

    return answer


CLIPPED_SURROGATE = Exercise(
    name="clipped_surrogate",
    file=_FILE,
    reference=clipped_surrogate,
    draw=_draw_surrogate,
    worked=_SURROGATE_WORKED,
    mistakes=(
        _STALE,
        _UNCLIPPED,
        Mistake(
            "minimum forgotten",
            _surrogate(lambda plain, clipped: clipped),
            "Only the clipped gain is there. When a step made a *bad* action likelier, the clip hides the damage and there is "
            "no gradient to undo it: take the smaller of the two gains.",
        ),
        Mistake(
            "maximum",
            _surrogate(torch.maximum),
            "The larger of the two gains was taken, which is the optimist's choice. The smaller one is a lower bound.",
        ),
        Mistake(
            "ratio upside down",
            lambda log_probability, old_log_probability, advantage, clip: clipped_surrogate(
                old_log_probability, log_probability, advantage, clip
            ),
            "The ratio is upside down: the policy being trained stands above, the one that acted below.",
        ),
        Mistake(
            "no exponential",
            lambda log_probability, old_log_probability, advantage, clip: torch.minimum(
                (log_probability - old_log_probability) * advantage,
                (log_probability - old_log_probability).clamp(1 - clip, 1 + clip) * advantage,
            ),
            "The difference of log-probabilities is the *logarithm* of the ratio. Exponentiate it before clipping around 1.",
        ),
        Mistake(
            "clips the advantage",
            lambda log_probability, old_log_probability, advantage, clip: (
                (log_probability - old_log_probability).exp() * advantage.clamp(-clip, clip)
            ),
            "The advantage was clipped. It is the ratio that may not stray: between 1 - clip and 1 + clip.",
        ),
        Mistake(
            "sign",
            lambda *a: -clipped_surrogate(*a),
            "The sign is that of a loss. This is the gain, to be maximised; the caller negates it.",
        ),
        *_without(elementwise_mistakes(clipped_surrogate, learns=True), "sign"),
    ),
    hint="ratio = exp(new - old); the smaller of ratio * A and clamp(ratio, 1 - clip, 1 + clip) * A, sample by sample.",
    difficulty=2,
    minutes=15,
    gradient_of=("log_probability",),
)

_SURROGATE_BUG = Mutation(
    old="ratio = torch.exp(log_probability - old_log_probability)",
    new="ratio = torch.exp(log_probability - log_probability.detach())",
)

HUNT_CLIPPED_SURROGATE = Exercise(
    name="hunt_clipped_surrogate",
    file=_FILE,
    reference=clipped_surrogate,
    draw=_draw_surrogate,
    worked=_SURROGATE_WORKED,
    mistakes=(planted(clipped_surrogate, _SURROGATE_BUG, _STALE.hint), _UNCLIPPED),
    hint="Print the ratio after ten epochs over the same rollout. Which of the arguments has nothing to do with it?",
    difficulty=2,
    minutes=10,
    mutation=_SURROGATE_BUG,
    symptom=(
        "Nothing crashes, and with one epoch the learning curve is right. With twenty epochs the policy runs away from its "
        "data: each epoch takes as large a step as the first, and the surrogate is the advantage itself, whatever the clip is."
    ),
    gradient_of=("log_probability",),
)


def _draw_divergence(rng: np.random.Generator) -> Arguments:
    old = -normal(rng, 6).abs() - 0.1
    return {"log_probability": old + normal(rng, 6, scale=0.7), "old_log_probability": old}


KL_ESTIMATE = Exercise(
    name="kl_estimate",
    file=_FILE,
    reference=kl_estimate,
    draw=_draw_divergence,
    worked=(
        Worked(
            {"log_probability": column([math.log(0.5), -1]), "old_log_probability": column([math.log(0.25), -1])},
            column([1 - math.log(2), 0]),
        ),
    ),
    mistakes=(
        Mistake(
            "minus the logarithm alone",
            lambda log_probability, old_log_probability: old_log_probability - log_probability,
            "Minus the log-ratio is right on average and negative for many a sample. The form asked for adds ratio - 1, whose "
            "average is 0, and is never negative.",
        ),
        Mistake(
            "half the square",
            lambda log_probability, old_log_probability: 0.5 * (log_probability - old_log_probability).square(),
            "Half the squared log-ratio is never negative, but biased once the policies are apart. Asked for is "
            "(ratio - 1) - log ratio.",
        ),
        Mistake(
            "the other direction",
            lambda log_probability, old_log_probability: kl_estimate(old_log_probability, log_probability),
            "The two policies are swapped: the samples come from the old one, so the ratio is new over old.",
        ),
        Mistake(
            "minus 1 forgotten",
            lambda log_probability, old_log_probability: kl_estimate(log_probability, old_log_probability) + 1,
            "Equal policies are 0 apart, and this says 1: the term is ratio *minus 1*.",
        ),
        Mistake(
            "plus the logarithm",
            lambda log_probability, old_log_probability: (
                torch.expm1(log_probability - old_log_probability) + log_probability - old_log_probability
            ),
            "The logarithm has the wrong sign: subtract it.",
        ),
        *elementwise_mistakes(kl_estimate, learns=True),
    ),
    hint="With the difference d of the log-probabilities, new minus old: (exp(d) - 1) - d.",
    difficulty=1,
    minutes=10,
    gradient_of=("log_probability",),
)


def _squashing_terms(unsquashed: Tensor) -> Tensor:
    """``(..., K)``: each number's own correction."""
    return squashing_correction(unsquashed.unsqueeze(-1))


SQUASHING_CORRECTION = Exercise(
    name="squashing_correction",
    file=_FILE,
    reference=squashing_correction,
    draw=lambda rng: {"unsquashed": normal(rng, 4, 2, scale=1.5)},
    worked=(
        Worked({"unsquashed": torch.zeros(1, 2)}, column([0.0])),
        Worked({"unsquashed": torch.tensor([[10.0]])}, column([-18.6137056])),
        Worked({"unsquashed": torch.tensor([[-60.0, 0.0]])}, column([2 * math.log(2) - 120])),
    ),
    mistakes=(
        Mistake(
            "overflows",
            lambda unsquashed: (2 * (math.log(2) - unsquashed - (1 + (-2 * unsquashed).exp()).log())).sum(-1),
            "Right, until exp(120) does not fit a float32 and everything is infinite. torch.nn.functional.softplus knows how "
            "to avoid that.",
        ),
        Mistake(
            "as it is written",
            lambda unsquashed: (1 - unsquashed.tanh().square()).log().sum(-1),
            "Right in the middle, minus infinity at u = 10: tanh(10) rounds to 1 in float32. Use the form with softplus, which "
            "never passes through tanh.",
        ),
        Mistake(
            "as it is written, with a little added",
            lambda unsquashed: (1 - unsquashed.tanh().square() + 1e-6).log().sum(-1),
            "The small number added under the logarithm keeps it finite, and wrong: at u = 10 it says -13.8 where -18.6 is "
            "right, without any gradient. Use the form with softplus.",
        ),
        Mistake(
            "not summed",
            _squashing_terms,
            "One number for each part of the action came back: sum over the last axis.",
        ),
        Mistake(
            "mean over the parts",
            lambda unsquashed: _squashing_terms(unsquashed).mean(-1),
            "The parts of the action were averaged. Their corrections add up.",
        ),
        Mistake(
            "half of it",
            lambda unsquashed: 0.5 * squashing_correction(unsquashed),
            "Half as large as asked: tanh is squared, so its logarithm counts twice.",
        ),
        Mistake(
            "softplus of 2u",
            lambda unsquashed: (2 * (math.log(2) - unsquashed - torch.nn.functional.softplus(2 * unsquashed))).sum(-1),
            "The softplus has the wrong sign inside: it is softplus(-2u). The correction must be the same for u and -u.",
        ),
        *elementwise_mistakes(squashing_correction, learns=True),
    ),
    hint="2 (log 2 - u - softplus(-2u)), summed over the last axis.",
    difficulty=2,
    minutes=15,
    gradient_of=("unsquashed",),
)


def interquartile_mean(scores: Tensor) -> Tensor:
    """The reference: the package's, on tensors."""
    return torch.from_numpy(np.asarray(statistics.interquartile_mean(scores.double().numpy()))).float()


def _trimmed(scores: Tensor, cut: int) -> Tensor:
    return scores.sort(dim=-1).values[..., cut : scores.shape[-1] - cut].mean(-1)


def _draw_scores(rng: np.random.Generator) -> Arguments:
    scores = normal(rng, 2, int(rng.integers(5, 12)), scale=20.0)
    scores[:, int(rng.integers(5))] += 500.0  # one lucky run, anywhere
    return {"scores": scores}


INTERQUARTILE_MEAN = Exercise(
    name="interquartile_mean",
    file=_FILE,
    reference=interquartile_mean,
    draw=_draw_scores,
    worked=(
        Worked({"scores": column([0, 1, 2, 3, 4, 5, 6, 100])}, torch.tensor(3.5)),
        Worked({"scores": torch.tensor([[100.0, 3, 1, 0, 2], [7, 7, 7, 7, 7]])}, column([2, 7])),
    ),
    mistakes=(
        Mistake(
            "plain mean",
            lambda scores: scores.mean(-1),
            "This is the plain mean, which one lucky run can carry. Cut a quarter of the scores off at either end first.",
        ),
        Mistake(
            "median",
            lambda scores: scores.quantile(0.5, dim=-1),
            "This is the median: it looks at one or two runs only. Average the middle half.",
        ),
        Mistake(
            "not sorted",
            lambda scores: scores[..., scores.shape[-1] // 4 : scores.shape[-1] - scores.shape[-1] // 4].mean(-1),
            "What was cut off are the first and last *runs*, not the lowest and highest scores: sort first.",
        ),
        Mistake(
            "one side only",
            lambda scores: scores.sort(dim=-1).values[..., : scores.shape[-1] - scores.shape[-1] // 4].mean(-1),
            "Only the best quarter was cut off, so every method looks worse than it is. Cut as many at the bottom.",
        ),
        Mistake(
            "an eighth at either end",
            lambda scores: _trimmed(scores, scores.shape[-1] // 8),
            "A quarter was cut off in all. It is a quarter at *either* end, so that the middle half is left.",
        ),
        Mistake(
            "rounded up",
            lambda scores: _trimmed(scores, -(-scores.shape[-1] // 4)),
            "One too many is cut off at either end when the number of runs is no multiple of 4: round down, as rliable does.",
        ),
        Mistake(
            "over the first axis",
            lambda scores: interquartile_mean(scores.movedim(0, -1)),
            "The wrong axis was reduced: runs are on the last one.",
        ),
        *_only(elementwise_mistakes(interquartile_mean, learns=False), "float64", "trailing axis"),
    ),
    hint="Sort along the last axis, cut off K // 4 at either end, average what is left.",
    difficulty=1,
    minutes=10,
)


def probability_of_improvement(ours: Tensor, theirs: Tensor) -> Tensor:
    """The reference: the package's estimate, without its interval."""
    rng = np.random.default_rng(0)
    found = statistics.probability_of_improvement(ours.numpy(), theirs.numpy(), rng=rng, resamples=1)
    return torch.tensor(found.estimate)


def _draw_runs(rng: np.random.Generator) -> Arguments:
    # Few different whole numbers, so that there are ties; never as many runs on one side as on the other.
    ours, theirs = integers(rng, 6, 6).float(), integers(rng, 6, 4).float()
    ours[0] = theirs[0]
    return {"ours": ours, "theirs": theirs}


def _against_each(score: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda ours, theirs: score(ours.unsqueeze(-1) - theirs)


PROBABILITY_OF_IMPROVEMENT = Exercise(
    name="probability_of_improvement",
    file=_FILE,
    reference=probability_of_improvement,
    draw=_draw_runs,
    worked=(
        Worked({"ours": column([1, 2, 3]), "theirs": column([2, 2, 0])}, torch.tensor(6 / 9)),
        Worked(
            {"ours": column([210, 212, 214, 215, 217]), "theirs": column([198, 201, 203, 205, 500])}, torch.tensor(0.8)
        ),
    ),
    mistakes=(
        Mistake(
            "ties count nothing",
            _against_each(lambda difference: (difference > 0).float().mean()),
            "Ties count nothing, so a method compared with itself gets less than one half. A tie is half a win.",
        ),
        Mistake(
            "ties count as wins",
            _against_each(lambda difference: (difference >= 0).float().mean()),
            "Ties count as wins, so a method compared with itself gets more than one half. A tie is half a win.",
        ),
        Mistake(
            "the other way round",
            lambda ours, theirs: probability_of_improvement(theirs, ours),
            "This is how likely *theirs* wins.",
        ),
        Mistake(
            "means compared",
            lambda ours, theirs: (ours.mean() > theirs.mean()).float(),
            "The two means were compared, so the answer is only ever 0 or 1. Compare every run with every run.",
        ),
        Mistake(
            "against their mean",
            lambda ours, theirs: probability_of_improvement(ours, theirs.mean().view(1)),
            "Our runs were compared with the mean of theirs. Compare every run with every run.",
        ),
        Mistake(
            "run against run",
            lambda ours, theirs: (
                (difference := ours[: len(theirs)] - theirs[: len(ours)]).gt(0).float() + 0.5 * difference.eq(0).float()
            ).mean(),
            "Our first run was compared with their first, and so on. Run 3 of one has nothing to do with run 3 of the other: "
            "compare all pairs.",
        ),
        Mistake(
            "not divided",
            _against_each(lambda difference: ((difference > 0).float() + 0.5 * (difference == 0).float()).sum()),
            "The number of wins came back. Divide by the number of pairs.",
        ),
        *_only(elementwise_mistakes(probability_of_improvement, learns=False), "float64"),
    ),
    hint="All differences at once, (R, 1) minus (S,): one point where positive, half a point where zero, then the mean.",
    difficulty=2,
    minutes=10,
)


def first_states(seed: int, num_episodes: int) -> Tensor:
    """Where each episode of a cart and its pole begins: position, speed, angle and turning speed, from -0.05 to 0.05.

    One generator is seeded once and then left to run: the same seed brings the same episodes back, and no two of them
    begin alike.

    Args:
        seed: of the whole run.
        num_episodes: how many, 1 or more.

    Returns:
        ``(E, 4)``.

    Worked number: seed 0 begins its first two episodes at positions -0.0004 and -0.0193.
    """
    generator = torch.Generator().manual_seed(seed)
    states = []
    for _ in range(num_episodes):
        states.append(0.1 * torch.rand(4, generator=generator) - 0.05)
    return torch.stack(states)


_SEED_BUG = Mutation(
    old="states.append(0.1 * torch.rand(4, generator=generator) - 0.05)",
    new="states.append(0.1 * torch.rand(4, generator=generator.manual_seed(seed)) - 0.05)",
)


def _first_states_by_addition(seed: int, num_episodes: int) -> Tensor:
    return torch.cat([first_states(seed + episode, 1) for episode in range(num_episodes)])


HUNT_FIRST_STATES = Exercise(
    name="hunt_first_states",
    file=_FILE,
    reference=first_states,
    draw=lambda rng: {"seed": int(rng.integers(10_000)), "num_episodes": int(rng.integers(2, 6))},
    worked=(Worked({"seed": 0, "num_episodes": 2}, first_states(0, 2)),),
    mistakes=(
        planted(
            first_states,
            _SEED_BUG,
            "All rows are alike: the generator is seeded anew for every episode. Seed it once, where it is made, and "
            "let it run.",
        ),
        Mistake(
            "seed plus episode",
            _first_states_by_addition,
            "Episodes differ now, but episode 1 of seed 0 is episode 0 of seed 1: two runs with neighbouring seeds share "
            "nearly all of their episodes. Seed once and let the generator run.",
        ),
        Mistake(
            "not seeded",
            lambda seed, num_episodes: 0.1 * torch.rand(num_episodes, 4) - 0.05,
            "Nothing says where the randomness comes from, so no run can be repeated. Draw from the generator.",
        ),
    ),
    hint="Look at the rows of one result. Then ask who seeds, and how often.",
    difficulty=1,
    minutes=10,
    mutation=_SEED_BUG,
    symptom=(
        "A greedy policy is evaluated over 100 episodes, and every one of them brings the same return to the last digit. The "
        "interval has width zero, which looks like certainty: it is one episode, counted a hundred times."
    ),
)

EXERCISES = (
    GENERALISED_ADVANTAGES,
    NORMALISED_ADVANTAGES,
    CATEGORICAL_LOG_PROBABILITY,
    MASKED_LOGITS,
    CLIPPED_SURROGATE,
    KL_ESTIMATE,
    GAUSSIAN_LOG_PROBABILITY,
    SQUASHING_CORRECTION,
    INTERQUARTILE_MEAN,
    PROBABILITY_OF_IMPROVEMENT,
    HUNT_GENERALISED_ADVANTAGES,
    HUNT_NORMALISED_ADVANTAGES,
    HUNT_CLIPPED_SURROGATE,
    HUNT_FIRST_STATES,
)
