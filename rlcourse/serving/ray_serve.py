"""A saved policy behind Ray Serve: replicas that answer in batches. The one file of this folder that imports ray.

Write ``deployment(path, replicas=2)`` into a file of your own as ``app`` and start it with ``serve run file:app``, or
use :func:`running` on one machine. A request is ``{"observation": [...], "mask": [...], "memory": [...], "greedy": true}``,
the answer ``{"action": ..., "version": ...}`` with ``probabilities`` and ``memory`` where the policy has them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.errors import ConfigError, MissingExtraError, ShapeError

try:
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse
except ImportError as error:
    raise MissingExtraError(f"{error.name} is not installed.", mend="pip install 'rlcourse[ray]'") from error

BATCH_SIZE = 16
BATCH_WAIT_S = 0.001
MOST_AT_ONCE = 8 * BATCH_SIZE
"""Requests that one replica may hold. Ray's own bound is 5, and no batch would ever be larger than that."""
QUIET = {"log_level": "ERROR", "enable_access_log": False}
"""Ray Serve writes two lines for every request, one in the process for HTTP and one in the replica."""
LARGEST = float(np.finfo(np.float32).max)


class PolicyReplica:
    """One process with the policy in it."""

    def __init__(self, source: str) -> None:
        """``source`` is a folder or file that a save made; every machine must see it under that path."""
        self.policy = NumpyPolicy.load(Path(source))
        self.rng = np.random.default_rng()

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer one HTTP request; 400 for one that makes no sense."""
        try:
            asked = read(self.policy, await request.body())
        except (ShapeError, ValueError, TypeError, OverflowError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(await self.decide(asked))

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def decide(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that wait at the same time are answered at once, the greedy apart from the others."""
        answers: dict[int, dict[str, Any]] = {}
        for greedy in (True, False):
            places = [place for place, one in enumerate(asked) if one["greedy"] is greedy]
            if places:
                for place, answer in zip(places, self._answer([asked[i] for i in places], greedy), strict=True):
                    answers[place] = answer
        return [answers[place] for place in range(len(asked))]

    def _answer(self, asked: list[dict[str, Any]], greedy: bool) -> list[dict[str, Any]]:
        stacked = {
            name: np.stack([one[name] for one in asked]) if asked[0][name] is not None else None
            for name in ("observation", "mask", "memory")
        }
        obs = stacked["observation"]
        assert obs is not None
        acted = self.policy.act(obs, greedy=greedy, generator=self.rng, mask=stacked["mask"], memory=stacked["memory"])
        actions, about = acted.actions, self.policy.description
        if about.low:  # a Gaussian's draw may lie outside
            actions = np.clip(actions, np.array(about.low, np.float32), np.array(about.high, np.float32))
        told = {"action": actions, "probabilities": acted.probabilities, "memory": acted.memory}
        return [
            {**{n: v[row].tolist() for n, v in told.items() if v is not None}, "version": self.policy.version}
            for row in range(len(asked))
        ]


def read(policy: NumpyPolicy, body: bytes) -> dict[str, Any]:
    """One request as arrays of the right sizes; masks and memories are filled in where a policy takes them.

    Raises:
        ValueError: it is not JSON, or holds something that is no finite number.
        ShapeError: a size is wrong, or nothing is allowed.
    """
    asked = json.loads(body)
    if not isinstance(asked, dict) or "observation" not in asked:
        raise ValueError('Send a JSON object with an "observation".')
    about = policy.description
    takes = {
        "observation",
        "greedy",
        *(("mask",) if about.takes_mask else ()),
        *(("memory",) if policy.memory_size else ()),
    }
    unknown = set(asked) - takes
    if unknown:
        raise ValueError(f"{min(unknown)!r} means nothing to this policy.")
    greedy = asked.get("greedy", True)
    if not isinstance(greedy, bool):
        raise ValueError("greedy must be true or false.")
    mask = memory = None
    if about.takes_mask:
        mask = _row("mask", asked.get("mask", [True] * policy.num_actions), policy.num_actions, (bool,))
        if not mask.any():
            raise ShapeError("A mask allows no action at all.", mend="Allow at least one.")
    if policy.memory_size:
        memory = _row("memory", asked.get("memory", list(about.first_memory)), policy.memory_size, (int, float))
    observation = _row("observation", asked["observation"], policy.obs_size, (int, float))
    return {"observation": observation, "mask": mask, "memory": memory, "greedy": greedy}


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
    NumpyPolicy.load(Path(source))
    options = {"num_cpus": cpus, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
    served = serve.deployment(
        num_replicas=replicas,
        ray_actor_options=options,
        max_ongoing_requests=MOST_AT_ONCE,
        logging_config=QUIET,
    )(PolicyReplica)
    return served.bind(str(Path(source).absolute()))


@contextmanager
def running(source: str | Path, *, port: int = 8000, replicas: int = 1) -> Iterator[str]:
    """Ray and the policy on this machine alone; gives the address, and stops both at the end."""
    application = deployment(source, replicas=replicas)
    # Ray kills a proxy that is not up within 5 seconds and begins another, for ever on a machine that needs 6.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    ray.init(num_cpus=replicas + 1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=QUIET)
        serve.run(application, name="rl_policy", route_prefix="/predictions/rl_policy")
        yield f"http://127.0.0.1:{port}/predictions/rl_policy"
    finally:
        serve.shutdown()
        ray.shutdown()


def _row(name: str, value: Any, size: int, kinds: tuple[type, ...]) -> Any:
    if not isinstance(value, list) or len(value) != size or not all(type(item) in kinds for item in value):
        kind = "booleans" if kinds == (bool,) else "numbers"
        raise ShapeError(f"{name} must be {size} {kind}.", mend="Send one for each entry.")
    if kinds != (bool,) and not all(-LARGEST <= item <= LARGEST for item in value):  # NaN is not within anything
        raise ValueError(f"{name} holds something that is no finite number.")
    return np.array(value, np.bool_ if kinds == (bool,) else np.float32)
