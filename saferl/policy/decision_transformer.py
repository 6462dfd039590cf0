"""The network of the constrained decision transformer: what to do, given a return and budgets to go.

Every step of a window is a few tokens, ``(return to go, one cost to go per constraint, state, action)``, of which each
attends to those before it. The action is read off the token of the state, predictions of what the action causes off the
token of the action, so the last layer computes only these (Liu et al., 2023, figure 3).

Two masks are on offer. ``window``: a token attends to all before it in the window of K steps. To act, the window is
computed afresh at every step; keys kept from earlier windows would have seen steps that have left it. ``banded``: with
L layers a token attends to the steps less than ``(K - 1) // L + 1`` back, so that what reaches the last layer lies
within K steps in any case, and keys and values can be kept, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional

Attention = Literal["window", "banded"]
LOG_STD_RANGE = (-5.0, 2.0)
"""Clamp of the logarithm of the action's standard deviation."""
_EMPTY = -1
"""Step of a place in the memory that holds nothing."""


class Outputs(NamedTuple):
    """What the network says of every step of B windows of T steps."""

    means: th.Tensor
    """Of actions in [-1, 1], which they may leave, (B, T, A)."""
    log_stds: th.Tensor
    """(B, T, A)."""
    costs: th.Tensor
    """Logits of the step's costs in ranges of the data's, (B, T, C)."""
    next_features: th.Tensor | None
    """Prediction of the next state, (B, T, F), if the network has it."""


@dataclass
class Memory:
    """What a network keeps of the running episodes of B lanes: the last N tokens, the newest at the end."""

    steps: th.Tensor
    """Of the tokens, within the episode, (B, N); -1 where there is none."""
    tokens: th.Tensor | None
    """Before the first block, (B, N, D); None where keys and values are kept."""
    keys: list[th.Tensor]
    """Per layer, (B, heads, N, D / heads); empty where tokens are kept."""
    values: list[th.Tensor]
    """Per layer, as the keys."""
    bias: th.Tensor | None = None
    """Of the attention once no place is empty; None before."""

    def clear(self, rows: th.Tensor) -> None:
        """Forget the lanes ``rows``."""
        self.steps[rows], self.bias = _EMPTY, None


class Dropout(nn.Module):
    """Dropout whose noise costs a fifth of torch's on a CPU: four entries share 64 random bits.

    So shares are multiples of 1 / 65,536.
    """

    def __init__(self, share: float) -> None:
        """Drop this share of the entries, in [0, 1), and scale the others up."""
        super().__init__()
        self.dropped = round(share * 65536)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Of any shape; draws from torch's global generator."""
        if not self.training or self.dropped == 0:
            return inputs
        count = inputs.numel()
        bits = th.empty(-(-count // 4), dtype=th.int64, device=inputs.device).random_(-(2**63), None)
        kept = bits.view(th.int16)[:count].view(inputs.shape) >= self.dropped - 32768
        return inputs * kept.to(inputs.dtype).mul_(65536.0 / (65536 - self.dropped))


class Linear(nn.Module):
    """A linear map whose weights lie by input, (in, out): products with few rows are up to twice as fast that way."""

    def __init__(self, inner: int, outer: int) -> None:
        """Weights from N(0, 0.02), biases of 0."""
        super().__init__()
        self.weight = nn.Parameter(0.02 * th.randn(inner, outer))
        self.bias = nn.Parameter(th.zeros(outer))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """(..., in) to (..., out)."""
        return _affine(inputs, self.weight, self.bias)


def _affine(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
    rows = th.addmm(bias, inputs.reshape(-1, inputs.shape[-1]), weight)
    return rows.view(*inputs.shape[:-1], -1)


class Block(nn.Module):
    """Attention and a network of one hidden layer, each behind a normalisation and added to its input."""

    def __init__(
        self, width: int, heads: int, expansion: int, attention_dropout: float, residual_dropout: float
    ) -> None:
        """All sizes as in :class:`DecisionTransformer`."""
        super().__init__()
        self.heads = heads
        self.attention_norm, self.hidden_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.expand, self.contract = Linear(width, expansion * width), Linear(expansion * width, width)
        self.attention_dropout, self.residual_dropout = Dropout(attention_dropout), Dropout(residual_dropout)

    def forward(self, tokens: th.Tensor, bias: th.Tensor) -> th.Tensor:
        """All tokens (B, N, D) to all; ``bias`` (N, N) is -inf where a row must not see a column."""
        return self.finish(tokens, self.attend(*self.project(tokens), bias))

    def some(self, wanted: th.Tensor, tokens: th.Tensor, bias: th.Tensor) -> th.Tensor:
        """Only ``wanted`` (B, M, D), which are among the tokens (B, N, D); ``bias`` is (M, N) or (B, 1, M, N)."""
        width = tokens.shape[-1]
        weight, offset = self.qkv.weight, self.qkv.bias
        keys, values = self._split(_affine(self.attention_norm(tokens), weight[:, width:], offset[width:]), 2)
        (query,) = self._split(_affine(self.attention_norm(wanted), weight[:, :width], offset[:width]), 1)
        return self.finish(wanted, self.attend(query, keys, values, bias))

    def project(self, tokens: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Queries, keys and values (B, heads, N, D / heads)."""
        query, keys, values = self._split(self.qkv(self.attention_norm(tokens)), 3)
        return query, keys, values

    def attend(self, query: th.Tensor, keys: th.Tensor, values: th.Tensor, bias: th.Tensor) -> th.Tensor:
        """Attention (B, M, D) of queries to keys."""
        # Written out: with heads this narrow it takes half as long on a CPU as torch's fused one, which lacks dropout.
        scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2) + bias
        attended: th.Tensor = self.attention_dropout(scores.softmax(dim=-1)) @ values
        return attended.transpose(1, 2).flatten(-2)

    def finish(self, tokens: th.Tensor, attended: th.Tensor) -> th.Tensor:
        """The block's output for tokens (B, M, D) and their attention."""
        tokens = tokens + self.residual_dropout(self.out(attended))
        hidden = functional.gelu(self.expand(self.hidden_norm(tokens)))
        finished: th.Tensor = tokens + self.residual_dropout(self.contract(hidden))
        return finished

    def _split(self, packed: th.Tensor, parts: int) -> tuple[th.Tensor, ...]:
        batch, length, _ = packed.shape
        return packed.view(batch, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class DecisionTransformer(nn.Module):
    """Actions from windows of targets, states and actions.

    Example:
        >>> network = DecisionTransformer(3, 2, 1, context=5, horizon=100, width=16, layers=2, heads=2)
        >>> steps = th.arange(5).expand(7, 5)
        >>> out = network(th.zeros(7, 5, 3), th.zeros(7, 5, 2), th.zeros(7, 5), th.zeros(7, 5, 1), steps)
        >>> tuple(out.means.shape)
        (7, 5, 2)
    """

    def __init__(
        self,
        num_features: int,
        action_width: int,
        num_costs: int,
        *,
        context: int,
        horizon: int,
        width: int = 128,
        layers: int = 3,
        heads: int = 8,
        expansion: int = 4,
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        attention: Attention = "window",
        predicts_states: bool = False,
    ) -> None:
        """Build the network with weights from N(0, 0.02) and biases of 0.

        Args:
            num_features: Width F of a state.
            action_width: Width A of an action.
            num_costs: Constraints C, one token each.
            context: Steps K that an action depends on.
            horizon: Steps with an embedding of their own; all later ones share that of the last.
            width: Of a token, D.
            layers: Blocks L.
            heads: Of attention, a divisor of ``width``.
            expansion: How many times wider a block is inside.
            attention_dropout: Share of attention weights that are dropped in training.
            residual_dropout: Share of a block's outputs that are dropped in training.
            embedding_dropout: Share of the tokens' entries that are dropped in training.
            attention: Mask; see the module.
            predicts_states: Whether there is a head for the next state.
        """
        super().__init__()
        self.context, self.horizon, self.attention = context, horizon, attention
        self.tokens_per_step = 3 + num_costs
        self.band = (context - 1) // layers + 1 if attention == "banded" else context
        """Steps that a token attends to, its own one included."""
        self.time = nn.Embedding(horizon, width)
        self.from_return, self.from_state = Linear(1, width), Linear(num_features, width)
        self.from_action = Linear(action_width, width)
        self.from_costs = nn.ModuleList(Linear(1, width) for _ in range(num_costs))
        self.token_norm, self.out_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.embedding_dropout = Dropout(embedding_dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, expansion, attention_dropout, residual_dropout) for _ in range(layers)
        )
        self.action_head = Linear(width, 2 * action_width)
        self.cost_head = Linear(width, num_costs)
        self.state_head = Linear(width, num_features) if predicts_states else None
        nn.init.normal_(self.time.weight, std=0.02)

    def forward(
        self, features: th.Tensor, actions: th.Tensor, returns: th.Tensor, costs: th.Tensor, steps: th.Tensor
    ) -> Outputs:
        """What to do at every step of the windows, and what it causes.

        Steps behind the end of an episode need no mask: nothing before them sees them.

        Args:
            features: States, (B, T, F).
            actions: (B, T, A).
            returns: To go, (B, T).
            costs: To go, (B, T, C).
            steps: Within the episode, (B, T).
        """
        length, each = features.shape[1], self.tokens_per_step
        tokens = self._embed(features, actions, returns, costs, steps).flatten(1, 2)
        bias = self._bias(length)
        *others, final = self._blocks()
        for block in others:
            tokens = block(tokens, bias)
        wanted = tokens.view(len(tokens), length, each, -1)[:, :, each - 2 :].flatten(1, 2)
        rows = bias.view(length, each, -1)[:, each - 2 :].flatten(0, 1)
        hidden = self.out_norm(final.some(wanted, tokens, rows)).view(len(tokens), length, 2, -1)
        means, log_stds = self._act(hidden[:, :, 0])
        after = hidden[:, :, 1]
        states = None if self.state_head is None else self.state_head(after)
        return Outputs(means, log_stds, self.cost_head(after), states)

    def remember(self, lanes: int) -> Memory:
        """The memory of ``lanes`` episodes that have not begun."""
        each, width, layers = self.tokens_per_step, self.time.embedding_dim, len(self.blocks)
        if self.attention == "window":
            count = each * self.context - 1
            return Memory(th.full((lanes, count), _EMPTY), th.zeros(lanes, count, width), [], [])
        # An action's token comes with the next step, and attends to the band of its own.
        count, heads = each * (self.band + 1) - 1, self._blocks()[0].heads
        empty = th.zeros(2 * layers, lanes, heads, count, width // heads).unbind(0)
        return Memory(th.full((lanes, count), _EMPTY), None, list(empty[:layers]), list(empty[layers:]))

    def decide(
        self,
        memory: Memory,
        features: th.Tensor,
        last_actions: th.Tensor,
        returns: th.Tensor,
        costs: th.Tensor,
        steps: th.Tensor,
    ) -> tuple[th.Tensor, th.Tensor]:
        """Mean and log standard deviation (B, A) of the next actions, those of :meth:`forward` up to rounding.

        For ``window`` those that it gives at the end of the last K steps, which pass through all layers again; for
        ``banded`` those at the end of the whole episode, from kept keys and values.

        Args:
            memory: Of the steps before; changed in place.
            features: State of this step, (B, F).
            last_actions: Action of the step before, (B, A); of a first step it does not matter.
            returns: To go, (B,).
            costs: To go, (B, C).
            steps: Within the episode, (B,).
        """
        spent = [embed(costs[:, i : i + 1]) for i, embed in enumerate(self.from_costs)]
        bare = [self.from_action(last_actions), self.from_return(returns[:, None]), *spent, self.from_state(features)]
        # The action's token has the step before; without one it stays empty, and its time does not matter.
        new = th.cat([(steps - 1)[:, None], steps[:, None].expand(-1, len(bare) - 1)], dim=1)
        tokens = self._prepare(th.stack(bare, dim=1).unsqueeze(2), new.clamp(min=0))[:, :, 0]
        memory.steps = th.cat([memory.steps[:, len(bare) :], new], dim=1)
        bias = self._memory_bias(memory)
        if memory.tokens is None:
            for layer, block in enumerate(self._blocks()):
                query, keys, values = block.project(tokens)
                memory.keys[layer] = th.cat([memory.keys[layer][:, :, len(bare) :], keys], dim=2)
                memory.values[layer] = th.cat([memory.values[layer][:, :, len(bare) :], values], dim=2)
                attended = block.attend(query, memory.keys[layer], memory.values[layer], bias[:, :, -len(bare) :])
                tokens = block.finish(tokens, attended)
        else:
            memory.tokens = tokens = th.cat([memory.tokens[:, len(bare) :], tokens], dim=1)
            *others, final = self._blocks()
            for block in others:
                tokens = block(tokens, bias)
            tokens = final.some(tokens[:, -1:], tokens, bias[:, :, -1:])
        return self._act(self.out_norm(tokens[:, -1]))

    def _act(self, hidden: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Mean and log standard deviation of actions (..., A) from what the state's token became."""
        means, log_stds = self.action_head(hidden).chunk(2, dim=-1)
        return means, log_stds.clamp(*LOG_STD_RANGE)

    def _embed(
        self, features: th.Tensor, actions: th.Tensor, returns: th.Tensor, costs: th.Tensor, steps: th.Tensor
    ) -> th.Tensor:
        """Tokens (B, T, 3 + C, D) before the first block."""
        spent = [embed(costs[..., i : i + 1]) for i, embed in enumerate(self.from_costs)]
        tokens = [self.from_return(returns.unsqueeze(-1)), *spent, self.from_state(features), self.from_action(actions)]
        return self._prepare(th.stack(tokens, dim=2), steps)

    def _prepare(self, tokens: th.Tensor, steps: th.Tensor) -> th.Tensor:
        """Bare tokens (B, T, n, D) with their steps (B, T)."""
        times = self.time(steps.clamp(max=self.horizon - 1)).unsqueeze(2)
        prepared: th.Tensor = self.embedding_dropout(self.token_norm(tokens + times))
        return prepared

    def _blocks(self) -> list[Block]:
        return list(_typed(self.blocks))

    def _bias(self, length: int) -> th.Tensor:
        """Of the attention in a window of ``length`` steps: -inf where a token (row) must not see another, else 0."""
        each = self.tokens_per_step
        position = th.arange(length * each)
        step = position // each
        seen = (position[:, None] >= position) & (step[:, None] - step < self.band)
        return th.zeros(seen.shape).masked_fill_(~seen, -th.inf)

    def _memory_bias(self, memory: Memory) -> th.Tensor:
        """The same for a memory, (B or 1, 1, N, N)."""
        if memory.bias is not None:
            return memory.bias
        steps = memory.steps
        position = th.arange(steps.shape[1])
        near = steps[:, :, None] - steps[:, None] < self.band
        # An empty place must see something: itself.
        seen = near & (steps[:, None] != _EMPTY) & (position[:, None] >= position)
        seen |= position[:, None] == position
        bias = th.zeros(seen.shape).masked_fill_(~seen, -th.inf).unsqueeze(1)
        if bool((steps != _EMPTY).all()):
            memory.bias = bias = bias[:1]
        return bias


def _typed(blocks: Iterable[nn.Module]) -> Iterable[Block]:
    for block in blocks:
        assert isinstance(block, Block)
        yield block
