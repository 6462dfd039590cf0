"""A decision transformer that acts: it asks for what the data's frontier promises within the budgets.

For any budgets the return to ask for is known from the data alone. With ``b`` the best return of an episode within the
budgets and ``m`` the largest return that training asked for, it is ``b + ask (m - b)``: above what the data reach, as
in the relabelled episodes, where the answer is the best behaviour within the budgets. Nothing is tuned in an
environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.data.relabel import Frontier
from saferl.policy.decision_transformer import Attention, DecisionTransformer, Memory
from saferl.policy.offline import FloatArray, Generators, OfflinePolicy, standard_normal


@dataclass
class DecisionState:
    """What B episodes were asked for, what is still to go, and their last steps."""

    target_return: float
    """Asked for at an episode's start."""
    target_costs: FloatArray
    """Allowed at an episode's start, (C,)."""
    returns: FloatArray
    """Still to go, (B,)."""
    costs: FloatArray
    """(B, C)."""
    steps: th.Tensor
    """Taken in the episode, (B,)."""
    last_actions: th.Tensor
    """(B, A)."""
    memory: Memory
    """What the network keeps of the last steps."""


class DecisionPolicy(OfflinePolicy):
    """The network with scales, the data's frontier and the window of the running episodes.

    It must be told the rewards and costs of its steps by ``observe``: without, what is to go stays what it was.
    """

    kind = "decision_transformer"
    is_stateful = True
    takes_budgets = True

    return_scale: th.Tensor
    cost_scale: th.Tensor
    front_returns: th.Tensor
    front_costs: th.Tensor
    ceiling: th.Tensor
    cost_range: th.Tensor

    def __init__(
        self,
        num_features: int,
        action_width: int,
        *,
        num_costs: int,
        context: int,
        horizon: int,
        width: int,
        layers: int,
        heads: int,
        expansion: int,
        attention: Attention,
        predicts_states: bool,
        frontier_size: int,
        ask: float,
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            num_features: Width F of an observation.
            action_width: Width A of an action.
            num_costs: Constraints C.
            context: Steps K of the window.
            horizon: Steps with an embedding of their own.
            width: Of a token.
            layers: Blocks.
            heads: Of attention.
            expansion: How many times wider a block is inside.
            attention: ``window`` or ``banded``; see :mod:`saferl.policy.decision_transformer`.
            predicts_states: Whether there is a head for the next state.
            frontier_size: Points P of the data's frontier.
            ask: Where between the frontier and the largest return of training the return to ask for lies, in [0, 1].
            attention_dropout: Share of attention weights that are dropped in training.
            residual_dropout: Of the blocks' outputs.
            embedding_dropout: Of the tokens' entries.
        """
        sizes: dict[str, Any] = {
            "num_costs": num_costs,
            "context": context,
            "horizon": horizon,
            "width": width,
            "layers": layers,
            "heads": heads,
            "expansion": expansion,
            "attention": attention,
            "predicts_states": predicts_states,
        }
        super().__init__(num_features, action_width, {**sizes, "frontier_size": frontier_size, "ask": ask})
        self.num_costs, self.context, self.ask = num_costs, context, ask
        self.network = DecisionTransformer(
            num_features,
            action_width,
            **sizes,
            attention_dropout=attention_dropout,
            residual_dropout=residual_dropout,
            embedding_dropout=embedding_dropout,
        )
        self.register_buffer("return_scale", th.ones(()))
        self.register_buffer("cost_scale", th.ones(num_costs))
        self.register_buffer("front_returns", th.zeros(frontier_size, dtype=th.float64))
        self.register_buffer("front_costs", th.zeros(frontier_size, num_costs, dtype=th.float64))
        self.register_buffer("ceiling", th.zeros((), dtype=th.float64))
        self.register_buffer("cost_range", th.zeros(2, num_costs, dtype=th.float64))

    def targets(self, budgets: FloatArray | None) -> tuple[float, FloatArray]:
        """The return to ask for, and the costs (C,) to allow.

        Costs that the budgets do not limit, and those of no budgets at all, are allowed what the best episode within
        the others costs; budgets count as at most the largest cost to go of training. Where no episode is within
        them, the return is that of the episode that exceeds them least, and nothing more is asked for.

        Args:
            budgets: Limits of the episodes' cost sums, (C,), infinite where there is none; None: no limits.
        """
        limits = np.full(self.num_costs, np.inf) if budgets is None else np.asarray(budgets, dtype=np.float64)
        front = Frontier(self.front_returns.numpy(), self.front_costs.numpy())
        picked = front.pick(limits)
        best, costs = float(front.returns[picked]), front.costs[picked]
        is_within = bool((costs <= limits).all())
        asked = best + self.ask * max(float(self.ceiling) - best, 0.0) if is_within else best
        allowed = np.where(np.isfinite(limits), np.minimum(limits, self.cost_range[1].numpy()), costs)
        return asked, allowed

    def begin(self, lanes: int, budgets: FloatArray | None) -> DecisionState:
        """Everything is still to go."""
        asked, allowed = self.targets(budgets)
        return DecisionState(
            target_return=asked,
            target_costs=allowed,
            returns=np.full(lanes, asked),
            costs=np.tile(allowed, (lanes, 1)),
            steps=th.zeros(lanes, dtype=th.int64),
            last_actions=th.zeros(lanes, self.action_width),
            memory=self.network.remember(lanes),
        )

    def act(
        self, observations: th.Tensor, state: DecisionState, generators: Generators | None, deterministic: bool
    ) -> th.Tensor:
        """Actions (B, A): the mean, or a draw from the Gaussian, clipped."""
        with th.inference_mode():
            returns = th.as_tensor(state.returns, dtype=th.float32) * self.return_scale
            # Less than the least that data had to go was never seen: a budget that is overspent counts as spent.
            left = np.maximum(state.costs, self.cost_range[0].numpy())
            costs = th.as_tensor(left, dtype=th.float32) * self.cost_scale
            means, log_stds = self.network.decide(
                state.memory, self.features(observations), state.last_actions, returns, costs, state.steps
            )
            if not deterministic:
                means = means + log_stds.exp() * standard_normal(tuple(means.shape), generators)
            state.last_actions = means.clamp(-1.0, 1.0)
            state.steps = state.steps + 1
            return state.last_actions

    def observe(
        self, state: DecisionState, rewards: FloatArray, costs: FloatArray, ended: npt.NDArray[np.bool_]
    ) -> None:
        """Rewards (B,) and costs (B, C) are no longer to go."""
        state.returns -= rewards
        state.costs -= costs

    def restart(self, state: DecisionState, rows: npt.NDArray[np.int64]) -> None:
        """Everything is to go again in these lanes."""
        state.returns[rows], state.costs[rows] = state.target_return, state.target_costs
        lanes = th.from_numpy(rows)
        with th.inference_mode():
            state.steps[lanes] = 0
            state.memory.clear(lanes)
