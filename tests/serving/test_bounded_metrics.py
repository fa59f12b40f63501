"""However many versions a service sees, its series are bounded, and what is shown never falls."""

from __future__ import annotations

import pytest

from rlcourse.errors import ConfigError
from rlcourse.serving.metrics import OTHER, Counting, Registry
from rlcourse.serving.policies import Artifact
from rlcourse.serving.shelf import Loaded, Shelf, ShelfConfig
from tests.serving.test_service import Scripted


class Service:
    """A shelf and its counts; at most three versions are shown."""

    def __init__(self) -> None:
        self.shelf = Shelf(ShelfConfig(max_versions=5), clock=float, wall=float)
        self.counting, self.registry = Counting(self.shelf, max_versions=3), Registry()
        self.registry.register(self.counting)

    def load(self, version: str) -> Loaded:
        loaded = self.shelf.warm("p", Artifact(Scripted(), version, None, None))
        self.shelf.add(loaded)
        return loaded

    def unload(self, loaded: Loaded) -> None:
        self.shelf.unload("p", loaded.version)
        self.counting.unloading(loaded)

    def decide(self, loaded: Loaded, times: int = 1) -> None:
        for _ in range(times):
            loaded.counts[""] = loaded.counts.get("", 0) + 1
            self.counting.decided(loaded, 1, 0.001)
            self.counting.shadowed(loaded, 1, 0.001, failed=False)

    def shown(self, name: str) -> dict[str, float]:
        """By version."""
        return {
            sample.labels["version"]: sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == name
        }


COUNTED = ("rl_decisions_total", "rl_request_seconds_count", "rl_shadow_decisions_total", "rl_shadow_seconds_count")


@pytest.mark.parametrize("name", COUNTED)
def test_a_version_that_is_gone_stays_until_its_place_is_needed(name: str) -> None:
    service = Service()
    default = service.load("v0")
    service.decide(default, 5)
    for number in range(1, 10):
        loaded = service.load(f"v{number}")
        service.decide(loaded, number)
        kept = {f"v{n}": float(n) for n in (number - 1, number) if n}
        assert service.shown(name) == {"v0": 5.0, **kept}
        service.unload(loaded)
        assert service.shown(name) == {"v0": 5.0, **kept}, "a rate over the last hour is whole"


@pytest.mark.parametrize("name", COUNTED)
def test_where_all_places_are_taken_the_rest_is_other(name: str) -> None:
    service = Service()
    loaded = [service.load(f"v{number}") for number in range(5)]
    assert set(service.shown("rl_default_version")) == {"v0", "v1", "v2"}, "no gauge speaks for several versions"
    for number, one in enumerate(loaded):
        service.decide(one, 1 + number)
    assert service.shown(name) == {"v0": 1.0, "v1": 2.0, "v2": 3.0, OTHER: 4.0 + 5.0}
    service.unload(loaded[4])
    assert service.shown(name)[OTHER] == 9.0, "a counter does not fall"
    service.unload(loaded[2])
    service.decide(loaded[3])
    assert service.shown(name)[OTHER] == 10.0, "and one that was among the others stays there"
    service.decide(service.load("v5"))
    assert service.shown(name) == {"v0": 1.0, "v1": 2.0, "v5": 1.0, OTHER: 10.0}, "there is a place again"


def test_statuses_are_bounded_too() -> None:
    service = Service()
    for number, status in enumerate((400, 422, 401, 404, 429, 404)):
        service.counting.refused[status] += 1 + number
    found = {
        sample.labels["status"]: sample.value
        for family in service.registry.collect()
        for sample in family.samples
        if sample.name == "rl_refused_total"
    }
    assert found == {"400": 1.0, "422": 2.0, "401": 3.0, OTHER: 4.0 + 5.0 + 6.0}
    with pytest.raises(ConfigError):
        Counting(service.shelf, max_versions=0)
