"""A shadow is asked what the default was asked: it changes no answer, and its own answers are in the log."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.release.routing import Routing
from rlcourse.release.shadow import judge_shadow, shadow_report
from rlcourse.serving import wire
from rlcourse.serving.client import InProcessClient
from rlcourse.serving.decision_log import read_all_lines, read_lines
from rlcourse.serving.following import LogFollower
from rlcourse.serving.mirrored import mirrored, report_of
from rlcourse.serving.policies import Artifact, read_artifact
from rlcourse.serving.prepared import Prepared
from rlcourse.serving.service import NullWatcher, PolicyService
from rlcourse.serving.shadows import Shadows
from tests.serving.test_assembly import ACT, asked, assembled
from tests.serving.test_service import OBS, Scripted, service

ROWS = OBS.tolist()


def shadow_lines(lines: list[bytes]) -> list[wire.ShadowLine]:
    found = [wire.read_any_line(line) for line in lines]
    return [line for line in found if isinstance(line, wire.ShadowLine)]


def with_shadow(*artifacts: Artifact, shadow: str = "v2") -> tuple[PolicyService, list[bytes]]:
    made, log = service(*artifacts)
    made.shelf.route("rl_policy", Routing(artifacts[0].version, shadow=shadow))
    return made, log.lines


def scripted(*probabilities: float) -> Scripted:
    policy = Scripted()
    policy.probabilities = list(probabilities) or policy.probabilities
    return policy


def test_no_answer_changes_and_the_log_has_both(save: Callable[..., Any]) -> None:
    artifacts = [read_artifact(save("logits", seed)[0])._replace(version=f"v{seed}") for seed in (1, 2)]
    policies = [save("logits", seed)[1] for seed in (1, 2)]
    alone, _ = service(*artifacts)
    made, lines = with_shadow(*artifacts)
    clients, answers = [InProcessClient(one) for one in (alone, made)], []
    for row in ROWS:
        pair = [client.act(row, deterministic=False) for client in clients]
        assert pair[0] == pair[1]  # the same draw, too
        answers.append(pair[1])
    batch = clients[1].act_batch(ROWS)
    assert batch.version == "v1"
    made.shadows.close()
    found = shadow_lines(lines)
    assert [line.request_id for line in found] == [one.request_id for one in (*answers, batch)]
    chances = policies[1].probabilities(OBS)
    for row, (line, answer) in enumerate(zip(found, answers, strict=False)):
        assert (line.policy, line.version) == ("rl_policy", "v2")
        assert line.probability == pytest.approx(float(chances[row, answer.action]), abs=1e-5)
    likeliest = policies[1].act(OBS, greedy=True).tolist()
    assert found[-1].action == likeliest
    assert found[-1].probability == [float(a == b) for a, b in zip(likeliest, batch.action, strict=True)]
    drawn = np.array([line.action for line in found[:-1]])
    assert (drawn != np.array(likeliest)).any()  # asked as the default was: to draw
    (first, second) = made.shelf.entries["rl_policy"].versions.values()
    assert (first.counts, second.counts) == ({"": 2 * len(ROWS)}, {})  # who answered was v1


def test_only_what_the_default_itself_decided_is_mirrored() -> None:
    default = scripted()
    made, lines = with_shadow(
        *(Artifact(policy, f"v{n}", None, None) for n, policy in enumerate((default, scripted()), 1))
    )
    client = InProcessClient(made)
    client.act([0.0, 0.0], request_id="mirrored")
    client.act([0.0, 0.0], version="v2")
    client.act([None, 0.0])

    def breaks() -> None:
        raise RuntimeError

    default.does = breaks
    client.act([0.0, 0.0])
    default.does = lambda: None
    made.shelf.route("rl_policy", Routing("v1", "v2", 0.999999, "r7", shadow="v2"))
    assert client.act([0.0, 0.0], session="s").version == "v2"
    made.shelf.route("rl_policy", Routing("v1"))
    client.act([0.0, 0.0])
    made.shadows.close()
    assert [line.request_id for line in shadow_lines(lines)] == ["mirrored"]


@pytest.mark.parametrize("broken", ["raises", "nan"])
def test_a_shadow_that_breaks_is_written_down_and_harms_nobody(broken: str) -> None:
    bad = scripted()

    def breaks() -> None:
        raise MemoryError

    made, lines = with_shadow(Artifact(scripted(), "v1", None, None), Artifact(bad, "v2", None, None))
    if broken == "nan":
        bad.probabilities = [float("nan")] * 3
    else:
        bad.does = breaks
    client = InProcessClient(made)
    answers = [client.act([0.0, 0.0]) for _ in range(50)]
    assert {(one.version, one.fallback) for one in answers} == {("v1", None)}
    made.shadows.close()
    found = shadow_lines(lines)
    assert [(line.action, line.probability) for line in found] == [(None, None)] * 50
    (first, second) = made.shelf.entries["rl_policy"].versions.values()
    assert first.breaker.closed
    assert second.breaker.closed  # who asks it by name does not feel the shadow
    report = shadow_report(mirrored([wire.read_any_line(line) for line in lines], "v2"))
    assert (report.requests, report.failed) == (50, 50)
    assert judge_shadow(report, requests=50, agreement=0.0).answer == "roll_back"


def test_a_shadow_that_hangs_fills_its_queue_and_no_more() -> None:
    go_on, asked_ = threading.Event(), threading.Event()
    slow = scripted()

    def hangs() -> None:
        asked_.set()
        assert go_on.wait(60.0)

    made, lines = with_shadow(Artifact(scripted(), "v1", None, None), Artifact(scripted(), "v2", None, None))
    loaded = made.shelf.entries["rl_policy"].split.shadow
    assert loaded is not None
    loaded.policy = slow
    slow.does = hangs
    client, most = InProcessClient(made), made.shadows._max_rows
    client.act([0.0, 0.0])
    assert asked_.wait(60.0)
    answers = [client.act([0.0, 0.0]) for _ in range(most + 7)]
    assert {one.version for one in answers} == {"v1"}
    assert made.shadows.dropped == 8  # the one that hangs takes room, too
    assert shadow_lines(lines) == []
    go_on.set()
    made.shadows.close()


@pytest.mark.parametrize(
    ("bounds", "fit"),
    [
        ({"_max_rows": 10_000}, 2),  # 4,000 each
        ({"_max_bytes": 4_000 * (2 * 4 + 8)}, 1),  # two numbers of 4 bytes and an action
        ({"_max_bytes": 4_000 * (2 * 4 + 8) - 1}, 0),
    ],
)
def test_batches_for_a_slow_shadow_fill_its_queue_by_their_rows_and_bytes(
    bounds: dict[str, int], fit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, lines = with_shadow(Artifact(scripted(), "v1", None, None), Artifact(scripted(), "v2", None, None))
    with monkeypatch.context() as stuck:
        stuck.setattr(made.shadows, "_thread", threading.current_thread())  # one that does not work
        for name, bound in bounds.items():
            stuck.setattr(made.shadows, name, bound)
        for _ in range(5):
            assert InProcessClient(made).act_batch([[0.0, 0.0]] * 4_000).version == "v1"
        assert (len(made.shadows._queue), made.shadows.dropped) == (fit, 5 - fit)
        assert made.shadows.waiting == (fit * 4_000, fit * 4_000 * 16)
        made.shadows._drain()
    assert made.shadows.waiting == (0, 0)
    assert [np.size(np.asarray(line.action)) for line in shadow_lines(lines)] == [4_000] * fit


def test_a_copy_that_waits_holds_nothing_of_the_request_but_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = with_shadow(Artifact(scripted(), "v1", None, None), Artifact(scripted(), "v2", None, None))
    monkeypatch.setattr(made.shadows, "_thread", threading.current_thread())

    def held() -> int:
        gc.collect()
        return sum(type(one) in (Prepared, wire.ActionRequest) for one in gc.get_objects())

    before = held()
    InProcessClient(made).act_batch([[0.0, 0.0]] * 10, session="s", mask=[True, True, False])
    assert len(made.shadows._queue) == 1
    assert held() == before


def test_a_recurrent_shadow_has_memories_of_its_own(save: Callable[..., Any]) -> None:
    folder, policy = save("recurrent", 3)
    shadow = read_artifact(folder)._replace(version="v2")
    default = read_artifact(save("recurrent", 4)[0])._replace(version="v1")
    made, lines = with_shadow(default, shadow)
    client, wanted = InProcessClient(made), []
    for _ in range(2):
        memory = policy.first_memory(1)
        for step, row in enumerate(OBS[:20]):
            _, memory = policy.act_remembering(row[None], memory, greedy=True)
            answer = client.act(row.tolist(), session="s", deterministic=False)
            wanted.append(float(policy.network.actor(memory).softmax(-1)[0, answer.action].detach()))
            client.act(OBS[50 + step].tolist(), session="t")  # another's memory is another's
            client.act(OBS[90 + step].tolist(), session="s", version="v2")  # nor is it that of who asks it by name
            # The end of the first episode is heard of long before the shadow has been asked about it.
            client.reward(answer.request_id, 0.0, terminated=step == 19, session="s")
    made.shadows.close()
    decided = {line.request_id: line for line in map(wire.read_any_line, lines) if isinstance(line, wire.DecisionLine)}
    of_s = [line.probability for line in shadow_lines(lines) if decided[line.request_id].session == "s"]
    assert of_s == pytest.approx(wanted, abs=1e-4)
    assert len({round(one, 3) for one in wanted}) > 20, "memory made no difference"


def test_a_batch_in_a_session_does_not_end_the_mirroring(save: Callable[..., Any]) -> None:
    default = read_artifact(save()[0])._replace(version="v1")
    shadow = read_artifact(save("recurrent", 3)[0])._replace(version="v2")
    made, lines = with_shadow(default, shadow)
    made.act("rl_policy", wire.read_action(json.dumps({"observation": OBS[:3].tolist(), "session": "s"}).encode()))
    InProcessClient(made).act(OBS[0].tolist(), session="s")
    made.shadows.close()
    assert [isinstance(line.action, list) for line in shadow_lines(lines)] == [True, False]
    assert all(line.action is not None for line in shadow_lines(lines))


def test_whatever_goes_wrong_with_one_copy_the_next_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made, lines = with_shadow(Artifact(scripted(), "v1", None, None), Artifact(scripted(), "v2", None, None))
    whole, calls = made.shadows._decided, iter([True, False])

    def fails_once(*what: Any) -> Any:
        if next(calls):
            raise ValueError("nobody thought of this")
        return whole(*what)

    monkeypatch.setattr(made.shadows, "_decided", fails_once)
    for _ in range(2):
        InProcessClient(made).act([0.0, 0.0])
    made.shadows.close()
    assert [line.action is None for line in shadow_lines(lines)] == [True, False]


def test_what_is_to_be_forgotten_waits_in_the_same_bound(
    save: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = read_artifact(save("recurrent", 3)[0])._replace(version="v2")
    made, _ = with_shadow(read_artifact(save("recurrent", 4)[0])._replace(version="v1"), shadow)
    loaded = made.shelf.entries["rl_policy"].split.shadow
    assert loaded is not None
    made.shadows.forget(loaded, "s")
    assert not made.shadows._queue, "nothing was asked yet"
    monkeypatch.setattr(made.shadows, "_thread", threading.current_thread())  # one that does not work
    most = made.shadows._max_rows
    for _ in range(most + 5):
        made.shadows.forget(loaded, "s")
    assert (len(made.shadows._queue), made.shadows.dropped) == (most, 5)


def test_a_log_that_cannot_be_written_does_not_end_the_mirroring(monkeypatch: pytest.MonkeyPatch) -> None:
    made, lines = with_shadow(Artifact(scripted(), "v1", None, None), Artifact(scripted(), "v2", None, None))
    whole, calls = made.shadows._watcher.shadowed, iter([True, False])

    def fails_once(*what: Any, **more: Any) -> None:
        if next(calls):
            raise OSError("no room")
        whole(*what, **more)

    monkeypatch.setattr(made.shadows, "_watcher", type("W", (), {"shadowed": staticmethod(fails_once)})())
    for _ in range(2):
        InProcessClient(made).act([0.0, 0.0])
    made.shadows.close()
    assert made.shadows.dropped == 1
    assert len(shadow_lines(lines)) == 2


def test_continuous_actions_are_logged_and_not_compared(save: Callable[..., Any]) -> None:
    artifacts = [read_artifact(save("gaussian", seed)[0])._replace(version=f"v{seed}") for seed in (1, 2)]
    made, log = service(*artifacts, fallback="0.5,1")
    made.shelf.route("rl_policy", Routing("v1", shadow="v2"))
    InProcessClient(made).act(ROWS[0])
    made.shadows.close()
    (line,) = shadow_lines(log.lines)
    wanted = save("gaussian", 2)[1].act(OBS[:1], greedy=True)[0]
    assert line.action == pytest.approx(wanted.tolist(), abs=1e-5)
    with pytest.raises(DatasetInvalidError, match="continuous"):
        mirrored([wire.read_any_line(one) for one in log.lines], "v2")


def test_the_report_of_a_log(save: Callable[..., Any], tmp_path: Path) -> None:
    """Worked by hand: v1 has done action 1 at 0.75; v2 would have done it at 0.5, so every weight is 2/3."""
    assembly = assembled(tmp_path)
    for n, policy in enumerate((scripted(), scripted(0.25, 0.5, 0.25)), 1):
        assembly.shelf.add(assembly.shelf.warm("rl_policy", Artifact(policy, f"v{n}", None, None)))
    assembly.shelf.route("rl_policy", Routing("v1", shadow="v2"))
    ask = {"observation": [0.0, 0.0], "deterministic": False}
    rewards = [
        {"request_id": "r0", "reward": 4.0},
        {"request_id": "r1", "reward": 1.0, "executed": {"action": 1}},
        {"request_id": "r2", "reward": 99.0, "executed": {"action": 0, "reason": "smoke"}},
        {"request_id": "batch", "row": 1, "reward": 10.0},
    ]
    responses = asked(
        assembly.application,
        *(("POST", ACT, {**ask, "request_id": f"r{n}"}) for n in range(4)),
        ("POST", ACT, {"observation": [[0.0, 0.0]] * 2, "request_id": "batch"}),
        ("POST", "/v1/rewards", rewards),
        ("GET", "/metrics", None),
    )
    assert [one.status_code for one in responses[:-1]] == [200] * 5 + [202]
    assembly.close()
    found = mirrored(read_all_lines(tmp_path / "decisions"), "v2")
    assert [(one.action, one.probability, one.shadow_action, one.shadow_probability) for one in found] == [
        *[(1, 0.75, 1, 0.5)] * 4,
        *[(1, 1.0, 1, 1.0)] * 2,  # deterministic both
    ]
    nan = math.nan
    assert [one.reward for one in found] == pytest.approx([4.0, 1.0, nan, nan, nan, 10.0], nan_ok=True)
    report = report_of(tmp_path / "decisions", "v2", promised_ms=1e6)
    assert (report.requests, report.failed, report.late, report.agreement, report.rewarded) == (6, 0, 0, 1.0, 3)
    assert report.logged_reward == pytest.approx(5.0)
    assert report.counterfactual_reward == pytest.approx((2 / 3 * 5.0 + 10.0) / (4 / 3 + 1.0))
    assert report.worth == pytest.approx((4 / 3 + 1.0) ** 2 / (8 / 9 + 1.0))
    assert report_of(tmp_path / "decisions", "v3").requests == 0
    # Whoever reads decisions reads none of these.
    assert {type(line) for line in read_lines(tmp_path / "decisions")} == {wire.DecisionLine, wire.RewardLine}
    piece = LogFollower(tmp_path / "decisions").next_piece()
    assert piece is not None
    assert (len(piece.lines), piece.unreadable) == (9, 0)


def test_what_a_shadow_did_is_in_the_metrics_apart(tmp_path: Path) -> None:
    assembly = assembled()
    for n in (1, 2):
        assembly.shelf.add(assembly.shelf.warm("rl_policy", Artifact(scripted(), f"v{n}", None, None)))
    assembly.shelf.route("rl_policy", Routing("v1", shadow="v2"))
    asked(assembly.application, *[("POST", ACT, {"observation": [0.0, 0.0]})] * 3)
    assembly.close()
    (metrics,) = asked(assembly.application, ("GET", "/metrics", None))
    lines = metrics.text.splitlines()
    assert {
        'rl_decisions_total{fallback="none",policy="rl_policy",version="v1"} 3.0',
        'rl_shadow_decisions_total{fallback="none",policy="rl_policy",version="v2"} 3.0',
        'rl_shadow_seconds_count{policy="rl_policy",version="v2"} 3.0',
        "rl_shadow_dropped_total 0.0",
    } <= set(lines)
    assert not [line for line in lines if line.startswith("rl_decisions_total") and "v2" in line]


@pytest.mark.parametrize("bound", ["max_rows", "max_bytes"])
def test_a_queue_of_nothing_is_refused(bound: str) -> None:
    made, log = service()
    nothing: dict[str, Any] = {bound: 0}
    with pytest.raises(ConfigError):
        Shadows(
            made.ask, made.rng, clock=time.monotonic, wall=time.time, recorder=log, watcher=NullWatcher(), **nothing
        )
