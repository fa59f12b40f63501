"""Search spaces: every name is a setting, every default lies inside, and settings get where they belong."""

from __future__ import annotations

import pytest

from rlcourse.errors import ConfigError, UnknownAlgorithmError
from rlcourse.training.experiments import LOOKS, NoisyHill, OnlineExperiment
from rlcourse.training.online import online_settings
from rlcourse.training.search_spaces import (
    SEARCH_SPACES,
    Choice,
    Range,
    Space,
    Whole,
    including,
    search_space,
    settings_of,
    with_settings,
)

TASKS = [("ppo", "CartPole-v1"), ("ppo", "Acrobot-v1"), ("dqn", "CartPole-v1"), ("sac", "Pendulum-v1")]


@pytest.mark.parametrize(("algorithm", "env_id"), TASKS)
def test_the_defaults_lie_inside_the_space(algorithm: str, env_id: str) -> None:
    space, defaults = search_space(algorithm), OnlineExperiment(algorithm, env_id).defaults
    assert list(defaults) == list(space), "a name is no setting"
    assert [name for name, bounds in space.items() if defaults[name] not in bounds] == []


@pytest.mark.parametrize("algorithm", sorted(SEARCH_SPACES))
def test_a_name_belongs_to_one_config_alone(algorithm: str) -> None:
    settings = online_settings(algorithm, "CartPole-v1")
    for name in search_space(algorithm):
        assert hasattr(settings.learner, name) != hasattr(settings.loop, name), name


def test_a_space_is_widened_for_what_lies_outside() -> None:
    space: Space = {"a": Range(1.0, 2.0, log=True), "b": Whole(1, 2), "c": Choice((1, 2)), "d": Whole(1, 2)}
    wide = including(space, {"a": 0.5, "b": 3, "c": 4, "d": 1})
    assert wide == {"a": Range(0.5, 2.0, log=True), "b": Whole(1, 3), "c": Choice((1, 2, 4)), "d": Whole(1, 2)}


def test_settings_reach_the_config_that_has_them() -> None:
    before = online_settings("ppo", "CartPole-v1")
    after = with_settings(before, {"learning_rate": 0.5, "gamma": 0.9})
    assert settings_of(after, {"learning_rate": 0, "gamma": 0}) == {"learning_rate": 0.5, "gamma": 0.9}
    assert before == online_settings("ppo", "CartPole-v1")
    with pytest.raises(ConfigError, match="no setting learning_rat"):
        with_settings(before, {"learning_rat": 0.5})


@pytest.mark.parametrize(("algorithm", "says"), [("pqo", "Did you mean ppo"), ("random", "Use one of")])
def test_what_cannot_be_tuned_is_told_what_can(algorithm: str, says: str) -> None:
    with pytest.raises(UnknownAlgorithmError, match=says):
        OnlineExperiment(algorithm, "CartPole-v1")


def test_an_online_run_is_looked_at_so_many_times_and_its_settings_matter() -> None:
    from rlcourse.randomness import Seeds

    experiment = OnlineExperiment("ppo", "CartPole-v1", 1_600, eval_episodes=2)
    looks: list[int] = []
    run = experiment.run({"rollout_steps": 16}, Seeds(0), lambda look, _: bool(looks.append(look)))  # type: ignore[func-returns-value]
    assert looks[-1] == LOOKS and looks == sorted(set(looks))
    assert run.steps >= 1_600
    stopped = experiment.run({"rollout_steps": 64}, Seeds(0), lambda look, _: True)
    assert stopped.steps == 64 * 16
    assert NoisyHill().truth({"learning_rate": 1e-3, "size": 64}) == 100.0
