"""A saved policy behind Ray Serve: replicas that answer in batches. The one file of this folder that imports ray.

``rlcourse serve ray`` starts it on one machine. For a cluster write ``deployment(path, replicas=2)`` into a file of your own as
``app`` and start it with ``serve run file:app``.

A request has the words that ``rlcourse serve http`` knows. Replicas keep nothing between two requests. What differs:

- a policy with a memory gets it with the request and returns the next one (``"memory": [...]``); ``session`` and ``reset`` are
  refused by such a policy;
- there is no fallback: what cannot be shown to a policy is refused, and what is late is answered with status 504;
- nothing is logged. The answer has the ``probabilities`` of all actions, for a client that logs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.errors import ConfigError, MissingExtraError, ServerError
from rlcourse.serving.policies import Booleans, Floats, read_artifact
from rlcourse.serving.refusals import Refused

try:
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    from rlcourse.serving import wire
except ImportError as error:
    raise MissingExtraError(f"{error.name} is not installed.", mend="pip install 'rlcourse[serve,ray]'") from error

BATCH_SIZE = 16
BATCH_WAIT_S = 0.001
MOST_AT_ONCE = 8 * BATCH_SIZE
"""Requests that one replica may hold. Ray's own bound is 5, and no batch would ever be larger than that."""
QUIET = {"log_level": "ERROR", "enable_access_log": False}
"""Ray Serve writes two lines for every request, one in the process for HTTP and one in the replica."""
MOST_ROWS = 4096
"""Observations in one request."""


class Asked(NamedTuple):
    """A request that is known to fit."""

    obs: Floats  # (B, D)
    mask: Booleans | None  # (B, A); None where actions are continuous
    memory: Floats | None  # (B, H); None for a policy without one
    greedy: bool
    many: bool
    request_id: str | None
    deadline_s: float | None


class PolicyReplica:
    """One process with the policy in it."""

    def __init__(self, source: str) -> None:
        """``source`` is a folder or file that a save made; every machine must see it under that path."""
        self.policy = NumpyPolicy.load(Path(source))
        self.rng = np.random.default_rng()

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer one HTTP request; one that makes no sense gets the status that the HTTP service gives it."""
        try:
            asked = read(self.policy, await request.body())
            async with asyncio.timeout(asked.deadline_s):
                return JSONResponse(await self.decide(asked))
        except Refused as refusal:
            return _refused(refusal)
        except TimeoutError:
            return _refused(Refused(504, "The deadline passed.", mend="Allow more, or begin more replicas."))

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def decide(self, asked: list[Asked]) -> list[dict[str, Any]]:
        """Those that wait at the same time are answered at once."""
        return self.answers(asked)

    def answers(self, asked: list[Asked]) -> list[dict[str, Any]]:
        """One for each request, in their order: the greedy in one call, the others in another."""
        answers: dict[int, dict[str, Any]] = {}
        for greedy in (True, False):
            places = [place for place, one in enumerate(asked) if one.greedy is greedy]
            if places:
                for place, answer in zip(places, self._answer([asked[i] for i in places], greedy), strict=True):
                    answers[place] = answer
        return [answers[place] for place in range(len(asked))]

    def _answer(self, asked: list[Asked], greedy: bool) -> list[dict[str, Any]]:
        acted = self.policy.act(
            np.concatenate([one.obs for one in asked]),
            greedy=greedy,
            generator=self.rng,
            mask=_together([one.mask for one in asked]),
            memory=_together([one.memory for one in asked]),
        )
        actions, about = acted.actions, self.policy.description
        if about.low:  # a Gaussian's draw may lie outside
            actions = np.clip(actions, np.array(about.low, np.float32), np.array(about.high, np.float32))
        told = {"action": actions, "probabilities": acted.probabilities, "memory": acted.memory}
        answers, at = [], 0
        for one in asked:
            rows: Any = slice(at, at + len(one.obs)) if one.many else at
            at += len(one.obs)
            answer: dict[str, Any] = {name: value[rows].tolist() for name, value in told.items() if value is not None}
            answer["version"] = self.policy.version
            if one.request_id is not None:
                answer["request_id"] = one.request_id
            answers.append(answer)
        return answers


def read(policy: NumpyPolicy, body: bytes) -> Asked:
    """One request as arrays of the right sizes; masks and memories are filled in where a policy takes them.

    Raises:
        Refused: 400, it is not JSON; 404, another version is asked for; 422, it does not fit.
    """
    asked = wire.read_replica(body)
    about = policy.description
    if asked.version not in (None, policy.version):
        raise Refused(404, f"This is version {policy.version}.", mend="Leave the version out.")
    if policy.memory_size and (asked.session is not None or asked.reset):
        raise Refused(
            422, "No session is remembered here.", mend="Send the memory of the last answer, or none to begin."
        )
    obs, many, unusable = wire.observation(bytes(asked.observation), policy.obs_size)
    if unusable and any(unusable):
        raise Refused(422, "A reading is missing, or no finite number.", mend="Decide without the policy.")
    if len(obs) > MOST_ROWS:
        raise Refused(422, f"There are {len(obs)} observations.", mend=f"Send at most {MOST_ROWS} at once.")
    given = bytes(asked.mask) != b"null"
    if given and not about.takes_mask:
        raise Refused(422, "Continuous actions cannot be masked.", mend="Leave the mask out.")
    mask = np.ones((len(obs), policy.num_actions), np.bool_) if about.takes_mask else None
    if given:
        mask = wire.action_mask(bytes(asked.mask), len(obs), policy.num_actions)
    if asked.greedy is not None and not asked.deterministic:
        raise Refused(422, "There is greedy, and deterministic, which means the same.", mend="Send one of them.")
    greedy = asked.deterministic if asked.greedy is None else asked.greedy
    deadline_s = None if asked.deadline_ms is None else asked.deadline_ms / 1000.0
    return Asked(obs, mask, _memory(policy, asked, len(obs)), greedy, many, asked.request_id, deadline_s)


def _memory(policy: NumpyPolicy, asked: wire.ReplicaRequest, rows: int) -> Floats | None:
    given = bytes(asked.memory) != b"null"
    if not policy.memory_size:
        if given:
            raise Refused(422, "This policy has no memory.", mend="Leave the memory out.")
        return None
    if not given:
        return policy.first_memory(rows)
    memory, _, unusable = wire.observation(bytes(asked.memory), policy.memory_size)
    if len(memory) != rows or (unusable and any(unusable)):
        raise Refused(422, "The memory does not fit.", mend=f"Send {policy.memory_size} numbers for each observation.")
    return memory


def _together(parts: Sequence[Any]) -> Any:
    return None if parts[0] is None else np.concatenate(parts)


def _refused(refusal: Refused) -> JSONResponse:
    return JSONResponse({"error": refusal.problem, "mend": refusal.mend}, status_code=refusal.status)


def deployment(source: str | Path, *, replicas: int = 1, cpus: float = 1.0) -> serve.Application:
    """What Ray Serve runs.

    Args:
        source: a folder or file that a save made; checked here, before anything is started.
        replicas: processes that answer.
        cpus: that each of them is given.

    Raises:
        ArtifactError: the policy cannot be read.
        ConfigError: there would be nobody to answer.
    """
    if replicas < 1 or cpus <= 0:
        raise ConfigError(f"{replicas} replicas with {cpus} CPUs cannot answer.", mend="Use at least one.")
    read_artifact(Path(source))
    options = {"num_cpus": cpus, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
    served = serve.deployment(
        num_replicas=replicas,
        ray_actor_options=options,
        max_ongoing_requests=MOST_AT_ONCE,
        logging_config=QUIET,
    )(PolicyReplica)
    return served.bind(str(Path(source).absolute()))


@contextmanager
def running(source: str | Path, *, name: str = "rl_policy", port: int = 8000, replicas: int = 1) -> Iterator[str]:
    """Ray and the policy on this machine alone; gives the address, and stops both at the end.

    Raises:
        ServerError: Ray did not start.
    """
    application = deployment(source, replicas=replicas)
    # Ray kills a proxy that is not up within 5 seconds and begins another, for ever on a machine that needs 6.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    try:
        ray.init(num_cpus=replicas + 1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray's own, of no kind: after 30 seconds, which are a constant of its own
        raise ServerError(f"Ray did not start: {error}", mend="Try again when this machine has less to do.") from error
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=QUIET)
        serve.run(application, name=name, route_prefix=f"/predictions/{name}")
        yield f"http://127.0.0.1:{port}/predictions/{name}"
    finally:
        serve.shutdown()
        ray.shutdown()
