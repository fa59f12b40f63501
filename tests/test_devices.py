from __future__ import annotations

import pytest
import torch

from rlcourse.devices import WIDE, products_keep_float32, resolve_device, torch_threads, wide_products
from rlcourse.errors import ConfigError, DeviceUnavailableError


def test_names_that_torch_knows() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch, available: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert resolve_device("auto").type == expected


@pytest.mark.parametrize(
    ("count", "name", "there"), [(0, "cuda", 0), (0, "cuda:0", 0), (2, "cuda:2", 0), (2, "cuda:1", 1)]
)
def test_a_device_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch, count: int, name: str, there: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if there:
        assert resolve_device(name) == torch.device(name)
    else:
        with pytest.raises(DeviceUnavailableError, match=f"sees {count} CUDA devices"):
            resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cuda:-1"])
def test_a_name_that_means_nothing(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert "cuda:N" in caught.value.mend


def test_threads_are_put_back_also_after_an_error() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with pytest.raises(KeyError), torch_threads(before + 2):
        raise KeyError
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError), torch_threads(0):
        raise AssertionError("never reached")


def test_wide_products_are_as_exact_as_float32_and_the_switch_is_put_back() -> None:
    a, b = (torch.randn(WIDE, WIDE, dtype=torch.float64) for _ in range(2))
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = switch.fp32_precision
    with wide_products(WIDE):
        # Where the machine would round to bfloat16 the switch must have stayed as it was.
        assert (switch.fp32_precision == "bf16") == products_keep_float32()
        torch.testing.assert_close(a.float() @ b.float(), (a @ b).float(), atol=2e-4, rtol=1e-5)
    assert switch.fp32_precision == before
    with wide_products(WIDE - 1):
        assert switch.fp32_precision == before
    with pytest.raises(KeyError), wide_products(WIDE):
        raise KeyError
    assert switch.fp32_precision == before
