"""Logs of continuous actions, and of rules written by hand: who acted in them, and with which propensities."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcourse.environments import make
from rlcourse.environments.server_room import thermostat
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.evaluation.returns import episode_returns
from rlcourse.networks import SquashedGaussianPolicy
from rlcourse.randomness import Seeds
from rlcourse.training import continuous_behaviour
from rlcourse.training.behaviour import generate
from rlcourse.training.continuous_behaviour import Life, Look, author_settings

SEEDS = Seeds(0)


def still(spread: float = 0.0) -> SquashedGaussianPolicy:
    """Draws torques around 0."""
    actions: Any = make("Pendulum-v1", 1, seeds=SEEDS).actions
    return SquashedGaussianPolicy(lambda obs: torch.tensor([[0.0, spread]]).expand(len(obs), 2), actions)


def life(*earned: float, by_chance: float = -1_200.0) -> Life:
    return Life([Look(100 * (i + 1), value, still()) for i, value in enumerate(earned)], by_chance)


def test_half_way_is_the_look_nearest_to_the_middle_on_the_way_up() -> None:
    found = life(-1_300, -800, -650, -200, -700)
    assert found.best.step == 400
    assert found.half_way is not None and found.half_way.step == 300  # -700 comes after the best: that is a relapse
    assert found.share(found.looks[2]) == pytest.approx(0.55)


def test_a_learner_that_jumps_over_the_middle_has_no_half_way() -> None:
    assert life(-1_300, -1_100, -200).half_way is None


@pytest.mark.parametrize(("quality", "wanted"), [("medium", 300), ("expert", 400)])
def test_the_author_is_chosen_when_its_life_is_over(quality: Any, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = life(-1_300, -800, -650, -150)
    monkeypatch.setattr(continuous_behaviour, "live", lambda *given: found)
    made = generate("Pendulum-v1", quality, 1_001, seeds=SEEDS)
    assert made.episodes.validate().num_transitions == 1_001
    assert made.details["trained_for_steps"] == wanted
    assert (made.details["best_return"], made.details["return_by_chance"]) == (-150, -1_200)
    assert f"after {wanted} steps" in made.behaviour


def test_a_mixed_log_has_the_density_of_whoever_acted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous_behaviour, "live", lambda *given: life(-700, -150))
    made = generate("Pendulum-v1", "mixed", 1_001, seeds=SEEDS)
    chances, actions = made.episodes.validate().behaviour_probabilities, made.episodes.actions[:, 0]
    assert chances[:500].tolist() == pytest.approx([0.25] * 500), "the random half comes first"
    # A standard normal number u, squeezed: its density is divided by 2 (1 - tanh(u)^2).
    squeezed = actions[500:].astype(np.float64) / 2
    inside = np.abs(squeezed) < 0.99
    expected = np.exp(-(np.arctanh(squeezed[inside]) ** 2) / 2) / (2 * np.pi) ** 0.5 / (2 * (1 - squeezed[inside] ** 2))
    assert inside.sum() > 400
    assert chances[500:][inside] == pytest.approx(expected, rel=1e-3)
    assert made.behaviour.startswith("half uniform within the bounds of the actions; half soft actor-critic")


@pytest.mark.parametrize("earned", [(-1_300, -1_250), (-1_100, -700, -300), (-1_100, -100)], ids=str)
def test_learners_that_never_get_there_are_an_error(earned: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    # Worse than chance; better, and not what counts as solved; good, and never half way.
    monkeypatch.setattr(continuous_behaviour, "live", lambda *given: life(*earned))
    with pytest.raises(TrainingDivergedError, match="None of 3 learners on Pendulum-v1") as caught:
        generate("Pendulum-v1", "medium", 100, seeds=SEEDS)
    assert "--training-steps" in caught.value.mend


@pytest.mark.slow
def test_a_medium_author_earns_about_half_and_the_densities_are_its_own() -> None:
    made = generate("Pendulum-v1", "medium", 20_000, seeds=SEEDS)
    details = {name: float(value) for name, value in made.details.items() if name != "densities"}
    assert details["return_by_chance"] < -1_000 and details["best_return"] > -170
    middle = (details["return_by_chance"] + details["best_return"]) / 2
    returns = made.episodes.validate().returns()
    error = returns.std() / len(returns) ** 0.5
    assert abs(returns.mean() - details["author_return"]) < 5 * error
    assert abs(returns.mean() - middle) < 0.2 * (details["best_return"] - details["return_by_chance"]) + 5 * error
    # The mean of 1 / pi(a) under pi is the length of the interval; saturated torques make it heavy-tailed, hence the median.
    assert np.median(made.episodes.behaviour_probabilities) > 0.05


@pytest.mark.slow
def test_a_replay_log_goes_from_even_choices_to_a_good_learner() -> None:
    made = generate("Pendulum-v1", "replay", 20_000, seeds=SEEDS)
    episodes = made.episodes.validate()
    assert episodes.num_transitions == 20_000
    # The first 1,000 steps of 8 pendulums are 125 of each, and the first episode is one pendulum's.
    first = episodes.behaviour_probabilities[:200]
    assert first[:120] == pytest.approx(0.25) and len(np.unique(first[130:])) == 70
    returns = episodes.returns()
    assert returns[:10].mean() < -900 and returns[-20:].mean() > -300
    assert float(made.details["best_return"]) > -170


@pytest.mark.slow
def test_a_medium_replay_log_is_the_same_life_up_to_its_middle() -> None:
    made = generate("Pendulum-v1", "medium-replay", 12_000, seeds=SEEDS)
    episodes, until = made.episodes.validate(), int(made.details["trained_for_steps"])
    assert until - 8 * 200 <= episodes.num_transitions <= until < 12_000, "what was finished by then"
    share = (float(made.details["author_return"]) - float(made.details["return_by_chance"])) / (
        float(made.details["best_return"]) - float(made.details["return_by_chance"])
    )
    assert 0.3 <= share <= 0.7 and f"the first {until} of 12000" in made.behaviour
    assert episodes.returns()[:5].mean() < -900


def test_lives_of_counted_actions_are_not_told_to_their_middle() -> None:
    with pytest.raises(ConfigError, match="only to its middle"):
        generate("CartPole-v1", "medium-replay", 100, seeds=SEEDS)


def test_a_thermostat_that_errs_one_step_in_five() -> None:
    made = generate("rlcourse/ServerRoom-v0", "scripted", 14_400, seeds=SEEDS)
    episodes = made.episodes.validate()
    assert (episodes.num_episodes, set(episodes.lengths.tolist())) == (100, {144})
    rule = thermostat().rule(torch.from_numpy(episodes.observations))
    rows = np.arange(14_400) + np.repeat(np.arange(100), 144)
    followed = rule.numpy()[rows] == episodes.actions
    assert episodes.behaviour_probabilities[followed] == pytest.approx(0.84)
    assert episodes.behaviour_probabilities[~followed] == pytest.approx(0.04)
    assert followed.mean() == pytest.approx(0.84, abs=5 * (0.84 * 0.16 / 14_400) ** 0.5)
    assert made.behaviour == "thermostat, acting with epsilon 0.2"
    careful = generate("rlcourse/ServerRoom-v0", "scripted", 14_400, seeds=SEEDS, epsilon=0.0)
    alone = episode_returns(thermostat(), "rlcourse/ServerRoom-v0", num_episodes=100, greedy=True, seeds=Seeds(1))
    both = np.concatenate([careful.episodes.returns(), alone])
    assert careful.episodes.returns().mean() == pytest.approx(alone.mean(), abs=5 * both.std() * (2 / 100) ** 0.5)
    assert made.episodes.returns().mean() < careful.episodes.returns().mean(), "what it tries costs something"


@pytest.mark.parametrize(
    ("env_id", "quality", "options", "message"),
    [
        ("Pendulum-v1", "scripted", {}, "has no propensities"),
        ("Acrobot-v1", "medium", {}, "Nobody has said"),
        ("rlcourse/ServerRoom-v0", "mixed", {}, "Nobody has said"),
        ("Hopper-v5", "scripted", {}, "no scripted policy"),
        ("Pendulum-v1", "medium", {"training_steps": 900}, "has learned nothing"),
        ("CartPole-v1", "medium", {"training_steps": 9_000}, "could be set"),
        ("Pendulum-v1", "random", {"training_steps": 9_000}, "could be set"),
        ("Pendulum-v1", "medium", {"epsilon": 0.1}, "has no epsilon"),
        ("CartPole-v1", "scripted", {"epsilon": 1.5}, "epsilon is 1.5"),
    ],
)
def test_what_a_task_does_not_have_is_refused_before_anything_is_learned(
    env_id: str, quality: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(env_id, quality, 100, seeds=SEEDS, **options)


@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"])
def test_mujocos_tasks_are_logged_in_the_same_way(env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = generate(env_id, "random", 50, seeds=SEEDS)
    assert list(tmp_path.iterdir()) == [], "MuJoCo leaves a file of warnings where nobody listens"
    episodes = made.episodes.validate()
    size = episodes.actions.shape[-1]
    assert episodes.num_transitions == 50 and size in (3, 6)
    assert episodes.behaviour_probabilities == pytest.approx(0.5**size)
    assert author_settings(env_id, 30_000).loop.num_steps == 30_000


def test_without_mujoco_the_error_names_the_extra() -> None:
    words = ["offline", "generate", "--env", "Hopper-v5", "--quality", "random", "--transitions", "10"]
    program = f"""
import sys
sys.modules["mujoco"] = None  # what an import of a package that is not installed amounts to
from rlcourse.recipes.command_line import main
raise SystemExit(main({words!r}))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "pip install" in found.stderr and "rlcourse[mujoco]" in found.stderr
