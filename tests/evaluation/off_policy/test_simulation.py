"""A learned model of the task, where the answer is known in closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlcourse.errors import DatasetInvalidError
from rlcourse.evaluation.off_policy import DynamicsConfig, fit_dynamics, simulated_values
from rlcourse.randomness import Seeds
from tests.evaluation.off_policy.problems import played, problem
from tests.evaluation.off_policy.test_continuous import TARGET, gaussian, laid, true_value

CONFIG = DynamicsConfig(updates=1_500)


def test_one_model_gives_every_policy_its_own_value() -> None:
    """Linear dynamics with a quadratic cost; the model was fitted beside TARGET, and knows nothing of it."""
    log = laid(400, 20, seed=1)
    dynamics = fit_dynamics(log, CONFIG, seeds=Seeds(0))
    for policy, gain, std in ((TARGET, -0.5, 0.5), (gaussian(-0.8, 0.3), -0.8, 0.3)):
        found = float(simulated_values(dynamics, policy, log, seeds=Seeds(0)).mean())
        assert found == pytest.approx(true_value(gain, std, 20), rel=0.08)
    assert abs(true_value(-0.8, 0.3, 20) - true_value(-0.3, 0.6, 20)) > 0.2 * abs(true_value(-0.3, 0.6, 20))


def test_a_step_is_what_the_task_does_on_average_and_stays_where_the_log_has_been() -> None:
    log = laid(400, 20, seed=1)
    dynamics = fit_dynamics(log, CONFIG, seeds=Seeds(0))
    obs, action = torch.tensor([[0.5], [-0.5]]), torch.tensor([[0.2], [0.3]])
    after, reward = dynamics.step(obs, action)
    torch.testing.assert_close(after, 0.9 * obs + action, rtol=0.0, atol=0.1)
    torch.testing.assert_close(reward, -(obs.square() + action.square()).squeeze(-1), rtol=0.0, atol=0.15)
    assert log.obs is not None
    far, paid = dynamics.step(torch.tensor([[100.0]]), torch.tensor([[9.0]]))
    assert float(far) == float(log.obs[:, 1:].max()) and float(paid) >= float(log.reward.min()) - 1e-4


def test_what_it_cannot_model_is_refused() -> None:
    with pytest.raises(DatasetInvalidError, match="continuous actions"):
        fit_dynamics(played(problem(), 5, 6, 0.9, Seeds(0).torch("episodes")), CONFIG, seeds=Seeds(0))
    log = laid(4, 5, seed=0)
    with pytest.raises(DatasetInvalidError, match="ended 4 episodes"):
        fit_dynamics(replace(log, terminated=torch.ones(4, dtype=torch.bool)), CONFIG, seeds=Seeds(0))
