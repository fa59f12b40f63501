"""Cases of chapter 14: the policy as an artifact."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor, nn

from rlcourse.course.cases_common import column, normal, planted
from rlcourse.course.exercise_set import Arguments, Exercise, Mistake, Worked
from rlcourse.course.mutation import Mutation

_FILE = "ch14_artifact"


def _rows(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


# Parity


def worst_disagreement(expected: Tensor, found: Tensor, tolerance: Tensor) -> tuple[Tensor, Tensor]:
    """The reference: as :func:`rlcourse.deployment.parity.compare` measures, on tensors."""
    return _worst((found - expected).abs().nan_to_num(nan=torch.inf, posinf=torch.inf) / tolerance.unsqueeze(-1))


def _worst(shares: Tensor) -> tuple[Tensor, Tensor]:
    of_row = shares.amax(-1)
    row = of_row.argmax()
    return of_row[row], row


def _sound(found: Tensor) -> Tensor:
    """For mistakes that have nothing to do with NaN: they do as the reference does with it."""
    return found.nan_to_num(nan=torch.inf)


def _divided_afterwards(expected: Tensor, found: Tensor, tolerance: Tensor) -> tuple[Tensor, Tensor]:
    difference, row = _worst((_sound(found) - expected).abs())
    return difference / tolerance[row], row


def _draw_parity(rng: np.random.Generator) -> Arguments:
    tolerance = torch.from_numpy(rng.uniform(0.001, 0.1, size=6)).float()
    expected = normal(rng, 6, 3).softmax(-1)
    found = expected + normal(rng, 6, 3) * tolerance.unsqueeze(-1)
    if rng.random() < 0.3:
        found[int(rng.integers(6)), int(rng.integers(3))] = math.nan
    return {"expected": expected, "found": found, "tolerance": tolerance}


_EXPECTED = _rows([0.5, 0.5], [0.75, 0.25], [0.25, 0.75])
_FOUND = _rows([0.5, 0.5], [0.8125, 0.1875], [0.21875, 0.78125])
_TOLERANCE = column([1 / 4, 1 / 8, 1 / 64])

WORST_DISAGREEMENT = Exercise(
    name="worst_disagreement",
    file=_FILE,
    reference=worst_disagreement,
    draw=_draw_parity,
    worked=(
        Worked({"expected": _EXPECTED, "found": _FOUND, "tolerance": _TOLERANCE}, (torch.tensor(2.0), torch.tensor(2))),
        Worked(
            {
                "expected": _rows([1.0, 2.0], [0.0, 1.0]),
                "found": _rows([1.0, 1.5], [0.0, math.nan]),
                "tolerance": column([0.25, 1.0]),
            },
            (torch.tensor(torch.inf), torch.tensor(1)),
        ),
        Worked(
            {
                "expected": _rows([0.0, 1.0], [1.0, 2.0]),
                "found": _rows([0.125, 1.0], [1.0, 1.5]),
                "tolerance": column([0.25, 0.25]),
            },
            (torch.tensor(2.0), torch.tensor(1)),
        ),
    ),
    mistakes=(
        Mistake(
            "signed",
            lambda expected, found, tolerance: _worst((_sound(found) - expected) / tolerance.unsqueeze(-1)),
            "An answer that is too *low* is as wrong as one that is too high: take the absolute difference.",
        ),
        Mistake(
            "NaN passed over",
            lambda expected, found, tolerance: worst_disagreement(
                expected, torch.where(found.isnan(), expected, found), tolerance
            ),
            "A NaN was passed over, as if that answer were right. It is infinitely wrong.",
        ),
        Mistake(
            "NaN left in",
            lambda expected, found, tolerance: _worst((found - expected).abs() / tolerance.unsqueeze(-1)),
            "The share is NaN, and no comparison with NaN is ever true: whoever asks `share > 1` lets it pass. Make it "
            "infinite.",
        ),
        Mistake(
            "tolerance ignored",
            lambda expected, found, tolerance: _worst((_sound(found) - expected).abs()),
            "This is the largest difference itself. Divide by the row's tolerance before you look for the largest.",
        ),
        Mistake(
            "one tolerance for all",
            lambda expected, found, tolerance: _worst((_sound(found) - expected).abs() / tolerance.amax()),
            "One tolerance was used for all rows. Each row has its own.",
        ),
        Mistake(
            "divided afterwards",
            _divided_afterwards,
            "The row with the largest difference is not the one with the largest *share*: divide first, then look.",
        ),
        Mistake(
            "mean over actions",
            lambda expected, found, tolerance: (
                (share := (_sound(found) - expected).abs().mean(-1) / tolerance).amax(),
                share.argmax(),
            ),
            "A mean over the actions hides one bad entry among good ones: take the largest.",
        ),
        Mistake(
            "number of the entry",
            lambda expected, found, tolerance: (
                worst_disagreement(expected, found, tolerance)[0],
                ((_sound(found) - expected).abs() / tolerance.unsqueeze(-1)).argmax(),
            ),
            "The share is right, but the place is counted in entries of the flattened table. The *row* is asked for.",
        ),
    ),
    hint="Absolute differences over the row's tolerance, NaN as infinity; the largest of each row, then of all rows.",
    difficulty=2,
    minutes=15,
)

# Packaging


def changed_parts(names: list[str], texts: list[str], manifest: list[tuple[str, str]]) -> list[str]:
    """The reference."""
    found, listed = _sums(names, texts), dict(manifest)
    return sorted(name for name in {*found, *listed} if found.get(name) != listed.get(name))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sums(names: list[str], texts: list[str]) -> dict[str, str]:
    return dict(zip(names, map(_sha256, texts), strict=True))


def _by_position(names: list[str], texts: list[str], manifest: list[tuple[str, str]]) -> list[str]:
    wrong = [name for name, text, (_, listed) in zip(names, texts, manifest, strict=False) if _sha256(text) != listed]
    return sorted({*wrong, *names[len(manifest) :], *(name for name, _ in manifest[len(names) :])})


def _unsorted(names: list[str], texts: list[str], manifest: list[tuple[str, str]]) -> list[str]:
    wrong = changed_parts(names, texts, manifest)
    seen = [*names, *(name for name, _ in manifest if name not in names)]
    return [name for name in seen if name in wrong]


_PARTS = ("handler.py", "labels.txt", "mean.csv", "policy.json", "readme.md", "scale.csv", "weights.txt")


def _draw_parts(rng: np.random.Generator) -> Arguments:
    texts = {name: f"{name} {int(rng.integers(1_000_000))}" for name in _PARTS}
    changed, cut, missing, surplus, *_ = [_PARTS[i] for i in rng.permutation(len(_PARTS))]
    listed = {name: _sha256(text) for name, text in texts.items() if name != surplus}
    listed[cut] = listed[cut][:-1] + ("0" if listed[cut][-1] != "0" else "1")  # another in its last digit alone
    texts[changed] += " "
    there = [name for name in (_PARTS[i] for i in rng.permutation(len(_PARTS))) if name != missing]
    return {
        "names": there,
        "texts": [texts[name] for name in there],
        "manifest": [(name, listed[name]) for name in (_PARTS[i] for i in rng.permutation(7)) if name in listed],
    }


CHANGED_PARTS = Exercise(
    name="changed_parts",
    file=_FILE,
    reference=changed_parts,
    draw=_draw_parts,
    worked=(
        Worked(
            {
                "names": ["x", "b", "a"],
                "texts": ["surplus", "two", "another"],
                "manifest": [("a", _sha256("one")), ("b", _sha256("two")), ("c", _sha256("three"))],
            },
            ["a", "c", "x"],
        ),
        Worked(
            {"names": ["b", "a"], "texts": ["two", "one"], "manifest": [("a", _sha256("one")), ("b", _sha256("two"))]},
            [],
        ),
    ),
    mistakes=(
        Mistake(
            "surplus passes",
            lambda names, texts, manifest: [n for n in changed_parts(names, texts, manifest) if n in dict(manifest)],
            "A part that the manifest does not list passes: anybody could lay a file beside the others, and it would be "
            "loaded.",
        ),
        Mistake(
            "missing passes",
            lambda names, texts, manifest: [n for n in changed_parts(names, texts, manifest) if n in names],
            "A part that is listed and not there passes. Go through the manifest's names, too.",
        ),
        Mistake(
            "presence alone",
            lambda names, texts, manifest: sorted(set(names) ^ set(dict(manifest))),
            "Only the names were compared. A part may have kept its name and changed: compare the SHA-256.",
        ),
        Mistake(
            "by position",
            _by_position,
            "The first part was compared with the manifest's first line, and so on. Both are in any order: go by name.",
        ),
        Mistake(
            "the first digits",
            lambda names, texts, manifest: [
                name
                for name in changed_parts(names, texts, manifest)
                if _sums(names, texts).get(name, "")[:12] != dict(manifest).get(name, "")[:12]
            ],
            "Only the beginning of the checksum was compared. It is short enough to show, and too short to trust: compare "
            "all 64 digits.",
        ),
        Mistake(
            "all or nothing",
            lambda names, texts, manifest: (
                sorted({*names, *dict(manifest)}) if changed_parts(names, texts, manifest) else []
            ),
            "One wrong part makes all of them suspect here. Name only those that differ.",
        ),
        Mistake(
            "the good ones",
            lambda names, texts, manifest: sorted(
                {*names, *dict(manifest)} - set(changed_parts(names, texts, manifest))
            ),
            "These are the parts that are *right*.",
        ),
        Mistake("not sorted", _unsorted, "The names are right; sort them, so that equal faults make equal reports."),
    ),
    hint="Two dictionaries from name to checksum, one found and one listed; a name belongs in the answer where they differ.",
    difficulty=1,
    minutes=10,
)

# Hunts


def _linear(rng: np.random.Generator, inputs: int, outputs: int) -> nn.Linear:
    # On the meta device nothing is drawn from torch's own generator, which belongs to the caller.
    layer = nn.Linear(inputs, outputs, device="meta")
    layer.weight = nn.Parameter(normal(rng, outputs, inputs))
    layer.bias = nn.Parameter(normal(rng, outputs))
    return layer


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    """A layer with these numbers."""
    layer = nn.Linear(len(weight[0]), len(bias), device="meta")
    layer.weight, layer.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))
    return layer


def served_logits(obs: Tensor, mean: Tensor, scale: Tensor, first: nn.Linear, last: nn.Linear) -> Tensor:
    """Logits of a network that was trained on normalised observations, asked with raw ones.

    The network saw ``(observation - mean) * scale`` in training, with the mean and the spread of the training data; the
    same has to be done to whatever it is asked.

    Args:
        obs: ``(B, D)`` in their own units.
        mean: ``(D,)`` of the training data.
        scale: ``(D,)``, 1 over the spread of the training data.
        first: from D inputs to H hidden units, with tanh after it.
        last: from H hidden units to A logits.

    Returns:
        ``(B, A)``.

    Worked number: mean 25, scale 1/4, first layer 1 x, last layer (-2 x, 2 x): 25 gives (0, 0), 29 gives
    -2 tanh 1 = -1.5232 and 1.5232.
    """
    normalised = (obs - mean) * scale
    hidden = torch.tanh(first(normalised))
    logits: Tensor = last(hidden)
    return logits


def _draw_served(rng: np.random.Generator) -> Arguments:
    spread = torch.from_numpy(rng.uniform(2.0, 5.0, size=3)).float()
    mean = torch.from_numpy(rng.uniform(2.0, 9.0, size=3)).float()
    return {
        "obs": mean + spread * normal(rng, 4, 3),
        "mean": mean,
        "scale": 1.0 / spread,
        "first": _linear(rng, 3, 4),
        "last": _linear(rng, 4, 2),
    }


_RAW_BUG = Mutation(old="hidden = torch.tanh(first(normalised))", new="hidden = torch.tanh(first(obs))")
HUNT_SERVED_LOGITS = Exercise(
    name="hunt_served_logits",
    file=_FILE,
    reference=served_logits,
    draw=_draw_served,
    worked=(
        Worked(
            {
                "obs": _rows([25.0], [29.0]),
                "mean": column([25.0]),
                "scale": column([0.25]),
                "first": linear([[1.0]], [0.0]),
                "last": linear([[-2.0], [2.0]], [0.0, 0.0]),
            },
            _rows([0.0, 0.0], [-2 * math.tanh(1.0), 2 * math.tanh(1.0)]),
        ),
    ),
    mistakes=(
        planted(
            served_logits,
            _RAW_BUG,
            "The observation is normalised, and then the raw one is shown to the network: numbers from a range that it never "
            "saw.",
        ),
        Mistake(
            "divided by the scale",
            lambda obs, mean, scale, first, last: served_logits(obs, mean, 1.0 / scale, first, last),
            "The scale is 1 over the spread already: multiply with it.",
        ),
        Mistake(
            "centred only",
            lambda obs, mean, scale, first, last: served_logits(obs, mean, torch.ones_like(scale), first, last),
            "Centred, but not scaled: the units still decide how loud each entry is.",
        ),
        Mistake(
            "scaled only",
            lambda obs, mean, scale, first, last: served_logits(obs, torch.zeros_like(mean), scale, first, last),
            "Scaled, but not centred: subtract the training data's mean first.",
        ),
        Mistake(
            "the batch's own numbers",
            lambda obs, mean, scale, first, last: served_logits(
                obs, obs.mean(0), 1.0 / obs.std(0, correction=0).clamp_min(1e-6), first, last
            ),
            "Now the answer depends on who else is in the batch. The mean and the spread of the *training data* belong here.",
        ),
    ),
    hint="Follow one observation from line to line. What does the first layer see?",
    difficulty=1,
    minutes=5,
    mutation=_RAW_BUG,
    symptom=(
        "In the lab a policy heats below 25 degrees and cools above. Served, the same weights cool at 18 degrees as they do at "
        "32, always with the very same logits, whatever the room is like."
    ),
)


def answered_logits(obs: Tensor, first: nn.Linear, last: nn.Linear, dropout: float, seed: int) -> Tensor:
    """Logits of a network that was trained with dropout, as a service should answer them: nothing is dropped.

    In training each hidden unit is left out with probability ``dropout``. Srivastava et al. (2014) scaled the weights down
    afterwards; ``nn.Dropout`` scales the units that are left up by ``1 / (1 - dropout)`` in training, so that nothing is to
    be done later. In service the network is whole, and equal questions get equal answers, whatever the seed.

    Args:
        obs: ``(B, D)``.
        first: from D inputs to H hidden units, with ReLU after it, and dropout in training.
        last: from H hidden units to A logits.
        dropout: as in training, from 0 to below 1.
        seed: for whatever may draw.

    Returns:
        ``(B, A)``, without gradients.

    Worked number: first layer (1 x, 2 x), last layer the sum of both, observation 3: 9, with every dropout and every seed.
    """
    network = nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), last)
    network.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        logits: Tensor = network(obs)
    return logits


def _draw_answered(rng: np.random.Generator) -> Arguments:
    return {
        "obs": normal(rng, 4, 3),
        "first": _linear(rng, 3, 8),
        "last": _linear(rng, 8, 2),
        "dropout": float(rng.uniform(0.2, 0.6)),
        "seed": int(rng.integers(1000)),
    }


_DROPOUT_BUG = Mutation(old="network.eval()", new="network.requires_grad_(False)")
HUNT_ANSWERED_LOGITS = Exercise(
    name="hunt_answered_logits",
    file=_FILE,
    reference=answered_logits,
    draw=_draw_answered,
    worked=(
        Worked(
            {
                "obs": _rows([3.0]),
                "first": linear([[1.0], [2.0]], [0.0, 0.0]),
                "last": linear([[1.0, 1.0]], [0.0]),
                "dropout": 0.5,
                "seed": 0,
            },
            _rows([9.0]),
        ),
    ),
    mistakes=(
        planted(
            answered_logits,
            _DROPOUT_BUG,
            "The network is frozen and still in training mode: without gradients is not without dropout. Say that the "
            "training is over.",
        ),
        Mistake(
            "scaled once more",
            lambda obs, first, last, dropout, seed: last((1.0 - dropout) * torch.relu(first(obs))),
            "Nothing is dropped now, but the units are scaled down. torch scales them up in training, so that in service "
            "nothing is to be done.",
        ),
        Mistake(
            "scaled as in training",
            lambda obs, first, last, dropout, seed: last(torch.relu(first(obs)) / (1.0 - dropout)),
            "Nothing is dropped now, but the units are still scaled up for those that would be.",
        ),
        Mistake(
            "no ReLU",
            lambda obs, first, last, dropout, seed: last(first(obs)),
            "The ReLU went out together with the dropout.",
        ),
    ),
    hint="Ask the same question twice, with two seeds. Which layer behaves differently in training, and who tells it to stop?",
    difficulty=2,
    minutes=10,
    mutation=_DROPOUT_BUG,
    symptom=(
        "The same observation is asked ten thousand times, always for the best action, and four in ten answers are another "
        "action than the network's own. The mean of all those logits is right."
    ),
)

EXERCISES = (WORST_DISAGREEMENT, CHANGED_PARTS, HUNT_SERVED_LOGITS, HUNT_ANSWERED_LOGITS)
