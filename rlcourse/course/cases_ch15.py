"""Cases of chapter 15: a policy service."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rlcourse.course.cases_common import changing, column, elementwise_mistakes, flags, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation
from rlcourse.objectives.policies import masked_logits
from rlcourse.serving.breaker import CircuitBreaker

_FILE = "ch15_serving"


def _only(mistakes: tuple[Mistake, ...], *names: str) -> tuple[Mistake, ...]:
    return tuple(mistake for mistake in mistakes if mistake.name in names)


def _rows(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def _bools(*values: bool) -> Tensor:
    return torch.tensor(values)


def _draw_mask(rng: np.random.Generator, rows: int, actions: int) -> Tensor:
    """One action of each row is surely allowed, and one of the first row surely not."""
    mask = flags(rng, rows, actions, probability=0.5)
    allowed = torch.from_numpy(rng.integers(actions, size=rows))
    mask[torch.arange(rows), allowed] = True
    mask[0, (allowed[0] + 1) % actions] = False
    return mask


# Masks


def masked_probabilities(logits: Tensor, mask: Tensor) -> Tensor:
    """The reference: the package's masked logits, and the softmax of them."""
    return masked_logits(logits, mask).softmax(-1)


def _renormalised(logits: Tensor, mask: Tensor) -> Tensor:
    kept = logits.softmax(-1) * mask
    return kept / kept.sum(-1, keepdim=True)


MASKED_PROBABILITIES = Exercise(
    name="masked_probabilities",
    file=_FILE,
    reference=masked_probabilities,
    draw=lambda rng: {"logits": normal(rng, 4, 5, scale=2.0), "mask": _draw_mask(rng, 4, 5)},
    worked=(
        Worked(
            {"logits": _rows([0.0, math.log(3.0), 5.0]), "mask": _bools(True, True, False).unsqueeze(0)},
            _rows([0.25, 0.75, 0.0]),
        ),
        Worked(
            {"logits": _rows([0.0, 0.0, 200.0]), "mask": _bools(True, True, False).unsqueeze(0)}, _rows([0.5, 0.5, 0.0])
        ),
    ),
    mistakes=(
        Mistake(
            "softmax first",
            lambda logits, mask: logits.softmax(-1) * mask,
            "What is left does not add up to 1: the forbidden actions' share was cut away and given to nobody. Mask before "
            "the softmax.",
        ),
        Mistake(
            "renormalised",
            _renormalised,
            "Right as long as the allowed actions have a share to divide by. Where a forbidden one is overwhelming, theirs "
            "rounds to 0, and 0 / 0 is no number. Mask before the softmax.",
        ),
        Mistake(
            "logits of zero",
            lambda logits, mask: (logits * mask).softmax(-1),
            "A logit of 0 is no ban: it is as likely as any other 0, and likelier than what is below. A forbidden action "
            "needs the lowest logit there is.",
        ),
        Mistake("no mask", lambda logits, mask: logits.softmax(-1), "The mask is not used."),
        Mistake(
            "inverted",
            lambda logits, mask: masked_probabilities(logits, ~mask),
            "The mask is true where the action is *allowed*; this forbids just those.",
        ),
        Mistake(
            "over the batch",
            lambda logits, mask: masked_logits(logits, mask).softmax(0),
            "Every *row* adds up to 1: the softmax runs over the actions, the last axis.",
        ),
        Mistake("logits", masked_logits, "These are logits still: a softmax makes probabilities of them."),
        *_only(elementwise_mistakes(masked_probabilities, learns=False), "float64"),
        changing(0, masked_probabilities),
    ),
    hint="Give the forbidden actions the lowest finite logit, then take the softmax over the last axis.",
    difficulty=1,
    minutes=10,
)

# Time


def answerable(arrived_ms: Tensor, allowed_ms: Tensor, now_ms: float, service_ms: float) -> Tensor:
    """The reference: the queue, request by request."""
    return _queue(arrived_ms + allowed_ms, now_ms, service_ms, lambda end, deadline: end <= deadline)


def _queue(
    deadlines: Tensor, now: float, service: float, in_time: Callable[[float, float], bool], *, skipped: float = 0.0
) -> Tensor:
    answers = []
    for deadline in deadlines.tolist():
        answers.append(in_time(now + service, deadline))
        now += service if answers[-1] else skipped
    return torch.tensor(answers)


def _soonest_first(arrived_ms: Tensor, allowed_ms: Tensor, now_ms: float, service_ms: float) -> Tensor:
    order = (arrived_ms + allowed_ms).argsort(stable=True)
    answers = torch.empty(len(order), dtype=torch.bool)
    answers[order] = answerable(arrived_ms[order], allowed_ms[order], now_ms, service_ms)
    return answers


def _draw_queue(rng: np.random.Generator) -> Arguments:
    # Whole numbers, so that deadlines are met exactly at times.
    arrived = torch.from_numpy(np.sort(rng.integers(0, 60, size=7))).float()
    deadline = torch.from_numpy(60 + 10 * rng.integers(-1, 8, size=7)).float()
    return {"arrived_ms": arrived, "allowed_ms": deadline - arrived, "now_ms": 60.0, "service_ms": 10.0}


ANSWERABLE = Exercise(
    name="answerable",
    file=_FILE,
    reference=answerable,
    draw=_draw_queue,
    worked=(
        Worked(
            {
                "arrived_ms": column([60, 70, 80, 90]),
                "allowed_ms": column([40, 45, 60, 30]),
                "now_ms": 100.0,
                "service_ms": 10.0,
            },
            _bools(False, True, True, False),
        ),
        Worked(
            {"arrived_ms": column([0, 0]), "allowed_ms": column([20, 30]), "now_ms": 10.0, "service_ms": 10.0},
            _bools(True, True),
        ),
        Worked(
            {
                "arrived_ms": column([80, 85, 88]),
                "allowed_ms": column([60, 30, 30]),
                "now_ms": 100.0,
                "service_ms": 10.0,
            },
            _bools(True, False, False),
        ),
    ),
    mistakes=(
        Mistake(
            "not late yet",
            lambda arrived_ms, allowed_ms, now_ms, service_ms: _queue(
                arrived_ms + allowed_ms, now_ms, service_ms, lambda end, deadline: end - service_ms <= deadline
            ),
            "This asks whether the deadline has passed when the work *begins*. The answer has to be there by then.",
        ),
        Mistake(
            "work for nobody",
            lambda arrived_ms, allowed_ms, now_ms, service_ms: _queue(
                arrived_ms + allowed_ms,
                now_ms,
                service_ms,
                lambda end, deadline: end <= deadline,
                skipped=service_ms,
            ),
            "A request that cannot be answered in time takes up time here, and makes those behind it late as well. It gets "
            "the fallback at once.",
        ),
        Mistake(
            "all at once",
            lambda arrived_ms, allowed_ms, now_ms, service_ms: now_ms + service_ms <= arrived_ms + allowed_ms,
            "Every request is answered as if it were the first. Each waits for those that are answered before it.",
        ),
        Mistake(
            "stops at the first",
            lambda arrived_ms, allowed_ms, now_ms, service_ms: (
                answerable(arrived_ms, allowed_ms, now_ms, service_ms).cumprod(0).bool()
            ),
            "It stops at the first request that is too late. One behind it may have a later deadline.",
        ),
        Mistake(
            "counted from now",
            lambda arrived_ms, allowed_ms, now_ms, service_ms: answerable(
                torch.full_like(arrived_ms, now_ms), allowed_ms, now_ms, service_ms
            ),
            "The time allowed runs from the arrival, not from now: what was spent in the queue is spent.",
        ),
        Mistake(
            "in time is late",
            lambda arrived_ms, allowed_ms, now_ms, service_ms: _queue(
                arrived_ms + allowed_ms, now_ms, service_ms, lambda end, deadline: end < deadline
            ),
            "An answer exactly at the deadline is in time: use <= and not <.",
        ),
        Mistake(
            "soonest deadline first",
            _soonest_first,
            "This puts the most urgent first. A sensible queue, but not this one: the order is the order of arrival.",
        ),
        changing(0, answerable),
    ),
    hint="Go through the queue with a clock of your own; it moves on by service_ms only when somebody is answered.",
    difficulty=2,
    minutes=15,
)


def retry_after_s(waiting: int, per_second: float, longest_s: int) -> int:
    """The reference. The package itself says 1 second, always."""
    if per_second <= 0.0:
        return longest_s
    return min(longest_s, max(1, math.ceil(waiting / per_second)))


def _bounded(seconds: int, longest_s: int) -> int:
    return min(longest_s, max(1, seconds))


def _draw_retry(rng: np.random.Generator) -> Arguments:
    return {
        "waiting": int(rng.integers(0, 120)),
        "per_second": float(rng.choice([0.0, 0.5, 2.0, 5.0, 8.0, 25.0])),
        "longest_s": int(rng.integers(10, 40)),
    }


def _retry(waiting: int, per_second: float, longest_s: int, expected: int) -> Worked:
    return Worked({"waiting": waiting, "per_second": per_second, "longest_s": longest_s}, expected)


RETRY_AFTER_S = Exercise(
    name="retry_after_s",
    file=_FILE,
    reference=retry_after_s,
    draw=_draw_retry,
    worked=(
        _retry(30, 8.0, 60, 4),
        _retry(33, 8.0, 60, 5),
        _retry(0, 8.0, 60, 1),
        _retry(1000, 8.0, 60, 60),
        _retry(5, 0.0, 60, 60),
    ),
    mistakes=(
        Mistake(
            "rounded",
            lambda waiting, per_second, longest_s: (
                _bounded(round(waiting / per_second), longest_s) if per_second else longest_s
            ),
            "Rounded to the nearest second: half of the clients come back too early. Round *up*.",
        ),
        Mistake(
            "rounded down",
            lambda waiting, per_second, longest_s: (
                _bounded(int(waiting / per_second), longest_s) if per_second else longest_s
            ),
            "Rounded down, so the client comes back before the queue is empty and is refused again. Round up.",
        ),
        Mistake(
            "multiplied",
            lambda waiting, per_second, longest_s: (
                _bounded(math.ceil(waiting * per_second), longest_s) if per_second else longest_s
            ),
            "The faster the service, the longer this waits: divide by the rate.",
        ),
        Mistake(
            "no least",
            lambda waiting, per_second, longest_s: (
                min(longest_s, math.ceil(waiting / per_second)) if per_second else longest_s
            ),
            "0 tells the client to come back at once. Say 1 at least.",
        ),
        Mistake(
            "no most",
            lambda waiting, per_second, longest_s: max(1, math.ceil(waiting / per_second)) if per_second else longest_s,
            "One long queue sends clients away for minutes: longest_s is the most that is ever said.",
        ),
        Mistake(
            "divided by nothing",
            lambda waiting, per_second, longest_s: _bounded(math.ceil(waiting / per_second), longest_s),
            "A service that is stuck answers 0 requests a second, and just then this divides by 0. Say longest_s.",
        ),
        Mistake(
            "nothing served, nothing to wait for",
            lambda waiting, per_second, longest_s: retry_after_s(waiting, per_second, longest_s) if per_second else 1,
            "While nothing is served, waiting a second does not help: say longest_s.",
        ),
        Mistake(
            "always a second",
            lambda waiting, per_second, longest_s: 1,
            "Always 1 second, however long the queue is: everybody is back together, and most are refused again.",
        ),
        Mistake(
            "a float",
            lambda waiting, per_second, longest_s: float(retry_after_s(waiting, per_second, longest_s)),
            "The number is right, but it is a float: the header takes whole seconds, and 4.0 is none. Return an int.",
        ),
    ),
    hint="Queue over rate, rounded up, not below 1 and not above longest_s; and think of a rate of 0.",
    difficulty=1,
    minutes=10,
)

# State


def sessions_to_forget(used_s: Tensor, now_s: float, lifetime_s: float, capacity: int) -> Tensor:
    """The reference: the rule of :class:`rlcourse.serving.sessions.SessionStore`, all at once."""
    return _make_room(used_s, used_s + lifetime_s < now_s, capacity, used_s)


def _make_room(used_s: Tensor, expired: Tensor, capacity: int, order: Tensor) -> Tensor:
    """The expired, and the lowest of ``order`` among the others if there is no room yet."""
    forget = expired.clone()
    if int((~expired).sum()) >= capacity:
        forget[order.masked_fill(expired, torch.inf).argmin()] = True
    return forget


def _lowest(values: Tensor) -> Tensor:
    """``(N,)`` bool, true at the lowest."""
    return torch.arange(len(values)) == values.argmin()


def _draw_sessions(rng: np.random.Generator) -> Arguments:
    used = torch.from_numpy(rng.choice(np.arange(0, 100), size=5, replace=False)).float()
    # Nobody, the first or the first two have expired; or somebody is at the end of a lifetime to the second.
    age = float(100 - used.sort().values[int(rng.integers(3))])
    lifetime_s = age if rng.random() < 0.3 else age + 0.5
    return {"used_s": used, "now_s": 100.0, "lifetime_s": lifetime_s, "capacity": int(rng.integers(5, 7))}


def _sessions(used: list[float], capacity: int, *expected: bool) -> Worked:
    return Worked({"used_s": column(used), "now_s": 100.0, "lifetime_s": 60.0, "capacity": capacity}, _bools(*expected))


SESSIONS_TO_FORGET = Exercise(
    name="sessions_to_forget",
    file=_FILE,
    reference=sessions_to_forget,
    draw=_draw_sessions,
    worked=(
        _sessions([70, 50, 90], 3, False, True, False),
        _sessions([30, 70, 90], 3, True, False, False),
        _sessions([70, 50, 90], 4, False, False, False),
        _sessions([40, 70, 90], 4, False, False, False),
        _sessions([90, 10, 70, 20], 5, False, True, False, True),
    ),
    mistakes=(
        Mistake(
            "first come, first out",
            lambda used_s, now_s, lifetime_s, capacity: _make_room(
                used_s, used_s + lifetime_s < now_s, capacity, torch.arange(len(used_s)).float()
            ),
            "The session that *began* first goes, though it may be the busiest. The one unused for the longest time goes.",
        ),
        Mistake(
            "the freshest",
            lambda used_s, now_s, lifetime_s, capacity: _make_room(
                used_s, used_s + lifetime_s < now_s, capacity, -used_s
            ),
            "The session that was used last goes: the one most likely to come back next. Take the other end.",
        ),
        Mistake(
            "no room made",
            lambda used_s, now_s, lifetime_s, capacity: used_s + lifetime_s < now_s,
            "A store full of living sessions stays full, and the new one is one too many. One has to go.",
        ),
        Mistake(
            "the expired fill the store",
            lambda used_s, now_s, lifetime_s, capacity: _make_room(
                used_s, used_s + lifetime_s < now_s, 0 if len(used_s) >= capacity else capacity, used_s
            ),
            "The store was counted before the expired sessions had left: the room that they make is room.",
        ),
        Mistake(
            "the expired stay",
            lambda used_s, now_s, lifetime_s, capacity: _lowest(used_s) & (len(used_s) >= capacity),
            "Sessions that have expired stay until the store is full. They go whenever somebody comes.",
        ),
        Mistake(
            "a lifetime is too long",
            lambda used_s, now_s, lifetime_s, capacity: _make_room(
                used_s, used_s + lifetime_s <= now_s, capacity, used_s
            ),
            "Unused for exactly a lifetime is not longer than a lifetime: that session still lives.",
        ),
        Mistake(
            "one goes anyway",
            lambda used_s, now_s, lifetime_s, capacity: _make_room(used_s, used_s + lifetime_s < now_s, 0, used_s),
            "A living session goes although there is room. Count first.",
        ),
        changing(0, sessions_to_forget),
    ),
    hint="First those unused for longer than a lifetime; then count who is left, and only if that is too many, one more.",
    difficulty=2,
    minutes=15,
)


def breaker_state(at_s: Tensor, succeeded: Tensor, now_s: float, failures: int, cooldown_s: float) -> int:
    """The reference: the package's breaker, with a clock that is told what time it is."""
    clock = [0.0]
    breaker = CircuitBreaker(failures, cooldown_s, lambda: clock[0])
    for moment, went_well in zip(at_s.tolist(), succeeded.tolist(), strict=True):
        clock[0] = moment
        if breaker.allow():
            (breaker.succeeded if went_well else breaker.failed)()
    clock[0] = now_s
    return int(breaker.state.value)


def _breaker(
    at_s: Tensor,
    succeeded: Tensor,
    now_s: float,
    failures: int,
    cooldown_s: float,
    *,
    resets: bool = True,
    listens_while_open: bool = False,
    closes_by_itself: bool = False,
    patient_when_half_open: bool = False,
    late: bool = False,
) -> int:
    """By hand, with a switch for each misunderstanding."""
    in_a_row, opened, is_open = 0, 0.0, False

    def cooling(moment: float) -> bool:
        return moment <= opened + cooldown_s if late else moment < opened + cooldown_s

    for moment, went_well in zip(at_s.tolist(), succeeded.tolist(), strict=True):
        if is_open and cooling(moment) and not listens_while_open:
            continue
        if is_open and not cooling(moment) and (closes_by_itself or patient_when_half_open):
            in_a_row = 0
            is_open = not closes_by_itself
        if went_well:
            in_a_row = 0 if resets else in_a_row
            is_open = False
        else:
            in_a_row += 1
            if in_a_row >= failures or (is_open and not patient_when_half_open):
                is_open, opened = True, moment
    if not is_open:
        return 0
    return 2 if cooling(now_s) else 0 if closes_by_itself else 1


def _draw_breaker(rng: np.random.Generator) -> Arguments:
    at = np.cumsum(rng.integers(1, 6, size=9))
    return {
        "at_s": torch.from_numpy(at).float(),
        "succeeded": flags(rng, 9, probability=0.35),
        "now_s": float(at[-1] + rng.integers(0, 8)),
        "failures": int(rng.integers(2, 4)),
        "cooldown_s": float(rng.integers(4, 9)),
    }


def _tried(at: list[float], succeeded: list[bool], now_s: float, expected: int) -> Worked:
    return Worked(
        {
            "at_s": column(at),
            "succeeded": torch.tensor(succeeded),
            "now_s": now_s,
            "failures": 2,
            "cooldown_s": 10.0,
        },
        expected,
    )


BREAKER_STATE = Exercise(
    name="breaker_state",
    file=_FILE,
    reference=breaker_state,
    draw=_draw_breaker,
    worked=(
        _tried([0, 1], [False, False], 5.0, 2),
        _tried([0, 1, 5], [False, False, True], 10.0, 2),
        _tried([0, 1, 5], [False, False, True], 11.0, 1),
        _tried([0, 1, 5, 12], [False, False, True, True], 12.0, 0),
        _tried([0, 1, 5, 12], [False, False, True, False], 21.0, 2),
        _tried([0, 1, 2], [False, True, False], 3.0, 0),
        _tried([0, 1, 8], [False, False, False], 12.0, 1),
        _tried([0, 1, 5, 8], [False, False, False, False], 16.0, 1),
        _tried([0, 1, 11, 12], [False, False, True, False], 13.0, 0),
    ),
    mistakes=(
        Mistake(
            "all failures",
            lambda *given: _breaker(*given, resets=False),
            "Failures were counted altogether. Only so many *in a row* open it: a success begins the count anew.",
        ),
        Mistake(
            "listens while open",
            lambda *given: _breaker(*given, listens_while_open=True),
            "A request that comes while it is open is not tried, so how it would have ended changes nothing: not the state, "
            "and not the time until it is half open.",
        ),
        Mistake(
            "one too many",
            lambda at_s, succeeded, now_s, failures, cooldown_s: breaker_state(
                at_s, succeeded, now_s, failures + 1, cooldown_s
            ),
            "It opens one failure late: `failures` of them are enough.",
        ),
        Mistake(
            "closes by itself",
            lambda *given: _breaker(*given, closes_by_itself=True),
            "Time alone does not close it. After the cooldown it is half open, and one attempt decides.",
        ),
        Mistake(
            "patient when half open",
            lambda *given: _breaker(*given, patient_when_half_open=True),
            "When it is half open, a single failure opens it again: what was broken still is.",
        ),
        Mistake(
            "half open too late",
            lambda *given: _breaker(*given, late=True),
            "It is open for cooldown_s seconds and half open from then on, that very moment included.",
        ),
        Mistake(
            "as a metric of two values",
            lambda *given: min(1, breaker_state(*given)),
            "Open and half open are two states: 2 while nothing is tried, 1 when the next attempt may be.",
        ),
    ),
    hint="Keep three things: failures in a row, whether it is closed, and when it opened. Go through the requests in order.",
    difficulty=3,
    minutes=25,
)

# The log


def join_rewards(decisions: list[str], rewarded: list[str], reward: Tensor) -> tuple[Tensor, int]:
    """The reference: the rule of :func:`rlcourse.serving.decisions.join`, which reads a log's own lines."""
    return _joined(decisions, rewarded, reward), _orphans(decisions, rewarded)


def _joined(decisions: list[str], rewarded: list[str], reward: Tensor, missing: float = math.nan) -> Tensor:
    last = dict(zip(rewarded, reward.tolist(), strict=True))
    return torch.tensor([last.get(name, missing) for name in decisions])


def _orphans(decisions: list[str], rewarded: list[str]) -> int:
    return sum(name not in decisions for name in rewarded)


def _first_wins(decisions: list[str], rewarded: list[str], reward: Tensor) -> tuple[Tensor, int]:
    return _joined(decisions, rewarded[::-1], reward.flip(0)), _orphans(decisions, rewarded)


def _added_up(decisions: list[str], rewarded: list[str], reward: Tensor) -> tuple[Tensor, int]:
    matches = torch.tensor([[name == one for one in rewarded] for name in decisions])  # (N, M)
    total = torch.where(matches, reward, 0.0).sum(-1)
    return torch.where(matches.any(-1), total, math.nan), _orphans(decisions, rewarded)


def _draw_rewards(rng: np.random.Generator) -> Arguments:
    names = [f"r{number}" for number in rng.choice(900, size=7, replace=False) + 100]
    decisions, strangers = names[:5], names[5:]
    # One decision has no reward, one has two; one stranger has two and one has one.
    rewarded = [*decisions[1:], decisions[1], strangers[0], *strangers]
    return {
        "decisions": [decisions[i] for i in rng.permutation(5)],
        "rewarded": [rewarded[i] for i in rng.permutation(len(rewarded))],
        "reward": normal(rng, len(rewarded)),
    }


JOIN_REWARDS = Exercise(
    name="join_rewards",
    file=_FILE,
    reference=join_rewards,
    draw=_draw_rewards,
    worked=(
        Worked(
            {
                "decisions": ["a", "b", "c"],
                "rewarded": ["c", "a", "x", "c"],
                "reward": column([1, 2, 3, 4]),
            },
            (column([2, math.nan, 4]), 1),
        ),
        Worked({"decisions": ["a"], "rewarded": ["x", "x", "a"], "reward": column([1, 2, 3])}, (column([3]), 2)),
    ),
    mistakes=(
        Mistake(
            "by position",
            lambda decisions, rewarded, reward: (reward[: len(decisions)].clone(), _orphans(decisions, rewarded)),
            "The first reward went to the first decision, and so on. They come in any order: the request id says whose each "
            "is.",
        ),
        Mistake(
            "missing as 0",
            lambda decisions, rewarded, reward: (
                _joined(decisions, rewarded, reward, missing=0.0),
                _orphans(decisions, rewarded),
            ),
            "A reward that never came is not a reward of 0: a lost message would look like a failure. Give NaN.",
        ),
        Mistake(
            "the first wins",
            _first_wins,
            "Of two rewards for a decision the first was kept. The last one counts: it corrects what was sent before.",
        ),
        Mistake(
            "added up",
            _added_up,
            "Two rewards for one decision were added. A client that sends twice corrects or repeats itself; the last counts.",
        ),
        Mistake(
            "decisions dropped",
            lambda decisions, rewarded, reward: (
                (joined := _joined(decisions, rewarded, reward))[~joined.isnan()],
                _orphans(decisions, rewarded),
            ),
            "Decisions without a reward are gone, and the others no longer stand where they stood. Keep all N, with NaN.",
        ),
        Mistake(
            "strangers counted once",
            lambda decisions, rewarded, reward: (
                _joined(decisions, rewarded, reward),
                len(set(rewarded) - set(decisions)),
            ),
            "The count is of *rewards* that belong to no decision, not of ids: two for the same unknown id are two.",
        ),
        Mistake(
            "the other count",
            lambda decisions, rewarded, reward: (
                _joined(decisions, rewarded, reward),
                len(set(decisions) - set(rewarded)),
            ),
            "This counts decisions without a reward. Asked for are rewards without a decision.",
        ),
        Mistake(
            "no count",
            lambda decisions, rewarded, reward: _joined(decisions, rewarded, reward),
            "The rewards are right; the number of those that belong to no decision is to be returned beside them.",
        ),
    ),
    hint="A dictionary from request id to the last reward; look each decision up in it.",
    difficulty=1,
    minutes=10,
)


def mixed_propensity(probabilities: Tensor, mask: Tensor, action: Tensor, fallback_share: float) -> Tensor:
    """The reference."""
    return (1.0 - fallback_share) * _taken(probabilities, action) + fallback_share / mask.sum(-1)


def _taken(probabilities: Tensor, action: Tensor) -> Tensor:
    return probabilities.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def _draw_propensity(rng: np.random.Generator) -> Arguments:
    mask = _draw_mask(rng, 5, 4)
    action = [int(rng.choice(np.flatnonzero(row))) for row in mask.numpy()]
    return {
        "probabilities": masked_probabilities(normal(rng, 5, 4), mask),
        "mask": mask,
        "action": torch.tensor(action),
        "fallback_share": float(rng.uniform(0.05, 0.4)),
    }


MIXED_PROPENSITY = Exercise(
    name="mixed_propensity",
    file=_FILE,
    reference=mixed_propensity,
    draw=_draw_propensity,
    worked=(
        Worked(
            {
                "probabilities": _rows([0.7, 0.3, 0.0]),
                "mask": _bools(True, True, False).unsqueeze(0),
                "action": torch.tensor([1]),
                "fallback_share": 0.2,
            },
            column([0.34]),
        ),
    ),
    mistakes=(
        Mistake(
            "the policy's alone",
            lambda probabilities, mask, action, fallback_share: _taken(probabilities, action),
            "This is the policy's own probability. The fallback takes that action at times, too; a log with this in it "
            "misjudges every policy.",
        ),
        Mistake(
            "certain",
            lambda probabilities, mask, action, fallback_share: torch.ones_like(_taken(probabilities, action)),
            "That it was taken does not make it certain. How likely was it *before* it was drawn?",
        ),
        Mistake(
            "shares swapped",
            lambda probabilities, mask, action, fallback_share: mixed_propensity(
                probabilities, mask, action, 1.0 - fallback_share
            ),
            "The shares are swapped: the *fallback* acts with probability fallback_share.",
        ),
        Mistake(
            "over all actions",
            lambda probabilities, mask, action, fallback_share: mixed_propensity(
                probabilities, torch.ones_like(mask), action, fallback_share
            ),
            "The fallback draws among the *allowed* actions; divide by their number, not by that of all.",
        ),
        Mistake(
            "policy in full",
            lambda probabilities, mask, action, fallback_share: (
                _taken(probabilities, action) + fallback_share / mask.sum(-1)
            ),
            "Over all actions this adds up to more than 1: the policy acts only where the fallback does not.",
        ),
        Mistake(
            "no fallback",
            lambda probabilities, mask, action, fallback_share: (1.0 - fallback_share) * _taken(probabilities, action),
            "What the fallback adds is missing: the same action may come from it.",
        ),
        Mistake(
            "not drawn evenly",
            lambda probabilities, mask, action, fallback_share: (
                (1.0 - fallback_share) * _taken(probabilities, action) + fallback_share
            ),
            "The fallback does not always take this action: it draws evenly among the allowed ones.",
        ),
        Mistake(
            "the likeliest",
            lambda probabilities, mask, action, fallback_share: mixed_propensity(
                probabilities, mask, probabilities.argmax(-1), fallback_share
            ),
            "This is the propensity of the likeliest action. Take the one that was drawn.",
        ),
        *_only(elementwise_mistakes(mixed_propensity, learns=False), "mean", "trailing axis", "float64"),
        changing(0, mixed_propensity),
    ),
    hint="Two ways lead to the action; each has a probability, and they add up.",
    difficulty=1,
    minutes=10,
)

# Hunts


def best_allowed(scores: Tensor, mask: Tensor) -> Tensor:
    """The best of the allowed actions: the others are ruled out *before* the best is looked for.

    Args:
        scores: ``(B, A)``, logits or Q-values.
        mask: ``(B, A)`` bool, true where the action is allowed; at least one in each row.

    Returns:
        ``(B,)`` int64.

    Worked number: scores (1, 2, 3) with only the last forbidden give action 1; with only the first allowed, action 0.
    """
    ranked = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return ranked.argmax(-1)


_MASK_BUG = Mutation(
    old="return ranked.argmax(-1)",
    new="return scores.argmax(-1) * mask.gather(-1, scores.argmax(-1, keepdim=True)).squeeze(-1)",
)


def _first_allowed(scores: Tensor, mask: Tensor) -> Tensor:
    best = scores.argmax(-1, keepdim=True)
    return torch.where(mask.gather(-1, best), best, mask.int().argmax(-1, keepdim=True)).squeeze(-1)


def _draw_scores(rng: np.random.Generator) -> Arguments:
    # Scores of both signs, and in every row the favourite is as likely forbidden as not.
    return {"scores": normal(rng, 12, 4) - 0.5, "mask": _draw_mask(rng, 12, 4)}


HUNT_BEST_ALLOWED = Exercise(
    name="hunt_best_allowed",
    file=_FILE,
    reference=best_allowed,
    draw=_draw_scores,
    worked=(
        Worked(
            {
                "scores": _rows([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [-3.0, -2.0, -1.0]),
                "mask": torch.tensor([[True, True, False], [True, False, False], [False, True, False]]),
            },
            torch.tensor([1, 0, 1]),
        ),
    ),
    mistakes=(
        planted(
            best_allowed,
            _MASK_BUG,
            "The mask comes after the argmax: a favourite that is forbidden becomes action 0, which is an action like the "
            "others, and perhaps a forbidden one.",
        ),
        Mistake(
            "no mask",
            lambda scores, mask: scores.argmax(-1),
            "Now the mask is not used at all.",
        ),
        Mistake(
            "the first allowed",
            _first_allowed,
            "The answer is allowed now, but not the best: where the favourite is forbidden, the *second best* is wanted and "
            "not the first in the list. Mask before the argmax.",
        ),
        Mistake(
            "scores of zero",
            lambda scores, mask: (scores * mask).argmax(-1),
            "A forbidden action's score became 0, which beats every allowed one below 0. It has to be the lowest of all.",
        ),
        Mistake(
            "inverted",
            lambda scores, mask: best_allowed(scores, ~mask),
            "The mask is true where the action is *allowed*.",
        ),
    ),
    hint="Take one row whose favourite is forbidden, and say aloud what each line makes of it.",
    difficulty=1,
    minutes=10,
    mutation=_MASK_BUG,
    symptom=(
        "Every test without a mask passes. With masks the service answers action 0 whenever the policy's favourite is "
        "forbidden, although the next best is allowed, and even where action 0 is forbidden itself."
    ),
)


def remembered(sessions: list[str], obs: Tensor, keep: float) -> Tensor:
    """What a service remembers of each session after each request: a running mean of that session's own observations.

    A memory begins with zeros; after each request it is ``keep`` times the old memory and ``1 - keep`` times what was seen.
    No session ever knows of another.

    Args:
        sessions: ``N`` names, in the order of the requests.
        obs: ``(N, D)``, what each request showed.
        keep: from 0 to below 1.

    Returns:
        ``(N, D)``: the memory of the request's session after it.

    Worked number: keep 1/2; ada shows 4, bob 2, ada 0: 2, 1 and 1.
    """
    start = torch.zeros_like(obs[0])
    memory: dict[str, Tensor] = {}
    answers = []
    for session, seen in zip(sessions, obs, strict=True):
        before = memory.get(session, start)
        memory[session] = keep * before + (1.0 - keep) * seen
        answers.append(memory[session].clone())
    return torch.stack(answers)


def _from_the_last(sessions: list[str], obs: Tensor, keep: float) -> Tensor:
    """A newcomer begins with the memory of whoever came last."""
    memory: dict[str, Tensor] = {}
    after = torch.zeros_like(obs[0])
    answers = []
    for session, seen in zip(sessions, obs, strict=True):
        after = keep * memory.get(session, after) + (1.0 - keep) * seen
        memory[session] = after
        answers.append(after)
    return torch.stack(answers)


def _begun_with_the_first(sessions: list[str], obs: Tensor, keep: float) -> Tensor:
    memory: dict[str, Tensor] = {}
    answers = []
    for session, seen in zip(sessions, obs, strict=True):
        memory[session] = keep * memory.get(session, seen) + (1.0 - keep) * seen
        answers.append(memory[session])
    return torch.stack(answers)


def _draw_remembered(rng: np.random.Generator) -> Arguments:
    names = ["ada", "bob", "cyd"]
    sessions = [*names, *(names[i] for i in rng.integers(3, size=5))]
    return {
        "sessions": [sessions[i] for i in rng.permutation(len(sessions))],
        "obs": normal(rng, len(sessions), 2),
        "keep": float(rng.uniform(0.3, 0.8)),
    }


_LEAK_BUG = Mutation(
    old="memory[session] = keep * before + (1.0 - keep) * seen",
    new="memory[session] = before.mul_(keep).add_((1.0 - keep) * seen)",
)
HUNT_REMEMBERED = Exercise(
    name="hunt_remembered",
    file=_FILE,
    reference=remembered,
    draw=_draw_remembered,
    worked=(
        Worked(
            {"sessions": ["ada", "bob", "ada"], "obs": _rows([4.0], [2.0], [0.0]), "keep": 0.5},
            _rows([2.0], [1.0], [1.0]),
        ),
        Worked(
            {"sessions": ["ada", "ada", "bob"], "obs": _rows([8.0], [0.0], [1.0]), "keep": 0.5},
            _rows([4.0], [2.0], [0.5]),
        ),
    ),
    mistakes=(
        planted(
            remembered,
            _LEAK_BUG,
            "The memory is written in place, and every session began with the same tensor of zeros: all of them write into "
            "one memory.",
        ),
        Mistake(
            "begins with the last one's",
            _from_the_last,
            "Sessions have memories of their own now, but a new one begins with that of whoever came last. Begin with zeros.",
        ),
        Mistake(
            "nothing remembered",
            lambda sessions, obs, keep: (1.0 - keep) * obs,
            "Nobody leaks now because nothing is remembered: every request begins with zeros.",
        ),
        Mistake(
            "begins with what it sees",
            _begun_with_the_first,
            "A memory begins with zeros, not with the first observation.",
        ),
        Mistake(
            "shares swapped",
            lambda sessions, obs, keep: remembered(sessions, obs, 1.0 - keep),
            "keep is the share of the *old* memory.",
        ),
    ),
    hint="How many tensors are there after two sessions' first requests? Print their data_ptr().",
    difficulty=2,
    minutes=15,
    mutation=_LEAK_BUG,
    symptom=(
        "With one user at a time every test passes. Ada shows 8 three times; then Bob comes for the first time and shows 0. "
        "The service should remember 0 of him. It remembers 3.5, half of what it knew of Ada, and Ada's memory is 3.5 now, too."
    ),
)

EXERCISES = (
    MASKED_PROBABILITIES,
    ANSWERABLE,
    RETRY_AFTER_S,
    SESSIONS_TO_FORGET,
    BREAKER_STATE,
    JOIN_REWARDS,
    MIXED_PROPENSITY,
    HUNT_BEST_ALLOWED,
    HUNT_REMEMBERED,
)
