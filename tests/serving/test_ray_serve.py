from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlcourse.deployment.parity import compare, questions
from rlcourse.errors import ConfigError, MissingExtraError
from tests.deployment.policies import artifact_of
from tests.serving.asking import arrays_of, requests_of

PROGRAM = """
import json, sys, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
from rlcourse.serving.ray_serve import running

def ask(request):
    body = request.encode() if isinstance(request, str) else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body), timeout=30) as answer:
            return [answer.status, json.load(answer)]
    except urllib.error.HTTPError as error:
        return [error.code, json.load(error)]

source, port, requests = sys.argv[1], int(sys.argv[2]), json.load(open(sys.argv[3]))
with running(source, port=port) as address:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, requests))
json.dump(answers, open(sys.argv[4], "w"))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_ray_serve_answers_as_the_policy_does(tmp_path: Path) -> None:
    artifact = artifact_of("recurrent", version="5")
    artifact.save(tmp_path / "policy.zip")
    asked = questions(artifact, 200)
    good = requests_of(asked)
    row = good[0]["observation"]
    bad: list[Any] = [
        "no",
        {},
        {"observation": [1.0]},
        {"observation": row, "mask": [False] * 3},
        {"observation": row, "x": 1},
        '{"observation": [1, 2, 3, NaN]}',
        {"observation": [1, 2, 3, 10**400]},
    ]
    sampled = [{"observation": row, "mask": [False, True, False], "greedy": False}]
    (tmp_path / "requests").write_text(json.dumps([*good, *bad, *sampled]))
    port = 30_000 + os.getpid() % 20_000
    words = [str(tmp_path / "policy.zip"), str(port), str(tmp_path / "requests"), str(tmp_path / "answers")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        timeout=420,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads((tmp_path / "answers").read_text())
    said = [answer for status, answer in answers[:200] if status == 200]
    assert len(said) == 200 and {answer["version"] for answer in said} == {"5"}
    # A request answered alone is added up in another order than one in a batch. With an observation a hundred thousand
    # times as far as the data that is seen in the fourth digit; the comparison allows each row what its numbers cost.
    assert compare("Ray Serve", artifact, lambda _: arrays_of(artifact, said), count=200).demand().ordinary < 1e-5
    assert [status for status, _ in answers[200:207]] == [400] * 7
    assert answers[207][1]["action"] == 1


def test_nobody_to_answer_is_refused(tmp_path: Path) -> None:
    from rlcourse.serving.ray_serve import deployment

    artifact_of("tanh").save(tmp_path / "policy")
    with pytest.raises(ConfigError):
        deployment(tmp_path / "policy", replicas=0)


def test_a_replica_may_hold_more_than_one_whole_batch(tmp_path: Path) -> None:
    from rlcourse.serving.ray_serve import BATCH_SIZE, deployment

    artifact_of("tanh").save(tmp_path / "policy")
    bound = deployment(tmp_path / "policy")._bound_deployment
    assert bound.max_ongoing_requests >= 2 * BATCH_SIZE  # one is computed while the next gathers
    assert bound.logging_config["enable_access_log"] is False


def test_without_ray_the_mend_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rlcourse.serving.ray_serve", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"rlcourse\[ray\]"):
        import rlcourse.serving.ray_serve  # noqa: F401
