"""Logs of continuous actions: one soft actor-critic learns, and what it was along its life is who acts.

=============  ================================================================================================
quality        who acted, drawing from its own spread
=============  ================================================================================================
medium         the learner as it was when its return was about half way between chance and its best
expert         the learner at its best
replay         the learner while it learned: even choices at first, then its own spread
medium-replay  the same until it was half way, as in D4RL
=============  ================================================================================================

Every look at the learner is kept, and the author is chosen when its life is over: only then is it known what half way is.
Returns are those of *sampled* actions, because that is how the author will act. How good an expert is depends on how long
it may learn; the card says what it earned. Propensities are densities, see
:func:`~rlcourse.experience.collection.accountable`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from rlcourse.algorithms.sac import SAC, SACConfig
from rlcourse.devices import wide_products
from rlcourse.environments import NATIVE, make
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.evaluation.returns import episode_returns
from rlcourse.evaluation.solved import SOLVED
from rlcourse.experience.collection import EpisodeRecorder, collect
from rlcourse.networks import SquashedGaussianPolicy, UniformBoxPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.generated import Generated, copies, thinned
from rlcourse.training.off_policy import OffPolicyConfig, train_off_policy
from rlcourse.training.online import OnlineSettings, online_settings
from rlcourse.training.runs import task_spec
from rlcourse.vocabulary import Tracker

LOOKS = 60
"""How often in its life a learner is looked at."""
LOOK_APART = 2_000
"""Steps between two looks, at least, where every environment is stepped by itself: a look costs a second there."""
HALF_WAY = (0.3, 0.7)
"""Between chance (0) and its best (1): where a medium author may stand. Learners may jump across the middle."""
GOOD = 0.9
"""Share of the way from chance to solved that a learner must have gone at its best. Solved is meant for greedy returns, and
sampled ones lie below."""
MOST_UPDATES = 10_000
"""Gradient steps in the life behind a replay log of Pendulum, however long: a long log is no reason to learn more often."""
ATTEMPTS = 3
"""Fresh learners tried before giving up."""

_MUJOCO = OnlineSettings(
    SACConfig(hidden=(256, 256), learning_rate=5e-4),
    OffPolicyConfig(
        num_steps=100_000,
        num_envs=4,
        steps_per_update=2,
        batch_size=256,
        n_step=1,
        warm_up_steps=2_000,
        eval_episodes=10,
        anneal=True,
    ),
)
_PENDULUM = online_settings("sac", "Pendulum-v1")
_AUTHORS: dict[str, OnlineSettings] = {
    "Pendulum-v1": replace(_PENDULUM, loop=replace(_PENDULUM.loop, num_steps=12_000)),
    "HalfCheetah-v5": _MUJOCO,
    "Hopper-v5": _MUJOCO,
    "Walker2d-v5": _MUJOCO,
}


@dataclass(frozen=True)
class Look:
    """A learner as it was."""

    step: int
    earned: float  # mean return of sampled actions
    policy: SquashedGaussianPolicy


@dataclass(frozen=True)
class Life:
    """A learner's looks from first to last, and what chance earns."""

    looks: list[Look]
    by_chance: float

    @property
    def best(self) -> Look:
        """Where it earned most."""
        return max(self.looks, key=lambda look: look.earned)

    @property
    def half_way(self) -> Look | None:
        """On the way to its best: the look nearest to half of it, or ``None`` where none is near."""
        best = self.best
        earlier = [look for look in self.looks if look.step <= best.step]
        nearest = min(earlier, key=lambda look: abs(self.share(look) - 0.5))
        return nearest if HALF_WAY[0] <= self.share(nearest) <= HALF_WAY[1] else None

    def share(self, look: Look) -> float:
        """0 for chance, 1 for the best."""
        return (look.earned - self.by_chance) / (self.best.earned - self.by_chance)


def author_settings(env_id: str, training_steps: int | None = None) -> OnlineSettings:
    """How the author on a task learns: settings found for it, or SAC's defaults; over ``training_steps`` if given."""
    settings = _AUTHORS.get(env_id) or online_settings("sac", env_id)
    loop = settings.loop
    assert isinstance(loop, OffPolicyConfig)
    steps = loop.num_steps if training_steps is None else training_steps
    if steps <= loop.warm_up_steps:
        raise ConfigError(
            f"An author that learns for {steps} steps has learned nothing.",
            mend=f"Its first {loop.warm_up_steps} are for looking around; use several thousand.",
        )
    return replace(settings, loop=replace(loop, num_steps=steps, eval_every=_look_every(env_id, steps)))


def trained_log(
    env_id: str,
    quality: str,
    num_transitions: int,
    *,
    seeds: Seeds,
    device: torch.device | str,
    training_steps: int | None = None,
    tracker: Tracker | None = None,
) -> Generated:
    """A log of quality ``medium`` or ``expert``.

    Raises:
        ConfigError: so few training steps that nothing is learned.
        TrainingDivergedError: none of :data:`ATTEMPTS` learners became good enough, or passed near the middle.
    """
    settings = author_settings(env_id, training_steps)
    for attempt in range(ATTEMPTS):
        family = seeds.child("author", attempt)
        life = live(env_id, settings, family, device, tracker)
        if not _good(env_id, life):
            continue
        author = life.half_way if quality == "medium" else life.best
        if author is None:
            continue
        acting = make(env_id, copies(env_id), seeds=family.child("acting"), device=device)
        episodes = collect(acting, author.policy, num_transitions, generator=family.torch("acting", device))
        where = "half way to its best" if quality == "medium" else "at its best"
        story = (
            f"soft actor-critic as it was after {author.step} steps, {where}: it earned {author.earned:.0f} with actions "
            f"drawn from its own spread, where chance earns {life.by_chance:.0f} and its best was {life.best.earned:.0f}"
        )
        return Generated(episodes, story, _details(life, settings, attempt, author))
    raise _never_good(env_id, quality, settings.loop.num_steps)


def replay_log(
    env_id: str,
    num_transitions: int,
    *,
    seeds: Seeds,
    device: torch.device | str,
    training_steps: int | None = None,
    tracker: Tracker | None = None,
    half: bool = False,
) -> Generated:
    """All that a learner did while it learned, or evenly spaced episodes of it where it did more than is asked for.

    With ``half`` only what it did until it was half way to its best: D4RL's medium-replay. That may be less than is asked for.

    Raises:
        ConfigError: so few training steps that nothing is learned.
        TrainingDivergedError: none of :data:`ATTEMPTS` learners became good enough, or passed near the middle.
    """
    settings = author_settings(env_id, training_steps)
    loop = settings.loop
    assert isinstance(loop, OffPolicyConfig)
    spec = gym.spec(env_id)
    # Finished episodes alone are kept, so the life is longer than the log by what the copies can have open at its end.
    lifetime = loop.num_steps
    if not half:
        lifetime = max(num_transitions + loop.num_envs * (spec.max_episode_steps or 1_000), lifetime)
    apart = loop.steps_per_update
    if env_id == "Pendulum-v1":
        apart = max(apart, lifetime // MOST_UPDATES)
    settings = replace(
        settings,
        loop=replace(loop, num_steps=lifetime, eval_every=_look_every(env_id, lifetime), steps_per_update=apart),
    )
    for attempt in range(ATTEMPTS):
        recorder = EpisodeRecorder()
        life = live(env_id, settings, seeds.child("replay", attempt), device, tracker, recorder)
        until = life.half_way if half else None
        if not _good(env_id, life) or half != (until is not None):
            continue
        told = f"the first {until.step}" if until else "all"
        story = (
            f"evenly spaced finished episodes from {told} of {lifetime} steps in the life of one soft actor-critic, even "
            f"choices over the first {loop.warm_up_steps}; with actions drawn from its own spread it earned "
            f"{life.best.earned:.0f} at its best, where chance earns {life.by_chance:.0f}"
        )
        if until:
            story += f"; half way it earned {until.earned:.0f}"
        episodes = recorder.episodes(within=until.step if until else None)
        kept = thinned(episodes, min(num_transitions, episodes.num_transitions))
        return Generated(kept, story, _details(life, settings, attempt, until))
    raise _never_good(env_id, "medium-replay" if half else "replay", lifetime)


def _look_every(env_id: str, steps: int) -> int:
    return max(-(-steps // LOOKS), 1 if env_id in NATIVE else LOOK_APART)


def live(
    env_id: str,
    settings: OnlineSettings,
    family: Seeds,
    device: torch.device | str,
    tracker: Tracker | None = None,
    recorder: EpisodeRecorder | None = None,
) -> Life:
    """Let soft actor-critic learn on a task, and look at it now and then."""
    loop, config = settings.loop, settings.learner
    assert isinstance(loop, OffPolicyConfig) and isinstance(config, SACConfig)
    env = make(env_id, loop.num_envs, seeds=family, device=device)
    with family.initialising("networks"):
        learner = SAC(task_spec(env), config, generator=family.torch("policy", device))
    looks: list[Look] = []

    def earned(policy: SquashedGaussianPolicy | UniformBoxPolicy) -> float:
        returns = episode_returns(
            policy, env_id, num_episodes=loop.eval_episodes, greedy=False, seeds=family.child("looks"), device=device
        )
        return float(np.mean(returns))

    with (
        wide_products(max(config.hidden)),
        tqdm(total=loop.num_steps, desc=f"{env_id}: an author learns", unit="step", leave=False, disable=None) as bar,
    ):

        def look(step: int, greedy_return: float) -> bool:
            looks.append(Look(step, earned(learner.policy), copy.deepcopy(learner.policy)))
            bar.update(step - bar.n)
            return False

        train_off_policy(learner, env, loop, seeds=family, recorder=recorder, tracker=tracker, stop=look)
    return Life(looks, earned(UniformBoxPolicy(learner.policy.actions)))


def _good(env_id: str, life: Life) -> bool:
    """Better than chance; and on a task of which this course says what solved means, most of the way to that."""
    solved = SOLVED.get(env_id, life.by_chance)
    return life.best.earned > life.by_chance + GOOD * (solved - life.by_chance)


def _details(
    life: Life, settings: OnlineSettings, attempt: int, author: Look | None = None
) -> dict[str, float | int | str]:
    found: dict[str, float | int | str] = {
        "return_by_chance": round(life.by_chance, 1),
        "best_return": round(life.best.earned, 1),
        "best_after_steps": life.best.step,
        "lifetime_steps": settings.loop.num_steps,
        "attempt": attempt,
        "densities": "in the units of the actions",
    }
    if author is not None:
        found |= {"author_return": round(author.earned, 1), "trained_for_steps": author.step}
    return found


def _never_good(env_id: str, quality: str, steps: int) -> TrainingDivergedError:
    return TrainingDivergedError(
        f"None of {ATTEMPTS} learners on {env_id} became in {steps} steps what {quality!r} data asks for.",
        mend="Let them learn longer (--training-steps), use another seed, or another quality (random always works).",
    )
