"""Policies over continuous actions: what is answered, how dense it was, what is done without them, what the log keeps."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import numpy as np
import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.errors import ArtifactError, ConfigError
from rlcourse.experience import collection
from rlcourse.networks import GaussianPolicy, MLPNetwork
from rlcourse.randomness import Seeds
from rlcourse.recipes.command_line import main
from rlcourse.serving import continuous, wire
from rlcourse.serving.assembly import Assembly, AssemblyConfig
from rlcourse.serving.client import InProcessClient
from rlcourse.serving.continuous import ActionBounds, Drawn, SavedContinuousPolicy
from rlcourse.serving.decision_log import DecisionLogConfig
from rlcourse.serving.decisions import join
from rlcourse.serving.fallbacks import Fallback
from rlcourse.serving.hot import HttpConfig
from rlcourse.serving.http import management
from rlcourse.serving.policies import Artifact, Booleans, Floats, read_artifact
from rlcourse.serving.refusals import Refused
from rlcourse.serving.schemas import ANSWER_SCHEMA
from rlcourse.serving.server import ServerConfig
from rlcourse.serving.service import ServiceConfig
from rlcourse.serving.shelf import ShelfConfig
from rlcourse.vocabulary import ContinuousActions
from tests.deployment.policies import ACTIONS, CONTINUOUS, artifact_of, policy_of
from tests.serving.test_service import EDGES, OBS, scripted, service

LOW, HIGH = ACTIONS.low.numpy(), ACTIONS.high.numpy()
SPREAD = ("gaussian", "free-gaussian", "squashed-gaussian")
ACT = "/v1/policies/rl_policy/action"


def saved(kind: str, tmp_path: Path) -> Artifact:
    artifact_of(kind).save(tmp_path / kind)
    return read_artifact(tmp_path / kind)


def wide() -> tuple[GaussianPolicy, Artifact]:
    """A policy whose samples lie outside the bounds, on one side or the other, every second time or so."""
    with Seeds(1).initialising("networks"):
        network = MLPNetwork(torch.zeros(4), torch.ones(4), (8,), 2)
    policy = GaussianPolicy(network, torch.tensor([1.0, 1.5]), ACTIONS)
    artifact = PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="Task-v0")
    weights = {name: value.numpy() for name, value in artifact.weights.items()}
    read = SavedContinuousPolicy(NumpyPolicy(artifact.description, weights, "v1"))
    return policy, Artifact(read, "v1", None, None, read.bounds)


class Scripted:
    """Does what a test wants."""

    obs_size, num_actions, memory_size = 2, 2, 0

    def __init__(self, answer: Callable[[int], Drawn]) -> None:
        self.answer = answer

    def first_memory(self, batch_size: int) -> Floats:
        return np.zeros((batch_size, 0), np.float32)

    def decide(
        self, obs: Floats, *, greedy: bool, mask: Booleans | None, memory: Floats | None, rng: np.random.Generator
    ) -> Drawn:
        return self.answer(len(obs))

    def artifact(self) -> Artifact:
        return Artifact(self, "v1", None, None, ActionBounds(LOW.tolist(), HIGH.tolist()))


def fine(rows: int) -> Drawn:
    return Drawn(np.tile(np.array([[0.5, 2.0]], np.float32), (rows, 1)), np.full(rows, 0.25))


def test_an_even_draw_has_the_density_of_one_over_the_volume() -> None:
    assert ActionBounds([-2.0], [2.0]).density == pytest.approx(0.25)
    bounds = ActionBounds([-2.0, 0.0], [1.0, 5.0])
    assert bounds.density == pytest.approx(1 / 15)
    drawn = np.array([bounds.draw(Seeds(n).numpy("draw")) for n in range(2000)])
    assert bounds.hold(drawn.astype(np.float32))
    # A mean within five standard errors of the middle: (high - low) / sqrt(12 * 2000) is one of them.
    assert np.abs(drawn.mean(0) - [-0.5, 2.5]) == pytest.approx([0.0, 0.0], abs=5 * 5 / math.sqrt(24_000))
    assert ActionBounds([-1e-30] * 4, [1e-30] * 4).density == pytest.approx(math.exp(88.0))
    assert continuous.LOG_DENSITIES == collection.LOG_DENSITIES


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_greedy_answers_are_those_of_the_policy(kind: str, tmp_path: Path) -> None:
    client = InProcessClient(service(saved(kind, tmp_path))[0])
    rows = torch.cat([OBS, EDGES])
    wanted = policy_of(kind).act(rows, greedy=True).numpy()
    together = client.act_batch(rows.tolist())
    one_by_one = np.array([client.act(row).action for row in rows.tolist()])
    np.testing.assert_allclose(together.action, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one_by_one, wanted, rtol=1e-5, atol=1e-5)
    assert np.ptp(one_by_one, 0).min() > 0.01, "a constant policy would hide a swap"
    assert ((one_by_one >= LOW) & (one_by_one <= HIGH)).all()
    assert together.probability == [None] * len(rows)
    assert (together.confidence, together.fallback) == (None, None)
    one = client.act(OBS[0].tolist())
    assert (one.probability, one.confidence, one.fallback) == (None, None, None)


@pytest.mark.parametrize("kind", SPREAD)
def test_a_density_is_the_one_that_the_policy_names(kind: str, tmp_path: Path) -> None:
    policy = policy_of(kind)
    made, log = service(saved(kind, tmp_path))
    client, rows = InProcessClient(made), OBS.repeat(5, 1)
    together = client.act_batch(rows.tolist(), deterministic=False)
    (line,) = (wire.read_line(line) for line in log.lines)
    assert isinstance(line, wire.DecisionLine)
    drawn = torch.tensor(together.action if line.sampled is None else line.sampled)
    named = torch.tensor(together.probability).log()
    wanted = policy.log_density(rows, drawn)  # type: ignore[attr-defined]  # all three have it
    # A squashed action near its bound says little of what it was before, see SquashedGaussianPolicy.log_density.
    inner = ((drawn - ACTIONS.centre) / ACTIONS.half_range).abs().amax(-1) < 0.99
    kept = inner if kind == "squashed-gaussian" else torch.ones(len(rows), dtype=torch.bool)
    assert int(kept.sum()) > 500
    torch.testing.assert_close(named[kept].float(), wanted[kept], rtol=1e-3, atol=1e-3)
    assert ((np.array(together.action) >= LOW) & (np.array(together.action) <= HIGH)).all()
    assert together.confidence is None
    one = client.act(rows[0].tolist(), deterministic=False)
    assert one.probability > 0.0
    assert len(one.action) == 2


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_what_is_drawn_is_what_the_artifact_draws(kind: str, tmp_path: Path) -> None:
    found = saved(kind, tmp_path).policy.decide(
        OBS.numpy(), greedy=False, mask=None, memory=None, rng=Seeds(3).numpy("draw")
    )
    assert isinstance(found, Drawn)
    wanted = NumpyPolicy.load(tmp_path / kind).act(OBS.numpy(), greedy=False, generator=Seeds(3).numpy("draw")).actions
    drawn = found.actions if found.sampled is None else found.sampled
    np.testing.assert_allclose(drawn, wanted, rtol=1e-6, atol=1e-6)
    assert (found.densities is None) == (kind == "deterministic")


def test_a_density_by_hand() -> None:
    # Mean 0, spread 1, one number between -2 and 2, so half the range is 2.
    noise, one = np.array([[0.5]], np.float32), np.ones((1, 1), np.float32)
    read = object.__new__(SavedContinuousPolicy)
    read._squashed = False
    normal = math.exp(-0.125) / math.sqrt(2 * math.pi)
    assert read._densities(noise, one, noise)[0] == pytest.approx(normal)
    read._squashed, read._log_half = True, math.log(2.0)
    assert read._densities(noise, one, noise)[0] == pytest.approx(normal / (2.0 * (1.0 - math.tanh(0.5) ** 2)))


def test_bounds_are_kept_and_the_density_is_that_of_what_was_drawn() -> None:
    policy, artifact = wide()
    made, log = service(artifact)
    client = InProcessClient(made)
    answers = [client.act(row, deterministic=False) for row in OBS.tolist()]
    actions = np.array([answer.action for answer in answers])
    cut = 0
    for row, (answer, line) in enumerate(zip(answers, map(json.loads, log.lines), strict=True)):
        drawn = line.get("sampled", answer.action)
        assert line["action"] == answer.action == np.clip(drawn, LOW, HIGH).tolist()
        assert line["propensity"] == answer.probability
        named = policy.log_density(OBS[row : row + 1], torch.tensor([drawn]))
        assert math.log(answer.probability) == pytest.approx(float(named), abs=1e-3)
        assert ("sampled" in line) == (drawn != answer.action)
        cut += drawn != answer.action
    assert 50 < cut < 190
    assert (actions.min(0) == LOW).all()
    assert (actions.max(0) == HIGH).all()


# Where tanh stands between the layers, large numbers do no harm.
@pytest.mark.parametrize("kind", ["gaussian", "squashed-gaussian", "deterministic"])
def test_numbers_too_large_for_the_network_are_an_error(kind: str, tmp_path: Path) -> None:
    client = InProcessClient(service(saved(kind, tmp_path))[0])
    huge = [3e38, -3e38, 3e38, -3e38]
    for deterministic in (True, False):
        answer = client.act(huge, deterministic=deterministic)
        assert answer.fallback == "error"
        assert answer.probability == pytest.approx(1 / 15)
        assert np.isfinite(answer.action).all()


@pytest.mark.parametrize("kind", ["free-gaussian", "squashed-gaussian"])
def test_a_network_that_overflows_is_an_error_even_where_a_bound_would_hide_it(kind: str) -> None:
    artifact = artifact_of(kind)
    sound = {name: value.numpy() for name, value in artifact.weights.items()}
    weights = {**sound, "layers.2.bias": np.full_like(sound["layers.2.bias"], np.inf)}
    read = SavedContinuousPolicy(NumpyPolicy(artifact.description, sound, "v1"))
    client = InProcessClient(service(Artifact(read, "v1", None, None, read.bounds))[0])
    read._policy = NumpyPolicy(artifact.description, weights, "v1")  # such a one is not let in
    with pytest.raises(ArtifactError, match="no number"):
        service(Artifact(read, "v1", None, None, read.bounds))
    assert [client.act(OBS[0].tolist(), deterministic=greedy).fallback for greedy in (True, False)] == ["error"] * 2


def test_a_greedy_action_was_not_drawn_even_where_a_bound_cut_it_off() -> None:
    made, log = service(wide()[1])
    answer = InProcessClient(made).act_batch((100.0 * OBS).tolist())
    assert (np.array(answer.action) == HIGH).any()
    assert "sampled" not in json.loads(log.lines[0])


@pytest.mark.parametrize(
    "wrong",
    [
        Drawn(np.array([[np.nan, 2.0]], np.float32), np.ones(1)),
        Drawn(np.array([[np.inf, 2.0]], np.float32), np.ones(1)),
        Drawn(np.array([[0.0, 5.5]], np.float32), np.ones(1)),  # beyond its bound
        Drawn(np.array([[0.0, 2.0]], np.float32), np.array([np.nan])),
        Drawn(np.array([[0.0, 2.0]], np.float32), np.array([np.inf])),
        Drawn(np.array([[0.0, 2.0]], np.float32), np.zeros(1)),
    ],
)
def test_what_is_no_action_falls_back_and_after_three_times_the_policy_is_left_alone(wrong: Drawn) -> None:
    calls: list[int] = []
    warm: list[bool] = []

    def answer(rows: int) -> Drawn:
        calls.append(rows)
        return wrong if warm else fine(rows)

    made, _ = service(Scripted(answer).artifact(), fallback="0.25,1")
    calls.clear()
    warm.append(True)
    client = InProcessClient(made)
    answers = [client.act([0.0, 0.0], deterministic=False) for _ in range(5)]
    assert [answer.fallback for answer in answers] == ["error"] * 3 + ["breaker_open"] * 2
    assert all((answer.action, answer.probability) == ([0.25, 1.0], None) for answer in answers)
    assert len(calls) == 3


def test_rows_that_cannot_be_used_fall_back_alone() -> None:
    made, log = service(Scripted(fine).artifact())
    client = InProcessClient(made)
    answer = client.act_batch([[0, 0], [None, 0], [0, 1e300]], deterministic=False)
    assert answer.fallback == [None, "non_finite", "non_finite"]
    assert answer.action[0] == [0.5, 2.0]
    assert answer.probability == pytest.approx([0.25, 1 / 15, 1 / 15])
    assert answer.confidence is None
    assert all(((np.array(action) >= LOW) & (np.array(action) <= HIGH)).all() for action in answer.action)
    one = client.act([None, 0.0])
    assert (len(one.action), one.fallback) == (2, "non_finite")
    assert json.loads(log.lines[1])["propensity"] == pytest.approx(1 / 15)


def test_a_fallback_among_drawn_actions_is_logged_as_it_was_taken() -> None:
    policy, artifact = wide()
    made, log = service(artifact, fallback="0.25,1")
    rows = [[None] * 4 if row % 2 else OBS[row].tolist() for row in range(40)]
    answer = InProcessClient(made).act_batch(rows, deterministic=False)
    line = wire.read_line(log.lines[0])
    assert isinstance(line, wire.DecisionLine)
    assert isinstance(line.sampled, list)
    assert line.sampled[1::2] == answer.action[1::2] == [[0.25, 1.0]] * 20
    assert line.sampled[::2] != answer.action[::2]
    assert answer.probability[1::2] == [None] * 20
    named = policy.log_density(OBS[:40:2], torch.tensor(line.sampled[::2])).exp()
    assert answer.probability[::2] == pytest.approx(named.tolist(), rel=1e-3)


@pytest.mark.parametrize(
    ("fallback", "says"),
    [
        ("0.5", "2 numbers"),
        ("0.5,1,1", "2 numbers"),
        ("1", "2 numbers"),
        ("1.5,1", "-2 to 1, 0 to 5"),
        ("0,-0.1", "-2 to 1, 0 to 5"),
    ],
)
def test_a_fallback_that_is_no_action_is_refused_where_a_policy_is_loaded(fallback: str, says: str) -> None:
    with pytest.raises(ConfigError, match="continuous") as caught:
        service(Scripted(fine).artifact(), fallback=fallback)
    assert says in caught.value.mend
    made, _ = service(fallback=fallback)
    with pytest.raises(ConfigError):
        made.shelf.add(made.shelf.warm("rl_policy", Scripted(fine).artifact()))
    assert not made.shelf.entries


@pytest.mark.parametrize("fallback", ["left", "", "1,", "nan", "0,inf", "1;2"])
def test_words_that_are_no_fallback_are_refused_at_once(fallback: str) -> None:
    with pytest.raises(ConfigError, match="no fallback"):
        ServiceConfig(fallback=fallback)


@pytest.mark.parametrize("fallback", ["0.5,1", "-1", "0.5"])
def test_counted_actions_need_the_number_of_one(fallback: str) -> None:
    with pytest.raises(ConfigError, match="counts its actions"):
        scripted(fallback=fallback)


def test_a_fixed_fallback_on_its_rounded_bound_is_within() -> None:
    bounds = ActionBounds([0.1], [0.7])  # in 32 bits 0.1 lies above 0.1, and 0.7 below
    for words in ("0.1", "0.7"):
        fallback = Fallback(words)
        fallback.check(1, bounds)
        (value,), density = fallback.continuous(bounds, Seeds(0).numpy("unused"))
        assert float(bounds.low[0]) <= value <= float(bounds.high[0])
        assert value == pytest.approx(float(words))
        assert density is None


def test_masks_are_refused(tmp_path: Path) -> None:
    client = InProcessClient(service(saved("squashed-gaussian", tmp_path))[0])
    with pytest.raises(Refused, match="masked") as caught:
        client.act([0.0] * 4, mask=[True, True])
    assert caught.value.status == 422
    made, _ = service(saved("squashed-gaussian", tmp_path))
    request = wire.read_action(b'{"observation": [0, 0, 0, 0], "mask": null}')
    assert len(made.act("rl_policy", request).action) == 2  # type: ignore[arg-type]  # a list


def assembled(**settings: Any) -> Assembly:
    parts = AssemblyConfig(ServerConfig(), HttpConfig(), ServiceConfig(**settings), ShelfConfig(), DecisionLogConfig())
    return Assembly(parts, state=None)


def sent(app: Any, *requests: tuple[str, str, object]) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return [await client.request(method, path, json=body) for method, path, body in requests]

    return asyncio.run(run())


@pytest.mark.parametrize("kind", ["categorical", *CONTINUOUS])
def test_answers_are_as_the_documentation_says(kind: str, tmp_path: Path) -> None:
    artifact_of(kind).save(tmp_path / "policy")
    assembly = assembled()
    assembly.load("rl_policy", tmp_path / "policy")
    bodies: list[Any] = [
        {"observation": rows, "deterministic": deterministic}
        for rows in ([0.1] * 4, [None] * 4, [[0.1] * 4] * 3, [[0.1] * 4, [None] * 4])
        for deterministic in (True, False)
    ]
    masked = {"observation": [0.1] * 4, "mask": [True] * 3}
    responses = sent(
        assembly.application, *(("POST", path, body) for body in bodies for path in (ACT, "/predictions/rl_policy"))
    )
    for body, response in zip([body for body in bodies for _ in range(2)], responses, strict=True):
        assert response.status_code == 200
        jsonschema_rs.validate(ANSWER_SCHEMA, response.json())
        found = assembly.application.answer("rl_policy", json.dumps(body).encode(), [])
        assert found is not None
        status, _, quick = found
        jsonschema_rs.validate(ANSWER_SCHEMA, json.loads(quick))
        assert status == 200
        if body["deterministic"] and None not in body["observation"] and [None] * 4 not in body["observation"]:
            assert json.loads(quick)["action"] == response.json()["action"]
    refused, listed = sent(assembly.application, ("POST", ACT, masked), ("GET", "/v1/policies/rl_policy", None))
    assert refused.status_code == (200 if kind == "categorical" else 422)
    (version,) = listed.json()["versions"]
    assert version["action_low"] == (None if kind == "categorical" else LOW.tolist())
    assert version["action_high"] == (None if kind == "categorical" else HIGH.tolist())


def test_loading_a_policy_that_the_fallback_does_not_fit_is_refused(tmp_path: Path) -> None:
    artifact_of("categorical").save(tmp_path / "counted")
    artifact_of("deterministic").save(tmp_path / "continuous")
    assembly = assembled(fallback="1")
    assembly.load("rl_policy", tmp_path / "counted")
    app = management(assembly.service, read=read_artifact)
    (said,) = sent(app, ("POST", "/v1/policies/other/versions", {"path": str(tmp_path / "continuous")}))
    assert said.status_code == 422
    assert "fallback" in said.json()["error"]
    assert list(assembly.shelf.entries) == ["rl_policy"]
    with pytest.raises(ConfigError):
        assembly.load("other", tmp_path / "continuous")
    assert main(["serve", "http", str(tmp_path / "continuous"), "--fallback", "1"]) == 2


def test_a_slow_policy_is_asked_in_batches_and_each_gets_its_own() -> None:
    class Slow(Scripted):
        def decide(
            self, obs: Floats, *, greedy: bool, mask: Booleans | None, memory: Floats | None, rng: np.random.Generator
        ) -> Drawn:
            time.sleep(0.02)
            drawn = obs * np.float32(3.0)
            return Drawn(np.clip(drawn, LOW, HIGH), None if greedy else obs[:, 1].astype(np.float64) + 0.5, drawn)

    assembly = assembled(deadline_s=30.0)
    assembly.shelf.add(assembly.shelf.warm("rl_policy", Slow(fine).artifact()))
    assert assembly.application.slow == {"rl_policy"}

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(assembly.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            bodies = [{"observation": [0.125 * n, 0.25 * n], "deterministic": n < 4} for n in range(8)]
            return list(await asyncio.gather(*(client.post(ACT, json=body) for body in bodies)))

    for n, response in enumerate(asyncio.run(run())):
        found = response.json()
        assert found["action"] == np.clip([0.375 * n, 0.75 * n], LOW, HIGH).tolist()
        assert found["probability"] == (None if n < 4 else 0.25 * n + 0.5)
    assembly.application.close()


def test_actions_of_one_number_are_lists_too() -> None:
    bounds = ContinuousActions(torch.tensor([-1.0]), torch.tensor([1.0]))
    policy = GaussianPolicy(MLPNetwork(torch.zeros(1), torch.ones(1), (4,), 1), torch.zeros(1), bounds)
    artifact = PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="Task-v0")
    weights = {name: value.numpy() for name, value in artifact.weights.items()}
    read = SavedContinuousPolicy(NumpyPolicy(artifact.description, weights, "v1"))
    made, log = service(Artifact(read, "v1", None, None, read.bounds))
    client = InProcessClient(made)
    one, two = client.act([0.5], deterministic=False), client.act_batch([[0.5], [0.25]], deterministic=False)
    assert [len(one.action), len(two.action), len(two.action[0])] == [1, 2, 1]
    for answer, rows in ((one, 1), (two, 2)):
        for row in range(rows):
            client.reward(answer.request_id, 1.0, row=row)
    assert join(map(wire.read_line, log.lines), as_taken=True).episodes.actions[:, 0].tolist() == [
        one.action[0],
        two.action[0][0],
        two.action[1][0],
    ]
