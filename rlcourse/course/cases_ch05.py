"""Cases of chapter 5: implicit Q-learning."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rlcourse.course.cases_common import changing, column, elementwise_mistakes, integers, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation
from rlcourse.objectives.policies import advantage_weights, negative_log_likelihood
from rlcourse.objectives.values import expectile_loss

_FILE = "ch05_iql"


def _draw_expectile(rng: np.random.Generator) -> Arguments:
    # Away from one half, where every direction looks the same.
    tau = float(rng.uniform(0.6, 0.95) if rng.random() < 0.7 else rng.uniform(0.05, 0.4))
    return {"error": normal(rng, 6, scale=2.0), "tau": tau}


_EXPECTILE_WORKED = (Worked({"error": column([2, -2]), "tau": 0.7}, column([2.8, 1.2])),)
_REVERSED = Mistake(
    "reversed",
    lambda error, tau: expectile_loss(error, 1 - tau),
    "The two sides are swapped: with tau 0.9 this settles on the *lower* expectile. A positive error (V below Q) costs tau, "
    "a negative one 1 - tau.",
)

EXPECTILE_LOSS = Exercise(
    name="expectile_loss",
    file=_FILE,
    reference=expectile_loss,
    draw=_draw_expectile,
    worked=_EXPECTILE_WORKED,
    mistakes=(
        _REVERSED,
        Mistake(
            "quantile",
            lambda error, tau: torch.where(error < 0, 1 - tau, tau) * error.abs(),
            "This leans the absolute error, which finds a quantile. An expectile leans the square.",
        ),
        Mistake(
            "no lean",
            lambda error, tau: tau * error.square(),
            "Both sides cost the same: the weight must depend on the sign of the error.",
        ),
        Mistake(
            "with a half",
            lambda error, tau: 0.5 * expectile_loss(error, tau),
            "Half as large as asked: this equation has no half in front.",
        ),
        Mistake(
            "one side only",
            lambda error, tau: tau * error.clamp(min=0).square(),
            "Negative errors cost nothing, so V would rise without end. They cost 1 - tau.",
        ),
        Mistake(
            "signed weight",
            lambda error, tau: (tau - (error < 0).float()) * error.square(),
            "The absolute value around tau - 1(u < 0) is missing, so negative errors lower the loss.",
        ),
        *elementwise_mistakes(expectile_loss, learns=True),
    ),
    hint="Square the error; weigh it with tau where it is positive and 1 - tau where it is negative.",
    difficulty=2,
    minutes=15,
    gradient_of=("error",),
)

_EXPECTILE_BUG = Mutation(
    old="weight = torch.where(error < 0, 1.0 - tau, tau)", new="weight = torch.where(error < 0, tau, 1.0 - tau)"
)

HUNT_EXPECTILE_LOSS = Exercise(
    name="hunt_expectile_loss",
    file=_FILE,
    reference=expectile_loss,
    draw=_draw_expectile,
    worked=_EXPECTILE_WORKED,
    mistakes=(
        planted(expectile_loss, _EXPECTILE_BUG, _REVERSED.hint),
        Mistake("no lean", lambda error, tau: 0.5 * error.square(), "Now both sides cost the same, whatever tau is."),
    ),
    hint="Work the docstring's number through by hand, once for the error 2 and once for the error -2.",
    difficulty=1,
    minutes=10,
    mutation=_EXPECTILE_BUG,
    symptom=(
        "On rewards drawn evenly from 0 to 1, V settles near 0.40 with tau 0.7. Raising tau to 0.9 lowers it to 0.25: "
        "the more optimistic the setting, the more pessimistic the value."
    ),
    gradient_of=("error",),
)


def _draw_weights(rng: np.random.Generator) -> Arguments:
    # Advantages and temperatures for which some weights hit the cap and some do not.
    return {
        "advantage": normal(rng, 6),
        "inverse_temperature": float(rng.uniform(1.5, 5.0)),
        "maximum": float(rng.uniform(5.0, 30.0)),
    }


_WEIGHTS_WORKED = (
    Worked(
        {"advantage": column([math.log(2), 0, 9]), "inverse_temperature": 2.0, "maximum": 100.0}, column([4, 1, 100])
    ),
    Worked({"advantage": column([5, 0]), "inverse_temperature": 1.0, "maximum": 2.0}, column([2, 1])),
    Worked({"advantage": column([3, -3]), "inverse_temperature": 0.0, "maximum": 100.0}, column([1, 1])),
)
_UNCAPPED = Mistake(
    "no cap",
    lambda advantage, inverse_temperature, maximum: torch.exp(inverse_temperature * advantage.detach()),
    "One sample can own the batch: the cap on a single weight is missing.",
)

_INVERTED = Mistake(
    "temperature inverted",
    lambda advantage, inverse_temperature, maximum: torch.exp(
        advantage.detach() / torch.tensor(inverse_temperature)
    ).clamp(max=maximum),
    "The advantage is divided by beta. beta is the *inverse* temperature: it multiplies, so that raising it makes the weights "
    "more unequal, and 0 makes them all 1.",
)

ADVANTAGE_WEIGHTS = Exercise(
    name="advantage_weights",
    file=_FILE,
    reference=advantage_weights,
    draw=_draw_weights,
    worked=_WEIGHTS_WORKED,
    mistakes=(
        _INVERTED,
        _UNCAPPED,
        Mistake(
            "gradient leaks",
            lambda advantage, inverse_temperature, maximum: torch.exp(inverse_temperature * advantage).clamp(
                max=maximum
            ),
            "The numbers are right, but a gradient flows through the weights into Q and V: the policy loss would then teach "
            "them to please the policy. Detach the advantage.",
        ),
        Mistake(
            "normalised",
            lambda advantage, inverse_temperature, maximum: torch.softmax(inverse_temperature * advantage.detach(), -1),
            "These weights add up to 1 over the batch: a softmax. The equation has a plain exponential.",
        ),
        Mistake(
            "caps the exponent",
            lambda advantage, inverse_temperature, maximum: torch.exp(
                (inverse_temperature * advantage.detach()).clamp(max=maximum)
            ),
            "The cap is put on the exponent. It belongs on the weight, after the exponential.",
        ),
        Mistake(
            "sign",
            lambda advantage, inverse_temperature, maximum: torch.exp(-inverse_temperature * advantage.detach()).clamp(
                max=maximum
            ),
            "Bad actions get the large weights: the sign in the exponent is wrong.",
        ),
        changing(0, advantage_weights),
    ),
    hint="exp(beta * advantage), no larger than the cap, without a gradient.",
    difficulty=2,
    minutes=10,
    gradient_of=("advantage",),
)

_WEIGHTS_BUG = Mutation(
    old="return torch.exp(inverse_temperature * advantage.detach()).clamp(max=maximum)",
    new="return torch.exp(advantage.detach() / inverse_temperature).clamp(max=maximum)",
)

HUNT_ADVANTAGE_WEIGHTS = Exercise(
    name="hunt_advantage_weights",
    file=_FILE,
    reference=advantage_weights,
    draw=_draw_weights,
    worked=_WEIGHTS_WORKED,
    mistakes=(
        planted(advantage_weights, _WEIGHTS_BUG, _INVERTED.hint),
        _UNCAPPED,
    ),
    hint="Try inverse_temperature = 0: every weight should be 1.",
    difficulty=1,
    minutes=10,
    mutation=_WEIGHTS_BUG,
    symptom=(
        "Raising the inverse temperature from 1 to 10 makes the weights *more* equal, so the policy comes closer to "
        "behavioural cloning. Setting it to 0 gives weights of 0 and 100 where every weight should be 1."
    ),
    gradient_of=("advantage",),
)


def implicit_policy_loss(logits: Tensor, action: Tensor, advantage: Tensor, inverse_temperature: float) -> Tensor:
    """The reference: equation 7 of the paper, from the package's two halves."""
    return advantage_weights(advantage, inverse_temperature) * negative_log_likelihood(logits, action)


def _draw_policy_loss(rng: np.random.Generator) -> Arguments:
    return {
        "logits": normal(rng, 5, 3, scale=2.0),
        "action": integers(rng, 3, 5),
        "advantage": normal(rng, 5, scale=2.0),
        "inverse_temperature": float(rng.uniform(1.5, 4.0)),
    }


IMPLICIT_POLICY_LOSS = Exercise(
    name="implicit_policy_loss",
    file=_FILE,
    reference=implicit_policy_loss,
    draw=_draw_policy_loss,
    worked=(
        Worked(
            {
                "logits": torch.tensor([[0.0, math.log(3)]]).repeat(2, 1),
                "action": torch.tensor([0, 0]),
                "advantage": column([math.log(2), 9]),
                "inverse_temperature": 2.0,
            },
            column([4 * math.log(4), 100 * math.log(4)]),
        ),
    ),
    mistakes=(
        Mistake(
            "log likelihood",
            lambda logits, action, advantage, inverse_temperature: (
                -implicit_policy_loss(logits, action, advantage, inverse_temperature)
            ),
            "The sign is wrong: minimising this makes good actions less likely.",
        ),
        Mistake(
            "weights forgotten",
            lambda logits, action, advantage, inverse_temperature: negative_log_likelihood(logits, action),
            "This is behavioural cloning: the weights are missing.",
        ),
        Mistake(
            "policy gradient",
            lambda logits, action, advantage, inverse_temperature: (
                advantage.detach() * negative_log_likelihood(logits, action)
            ),
            "The bare advantage stands as the weight, as in a policy gradient: bad actions get pushed away. Here the weight "
            "is exp(beta * A), never negative.",
        ),
        Mistake(
            "no cap",
            lambda logits, action, advantage, inverse_temperature: (
                torch.exp(inverse_temperature * advantage.detach()) * negative_log_likelihood(logits, action)
            ),
            "One sample can own the batch: cap its weight at 100.",
        ),
        Mistake(
            "temperature inverted",
            lambda logits, action, advantage, inverse_temperature: (
                advantage_weights(advantage, 1 / inverse_temperature) * negative_log_likelihood(logits, action)
            ),
            "The advantage is divided by beta; it is the *inverse* temperature and multiplies.",
        ),
        Mistake(
            "gradient leaks",
            lambda logits, action, advantage, inverse_temperature: (
                torch.exp(inverse_temperature * advantage).clamp(max=100) * negative_log_likelihood(logits, action)
            ),
            "The numbers are right, but a gradient flows into the advantage: the policy loss must teach the policy alone. "
            "Detach.",
        ),
        *(m for m in elementwise_mistakes(implicit_policy_loss, learns=True) if m.name != "sign"),
    ),
    hint="Advantage weight times negative log-likelihood, per sample.",
    difficulty=2,
    minutes=15,
    gradient_of=("logits", "advantage"),
)

EXERCISES = (
    EXPECTILE_LOSS,
    ADVANTAGE_WEIGHTS,
    IMPLICIT_POLICY_LOSS,
    HUNT_EXPECTILE_LOSS,
    HUNT_ADVANTAGE_WEIGHTS,
)
