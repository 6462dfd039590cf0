r"""SafetyLayer: corrects the action by a learned linear model of the next costs (Dalal et al., arXiv 1801.08757, 2018).

A network of the observation predicts every cost of the next step as a linear function of the action,

    c_i(s, a) ~ b_i(s) + g_i(s)'a,      a in units of half the range of every action, about its middle,

and the action is moved as little as possible to keep all of them within their limits C_i:

    a* = argmin |a - a0|^2   subject to   b_i(s) + g_i(s)'a <= C_i,   low <= a <= high

With one limit exceeded this is a* = a0 - g (b + g'a0 - C) / (g'g), cut at the box by the closed form of
:mod:`saferl.shields.qp`; with several it is the quadratic program. Where no action keeps all limits, the least
violation is executed and recorded as ``infeasible``.

:func:`fit_safety_layer` trains the network by least squares on transitions of any policy (torch). Inference is numpy.

What it guarantees: nothing formal ("empirical"). The model is learned and of first order, and a cost that the next
action cannot change (a position limit, say) is seen too late unless the cost looks ahead: use the distance to the limit
minus the braking distance, not the distance.

Differences from the paper: b_i is learned from the observation instead of being a measured c_i(s), so that nothing but
the observation is needed; one network has a head per cost; several active limits are solved exactly, where the paper
corrects for the one with the largest multiplier; the box of actions is part of the program.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError, missing_extra
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.networks import Network
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldSpec
from saferl.shields.qp import TIGHTENING, load_solver, nearest_one_row, project

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SafetyLayerConfig:
    """How :func:`fit_safety_layer` trains."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    learning_rate: float = 1e-3
    """Of Adam."""
    batch_size: int = 256
    """Transitions per gradient step."""
    epochs: int = 20
    """Passes over the transitions."""
    validation: float = 0.1
    """Share of the transitions that is kept apart to state the error."""
    seed: int = 0
    """Of the split, the first weights and the order of the batches."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        is_wrong = (
            self.learning_rate <= 0.0 or self.batch_size < 1 or self.epochs < 1 or min(self.hidden, default=1) < 1
        )
        if is_wrong or not 0.0 < self.validation < 1.0:
            raise ConfigError(
                f"Training a safety layer needs positive sizes and rates, and validation in (0, 1); got {self}."
            )


class SafetyLayer(Shield):
    """Corrects the action by a learned linear model of the next cost.

    Example:
        >>> always = Network((np.zeros((2, 1)),), (np.array([0.0, 1.0]),))  # b = 0, g = 1
        >>> layer = SafetyLayer(ActionSpec.box([-2.0], [2.0]), always, limits=[0.25])
        >>> layer.filter(np.zeros(1), [1.5]).action.round(6).tolist()
        [0.5]
    """

    unit = "safety_layer"

    def __init__(
        self,
        action_space: Any,
        model: Network,
        limits: npt.ArrayLike,
        *,
        report: Mapping[str, Any] | None = None,
        time_budget_us: float | None = None,
    ) -> None:
        """Keep the model.

        Args:
            action_space: A box.
            model: From the flat observation to k (1 + dim) outputs: b of all k costs, then g of the first, ....
            limits: C of every cost, shape (k,), in units of the costs.
            report: What training says about the model's error; kept with it.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: a model of another shape, or limits that are not finite.
            MissingExtraError: several costs, and DAQP is not installed.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        self.limits = np.atleast_1d(np.asarray(limits, dtype=np.float64))
        k, dim = len(self.limits), self.actions.dim
        if self.limits.ndim != 1 or not np.isfinite(self.limits).all() or model.outputs != k * (1 + dim):
            raise ConfigError(
                f"{self.unit}: {k} finite limits and {dim} actions need a model of {k * (1 + dim)} outputs; got limits "
                f"{self.limits.tolist()} and {model.outputs} outputs."
            )
        self.model, self.report = model, dict(report or {})
        space = self.actions
        assert space.low is not None  # a box: checked by the frame
        assert space.high is not None
        self._low = (space.low - space.middle) / space.half_range
        self._high = (space.high - space.middle) / space.half_range
        if k > 1:
            load_solver()

    def spec(self) -> ShieldSpec:
        """Empirical, whatever the error of the model."""
        return CATALOGUE[self.unit].spec(
            self.unit,
            assumptions=("The learned cost model is right where it is used.", "Costs react to the very next action."),
        )

    def predict(self, obs: Any) -> tuple[Array, Array]:
        """Base b of shape (k,) and gain g of shape (k, dim): costs of the next step by the action in half ranges.

        Raises:
            ValueError: an observation of another length.
        """
        x = np.asarray(obs, dtype=np.float64).reshape(-1)
        if len(x) != self.model.inputs:
            raise ValueError(f"the observation must have {self.model.inputs} numbers; got {len(x)}")
        k = len(self.limits)
        out = self.model(x[None])[0]
        return out[:k], out[k:].reshape(k, self.actions.dim)

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        space = self.actions
        base, gain = self.predict(obs)
        start = (proposed - space.middle) / space.half_range
        room = self.limits - base
        left = room - gain @ np.clip(start, self._low, self._high)
        margin = float(left.min())
        if margin >= 0.0:
            return Ruling(proposed, margin=margin)
        point = self._closed_form(start, gain, room, left)
        if point is not None:
            return Ruling(space.middle + space.half_range * point, margin=margin)
        found = project(start, -gain, -room, self._low, self._high)
        action = space.middle + space.half_range * found.action
        if found.status in ("pass", "solved"):
            return Ruling(action, margin=margin)
        return Ruling(action, "infeasible", margin, found.shortfall, "no action keeps all limits: least violation")

    def _closed_form(self, start: Array, gain: Array, room: Array, left: Array) -> Array | None:
        """The answer where one limit is exceeded and correcting it exceeds no other; None otherwise."""
        exceeded = np.flatnonzero(left < 0.0)
        length = float(np.sqrt(gain[exceeded[0]] @ gain[exceeded[0]]))
        if len(exceeded) > 1 or length < 1e-12:
            return None
        row = -gain[exceeded[0]] / length
        point = nearest_one_row(start, row, float(-room[exceeded[0]]) / length + TIGHTENING, self._low, self._high)
        return point if point is not None and bool((gain @ point <= room).all()) else None

    def _to_data(self) -> ShieldData:
        options, arrays = self.model.to_arrays("model")
        return ShieldData({"model": options, "report": self.report}, {**arrays, "limits": self.limits})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        model = Network.from_arrays(data.config["model"], data.arrays)
        return cls(action_space, model, data.arrays["limits"], report=data.config["report"])


def fit_safety_layer(
    obs: npt.ArrayLike,
    actions: npt.ArrayLike,
    costs: npt.ArrayLike,
    *,
    action_space: Any,
    limits: npt.ArrayLike,
    config: SafetyLayerConfig | None = None,
) -> SafetyLayer:
    """A safety layer whose model was fitted to transitions; its ``report`` states the error on transitions kept apart.

    Args:
        obs: Observations before the step, shape (N, n).
        actions: Executed actions in env units, shape (N, dim).
        costs: Costs of that step, shape (N, k) or (N,): any signal that must stay below its limit, best one that says
            how far it is from it (``info["margins"]``).
        action_space: A box.
        limits: Of every cost, shape (k,).
        config: How to train.

    Raises:
        ConfigError: arrays that do not fit, too few transitions, or numbers that are not finite.
        MissingExtraError: torch is not installed.
    """
    config = config if config is not None else SafetyLayerConfig()
    space = ActionSpec.of(action_space)
    x, a, c = (np.asarray(part, dtype=np.float64) for part in (obs, actions, costs))
    c = c[:, None] if c.ndim == 1 else c
    k = len(np.atleast_1d(np.asarray(limits)))
    if x.ndim != 2 or a.shape != (len(x), space.dim) or c.shape != (len(x), k) or len(x) < 2:
        raise ConfigError(
            f"Fitting needs observations (N, n), actions (N, {space.dim}) and costs (N, {k}), N >= 2; got {x.shape}, "
            f"{a.shape} and {c.shape}."
        )
    if not all(np.isfinite(part).all() for part in (x, a, c)):
        raise ConfigError("Transitions must be finite; observations, actions or costs hold NaN or infinity.")
    scaled = (a - space.middle) / space.half_range
    order = np.random.default_rng(config.seed).permutation(len(x))
    kept = max(1, round(config.validation * len(x)))
    model = _train(x, scaled, c, order[kept:], config)
    layer = SafetyLayer(space, model, limits)
    outputs = model(x[order[:kept]])
    predicted = outputs[:, :k] + np.einsum("nkd,nd->nk", outputs[:, k:].reshape(kept, k, -1), scaled[order[:kept]])
    error = np.sqrt(np.mean((predicted - c[order[:kept]]) ** 2, axis=0))
    layer.report = {"rmse": error.tolist(), "std": c.std(axis=0).tolist(), "transitions": len(x), "kept_apart": kept}
    return layer


def _train(x: Array, actions: Array, costs: Array, rows: npt.NDArray[np.int64], config: SafetyLayerConfig) -> Network:
    """Least squares of b(s) + g(s)'a against the costs by Adam; costs are scaled while training."""
    torch = _torch()
    k, dim = costs.shape[1], actions.shape[1]
    mean, scale = x[rows].mean(axis=0), x[rows].std(axis=0)
    scale = np.where(scale > 1e-8, scale, 1.0)
    shift, size = costs[rows].mean(axis=0), np.maximum(costs[rows].std(axis=0), 1e-8)
    inputs, given, targets = (
        torch.as_tensor(part[rows], dtype=torch.float32)
        for part in ((x - mean) / scale, actions, (costs - shift) / size)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = torch.nn.Sequential(*_layers([x.shape[1], *config.hidden, k * (1 + dim)], torch))
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    for _ in range(config.epochs):
        for batch in torch.randperm(len(inputs), generator=generator).split(config.batch_size):
            out = network(inputs[batch])
            gains = out[:, k:].reshape(-1, k, dim)
            predicted = out[:, :k] + (gains * given[batch][:, None]).sum(-1)
            loss = ((predicted - targets[batch]) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    fitted = Network.from_torch(network, mean=mean, scale=scale)
    # Back to the units of the costs: b = shift + size b', g = size g'.
    factor = np.concatenate([size, np.repeat(size, dim)])
    weights = [*fitted.weights[:-1], fitted.weights[-1] * factor[:, None]]
    last = fitted.biases[-1] * factor + np.concatenate([shift, np.zeros(k * dim)])
    return Network(weights, [*fitted.biases[:-1], last], fitted.activation, mean, scale)


def _layers(sizes: Sequence[int], torch: Any) -> list[Any]:
    layers: list[Any] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return layers[:-1]


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        if (extra := missing_extra(error, "Fitting a safety layer")) is not None:
            raise extra from error
        raise
    return torch
