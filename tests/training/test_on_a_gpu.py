"""The whole way of an offline learner on a CUDA device: collect, train, go on after an interruption, save; act on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.evaluation.returns import episode_returns
from rlcourse.experience.transitions import Transitions
from rlcourse.randomness import Seeds
from rlcourse.training.behaviour import generate
from rlcourse.training.learners import FOR_COUNTED_ACTIONS, offline_learner
from rlcourse.training.offline import OfflineTrainingConfig, train_offline
from rlcourse.vocabulary import DiscretePolicy, ListTracker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE, ENV, SEEDS = "cuda", "CartPole-v1", Seeds(0)
CONFIG = OfflineTrainingConfig(updates=120, batch_size=64, eval_every=40, eval_episodes=10)


class Interrupting(ListTracker):
    """Ctrl-C at the second evaluation."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        super().log(metrics, step=step)
        if len(self.rows) == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def transitions() -> Transitions:
    made = generate(ENV, "random", 2_000, seeds=SEEDS, device=DEVICE)
    assert made.episodes.validate().num_transitions == 2_000
    return Transitions.from_episodes(
        made.episodes, gamma=CONFIG.gamma, n_step=CONFIG.n_step, num_actions=2, device=DEVICE
    )


@pytest.mark.parametrize("algorithm", FOR_COUNTED_ACTIONS)
def test_a_policy_learned_on_a_gpu_acts_alike_on_a_cpu(
    algorithm: str, transitions: Transitions, tmp_path: Path
) -> None:
    learner = offline_learner(algorithm, transitions.spec(), SEEDS)
    run = train_offline(learner, transitions, ENV, CONFIG, seeds=SEEDS)
    assert [evaluation.update for evaluation in run.evaluations] == [40, 80, 120]
    returns = episode_returns(learner.policy, ENV, num_episodes=10, greedy=True, seeds=SEEDS, device=DEVICE)
    assert returns.shape == (10,) and (returns >= 1).all() and (returns <= 500).all()

    artifact = PolicyArtifact.from_policy(learner.policy, algorithm=algorithm, env_id=ENV)
    artifact.save(tmp_path / "policy")
    loaded = PolicyArtifact.load(tmp_path / "policy")
    obs = transitions.obs[:200]
    on_cpu, on_gpu, learned = loaded.policy("cpu"), loaded.policy(DEVICE), learner.policy
    assert isinstance(on_cpu, DiscretePolicy) and isinstance(on_gpu, DiscretePolicy)
    assert isinstance(learned, DiscretePolicy)
    here = on_cpu.probabilities(obs.cpu())
    assert here.device.type == "cpu"
    there = on_gpu.probabilities(obs)
    assert there.device.type == torch.device(DEVICE).type
    torch.testing.assert_close(there, learned.probabilities(obs))
    # Two devices round differently; a tie between two Q-values may then fall either way, but hardly ever does.
    alike = (here - there.cpu()).abs().amax(-1) < 1e-3
    assert alike.float().mean() > 0.98


@pytest.mark.parametrize("algorithm", FOR_COUNTED_ACTIONS)
def test_a_run_on_a_gpu_goes_on_where_it_was_interrupted(
    algorithm: str, transitions: Transitions, tmp_path: Path
) -> None:
    whole = offline_learner(algorithm, transitions.spec(), SEEDS)
    expected = train_offline(whole, transitions, ENV, CONFIG, seeds=SEEDS)
    checkpoint = tmp_path / "run.checkpoint"
    first = offline_learner(algorithm, transitions.spec(), SEEDS)
    with pytest.raises(KeyboardInterrupt):
        train_offline(first, transitions, ENV, CONFIG, seeds=SEEDS, tracker=Interrupting(), checkpoint=checkpoint)
    resumed = offline_learner(algorithm, transitions.spec(), Seeds(99))  # its first weights do not matter
    found = train_offline(resumed, transitions, ENV, CONFIG, seeds=SEEDS, checkpoint=checkpoint)
    # Sums on a GPU may be added up in another order, so not to the last bit.
    assert [e.update for e in found.evaluations] == [e.update for e in expected.evaluations]
    obs = transitions.obs[:200]
    one, two = (learner.policy.act(obs, greedy=True).cpu().numpy() for learner in (whole, resumed))
    assert np.mean(one == two) > 0.98
