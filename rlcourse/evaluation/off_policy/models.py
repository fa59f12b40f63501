r"""Models of what a policy is worth, fitted to a log that another policy wrote.

Both solve the same equation, :math:`Q(s,a) = r + \gamma \sum_{a'} \pi(a'|s')\, Q(s', a')`, over the *target* policy's next
action. Whoever puts the logged next action there evaluates the logger. Over continuous actions the sum is a mean over actions
drawn from the target policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.evaluation.off_policy.trajectories import Trajectories
from rlcourse.networks import Descent, QNetwork, TwinActionQNetwork, frozen_copy, polyak_update_
from rlcourse.objectives.importance import taken_and_expected
from rlcourse.objectives.values import bellman_target, taken
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ContinuousActions


@dataclass(frozen=True)
class ModelValues:
    """What a model says along the logged episodes."""

    q: Tensor  # (N, T) of the logged action
    value: Tensor  # (N, T) of the state, over the target policy's actions
    tail: Tensor  # (N,) of where an episode was cut off; 0 where the task ended
    cross_fitted: bool = False
    """Every episode was judged by a model that had not seen it."""
    behind: Tensor | None = None
    """``(N,)`` what the model that judges an episode expects behind the last step, on average over the episodes that it was
    fitted to; ``None`` if nothing."""

    def until_the_cut(self, log: Trajectories) -> tuple[Tensor, Tensor]:
        r"""``(N, T)`` q and value without :math:`\gamma^{T-t}` times :attr:`behind`: what is left to earn until the time limit.

        A number that depends on t alone leaves doubly robust estimates unbiased, whatever it is; this one takes out of the
        weighed surprises what the model expects after the log has stopped.
        """
        if self.behind is None:
            return self.q, self.value
        left = log.horizon - torch.arange(log.horizon, dtype=self.q.dtype)
        later = log.gamma**left * self.behind.unsqueeze(-1)
        return self.q - later, self.value - later


@dataclass(frozen=True)
class FQEConfig:
    """Settings of fitted Q evaluation."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers."""
    updates: int = 5_000
    """Gradient steps for each model. ``updates`` times ``target_rate`` is about how many steps ahead it comes to see; it
    has to be well beyond 1 / (1 - gamma), or the values come out too low."""
    batch_size: int = 256
    """Transitions in one gradient step."""
    learning_rate: float = 1e-3
    """Adam's first step; it falls linearly to zero."""
    target_rate: float = 0.1
    """rho, how far the target network moves at each update. Lower is calmer and sees less far."""
    folds: int = 2
    """Parts of the log; each is judged by a model fitted to the others. 1 judges what it was fitted to."""

    def __post_init__(self) -> None:
        if min(self.updates, self.batch_size, self.folds) < 1:
            raise ConfigError("updates, batch_size and folds count things.", mend="Use 1 or more of each.")


def fitted_q_evaluation(log: Trajectories, config: FQEConfig | None = None, *, seeds: Seeds) -> ModelValues:
    r"""Fit :math:`Q^\pi` with a network, by steps towards :math:`r + \gamma \sum_{a'} \pi(a'|s') \bar Q(s',a')`.

    Le, Voloshin and Yue (2019), algorithm 3. Departures: a target network that follows by a Polyak average instead of a new
    fit to convergence at every iteration; no value may leave the range that the logged rewards allow
    (:func:`possible_values`), without which a network is free to promise more than there is; and the network answers in
    :func:`usual_value` of the log, so that a change of the rewards' unit changes the answer's unit and nothing else.

    Args:
        log: made by :meth:`Trajectories.from_episodes`.
        config: settings.
        seeds: first weights, batches and folds draw from its streams.

    Raises:
        DatasetInvalidError: the log has no observations, or fewer episodes than folds.
    """
    config = config or FQEConfig()
    obs, ended, asking = _asking(log)
    if log.num_episodes < config.folds:
        raise DatasetInvalidError(
            f"{log.num_episodes} episodes cannot be split into {config.folds} parts.",
            mend="Log more, or use one part (folds = 1, --fqe.folds 1).",
        )
    order = torch.randperm(log.num_episodes, generator=seeds.torch("folds"))
    q, value = torch.zeros_like(log.reward), torch.zeros(log.num_episodes, log.horizon + 1, dtype=torch.float64)
    behind, last = torch.zeros(log.num_episodes, dtype=torch.float64), log.mask.sum(-1).long()
    unit = usual_value(log)
    bounds = _bounds_in(unit, log)
    for number, judged in enumerate(order.chunk(config.folds)):
        others = torch.ones(log.num_episodes, dtype=torch.bool)
        others[judged] = config.folds == 1
        network = _fit(log, others, config, seeds.child(f"fold {number}"))
        with torch.no_grad():
            said = asking.taken(network, obs[judged, :-1], judged, bounds)
            expected = asking.expected(network, obs[judged], asking.future[judged], bounds)
            ends = asking.expected(network, obs[others, last[others]], asking.future[others, last[others]], bounds)
        behind[judged] = unit * (ends.double() * ~ended[others]).mean()
        q[judged], value[judged] = unit * said.double(), unit * expected.double()
    return ModelValues(q, value[:, :-1], _tail(value, log, ended), cross_fitted=config.folds > 1, behind=behind)


def _fit(log: Trajectories, episodes: Tensor, config: FQEConfig, seeds: Seeds) -> nn.Module:
    obs, ended, asking = _asking(log)
    there = (log.mask > 0) & episodes.unsqueeze(-1)  # (N, T)
    seen, then = obs[:, :-1][there], obs[:, 1:][there]  # (S, D)
    unit = usual_value(log)
    done, reward = asking.action[there], (log.reward[there] / unit).float()
    ahead = asking.future[:, 1:][there]  # (S, ...) what the target policy would do next
    goes_on = 1.0 - _last(log.mask, ended)[there]
    discount = (log.gamma * goes_on).float()
    with seeds.initialising("networks"):
        network = asking.network(seen, config.hidden)
    target, bounds = frozen_copy(network), _bounds_in(unit, log)

    def loss(index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.no_grad():
            expected = asking.expected(target, then[index], ahead[index], bounds)
            aim = bellman_target(reward[index], discount[index], expected.float())
        said = asking.of(network, seen[index], done[index])
        error = (said - aim).square().mean()
        return error, (error.detach(),)

    descent = Descent(
        loss,
        network.parameters(),
        config.learning_rate,
        follow=lambda: polyak_update_(target, network, config.target_rate),
    )
    drawing = seeds.torch("batches")
    for update in range(config.updates):
        if update % 50 == 0:
            descent.anneal(1.0 - update / config.updates)
        descent.step(torch.randint(len(seen), (config.batch_size,), generator=drawing))
    return network


def possible_values(log: Trajectories) -> tuple[float, float]:
    """The lowest and highest value that rewards like the logged ones can add up to, over 1 / (1 - gamma) steps or the horizon.

    Worked number: rewards between 0 and 1 with gamma 0.99 allow values from 0 to 100.
    """
    paid = log.reward[log.mask > 0]
    steps = float(log.horizon) if log.gamma == 1.0 else 1.0 / (1.0 - log.gamma)
    return steps * min(0.0, float(paid.min())), steps * max(0.0, float(paid.max()))


def usual_value(log: Trajectories) -> float:
    """The size of what the logged steps led to, discounted (root mean square): the unit in which a network learns values.

    One step of Adam moves a network's answer by about the same whatever the error is. In rewards' own unit a value of -200 is
    thousands of updates away, and until then all policies look alike.

    Worked number: one episode of two steps that pay 1 and 3, gamma 1, leads to 4 and 3, of size sqrt((16 + 9) / 2) = 3.54.
    """
    led_to = torch.zeros_like(log.reward)
    ahead = torch.zeros_like(log.reward[:, 0])
    for t in reversed(range(log.horizon)):
        ahead = log.mask[:, t] * log.reward[:, t] + log.gamma * ahead
        led_to[:, t] = ahead
    size = float(led_to[log.mask > 0].square().mean().sqrt())
    return size if size > 0.0 else 1.0  # nothing was ever paid


def _bounds_in(unit: float, log: Trajectories) -> tuple[float, float]:
    lowest, highest = possible_values(log)
    return lowest / unit, highest / unit


@dataclass(frozen=True)
class LinearModel:
    r"""Q as a linear function of features, solved in one step instead of learned in many.

    Sums over each episode's steps, from which any resample can be solved anew:

    .. math:: A = \sum \phi(s,a)\big(\phi(s,a) - \gamma\,\phi_\pi(s')\big)^\top,\quad b = \sum \phi(s,a)\,r,\quad
              \theta = A^{-1} b

    Over continuous actions :math:`\phi(s,a)` multiplies the state's features by 1, the action's entries and their products.
    Lagoudakis and Parr (2003), LSTD-Q: where fitted Q evaluation with linear features comes to rest. With one-hot states it is
    the log's own table of transitions, solved exactly. :math:`\phi_\pi(s) = \sum_a \pi(a|s)\,\phi(s,a)`.
    """

    matrix: Tensor  # (N, P, P)
    reward: Tensor  # (N, P)
    start: Tensor  # (N, P) phi_pi of the first state
    ridge: float

    @property
    def num_episodes(self) -> int:
        """``N``."""
        return self.start.shape[0]

    def value(self, counts: Tensor) -> Tensor:
        """``(B, N)`` counts to ``(B,)``: the mean of the first states' values, with the model fitted anew to each resample."""
        theta = _solve(self.system(counts), counts @ self.reward)  # (B, P)
        return (theta * (counts @ self.start)).sum(-1) / counts.sum(-1)

    def system(self, counts: Tensor) -> Tensor:
        """``(B, N)`` counts to the ``(B, P, P)`` matrices A."""
        size = self.start.shape[-1]
        matrix: Tensor = (counts @ self.matrix.flatten(1)).unflatten(-1, (size, size))
        return matrix + self.ridge * torch.eye(size, dtype=matrix.dtype)


def linear_model(log: Trajectories, features: Tensor, *, ridge: float = 1e-6) -> LinearModel:
    """Sum up what :class:`LinearModel` solves.

    Args:
        log: made by :meth:`Trajectories.from_episodes`.
        features: ``(N, T + 1, F)`` of the states. Each action has its own copy, so P is A times F; of a continuous action
            each of its 1 + K + K (K + 1) / 2 terms has.
        ridge: added to the matrix's diagonal, so that features that never occur do no harm.
    """
    phi, expected, goes_on = _features(log, features)
    difference = phi - log.gamma * goes_on.unsqueeze(-1) * expected[:, 1:]
    return LinearModel(
        matrix=torch.einsum("ntp,ntq->npq", phi, difference),
        reward=torch.einsum("ntp,nt->np", phi, log.reward),
        start=expected[:, 0],
        ridge=ridge,
    )


def step_weights(log: Trajectories, features: Tensor, *, ridge: float = 1e-6) -> Tensor:
    r"""Weights for single steps instead of whole episodes: how much more often the target policy would be *here*.

    .. math:: w(s,a) \approx \frac{\sum_t \gamma^t\, \Pr_\pi(s_t = s, a_t = a)}{\sum_t \Pr_{\mathcal D}(s_t = s, a_t = a)}
              = \phi(s,a)^\top \alpha,\qquad A^\top \alpha = \sum_i \phi_\pi(s_{i,0})

    with :class:`LinearModel`'s A. The product over time is gone, and with it what grows with the horizon; what has to hold
    instead is that the features can express the ratio. Uehara, Huang and Jiang (2020), minimax weight learning with linear
    functions on both sides; the family is that of DualDICE (Nachum et al. 2019).

    Args:
        log: made by :meth:`Trajectories.from_episodes`.
        features: ``(N, T + 1, F)`` of the states.
        ridge: see :func:`linear_model`.

    Returns:
        ``(N, T)``, 0 where there was no step. Some may come out negative, which no ratio is: a sign that the features are poor.

    Raises:
        DatasetInvalidError: the target policy has no density.
    """
    if not log.weighable:
        raise DatasetInvalidError(
            "A deterministic policy over continuous actions has no density, so there is no ratio for the weights to be.",
            mend="Use fqe or linear, or give the policy a spread.",
        )
    model = linear_model(log, features, ridge=ridge)
    everything = torch.ones(1, log.num_episodes, dtype=torch.float64)
    alpha = _solve(model.system(everything).mT, everything @ model.start).flatten()
    return _features(log, features)[0] @ alpha


def linear_values(log: Trajectories, features: Tensor, *, ridge: float = 1e-6) -> ModelValues:
    """A linear model's values along the episodes that it was fitted to."""
    _, ended, asking = _asking(log)
    model = linear_model(log, features, ridge=ridge)
    everything = torch.ones(1, log.num_episodes, dtype=torch.float64)
    theta = _solve(model.system(everything), everything @ model.reward).flatten()
    taken, expected = asking.terms()
    values = features.double() @ theta.unflatten(0, (expected.shape[-1], -1)).mT  # (N, T + 1, G)
    q, value = (taken * values[:, :-1]).sum(-1), (expected * values).sum(-1)
    tail = _tail(value, log, ended)
    return ModelValues(q, value[:, :-1], tail, behind=tail.mean().expand(log.num_episodes))


def after_the_cut(log: Trajectories, features: Tensor, *, ridge: float = 1e-6) -> Tensor:
    r"""What the *logger* would have earned behind each cut-off end, discounted to the episode's beginning.

    A linear model of its values, with the logged next state:
    :math:`\sum \phi(s)(\phi(s) - \gamma\,\phi(s'))^\top \theta = \sum \phi(s)\,r`. Bradtke and Barto (1996), LSTD. It is asked
    where the log is, and there its form matters least.

    Args:
        log: made by :meth:`Trajectories.from_episodes`.
        features: ``(N, T + 1, F)`` of the states.
        ridge: added to the matrix's diagonal.

    Returns:
        ``(N,)``, 0 where the task ended.
    """
    _, ended, _ = _asking(log)
    states, lengths = features.double(), log.mask.sum(-1)
    here = states[:, :-1] * log.mask.unsqueeze(-1)
    goes_on = (1.0 - _last(log.mask, ended)).unsqueeze(-1)
    matrix = torch.einsum("ntf,ntg->fg", here, states[:, :-1] - log.gamma * goes_on * states[:, 1:])
    right = torch.einsum("ntf,nt->f", here, log.reward)
    theta = torch.linalg.solve(matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype), right)
    return log.gamma**lengths * _tail(states @ theta, log, ended)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    # (B, P, P) and (B, P) to (B, P).
    solution: Tensor = torch.linalg.solve(matrix, right.unsqueeze(-1)).squeeze(-1)
    return solution


def _features(log: Trajectories, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # (N, T, P) of what was done, (N, T + 1, P) of what the target policy would do, (N, T) 1 where something follows.
    _, ended, asking = _asking(log)
    done, would_do = asking.terms()
    if states.shape[:2] != would_do.shape[:2]:
        raise ShapeError(
            f"Features have shape {tuple(states.shape)}, the log is {tuple(would_do.shape[:2])} states.",
            mend="Give a feature vector for every state, that after the last step included: (N, T + 1, F).",
        )
    taken = done * log.mask.unsqueeze(-1)
    phi = torch.einsum("nta,ntf->ntaf", taken, states[:, :-1].double()).flatten(-2)
    expected = torch.einsum("nta,ntf->ntaf", would_do, states.double()).flatten(-2)
    return phi, expected, log.mask * (1.0 - _last(log.mask, ended))


class _Counted:
    """How a model is asked about actions that can be listed: all of them at once, then weighed by their probabilities."""

    def __init__(self, action: Tensor, all_target: Tensor) -> None:
        self.action = action  # (N, T) int64
        self.future = all_target  # (N, T + 1, A)

    def network(self, seen: Tensor, hidden: tuple[int, ...]) -> nn.Module:
        return QNetwork(seen.mean(0), seen.std(0), hidden, self.future.shape[-1])

    def of(self, network: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
        values: Tensor = network(obs)
        return taken(values, action)

    def taken(self, network: nn.Module, obs: Tensor, episodes: Tensor, bounds: tuple[float, float]) -> Tensor:
        return taken_and_expected(network(obs).clamp(*bounds), self.future[episodes, :-1], self.action[episodes])[0]

    def expected(self, network: nn.Module, obs: Tensor, future: Tensor, bounds: tuple[float, float]) -> Tensor:
        nothing = torch.zeros(obs.shape[:-1], dtype=torch.int64)  # what was logged is of no account here
        return taken_and_expected(network(obs).clamp(*bounds), future, nothing)[1]

    def terms(self) -> tuple[Tensor, Tensor]:
        return functional.one_hot(self.action, self.future.shape[-1]).double(), self.future


class _Drawn:
    """How a model is asked about actions that cannot be listed: about some that the target policy would take."""

    def __init__(self, action: Tensor, drawn: Tensor) -> None:
        self.action = action  # (N, T, K)
        self.future = drawn  # (N, T + 1, M, K)
        flat = torch.cat([action.flatten(0, -2), drawn.flatten(0, -2)])
        self._actions = ContinuousActions(flat.amin(0), flat.amax(0))

    def network(self, seen: Tensor, hidden: tuple[int, ...]) -> nn.Module:
        return TwinActionQNetwork(seen.mean(0), seen.std(0), hidden, self._actions)

    def of(self, network: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
        values: Tensor = network(
            obs, action
        )  # (2, B): both learn from the same target, each from its own first weights
        return values

    def taken(self, network: nn.Module, obs: Tensor, episodes: Tensor, bounds: tuple[float, float]) -> Tensor:
        return self._mean(network, obs, self.action[episodes], bounds)

    def expected(self, network: nn.Module, obs: Tensor, future: Tensor, bounds: tuple[float, float]) -> Tensor:
        repeated = obs.unsqueeze(-2).expand(*future.shape[:-1], -1)
        return self._mean(network, repeated, future, bounds).mean(-1)

    def terms(self) -> tuple[Tensor, Tensor]:
        return self._terms(self.action), self._terms(self.future).mean(-2)

    def _mean(self, network: nn.Module, obs: Tensor, action: Tensor, bounds: tuple[float, float]) -> Tensor:
        values: Tensor = network(obs.flatten(0, -2), action.flatten(0, -2)).clamp(*bounds)
        both: Tensor = values.mean(0).unflatten(0, action.shape[:-1])
        return both

    def _terms(self, action: Tensor) -> Tensor:
        scaled = ((action - self._actions.centre) / self._actions.half_range.clamp_min(1e-6)).double()
        first, second = torch.triu_indices(scaled.shape[-1], scaled.shape[-1])
        return torch.cat([torch.ones_like(scaled[..., :1]), scaled, scaled[..., first] * scaled[..., second]], dim=-1)


def _asking(log: Trajectories) -> tuple[Tensor, Tensor, _Counted | _Drawn]:
    if log.obs is None or log.action is None or log.terminated is None:
        raise DatasetInvalidError(
            "A model of values needs observations and actions.", mend="Make the log with Trajectories.from_episodes."
        )
    if log.drawn is not None:
        return log.obs, log.terminated, _Drawn(log.action, log.drawn)
    if log.all_target is None:
        raise DatasetInvalidError(
            "A model of values needs to know what the target policy would do.",
            mend="Make the log with Trajectories.from_episodes.",
        )
    return log.obs, log.terminated, _Counted(log.action, log.all_target)


def _last(mask: Tensor, ended: Tensor) -> Tensor:
    # (N, T): 1 at the last step of an episode that the task ended; nothing follows it.
    after = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=-1)
    return mask * (1.0 - after) * ended.unsqueeze(-1).double()


def _tail(value: Tensor, log: Trajectories, ended: Tensor) -> Tensor:
    # (N, T + 1) values of states to (N,): of the one behind the last step, unless the task ended there.
    last = log.mask.sum(-1).long().unsqueeze(-1)
    return value.gather(-1, last).squeeze(-1) * (~ended).double()
