"""Answers to the exercises of chapter 16: TorchServe and the alternatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def answered_in_place(requests: list[list[float]], weight: Tensor, bias: Tensor) -> list[int]:
    """What a handler answers to a batch of requests that come from strangers.

    A request is good if it has as many numbers as the policy takes and all of them are finite. Its answer is the action
    with the largest score, ``observation @ weight.T + bias``. A bad one is answered with -1. Each answer stands in the
    place of its request.

    Args:
        requests: one list of numbers for each request.
        weight: ``(A, D)``.
        bias: ``(A,)``.

    Returns:
        as many whole numbers as there are requests.

    Worked number: scores x and y + 0.5; (2, 1), (1) and (1, 0.75) are answered with 0, -1 and 1.
    """
    answers = []
    for numbers in requests:
        good = len(numbers) == weight.shape[1] and all(math.isfinite(number) for number in numbers)
        answers.append(int((torch.tensor(numbers) @ weight.T + bias).argmax()) if good else -1)
    return answers


def load_figures(sent_s: Tensor, answered_s: Tensor, succeeded: Tensor) -> tuple[float, float, float]:
    """What a run of requests against a service says about it.

    The rate is the number of requests that succeeded over the time from the first one's sending to the last one's answer.
    The 99th percentile is the smallest latency, among those that succeeded, that at least 99 of 100 of them do not exceed.

    Args:
        sent_s: ``(N,)`` float64, when each request was sent, in any order.
        answered_s: ``(N,)`` float64, when its answer, or its failure, came.
        succeeded: ``(N,)`` bool; at least one did.

    Returns:
        answers a second; 99th percentile of the latency in seconds; share of the requests that failed.

    Worked number: sent at 0, 0, 1 and 1.5, answered after 0.25, 0.5, 1 and 0.25 seconds, the third in vain: 3 answers in
    2 seconds are 1.5 a second; of 0.25, 0.25 and 0.5 the third is needed to have 99 of 100; a quarter failed.
    """
    latency = (answered_s - sent_s)[succeeded].sort().values
    passed = float(answered_s.max() - sent_s.min())
    rank = (99 * len(latency) + 99) // 100  # rounded up, in whole numbers
    return len(latency) / passed, float(latency[rank - 1]), 1.0 - len(latency) / len(sent_s)


def hunt_default_version(loaded: list[str], wanted: str) -> str:
    """Which version answers a request that names none: the wanted one, or else the newest."""
    if wanted in loaded:
        return wanted
    return max(loaded, key=lambda version: tuple(int(part) for part in version.split(".")))


EXERCISES = (answered_in_place.__name__, load_figures.__name__, "hunt_default_version")
