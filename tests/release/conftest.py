from __future__ import annotations

import pytest


@pytest.fixture
def now() -> float:
    return 1_000_000.0


@pytest.fixture(autouse=True)
def _no_power_cuts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # Hundreds of small files are written here; only a power cut could tell whether each reached the disk itself.
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr("os.fsync", lambda handle: None)
