"""Policies too slow for the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np

from rlcourse.randomness import Seeds
from rlcourse.serving import wire
from rlcourse.serving.batching import Batcher
from rlcourse.serving.decision_log import ListRecorder
from rlcourse.serving.policies import Artifact, Booleans, Decided, Floats
from rlcourse.serving.prepared import Outcome
from rlcourse.serving.refusals import Refused
from rlcourse.serving.service import NullWatcher, PolicyService, ServiceConfig
from rlcourse.serving.shelf import Shelf, ShelfConfig


class Gated:
    """Counts in its memory, acts by the count, and waits at a gate."""

    obs_size, num_actions, memory_size = 1, 100, 1

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.sizes: list[int] = []

    def first_memory(self, batch_size: int) -> Floats:
        return np.zeros((batch_size, 1), np.float32)

    def decide(
        self, obs: Floats, *, greedy: bool, mask: Booleans | None, memory: Floats | None, rng: np.random.Generator
    ) -> Decided:
        self.gate.wait(10)
        self.sizes.append(len(obs))
        assert memory is not None
        counted = memory + 1
        actions = (obs[:, 0] + counted[:, 0]).astype(np.int64)
        return Decided(actions, np.full((len(obs), 100), 0.01, np.float32), counted)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(deadline_s: float = 5.0, **bounds: int) -> tuple[Gated, PolicyService, Batcher]:
    policy, clock = Gated(), Clock()
    shelf = Shelf(ShelfConfig(breaker_failures=2), clock=clock, wall=clock)
    shelf.add(shelf.warm("p", Artifact(policy, "v", None, None)))
    policy.sizes.clear()
    service = PolicyService(
        shelf,
        ServiceConfig(deadline_s=deadline_s),
        rng=Seeds(0).numpy("serving"),
        clock=clock,
        wall=clock,
        recorder=ListRecorder(),
        watcher=NullWatcher(),
        prefix="t-",
    )
    return policy, service, Batcher(service, **{"max_rows": 8, "max_waiting": 16, **bounds})


def ask(service: PolicyService, batcher: Batcher, body: bytes) -> asyncio.Task[Outcome]:
    prepared = service.prepare("p", wire.read_action(body), 0.0)
    return asyncio.get_running_loop().create_task(batcher.run(prepared))


def action(outcome: Outcome) -> int:
    assert outcome.decided is not None
    return int(outcome.decided.actions[0])


def test_what_gathers_while_one_call_runs_is_asked_together() -> None:
    policy, service, batcher = made()

    async def run() -> list[Outcome]:
        policy.gate.clear()
        first = ask(service, batcher, b'{"observation": [0]}')
        await asyncio.sleep(0.05)
        others = [ask(service, batcher, b'{"observation": [%d]}' % n) for n in range(1, 12)]
        await asyncio.sleep(0.05)
        policy.gate.set()
        return list(await asyncio.gather(first, *others))

    outcomes = asyncio.run(run())
    batcher.close()
    assert [action(outcome) for outcome in outcomes] == [n + 1 for n in range(12)]
    assert policy.sizes == [1, 8, 3]


def test_a_session_asked_twice_at_once_takes_two_steps_in_their_order() -> None:
    policy, service, batcher = made()

    async def run() -> list[Outcome]:
        policy.gate.clear()
        first = ask(service, batcher, b'{"observation": [0]}')
        await asyncio.sleep(0.05)
        others = [ask(service, batcher, b'{"observation": [0], "session": "s"}') for _ in range(3)]
        await asyncio.sleep(0.05)
        policy.gate.set()
        return list(await asyncio.gather(first, *others))

    outcomes = asyncio.run(run())
    batcher.close()
    assert [action(outcome) for outcome in outcomes] == [1, 1, 2, 3]
    assert policy.sizes == [1, 1, 1, 1]


def test_a_policy_that_hangs_times_out_and_then_its_breaker_opens() -> None:
    policy, service, batcher = made(0.03)
    outcomes = hanging(policy, service, batcher, b'{"observation": [0]}')
    assert [outcome.reason for outcome in outcomes] == ["timeout", "timeout", "breaker_open"]


def test_a_client_in_a_hurry_opens_nobodys_breaker() -> None:
    policy, service, batcher = made(30.0)
    outcomes = hanging(policy, service, batcher, b'{"observation": [0], "deadline_ms": 20}')
    assert [outcome.reason for outcome in outcomes] == ["timeout"] * 3
    assert service.shelf.find("p", None).breaker.in_a_row == 0


def hanging(policy: Gated, service: PolicyService, batcher: Batcher, body: bytes) -> list[Outcome]:
    """What three requests get, one after the other, while the policy hangs."""

    async def run() -> list[Outcome]:
        policy.gate.clear()
        found = [await ask(service, batcher, body) for _ in range(3)]
        policy.gate.set()
        return found

    outcomes = asyncio.run(run())
    batcher.close()
    return outcomes


def test_a_full_queue_says_when_to_come_again() -> None:
    policy, service, batcher = made(max_waiting=2)

    async def run() -> list[Any]:
        policy.gate.clear()
        tasks = [ask(service, batcher, b'{"observation": [0]}')]
        await asyncio.sleep(0.05)
        tasks += [ask(service, batcher, b'{"observation": [0]}') for _ in range(3)]
        await asyncio.sleep(0.05)
        policy.gate.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    *answered, refused = asyncio.run(run())
    batcher.close()
    assert [action(outcome) for outcome in answered] == [1, 1, 1]
    assert isinstance(refused, Refused)
    assert (refused.status, refused.retry_after_s) == (429, 1.0)
