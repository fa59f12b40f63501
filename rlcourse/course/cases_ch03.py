"""Cases of chapter 3: sums of rewards over time, and behavioural cloning."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlcourse.course.cases_common import changing, column, elementwise_mistakes, flags, integers, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation
from rlcourse.objectives.policies import categorical_entropy, negative_log_likelihood
from rlcourse.objectives.returns import discounted_returns, discounts, n_step_rewards

_FILE = "ch03_behavioural_cloning"


def _draw_discounts(rng: np.random.Generator) -> Arguments:
    return {"terminated": flags(rng, 6), "gamma": float(rng.uniform(0.5, 1.0))}


DISCOUNTS = Exercise(
    name="discounts",
    file=_FILE,
    reference=discounts,
    draw=_draw_discounts,
    worked=(
        Worked({"terminated": torch.tensor([False, False, True]), "gamma": 0.9}, column([0.9, 0.9, 0.0])),
        Worked({"terminated": torch.tensor([[True], [False]]), "gamma": 0.5}, column([0.0, 0.5]).unsqueeze(-1)),
    ),
    mistakes=(
        Mistake(
            "reversed",
            lambda terminated, gamma: gamma * terminated.float(),
            "The discount is gamma where the task ended and 0 where it goes on: the other way round.",
        ),
        Mistake(
            "gamma forgotten",
            lambda terminated, gamma: (~terminated).float(),
            "Steps that go on get 1: gamma is missing.",
        ),
        Mistake(
            "never ends",
            lambda terminated, gamma: torch.full(terminated.shape, gamma),
            "Every step gets gamma, also the last one of the task. After a real end nothing follows, so its discount is 0.",
        ),
        Mistake(
            "powers of gamma",
            lambda terminated, gamma: (
                (~terminated).float()
                * (gamma ** torch.arange(terminated.shape[0]).float()).reshape(-1, *[1] * (terminated.dim() - 1))
            ),
            "This is the product of all discounts so far. Each step carries only its own factor; the return multiplies them.",
        ),
        *elementwise_mistakes(discounts, learns=False),
    ),
    hint="Where the task ended the discount is 0, everywhere else it is gamma; the shape is that of the input.",
    difficulty=1,
    minutes=5,
)


def _returns_forgetting_bootstrap(reward: Tensor, discount: Tensor, bootstrap: Tensor) -> Tensor:
    return discounted_returns(reward, discount, torch.zeros_like(bootstrap))


def _returns_shifted(reward: Tensor, discount: Tensor, bootstrap: Tensor) -> Tensor:
    shifted = torch.cat([torch.ones_like(discount[:1]), discount[:-1]])
    return discounted_returns(reward, shifted, bootstrap)


def _returns_forward(reward: Tensor, discount: Tensor, bootstrap: Tensor) -> Tensor:
    total, product, result = torch.zeros_like(bootstrap), torch.ones_like(bootstrap), reward.clone()
    for t in range(reward.shape[0]):
        total = total + product * reward[t]
        product = product * discount[t]
        result[t] = total
    return result


def _draw_returns(rng: np.random.Generator) -> Arguments:
    lanes = () if rng.random() < 0.5 else (3,)
    discount = discounts(flags(rng, 6, *lanes, probability=0.2), 0.9)
    return {"reward": normal(rng, 6, *lanes), "discount": discount, "bootstrap": normal(rng, *lanes, scale=5.0)}


DISCOUNTED_RETURNS = Exercise(
    name="discounted_returns",
    file=_FILE,
    reference=discounted_returns,
    draw=_draw_returns,
    worked=(
        Worked(
            {"reward": column([1, 1, 1]), "discount": column([0.5] * 3), "bootstrap": torch.tensor(8.0)},
            column([2.75, 3.5, 5.0]),
        ),
    ),
    mistakes=(
        Mistake(
            "no bootstrap",
            _returns_forgetting_bootstrap,
            "The value of what follows the last step is ignored: start the backward sum from bootstrap, not from 0.",
        ),
        Mistake(
            "no discount",
            lambda reward, discount, bootstrap: discounted_returns(reward, torch.ones_like(discount), bootstrap),
            "Later rewards count in full: each step multiplies what follows it by its own discount.",
        ),
        Mistake(
            "discount of the step before",
            _returns_shifted,
            "The discounts are one step late. d_t stands between r_t and everything after it: G_t = r_t + d_t G_(t+1).",
        ),
        Mistake(
            "forward in time",
            _returns_forward,
            "This adds up the past. A return looks ahead: walk through time backwards.",
        ),
        Mistake(
            "discounts its own reward",
            lambda reward, discount, bootstrap: discounted_returns(reward * discount, discount, bootstrap),
            "The reward of the step itself is discounted too; only what comes after it is.",
        ),
        Mistake(
            "constant discount",
            lambda reward, discount, bootstrap: discounted_returns(
                reward, discount.amax(0).expand_as(discount), bootstrap
            ),
            "One and the same factor is used at every step. The data carries a discount per step, and it is 0 where the "
            "task ended.",
        ),
        changing(0, discounted_returns),
    ),
    hint="Start from bootstrap and walk backwards: G_t = r_t + d_t G_(t+1).",
    difficulty=2,
    minutes=15,
)


def _n_step(reward: Tensor, discount: Tensor, last: Tensor, n: int, *, stop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A plain double loop that stops after any step where ``stop`` holds; also an oracle for the vectorised code."""
    total, product, index = reward.clone(), discount.clone(), torch.arange(len(reward))
    for t in range(len(reward)):
        for k in range(1, n):
            before = t + k - 1
            if before + 1 >= len(reward) or bool(stop[before]):
                break
            total[t] += product[t] * reward[before + 1]
            product[t] *= discount[before + 1]
            index[t] = before + 1
    return total, product, index


def _n_step_through_time_limits(
    reward: Tensor, discount: Tensor, last: Tensor, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _n_step(reward, discount, last, n, stop=discount == 0)


def _n_step_without_end(reward: Tensor, discount: Tensor, last: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    return _n_step(reward, discount, last, n, stop=torch.zeros_like(last))


def _n_step_one_too_many(reward: Tensor, discount: Tensor, last: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    return _n_step(reward, discount, last, n + 1, stop=last)


def _n_step_index_after(reward: Tensor, discount: Tensor, last: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    total, product, index = n_step_rewards(reward, discount, last, n)
    return total, product, index + 1


def _n_step_one_discount(reward: Tensor, discount: Tensor, last: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    total, _, index = n_step_rewards(reward, discount, last, n)
    return total, discount.clone(), index


def _n_step_undiscounted(reward: Tensor, discount: Tensor, last: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    total, _, _ = n_step_rewards(reward, torch.ones_like(discount), last, n)
    return total, *n_step_rewards(reward, discount, last, n)[1:]


def _draw_n_step(rng: np.random.Generator) -> Arguments:
    last = flags(rng, 9)
    last[3] = last[-1] = True
    terminated = last & flags(rng, 9, probability=0.5)
    terminated[3] = False  # every case holds a time limit in the middle, with another episode after it
    return {
        "reward": normal(rng, 9),
        "discount": discounts(terminated, 0.9),
        "last": last,
        "n": int(rng.integers(2, 5)),
    }


_N_STEP_WORKED = (
    Worked(
        {
            "reward": column([1, 2, 4]),
            "discount": column([0.5, 0.5, 0.0]),
            "last": torch.tensor([False, False, True]),
            "n": 2,
        },
        (column([2, 4, 4]), column([0.25, 0, 0]), torch.tensor([1, 2, 2])),
    ),
    Worked(  # two episodes; the first was cut off by a time limit and keeps its discount
        {
            "reward": column([1, 2, 4]),
            "discount": column([0.5, 0.5, 0.0]),
            "last": torch.tensor([False, True, True]),
            "n": 3,
        },
        (column([2, 2, 4]), column([0.25, 0.5, 0]), torch.tensor([1, 1, 2])),
    ),
)

_TIME_LIMIT_HINT = (
    "Episodes that a time limit cut off run on into the next episode: their discount is not 0, so the discount cannot say "
    "where to stop. `last` can."
)

N_STEP_REWARDS = Exercise(
    name="n_step_rewards",
    file=_FILE,
    reference=n_step_rewards,
    draw=_draw_n_step,
    worked=_N_STEP_WORKED,
    mistakes=(
        Mistake("runs through time limits", _n_step_through_time_limits, _TIME_LIMIT_HINT),
        Mistake(
            "ignores episodes",
            _n_step_without_end,
            "The sum walks across the end of an episode into the next one. Stop folding after a step where `last` is true.",
        ),
        Mistake(
            "one step too many",
            _n_step_one_too_many,
            "n + 1 rewards are folded. With n = 1 nothing changes at all: n - 1 rewards are added to the first.",
        ),
        Mistake(
            "index after",
            _n_step_index_after,
            "The index is one too high: it names the last step folded in, not the one after it.",
        ),
        Mistake(
            "one discount",
            _n_step_one_discount,
            "The rewards are right; the discount is that of one step. It is the product over all steps folded in.",
        ),
        Mistake(
            "undiscounted rewards",
            _n_step_undiscounted,
            "The later rewards are added in full. Each is worth the product of the discounts before it.",
        ),
        changing(0, n_step_rewards),
    ),
    hint="For each t add r_(t+k) times the product of the discounts before it, and stop after n steps or the episode's last.",
    difficulty=3,
    minutes=30,
)

_N_STEP_BUG = Mutation(old="going = ~last", new="going = discount > 0")

HUNT_N_STEP_REWARDS = Exercise(
    name="hunt_n_step_rewards",
    file=_FILE,
    reference=n_step_rewards,
    draw=_draw_n_step,
    worked=_N_STEP_WORKED,
    mistakes=(
        planted(n_step_rewards, _N_STEP_BUG, _TIME_LIMIT_HINT),
        Mistake("runs through time limits", _n_step_through_time_limits, _TIME_LIMIT_HINT),
        Mistake(
            "ignores episodes",
            _n_step_without_end,
            "Now nothing stops the sum at all: it walks from every episode into the next.",
        ),
    ),
    hint="Compare what each line does with the definition of `last` in the docstring: true *however* the episode ended.",
    difficulty=2,
    minutes=15,
    mutation=_N_STEP_BUG,
    symptom=(
        "On episodes that fall, three-step returns agree with a plain double loop. On episodes that a time limit cut off, "
        "the last steps come out too high: they hold rewards of the next episode."
    ),
)


def _draw_logits(rng: np.random.Generator) -> Arguments:
    return {"logits": normal(rng, 4, 3, scale=2.0), "action": integers(rng, 3, 4)}


NEGATIVE_LOG_LIKELIHOOD = Exercise(
    name="negative_log_likelihood",
    file=_FILE,
    reference=negative_log_likelihood,
    draw=_draw_logits,
    worked=(
        Worked({"logits": torch.tensor([[0.0, math.log(3)]]), "action": torch.tensor([0])}, column([math.log(4)])),
        Worked(  # exp(200) is infinite in float32; the answer is not
            {"logits": torch.tensor([[0.0, 200.0]]), "action": torch.tensor([0])}, column([200.0])
        ),
    ),
    mistakes=(
        Mistake(
            "not normalised",
            lambda logits, action: -logits.gather(-1, action.unsqueeze(-1)).squeeze(-1),
            "Logits are not log-probabilities yet: subtract log sum exp over the actions.",
        ),
        Mistake(
            "no logarithm",
            lambda logits, action: -functional.softmax(logits, -1).gather(-1, action.unsqueeze(-1)).squeeze(-1),
            "This is minus the probability itself. The logarithm is missing.",
        ),
        Mistake(
            "softmax over the batch",
            lambda logits, action: -functional.log_softmax(logits, 0).gather(-1, action.unsqueeze(-1)).squeeze(-1),
            "The probabilities add up to 1 over the batch instead of over the actions: the axis of the softmax is wrong.",
        ),
        Mistake(
            "overflows",
            lambda logits, action: logits.exp().sum(-1).log() - logits.gather(-1, action.unsqueeze(-1)).squeeze(-1),
            "Right for small logits, infinite for large ones: exp(200) does not fit a float32. "
            "torch.log_softmax, torch.logsumexp and cross_entropy subtract the largest logit first.",
        ),
        Mistake(
            "entropy",
            lambda logits, action: categorical_entropy(logits),
            "This is the policy's entropy: it does not depend on the action that was taken.",
        ),
        *elementwise_mistakes(negative_log_likelihood, learns=True),
    ),
    hint="Turn logits into log-probabilities over the actions, pick the one of the action taken, negate.",
    difficulty=1,
    minutes=10,
    gradient_of=("logits",),
)

CATEGORICAL_ENTROPY = Exercise(
    name="categorical_entropy",
    file=_FILE,
    reference=categorical_entropy,
    draw=lambda rng: {"logits": normal(rng, 4, 3, scale=2.0)},
    worked=(
        Worked({"logits": torch.zeros(1, 2)}, column([math.log(2)])),
        Worked({"logits": torch.tensor([[0.0, 200.0]])}, column([0.0])),
    ),
    mistakes=(
        Mistake(
            "base 2",
            lambda logits: categorical_entropy(logits) / math.log(2),
            "This is in bits. The course counts in nats: use the natural logarithm.",
        ),
        Mistake(
            "not weighted",
            lambda logits: -functional.log_softmax(logits, -1).sum(-1),
            "Each log-probability must be weighted by its probability before the sum.",
        ),
        Mistake(
            "mean over actions",
            lambda logits: categorical_entropy(logits) / logits.shape[-1],
            "Sum over the actions, do not average: two equal logits give ln 2, whatever else.",
        ),
        Mistake(
            "zero times infinity",
            lambda logits: -(functional.softmax(logits, -1) * functional.softmax(logits, -1).log()).sum(-1),
            "A probability that underflows to 0 has logarithm minus infinity, and 0 times that is NaN. "
            "Take log_softmax, which never passes through the probability.",
        ),
        *elementwise_mistakes(categorical_entropy, learns=True),
    ),
    hint="Minus the sum over actions of probability times log-probability.",
    difficulty=2,
    minutes=10,
    gradient_of=("logits",),
)

EXERCISES = (
    DISCOUNTS,
    DISCOUNTED_RETURNS,
    N_STEP_REWARDS,
    NEGATIVE_LOG_LIKELIHOOD,
    CATEGORICAL_ENTROPY,
    HUNT_N_STEP_REWARDS,
)
