"""``rlcourse offline generate``: act in an environment and keep the log as a Minari data set."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rlcourse.devices import resolve_device, torch_threads
from rlcourse.environments import check_known, make
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.minari_files import refuse_existing, save_dataset
from rlcourse.randomness import Seeds
from rlcourse.recipes.common import Common, report, say, show_result, write_report
from rlcourse.training.behaviour import Quality, generate


@dataclass(frozen=True, kw_only=True)
class Generate(Common):
    """Make a data set by acting.

    Example: rlcourse offline generate --quality mixed --transitions 100000

    Example: rlcourse offline generate --env Pendulum-v1 --quality medium

    Example: rlcourse offline generate --env rlcourse/ServerRoom-v0 --quality scripted --transitions 14400
    """

    env: str = "CartPole-v1"
    """Gymnasium name of the task: CartPole-v1, or one with continuous actions (Pendulum-v1; Hopper-v5, HalfCheetah-v5 and
    Walker2d-v5 with the extra mujoco); any for random logs, any with a rule written by hand for scripted ones."""
    quality: Quality = "mixed"
    """random, scripted (a rule written by hand that errs now and then; the server room's is its thermostat), medium (a
    policy of return about 200, epsilon 0.3), expert (one that reached 475, epsilon 0.02), mixed (half random, half medium)
    or replay (episodes evenly spaced over the life of one learner that reached 475; epsilon falls from 1 to 0.05 over its
    first half). Over continuous actions a soft actor-critic acts by its own spread: as it was half way between chance and
    its best (medium), at its best (expert), while it learned (replay), or while it learned until it was half way
    (medium-replay, as in D4RL)."""
    transitions: int = 100_000
    """How many transitions. medium-replay has fewer if there were fewer until the middle."""
    training_steps: int | None = None
    """How long the author of continuous actions learns, in environment steps, unless it acts at random; by default 12,000 on
    Pendulum, 100,000 on Hopper and its kind."""
    epsilon: float | None = None
    """How often a scripted author tries any action instead; by default 0.2."""
    name: str | None = None
    """Name under the Minari root, or a path; by default cartpole/mixed-v0 and the like."""
    root: Path | None = None
    """Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets."""
    overwrite: bool = False
    """Replace a data set of that name. The old one stays until the new one is complete."""


def run(config: Generate) -> int:
    """Generate, save, report."""
    started = time.perf_counter()
    check_known(config.env)
    name = config.name or default_name(config.env, config.quality)
    if not config.overwrite:
        refuse_existing(name, root=config.root)  # before the work, not after it
    seeds, device = Seeds(config.seed), resolve_device(config.device)
    say(f"collecting {config.transitions} {config.quality} transitions on {config.env}")
    with torch_threads(1):
        made = generate(
            config.env,
            config.quality,
            config.transitions,
            seeds=seeds,
            device=device,
            training_steps=config.training_steps,
            epsilon=config.epsilon,
        )
    probe = make(config.env, 1, seeds=seeds)
    card = DatasetCard(
        env_id=config.env,
        **DatasetCard.fields_of(probe.actions),
        quality=config.quality,
        behaviour=made.behaviour,
        seed=config.seed,
        details=made.details,
        command=" ".join(
            [
                f"rlcourse offline generate --env {config.env} --quality {config.quality}",
                f"--transitions {config.transitions} --seed {config.seed}",
                *([] if config.training_steps is None else [f"--training-steps {config.training_steps}"]),
                *([] if config.epsilon is None else [f"--epsilon {config.epsilon}"]),
            ]
        ),
    )
    folder = save_dataset(name, made.episodes, card, root=config.root, overwrite=config.overwrite)
    returns = made.episodes.returns()
    seconds = time.perf_counter() - started
    text = (
        f"{name}: {made.episodes.num_transitions} transitions in {made.episodes.num_episodes} episodes, "
        f"mean return {returns.mean():.1f}, {seconds:.1f} s\nwritten to {folder}"
    )
    show_result(text, config.json)
    row = {
        "dataset": name,
        "quality": config.quality,
        "seed": config.seed,
        "steps": made.episodes.num_transitions,
        "episodes": made.episodes.num_episodes,
        "mean_return": float(returns.mean()),
        "path": str(folder),
        **made.details,
    }
    write_report(config.json, report("offline generate", config, seconds=seconds, results=[row]))
    return 0


def default_name(env_id: str, quality: str) -> str:
    """``CartPole-v1`` and ``mixed`` give ``cartpole/mixed-v0``; a namespace of the task's is left out."""
    return f"{env_id.rsplit('/', 1)[-1].rsplit('-v', 1)[0].lower()}/{quality}-v0"
