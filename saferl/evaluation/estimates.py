"""``offline_estimate``: what a policy would earn and cost per episode, from data alone, with intervals.

Fitted-Q estimates are there for every policy, with percentile bootstraps over episodes as intervals; doubly-robust ones
where the policy's and the behaviour's densities are known, with t-intervals of the episodes' terms. Intervals cover the
chance in the data, not what the data never show, and for networks not the error of the features: estimates are no
verdicts, which need episodes of the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from saferl.data.dataset import Dataset
from saferl.errors import ConfigError, DataError, UnknownNameError
from saferl.evaluation.doubly_robust import cross_fitted
from saferl.evaluation.fitted_q import (
    Moments,
    Progress,
    Regression,
    network_regression,
    solve,
    start_values,
    tabular_regression,
    whole_numbers,
)
from saferl.evaluation.offline_actions import Conduct, conduct_of
from saferl.policy.artefact import PolicyArtefact
from saferl.policy.offline_actor import OfflineActor
from saferl.policy.offline_artefact import OfflineArtefact
from saferl.statistics import mean_interval_t

Array = npt.NDArray[np.float64]
Method = Literal["all", "fitted_q", "doubly_robust"]

METHODS = ("all", "fitted_q", "doubly_robust")
_RIDGE = 1e-6
_FEW = 20.0
"""Effective episodes below which a doubly-robust estimate comes with a warning."""


@dataclass(frozen=True)
class EstimateOptions:
    """How estimates are made."""

    draws: int = 4
    """Actions of a stochastic policy per state, >= 1; tables need none."""
    steps: int = 2000
    """Updates of the network that finds features, >= 0; tables need none."""
    width: int = 64
    """Of its two hidden layers, >= 1."""
    folds: int = 5
    """Parts of the data of which each gets a Q that was fitted on the others, >= 2."""
    resamples: int = 200
    """Of the bootstrap, >= 20."""
    confidence: float = 0.95
    """Of the intervals, in (0, 1)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        least = {"draws": 1, "steps": 0, "width": 1, "folds": 2, "resamples": 20}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ConfigError(f"EstimateOptions.{name} must be at least {smallest}; got {getattr(self, name)}.")
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(f"EstimateOptions.confidence must be between 0 and 1; got {self.confidence}.")


@dataclass(frozen=True)
class Estimate:
    """A value and its interval."""

    value: float
    """In units of the reward or cost, per episode."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end."""


@dataclass(frozen=True)
class SignalEstimates:
    """What is estimated of the return, or of one cost."""

    data: float
    """Mean of the data's own episodes, at the same horizon and discount."""
    fitted_q: Estimate | None
    """By fitted-Q evaluation; None if it was not asked for."""
    doubly_robust: Estimate | None
    """Doubly robust; None if it was not asked for, or is not there for this policy."""
    budget: float | None = None
    """Limit of an episode's cost sum to compare with."""


@dataclass(frozen=True)
class OfflineEstimate:
    """Estimates of a policy's episodes from data."""

    return_: SignalEstimates
    """Of the return."""
    costs: dict[str, SignalEstimates]
    """Of the costs by name."""
    horizon: int | None
    """Steps of an episode; None: discounted, without end."""
    gamma: float
    """Discount factor; 1: sums."""
    confidence: float
    """Of the intervals."""
    episodes: int
    """In the data."""
    effective_episodes: float | None
    """Episodes that the doubly-robust weights are worth; None without such estimates."""
    refusal: str | None
    """Why there are no doubly-robust estimates."""
    notes: tuple[str, ...]
    """What to keep in mind."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        data = asdict(self)
        return {
            "schema": 1,
            "is_verdict": False,
            "return": data.pop("return_"),
            **data,
            "notes": list(self.notes),
        }


def offline_estimate(
    policy: Any,
    dataset: Dataset,
    *,
    method: Method = "all",
    budgets: Mapping[str, float] | None = None,
    horizon: int | None = None,
    gamma: float = 1.0,
    deterministic: bool = False,
    seed: int = 0,
    options: EstimateOptions | None = None,
    progress: Progress | None = None,
) -> OfflineEstimate:
    """Expected return and costs per episode of ``policy``, estimated from episodes that others collected.

    Args:
        policy: An artefact of ``saferl.load``, an offline solver's ``actor()``, anything with ``predict`` and a bounded
            Box of actions; for data of whole numbers the table of its probabilities, (S, A).
        dataset: In env units. Doubly-robust estimates need its ``log_probs``.
        method: ``fitted_q``, ``doubly_robust`` (refused where there is no density), or ``all`` that are possible.
        budgets: Limits of the episodes' cost sums to show beside the estimates, and for a policy that takes budgets at
            run time those that it acts at. None: those that the artefact is judged by.
        horizon: Steps of an episode; None: the longest of the data, or no end if ``gamma`` is below 1.
        gamma: Discount factor, in (0, 1]. Budgets are of sums, that is of 1.
        deterministic: Whether the policy takes its mean or mode.
        seed: Of everything drawn.
        options: How estimates are made.
        progress: Called with the number of updates and resamples done since the last call.

    Raises:
        ConfigError: options out of range, a policy for other data, or no density where one is needed.
        DataError: fewer than 2 episodes, or a fit without bound.
        UnknownNameError: a budget for a cost that the data do not have, or an unknown method.

    Example:
        >>> data = Dataset.from_arrays(
        ...     observations=[[0], [0]], next_observations=[[0], [0]], actions=[[0], [1]], rewards=[1.0, 3.0],
        ...     costs=[0.0, 1.0], terminals=[True, True], timeouts=[False, False], log_probs=np.log([0.5, 0.5]),
        ... )
        >>> found = offline_estimate(np.array([[0.25, 0.75]]), data, method="fitted_q")
        >>> round(found.return_.fitted_q.value, 6), round(found.costs["cost"].fitted_q.value, 6)
        (2.5, 0.75)
    """
    options = options or EstimateOptions()
    _check_arguments(method, horizon, gamma, dataset)
    limits = _limits(policy, dataset, budgets)
    if horizon is None and gamma == 1.0:
        horizon = int((dataset.episode_ends - dataset.episode_starts).max())
    if isinstance(policy, np.ndarray):
        basis = _tabular_basis(policy, dataset, deterministic=deterministic)
    else:
        acting = _at_budgets(policy, limits)
        conduct = conduct_of(acting, dataset, draws=options.draws, deterministic=deterministic, seed=seed)
        basis = _Basis(conduct, conduct.log_ratios, conduct.refusal, (*conduct.notes, *_other_env(policy, dataset)))
    if method == "doubly_robust" and basis.refusal is not None:
        raise ConfigError(
            f"There is no doubly-robust estimate: {basis.refusal}. Use fitted-Q estimates (fitted_q), which need no "
            "density."
        )
    regression = (
        basis.source
        if isinstance(basis.source, Regression)
        else _learned_regression(dataset, basis.source, options, gamma, horizon, seed, progress)
    )
    task = _Task(regression, Moments(regression), gamma, horizon, options, np.random.default_rng(seed), progress)
    fitted = None if method == "doubly_robust" else task.fitted_q()
    robust, effective = None, None
    if method != "fitted_q" and basis.log_ratios is not None:
        robust, effective = task.doubly_robust(basis.log_ratios)
    notes = (*basis.notes, *_worth(effective, dataset), *_impossible(fitted or [], dataset, horizon, gamma))
    means = _data_means(dataset, horizon, gamma)
    every = [
        SignalEstimates(float(mean), fitted[i] if fitted else None, robust[i] if robust else None, limits.get(name))
        for i, (name, mean) in enumerate(zip(("", *dataset.cost_names), means, strict=True))
    ]
    return OfflineEstimate(
        return_=every[0],
        costs=dict(zip(dataset.cost_names, every[1:], strict=True)),
        horizon=horizon,
        gamma=gamma,
        confidence=options.confidence,
        episodes=dataset.num_episodes,
        effective_episodes=effective,
        refusal=basis.refusal if method == "all" else None,
        notes=notes,
    )


@dataclass(frozen=True)
class _Basis:
    """What is known of a policy along the data before anything is fitted."""

    source: Regression | Conduct
    """Its features, or its actions where a network has to find features."""
    log_ratios: Array | None
    """Of its to the behaviour's densities, (N,)."""
    refusal: str | None
    """Why there are none."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Task:
    """One regression and what is asked of it."""

    regression: Regression
    moments: Moments
    gamma: float
    horizon: int | None
    options: EstimateOptions
    rng: np.random.Generator
    progress: Progress | None

    def fitted_q(self) -> list[Estimate]:
        """Values of the reward and every cost, fitted anew for every resample of the episodes."""
        count = len(self.regression.starts)
        point = self._value(np.ones(count))
        drawn = np.zeros((self.options.resamples, len(point)))
        for i, counts in enumerate(self.rng.multinomial(count, np.full(count, 1.0 / count), size=len(drawn))):
            drawn[i] = self._value(counts.astype(np.float64))
            if self.progress is not None:
                self.progress(1)
        return self._intervals(point, drawn)

    def doubly_robust(self, log_ratios: Array) -> tuple[list[Estimate], float]:
        """Means of the episodes' terms, and how many episodes their weights are worth."""
        terms = cross_fitted(
            self.regression,
            self.moments,
            log_ratios,
            gamma=self.gamma,
            horizon=self.horizon,
            folds=self.options.folds,
            rng=self.rng,
        )
        estimates = []
        for column in terms.values.T:
            low, high = mean_interval_t(column, confidence=self.options.confidence)
            estimates.append(Estimate(float(column.mean()), low, high))
        return estimates, terms.effective_episodes

    def _value(self, counts: Array) -> Array:
        solution = solve(self.moments, counts, self.gamma, self.horizon)
        return start_values(self.regression, solution, counts)

    def _intervals(self, point: Array, drawn: Array) -> list[Estimate]:
        """Percentile intervals of every column of ``drawn``, (B, G)."""
        tail = 0.5 * (1.0 - self.options.confidence)
        low, high = np.quantile(drawn, [tail, 1.0 - tail], axis=0)
        return [Estimate(float(v), float(a), float(b)) for v, a, b in zip(point, low, high, strict=True)]


def _check_arguments(method: str, horizon: int | None, gamma: float, dataset: Dataset) -> None:
    if method not in METHODS:
        raise UnknownNameError("method of an offline estimate", method, METHODS)
    if not 0.0 < gamma <= 1.0:
        raise ConfigError(f"gamma must be above 0 and at most 1; got {gamma}.")
    if horizon is not None and horizon < 1:
        raise ConfigError(f"The horizon must be at least 1 step; got {horizon}.")
    if dataset.num_episodes < 2:
        raise DataError("Estimates with intervals need at least 2 episodes; the data have 1. Collect more.")


def _limits(policy: Any, dataset: Dataset, budgets: Mapping[str, float] | None) -> dict[str, float]:
    """Budgets by name, of costs that the data have."""
    for name in budgets or ():
        if name not in dataset.cost_names:
            raise UnknownNameError("cost of the data", name, dataset.cost_names)
    if budgets:
        return dict(budgets)
    if not isinstance(policy, PolicyArtefact):
        return {}
    judged = [c for c in policy.constraints if c.kind == "episode_sum" and c.sense == "<="]
    return {c.name: c.budget for c in judged if c.name in dataset.cost_names}


def _at_budgets(policy: Any, limits: Mapping[str, float]) -> Any:
    """``policy`` acting at ``limits``, where it takes budgets at run time."""
    actor = policy.policy if isinstance(policy, OfflineArtefact) else policy
    if not (isinstance(actor, OfflineActor) and actor.policy.takes_budgets):
        return policy
    known = {name: limit for name, limit in limits.items() if name in actor.cost_names}
    return policy.with_budgets(known) if known else policy


def _other_env(policy: Any, dataset: Dataset) -> tuple[str, ...]:
    own = policy.provenance.get("env") if isinstance(policy, PolicyArtefact) else None
    data = dataset.metadata.env_id
    if own is None or data is None or own == data:
        return ()
    return (f"The policy is for {own}; the data are from {data}.",)


def _learned_regression(
    dataset: Dataset,
    conduct: Conduct,
    options: EstimateOptions,
    gamma: float,
    horizon: int | None,
    seed: int,
    progress: Progress | None,
) -> Regression:
    """Features of a network; sums to a horizon are learned with the discount of about as many steps."""
    return network_regression(
        dataset,
        conduct,
        steps=options.steps,
        width=options.width,
        gamma=gamma if horizon is None else min(gamma, 1.0 - 1.0 / (horizon + 1)),
        ridge=_RIDGE,
        seed=seed,
        progress=progress,
    )


def _tabular_basis(policy: npt.NDArray[Any], dataset: Dataset, *, deterministic: bool) -> _Basis:
    is_table = policy.ndim == 2 and bool((policy >= 0.0).all() and (np.abs(policy.sum(axis=1) - 1.0) < 1e-6).all())
    if not is_table:
        raise ConfigError(
            f"A policy as a table must have shape (S, A) with probabilities in every row; got shape {policy.shape}."
        )
    table = np.eye(policy.shape[1])[policy.argmax(axis=1)] if deterministic else policy.astype(np.float64)
    regression = tabular_regression(table, dataset)
    if dataset.log_probs is None:
        return _Basis(regression, None, "the data have no log_probs, the behaviour's probabilities")
    states = whole_numbers(dataset.observations, table.shape[0], "observations")
    actions = whole_numbers(dataset.actions, table.shape[1], "actions")
    with np.errstate(divide="ignore"):
        own = np.log(table[states, actions])
    return _Basis(regression, own - dataset.log_probs.astype(np.float64), None)


def _worth(effective: float | None, dataset: Dataset) -> tuple[str, ...]:
    """A note on weights that rest on few episodes."""
    if effective is None or effective >= _FEW:
        return ()
    return (
        f"The doubly-robust weights are worth {effective:.3g} of {dataset.num_episodes} episodes: the policy does "
        "other things than the data. These estimates are mostly chance, and their intervals too narrow.",
    )


def _impossible(fitted: list[Estimate], dataset: Dataset, horizon: int | None, gamma: float) -> tuple[str, ...]:
    """Notes on values that no sum of the data's rewards or costs can have."""
    most = float(horizon) if gamma == 1.0 and horizon is not None else 1.0 / max(1.0 - gamma, 1e-12)
    columns, names = [dataset.rewards, *dataset.costs.T], ("the return", *dataset.cost_names)
    notes = []
    for name, estimate, column in zip(names, fitted, columns, strict=False):
        low, high = most * min(0.0, float(column.min())), most * max(0.0, float(column.max()))
        slack = 1e-6 * max(1.0, high - low)
        if not low - slack <= estimate.value <= high + slack:
            notes.append(
                f"The fitted value of {name}, {estimate.value:.4g}, lies outside {low:.4g} to {high:.4g}, all that the "
                "data's steps can add up to: the policy does what the data do not show. Do not use it."
            )
    return tuple(notes)


def _data_means(dataset: Dataset, horizon: int | None, gamma: float) -> Array:
    """Mean (discounted) sums of the data's own episodes, (1 + C,)."""
    starts = dataset.episode_starts
    steps = np.arange(len(dataset)) - np.repeat(starts, dataset.episode_ends - starts)
    weights = gamma**steps * (1.0 if horizon is None else steps < horizon)
    signals = np.hstack([dataset.rewards[:, None], dataset.costs]).astype(np.float64)
    sums: Array = np.add.reduceat(weights[:, None] * signals, starts, axis=0)
    return np.asarray(sums.mean(axis=0))
