"""A policy that draws plans by diffusion, guided to reward and within what is left of the budget, and starts the best.

A plan is a window of actions and observations whose first observation is the present one (Lin, Tang, Wu, Yu, Mao, Xie,
Wang, Wang 2023, "Safe offline reinforcement learning with real-time budget constraints").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.policy.budget_account import BudgetAccount
from saferl.policy.diffusion import NoiseSchedule
from saferl.policy.offline import FloatArray, Generators, OfflinePolicy, standard_normal
from saferl.policy.temporal import TemporalRegressor, TemporalUnet

_CHUNK = 1024
"""Plans that are denoised at once."""


def cosine_schedule(steps: int, offset: float = 0.008) -> NoiseSchedule:
    """The schedule whose remaining share is a squared cosine, as Diffuser has it (Nichol, Dhariwal 2021, eq. 17).

    ``abar_t = f(t) / f(0)``, ``f(t) = cos^2(pi / 2 (t / T + offset) / (1 + offset))``; no step adds more than 0.999.
    """
    left = np.cos(0.5 * np.pi * (np.linspace(0.0, 1.0, steps + 1) + offset) / (1.0 + offset)) ** 2
    return NoiseSchedule(np.maximum(left[1:] / left[:-1], 0.001))


def budget_left(account: BudgetAccount, horizon: int) -> FloatArray:
    """Real-time budgets ``b_t = (b_0 - sum_{k<t} gamma^k c_k) / gamma^t``, (B, C) (TREBI, section 4).

    An episode's budget becomes ``b_0`` as a cost that comes evenly: times ``(1 - gamma^T) / ((1 - gamma) T)``. With
    gamma = 1 it is the budget minus what was spent.

    Args:
        account: Budgets and discounted spending.
        horizon: Steps T of an episode.

    Example:
        >>> account = BudgetAccount.open(1, 1, np.array([10.0]))
        >>> account.spend(np.array([[3.0]]))
        >>> budget_left(account, 100).tolist()
        [[7.0]]
    """
    gamma = account.gamma
    share = 1.0 if gamma == 1.0 else (1.0 - gamma**horizon) / ((1.0 - gamma) * horizon)
    left: FloatArray = (account.limits * share - account.spent) / gamma ** account.steps[:, None]
    return left


def cost_pressure(costs: th.Tensor, left: th.Tensor) -> th.Tensor:
    """Weights of the costs' gradients: ``exp(clip((V_c - b) / b, 0, 1))`` where ``V_c > b``, else 0 (guide type 0).

    Args:
        costs: Predicted costs to go, (..., C).
        left: Budgets b; at or below 0 the exponent is 1.
    """
    excess = th.where(left > 0.0, (costs - left) / left.clamp(min=1e-8), 1.0).clamp(0.0, 1.0)
    return th.where(costs > left, excess.nan_to_num(0.0).exp(), 0.0)


def choose_plan(rewards: th.Tensor, costs: th.Tensor, left: th.Tensor, units: th.Tensor) -> th.Tensor:
    """Indices (B,): the most rewarding plan within all budgets, else the one whose largest excess is smallest.

    Args:
        rewards: V_r of the plans, (B, N).
        costs: V_c of them, (B, N, C).
        left: Budgets b, (B, C), infinite where nothing is limited.
        units: What an excess of each cost is measured in, (C,); of one cost it does not matter.
    """
    excess = (costs - left.unsqueeze(1)) / units
    is_within = (excess <= 0.0).all(dim=2)
    best = rewards.masked_fill(~is_within, -th.inf).argmax(dim=1)
    return th.where(is_within.any(dim=1), best, excess.amax(dim=2).argmin(dim=1))


class TrajectoryDiffusion(OfflinePolicy):
    """A diffusion model of windows, and a regressor of their return and costs to go that guides and ranks it.

    It must be told the costs of its steps by ``observe``: without, it acts as at the start of an episode.
    """

    kind = "trajectory_diffusion"
    is_stateful = True
    takes_budgets = True

    value_shift: th.Tensor
    value_scale: th.Tensor

    def __init__(
        self,
        num_features: int,
        action_width: int,
        *,
        num_costs: int,
        horizon: int,
        gamma: float,
        plan_length: int,
        denoising_steps: int,
        channels: int,
        multipliers: Sequence[int],
        plans: int,
        guide_steps: int,
        guide_scale: float,
        unguided_steps: int,
        cost_weight: float,
        has_clock: bool,
    ) -> None:
        """Build the networks; the arguments are options of :class:`saferl.solvers.offline.trebi.TREBIConfig`."""
        arch = {
            "num_costs": num_costs,
            "horizon": horizon,
            "gamma": gamma,
            "plan_length": plan_length,
            "denoising_steps": denoising_steps,
            "channels": channels,
            "multipliers": list(multipliers),
            "plans": plans,
            "guide_steps": guide_steps,
            "guide_scale": guide_scale,
            "unguided_steps": unguided_steps,
            "cost_weight": cost_weight,
            "has_clock": has_clock,
        }
        super().__init__(num_features, action_width, arch)
        self.num_costs, self.horizon, self.gamma = num_costs, horizon, gamma
        self.plan_length, self.plans = plan_length, plans
        self.guide_steps, self.guide_scale, self.unguided_steps = guide_steps, guide_scale, unguided_steps
        self.cost_weight = cost_weight
        width = action_width + num_features
        self.denoiser = TemporalUnet(width, channels=channels, multipliers=multipliers)
        self.values = TemporalRegressor(
            width, plan_length, 1 + num_costs, channels=channels, multipliers=multipliers, has_clock=has_clock
        )
        self.schedule = cosine_schedule(denoising_steps)
        self.register_buffer("value_shift", th.zeros(1 + num_costs))
        self.register_buffer("value_scale", th.ones(1 + num_costs))
        self._fixed_noise: th.Tensor | None = None

    @property
    def noise_shape(self) -> tuple[int, int, int, int]:
        """(T, N, H, A + F): the standard normal numbers that one action is made from."""
        width = self.action_width + self.num_features
        return len(self.schedule), self.plans, self.plan_length, width

    def begin(self, lanes: int, budgets: FloatArray | None) -> BudgetAccount:
        """Nothing is spent; no budget is an infinite one."""
        return BudgetAccount.open(lanes, self.num_costs, budgets, self.gamma)

    def observe(
        self, state: BudgetAccount, rewards: FloatArray, costs: FloatArray, ended: npt.NDArray[np.bool_]
    ) -> None:
        """Costs (B, C) are spent."""
        state.spend(costs)

    def restart(self, state: BudgetAccount, rows: npt.NDArray[np.int64]) -> None:
        """The budgets of these lanes are whole again."""
        state.clear(rows)

    def act(
        self, observations: th.Tensor, state: BudgetAccount, generators: Generators | None, deterministic: bool
    ) -> th.Tensor:
        """First actions (B, A) of the chosen plans; those of ``deterministic`` come from the same noise always."""
        left = th.as_tensor(budget_left(state, self.horizon), dtype=th.float32)
        clock = self.clock(th.as_tensor(state.steps))
        features = self.features(observations)
        rows = max(1, _CHUNK // self.plans)
        taken = []
        for first in range(0, len(observations), rows):
            part = slice(first, first + rows)
            own = features[part]
            if deterministic:
                noise = self.fixed_noise().unsqueeze(0).expand(len(own), *self.noise_shape)
            else:
                noise = standard_normal((len(own), *self.noise_shape), generators and generators[part])
            taken.append(self.first_actions(own, left[part], clock[part], noise))
        return th.cat(taken)

    def first_actions(self, features: th.Tensor, left: th.Tensor, clock: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """First actions (B, A) of the best of N plans each.

        Args:
            features: Scaled present observations, (B, F).
            left: Budgets that are left, (B, C).
            clock: Shares of the episode that are left, (B,).
            noise: Standard normal, (B, T, N, H, A + F).
        """
        lanes, count = len(features), self.plans
        with th.no_grad():
            here, limits, times = (each.repeat_interleave(count, dim=0) for each in (features, left, clock))
            by_step = noise.transpose(0, 1).flatten(1, 2)
            plans = self.draw(here, limits, times, by_step)
            values = self.predict_values(plans, 0, times) * self.value_scale + self.value_shift
            chosen = choose_plan(
                values[:, 0].view(lanes, count), values[:, 1:].view(lanes, count, -1), left, self.value_scale[1:]
            )
            first = plans.view(lanes, count, *plans.shape[1:])[th.arange(lanes), chosen, 0, : self.action_width]
            return first.clamp(-1.0, 1.0)

    def draw(self, features: th.Tensor, left: th.Tensor, clock: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """Plans (B, H, A + F) from noise (T, B, H, A + F), guided at every step but the last ``unguided_steps``.

        With the network's clean plan x_0, ``x_{t-1} = sqrt(abar_{t-1}) beta_t / (1 - abar_t) x_0 + sqrt(alpha_t)
        (1 - abar_{t-1}) / (1 - abar_t) x_t + sigma_t z`` (Ho et al. 2020, equations 6 and 7).
        """
        alpha, after = self.schedule.alpha, self.schedule.alpha_bar
        before = np.append(1.0, after[:-1])
        variance = self.schedule.beta * (1.0 - before) / (1.0 - after)
        plans = self.pin(noise[0], features)
        for step in reversed(range(len(self.schedule))):
            if step >= self.unguided_steps and self.guide_scale > 0.0:
                for _ in range(self.guide_steps):
                    ascent = self.guidance(plans, step, left, clock)
                    plans = self.pin(plans + self.guide_scale * float(variance[step]) * ascent, features)
            levels = th.full((len(plans),), step)
            clean = self.denoiser(plans, levels).clamp(-1.0, 1.0)
            of_clean = math.sqrt(before[step]) * (1.0 - alpha[step]) / (1.0 - after[step])
            of_plan = math.sqrt(alpha[step]) * (1.0 - before[step]) / (1.0 - after[step])
            plans = of_clean * clean + of_plan * plans
            if step > 0:
                plans = plans + math.sqrt(variance[step]) * noise[len(self.schedule) - step]
            plans = self.pin(plans, features)
        return plans

    def guidance(self, plans: th.Tensor, step: int, left: th.Tensor, clock: th.Tensor) -> th.Tensor:
        """Gradient of V_r minus the pressed costs at plans (B, H, A + F), in units of the values' spread."""
        with th.enable_grad():
            variable = plans.detach().requires_grad_()
            values = self.predict_values(variable, step, clock)
            costs = (values[:, 1:] * self.value_scale[1:] + self.value_shift[1:]).detach()
            pressure = self.cost_weight * cost_pressure(costs, left)
            objective = (values[:, 0] - (pressure * values[:, 1:]).sum(dim=1)).sum()
            (gradient,) = th.autograd.grad(objective, variable)
        return gradient

    def predict_values(self, plans: th.Tensor, step: int, clock: th.Tensor) -> th.Tensor:
        """Return and costs to go of plans at one step of noising, (B, 1 + C), standardised."""
        predicted: th.Tensor = self.values(plans, th.full((len(plans),), step), clock)
        return predicted

    def pin(self, plans: th.Tensor, features: th.Tensor) -> th.Tensor:
        """Plans (B, H, A + F) whose first observation is the present one, (B, F)."""
        pinned = plans.clone()
        pinned[:, 0, self.action_width :] = features
        return pinned

    def clock(self, steps: th.Tensor) -> th.Tensor:
        """Share of the episode that is left after ``steps``, (B,), from 1 to 0."""
        return (1.0 - steps.float() / self.horizon).clamp(min=0.0)

    def fixed_noise(self) -> th.Tensor:
        """The same numbers for everybody, (T, N, H, A + F)."""
        if self._fixed_noise is None:
            self._fixed_noise = th.randn(self.noise_shape, generator=th.Generator().manual_seed(0))
        return self._fixed_noise
