r"""Thousands of projections at once, with gradients, for training through a shield.

    u*(u0, A, b) = argmin 1/2 |u - u0|^2   subject to   A u >= b,   low <= u <= high

Dual coordinate ascent (Hildreth, 1957) goes through the rows of all problems together: for row i,

    d = max(-lambda_i, (b_i - A_i.u) / (A_i.A_i)),   lambda_i += d,   u += d A_i

and for the box the two multipliers of each component are one signed number. It approaches the answer from outside, so
its active rows are only a guess: the guess is solved exactly (A_a A_a' lambda = b_a - A_a u0) and accepted where all
rows hold and no multiplier is negative. The rest is solved one by one by DAQP, which also tells infeasible problems.

Gradients come from the optimality conditions at the active rows: with P = I - A_a'(A_a A_a')^-1 A_a, a loss gradient v
and mu = (A_a A_a')^-1 A_a v,

    d/du0 = P v,      d/db_a = mu,      d/dA_a = lambda_a (P v)' - mu u*'

What it guarantees: the answer of a feasible problem lies inside the box and misses no normalised row by more than
``TOLERANCE``; :attr:`BatchProjection.residual` states the largest miss.

Differences from Hildreth: the polish and the exact remainder. Where active rows are degenerate the gradient is one of
several; infeasible problems get the point of least violation and no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from saferl.errors import ConfigError, missing_extra
from saferl.shields.qp import TIGHTENING, nearest_each

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-9
"""Largest miss of a normalised row that an accepted answer may have."""
_SWEEPS = 12
"""Sweeps before the guess is solved; more of them close few problems, and cost more than solving those exactly."""
_ACTIVE = 1e-9
"""Multipliers above this count as active rows."""


@dataclass(frozen=True)
class BatchProjection:
    """Answers of a batch."""

    action: torch.Tensor
    """Shape (N, dim), of the dtype of the proposals; differentiable."""
    feasible: torch.Tensor
    """Shape (N,): whether all rows can be kept."""
    residual: float
    """Largest miss of a normalised row among the feasible problems, as computed in float64."""
    exact: int
    """Problems that were solved one by one."""


def project_batch(
    proposed: torch.Tensor,
    rows: torch.Tensor,
    bounds: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
) -> BatchProjection:
    """The nearest point of the box that satisfies the half-spaces, for every row of a batch.

    Args:
        proposed: Shape (N, dim), finite.
        rows: A, shape (N, m, dim), or (m, dim) for all.
        bounds: b, shape (N, m), or (m,) for all.
        low: Lower bounds, shape (dim,).
        high: Upper bounds, shape (dim,).

    Raises:
        ConfigError: other shapes.
        MissingExtraError: torch is not installed.

    Example:
        >>> import torch
        >>> wish = torch.tensor([[0.9, 0.9]], requires_grad=True)
        >>> rows, bounds, one = torch.tensor([[-1.0, -1.0]]), torch.tensor([-1.0]), torch.ones(2)
        >>> found = project_batch(wish, rows, bounds, -one, one)
        >>> found.action.sum().backward()  # along the row nothing moves
        >>> found.action.tolist(), wish.grad.tolist()
        ([[0.5, 0.5]], [[0.0, 0.0]])
    """
    torch = _torch()
    count, dim = _check(proposed, rows, bounds, low, high)
    a, b = rows.double(), bounds.double()
    lengths = a.norm(dim=-1)
    # A row that no action moves keeps its length; it holds or not, whatever is done.
    lengths = torch.where(lengths > 1e-12, lengths, torch.ones_like(lengths))
    a, b = (a / lengths[..., None]).expand(count, -1, dim), (b / lengths).expand(count, -1)
    info: dict[str, Any] = {}
    action = _layer().apply(proposed.double(), a, b, low.double(), high.double(), info)
    return BatchProjection(action.to(proposed.dtype), info["feasible"], info["residual"], info["exact"])


def _check(proposed: Any, rows: Any, bounds: Any, low: Any, high: Any) -> tuple[int, int]:
    count, dim = proposed.shape if proposed.ndim == 2 else (0, 0)
    fits = (
        proposed.ndim == 2
        and rows.ndim in (2, 3)
        and rows.shape[-1] == dim
        and bounds.shape in (rows.shape[-2:-1], (count, rows.shape[-2]))
        and (rows.ndim == 2 or rows.shape[0] == count)
        and low.shape == high.shape == (dim,)
    )
    if not fits:
        shapes = [tuple(tensor.shape) for tensor in (proposed, rows, bounds, low, high)]
        raise ConfigError(
            "project_batch takes proposals (N, dim), rows (N, m, dim) or (m, dim), bounds (N, m) or (m,), and low and "
            f"high (dim,); got {shapes}."
        )
    return count, dim


class _Batch:
    """Problems in component-major order: vectors over the problems are contiguous, and operations are on them."""

    def __init__(self, start: Any, rows: Any, bounds: Any, low: Any, high: Any) -> None:
        self.start = start.t().contiguous()  # (dim, n)
        self.rows = rows.permute(1, 2, 0).contiguous()  # (m, dim, n)
        self.bounds = bounds.t().contiguous()  # (m, n)
        self.low, self.high = low, high

    def take(self, index: Any) -> _Batch:
        batch = object.__new__(_Batch)
        batch.start, batch.rows, batch.bounds = self.start[:, index], self.rows[:, :, index], self.bounds[:, index]
        batch.low, batch.high = self.low, self.high
        return batch

    def sweep(self, sweeps: int) -> tuple[Any, Any]:
        """Multipliers of the rows (m, n) and signed ones of the box (dim, n)."""
        torch = _torch()
        m, dim, n = self.rows.shape
        squares = (self.rows * self.rows).sum(1).clamp_min_(1e-12)
        inverse = squares.reciprocal()
        lam, box = self.start.new_zeros(m, n), self.start.new_zeros(dim, n)
        u, gap, free = self.start.clone(), self.start.new_empty(n), self.start.new_empty(n)
        low, high = self.low.tolist(), self.high.tolist()
        components = [(u[j], box[j], low[j], high[j]) for j in range(dim)]
        rows = [(lam[i], self.bounds[i], inverse[i], [self.rows[i, j] for j in range(dim)]) for i in range(m)]
        for _ in range(sweeps):
            for multiplier, bound, scale, row in rows:
                torch.mul(row[0], u[0], out=gap)
                for j in range(1, dim):
                    gap.addcmul_(row[j], u[j])
                torch.sub(bound, gap, out=gap)
                gap.mul_(scale)
                torch.maximum(gap, torch.neg(multiplier, out=free), out=gap)
                multiplier.add_(gap)
                for j in range(dim):
                    u[j].addcmul_(gap, row[j])
            for component, signed, least, most in components:
                torch.sub(component, signed, out=free)
                torch.clamp(free, least, most, out=component)
                torch.sub(component, free, out=signed)
        return lam, box

    def polish(self, lam: Any, box: Any) -> tuple[Any, Any, Any, Any]:
        """The exact answer of the guessed active rows, its multipliers, and whether it is the answer.

        At most ``dim`` rows are needed; the largest multipliers are taken.
        """
        torch = _torch()
        m, dim, n = self.rows.shape
        strength, chosen = torch.cat([lam, box.abs()]).topk(min(dim, m + dim), dim=0)
        active = strength > _ACTIVE
        unit = torch.eye(dim, dtype=self.start.dtype)[:, :, None].expand(dim, dim, n) * box.sign()[:, None, :]
        edge = torch.where(box > 0.0, self.low[:, None], torch.where(box < 0.0, -self.high[:, None], 0.0))
        all_rows, all_bounds = torch.cat([self.rows, unit]), torch.cat([self.bounds, edge])
        rows = all_rows.gather(0, chosen[:, None, :].expand(-1, dim, -1)) * active[:, None, :]
        missing = (all_bounds.gather(0, chosen) - (rows * self.start).sum(1)) * active
        solution = _solve_gram(rows, missing, active)
        action = self.start + (rows * solution[:, None, :]).sum(0)
        residual = (self.bounds - (self.rows * action).sum(1)).amax(0) if m else torch.zeros(n, dtype=action.dtype)
        outside = torch.maximum(self.low[:, None] - action, action - self.high[:, None]).amax(0)
        is_answer = (residual <= TOLERANCE) & (outside <= TOLERANCE) & (solution >= -TOLERANCE).all(0)
        multipliers = torch.zeros_like(all_bounds).scatter_(0, chosen, solution)
        return action, multipliers, is_answer, residual


def _solve_gram(rows: Any, missing: Any, active: Any) -> Any:
    """Multipliers (k, n) of A_a A_a' lambda = missing by elimination over all problems; 0 where a row is not active.

    A pivot that vanishes (dependent rows) leaves numbers that the check of the answer refuses.
    """
    torch = _torch()
    k = rows.shape[0]
    gram = [[(rows[i] * rows[j]).sum(0) for j in range(k)] for i in range(k)]
    right = [missing[i].clone() for i in range(k)]
    for i in range(k):
        gram[i][i] = torch.where(active[i], gram[i][i], torch.ones_like(gram[i][i]))
    for i in range(k):
        gram[i][i] = torch.where(gram[i][i].abs() > 1e-13, gram[i][i], torch.full_like(gram[i][i], 1e-13))
        for below in range(i + 1, k):
            factor = gram[below][i] / gram[i][i]
            for j in range(i + 1, k):
                gram[below][j] = gram[below][j] - factor * gram[i][j]
            right[below] = right[below] - factor * right[i]
    solution = [right[i] for i in range(k)]
    for i in reversed(range(k)):
        value = right[i]
        for j in range(i + 1, k):
            value = value - gram[i][j] * solution[j]
        solution[i] = value / gram[i][i]
    return torch.stack(solution) * active


def _forward(start: Any, rows: Any, bounds: Any, low: Any, high: Any, info: dict[str, Any]) -> tuple[Any, Any]:
    """Actions (N, dim) and multipliers (m + dim, N), signed for the box by the side that is active."""
    torch = _torch()
    batch = _Batch(start, rows, bounds, low, high)
    m, dim, count = batch.rows.shape
    action, multipliers = torch.empty_like(batch.start), batch.start.new_zeros(m + dim, count)
    residual = batch.start.new_zeros(count)
    signs = batch.start.new_zeros(dim, count)
    open_, feasible = torch.arange(0), torch.ones(count, dtype=torch.bool)
    if count:
        lam, box = batch.sweep(_SWEEPS)
        action, multipliers, done, residual = batch.polish(lam, box)
        signs, open_ = box.sign(), torch.arange(count)[~done]
    if len(open_):
        found, dual, missed, sides, can = _solve_exactly(batch.take(open_))
        action[:, open_], multipliers[:, open_], residual[open_] = found, dual, missed
        signs[:, open_], feasible[open_] = sides, can
    multipliers[m:] *= signs
    action = torch.minimum(torch.maximum(action, low[:, None]), high[:, None])
    kept = residual[feasible]
    info.update(feasible=feasible, residual=max(0.0, float(kept.max())) if len(kept) else 0.0, exact=len(open_))
    return action.t(), multipliers


def _solve_exactly(batch: _Batch) -> tuple[Any, ...]:
    """Actions, multipliers, residuals, sides of the box and feasibility of the problems that sweeps left open.

    The rest, that nobody can keep, gets the point of least violation (:func:`saferl.shields.qp.nearest_each`).
    """
    torch = _torch()
    starts, bounds = batch.start.t().contiguous().numpy(), batch.bounds.t().contiguous().numpy()
    rows, low, high = batch.rows.permute(2, 0, 1).contiguous().numpy(), batch.low.numpy(), batch.high.numpy()
    count, m, dim = rows.shape
    actions, is_kept = nearest_each(starts, rows, bounds + TIGHTENING, low, high)
    gaps = bounds - np.einsum("kij,kj->ki", rows, actions)
    residuals = np.maximum(gaps.max(axis=1, initial=0.0), 0.0)
    duals, sides = np.zeros((count, m + dim)), np.zeros((count, dim))
    for k in np.flatnonzero(is_kept):
        sides[k] = np.where(actions[k] <= low + 1e-8, 1.0, np.where(actions[k] >= high - 1e-8, -1.0, 0.0))
        normals = np.vstack([rows[k] * (gaps[k] > -1e-7)[:, None], np.diag(sides[k])])
        # Multipliers that explain the change: rows that only touch get none, and stop no gradient.
        duals[k] = nnls(normals.T, actions[k] - starts[k])[0]
    tensors = (torch.from_numpy(part) for part in (actions.T, duals.T, residuals, sides.T, is_kept))
    return tuple(tensors)


@cache
def _layer() -> Any:
    """The autograd function, made on first use so that this module loads without torch."""
    torch = _torch()

    class Projection(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, start: Any, rows: Any, bounds: Any, low: Any, high: Any, info: dict[str, Any]) -> Any:
            action, multipliers = _forward(start, rows, bounds, low, high, info)
            ctx.save_for_backward(action, multipliers, rows, info["feasible"])
            return action

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, gradient: Any) -> Any:
            return (*_backward(gradient, *ctx.saved_tensors), None, None, None)

    return Projection


def _backward(gradient: Any, action: Any, multipliers: Any, rows: Any, feasible: Any) -> tuple[Any, Any, Any]:
    """Gradients of proposals (N, dim), rows (N, m, dim) and bounds (N, m)."""
    torch = _torch()
    count, m, dim = rows.shape
    strength, chosen = multipliers.abs().topk(min(dim, m + dim), dim=0)
    active = strength > _ACTIVE
    unit = torch.eye(dim, dtype=rows.dtype)[:, :, None].expand(dim, dim, count)
    all_rows = torch.cat([rows.permute(1, 2, 0), unit])
    normals = all_rows.gather(0, chosen[:, None, :].expand(-1, dim, -1)) * active[:, None, :]
    v = gradient.t() * feasible
    mu = _solve_gram(normals, (normals * v).sum(1) * active, active)
    free = v - (normals * mu[:, None, :]).sum(0)
    by_row = torch.zeros_like(multipliers).scatter_(0, chosen, mu)[:m]
    by_rows = multipliers[:m, None, :] * free - by_row[:, None, :] * action.t()
    by_rows = torch.where((multipliers[:m, None, :] != 0.0) & feasible, by_rows, 0.0)
    return free.t(), by_rows.permute(2, 0, 1), by_row.t()


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        if (extra := missing_extra(error, "The batched projector")) is not None:
            raise extra from error
        raise
    return torch
