"""stable-baselines3's PPO, DQN and SAC beside ours: trained its way, looked at ours.

The settings are those that rl-baselines3-zoo tuned (https://github.com/DLR-RM/rl-baselines3-zoo, ``hyperparams/ppo.yml``,
``dqn.yml`` and ``sac.yml`` as of 2025). Training is stable-baselines3's own, in Gymnasium's environments, without its logger
and its monitor, which would only cost it time. After a rollout and its update the clock stops and the policy plays the same
greedy episodes that judge this package's learners.

This is the only file that imports stable-baselines3; importing it without that package raises
:class:`~rlcourse.errors.MissingExtraError`.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlcourse.devices import torch_threads
from rlcourse.environments import GymnasiumBatch, check_known
from rlcourse.errors import (
    ConfigError,
    EnvironmentFailedError,
    MissingExtraError,
    TrainingDivergedError,
    UnknownAlgorithmError,
)
from rlcourse.networks import CategoricalPolicy, GreedyQPolicy
from rlcourse.randomness import Seeds
from rlcourse.training.runs import Evaluation, Stop, TrainingRun, greedy_return
from rlcourse.vocabulary import ContinuousActions, DiscreteActions, NullTracker, Policy, Tracker

try:
    from stable_baselines3 import DQN, PPO, SAC
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.distributions import CategoricalDistribution
    from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
    from stable_baselines3.common.running_mean_std import RunningMeanStd
    from stable_baselines3.common.utils import LinearSchedule
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
    from stable_baselines3.dqn.policies import DQNPolicy
except ImportError as missing:
    raise MissingExtraError(
        f"The algorithms sb3-... need a package that is not installed: {missing}.", mend="pip install 'rlcourse[sb3]'"
    ) from missing

_KINDS: dict[str, type[BaseAlgorithm]] = {"sb3-ppo": PPO, "sb3-dqn": DQN, "sb3-sac": SAC}


@dataclass(frozen=True)
class Sb3Settings:
    """How one of its algorithms is run on one task."""

    num_steps: int = 100_000
    """Environment steps in all, over all copies."""
    num_envs: int = 1
    """Copies stepped together."""
    eval_every: int = 5_120
    """Steps between greedy evaluations. The last step is always evaluated."""
    eval_episodes: int = 100
    """Episodes in each evaluation."""
    normalise: bool = False
    """Divide observations by their running spread and rewards by that of the returns."""
    linear: tuple[str, ...] = ()
    """Those of the arguments that fall linearly to zero over ``num_steps``."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What its constructor is given, under its names; the rest is its default."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_envs", "eval_every", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}.", mend="Use 1 or more.")


TUNED: dict[tuple[str, str], Sb3Settings] = {
    ("sb3-ppo", "CartPole-v1"): Sb3Settings(
        num_envs=8,
        linear=("learning_rate", "clip_range"),
        arguments={
            "n_steps": 32,
            "batch_size": 256,
            "n_epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "learning_rate": 1e-3,
            "clip_range": 0.2,
        },
    ),
    ("sb3-ppo", "Acrobot-v1"): Sb3Settings(
        num_steps=1_000_000,
        num_envs=16,
        eval_every=20_480,
        normalise=True,
        arguments={"n_steps": 256, "n_epochs": 4, "gamma": 0.99, "gae_lambda": 0.94},
    ),
    ("sb3-ppo", "Pendulum-v1"): Sb3Settings(
        num_envs=4,
        arguments={
            "n_steps": 1024,
            "n_epochs": 10,
            "gamma": 0.9,
            "gae_lambda": 0.95,
            "learning_rate": 1e-3,
            "clip_range": 0.2,
            "use_sde": True,
            "sde_sample_freq": 4,
        },
    ),
    ("sb3-dqn", "CartPole-v1"): Sb3Settings(
        num_steps=50_000,
        arguments={
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1_000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    ("sb3-dqn", "Acrobot-v1"): Sb3Settings(
        arguments={
            "learning_rate": 6.3e-4,
            "batch_size": 128,
            "buffer_size": 50_000,
            "learning_starts": 0,
            "gamma": 0.99,
            "target_update_interval": 250,
            "train_freq": 4,
            "gradient_steps": -1,
            "exploration_fraction": 0.12,
            "exploration_final_eps": 0.1,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    ("sb3-sac", "Pendulum-v1"): Sb3Settings(num_steps=20_000, eval_every=1_000, arguments={"learning_rate": 1e-3}),
}
"""rl-baselines3-zoo's; what its files leave out is stable-baselines3's default, there as here."""


def sb3_settings(algorithm: str, env_id: str) -> Sb3Settings:
    """The tuned settings where there are any, stable-baselines3's defaults elsewhere.

    Raises:
        UnknownAlgorithmError: none of sb3-ppo, sb3-dqn and sb3-sac.
        UnknownEnvironmentError: nobody knows the task.
    """
    if algorithm not in _KINDS:
        raise UnknownAlgorithmError(
            f"There is no algorithm called {algorithm!r}.", mend=f"Use one of {', '.join(_KINDS)}."
        )
    check_known(env_id)
    return TUNED.get((algorithm, env_id), Sb3Settings())


def policy_from_sb3(model: BaseAlgorithm | BasePolicy, normaliser: VecNormalize | None = None) -> Policy:
    """A stable-baselines3 model, or its policy alone, as a policy of ours; the weights are shared.

    PPO over discrete actions becomes a :class:`CategoricalPolicy`, DQN a :class:`GreedyQPolicy` (its exploration belongs to
    its training); both say how likely each action is. Continuous actions become an :class:`Sb3Policy`.

    Args:
        model: made or loaded by stable-baselines3, for observations that are vectors.
        normaliser: of observations; by default the model's own, if it has one.

    Raises:
        ConfigError: another kind of policy.
    """
    if isinstance(model, BaseAlgorithm):
        normaliser = normaliser or model.get_vec_normalize_env()
        model = model.policy
    if isinstance(model, DQNPolicy):
        q_net = model.q_net
        return GreedyQPolicy(lambda obs: q_net(_seen(obs, normaliser)))
    if isinstance(model, ActorCriticPolicy) and isinstance(model.action_dist, CategoricalDistribution):
        actor = model

        def logits(obs: Tensor) -> Tensor:
            distribution = actor.get_distribution(_seen(obs, normaliser).flatten(0, -2)).distribution
            assert isinstance(distribution, torch.distributions.Categorical)
            shaped: Tensor = distribution.logits.unflatten(0, obs.shape[:-1])
            return shaped

        return CategoricalPolicy(logits)
    if isinstance(model.action_space, gym.spaces.Box):
        return Sb3Policy(model, normaliser)
    raise ConfigError(f"A {type(model).__name__} over {model.action_space}.", mend="Use a model of PPO, DQN or SAC.")


class Sb3Policy:
    """A stable-baselines3 policy over continuous actions as one of ours."""

    def __init__(self, policy: BasePolicy, normaliser: VecNormalize | None = None) -> None:
        self.policy = policy
        self.normaliser = normaliser

    @torch.no_grad()
    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B, K)``, within the bounds."""
        if greedy or generator is None:
            return self._predict(obs, greedy)
        # It draws from torch's global stream and takes no generator.
        drawn = torch.randint(2**62, (), generator=generator, device=generator.device)
        with Seeds(int(drawn)).initialising("actions"):
            return self._predict(obs, greedy)

    def _predict(self, obs: Tensor, greedy: bool) -> Tensor:
        action, _ = self.policy.predict(_seen(obs, self.normaliser).cpu().numpy(), deterministic=greedy)
        return torch.from_numpy(action).to(obs.device)


def _seen(obs: Tensor, normaliser: VecNormalize | None) -> Tensor:
    """Observations as the policy was trained to see them, by the running mean and spread as they stand."""
    if normaliser is None or not normaliser.norm_obs:
        return obs
    running = normaliser.obs_rms
    assert isinstance(running, RunningMeanStd)
    mean, variance = (torch.as_tensor(part, dtype=obs.dtype, device=obs.device) for part in (running.mean, running.var))
    scaled = (obs - mean) / (variance + normaliser.epsilon).sqrt()
    return scaled.clamp(-normaliser.clip_obs, normaliser.clip_obs)


def train_sb3(
    algorithm: str,
    env_id: str,
    *,
    seeds: Seeds,
    device: torch.device | str = "cpu",
    settings: Sb3Settings | None = None,
    num_steps: int | None = None,
    eval_every: int | None = None,
    eval_episodes: int | None = None,
    tracker: Tracker | None = None,
    stop: Stop = lambda step, greedy_return: False,
) -> tuple[TrainingRun, Policy]:
    """Train one of stable-baselines3's algorithms on one thread.

    Args:
        algorithm: sb3-ppo, sb3-dqn or sb3-sac.
        env_id: a Gymnasium name.
        seeds: its one seed and the evaluations follow from this family; Python's, NumPy's and torch's global streams, from
            which it draws, are put back afterwards.
        device: where its networks live.
        settings: by default those of :func:`sb3_settings`.
        num_steps: instead of the settings'.
        eval_every: instead of the settings'.
        eval_episodes: instead of the settings'.
        tracker: gets ``eval/greedy_return`` and ``time/train_seconds`` at every evaluation.
        stop: ends the run early.

    Raises:
        UnknownAlgorithmError: another algorithm.
        ConfigError: the algorithm cannot choose among the task's kind of actions.
        TrainingDivergedError: a weight stopped being finite.
        EnvironmentFailedError: the environment raised, or returned what is no number.
    """
    settings = settings or sb3_settings(algorithm, env_id)
    settings = replace(
        settings,
        num_steps=num_steps or settings.num_steps,
        eval_every=eval_every or settings.eval_every,
        eval_episodes=eval_episodes or settings.eval_episodes,
    )
    check_actions(algorithm, env_id)
    with torch_threads(1), _global_streams_kept(seeds):
        env = _environment(env_id, settings)
        model = _model(algorithm, env, settings, seeds, device)
        policy = policy_from_sb3(model)
        looking = _Evaluations(policy, env_id, settings, seeds, stop, tracker or NullTracker())
        try:
            model.learn(settings.num_steps, callback=looking, log_interval=None)  # type: ignore[arg-type]
        except ValueError:
            _refuse_divergence(model)  # torch refuses a distribution of NaN with this
            raise
        finally:
            env.close()
    return looking.run, policy


def check_actions(algorithm: str, env_id: str) -> None:
    """Raise :class:`ConfigError` unless the algorithm can choose among the task's kind of actions."""
    sb3_settings(algorithm, env_id)
    actions = GymnasiumBatch(env_id, 1, seed=0).actions
    if algorithm == "sb3-dqn" and isinstance(actions, ContinuousActions):
        raise ConfigError(
            f"sb3-dqn cannot act on {env_id}: its actions are continuous.", mend="Use sb3-ppo or sb3-sac."
        )
    if algorithm == "sb3-sac" and isinstance(actions, DiscreteActions):
        raise ConfigError(f"sb3-sac cannot act on {env_id}: its actions are discrete.", mend="Use sb3-ppo or sb3-dqn.")


def _model(
    algorithm: str, env: VecEnv, settings: Sb3Settings, seeds: Seeds, device: torch.device | str
) -> BaseAlgorithm:
    arguments = copy.deepcopy(dict(settings.arguments))  # it writes into what it is given
    for name in settings.linear:
        arguments[name] = LinearSchedule(arguments[name], 0.0, 1.0)
    return _KINDS[algorithm](
        "MlpPolicy", env, seed=seeds.integer("stable-baselines3") % 2**31, device=device, **arguments
    )


def _environment(env_id: str, settings: Sb3Settings) -> VecEnv:
    env: VecEnv = _Guarded(DummyVecEnv([lambda: gym.make(env_id) for _ in range(settings.num_envs)]), env_id)
    return VecNormalize(env, gamma=settings.arguments.get("gamma", 0.99)) if settings.normalise else env


class _Guarded(VecEnvWrapper):
    """Turns what an environment raises into this package's error, and refuses what is no number."""

    def __init__(self, venv: VecEnv, env_id: str) -> None:
        super().__init__(venv)
        self.env_id = env_id

    def reset(self) -> VecEnvObs:
        try:
            obs = self.venv.reset()
        except Exception as error:  # an environment may raise anything
            raise environment_failed(self.env_id, error) from error
        self._finite(obs)
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        try:
            found = self.venv.step_wait()
        except Exception as error:  # an environment may raise anything
            raise environment_failed(self.env_id, error) from error
        self._finite(found[0])
        self._finite(found[1])
        return found

    def _finite(self, values: Any) -> None:
        if not np.isfinite(values).all():
            raise EnvironmentFailedError(
                f"{self.env_id} returned NaN or infinity.",
                mend="Mend the environment; nothing can be learned from what is no number.",
            )


def environment_failed(env_id: str, error: Exception) -> EnvironmentFailedError:
    """What to raise where an environment raised ``error``."""
    return EnvironmentFailedError(
        f"{env_id} raised {type(error).__name__}: {error}",
        mend="The error is the environment's own; see the traceback for the line.",
    )


class _Evaluations(BaseCallback):
    """Stops the clock after an update and lets the policy play; stable-baselines3 calls it."""

    def __init__(
        self, policy: Policy, env_id: str, settings: Sb3Settings, seeds: Seeds, stop: Stop, tracker: Tracker
    ) -> None:
        super().__init__()
        self.run = TrainingRun()
        self._policy, self._env_id, self._settings = policy, env_id, settings
        self._seeds, self._stop, self._tracker = seeds, stop, tracker
        self._next, self._stopped = settings.eval_every, False
        self._wall, self._cpu = 0.0, 0.0

    def _on_training_start(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def _on_rollout_start(self) -> None:  # the update that followed the last rollout is done
        if self.num_timesteps >= self._next:
            self._look()

    def _on_step(self) -> bool:
        return not self._stopped

    def _on_training_end(self) -> None:
        if not self._stopped:
            self._look()

    def _look(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # the clock is honest only when the device is done
        self._wall += time.perf_counter() - self._started[0]
        self._cpu += time.process_time() - self._started[1]
        _refuse_divergence(self.model)
        self._next += self._settings.eval_every
        step, device = self.num_timesteps, self.model.device
        earned = greedy_return(self._policy, self._env_id, self._settings.eval_episodes, self._seeds, device)
        self.run.evaluations.append(Evaluation(step, earned, self._wall, self._cpu))
        self._tracker.log({"eval/greedy_return": earned, "time/train_seconds": self._wall}, step=step)
        self._stopped = self._stop(step, earned)
        self._started = time.perf_counter(), time.process_time()


def _refuse_divergence(model: BaseAlgorithm) -> None:
    if not all(bool(weight.isfinite().all()) for weight in model.policy.parameters()):
        raise TrainingDivergedError(
            f"A weight of stable-baselines3's {type(model).__name__} stopped being finite by step {model.num_timesteps}.",
            mend="Lower the learning rate, and look at the scale of rewards and observations.",
        )


@contextmanager
def _global_streams_kept(seeds: Seeds) -> Iterator[None]:
    """It seeds Python's, NumPy's and torch's global streams; whoever else draws from them must not notice."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the stream it seeds
    try:
        with seeds.initialising("stable-baselines3"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
