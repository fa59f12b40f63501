from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from rlcourse.errors import ConfigError
from rlcourse.randomness import Seeds


def weights(seed: int = 5) -> list[float]:
    with Seeds(seed).initialising("networks"):
        layer = torch.nn.Linear(3, 2)
    return [float(value) for value in layer.weight.detach().flatten()]


def test_the_same_words_give_the_same_stream() -> None:
    for seed in (0, 1, 2**63 - 1):
        assert Seeds(seed).integer("batches", 3) == Seeds(seed).integer("batches", 3)
        one, two = (torch.rand(9, generator=Seeds(seed).torch("batches")) for _ in range(2))
        assert torch.equal(one, two)
        three, four = (Seeds(seed).numpy("bootstrap").random(9) for _ in range(2))
        assert np.array_equal(three, four)


def test_seed_purpose_index_and_family_each_give_another_stream() -> None:
    found = [
        Seeds(seed).integer(purpose, index)
        for seed in (0, 1, 2, 12)
        for purpose in ("batches", "environment", "1/batches")
        for index in range(20)
    ]
    found += [Seeds(seed).child("worker", index).integer("batches") for seed in (0, 1) for index in range(20)]
    assert len(set(found)) == len(found)
    assert all(0 <= value < 2**63 for value in found)


def test_streams_are_not_correlated() -> None:
    streams = np.stack([Seeds(s).numpy(p, i).random(4_000) for s in (0, 1) for p in "ab" for i in (0, 1)])
    correlation = np.corrcoef(streams) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(4_000)  # five standard errors


def test_the_integer_of_a_purpose_is_the_same_on_every_machine_and_day() -> None:
    # A change of the recipe changes every number in the book, so it must not happen unnoticed.
    # The number: printf 0/batches/0 | b2sum --length 64, halved.
    assert Seeds(0).integer("batches") == 0xA71FEFC1C6B8242A // 2


def test_zero_is_a_seed_and_negative_numbers_are_not() -> None:
    assert Seeds(0).integer("a") != Seeds(1).integer("a")
    for seed in (-1, 2**63):
        with pytest.raises(ConfigError):
            Seeds(seed)


def test_initialising_puts_the_global_stream_back() -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    weights()
    assert torch.equal(torch.rand(3), expected)


def test_initialising_puts_the_global_stream_back_after_an_error() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(KeyError), Seeds(0).initialising("networks"):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.random.get_rng_state(), before)


def test_first_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = weights()
    torch.manual_seed(2)
    assert weights() == one
    assert weights(6) != one


def test_another_process_draws_the_same_weights() -> None:
    script = (
        "import json, torch\n"
        "from rlcourse.randomness import Seeds\n"
        "with Seeds(5).initialising('networks'):\n"
        "    layer = torch.nn.Linear(3, 2)\n"
        "print(json.dumps(layer.weight.flatten().tolist()))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(found.stdout) == weights()
