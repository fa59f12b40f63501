"""Choosing among noisy scores: worked numbers, simulations, and Optuna's own pruner as the oracle."""

from __future__ import annotations

import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial

from rlcourse.evaluation.selection import below_median, expected_best, shrunken_scores


def test_the_worked_numbers() -> None:
    assert expected_best(torch.tensor([1.0, 0.0]), 2).item() == pytest.approx(0.75)
    others = torch.tensor([[1.0, 10.0, 99.0], [2.0, 20.0, 0.0], [3.0, 90.0, 50.0]])
    assert below_median(others, torch.tensor([[5.0, 19.0], [21.0, 3.0]]), 3).tolist() == [True, False]
    returns = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert shrunken_scores(returns).tolist() == pytest.approx([1.25, 4.75])


def test_the_expected_best_is_the_mean_of_many_maxima() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, generator=generator)
    for num_tries in (1, 3, 20):
        drawn = scores[torch.randint(40, (200_000, num_tries), generator=generator)].amax(1)
        assert expected_best(scores, num_tries).item() == pytest.approx(drawn.mean().item(), abs=0.01)
    assert expected_best(scores, 1).item() == pytest.approx(scores.mean().item(), abs=1e-6)


def test_nothing_is_pruned_before_enough_are_finished() -> None:
    assert below_median(torch.tensor([[5.0]]), torch.tensor([[1.0]]), 2).tolist() == [False]


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_is_optuna_s(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    finished = torch.randn(7, 6, generator=generator)
    study = optuna.create_study(direction="maximize")
    for row in finished.tolist():
        study.add_trial(
            create_trial(state=TrialState.COMPLETE, value=row[-1], intermediate_values=dict(enumerate(row)))
        )
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    reports = torch.randn(6, generator=generator)
    for seen in range(1, 7):
        running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(reports[:seen].tolist())))
        assert below_median(finished, reports[None, :seen], 4).item() == pruner.prune(study, running)


def test_shrinking_brings_the_winner_closer_to_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    raw, shrunken = [], []
    for _ in range(300):
        truth = 10 * torch.randn(30, generator=generator)
        returns = truth[:, None] + 30 * torch.randn(30, 3, generator=generator)
        winner = returns.mean(1).argmax()
        raw.append(returns.mean(1)[winner] - truth[winner])
        shrunken.append(shrunken_scores(returns)[winner] - truth[winner])
    assert torch.stack(raw).mean() > 20
    assert torch.stack(shrunken).mean().abs() < 5


def test_what_seeds_alone_explain_leaves_the_common_mean() -> None:
    returns = torch.tensor([[0.0, 10.0], [10.0, 0.0], [4.0, 8.0]])
    assert shrunken_scores(returns).tolist() == pytest.approx([returns.mean().item()] * 3)
