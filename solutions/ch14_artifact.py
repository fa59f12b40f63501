"""Answers to the exercises of chapter 14: the policy as an artifact."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def worst_disagreement(expected: Tensor, found: Tensor, tolerance: Tensor) -> tuple[Tensor, Tensor]:
    """Where two forms of a policy differ most, and by how much of what is tolerated there.

    Each row has a tolerance of its own: where a network adds large numbers, rounding alone makes larger differences.
    A number that is no number (NaN) is infinitely wrong. Two forms are the same policy if the share is 1 or less.

    Args:
        expected: ``(B, A)`` float, the answers of the policy itself; finite.
        found: ``(B, A)`` float, the answers of the other form.
        tolerance: ``(B,)`` float, above 0: what each row may differ by.

    Returns:
        the largest absolute difference of all entries as a share of its row's tolerance, ``()``; and that row's number,
        ``()`` int64.

    Worked number: differences of at most 0, 1/16 and 1/32 where 1/4, 1/8 and 1/64 are tolerated give 2, in row 2.
    """
    difference = (found - expected).abs().amax(-1)  # (B,)
    share = torch.where(difference.isnan(), torch.inf, difference) / tolerance
    row = share.argmax()
    return share[row], row


def changed_parts(names: list[str], texts: list[str], manifest: list[tuple[str, str]]) -> list[str]:
    """Which parts of a package are not what its manifest says.

    A part is named if its SHA-256 is another, if the manifest lists it and it is missing, or if it is there and the
    manifest does not list it. ``hashlib.sha256(text.encode()).hexdigest()`` is the SHA-256 of a text.

    Args:
        names: of the parts that are there, all different, in any order.
        texts: what they hold, in the same order.
        manifest: pairs of a name and the 64 digits of its SHA-256, in any order.

    Returns:
        their names, sorted; an empty list if the package is whole.

    Worked number: the manifest lists a, b and c; a holds another text, b is as it was, and in place of c there is an x:
    a, c and x are named.
    """
    found = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in zip(names, texts, strict=True)}
    listed = dict(manifest)
    return sorted(name for name in {*found, *listed} if found.get(name) != listed.get(name))


def hunt_served_logits(obs: Tensor, mean: Tensor, scale: Tensor, first: nn.Linear, last: nn.Linear) -> Tensor:
    """Logits of a network that was trained on normalised observations."""
    logits: Tensor = last(torch.tanh(first((obs - mean) * scale)))
    return logits


def hunt_answered_logits(obs: Tensor, first: nn.Linear, last: nn.Linear, dropout: float, seed: int) -> Tensor:
    """Logits of a network that was trained with dropout, as a service answers them: nothing is dropped."""
    logits: Tensor = last(torch.relu(first(obs)))
    return logits


EXERCISES = (worst_disagreement.__name__, changed_parts.__name__, "hunt_served_logits", "hunt_answered_logits")
