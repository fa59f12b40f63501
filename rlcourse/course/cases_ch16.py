"""Cases of chapter 16: TorchServe and the alternatives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rlcourse.course.cases_common import changing, flags, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation

_FILE = "ch16_torchserve"


# A batch of strangers


def answered_in_place(requests: list[list[float]], weight: Tensor, bias: Tensor) -> list[int]:
    """The reference: the good ones in one product, the bad ones where they stood."""
    good = [place for place, numbers in enumerate(requests) if _usable(numbers, weight)]
    answers = [-1] * len(requests)
    for place, action in zip(good, _actions([requests[place] for place in good], weight, bias), strict=True):
        answers[place] = action
    return answers


def _usable(numbers: list[float], weight: Tensor) -> bool:
    return len(numbers) == weight.shape[1] and all(map(math.isfinite, numbers))


def _actions(rows: list[list[float]], weight: Tensor, bias: Tensor) -> list[int]:
    scores = torch.tensor(rows).reshape(-1, weight.shape[1]) @ weight.T + bias
    found: list[int] = scores.argmax(-1).tolist()
    return found


def _each(choose: Callable[[list[float], Tensor, Tensor], int]) -> Callable[..., list[int]]:
    return lambda requests, weight, bias: [choose(numbers, weight, bias) for numbers in requests]


def _fitted(numbers: list[float], weight: Tensor, bias: Tensor) -> int:
    size = weight.shape[1]
    fitted = [*numbers, *[0.0] * size][:size]
    return _actions([fitted], weight, bias)[0] if all(map(math.isfinite, numbers)) else -1


def _nan_as_0(numbers: list[float], weight: Tensor, bias: Tensor) -> int:
    if len(numbers) != weight.shape[1]:
        return -1
    return _actions([[value if math.isfinite(value) else 0.0 for value in numbers]], weight, bias)[0]


def _nan_alone(numbers: list[float], weight: Tensor, bias: Tensor) -> int:
    if len(numbers) != weight.shape[1] or any(map(math.isnan, numbers)):
        return -1
    return _actions([[min(max(value, -1e30), 1e30) for value in numbers]], weight, bias)[0]


def _errors_last(requests: list[list[float]], weight: Tensor, bias: Tensor) -> list[int]:
    answers = [one for one in answered_in_place(requests, weight, bias) if one >= 0]
    return answers + [-1] * (len(requests) - len(answers))


def _draw_requests(rng: np.random.Generator) -> Arguments:
    requests = normal(rng, 8, 3).tolist()
    short, long, nan, infinite = (int(place) for place in rng.permutation(7)[:4])
    requests[short].pop()
    requests[long].append(0.5)
    requests[nan][int(rng.integers(3))] = math.nan
    requests[infinite][int(rng.integers(3))] = float(rng.choice([math.inf, -math.inf]))
    return {"requests": requests, "weight": normal(rng, 4, 3), "bias": normal(rng, 4, scale=0.3)}


_WEIGHT, _BIAS = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 0.5])

ANSWERED_IN_PLACE = Exercise(
    name="answered_in_place",
    file=_FILE,
    reference=answered_in_place,
    draw=_draw_requests,
    worked=(
        Worked(
            {"requests": [[2.0, 1.0], [1.0], [1.0, 0.75]], "weight": _WEIGHT, "bias": _BIAS},
            [0, -1, 1],
        ),
        Worked(
            {"requests": [[math.nan, 9.0], [3.0, 0.0], [0.0, math.inf]], "weight": _WEIGHT, "bias": _BIAS},
            [-1, 0, -1],
        ),
        Worked({"requests": [[], [1.0, 1.0, 1.0]], "weight": _WEIGHT, "bias": _BIAS}, [-1, -1]),
    ),
    mistakes=(
        Mistake(
            "left out",
            lambda requests, weight, bias: [one for one in answered_in_place(requests, weight, bias) if one >= 0],
            "There are fewer answers than requests. A server that counts fails the whole batch then, the good ones too: put "
            "-1 in the place of a bad one.",
        ),
        Mistake(
            "errors at the end",
            _errors_last,
            "The number of answers is right, and they went to the wrong clients: from the first bad request on everybody "
            "gets a neighbour's. Keep each answer in the place of its request.",
        ),
        Mistake(
            "one spoils all",
            lambda requests, weight, bias: [-1] * len(requests),
            "One bad request fails the whole batch. The others are strangers' and have nothing to do with it.",
        ),
        Mistake(
            "cut and filled",
            _each(_fitted),
            "A request with too few numbers was filled up, or one with too many cut off. Its action belongs to a question that "
            "nobody asked: answer -1.",
        ),
        Mistake(
            "holes become 0",
            _each(_nan_as_0),
            "A number that is missing or infinite was replaced. 0 is a real observation of some other room: answer -1.",
        ),
        Mistake(
            "NaN alone",
            _each(_nan_alone),
            "NaN is refused and infinity is not. Neither is an observation: ask `math.isfinite`.",
        ),
        Mistake(
            "without the bias",
            lambda requests, weight, bias: answered_in_place(requests, weight, torch.zeros_like(bias)),
            "The scores are `observation @ weight.T + bias`; the bias is missing.",
        ),
    ),
    hint="Find the places of the good requests, answer those in one product, and put each action back in its place.",
    difficulty=2,
    minutes=15,
)


# Measuring


def load_figures(sent_s: Tensor, answered_s: Tensor, succeeded: Tensor) -> tuple[float, float, float]:
    """The reference."""
    latency = (answered_s - sent_s)[succeeded].sort().values
    per_second = len(latency) / float(answered_s.max() - sent_s.min())
    return per_second, float(latency[_rank(len(latency))]), 1.0 - len(latency) / len(sent_s)


def _rank(count: int) -> int:
    # In whole numbers: 0.99 * 100 is a little more than 99 in some arithmetic, and the next latency would be taken.
    return -(-99 * count // 100) - 1


def _with(
    *,
    per_second: Callable[[Tensor, Tensor, Tensor], float] | None = None,
    p99: Callable[[Tensor, Tensor, Tensor], float] | None = None,
    failed: Callable[[Tensor, Tensor, Tensor], float] | None = None,
) -> Callable[[Tensor, Tensor, Tensor], tuple[float, float, float]]:
    """The reference with one of its three figures taken otherwise."""

    def figures(sent_s: Tensor, answered_s: Tensor, succeeded: Tensor) -> tuple[float, float, float]:
        right = load_figures(sent_s, answered_s, succeeded)
        others = (per_second, p99, failed)
        first, second, third = (
            one if other is None else other(sent_s, answered_s, succeeded)
            for one, other in zip(right, others, strict=True)
        )
        return first, second, third

    return figures


def _draw_load(rng: np.random.Generator) -> Arguments:
    count = int(rng.integers(120, 260))
    sent = torch.from_numpy(rng.permutation(np.sort(rng.uniform(0.0, 1.0, count)))).double()
    latency = torch.from_numpy(0.002 + rng.exponential(0.004, count)).double()
    succeeded = flags(rng, count, probability=0.9)
    succeeded[:2] = torch.tensor([True, False])
    latency[~succeeded] = 0.5 + 0.01 * torch.arange(
        int((~succeeded).sum()), dtype=torch.float64
    )  # they ran into a limit
    return {"sent_s": sent, "answered_s": sent + latency, "succeeded": succeeded}


_SENT = torch.tensor([0.0, 0.0, 1.0, 1.5], dtype=torch.float64)
_ANSWERED = torch.tensor([0.25, 0.5, 2.0, 1.75], dtype=torch.float64)
_SECOND = torch.arange(200, dtype=torch.float64)

LOAD_FIGURES = Exercise(
    name="load_figures",
    file=_FILE,
    reference=load_figures,
    draw=_draw_load,
    worked=(
        Worked(
            {"sent_s": _SENT, "answered_s": _ANSWERED, "succeeded": torch.tensor([True, True, False, True])},
            (1.5, 0.5, 0.25),
        ),
        Worked(
            {
                "sent_s": torch.zeros(200, dtype=torch.float64),
                "answered_s": (_SECOND + 1.0) / 8,
                "succeeded": torch.ones(200, dtype=torch.bool),
            },
            (8.0, 198 / 8, 0.0),
        ),
    ),
    mistakes=(
        Mistake(
            "failures counted as work",
            _with(per_second=lambda sent, answered, ok: len(sent) / float(answered.max() - sent.min())),
            "The failures were counted as answers. A service that refuses everything would be the fastest of all: count what "
            "succeeded.",
        ),
        Mistake(
            "one over the mean",
            _with(per_second=lambda sent, answered, ok: 1.0 / float((answered - sent)[ok].mean())),
            "This is one over the mean latency: the rate of a single client that waits. Others were answered in the same "
            "time. Divide by the time that passed on the clock.",
        ),
        Mistake(
            "until the last was sent",
            _with(per_second=lambda sent, answered, ok: int(ok.sum()) / float(sent.max() - sent.min())),
            "The clock was stopped when the last request was *sent*. Wait for the last answer.",
        ),
        Mistake(
            "the mean",
            _with(p99=lambda sent, answered, ok: float((answered - sent)[ok].mean())),
            "The second figure is the mean. It hides the slow ones; the 99th percentile is asked for.",
        ),
        Mistake(
            "the median",
            _with(p99=lambda sent, answered, ok: float((answered - sent)[ok].sort().values[(int(ok.sum()) - 1) // 2])),
            "The second figure is the median: half of the answers are slower. The 99th percentile is asked for.",
        ),
        Mistake(
            "the largest",
            _with(p99=lambda sent, answered, ok: float((answered - sent)[ok].max())),
            "The second figure is the largest latency of all. It grows the longer one measures; the 99th percentile does not.",
        ),
        Mistake(
            "all of them",
            _with(p99=lambda sent, answered, ok: float((answered - sent).sort().values[_rank(len(sent))])),
            "The percentile was taken over the failures, too. How long a refusal takes says nothing of the answers: report it "
            "apart, as the share that failed.",
        ),
        Mistake(
            "interpolated",
            _with(p99=lambda sent, answered, ok: float((answered - sent)[ok].quantile(0.99))),
            "This lies between two latencies: `quantile` interpolates. The smallest latency that at least 99 % do not exceed "
            "is asked for, one that was really seen.",
        ),
        Mistake(
            "the share that succeeded",
            _with(failed=lambda sent, answered, ok: float(ok.double().mean())),
            "The third figure is the share that *succeeded*.",
        ),
        changing(0, load_figures),
    ),
    hint="Good answers over the time from the first request to the last answer; rank ceil(0.99 n) of the good latencies, "
    "sorted; failures over all requests.",
    difficulty=2,
    minutes=15,
)


# Hunt


def default_version(loaded: list[str], wanted: str) -> str:
    """Which version answers a request that names none.

    The one that somebody asked to be the default, if it is loaded. Otherwise the newest: the one with the largest numbers,
    compared part by part from the left.

    Args:
        loaded: versions, whole numbers with dots between them, at least one; no two are the same.
        wanted: the default that was asked for, or an empty text.

    Returns:
        one of ``loaded``.

    Worked number: of 1.0 and 1.2, with 1.0 wanted, 1.0; with nothing wanted 1.2.
    """
    if wanted in loaded:
        return wanted
    order = sorted(loaded, key=lambda version: [int(part) for part in version.split(".")])
    return order[-1]


def _draw_versions(rng: np.random.Generator) -> Arguments:
    major = int(rng.integers(1, 4))
    minors = [9, 10, 11, *rng.permutation([1, 2, 3])[:2].tolist()]
    loaded = [f"{major}.{minor}" for minor in rng.permutation(minors).tolist()]
    place = loaded.index(f"{major}.11")
    loaded[0], loaded[place] = loaded[place], loaded[0]  # the newest is not the one that was loaded last
    return {"loaded": loaded, "wanted": str(rng.choice(["", f"{major}.9", f"{major}.77"], p=[0.4, 0.3, 0.3]))}


_TEXT_BUG = Mutation(
    old='order = sorted(loaded, key=lambda version: [int(part) for part in version.split(".")])',
    new='order = sorted(loaded, key=lambda version: version.split("."))',
)
HUNT_DEFAULT_VERSION = Exercise(
    name="hunt_default_version",
    file=_FILE,
    reference=default_version,
    draw=_draw_versions,
    worked=(
        Worked({"loaded": ["1.0", "1.2"], "wanted": "1.0"}, "1.0"),
        Worked({"loaded": ["1.2", "1.0"], "wanted": ""}, "1.2"),
        Worked({"loaded": ["10.0", "2.0"], "wanted": ""}, "10.0"),
        Worked({"loaded": ["1.1", "1.10"], "wanted": ""}, "1.10"),
        Worked({"loaded": ["1.10", "1.9"], "wanted": "1.11"}, "1.10"),
    ),
    mistakes=(
        planted(
            default_version,
            _TEXT_BUG,
            'The parts of a version are compared as texts, letter by letter, and "10" begins with a 1.',
        ),
        Mistake(
            "as one number",
            lambda loaded, wanted: wanted if wanted in loaded else max(loaded, key=float),
            "The version was read as a decimal number: 1.10 is then 1.1. Compare the parts as whole numbers.",
        ),
        Mistake(
            "loaded last",
            lambda loaded, wanted: wanted if wanted in loaded else loaded[-1],
            "This is the version that was loaded last. After a restart the order of loading is another.",
        ),
        Mistake(
            "always the newest",
            lambda loaded, wanted: max(loaded, key=lambda version: [int(part) for part in re.split(r"\.", version)]),
            "Somebody asked for a default that is loaded, and the newest answers all the same: no rollback would hold.",
        ),
        Mistake(
            "whatever is wanted",
            lambda loaded, wanted: wanted or default_version(loaded, ""),
            "The default that was asked for is not loaded. Nobody would answer.",
        ),
        Mistake(
            "the oldest",
            lambda loaded, wanted: (
                wanted if wanted in loaded else min(loaded, key=lambda version: [*map(int, version.split("."))])
            ),
            "This is the oldest version.",
        ),
    ),
    hint="Load 1.9 and 1.10 and print the order.",
    difficulty=1,
    minutes=5,
    mutation=_TEXT_BUG,
    symptom=(
        "Nine releases went well: each new version answered as soon as it was loaded. The tenth is loaded, is healthy, and "
        "gets no request. Its chart is empty, and the one before it still answers everything."
    ),
)

EXERCISES = (ANSWERED_IN_PLACE, LOAD_FIGURES, HUNT_DEFAULT_VERSION)
