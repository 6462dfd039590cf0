"""What a training run does beside learning: progress, its own account of costs, the choice of ``artefact-best``."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from saferl.constraints import Constraint, ConstraintSet
from saferl.evaluation import VALIDATION_SEED, Evaluation, evaluate
from saferl.policy.artefact import save_artefact
from saferl.statistics import mean_interval_t
from saferl.storage import atomic_folder
from saferl.training.state import kept_random_state

Provenance = Callable[[int], dict[str, Any]]


class IterationCosts(BaseCallback):
    """Closes each iteration in the account of what training itself costs."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.training_env.totals.end_iteration()  # type: ignore[attr-defined]


class ShieldLog(BaseCallback):
    """Logs once per rollout what the shield did in it: the columns ``shield/*``."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        for key, value in self.training_env.take_log().items():  # type: ignore[attr-defined]
            self.logger.record(key, value)


class ProgressReporter(BaseCallback):
    """Tells a function how many steps are done, once per rollout."""

    def __init__(self, report: Callable[[int, dict[str, float]], None]) -> None:
        """``report(steps_done, latest)`` gets mean return and costs of recent episodes, as far as known."""
        super().__init__()
        self._report = report

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        latest: dict[str, float] = {}
        if self.model.ep_info_buffer:
            latest["return"] = float(np.mean([info["r"] for info in self.model.ep_info_buffer]))
        recent = self.training_env.recent_costs  # type: ignore[attr-defined]
        if len(recent) > 0:
            names = self.training_env.constraints.names  # type: ignore[attr-defined]
            latest.update(zip(names, np.mean(recent, axis=0).tolist(), strict=True))
        self._report(self.num_timesteps, latest)


class BestArtefact(BaseCallback):
    """Keeps the best policy by validation: feasible first, then return.

    Feasible means that the one-sided 95 % upper bound of the mean cost meets the budget (lower bound for ``>=``). With
    the few episodes of a validation this bound is Student's t, an approximation: it ranks candidates, and the chosen
    policy is judged on fresh seeds with a valid bound. Among infeasible ones the smallest excess wins.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        episodes: int,
        constraints: ConstraintSet,
        provenance: Provenance,
        env: Mapping[str, Any],
    ) -> None:
        """Validate at the first rollout end after each multiple of ``every`` steps.

        ``env`` holds ``env_id``, ``env_kwargs`` and ``cost`` of :func:`saferl.evaluate`; they may be objects that
        have no import path, which provenance cannot name.
        """
        super().__init__()
        self._folder, self._every, self._episodes = folder, every, episodes
        self._constraints, self._provenance, self._env = constraints, provenance, env
        self._next = every
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._next = self.num_timesteps - self.num_timesteps % self._every + self._every
            self.validate()

    def get_state(self) -> dict[str, Any]:
        """When the next validation is due, and what earlier ones found."""
        return {"next": self._next, "history": self.history, "seconds": self.seconds}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self._next, self.history, self.seconds = state["next"], list(state["history"]), state["seconds"]

    def validate(self) -> None:
        """Evaluate the current policy on the validation seeds and keep it if it ranks first."""
        # An environment that draws from the process's generators must not change what training draws next.
        with kept_random_state():
            self._validate()

    def _validate(self) -> None:
        start = time.perf_counter()
        candidate = self._folder.with_name(f".{self._folder.name}.candidate")
        provenance = self._provenance(self.model.num_timesteps)
        save_artefact(candidate, self.model, self._constraints, provenance)
        try:
            result = evaluate(
                candidate,
                episodes=self._episodes,
                first_seed=VALIDATION_SEED,
                constraints=self._constraints,
                workers=1,
                **self._env,
            )
            excess = max((_excess(result, c) for c in self._constraints), default=0.0)
            entry = {
                "steps": self.model.num_timesteps,
                "return": result.summary["return"]["mean"],
                "costs": {n: v["mean"] for n, v in result.summary["constraints"].items()},
                "excess": excess,
            }
            is_first = all(_rank(entry) > _rank(other) for other in self.history)
            self.history.append(entry)
            if is_first:
                (candidate / "evaluations.json").unlink(missing_ok=True)
                with atomic_folder(self._folder) as temporary:
                    shutil.copytree(candidate, temporary, dirs_exist_ok=True)
        finally:
            shutil.rmtree(candidate, ignore_errors=True)
            self.seconds += time.perf_counter() - start


def _excess(result: Evaluation, constraint: Constraint) -> float:
    """By how much the approximate 95 % bound misses the budget, relative to it; at most 0 if feasible.

    Kinds other than ``episode_sum`` are ranked by their estimate, without a bound.
    """
    bound = result.summary["constraints"][constraint.name]["mean"]
    if constraint.kind == "episode_sum":
        sums = np.array([record.costs[constraint.name] for record in result.records])
        low, high = mean_interval_t(sums, confidence=0.90)
        bound = high if constraint.sign > 0 else low
    excess = constraint.sign * (bound - constraint.budget) / max(constraint.budget, 1e-3)
    return excess if math.isfinite(excess) else math.inf


def _rank(entry: dict[str, Any]) -> tuple[bool, float]:
    feasible = entry["excess"] <= 0.0
    return (True, entry["return"]) if feasible else (False, -entry["excess"])
