"""What a client asks and what it gets, whatever lies between; and the client for a service in the same process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlcourse.errors import ConfigError, RLCourseError
from rlcourse.serving import wire
from rlcourse.serving.service import PolicyService

Observation = Sequence[float | None]
Mask = Sequence[bool]


class ServiceUnavailableError(RLCourseError):
    """The policy service gave no answer in time, and no fallback action was named."""


@dataclass(frozen=True)
class Answer:
    """What to do; lists for a batch."""

    action: Any  # int, or a list of numbers where actions are continuous; of a batch a list of these
    probability: Any  # with which it was taken, or its density; None: not drawn, or the client's own fallback
    confidence: Any  # the policy's own probability of it; None where actions are continuous
    version: str | None
    request_id: str
    fallback: Any  # None: the policy's own; otherwise why not


@dataclass(frozen=True)
class ClientConfig:
    """How long to wait, how often to ask, what to do without an answer."""

    deadline_s: float = 0.1
    """For everything together, repeats included: from the question to the last byte of the answer. Looking up a host's name
    is outside of it; give an address in numbers where that matters. A reward gets ten times as much."""
    retries: int = 1
    """How often to ask again, where that is safe and the deadline allows."""
    fallback_action: int | tuple[float, ...] | None = None
    """What to do without an answer: a number, or the numbers of a continuous action; ``None`` raises
    :class:`ServiceUnavailableError`."""
    breaker_failures: int = 5
    """So many failures in a row, and the service is left alone ..."""
    breaker_cooldown_s: float = 1.0
    """... for so long."""
    api_key: str | None = None

    def __post_init__(self) -> None:
        if not self.deadline_s > 0.0 or self.retries < 0:
            raise ConfigError("A client that waits for nothing.", mend="Use a deadline above 0 and 0 retries or more.")
        if isinstance(self.fallback_action, tuple) and not (
            self.fallback_action and all(map(math.isfinite, self.fallback_action))
        ):
            raise ConfigError(
                f"{self.fallback_action} is no action.", mend="Use finite numbers, as many as an action has."
            )


class Client(Protocol):
    """What all but the asynchronous one can do."""

    def act(self, observation: Observation, **options: Any) -> Answer:
        """One action. ``options``: see :func:`question`."""
        ...

    def act_batch(self, observations: Sequence[Observation], **options: Any) -> Answer:
        """One action for each of several observations."""
        ...

    def reward(self, request_id: str, reward: float, **more: Any) -> None:
        """What an action led to. ``more``: ``terminated``, ``truncated``, ``next_observation``, ``row``, ``session``."""
        ...


def question(
    observation: Sequence[Any],
    *,
    request_id: str,
    deadline_s: float,
    deterministic: bool = True,
    mask: Sequence[Any] | None = None,
    session: str | None = None,
    reset: bool = False,
    version: str | None = None,
) -> dict[str, Any]:
    """A request's body.

    Args:
        observation: ``(D,)`` or ``(B, D)``.
        request_id: names the answer, and later the reward.
        deadline_s: what the service may take.
        deterministic: the likeliest action instead of a drawn one.
        mask: ``(A,)`` or ``(B, A)``: what is allowed; refused where actions are continuous.
        session: whose memory to go on with.
        reset: an episode begins here.
        version: other than the default.
    """
    body: dict[str, Any] = {
        "observation": observation,
        "deterministic": deterministic,
        "request_id": request_id,
        "deadline_ms": max(min(deadline_s, 60.0) * 1e3, 1e-3),
    }
    given = {"mask": mask, "session": session, "version": version}
    body.update({name: value for name, value in given.items() if value is not None})
    return {**body, "reset": True} if reset else body


class InProcessClient:
    """Asks a service directly: the same requests and answers, encoded and decoded, without a network."""

    def __init__(self, service: PolicyService, policy: str = "rl_policy") -> None:
        self._service, self._policy = service, policy
        self._ids = itertools.count()

    def act(self, observation: Observation, **options: Any) -> Answer:
        """See :meth:`~rlcourse.serving.client.PolicyClient.act`."""
        settings = {"request_id": f"in-process-{next(self._ids):x}", "deadline_s": 60.0, **options}
        body = wire.encode(question(observation, **settings))
        found = self._service.act(self._policy, wire.read_action(body))
        return Answer(
            found.action, found.probability, found.confidence, found.version, found.request_id, found.fallback
        )

    def act_batch(self, observations: Sequence[Observation], **options: Any) -> Answer:
        """See :meth:`~rlcourse.serving.client.PolicyClient.act_batch`."""
        return self.act(observations, **options)  # type: ignore[arg-type]

    def reward(self, request_id: str, reward: float, **more: Any) -> None:
        """See :meth:`~rlcourse.serving.client.PolicyClient.reward`."""
        body = wire.encode({"request_id": request_id, "reward": reward, **more})
        self._service.reward(wire.read_reward(body))
