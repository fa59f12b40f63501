"""Equations that policies are trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rlcourse.errors import ConfigError


def negative_log_likelihood(logits: Tensor, action: Tensor) -> Tensor:
    r"""How surprised the policy is by the data's action: :math:`-\log \pi(a \mid s)`, in nats.

    Minimising its mean over a data set is behavioural cloning. Pomerleau (1991).

    Args:
        logits: ``(B, A)``, unnormalised log-probabilities.
        action: ``(B,)`` int64.

    Returns:
        ``(B,)``.

    Worked number: logits (0, ln 3), action 0 give ln 4 = 1.3863.
    """
    return functional.cross_entropy(logits, action, reduction="none")


def advantage_weights(advantage: Tensor, inverse_temperature: float, maximum: float = 100.0) -> Tensor:
    r"""How much each logged action deserves to be imitated: :math:`\min(\exp(\beta A), w_{\max})`.

    Carries no gradient. Kostrikov, Nair and Levine (2021), equation 7; Peng et al. (2019).

    Args:
        advantage: ``(B,)``, ``Q(s, a) - V(s)``.
        inverse_temperature: beta. 0 imitates everything alike (behavioural cloning), large values imitate only what
            was better than expected. It *multiplies* the advantage.
        maximum: the cap on a single weight, so that one outlier cannot own the batch.

    Returns:
        ``(B,)`` in ``(0, maximum]``.

    Worked number: advantages (ln 2, 0, 9), beta 2, cap 100 give (4, 1, 100).
    """
    if inverse_temperature < 0.0:
        raise ConfigError(
            f"The inverse temperature is {inverse_temperature}.", mend="Use 0 or more; below 0 it prefers bad actions."
        )
    return torch.exp(inverse_temperature * advantage.detach()).clamp(max=maximum)


def categorical_entropy(logits: Tensor) -> Tensor:
    r"""How undecided a policy is: :math:`-\sum_a \pi(a \mid s)\log \pi(a \mid s)`, in nats.

    Args:
        logits: ``(B, A)``.

    Returns:
        ``(B,)`` between 0 and ``ln A``.

    Worked number: two equal logits give ln 2 = 0.6931.
    """
    log_probability = functional.log_softmax(logits, dim=-1)
    return -(log_probability.exp() * log_probability).sum(-1)


def categorical_log_probability(logits: Tensor, action: Tensor) -> Tensor:
    r"""How likely each action was: :math:`\log \pi(a \mid s)`, in nats.

    Args:
        logits: ``(..., A)``.
        action: ``(...)`` int64.

    Returns:
        ``(...)``.

    Worked number: logits (0, ln 3), action 1 give ln 3/4 = -0.2877.
    """
    return functional.log_softmax(logits, dim=-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def masked_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Rule out what is not allowed *before* the softmax, so that the rest still adds up to 1.

    Huang and Ontanon (2022), "A closer look at invalid action masking in policy gradient algorithms". A forbidden
    action gets the smallest finite logit and not minus infinity: 0 times infinity in an entropy is no number.

    Args:
        logits: ``(..., A)``.
        mask: ``(..., A)`` bool, true where the action is allowed.

    Returns:
        ``(..., A)``.

    Worked number: logits (0, ln 3, 5) with the last one forbidden give probabilities (1/4, 3/4, 0).
    """
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def gaussian_log_probability(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    r"""How likely each action was under independent normal distributions, in nats.

    .. math:: \log \pi(a \mid s) = -\tfrac12 \sum_k \Big[\Big(\frac{a_k - \mu_k}{\sigma_k}\Big)^2
              + 2 \log \sigma_k + \log 2\pi\Big]

    Args:
        mean: ``(..., K)``.
        log_std: ``(K,)`` or ``(..., K)``.
        action: ``(..., K)``.

    Returns:
        ``(...)``.

    Worked number: mean 0, log_std 0, action 1 give -(1 + ln 2 pi) / 2 = -1.4189.
    """
    scaled = (action - mean) * torch.exp(-log_std)
    return -0.5 * (scaled.square() + 2.0 * log_std + math.log(2.0 * math.pi)).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    r"""How undecided a normal policy is: :math:`\sum_k \log \sigma_k + \tfrac K2 \log 2\pi e`, in nats.

    Args:
        log_std: ``(..., K)``.

    Returns:
        ``(...)``. It can be negative: a density may exceed 1.

    Worked number: one action with log_std 0 gives 1.4189.
    """
    return (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)


def squashing_correction(unsquashed: Tensor) -> Tensor:
    r"""What squeezing a sample through tanh does to its log-density: :math:`\sum_k \log(1 - \tanh^2 u_k)`.

    Subtract it from the log-probability of ``u`` to get that of ``tanh(u)``. Haarnoja et al. (2018), appendix C, in the
    form :math:`2(\log 2 - u - \mathrm{softplus}(-2u))` that stays finite where ``tanh(u)`` rounds to 1.

    Args:
        unsquashed: ``(..., K)``, the sample before tanh.

    Returns:
        ``(...)``.

    Worked number: u = 0 gives 0; u = 10 gives -18.6137, where the naive form gives minus infinity in float32.
    """
    return (2.0 * (math.log(2.0) - unsquashed - functional.softplus(-2.0 * unsquashed))).sum(-1)


def normalised_advantages(advantage: Tensor) -> Tensor:
    """Advantages of a minibatch with mean 0 and spread 1, over *all* its samples.

    The scale of the rewards then no longer sets the size of the step. Over another axis (per environment, per time
    step) it would erase just the differences that matter: which steps went better than others.

    Args:
        advantage: any shape with at least two entries.

    Returns:
        the same shape.

    Worked number: (1, 2, 3) gives (-1, 0, 1).
    """
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def clipped_surrogate(
    log_probability: Tensor, old_log_probability: Tensor, advantage: Tensor, clip: float | Tensor
) -> Tensor:
    r"""What a step gains, counted only as far as the policy stays near the one that acted.

    .. math:: \min\big(\rho A,\; \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon)\, A\big), \qquad
              \rho = \frac{\pi(a \mid s)}{\pi_{\mathrm{old}}(a \mid s)}

    To be *maximised*. Schulman et al. (2017), equation 7.

    Args:
        log_probability: ``(B,)`` of the logged actions under the policy being trained.
        old_log_probability: ``(B,)`` of the same actions under the policy that acted, logged when it did. No gradient.
        advantage: ``(B,)``.
        clip: epsilon, above 0: a number, or a 0-d tensor that may change. Small is cautious.

    Returns:
        ``(B,)``.

    Worked number: ratio 1.5, clip 0.2: an advantage of 2 counts 2.4 (clipped), one of -2 counts -3 (not clipped).
    """
    ratio = torch.exp(log_probability - old_log_probability)
    near = torch.clamp(ratio, 1.0 - clip, 1.0 + clip)  # type: ignore[arg-type]  # numbers or tensors, both bounds alike
    return torch.minimum(ratio * advantage, near * advantage)


def soft_policy_loss(log_probability: Tensor, q: Tensor, temperature: Tensor) -> Tensor:
    r"""What a policy that is paid for keeping an open mind goes down: :math:`\alpha \log \pi(a \mid s) - Q(s, a)`.

    Haarnoja et al. (2018), "Soft actor-critic algorithms and applications", equation 9, before the mean.

    Args:
        log_probability: ``(B,)`` of actions drawn from the policy, with gradients.
        q: ``(B,)`` values of those actions, with gradients into the actions alone.
        temperature: ``()``, alpha: what a nat of entropy is worth, in reward. No gradient.

    Returns:
        ``(B,)``.

    Worked number: log-probability -1, value 3 and temperature 0.5 give -3.5.
    """
    return temperature * log_probability - q


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target_entropy: float) -> Tensor:
    r"""Raises the temperature while the policy is surer than it should be, and lowers it while it is less:
    :math:`\log \alpha\, (\mathcal H - \bar{\mathcal H})`.

    Haarnoja et al. (2018), equation 18, with the logarithm of alpha in place of alpha, as in the authors' code.

    Args:
        log_temperature: ``()``, learned.
        entropy: ``()``, of the policy, in nats. No gradient.
        target_entropy: the one aimed at.

    Returns:
        ``()``.

    Worked number: log-temperature 2, entropy -3 and target -1 give -4; going down it, the temperature rises.
    """
    return log_temperature * (entropy - target_entropy)


def normalised_gain(q: Tensor) -> Tensor:
    r"""Values in units of their own size: :math:`Q / \mathbb E|Q|`, the divisor without a gradient.

    What is weighed against something else, such as a distance, then weighs the same whatever the rewards' unit is.
    Fujimoto and Gu (2021), equation 5.

    Args:
        q: ``(B,)``.

    Returns:
        ``(B,)``.

    Worked number: (-1, 3) gives (-0.5, 1.5).
    """
    return q / q.detach().abs().mean().clamp(min=1e-6)


def kl_estimate(log_probability: Tensor, old_log_probability: Tensor) -> Tensor:
    r"""How far the policy has moved from the one that acted, from samples of the old one.

    .. math:: \widehat{\mathrm{KL}}(\pi_{\mathrm{old}} \,\|\, \pi) = (\rho - 1) - \log \rho

    Unbiased and never negative, sample by sample. Schulman (2020), "Approximating KL divergence", estimator k3.

    Args:
        log_probability: ``(B,)`` under the new policy.
        old_log_probability: ``(B,)`` under the old one.

    Returns:
        ``(B,)``.

    Worked number: ratio 2 gives 1 - ln 2 = 0.3069; ratio 1 gives 0.
    """
    difference = log_probability - old_log_probability
    return torch.expm1(difference) - difference
