"""Answers to the exercises of chapter 15: a policy service."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def masked_probabilities(logits: Tensor, mask: Tensor) -> Tensor:
    """What a policy does among the actions that are allowed now.

    The mask goes in *before* the softmax, so that the rest adds up to 1. Huang and Ontanon (2022), "A closer look at
    invalid action masking in policy gradient algorithms".

    Args:
        logits: ``(B, A)``.
        mask: ``(B, A)`` bool, true where the action is allowed; at least one in each row.

    Returns:
        ``(B, A)``; 0 where forbidden, and every row adds up to 1.

    Worked number: logits (0, ln 3, 5) with the last one forbidden give (1/4, 3/4, 0).
    """
    lowest = torch.finfo(logits.dtype).min
    return torch.where(mask, logits, lowest).softmax(-1)


def answerable(arrived_ms: Tensor, allowed_ms: Tensor, now_ms: float, service_ms: float) -> Tensor:
    """Which of the requests that wait can still be answered before their deadlines.

    They are looked at in the order of the queue, one after the other. Whoever cannot have an answer by the deadline gets
    the fallback at once, and costs no time; everybody else takes ``service_ms``, and all that follow wait for it. An
    answer exactly at the deadline is in time.

    Args:
        arrived_ms: ``(N,)`` float, when each request came in, in the order of the queue.
        allowed_ms: ``(N,)`` float, how long after its arrival each may be answered.
        now_ms: the time.
        service_ms: what one answer takes.

    Returns:
        ``(N,)`` bool.

    Worked number: at 100, with 10 for each answer and deadlines at 100, 115, 140 and 120: (no, yes, yes, no). The second
    is done at 110 and the third at 120; the fourth would be done at 130.
    """
    clock, answers = now_ms, []
    for deadline in (arrived_ms + allowed_ms).tolist():
        in_time = clock + service_ms <= deadline
        clock += service_ms if in_time else 0.0
        answers.append(in_time)
    return torch.tensor(answers)


def retry_after_s(waiting: int, per_second: float, longest_s: int) -> int:
    """What a service that is too busy writes into ``Retry-After``: when those who wait now will have been served.

    The header holds whole seconds (RFC 9110, section 10.2.3). Rounded up, for whoever comes back too early is refused
    again; at least 1, for 0 says "at once"; at most ``longest_s``, which is also the answer while nothing is served.

    Args:
        waiting: requests in the queue, 0 or more.
        per_second: requests that are answered in a second, 0 or more.
        longest_s: 1 or more.

    Returns:
        a whole number of seconds.

    Worked number: 30 that wait and 8 a second need 3.75 seconds: 4.
    """
    if per_second == 0.0:
        return longest_s
    return min(max(math.ceil(waiting / per_second), 1), longest_s)


def sessions_to_forget(used_s: Tensor, now_s: float, lifetime_s: float, capacity: int) -> Tensor:
    """Whose memory goes before a new session comes into the store.

    Whoever was unused for *longer* than ``lifetime_s`` is forgotten. If the store is still full without them, so is the
    one that was unused for the longest time; nobody else.

    Args:
        used_s: ``(N,)`` float, all different: when each session was last used. The rows stand in the order in which the
            sessions began. N is at least 1, and never more than the capacity.
        now_s: the time.
        lifetime_s: above 0.
        capacity: so many sessions at most, the new one included.

    Returns:
        ``(N,)`` bool.

    Worked number: at 100, with a lifetime of 60 and room for 3: sessions last used at 70, 50 and 90 give
    (no, yes, no); at 30, 70 and 90 they give (yes, no, no), and that is room enough.
    """
    forget = now_s - used_s > lifetime_s
    if int((~forget).sum()) == capacity:
        forget[used_s.argmin()] = True
    return forget


def breaker_state(at_s: Tensor, succeeded: Tensor, now_s: float, failures: int, cooldown_s: float) -> int:
    """Where a circuit breaker stands after a series of requests: 0 closed, 1 half open, 2 open. Nygard (2007), chapter 5.

    It begins closed. So many ``failures`` in a row open it. While it is open nothing is tried. Once ``cooldown_s`` has
    passed since it opened, it is half open: the next request is tried, and that attempt decides. A success closes it and
    the count begins anew; a failure opens it again for another ``cooldown_s``.

    Args:
        at_s: ``(N,)`` float, when each request came, rising.
        succeeded: ``(N,)`` bool, whether the attempt went well; of a request while it is open, whether it *would* have.
        now_s: when you look, not before the last request.
        failures: 1 or more.
        cooldown_s: above 0.

    Returns:
        0, 1 or 2.

    Worked number: 2 failures open it for 10 seconds. Failures at 0 and 1 open it until 11; a success at 5 is never tried:
    at 10 it is open (2), at 11 half open (1). A success at 12 closes it (0); a failure at 12 opens it until 22.
    """
    in_a_row, closed, until = 0, True, 0.0
    for moment, went_well in zip(at_s.tolist(), succeeded.tolist(), strict=True):
        if not closed and moment < until:
            continue
        in_a_row = 0 if went_well else in_a_row + 1
        if went_well:
            closed = True
        elif not closed or in_a_row >= failures:
            closed, until = False, moment + cooldown_s
    return 0 if closed else 2 if now_s < until else 1


def join_rewards(decisions: list[str], rewarded: list[str], reward: Tensor) -> tuple[Tensor, int]:
    """Put each reward to the decision that it belongs to, by request id.

    Rewards come late, in any order, twice, or never. The last one sent for a decision counts: it corrects the earlier
    ones. A decision whose reward never came gets NaN: nobody knows what it was worth.

    Args:
        decisions: ``N`` request ids, all different, in the order of the decisions.
        rewarded: ``M`` request ids, in the order in which the rewards came in.
        reward: ``(M,)`` float.

    Returns:
        ``(N,)`` float, the decisions' rewards; and how many of the M rewards belong to no decision.

    Worked number: decisions a, b, c; rewards 1 for c, 2 for a, 3 for x, 4 for c give (2, NaN, 4) and 1.
    """
    last = dict(zip(rewarded, reward.tolist(), strict=True))
    joined = torch.tensor([last.get(name, math.nan) for name in decisions])
    return joined, sum(name not in decisions for name in rewarded)


def mixed_propensity(probabilities: Tensor, mask: Tensor, action: Tensor, fallback_share: float) -> Tensor:
    """With which probability a service took the action that it took, if now and then something else acts than its policy.

    For every request a coin is thrown: with probability ``fallback_share`` the fallback acts, which draws evenly among the
    allowed actions; otherwise the policy does. The log does not say which of the two it was. (The service of this chapter
    writes it down, and then the propensity is that of whoever acted.)

    Args:
        probabilities: ``(B, A)`` of the policy, among the allowed actions.
        mask: ``(B, A)`` bool, true where the action is allowed.
        action: ``(B,)`` int64, allowed.
        fallback_share: between 0 and 1.

    Returns:
        ``(B,)``.

    Worked number: probabilities (0.7, 0.3, 0), two actions allowed, share 0.2: action 1 gives 0.8 x 0.3 + 0.2 / 2 = 0.34.
    """
    taken = probabilities.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    return (1.0 - fallback_share) * taken + fallback_share / mask.sum(-1)


def hunt_best_allowed(scores: Tensor, mask: Tensor) -> Tensor:
    """The best of the allowed actions: the others are ruled out before the best is looked for."""
    return torch.where(mask, scores, torch.finfo(scores.dtype).min).argmax(-1)


def hunt_remembered(sessions: list[str], obs: Tensor, keep: float) -> Tensor:
    """What a service remembers of each session: a running mean that nobody shares."""
    memory: dict[str, Tensor] = {}
    answers = []
    for session, seen in zip(sessions, obs, strict=True):
        memory[session] = keep * memory.get(session, torch.zeros_like(seen)) + (1.0 - keep) * seen
        answers.append(memory[session])
    return torch.stack(answers)


EXERCISES = (
    masked_probabilities.__name__,
    answerable.__name__,
    retry_after_s.__name__,
    sessions_to_forget.__name__,
    breaker_state.__name__,
    join_rewards.__name__,
    mixed_propensity.__name__,
    "hunt_best_allowed",
    "hunt_remembered",
)
