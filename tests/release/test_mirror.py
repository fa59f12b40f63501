from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from rlcourse.errors import ConfigError
from rlcourse.release.mirror import Mirror


@dataclass(frozen=True)
class Said:
    action: int
    probability: float | None
    request_id: str
    fallback: str | None = None


class Scripted:
    """Answers by a rule, and remembers what it was asked."""

    def __init__(
        self, rule: Callable[[float], int], probability: float | None = 0.5, fallback: str | None = None
    ) -> None:
        self.rule, self.probability, self.fallback = rule, probability, fallback
        self.asked: list[dict[str, Any]] = []
        self._ids = (f"q{n}" for n in itertools.count())

    def act(self, observation: Sequence[float | None], **options: Any) -> Said:
        self.asked.append(options)
        (number,) = observation
        name = options.get("request_id", next(self._ids))
        return Said(self.rule(number or 0.0), self.probability, name, self.fallback)


def test_the_live_answer_comes_back_and_the_shadows_is_kept() -> None:
    live, shadow = Scripted(lambda x: 1), Scripted(lambda x: 1 if x < 30 else 0)
    with Mirror(live, shadow) as mirror:
        for number in range(40):
            answer = mirror.act([float(number)], session="s", deterministic=False)
            assert answer.action == 1
            mirror.reward(answer.request_id, 2.0 if number < 30 else 1.0)
    report = mirror.report(promised_ms=1e6)
    assert (report.requests, report.failed, mirror.dropped) == (40, 0, 0)
    assert report.agreement == 0.75
    assert report.changes == {"1->0": 10}
    assert report.logged_reward == pytest.approx(1.75)
    assert report.counterfactual_reward == pytest.approx(2.0)  # the thirty on which it would have done the same
    assert report.worth == pytest.approx(30.0)
    assert shadow.asked[0] == {"session": "s", "deterministic": True, "request_id": "shadow-q0"}


def test_a_shadow_that_breaks_hurts_nobody() -> None:
    def breaks(x: float) -> int:
        raise RuntimeError("no weights")

    with Mirror(Scripted(lambda x: 1), Scripted(breaks)) as mirror:
        assert [mirror.act([0.0]).action for _ in range(5)] == [1] * 5
    assert mirror.report().failed == 5


def test_a_shadow_that_hangs_fills_the_queue_and_no_more() -> None:
    hold = threading.Event()

    def waits(x: float) -> int:
        assert hold.wait(20.0)
        return 1

    mirror = Mirror(Scripted(lambda x: 1), Scripted(waits), max_waiting=3)
    assert [mirror.act([0.0]).action for _ in range(10)] == [1] * 10
    assert mirror.dropped in (6, 7)  # three wait; a fourth may be in the shadow's hands already
    hold.set()
    mirror.close()
    mirror.close()
    assert mirror.report().requests == 10 - mirror.dropped


def test_a_fallback_is_not_mirrored_and_the_shadows_fallback_is_counted() -> None:
    with Mirror(Scripted(lambda x: 4, None, "client: too late"), Scripted(lambda x: 1)) as mirror:
        mirror.act([0.0])
    assert mirror.report().requests == 0
    with Mirror(Scripted(lambda x: 1), Scripted(lambda x: 1, 1.0, "breaker")) as mirror:
        mirror.act([0.0])
    assert mirror.report().fallbacks == 1
    with pytest.raises(ConfigError):
        Mirror(Scripted(lambda x: 1), Scripted(lambda x: 1), max_waiting=0)
