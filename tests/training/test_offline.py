from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcourse.algorithms.bc import BC, BCConfig
from rlcourse.environments import make
from rlcourse.errors import ArtifactError, ConfigError, StorageError, TrainingDivergedError, UnknownAlgorithmError
from rlcourse.experience.collection import collect
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.transitions import Transitions
from rlcourse.networks import UniformPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.checkpoints import load_checkpoint, save_checkpoint
from rlcourse.training.learners import FOR_COUNTED_ACTIONS, offline_learner
from rlcourse.training.offline import OfflineTrainingConfig, train_offline
from rlcourse.vocabulary import Batch, Learner, ListTracker, Metrics

CONFIG = OfflineTrainingConfig(updates=250, batch_size=32, eval_every=100, eval_episodes=4)
SEEDS = Seeds(3)


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    return collect(make("CartPole-v1", 8, seeds=SEEDS), UniformPolicy(2), 500, generator=SEEDS.torch("acting"))


@pytest.fixture(scope="module")
def transitions(episodes: Episodes) -> Transitions:
    return Transitions.from_episodes(episodes, gamma=CONFIG.gamma, n_step=CONFIG.n_step, num_actions=2)


def fresh(algorithm: str, transitions: Transitions) -> Learner:
    return offline_learner(algorithm, transitions.spec(), SEEDS)


def tensors(state: object) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [tensor for part in parts for tensor in tensors(part)]


def assert_same_weights(one: Learner, two: Learner) -> None:
    left, right = tensors(one.state_dict()), tensors(two.state_dict())
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b)


class Interrupting(ListTracker):
    """Ctrl-C at the second evaluation, before its checkpoint is written."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        super().log(metrics, step=step)
        if len(self.rows) == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("algorithm", FOR_COUNTED_ACTIONS)
def test_an_interrupted_run_goes_on_to_the_same_weights(
    transitions: Transitions, tmp_path: Path, algorithm: str
) -> None:
    whole = fresh(algorithm, transitions)
    expected = train_offline(whole, transitions, "CartPole-v1", CONFIG, seeds=SEEDS)

    checkpoint = tmp_path / "run.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train_offline(
            fresh(algorithm, transitions),
            transitions,
            "CartPole-v1",
            CONFIG,
            seeds=SEEDS,
            tracker=Interrupting(),
            checkpoint=checkpoint,
        )
    assert checkpoint.exists()
    resumed = offline_learner(algorithm, transitions.spec(), Seeds(99))  # its first weights do not matter
    tracker = ListTracker()
    found = train_offline(
        resumed, transitions, "CartPole-v1", CONFIG, seeds=SEEDS, tracker=tracker, checkpoint=checkpoint
    )
    assert_same_weights(resumed, whole)
    assert found.evaluations == expected.evaluations
    assert [row[0] for row in tracker.rows] == [200, 250], "the first hundred were not done again"
    assert not checkpoint.exists(), "a run that is complete leaves no checkpoint"


def test_the_seed_decides_everything(transitions: Transitions) -> None:
    one, two = fresh("cql", transitions), fresh("cql", transitions)
    torch.manual_seed(1)
    first = train_offline(one, transitions, "CartPole-v1", CONFIG, seeds=SEEDS)
    torch.manual_seed(2)
    second = train_offline(two, transitions, "CartPole-v1", CONFIG, seeds=SEEDS)
    assert_same_weights(one, two)
    assert first.evaluations == second.evaluations


def test_evaluating_more_often_changes_nothing_but_the_curve(transitions: Transitions) -> None:
    one, two = fresh("iql", transitions), fresh("iql", transitions)
    few = train_offline(one, transitions, "CartPole-v1", CONFIG, seeds=SEEDS)
    many = train_offline(two, transitions, "CartPole-v1", replace(CONFIG, eval_every=50), seeds=SEEDS)
    assert_same_weights(one, two)
    assert [e.update for e in few.evaluations] == [100, 200, 250]
    assert [e.update for e in many.evaluations] == [50, 100, 150, 200, 250]
    assert many.evaluations[1::2] == few.evaluations[:2]
    assert many.best == max(e.greedy_return for e in many.evaluations)
    assert many.last == few.last == few.evaluations[-1].greedy_return


def test_the_learning_rate_falls_to_zero(transitions: Transitions) -> None:
    learner = fresh("bc", transitions)
    fractions = []
    anneal = learner.anneal

    def listening(fraction: float) -> None:
        fractions.append(fraction)
        anneal(fraction)

    learner.anneal = listening  # type: ignore[method-assign]
    train_offline(learner, transitions, "CartPole-v1", CONFIG, seeds=SEEDS)
    assert fractions == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    fractions.clear()
    train_offline(learner, transitions, "CartPole-v1", replace(CONFIG, anneal=False), seeds=SEEDS)
    assert fractions == []


def test_the_learner_sees_scaled_rewards_and_nobody_else_does(transitions: Transitions) -> None:
    runs, rewards = {}, {}
    for scale in (1.0, 0.1):
        learner = fresh("bc", transitions)  # it reads no rewards, so nothing else may change
        seen: list[torch.Tensor] = []

        def listening(batch: Batch, update: Any = learner.update, seen: list[torch.Tensor] = seen) -> Metrics:
            seen.append(batch.reward)
            return update(batch)  # type: ignore[no-any-return]

        learner.update = listening  # type: ignore[method-assign]
        runs[scale] = train_offline(
            learner, transitions, "CartPole-v1", replace(CONFIG, reward_scale=scale), seeds=SEEDS
        )
        rewards[scale] = torch.cat(seen)
    # One point a step: 1 + 0.99 + 0.99**2 over three of them, a tenth of it where it is scaled.
    assert rewards[1.0].max().item() == pytest.approx(2.9701)
    assert rewards[0.1].max().item() == pytest.approx(0.29701)
    torch.testing.assert_close(rewards[0.1], 0.1 * rewards[1.0])
    assert runs[0.1].evaluations == runs[1.0].evaluations
    assert transitions.reward.max().item() == pytest.approx(2.9701)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_reward_scale_that_means_nothing_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="reward_scale"):
        OfflineTrainingConfig(reward_scale=scale)


def test_losses_that_are_not_finite_stop_the_run_at_the_next_look(episodes: Episodes) -> None:
    huge = replace(episodes, rewards=np.full_like(episodes.rewards, 1e30))
    transitions = Transitions.from_episodes(huge, gamma=0.99, num_actions=2)
    with pytest.raises(TrainingDivergedError, match=r"td_loss.* by update 100"):
        train_offline(fresh("cql", transitions), transitions, "CartPole-v1", CONFIG, seeds=SEEDS)


def interrupted(transitions: Transitions, checkpoint: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_offline(
            fresh("bc", transitions),
            transitions,
            "CartPole-v1",
            CONFIG,
            seeds=SEEDS,
            tracker=Interrupting(),
            checkpoint=checkpoint,
        )


@pytest.mark.parametrize("other", ["config", "seed", "learner", "algorithm", "env_id", "data"])
def test_a_checkpoint_of_another_run_is_refused(
    transitions: Transitions, episodes: Episodes, tmp_path: Path, other: str
) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    interrupted(transitions, checkpoint)
    learner = fresh("bc", transitions)
    if other == "learner":
        learner = BC(transitions.spec(), BCConfig(learning_rate=1e-2))
    elif other == "algorithm":
        learner = fresh("cql", transitions)
    if other == "data":
        transitions = Transitions.from_episodes(episodes, gamma=0.5, n_step=CONFIG.n_step, num_actions=2)
    with pytest.raises(ConfigError, match="another learner" if other == "algorithm" else f"another {other}"):
        train_offline(
            learner,
            transitions,
            "CartPole-v1" if other != "env_id" else "Acrobot-v1",
            CONFIG if other != "config" else replace(CONFIG, gamma=0.5),
            seeds=SEEDS if other != "seed" else Seeds(4),
            checkpoint=checkpoint,
        )
    assert checkpoint.exists(), "refusing must not lose the run"


@pytest.mark.parametrize("left", [0, 10, 500, -1])
def test_a_damaged_checkpoint_is_an_artifact_error(transitions: Transitions, tmp_path: Path, left: int) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    interrupted(transitions, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:left])
    with pytest.raises(ArtifactError) as caught:
        train_offline(fresh("bc", transitions), transitions, "CartPole-v1", CONFIG, seeds=SEEDS, checkpoint=checkpoint)
    assert "Remove it" in caught.value.mend


def test_a_flipped_byte_in_a_checkpoint_is_noticed(transitions: Transitions, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    interrupted(transitions, checkpoint)
    whole = checkpoint.read_bytes()
    for position in np.linspace(0, len(whole) - 1, 60).astype(int):
        changed = bytearray(whole)
        changed[position] ^= 1
        checkpoint.write_bytes(changed)
        with pytest.raises(ArtifactError):
            load_checkpoint(checkpoint)


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    save_checkpoint(tmp_path / "bad", {"learner": Malicious()})
    with pytest.raises(ArtifactError):
        load_checkpoint(tmp_path / "bad")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ArtifactError):
        load_checkpoint(tmp_path / "nothing")


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    state = {"a": torch.arange(3), "b": [1, 2.5, "three"], "c": {"d": None}}
    save_checkpoint(tmp_path / "x", state)
    found = load_checkpoint(tmp_path / "x")
    assert torch.equal(found.pop("a"), torch.arange(3))
    assert found == {"b": [1, 2.5, "three"], "c": {"d": None}}
    with pytest.raises(StorageError):
        save_checkpoint(tmp_path / "x" / "below", state)


def test_settings_that_mean_nothing_are_refused() -> None:
    for name in ("updates", "batch_size", "n_step", "eval_every", "eval_episodes"):
        settings: dict[str, Any] = {name: 0}
        with pytest.raises(ConfigError, match=name):
            replace(CONFIG, **settings)


def test_an_unknown_algorithm_says_what_is_near(transitions: Transitions) -> None:
    with pytest.raises(UnknownAlgorithmError) as caught:
        fresh("cqk", transitions)
    assert "cql" in caught.value.mend
