from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.errors import ArtifactError, ConfigError
from rlcourse.networks import CategoricalPolicy, GreedyQPolicy
from rlcourse.networks.recurrent import RecurrentCategoricalPolicy
from rlcourse.randomness import Seeds
from rlcourse.serving import wire
from rlcourse.serving.client import InProcessClient
from rlcourse.serving.decision_log import ListRecorder
from rlcourse.serving.policies import Artifact, Booleans, Decided, Floats, read_artifact
from rlcourse.serving.refusals import Refused
from rlcourse.serving.service import NullWatcher, PolicyService, ServiceConfig
from rlcourse.serving.shelf import Loaded, Shelf, ShelfConfig
from tests.serving.conftest import make

OBS = torch.randn(200, 4, generator=Seeds(0).torch("obs"))
EDGES = torch.tensor([[0.0] * 4, [-0.0] * 4, [1e-38] * 4, [1e6, -1e6, 1e6, -1e6], [1e-45, 0, 0, 0]])


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """Answers action 1 with probability 0.75, or does what a test wants."""

    obs_size, num_actions, memory_size = 2, 3, 0

    def __init__(self) -> None:
        self.does: Callable[[], None] = lambda: None
        self.probabilities = [0.125, 0.75, 0.125]

    def first_memory(self, batch_size: int) -> Floats:
        return np.zeros((batch_size, 0), np.float32)

    def decide(
        self, obs: Floats, *, greedy: bool, mask: Booleans | None, memory: Floats | None, rng: np.random.Generator
    ) -> Decided:
        self.does()
        return Decided(
            np.ones(len(obs), np.int64), np.tile(np.array(self.probabilities, np.float32), (len(obs), 1)), None
        )


def service(*artifacts: Artifact, clock: Clock | None = None, **settings: Any) -> tuple[PolicyService, ListRecorder]:
    now = clock or Clock()
    shelf = Shelf(ShelfConfig(breaker_failures=3, breaker_cooldown_s=5.0), clock=now, wall=now)
    for artifact in artifacts:
        shelf.add(shelf.warm("rl_policy", artifact))
    log = ListRecorder()
    config = ServiceConfig(**settings)
    rng = Seeds(0).numpy("serving")
    return (
        PolicyService(shelf, config, rng=rng, clock=now, wall=now, recorder=log, watcher=NullWatcher(), prefix="t-"),
        log,
    )


def scripted(**settings: Any) -> tuple[PolicyService, ListRecorder, Scripted, Clock]:
    policy, clock = Scripted(), Clock()
    made, log = service(Artifact(policy, "v1", None, None), clock=clock, **settings)
    return made, log, policy, clock


@pytest.mark.parametrize("kind", ["logits", "q"])
def test_answers_are_those_of_the_policy(kind: str, save: Callable[..., Any]) -> None:
    folder, policy = save(kind)
    assert isinstance(policy, CategoricalPolicy | GreedyQPolicy)
    client = InProcessClient(service(read_artifact(folder))[0])
    rows = torch.cat([OBS, EDGES])
    wanted, probabilities = policy.act(rows, greedy=True), policy.probabilities(rows)
    together = client.act_batch(rows.tolist())
    one_by_one = [client.act(row) for row in rows.tolist()]
    assert together.action == [one.action for one in one_by_one] == wanted.tolist()
    assert together.probability == [1.0] * len(rows)
    assert together.confidence == pytest.approx(probabilities.gather(-1, wanted[:, None])[:, 0].tolist(), abs=1e-5)
    assert together.fallback is None
    assert len(set(together.action)) > 1, "a constant policy would hide a swap"


def test_sampled_actions_are_drawn_with_the_probability_that_is_named(save: Callable[..., Any]) -> None:
    folder, policy = save()
    client = InProcessClient(service(read_artifact(folder))[0])
    row = OBS[:1]
    answer = client.act_batch(row.tolist() * 4096, deterministic=False)
    wanted = policy.probabilities(row)[0]
    assert answer.probability == pytest.approx(wanted[answer.action].tolist(), abs=1e-5)
    counts = np.bincount(answer.action, minlength=3) / 4096
    assert counts == pytest.approx(wanted.numpy(), abs=5 * 0.5 / 64)  # five standard errors at most


def test_a_mask_rules_out_and_propensities_are_among_what_is_left(save: Callable[..., Any]) -> None:
    folder, policy = save()
    client = InProcessClient(service(read_artifact(folder))[0])
    for row in OBS[:50]:
        best = int(policy.act(row[None], greedy=True))
        mask = [action != best for action in range(3)]
        answer = client.act(row.tolist(), mask=mask, deterministic=False)
        left = policy.probabilities(row[None])[0] * torch.tensor(mask)
        assert answer.action != best
        assert answer.probability == pytest.approx(float(left[answer.action] / left.sum()), abs=1e-5)
        assert client.act(row.tolist(), mask=mask).action == int(left.argmax())


def test_a_session_remembers_and_survives_a_restart(save: Callable[..., Any], tmp_path: Path) -> None:
    folder, policy = save("recurrent")
    assert isinstance(policy, RecurrentCategoricalPolicy)
    made, _ = service(read_artifact(folder))
    again, _ = service(read_artifact(folder))
    client, memory = InProcessClient(made), policy.first_memory(1)
    differs = 0
    for step, row in enumerate(OBS[:60]):
        action, memory = policy.act_remembering(row[None], memory, greedy=True)
        answer = client.act(row.tolist(), session="a")
        chances = policy.network.actor(memory).softmax(-1)[0].detach()
        assert answer.action == int(action), step
        assert answer.confidence == pytest.approx(float(chances[answer.action]), abs=1e-4), step
        differs += abs(client.act(row.tolist()).confidence - answer.confidence) > 1e-3
        client.act(OBS[-step - 1].tolist(), session="b")  # another's memory is another's
        if step == 30:
            for before, after in zip(_loaded(made), _loaded(again), strict=True):
                assert before.sessions is not None
                assert after.sessions is not None
                before.sessions.save(tmp_path / "sessions.npz")
                after.sessions.restore(tmp_path / "sessions.npz")
            client = InProcessClient(again)
    assert differs > 30, "memory made no difference"
    assert client.act(OBS[0].tolist(), session="a", reset=True).action == client.act(OBS[0].tolist()).action


def _loaded(made: PolicyService) -> list[Loaded]:
    return list(made.shelf.entries["rl_policy"].versions.values())


@pytest.mark.parametrize("broken", ["raises", "nan"])
def test_a_failing_policy_falls_back_and_after_three_times_is_left_alone(broken: str) -> None:
    made, log, policy, clock = scripted(fallback="2")
    client = InProcessClient(made)
    calls = []

    def fail() -> None:
        calls.append(1)
        if broken == "raises":
            raise RuntimeError("no")

    policy.does = fail
    policy.probabilities = [float("nan")] * 3
    answers = [client.act([0.0, 0.0]) for _ in range(5)]
    assert [answer.fallback for answer in answers] == ["error"] * 3 + ["breaker_open"] * 2
    assert {(answer.action, answer.probability, answer.confidence) for answer in answers} == {(2, 1.0, None)}
    assert len(calls) == 3
    clock.now += 5.1
    assert client.act([0.0, 0.0]).fallback == "error"  # one attempt
    assert client.act([0.0, 0.0]).fallback == "breaker_open"
    clock.now += 5.1
    policy.does, policy.probabilities = (lambda: None), [0.125, 0.75, 0.125]
    assert [client.act([0.0, 0.0]).fallback for _ in range(2)] == [None, None]
    assert json.loads(log.lines[0])["fallback"] == "error"


def test_observations_that_cannot_be_used_fall_back_alone(save: Callable[..., Any]) -> None:
    policy = Scripted()
    low, high = np.array([-1, -1], np.float32), np.array([1, 1], np.float32)
    made, _ = service(Artifact(policy, "v1", low, high))
    client = InProcessClient(made)
    answer = client.act_batch([[0, 0], [None, 0], [0, 1e300], [0, 2], [-1.5, 0]], deterministic=False)
    assert answer.fallback == [None, "non_finite", "non_finite", "out_of_range", "out_of_range"]
    assert answer.probability == pytest.approx([0.75, 1 / 3, 1 / 3, 1 / 3, 1 / 3])
    one = client.act([None, 0.0], mask=[False, True, True])
    assert (one.fallback, one.probability) == ("non_finite", 0.5)
    assert one.action in (1, 2)


def test_a_request_that_waited_past_its_deadline_gets_the_fallback() -> None:
    made, _, _, clock = scripted(deadline_s=0.05)
    request = wire.read_action(b'{"observation": [0, 0]}')
    assert made.act("rl_policy", request, clock.now - 0.04).fallback is None
    assert made.act("rl_policy", request, clock.now - 0.06).fallback == "timeout"
    patient = wire.read_action(b'{"observation": [0, 0], "deadline_ms": 70}')
    assert made.act("rl_policy", patient, clock.now - 0.06).fallback is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"observation": ' + b"[" * 100_000, 400),
        (b'{"observation": [0, 0], "mask": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"observation": [NaN, 0]}', 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"observation": 3}', 422),
        (b'{"observation": []}', 422),
        (b'{"observation": [[]]}', 422),
        (b'{"observation": [1, 2, 3]}', 422),
        (b'{"observation": [[1, 2], [3]]}', 422),
        (b'{"observation": [[[1, 2]]]}', 422),
        (b'{"observation": ["1", "2"]}', 422),
        (b'{"observation": [true, false]}', 422),
        (b'{"observation": [1, 1e999]}', 422),
        (b'{"observation": {"0": 1}}', 422),
        (b'{"observation": [0, 0], "mask": [true]}', 422),
        (b'{"observation": [0, 0], "mask": [1, 1, 1]}', 422),
        (b'{"observation": [0, 0], "mask": [false, false, false]}', 422),
        (b'{"observation": [[0, 0]], "mask": [[true, true, true], [true, true, true]]}', 422),
        (b'{"observation": [0, 0], "deterministic": 1}', 422),
        (b'{"observation": [0, 0], "determinstic": false}', 422),
        (b'{"observation": [0, 0], "session": "a\\nb"}', 422),
        (b'{"observation": [0, 0], "session": ""}', 422),
        (b'{"observation": [0, 0], "deadline_ms": 0}', 422),
        (b'{"observation": [0, 0], "version": "v9"}', 404),
    ],
)
def test_what_does_not_fit_is_refused_with_a_mend(body: bytes, status: int) -> None:
    made, log, _, _ = scripted()
    with pytest.raises(Refused) as caught:
        made.act("rl_policy", wire.read_action(body))
    assert caught.value.status == status
    assert caught.value.mend
    assert log.lines == []


def test_versions_switch_roll_back_and_unload() -> None:
    made, _, _, _ = scripted()
    shelf, client = made.shelf, InProcessClient(made)
    for version in ("v2", "v3"):
        shelf.add(shelf.warm("rl_policy", Artifact(Scripted(), version, None, None)))
    with pytest.raises(Refused, match="one default only"):
        shelf.rollback("rl_policy")
    assert client.act([0, 0]).version == "v1"
    assert client.act([0, 0], version="v3").version == "v3"
    shelf.set_default("rl_policy", "v2")
    shelf.set_default("rl_policy", "v3")
    shelf.set_default("rl_policy", "v3")  # no change, nothing to go back from
    assert client.act([0, 0]).version == "v3"
    assert shelf.rollback("rl_policy") == "v2"
    with pytest.raises(Refused, match="is the default"):
        shelf.unload("rl_policy", "v2")
    shelf.set_default("rl_policy", "v3")
    shelf.unload("rl_policy", "v2")
    assert shelf.rollback("rl_policy") == "v1"
    with pytest.raises(Refused) as caught:
        client.act([0, 0], version="v2")
    assert caught.value.status == 404


def test_settings_that_mean_nothing_are_refused() -> None:
    for settings in ({"fallback": "left"}, {"deadline_s": 0.0}, {"max_rows": 0}):
        with pytest.raises(ConfigError):
            ServiceConfig(**settings)


@pytest.mark.parametrize("words", ["3", "9", "-1", "1.5"])
def test_a_fallback_that_is_none_of_the_policys_actions_is_refused(words: str) -> None:
    scripted(fallback="2")
    with pytest.raises(ConfigError, match="0 to 2"):
        scripted(fallback=words)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_at_loading(value: float, tmp_path: Path) -> None:
    artifact = PolicyArtifact.from_policy(make("logits"), algorithm="ppo", env_id="CartPole-v1")
    artifact.weights["layers.2.bias"][0] = value
    artifact.save(tmp_path / "diverged")
    with pytest.raises(ArtifactError, match="not finite"):
        read_artifact(tmp_path / "diverged")


def test_a_policy_whose_first_answers_are_no_numbers_is_not_let_in_and_the_default_stays() -> None:
    made, _, _, _ = scripted()
    bad = Scripted()
    bad.probabilities = [float("nan")] * 3
    with pytest.raises(ArtifactError, match="v2"):
        made.shelf.warm("rl_policy", Artifact(bad, "v2", None, None))
    assert InProcessClient(made).act([0.0, 0.0]).version == "v1"


def test_how_many_rows_are_asked_on_the_spot_is_measured() -> None:
    clock, policy = Clock(), Scripted()
    shelf = Shelf(ShelfConfig(), clock=clock, wall=clock)

    class Timed(Scripted):
        def decide(self, obs: Floats, **more: Any) -> Decided:
            clock.now += 1.6e-4 + 1e-5 * len(obs)
            return policy.decide(obs, **more)

    loaded = shelf.warm("timed", Artifact(Timed(), "v1", None, None))
    assert 79 <= loaded.inline_rows <= 81, "64 of them take 0.8 ms, and 1 ms is what the spot allows"
    assert shelf.warm("quick", Artifact(policy, "v1", None, None)).inline_rows > 1_000_000


@pytest.mark.parametrize(("deadline_ms", "counted"), [("", 3), (', "deadline_ms": 10', 0)])
def test_an_answer_that_came_too_late_is_replaced(deadline_ms: str, counted: int) -> None:
    made, _, policy, clock = scripted(deadline_s=0.05, fallback="2")

    def dawdle() -> None:
        clock.now += 0.06

    policy.does = dawdle
    body = b'{"observation": [0, 0]%b}' % deadline_ms.encode()
    found = [made.act("rl_policy", wire.read_action(body)) for _ in range(4)]
    assert [(answer.action, answer.fallback) for answer in found[:3]] == [(2, "timeout")] * 3
    # Three in a row are the policy's fault only where the service itself had no patience left.
    assert found[3].fallback == ("breaker_open" if counted else "timeout")


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        read_artifact(tmp_path)
