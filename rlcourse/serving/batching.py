"""Slow policies, and batches too large for the spot, in a thread of their own, several requests to a call.

While one call runs, requests gather; the next call takes them all. Nobody is made to wait for company, and the more comes
in the larger the batches grow. Quick policies (see ``QUICK_S``) are better off without: handing 20 microseconds of work to
a thread costs 100.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rlcourse.serving.prepared import Outcome, Prepared
from rlcourse.serving.refusals import Refused
from rlcourse.serving.service import PolicyService


class Batcher:
    """A bounded queue before one thread.

    Args:
        max_rows: observations in one call.
        max_waiting: requests in the queue; beyond, 429.
    """

    def __init__(self, service: PolicyService, *, max_rows: int, max_waiting: int) -> None:
        self.service, self.max_rows, self.max_waiting = service, max_rows, max_waiting
        self._queue: deque[tuple[Prepared, asyncio.Future[Outcome]]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._task: asyncio.Task[None] | None = None

    async def run(self, prepared: Prepared) -> Outcome:
        """What the policy said, or ``timeout`` at the deadline.

        Raises:
            Refused: 429, the queue is full.
        """
        service = self.service
        barred = service.barred(prepared)
        if barred is not None:
            return barred
        if len(self._queue) >= self.max_waiting:
            raise Refused(429, "Too many requests wait already.", mend="Ask again a little later.", retry_after_s=1.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._queue.append((prepared, future))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())
        left = prepared.allowed_s - (service.clock() - prepared.arrived)
        try:
            return await asyncio.wait_for(future, left)
        except TimeoutError:
            return service.late(prepared)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            group = self._next_group()
            if not group:
                continue
            outcomes = await loop.run_in_executor(self._pool, self._ask, [prepared for prepared, _ in group])
            for (prepared, future), outcome in zip(group, outcomes, strict=True):
                if not future.done():
                    self.service.settle(prepared, outcome)
                    future.set_result(outcome)

    def _next_group(self) -> list[tuple[Prepared, asyncio.Future[Outcome]]]:
        group: list[tuple[Prepared, asyncio.Future[Outcome]]] = []
        rows, sessions = 0, set()
        while self._queue:
            prepared, future = self._queue[0]
            if future.done():  # its deadline has passed
                self._queue.popleft()
                continue
            first = group[0][0] if group else prepared
            session = prepared.request.session
            if (
                prepared.loaded is not first.loaded
                or prepared.request.deterministic != first.request.deterministic
                or (group and rows + len(prepared.obs) > self.max_rows)
                or session in sessions  # its next memory is not known yet
            ):
                break
            if session is not None:
                sessions.add(session)
            rows += len(prepared.obs)
            group.append(self._queue.popleft())
        for prepared, _ in group:
            prepared.memory = self.service.recall(prepared)
        return group

    def _ask(self, group: list[Prepared]) -> list[Outcome]:
        first = group[0]
        obs = np.concatenate([prepared.obs for prepared in group])
        mask = None
        if any(prepared.mask is not None for prepared in group):
            everything = np.ones((1, first.loaded.policy.num_actions), np.bool_)
            mask = np.concatenate(
                [
                    np.broadcast_to(everything, (len(prepared.obs), everything.shape[1]))
                    if prepared.mask is None
                    else prepared.mask
                    for prepared in group
                ]
            )
        memory = None
        if first.loaded.policy.memory_size:
            memory = np.concatenate([prepared.memory for prepared in group if prepared.memory is not None])
        outcome = self.service.ask(first.loaded, obs, first.request.deterministic, mask, memory)
        if outcome.decided is None:
            return [outcome] * len(group)
        outcomes, at = [], 0
        for prepared in group:
            rows = slice(at, at + len(prepared.obs))
            at += len(prepared.obs)
            outcomes.append(Outcome(outcome.decided.rows(rows), None))
        return outcomes

    def close(self) -> None:
        """Nothing more will be asked; a call that hangs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
