"""Who is answered by which version, in process: the default, the trial's canary, and what survives a restart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.errors import ArtifactError, ConfigError
from rlcourse.release.assignment import in_canary
from rlcourse.release.routing import Routing
from rlcourse.serving.client import InProcessClient
from rlcourse.serving.continuous import ActionBounds, SavedContinuousPolicy
from rlcourse.serving.http import management
from rlcourse.serving.policies import Artifact, Decided, Floats, read_artifact
from rlcourse.serving.refusals import Refused
from rlcourse.serving.service import PolicyService
from tests.deployment.policies import policy_of
from tests.serving.test_assembly import asked, assembled
from tests.serving.test_service import Scripted, service

SESSIONS = [f"room-{n}" for n in range(300)]
MANAGED = "/v1/policies/rl_policy"


class Wider(Scripted):
    """Wants a third number."""

    obs_size = 3


def pair(other: Scripted | None = None) -> tuple[PolicyService, list[bytes], Scripted]:
    """v1, the default, and v2, surer of another action."""
    second = other or Scripted()
    if other is None:
        second.probabilities = [0.25, 0.5, 0.25]
    made, log = service(Artifact(Scripted(), "v1", None, None), Artifact(second, "v2", None, None))
    return made, log.lines, second


def versions(made: PolicyService, sessions: list[str] = SESSIONS) -> dict[str, str | None]:
    client = InProcessClient(made)
    return {name: client.act([0.0, 0.0], session=name).version for name in sessions}


NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(NAMES, min_size=1, max_size=8, unique=True), st.text(max_size=10), st.floats(0, 0.99), st.floats(0, 0.99)
)
def test_the_service_draws_the_canary_that_the_release_draws(
    sessions: list[str], salt: str, one: float, other: float
) -> None:
    made, _, _ = pair()
    small, large = sorted((one, other))
    found = []
    for share in (small, small, large):
        made.shelf.route("rl_policy", Routing("v1", "v2", share, salt))
        answers = versions(made, sessions)
        assert answers == {name: "v2" if in_canary(name, salt, share) else "v1" for name in sessions}
        found.append({name for name, version in answers.items() if version == "v2"})
    assert found[0] == found[1] <= found[2]


def test_who_names_no_session_gets_the_default_and_who_names_a_version_that_one() -> None:
    made, _, _ = pair()
    made.shelf.route("rl_policy", Routing("v1", "v2", 0.99, "r7"))
    client = InProcessClient(made)
    assert {client.act([0.0, 0.0]).version for _ in range(50)} == {"v1"}
    assert client.act([0.0, 0.0], session="room-1").version == "v2"
    assert client.act([0.0, 0.0], session="room-1", version="v1").version == "v1"
    assert client.act_batch([[0.0, 0.0]] * 3, session="room-1").version == "v2"


def test_log_propensity_counts_and_breaker_are_those_of_the_version_that_answered() -> None:
    made, lines, second = pair()
    made.shelf.route("rl_policy", Routing("v1", "v2", 0.5, "r7"))
    client, (first, other) = InProcessClient(made), made.shelf.entries["rl_policy"].versions.values()
    answers = [client.act([0.0, 0.0], session=name, deterministic=False) for name in SESSIONS]
    assert {(one.version, one.probability) for one in answers} == {("v1", 0.75), ("v2", 0.5)}
    logged = [msgspec.json.decode(line) for line in lines]
    assert [(one["version"], one["propensity"]) for one in logged] == [(o.version, o.probability) for o in answers]
    canary = sum(one.version == "v2" for one in answers)
    assert (first.counts, other.counts) == ({"": len(SESSIONS) - canary}, {"": canary})

    def breaks() -> None:
        raise RuntimeError

    second.does = breaks
    answers = [client.act([0.0, 0.0], session=name) for name in SESSIONS]
    assert {(one.version, one.fallback is None) for one in answers} == {("v1", True), ("v2", False)}
    assert (first.breaker.closed, other.breaker.closed) == (True, False)


def test_a_default_that_was_on_trial_ends_the_trial_and_the_way_back_keeps_others() -> None:
    made, _, _ = pair()
    shelf = made.shelf
    shelf.add(shelf.warm("rl_policy", Artifact(Scripted(), "v3", None, None)))
    entry = shelf.entries["rl_policy"]
    shelf.route("rl_policy", Routing("v1", "v2", 0.5, "r7", shadow="v3"))
    shelf.set_default("rl_policy", "v2")
    assert entry.split.routing == Routing("v2", shadow="v3")
    shelf.set_default("rl_policy", "v3")
    assert entry.split.routing == Routing("v3")
    shelf.route("rl_policy", Routing("v3", "v1", 0.5, "r7"))
    assert shelf.rollback("rl_policy") == "v2"
    assert entry.split.routing == Routing("v2", "v1", 0.5, "r7")
    assert shelf.rollback("rl_policy") == "v1"
    assert entry.split.routing == Routing("v1")
    with pytest.raises(Refused, match="one default only"):
        shelf.rollback("rl_policy")


def test_what_is_asked_is_not_unloaded_under_its_sessions() -> None:
    made, _, _ = pair()
    for routing, part in ((Routing("v1", "v2", 0.0), "trial"), (Routing("v1", shadow="v2"), "shadow")):
        made.shelf.route("rl_policy", routing)
        with pytest.raises(Refused, match=f"v2 is the {part}") as refused:
            made.shelf.unload("rl_policy", "v2")
        assert (refused.value.status, f"DELETE /v1/policies/rl_policy/{part}" in str(refused.value)) == (409, True)
    made.shelf.route("rl_policy", Routing("v1"))
    made.shelf.unload("rl_policy", "v2")
    assert not made.shelf.shadowed


def test_what_makes_no_sense_is_refused_and_changes_nothing() -> None:
    made, _, _ = pair()
    shelf = made.shelf
    shelf.add(shelf.warm("rl_policy", Artifact(Wider(), "wide", None, None)))
    now = Routing("v1", "v2", 0.25, "r7")
    shelf.route("rl_policy", now)
    for wrong, status in (
        (Routing("v9"), 404),
        (Routing("v2", "v9", 0.5), 404),
        (Routing("v2", shadow="v9"), 404),
        (Routing("v1", "wide", 0.5), 409),  # its sessions would be refused
        (Routing("v1", shadow="wide"), 409),
    ):
        with pytest.raises(Refused) as refused:
            shelf.route("rl_policy", wrong)
        assert refused.value.status == status
        assert shelf.entries["rl_policy"].split.routing == now
        assert shelf.entries["rl_policy"].history == []
    with pytest.raises(ConfigError):
        Routing("v1", shadow="v1")
    shelf.route("rl_policy", Routing("v1", "wide", 0.0))  # it only stands by


class Remembers(Scripted):
    """Keeps a number."""

    memory_size = 1

    def first_memory(self, batch_size: int) -> Floats:
        return np.zeros((batch_size, 1), np.float32)

    def decide(self, obs: Floats, *, memory: Floats | None, **more: Any) -> Decided:
        return super().decide(obs, memory=memory, **more)._replace(memory=memory)


def bounded(version: str, low: float, high: float) -> Artifact:
    policy = policy_of("gaussian", 0)
    artifact = PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="Task-v0")
    weights = {name: value.numpy() for name, value in artifact.weights.items()}
    read = SavedContinuousPolicy(NumpyPolicy(artifact.description, weights, version))
    read.bounds = ActionBounds([low] * 2, [high] * 2)
    return Artifact(read, version, None, None, read.bounds)


@pytest.mark.parametrize(
    ("default", "other", "says"),
    [
        (Artifact(Scripted(), "v1", None, None), Artifact(Remembers(), "v2", None, None), "v2 .* remembers sessions"),
        (bounded("v1", -1.0, 1.0), bounded("v2", -2.0, 1.0), "other bounds than v1"),
        (bounded("v1", -1.0, 1.0), bounded("v2", -1.0, 2.0), "other bounds than v1"),
    ],
)
def test_who_expects_the_default_is_not_answered_by_another_kind(default: Artifact, other: Artifact, says: str) -> None:
    made, _ = service(default, other)
    with pytest.raises(Refused, match=rf"{says}.*Let clients name it") as refused:
        made.shelf.route("rl_policy", Routing("v1", "v2", 0.5))
    assert refused.value.status == 409
    for fine in (Routing("v1", "v2", 0.0), Routing("v1", shadow="v2"), Routing("v2")):
        made.shelf.route("rl_policy", fine)


def test_a_canary_that_answers_whatever_the_default_does_is_let_in() -> None:
    for default, other in (
        (Artifact(Remembers(), "v1", None, None), Artifact(Remembers(), "v2", None, None)),
        (Artifact(Remembers(), "v1", None, None), Artifact(Scripted(), "v2", None, None)),
        (bounded("v1", -1.0, 1.0), bounded("v2", -1.0, 1.0)),
    ):
        made, _ = service(default, other)
        made.shelf.route("rl_policy", Routing("v1", "v2", 0.5))


def app_of(assembly: Any) -> Any:
    return management(assembly.service, read=read_artifact, changed=assembly.note_shelf)


def routed(folder: Path, *folders: Path) -> Any:
    """A process that begins, or begins again."""
    assembly = assembled(folder)
    for number, one in enumerate(folders, 1):
        assembly.load("rl_policy", one, version=f"v{number}")
    assembly.restore()
    return assembly


def test_management_says_and_shows_who_answers_whom_and_a_restart_keeps_it(
    save: Callable[..., Any], tmp_path: Path
) -> None:
    folders = [save("logits", seed)[0] for seed in range(3)]
    state = tmp_path / "state"
    first = routed(state, *folders)
    trial = {"version": "v2", "share": 0.25, "salt": "r7"}
    everything: dict[str, Any] = {"live": "v2", "trial": "v1", "share": 0.5, "salt": "r8", "shadow": "v3"}
    steps: list[tuple[tuple[str, str, object], int, Routing]] = [
        (("PUT", "/trial", trial), 200, Routing("v1", "v2", 0.25, "r7")),
        (("PUT", "/shadow", {"version": "v3"}), 200, Routing("v1", "v2", 0.25, "r7", "v3")),
        (("PUT", "/trial", {**trial, "share": 1.0}), 422, Routing("v1", "v2", 0.25, "r7", "v3")),
        (("PUT", "/trial", {**trial, "version": "v1"}), 422, Routing("v1", "v2", 0.25, "r7", "v3")),
        (("PUT", "/trial", {**trial, "version": "v9"}), 404, Routing("v1", "v2", 0.25, "r7", "v3")),
        (("PUT", "/shadow", {"version": "v1"}), 422, Routing("v1", "v2", 0.25, "r7", "v3")),
        (("DELETE", "/versions/v3", None), 409, Routing("v1", "v2", 0.25, "r7", "v3")),
        (("DELETE", "/shadow", None), 200, Routing("v1", "v2", 0.25, "r7")),
        (("DELETE", "/trial", None), 200, Routing("v1")),
        (("DELETE", "/trial", None), 200, Routing("v1")),
        (("PUT", "/routing", {"live": "v2", "share": 0.5}), 422, Routing("v1")),
        (("PUT", "/routing", {**everything, "shadow": "v9"}), 404, Routing("v1")),
        (("PUT", "/routing", everything), 200, Routing(**everything)),
        (("PUT", "/default", {"version": "v3"}), 200, Routing("v3", "v1", 0.5, "r8")),
        (("POST", "/rollback", None), 200, Routing("v2", "v1", 0.5, "r8")),
    ]
    for (method, path, body), status, routing in steps:
        (said,) = asked(app_of(first), (method, MANAGED + path, body))
        assert said.status_code == status, said.text
        assert ("mend" in said.json()) == (status >= 400)
        (shown,) = asked(first.application, ("GET", MANAGED, None))
        found = shown.json()
        on_trial = found["trial"] or {"version": None, "share": 0.0, "salt": ""}
        assert (
            Routing(found["default"], on_trial["version"], on_trial["share"], on_trial["salt"], found["shadow"])
            == routing
        )
        assert json.loads((state / "shelf.json").read_text())["rl_policy"]["routing"] == routing.to_json()
        again = routed(state, folders[0])  # the first one has not ended: it was killed
        assert again.shelf.entries["rl_policy"].split.routing == routing
        again.close()
    sessions = [{"observation": [0.0] * 4, "session": name} for name in SESSIONS[:60]]
    ask = [("POST", f"{MANAGED}/action", body) for body in sessions]
    again = routed(state, folders[0])
    before, after = ([said.json()["version"] for said in asked(one.application, *ask)] for one in (first, again))
    assert before == after == ["v1" if in_canary(name, "r8", 0.5) else "v2" for name in SESSIONS[:60]]
    assert set(before) == {"v1", "v2"}
    first.close()
    again.close()


def test_a_trial_whose_folder_is_gone_ends_and_a_damaged_state_says_so(
    save: Callable[..., Any], tmp_path: Path
) -> None:
    folders, state = [save("logits", seed)[0] for seed in range(2)], tmp_path / "state"
    first = routed(state, folders[0])
    versions_ = {"path": str(folders[1]), "version": "v2"}
    routing = {"live": "v1", "trial": "v2", "share": 0.5, "salt": "r7"}
    asked(app_of(first), ("POST", f"{MANAGED}/versions", versions_), ("PUT", f"{MANAGED}/routing", routing))
    first.close()
    known = json.loads((state / "shelf.json").read_text())
    shutil.rmtree(folders[1])
    again = routed(state, folders[0])
    assert again.shelf.entries["rl_policy"].split.routing == Routing("v1")
    again.close()
    for damage in ({**routing, "share": "much"}, {**routing, "share": 2}, {**routing, "trial": "v1"}, {}, 7):
        known["rl_policy"]["routing"] = damage
        (state / "shelf.json").write_text(json.dumps(known))
        broken = assembled(state)
        broken.load("rl_policy", folders[0], version="v1")
        with pytest.raises(ArtifactError, match="which versions were live"):
            broken.restore()
        broken.close()
    del known["rl_policy"]["routing"]
    known["rl_policy"]["default"] = "v1"  # as it was written before there were trials
    (state / "shelf.json").write_text(json.dumps(known))
    old = routed(state, folders[0])
    assert old.shelf.entries["rl_policy"].split.routing == Routing("v1")
    old.close()


def test_a_trial_that_no_longer_fits_does_not_keep_the_default_from_answering(
    save: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders, state = [save("logits")[0], save("recurrent")[0]], tmp_path / "state"
    first = routed(state, *folders)
    first.close()
    known = json.loads((state / "shelf.json").read_text())
    known["rl_policy"]["routing"] = Routing("v1", "v2", 0.5, "r7").to_json()  # as an earlier release let it in
    (state / "shelf.json").write_text(json.dumps(known))
    again = routed(state, *folders)
    assert again.shelf.entries["rl_policy"].split.routing == Routing("v1")
    assert "v1 alone answers: v2 of rl_policy remembers sessions" in caplog.text
    again.close()


def test_a_service_without_a_state_folder_says_once_that_it_will_forget(
    save: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    assembly = assembled()
    for seed in (1, 2):
        assembly.load("rl_policy", save("logits", seed)[0], version=f"v{seed}")
    assembly.restore()
    assert caplog.text == ""
    for share in (0.1, 0.2):
        asked(app_of(assembly), ("PUT", f"{MANAGED}/trial", {"version": "v2", "share": share}))
    assert caplog.text.count("Start with --state FOLDER") == 1


@pytest.mark.parametrize("part", [{"trial": "v2", "share": 0.5}, {"shadow": "v2"}])
def test_a_version_that_cannot_be_the_default_is_not_left_behind(
    part: dict[str, Any], save: Callable[..., Any], tmp_path: Path
) -> None:
    assembly = routed(tmp_path / "state", *(save("logits", seed)[0] for seed in range(2)))
    app = app_of(assembly)
    asked(app, ("PUT", f"{MANAGED}/routing", {"live": "v1", **part}))
    (before,), noted = asked(app, ("GET", "/v1/policies", None)), (tmp_path / "state" / "shelf.json").read_text()
    wanted = {"path": str(save("gaussian")[0]), "version": "v3"}
    refused, after = asked(
        app, ("POST", f"{MANAGED}/versions", {**wanted, "default": True}), ("GET", "/v1/policies", None)
    )
    assert (refused.status_code, after.json()) == (409, before.json())
    assert "End its trial" in refused.json()["mend"]
    assert (tmp_path / "state" / "shelf.json").read_text() == noted
    assert assembly.shelf.slow == set()
    done, ended, switched = asked(
        app,
        ("POST", f"{MANAGED}/versions", wanted),
        ("PUT", f"{MANAGED}/routing", {"live": "v1"}),
        ("PUT", f"{MANAGED}/default", {"version": "v3"}),
    )
    assert (done.status_code, ended.status_code, switched.json()["default"]) == (201, 200, "v3")
    assembly.close()


def test_the_share_is_in_the_metrics(save: Callable[..., Any]) -> None:
    assembly = assembled()
    for number in (1, 2, 3):
        assembly.load("rl_policy", save("logits", number)[0], version=f"v{number}")
    assembly.shelf.route("rl_policy", Routing("v1", "v2", 0.25, "r7"))
    (metrics,) = asked(assembly.application, ("GET", "/metrics", None))
    shares = {"v1": 0.75, "v2": 0.25, "v3": 0.0}
    assert {
        f'rl_traffic_share{{policy="rl_policy",version="{version}"}} {share}' for version, share in shares.items()
    } <= set(metrics.text.splitlines())
